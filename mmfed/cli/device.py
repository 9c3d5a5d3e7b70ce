"""``mmfed device``: what a device keeps about its people, sealed, and how to forget it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mmfed.cli.options import FormatOption, examples
from mmfed.cli.terminal import Format, emit, say
from mmfed.errors import ExitCode, MmfedError

app = typer.Typer(
    name="device",
    help="What this device keeps: look, change its keys, forget.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
StateArgument = Annotated[Path, typer.Argument(metavar="STATE_DIR", show_default=False)]


@app.command(
    short_help="What is held, sealed or in clear.",
    epilog=examples("mmfed device show /var/lib/mmfed/state", "mmfed device show /var/lib/mmfed/state --format json"),
)
def show(
    folder: StateArgument,
    delta: Annotated[
        float, typer.Option(help="At which epsilon over all runs is counted (the device's total-delta).")
    ] = 1e-6,
    output: FormatOption = Format.TEXT,
) -> None:
    """Tell what the device's STATE_DIR holds, whether it is sealed, and what epsilon is spent and left.

    No key is needed, and nothing private is shown.
    """
    from mmfed.federated.device_state import device_state

    state = device_state(folder, delta=delta)
    if output is Format.JSON:
        emit(asdict(state) | {"folder": str(folder), "sealed": state.sealed})
        return
    if state.source is None:
        say(f"{folder}: no vault; nothing here is sealed.")
    else:
        share = state.seals / state.most_seals
        say(f"{folder}: a vault, opened by a {state.source}; {share:.2%} of what one data key may seal.")
    if state.rotating:
        say("  A rotation was interrupted; everything is readable. End it with mmfed device rotate.")
    if state.own_content:
        say(f"  encoded own content: {state.own_content} sealed records")
    for run in state.runs:
        clear = f"; {run.plain} private files IN CLEAR" if run.plain else ""
        say(
            f"  run {run.run}, {run.node}: vectors of {run.sealed_users} users sealed, {run.ledgers} ledgers "
            f"(readable, for auditors){clear}"
        )
        if run.mode:
            left = (
                "no bound" if run.target is None else f"{max(0.0, run.target - run.spent):.4g} left of {run.target:g}"
            )
            say(f"    {run.mode}: epsilon {run.spent:.4g} charged by the worst user, {left}; {run.refusals} refusals")
    person, interaction = state.totals["user"], state.totals["interaction"]
    if person is None or interaction is None:
        say("  over all runs: not known, a ledger does not hold (mmfed audit names the line)")
    elif any(run.ledgers for run in state.runs):
        say(
            f"  over all runs, worst user: epsilon {person:.4g} for the person, {interaction:.4g} for one interaction, "
            f"at delta {state.total_delta:.3g}"
        )


@app.command(
    short_help="Take new keys.",
    epilog=examples(
        "mmfed device rotate /var/lib/mmfed/state",
        "mmfed device rotate /var/lib/mmfed/state --to passphrase-file:/run/mmfed/passphrase",
        "mmfed device rotate /var/lib/mmfed/state --vault keystore --wrapping-only",
    ),
)
def rotate(
    folder: StateArgument,
    vault: Annotated[
        str | None,
        typer.Option(
            "--vault", metavar="SOURCE", help="The device's vault setting, where it has one: what opens the vault now."
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="SOURCE",
            help="What opens it from now on: passphrase-file:PATH, key-file:PATH or keystore. Set it as the device's "
            "vault afterwards. Without it a key file or keystore gets a new key and a passphrase stays.",
        ),
    ] = None,
    wrapping_only: Annotated[
        bool,
        typer.Option("--wrapping-only", help="Keep the data key: quick, but an old copy with its key still opens."),
    ] = False,
    output: FormatOption = Format.TEXT,
) -> None:
    """Seal everything in STATE_DIR under a new data key, and wrap that by a new key.

    Safe while the device works, and after a kill at any instant; run it again to end it.
    """
    from mmfed.privacy.key_source import key_source
    from mmfed.privacy.vault import Vault

    target = None if to is None else key_source(to, folder)
    held = Vault(folder, key_source(vault, folder), create=False)
    count = held.rotate(data_key=not wrapping_only, to=target)
    if output is Format.JSON:
        emit({"folder": str(folder), "sealed_again": count, "data_key": not wrapping_only, "vault": to or vault})
        return
    what = "the same data key, wrapped anew" if wrapping_only else f"a new data key; {count} records sealed again"
    say(f"{folder}: {what}.")
    if to is not None:
        say(f'Set this in the device\'s node config, or it will not open the vault: vault = "{to}"')


@app.command(
    short_help="Destroy what the device keeps about its people.",
    epilog=examples("mmfed device forget /var/lib/mmfed/state --yes"),
)
def forget(
    folder: StateArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Needed: what is forgotten cannot be brought back.")] = False,
    output: FormatOption = Format.TEXT,
) -> None:
    """Destroy the keys of STATE_DIR, then overwrite and remove vectors, encoded own content and signing keys.

    Ledgers stay: they are the record of the privacy spent. The shop folder (data-dir) is not touched. Stop the device
    first.
    """
    from mmfed.federated.device_state import device_state
    from mmfed.federated.device_state import forget as forget_all

    if not yes:
        device_state(folder)
        raise MmfedError(
            ExitCode.USAGE,
            f"{folder}: what is forgotten cannot be brought back.",
            "say --yes if you mean it; mmfed device show tells what is there.",
        )
    done = forget_all(folder)
    if output is Format.JSON:
        emit({"folder": str(folder), **asdict(done)})
        return
    keys = "the wrapped data key is destroyed" if done.keys else "there was no vault"
    say(f"{folder}: {keys}; {done.files} private files overwritten and removed.")
    if done.secret_left:
        say(f"The {done.source or 'secret'} that opened the vault is kept elsewhere; delete it there.")
    if not done.keys and done.files:
        say("Files in clear were overwritten once; journals, backups and flash memory may keep older copies.")
    say(f"{done.ledgers} ledgers stay: the privacy that was spent stays spent. The shop folder was not touched.")
