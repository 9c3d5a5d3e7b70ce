"""``mmfed audit --empirical``: the attacks, and what they found in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfed.cli.terminal import say
from mmfed.errors import ExitCode, MmfedError


def broken(tried: Mapping[str, Any] | None) -> bool:
    """Whether an attack or a check refuted the promise."""
    return tried is not None and tried["holds"] is False


def attack(names: Sequence[str], *, people: int, rounds: int, shadows: int, data: Path | None) -> Mapping[str, Any]:
    """Attack the configuration of the one run or scenario named; kept with a run as ``empirical.json``.

    Raises:
        MmfedError: not one name, or whatever stops a run.
    """
    import tempfile

    from mmfed.cli.progress import RunProgress
    from mmfed.config import load_config
    from mmfed.simulation.audit_run import write_empirical
    from mmfed.simulation.empirical import EmpiricalPlan, audit_empirically
    from mmfed.simulation.run_folders import open_run

    if len(names) != 1 or (Path(names[0]).is_file() and Path(names[0]).suffix != ".toml"):
        raise MmfedError(
            ExitCode.USAGE, "--empirical attacks one configuration.", "name one run, or one scenario .toml file."
        )
    scenario = Path(names[0]).suffix == ".toml"
    run, config = (None, load_config(Path(names[0]))) if scenario else open_run(names[0], data=data)
    plan = EmpiricalPlan(people=people, rounds=rounds, shadows=shadows)
    with tempfile.TemporaryDirectory(prefix="mmfed-audit-") as scratch, RunProgress(None) as progress:
        tried = audit_empirically(config, Path(scratch), plan, told=progress.count)
    if run is not None:
        write_empirical(run, tried)
    return tried


def say_attacks(tried: Mapping[str, Any]) -> None:
    """What was tried, a line an attack."""
    from mmfed.privacy.audit.canaries import NO_EVIDENCE

    say(tried["about"])
    say(tried["canary"]["sentence"])
    for one in tried["attacks"]:
        value = "could not be tried" if one["value"] is None else f"AUC {one['value']:.3f}"
        span = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
        limit = "" if one["limit"] is None else f", at most {one['limit']:.3f} is promised"
        verdict = "" if one["holds"] is not False else ": BREAKS THE PROMISE"
        say(f"  {one['name']}: {value}{span} (guessing {one['chance']:.3f}{limit}){verdict}")
    for one in tried["checks"]:
        say(f"  {one['name']}: {'holds' if one['holds'] else 'FAILS'}; {one['what']}")
    say(NO_EVIDENCE)
