"""The data keys of a vault on disk, wrapped by a key from the key source: ``vault.json``."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.key_derivation import new_derivation, wrapping_key
from mmfed.privacy.key_source import KeySource
from mmfed.privacy.sealing import NONCE_BYTES, DataKey, decrypt, encrypt
from mmfed.records import write_bytes

_FORMAT = {"format": "mmfed-vault", "version": 1}


@dataclass(frozen=True)
class WrappedKey:
    """One data key.

    Attributes:
        id: hex.
        nonce: hex, of the wrapping.
        wrapped: hex of the key's ciphertext and tag.
        seals: how many records the key may have sealed already.
    """

    id: str
    nonce: str
    wrapped: str
    seals: int


@dataclass(frozen=True)
class WrappedKeys:
    """What stands in ``vault.json``; useless without the source's secret.

    Attributes:
        vault: the vault's id, hex.
        derivation: how the wrapping key comes from the secret.
        keys: the one that seals first; more than one while the data key is being rotated.
    """

    vault: str
    derivation: dict[str, Any]
    keys: tuple[WrappedKey, ...]

    @classmethod
    def read(cls, path: Path) -> WrappedKeys:
        """Parse the file.

        Raises:
            MmfedError: absent, damaged or cut off.
        """
        try:
            tree = json.loads(path.read_bytes())
            digest = tree.pop("sha256")
            if digest != _digest(tree) or {name: tree[name] for name in _FORMAT} != _FORMAT:
                raise ValueError("changed")
            keys = tuple(WrappedKey(**one) for one in tree["keys"])
            return cls(tree["vault"], tree["derivation"], keys)
        except FileNotFoundError:
            raise MmfedError(
                ExitCode.STORAGE,
                f"{path}: the wrapped keys of this vault are gone; nothing that was sealed can be read.",
                "bring the file back from a copy, or start anew after mmfed device forget.",
            ) from None
        except OSError as error:
            raise MmfedError(
                ExitCode.STORAGE, f"{path}: cannot be read ({error.strerror}).", "make it readable."
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise MmfedError(
                ExitCode.STORAGE,
                f"{path}: the wrapped keys of this vault are damaged or cut off.",
                "bring the file back from a copy; without it nothing that was sealed can be read.",
            ) from None

    def write(self, path: Path) -> None:
        """Put the file in place of an earlier one, whole or not at all."""
        tree = {**_FORMAT, **asdict(self)}
        text = json.dumps({**tree, "sha256": _digest(tree)}, indent=2) + "\n"
        write_bytes(path, text.encode(), mode=0o600)

    @classmethod
    def wrap(cls, vault: str, source: KeySource, keys: Sequence[tuple[DataKey, int]]) -> WrappedKeys:
        """Wrap data keys, each with its count of seals, by the source's first secret under a fresh salt."""
        derivation = new_derivation(source.kind, source.derivation)
        wrapping = wrapping_key(source.secrets(vault)[0], derivation)
        wrapped = []
        for key, seals in keys:
            nonce = secrets.token_bytes(NONCE_BYTES)
            body = encrypt(wrapping, nonce, key.secret, _associated(vault, derivation, key.id.hex()))
            wrapped.append(WrappedKey(key.id.hex(), nonce.hex(), body.hex(), seals))
        return cls(vault, derivation, tuple(wrapped))

    def unwrap(self, source: KeySource, where: Path) -> tuple[tuple[DataKey, ...], bytes]:
        """The data keys, and the secret that opened them.

        Raises:
            MmfedError: the secret is another vault's, or the file was changed.
        """
        if source.kind != self.derivation.get("source"):
            raise MmfedError(
                ExitCode.STORAGE,
                f"{where}: sealed with a {self.derivation.get('source')}, and the vault setting names a {source.kind}.",
                "set vault as it was, or change the key with mmfed device rotate --to.",
            )
        for secret in source.secrets(self.vault):
            try:
                wrapping = wrapping_key(secret, self.derivation)
                found = [self._opened(wrapping, key) for key in self.keys]
            except (KeyError, TypeError, ValueError):
                continue
            keys = tuple(key for key in found if key is not None)
            if keys and len(keys) == len(found):
                return keys, secret
        what = "passphrase" if source.kind == "passphrase" else "key"
        raise MmfedError(
            ExitCode.STORAGE,
            f"{where}: this {what} does not open the vault.",
            f"give the {what} that it was sealed with; without it nothing can be read.",
        )

    def _opened(self, wrapping: bytes, key: WrappedKey) -> DataKey | None:
        associated = _associated(self.vault, self.derivation, key.id)
        secret = decrypt(wrapping, bytes.fromhex(key.nonce), bytes.fromhex(key.wrapped), associated)
        return None if secret is None else DataKey(bytes.fromhex(key.id), secret)


def _associated(vault: str, derivation: dict[str, Any], key: str) -> bytes:
    return json.dumps({**_FORMAT, "vault": vault, "derivation": derivation, "key": key}, sort_keys=True).encode()


def _digest(tree: dict[str, Any]) -> str:
    """Tells damage from a wrong secret; no protection against a person, whom the wrapping's tag stops."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
