"""The peers a device accepts: a file of its owner's, or those that enrolled when it first met the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.secure_aggregation.roster import Roster
from mmfed.records import write_text

FILE = "roster.txt"


def pinned_roster(folder: Path, settings: Mapping[str, Any], offered: Sequence[bytes] | None = None) -> Roster:
    """The roster of a run on this node.

    Settings (node config): ``roster``, a file of hex ed25519 public keys, one a line, got by another way than from the
    coordinator; only such a roster holds against a coordinator that invents peers. Without it the roster offered first
    is pinned in ``folder`` for the run.

    Args:
        folder: of the node's state in this run.
        offered: the coordinator's, while enrolling.

    Raises:
        MmfedError: there is none yet, or the one offered differs.
    """
    own = settings.get("roster")
    path = folder / FILE if own is None else Path(str(own)).expanduser()
    if own is None and not path.exists():
        if offered is None:
            raise MmfedError(
                ExitCode.PRIVACY,
                "secure aggregation: this node has no roster of this run.",
                "start the run again, so that devices enrol; or set roster in the device's settings.",
            )
        roster = Roster.of(offered)
        write_text(path, "".join(f"{key.hex()}\n" for key in sorted(roster.keys)))
        return roster
    roster = _read(path)
    differs = roster.keys != set(offered or ()) if own is None else not roster.keys >= set(offered or ())
    if offered is not None and differs:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"secure aggregation: the coordinator's roster differs from the one pinned in {path.name}.",
            "find out who joined: compare fingerprints with the other devices; a new run may have a new roster.",
        )
    return roster


def _read(path: Path) -> Roster:
    try:
        return Roster.of(bytes.fromhex(line) for line in path.read_text(encoding="utf-8").split())
    except (OSError, ValueError) as error:
        raise MmfedError(
            ExitCode.PRIVACY, f"{path}: not a roster ({error}).", "give hex ed25519 public keys, one a line."
        ) from None
