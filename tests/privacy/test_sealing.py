"""Sealed records: known answers, a second implementation, and every single changed byte."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.errors import ExitCode
from mmfed.privacy.sealing import BrokenSealError, DataKey, decrypt, encrypt, key_id, seal, unseal

KEY = DataKey(bytes(range(16)), bytes(range(32)))
NAME = "run-1/node-0-of-1/vectors/7"

# McGrew and Viega, The Galois/Counter Mode of Operation (submission to NIST), appendix B, test cases 13 and 16.
LONG = (
    "feffe9928665731c6d6a8f9467308308" * 2,
    "cafebabefacedbaddecaf888",
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
    "feedfacedeadbeeffeedfacedeadbeefabaddad2",
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
    "76fc6ece0f4e1768cddf8853bb2d551b",
)
EMPTY = ("00" * 32, "00" * 12, "", "", "", "530f8afbc74536b9a963b4f1c4cb738b")


@pytest.mark.parametrize("case", [LONG, EMPTY])
def test_known_answers(case: tuple[str, ...]) -> None:
    key, nonce, plain, associated, cipher, tag = map(bytes.fromhex, case)
    assert encrypt(key, nonce, plain, associated) == cipher + tag
    assert decrypt(key, nonce, cipher + tag, associated) == plain
    assert decrypt(key, nonce, cipher + tag, associated + b"x") is None


@given(st.binary(max_size=300), st.text(min_size=1, max_size=40))
def test_what_is_sealed_comes_back(data: bytes, name: str) -> None:
    record = seal(KEY, name, data)
    assert unseal([DataKey.new(), KEY], name, record, where="f") == data
    assert key_id(record, where="f") == KEY.id


def test_the_layout_is_the_documented_one() -> None:
    """Taken apart by offsets and opened by another implementation."""
    aes = pytest.importorskip("Crypto.Cipher.AES")
    record = seal(KEY, NAME, b"private")
    assert record[:10] == b"mmfedseal\x01"
    assert record[10:26] == KEY.id
    length = int.from_bytes(record[26:28], "big")
    assert int.from_bytes(record[28:36], "big") == len(b"private") + 16
    start = 36 + length
    assert record[36:start] == NAME.encode()
    other = aes.new(KEY.secret, aes.MODE_GCM, nonce=record[start : start + 12])
    other.update(record[:start])
    assert other.decrypt_and_verify(record[start + 12 : -16], record[-16:]) == b"private"


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=60), st.data())
def test_any_changed_byte_is_noticed(data: bytes, choose: st.DataObject) -> None:
    record = bytearray(seal(KEY, NAME, data))
    position = choose.draw(st.integers(0, len(record) - 1))
    record[position] ^= choose.draw(st.integers(1, 255))
    with pytest.raises(BrokenSealError) as caught:
        unseal([KEY], NAME, bytes(record), where="f")
    assert caught.value.code is ExitCode.STORAGE


def test_cut_off_or_longer_is_noticed_everywhere() -> None:
    record = seal(KEY, NAME, b"private")
    for length in range(len(record)):
        with pytest.raises(BrokenSealError, match="cut off"):
            unseal([KEY], NAME, record[:length], where="f")
    with pytest.raises(BrokenSealError):
        unseal([KEY], NAME, record + b"\0", where="f")


def test_another_name_key_or_file_is_told_apart() -> None:
    record = seal(KEY, NAME, b"private")
    with pytest.raises(BrokenSealError, match="swapped"):
        unseal([KEY], "run-1/node-0-of-1/vectors/8", record, where="f")
    with pytest.raises(BrokenSealError, match="another device"):
        unseal([DataKey.new()], NAME, record, where="f")
    with pytest.raises(BrokenSealError, match="not a sealed record"):
        unseal([KEY], NAME, b"something else", where="f")
    with pytest.raises(BrokenSealError, match="changed or damaged"):
        unseal([DataKey(KEY.id, bytes(32))], NAME, record, where="f")


def test_the_name_is_authenticated_and_not_only_compared() -> None:
    """A record renamed inside as well does not open."""
    record = seal(KEY, NAME, b"private").replace(NAME.encode(), NAME.encode()[:-1] + b"8")
    with pytest.raises(BrokenSealError, match="changed or damaged"):
        unseal([KEY], NAME[:-1] + "8", record, where="f")
    start = 36 + len(NAME)
    with pytest.raises(InvalidTag):
        AESGCM(KEY.secret).decrypt(record[start : start + 12], record[start + 12 :], record[:start])


def test_nonces_do_not_repeat() -> None:
    start = 36 + len(NAME)
    nonces = {seal(KEY, NAME, b"same")[start : start + 12] for _ in range(10_000)}
    assert len(nonces) == 10_000


def test_keys_are_not_shown() -> None:
    key = DataKey.new()
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(key)
    assert DataKey.new().secret != key.secret
