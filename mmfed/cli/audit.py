"""``mmfed audit``: recompute every epsilon from the ledgers, trusting nobody."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmfed.cli.ledger_verdicts import DEVICES_SHOWN, say_ledgers
from mmfed.cli.options import DataOption, FormatOption, examples
from mmfed.cli.terminal import Format, emit, say
from mmfed.errors import ExitCode, MmfedError

if TYPE_CHECKING:
    from mmfed.config import Config
    from mmfed.privacy.audit.ledgers import AuditResult
    from mmfed.records import RunFolder

_FINDINGS_SHOWN = 10
_NOTHING = "nothing to audit: no differential privacy"


def audit(
    names: Annotated[list[str], typer.Argument(metavar="RUN|LEDGER...", show_default=False)],
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="HEX", help="Public key of the party, obtained from it some other way."),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option("--head", metavar="FILE", help="Head of the ledger that another party kept: shows truncation."),
    ] = None,
    save_head: Annotated[
        Path | None, typer.Option("--save-head", metavar="FILE", help="Write the ledger's head, to be kept elsewhere.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FOLDER", help="Write audit.html, audit.json and audit.csv into this folder."),
    ] = None,
    data: DataOption = None,
    groups: Annotated[
        Path | None,
        typer.Option("--groups", metavar="FILE", help="CSV with the columns device and group, for the report."),
    ] = None,
    empirical: Annotated[
        bool,
        typer.Option("--empirical", help="Attack the configuration of the one RUN, or of a scenario file, first."),
    ] = False,
    people: Annotated[
        int, typer.Option("--people", min=4, help="--empirical: people in or out by a coin.", show_default=True)
    ] = 200,
    attack_rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="--empirical: rounds of every run.", show_default=True)
    ] = 5,
    shadows: Annotated[
        int, typer.Option("--shadows", min=0, help="--empirical: runs that LiRA learns from.", show_default=True)
    ] = 6,
    output: FormatOption = Format.TEXT,
) -> None:
    """Check chain, signatures and order of ledgers and recompute every epsilon by a second code path.

    RUN (a folder, or a name under runs/) stands for all ledgers in it: the coordinator's and those of simulated
    devices; its recorded rounds must be charged. Ledgers of one run are compared with one another. --key and the heads
    concern one ledger: the only one named, or the coordinator's. Exit code 9 if anything does not hold.

    --empirical runs the production code on the configuration of RUN (or of a scenario .toml file), with people in or
    out by a coin, attacks what it releases, and checks noise, clipping, sampling and charges. RUN is not changed.
    """
    from mmfed.cli.audit_attacks import attack, broken, say_attacks
    from mmfed.cli.progress import RunProgress
    from mmfed.privacy.audit.crosscheck import cross_check
    from mmfed.privacy.audit.ledgers import AuditResult, audit_ledgers
    from mmfed.privacy.audit.outcome import read_groups
    from mmfed.privacy.audit.verify import Head, public_key_of

    tried = None
    if empirical:
        tried = attack(names, people=people, rounds=attack_rounds, shadows=shadows, data=data)
        names = [name for name in names if Path(name).suffix != ".toml"]
    found = _find(names)
    files = found.files
    anchored = _anchored(files, found.coordinators, any(one is not None for one in (key, head, save_head)))
    keys = {} if key is None or anchored is None else {anchored: public_key_of(key)}
    heads = {} if head is None or anchored is None else {anchored: Head.load(head)}
    by_device = None if groups is None else read_groups(groups)
    with RunProgress(None) as progress:
        told = progress if len(files) > DEVICES_SHOWN else None
        result = audit_ledgers(
            files, keys, heads, progress=None if told is None else lambda n, all_: told.count("ledgers", n, all_)
        )
    crossed = cross_check(result.ledgers)
    result = found.against_rounds(AuditResult(result.ledgers, (*result.findings, *crossed.findings)))
    if save_head is not None and result.holds:
        last = next(one.head for one in result.ledgers if one.path == anchored)
        if last is not None:
            last.save(save_head)
    written = None
    if report is not None:
        commands = _commands(names, files, key=key, head=head)
        written = _write_report(report, result, commands, crossed.remarks, by_device, tried or found.empirical())
    if output is Format.JSON:
        nothing = [str(path) for path in found.silent]
        about = {
            "remarks": list(crossed.remarks),
            "report": None if written is None else str(written),
            "empirical": tried,
        }
        emit({**result.to_dict(), **about, "without_privacy": nothing, "note": _NOTHING if nothing else None})
        raise typer.Exit(0 if result.holds and not broken(tried) else int(ExitCode.AUDIT))
    if tried is not None:
        say_attacks(tried)
    for path in found.silent:
        say(f"{path}: {_NOTHING}.")
    say_ledgers(result)
    for line in crossed.remarks:
        say(f"Note: {line}.")
    if written is not None:
        say(f"Report: {written}")
    if result.holds:
        if result.ledgers:
            say(f"All {len(result.ledgers)} ledgers hold." if len(result.ledgers) > 1 else "The ledger holds.")
        if broken(tried):
            raise MmfedError(
                ExitCode.AUDIT, "an attack or a check breaks the promise (above).", "believe no epsilon of this code."
            )
        return
    first, *others = result.findings
    for finding in others[:_FINDINGS_SHOWN]:
        say(f"FAULT: {finding}.")
    bad = len({finding.path for finding in result.findings})
    more = f" ({len(others)} more faults; {bad} files in all)" if others else ""
    raise MmfedError(
        ExitCode.AUDIT,
        f"{first}{more}.",
        "believe no epsilon of this run; keep the files and find out who changed them.",
    )


@dataclass(frozen=True)
class _Found:
    """What the names stand for."""

    files: list[Path]
    runs: list[tuple[RunFolder, Config]]
    silent: list[Path]

    @property
    def coordinators(self) -> list[Path]:
        return [run.ledger for run, _ in self.runs]

    def against_rounds(self, result: AuditResult) -> AuditResult:
        """The audit with what the runs' own records say against it."""
        if self.runs:
            from mmfed.simulation.audit_run import against_rounds

            for run, config in self.runs:
                result = against_rounds(run, config, result)
        return result

    def empirical(self) -> Mapping[str, Any] | None:
        """What attacks on the only run named found, if they were tried."""
        if len(self.runs) != 1:
            return None
        from mmfed.simulation.audit_run import read_empirical

        return read_empirical(self.runs[0][0])


