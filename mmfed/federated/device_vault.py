"""Whether a node seals what it keeps, and with which key: the device's own setting, out of the coordinator's reach."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.key_source import key_source
from mmfed.privacy.vault import KEYS_FILE, Vault

_VAULTS: dict[tuple[Path, str | None, int], Vault] = {}


def device_vault(settings: Mapping[str, Any], state: Path) -> Vault | None:
    """The vault of a node's state folder, opened once per process and made on first use.

    Settings (node config): ``vault``, a key source (``key_source``) or ``none``. A node with a ``data-dir`` of its own,
    a real device, seals by default; a node of a simulation does not: its people are simulated.

    Raises:
        MmfedError: the vault does not open, or ``vault = "none"`` and the folder was sealed before.
    """
    setting = str(settings["vault"]).strip() if "vault" in settings else None
    if setting is None and "data-dir" not in settings:
        return None
    if setting == "none":
        if (state / KEYS_FILE).exists():
            raise MmfedError(
                ExitCode.STORAGE,
                f"{state}: sealed by a vault, and this device's setting is vault = 'none'.",
                "set vault as it was, or give up what is sealed with mmfed device forget.",
            )
        return None
    held = (state.absolute(), setting, os.getpid())
    if held not in _VAULTS:
        _VAULTS[held] = Vault(state, key_source(setting, state))
    return _VAULTS[held]
