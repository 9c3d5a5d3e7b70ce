"""``mmfed audit``: recompute every epsilon from the ledgers, trusting nobody."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmfed.cli.options import FormatOption, examples
from mmfed.cli.terminal import Format, emit, say
from mmfed.errors import ExitCode, MmfedError

if TYPE_CHECKING:
    from mmfed.privacy.audit.ledgers import AuditResult, LedgerAudit

_DEVICES_SHOWN = 3
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
    output: FormatOption = Format.TEXT,
) -> None:
    """Check chain, signatures and order of ledgers and recompute every epsilon by a second code path.

    RUN (a folder, or a name under runs/) stands for all ledgers in it: the coordinator's and those of simulated
    devices; its recorded rounds must be charged. --key and the heads concern one ledger: the only one named, or the
    coordinator's. Exit code 9 if anything does not hold.
    """
    from mmfed.cli.progress import RunProgress
    from mmfed.privacy.audit.verify import Head
    from mmfed.simulation.audit_run import against_rounds, audit_each, run_ledgers
    from mmfed.simulation.run_folders import open_run

    files: list[Path] = []
    runs, silent = [], []
    for name in names:
        if Path(name).is_file():
            files.append(Path(name))
            continue
        run, config = open_run(name)
        runs.append((run, config))
        found = run_ledgers(run)
        files.extend(found)
        if not found and config.privacy.mode == "none":
            silent.append(run.path)
    anchored = _anchored(files, [run.ledger for run, _ in runs], any(one is not None for one in (key, head, save_head)))
    keys = {} if key is None or anchored is None else {anchored: _public_key(key)}
    heads = {} if head is None or anchored is None else {anchored: Head.load(head)}
    with RunProgress(None) as progress:
        told = progress if len(files) > _DEVICES_SHOWN else None
        result = audit_each(
            files, keys, heads, None if told is None else lambda n, all_: told.count("ledgers", n, all_)
        )
    for run, config in runs:
        result = against_rounds(run, config, result)
    if save_head is not None and result.holds:
        last = next(one.head for one in result.ledgers if one.path == anchored)
        if last is not None:
            last.save(save_head)
    if output is Format.JSON:
        nothing = [str(path) for path in silent]
        emit({**result.to_dict(), "without_privacy": nothing, "note": _NOTHING if nothing else None})
        raise typer.Exit(0 if result.holds else int(ExitCode.AUDIT))
    for path in silent:
        say(f"{path}: {_NOTHING}.")
    _say_ledgers(result)
    if result.holds:
        if result.ledgers:
            say(f"All {len(result.ledgers)} ledgers hold." if len(result.ledgers) > 1 else "The ledger holds.")
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


def _public_key(text: str) -> str:
    plain = text.strip().lower()
    if len(plain) != 64 or set(plain) - set("0123456789abcdef"):
        raise MmfedError(
            ExitCode.AUDIT, "--key: not an ed25519 public key.", "give the 64 hex digits of public_key in its header."
        )
    return plain


def _say_ledgers(result: AuditResult) -> None:
    """One paragraph a ledger; many device ledgers as one, with the worst first."""
    devices = [one for one in result.ledgers if one.path.parent.name == "ledgers"]
    if len(devices) <= _DEVICES_SHOWN:
        devices = []
    for one in result.ledgers:
        if one not in devices:
            _say_verdict(one)
            _say_remarks(one)
    if not devices:
        return
    # What does not hold comes first: its figures cannot be believed.
    worst = sorted(devices, key=lambda one: (one.holds, -max(one.recomputed or 0.0, one.claimed or 0.0)))
    say(
        f"{len(devices)} device ledgers: {sum(one.holds for one in devices)} hold; "
        f"{sum(one.releases for one in devices):,} releases, {sum(one.refusals for one in devices):,} refusals. "
        f"The worst {_DEVICES_SHOWN}:"
    )
    for one in worst[:_DEVICES_SHOWN]:
        _say_verdict(one)
    _say_remarks(worst[0])


def _say_verdict(one: LedgerAudit) -> None:
    verdict = "holds" if one.holds else "DOES NOT HOLD"
    lines = 0 if one.head is None else one.head.index + 1
    say(f"{one.path}: {verdict}; {lines} good lines, {one.releases} releases, {one.refusals} refusals.")
    if one.recomputed is not None and one.claimed is not None:
        unit = one.header["unit"]
        say(f"  claimed epsilon {one.claimed:.4f}, recomputed {one.recomputed:.4f}, unit: {unit}")
        if len(one.epsilon_by_line) > 1:
            say("  by line: " + ", ".join(f"{name} {value:.4f}" for name, value in one.epsilon_by_line.items()))
    elif one.header:
        say("  no release, epsilon 0")


def _say_remarks(one: LedgerAudit) -> None:
    """The promise in full, and what the audit could not see."""
    header = one.header
    if header:
        say(
            f"  delta {header['delta']:.3g} ({header['delta_reason']}); adjacency: {header['adjacency']}; "
            f"trust: {header['trust']}; noise: {header['noise_source']}."
        )
    if not one.key_pinned:
        say("  The public key is the one the ledger itself declares; give --key to pin it.")
    if not one.anchored:
        say("  A cut at its end, or an old copy, shows only against a head kept elsewhere (--head).")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Check ledgers and recompute every epsilon.",
        epilog=examples(
            "mmfed audit demo",
            "mmfed audit runs/demo/ledger.jsonl --key 64-HEX-DIGITS --head kept-by-the-auditor.json",
            "mmfed audit demo strict --format json",
        ),
    )(audit)
