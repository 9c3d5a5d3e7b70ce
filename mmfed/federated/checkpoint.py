"""Checkpoints: one safetensors file per kind, written atomically, signed with the run's key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmfed.errors import ExitCode, MmfedError
from mmfed.records import write_bytes


def save_checkpoint(
    path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], key: Ed25519PrivateKey
) -> None:
    """Write tensors and a JSON state; the file appears whole or not at all.

    Raises:
        MmfedError: the disk refuses; an earlier checkpoint at ``path`` is untouched.
    """
    text = json.dumps(state, sort_keys=True, allow_nan=False)
    signature = key.sign(_digest(tensors, text)).hex()
    write_bytes(
        path,
        save({name: value.contiguous() for name, value in tensors.items()}, {"state": text, "signature": signature}),
    )


def load_checkpoint(path: Path, key: Ed25519PrivateKey) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint back.

    Raises:
        MmfedError: the file is damaged, or was not written with this run's key.
    """
    damaged = MmfedError(
        ExitCode.STORAGE,
        f"{path}: damaged or changed since it was written (its signature does not match).",
        "restore the file from a copy, or start a new run; nothing is resumed from it.",
    )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        key.public_key().verify(bytes.fromhex(metadata["signature"]), _digest(tensors, metadata["state"]))
        return tensors, json.loads(metadata["state"])
    except (SafetensorError, KeyError, ValueError, InvalidSignature, OSError):
        raise damaged from None


def _digest(tensors: Mapping[str, Tensor], state: str) -> bytes:
    digest = hashlib.sha256(len(state).to_bytes(8, "little") + state.encode())
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name].detach().numpy())
        digest.update(f"{name}|{values.dtype}|{values.shape}|".encode())
        digest.update(values.tobytes())
    return digest.digest()
