"""Encoded content in a vault: made once, replaced when the content changes, never a clue in clear."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mmfed.encoders.cache import CHUNK, cached_features
from mmfed.encoders.encoder import Encoded, ItemInputs, text_inputs
from mmfed.encoders.sealed_cache import OWN_CONTENT, sealed_features
from mmfed.privacy.key_source import key_source
from mmfed.privacy.vault import Vault


class Letters:
    """Counts letters; texts with a question mark cannot be read."""

    weights_sha256 = "00"

    def __init__(self, name: str = "letters") -> None:
        self.name = name
        self.seen: list[str] = []

    def encode(self, inputs: Sequence[str]) -> Encoded:
        self.seen.extend(inputs)
        present = np.array(["?" not in text for text in inputs])
        counts = [[text.count(letter) + 0.25 for letter in "abcdefgh"] for text in inputs]
        values = np.array(counts, dtype=np.float32) * present[:, None]
        return Encoded(values, present, {int(row): "a question" for row in np.flatnonzero(~present)})


def texts(*given: str | None) -> ItemInputs[str]:
    nothing = (None,) * len(given)
    return text_inputs(nothing, given, ("",) * len(given))


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "state", key_source(None, tmp_path / "state"))


MANY = [None if number % 7 == 0 else f"text {number} {'?' * (number % 11 == 0)}" for number in range(3 * CHUNK)]


def test_the_numbers_of_the_plain_cache(vault: Vault, tmp_path: Path) -> None:
    plain = cached_features(tmp_path / "plain", "text", Letters(), texts(*MANY)).features
    for _ in range(2):
        found = sealed_features(vault, "text", Letters(), texts(*MANY))
        np.testing.assert_array_equal(found.values, plain.values)
        assert found.values.dtype == plain.values.dtype
        np.testing.assert_array_equal(found.present, plain.present)


def test_encoded_once_and_again_only_where_it_changed(vault: Vault) -> None:
    encoder = Letters()
    sealed_features(vault, "text", encoder, texts(*MANY))
    first = len(encoder.seen)
    sealed_features(vault, "text", encoder, texts(*MANY))
    assert len(encoder.seen) == first
    changed = texts(*MANY[:-1], "beef")
    assert sealed_features(vault, "text", encoder, changed).values[-1].tolist()[:6] == [
        0.25,
        1.25,
        0.25,
        0.25,
        2.25,
        1.25,
    ]
    assert len(encoder.seen) - first <= CHUNK
    assert sealed_features(vault, "text", Letters("others"), texts("beef")).values.shape == (1, 8)
    seen = len(encoder.seen)
    sealed_features(vault, "text", encoder, changed)
    assert len(encoder.seen) == seen, "two encoders do not push each other out"


def test_deleted_content_leaves_no_record(vault: Vault) -> None:
    encoder = Letters()
    sealed_features(vault, "text", encoder, texts(*MANY))
    assert len(list(vault.names(OWN_CONTENT))) == 3
    sealed_features(vault, "text", encoder, texts("a"))
    assert len(list(vault.names(OWN_CONTENT))) == 1
    assert sealed_features(vault, "text", encoder, texts(None, None)).values.shape == (2, 0)
    assert list(vault.names(OWN_CONTENT)) == []


def test_nothing_on_the_disk_confirms_a_guess(vault: Vault) -> None:
    """Neither the content, nor its vectors, nor any hash of it, in a file or in a name."""
    inputs = texts("abba has a cafe")
    values = sealed_features(vault, "text", Letters(), inputs).values
    held = b"".join(
        str(path).encode() + (path.read_bytes() if path.is_file() else b"") for path in vault.folder.rglob("*")
    )
    clues = [b"abba", values[0].tobytes(), values[0, :3].tobytes(), inputs.digests[0], inputs.fingerprint.encode()[:16]]
    clues += [hashlib.sha256(inputs.digests[0]).digest(), hashlib.sha256(inputs.digests[0]).hexdigest()[:16].encode()]
    assert not [clue for clue in clues if clue in held]


def test_damaged_swapped_or_foreign_records_are_made_again(vault: Vault, tmp_path: Path) -> None:
    encoder = Letters()
    expected = sealed_features(vault, "text", encoder, texts(*MANY)).values
    first, second, third = (vault.path(name) for name in vault.names(OWN_CONTENT))
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(third.read_bytes())
    third.write_bytes(b"")
    np.testing.assert_array_equal(sealed_features(vault, "text", encoder, texts(*MANY)).values, expected)
    seen = len(encoder.seen)
    sealed_features(vault, "text", encoder, texts(*MANY))
    assert len(encoder.seen) == seen


def test_killed_in_between_goes_on_where_it_was(vault: Vault) -> None:
    class Dying(Letters):
        def encode(self, inputs: Sequence[str]) -> Encoded:
            if len(self.seen) >= CHUNK:
                raise KeyboardInterrupt
            return super().encode(inputs)

    with pytest.raises(KeyboardInterrupt):
        sealed_features(vault, "text", Dying(), texts(*MANY))
    encoder = Letters()
    sealed_features(vault, "text", encoder, texts(*MANY))
    assert len(encoder.seen) == sum(text is not None for text in MANY) - CHUNK
