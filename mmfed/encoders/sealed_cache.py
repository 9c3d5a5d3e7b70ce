"""A person's encoded content in the device's vault: made once, replaced when the content changes, never in clear."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from mmfed.data.schema import Features
from mmfed.encoders.cache import CHUNK, chunk_bytes, parsed_chunk, slug
from mmfed.encoders.encoder import FrozenEncoder, ItemInputs
from mmfed.privacy.sealing import BrokenSealError
from mmfed.privacy.vault import Vault

OWN_CONTENT = "own-content"  # folder of the vault
_DIGEST_BYTES = 32


def sealed_features(vault: Vault, modality: str, encoder: FrozenEncoder[Any], items: ItemInputs[Any]) -> Features:
    """Encode ``items``, or open what an earlier call sealed for the same encoder, weights and inputs.

    Each record holds the vectors of ``CHUNK`` inputs and, sealed with them, the hash of these inputs: no name on the
    disk tells anything about the content. What is damaged, or was made of content that changed, is made again in
    its place.

    Returns:
        Values [items, d] float16, zero where absent, and presence [items].

    Raises:
        MmfedError: the vault cannot be opened or written.
    """
    made_by = hashlib.sha256(f"{encoder.name}|{encoder.weights_sha256}".encode()).hexdigest()[:16]
    entry = f"{OWN_CONTENT}/{modality}-{slug(encoder.name)}-{made_by}"
    rows = items.rows()
    starts = range(0, len(rows), CHUNK)
    present = np.zeros(len(items.inputs), dtype=bool)
    values: np.ndarray | None = None
    for start in starts:
        block = rows[start : start + CHUNK]
        made, there = _chunk(vault, f"{entry}/{start:09d}", encoder, items, block)
        if values is None:
            values = np.zeros((len(present), made.shape[1]), dtype=np.float16)
        values[block], present[block] = made, there
    current = {f"{entry}/{start:09d}" for start in starts}
    for name in vault.names(entry):
        if name not in current:
            vault.remove(name)
    return Features(np.zeros((len(present), 0), dtype=np.float16) if values is None else values, present)


def _chunk(
    vault: Vault, name: str, encoder: FrozenEncoder[Any], items: ItemInputs[Any], block: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Values and presence of some inputs."""
    digest = hashlib.sha256(b"".join(items.digests[row] for row in block)).digest()
    try:
        record = vault.read(name)
    except BrokenSealError:
        record = None
    if record is not None and record[:_DIGEST_BYTES] == digest:
        found = parsed_chunk(record[_DIGEST_BYTES:], len(block))
        if found is not None:
            return found[0], found[1]
    made = chunk_bytes(encoder.encode([items.inputs[row] for row in block]))
    vault.write(name, digest + made)
    parsed = parsed_chunk(made, len(block))
    if parsed is None:
        raise ValueError("an encoder gave another number of vectors than it had inputs")
    return parsed[0], parsed[1]