def _find(names: Sequence[str]) -> _Found:
    """Files as they are; anything else is a run. Ledger files alone need neither torch nor flwr nor a configuration."""
    files: list[Path] = []
    runs: list[tuple[RunFolder, Config]] = []
    silent = []
    for name in names:
        if Path(name).is_file():
            files.append(Path(name))
            continue
        from mmfed.simulation.audit_run import run_ledgers
        from mmfed.simulation.run_folders import open_run

        run, config = open_run(name)
        runs.append((run, config))
        ledgers = run_ledgers(run)
        files.extend(ledgers)
        if not ledgers and config.privacy.mode == "none":
            silent.append(run.path)
    return _Found(files, runs, silent)


def _commands(names: Sequence[str], files: Sequence[Path], *, key: str | None, head: Path | None) -> list[str]:
    """What repeats the audit: as it was called, and by the checker that needs nothing else installed."""
    pinned = ["--key", key] if key is not None else []
    pinned += ["--head", str(head)] if head is not None else []
    shown = [str(path) for path in files[:DEVICES_SHOWN]] + (["..."] if len(files) > DEVICES_SHOWN else [])
    light = ["python", "-m", "mmfed.privacy.audit", *shown, *(pinned if len(files) == 1 else [])]
    return [shlex.join(["mmfed", "audit", *names, *pinned]), " ".join(shlex.quote(word) for word in light)]


def _write_report(
    folder: Path,
    result: AuditResult,
    commands: Sequence[str],
    remarks: Sequence[str],
    groups: Mapping[str, str] | None,
    empirical: Mapping[str, Any] | None,
) -> Path:
    try:
        from mmfed.reports.audit_report import write_audit_report
    except ModuleNotFoundError as missing:
        raise MmfedError(
            ExitCode.MISSING_EXTRA,
            f"{folder}: no report written, {missing.name} is not installed.",
            "pip install 'mmfed[reports]'; python -m mmfed.privacy.audit --json FILE --csv FILE needs no extra.",
        ) from None
    page, *_ = write_audit_report(
        folder, result, commands=commands, remarks=remarks, groups=groups, empirical=empirical
    )
    return page


def _anchored(files: list[Path], coordinators: list[Path], needed: bool) -> Path | None:
    """The ledger that --key and --head concern."""
    if not needed:
        return None
    own = [path for path in files if path in coordinators]
    candidates = files if len(files) == 1 else own
    if len(candidates) != 1:
        raise MmfedError(
            ExitCode.AUDIT,
            f"--key, --head and --save-head concern one ledger, and {len(candidates)} are named.",
            "name one ledger file.",
        )
    return candidates[0]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Check ledgers and recompute every epsilon.",
        epilog=examples(
            "mmfed audit demo",
            "mmfed audit runs/demo/ledger.jsonl --key 64-HEX-DIGITS --head kept-by-the-auditor.json",
            "mmfed audit demo --report audit",
            "mmfed audit demo --empirical --people 60 --rounds 3 --shadows 2",
            "mmfed audit demo strict --format json",
        ),
    )(audit)
