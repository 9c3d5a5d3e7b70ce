"""Why a party of the protocol stops."""

from __future__ import annotations

from mmfed.errors import ExitCode, MmfedError


def refusal(
    what: str, fix: str = "nothing was released; start the round again, and look at who sent it."
) -> MmfedError:
    """A step of the protocol that must not be taken."""
    return MmfedError(ExitCode.PRIVACY, f"secure aggregation: {what}.", fix)


def too_few(what: str) -> MmfedError:
    """A round that cannot be finished: too many parties dropped out."""
    return MmfedError(
        ExitCode.FEDERATION,
        f"secure aggregation: {what}; the round was given up and nothing was released.",
        "look at the devices that dropped out and continue with --resume, or lower privacy.minimum_survivors.",
    )
