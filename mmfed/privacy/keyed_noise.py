"""Noise that can be drawn again by who holds a key: for correlated noise, whose past draws are needed later.

Nothing of the noise is stored. The key comes from the run's signing key, which only its owner may read: whoever gets
that file can subtract the noise of the run, so destroy it when no more rounds are to come.
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mmfed.privacy.mechanisms import stream_normals
from mmfed.types import FloatArray

_PURPOSE = "mmfed correlated noise 1"


class KeyedNoise:
    """The secure noise stream under a key of its own for every (round, purpose), derived from one secret by HKDF.

    Args:
        key: of the run; its private bytes are the secret.
        run_id: no two runs share noise, even under one key.
    """

    def __init__(self, key: Ed25519PrivateKey, run_id: str) -> None:
        self._secret = key.private_bytes_raw()
        self._run_id = run_id

    @property
    def name(self) -> str:
        return "csprng (ChaCha20, keyed for every round from the run's secret signing key)"

    def standard_normal(self, size: int, *, round_number: int, purpose: str) -> FloatArray:
        """The same samples for the same key, run, round and purpose."""
        info = "\n".join([_PURPOSE, purpose, str(round_number)]).encode()
        derived = HKDF(hashes.SHA256(), length=32, salt=self._run_id.encode(), info=info).derive(self._secret)
        return stream_normals(derived, size)
