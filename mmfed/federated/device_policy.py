"""What a device demands before it works for a coordinator; set on the device, out of the coordinator's reach."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.units import DEVICE_MODES


def check_policy(settings: Mapping[str, Any], config: Config) -> None:
    """Refuse a run that offers less than the device's own settings ask for.

    Settings (node config): ``require-privacy``, the modes the device accepts, separated by commas; ``max-epsilon``, the
    largest target ε of a run (nats, in the mode's own unit). It limits one run: a device counts every run apart. In
    ``user-central`` mode the coordinator is trusted to keep what it says; in ``record``, ``user-local`` and
    ``user-distributed`` mode the device enforces it. With a ``data-dir`` of its own (a real device) it also refuses to
    make its own noise from a seed the coordinator knows, and to leave out the masks of secure aggregation.

    Raises:
        MmfedError: names the setting and what the coordinator offers.
    """
    privacy = config.privacy
    added_here = privacy.mode in (*DEVICE_MODES, "user-distributed")
    if "data-dir" in settings and privacy.mode == "user-distributed" and privacy.masks == "skipped":
        raise MmfedError(
            ExitCode.PRIVACY,
            "the coordinator asks this device to leave out the masks of secure aggregation.",
            "run the coordinator with --set privacy.masks=always; without masks it sees single updates.",
        )
    if "data-dir" in settings and added_here and privacy.noise_source == "seeded":
        raise MmfedError(
            ExitCode.PRIVACY,
            "the coordinator asks this device for noise from a seed it knows, which protects nobody.",
            "run the coordinator with --set privacy.noise_source=csprng; seeded noise is for simulations.",
        )
    accepted = [mode.strip() for mode in str(settings.get("require-privacy", "")).split(",") if mode.strip()]
    if accepted and privacy.mode not in accepted:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"this device accepts privacy modes {', '.join(accepted)}; the coordinator offers {privacy.mode}.",
            "change the coordinator's privacy.mode, or require-privacy on the device.",
        )
    if "max-epsilon" not in settings:
        return
    try:
        most = float(settings["max-epsilon"])
    except (TypeError, ValueError):
        most = math.nan
    if not most > 0:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"max-epsilon = {settings['max-epsilon']!r} on this device is not a number above 0.",
            "correct it in the device's node config.",
        )
    offered = None if privacy.mode == "none" else privacy.epsilon
    if offered is None or offered > most:
        shown = "no bound on epsilon" if offered is None else f"epsilon {offered:g}"
        raise MmfedError(
            ExitCode.PRIVACY,
            f"this device allows epsilon {most:g} a run; the coordinator offers {shown}.",
            "lower the coordinator's privacy.epsilon, or raise max-epsilon on the device.",
        )
