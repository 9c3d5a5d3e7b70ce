"""Checkpoints: exact, signed, whole or absent."""

from __future__ import annotations

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.checkpoint import load_checkpoint, save_checkpoint

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TENSORS = {
    "model.a": torch.tensor([[1.5, -0.0], [1e-40, 3e38]]),
    "optimiser.b": torch.tensor([1 / 3], dtype=torch.float64),
    "optimiser.steps": torch.tensor(7, dtype=torch.int64),
    "model.empty": torch.zeros(0, 4),
    "model.turned": torch.arange(6.0).reshape(2, 3).T,
}
STATE = {"records": [{"round": 1, "epsilon": 0.1, "validation": None}], "best_value": 1 / 3, "stopped": False}


@pytest.fixture
def path(tmp_path):
    save_checkpoint(tmp_path / "latest.safetensors", TENSORS, STATE, KEY)
    return tmp_path / "latest.safetensors"


def test_round_trip_is_exact(path):
    tensors, state = load_checkpoint(path, KEY)
    assert state == STATE
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype
        assert tensors[name].shape == value.shape
        assert tensors[name].contiguous().numpy().tobytes() == value.contiguous().numpy().tobytes()


def refused(path, key=KEY):
    with pytest.raises(MmfedError) as fault:
        load_checkpoint(path, key)
    assert fault.value.code is ExitCode.STORAGE
    assert path.name in fault.value.message


def test_a_flipped_bit_anywhere_is_found(path):
    data = path.read_bytes()
    for position in range(len(data)):
        for flip in (0x01, 0x80):
            path.write_bytes(data[:position] + bytes([data[position] ^ flip]) + data[position + 1 :])
            refused(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_torn_file_is_refused(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path)


def test_other_keys_and_other_files_are_refused(path, tmp_path):
    refused(path, Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
    refused(tmp_path / "absent.safetensors")
    path.write_bytes(path.read_bytes() + b"\0")
    refused(path)


def test_tensors_cannot_change_places(path):
    swapped = dict(TENSORS) | {"model.a": TENSORS["model.a"].flip(0)}
    save_checkpoint(path.with_name("other.safetensors"), swapped, STATE, KEY)
    data, other = path.read_bytes(), path.with_name("other.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(data[:start] + other[start:])
    refused(path)


def test_a_state_that_is_no_json_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path / "x", TENSORS, {"loss": float("nan")}, KEY)
    assert list(tmp_path.iterdir()) == []
