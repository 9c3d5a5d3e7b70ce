import os

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.keys import load_or_create_key, public_key_hex


def test_key_is_made_once_private_and_whole(tmp_path):
    path = tmp_path / "keys" / "ledger.pem"
    first = load_or_create_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_key_hex(load_or_create_key(path)) == public_key_hex(first)
    assert [p.name for p in path.parent.iterdir()] == ["ledger.pem"]
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert public_key_hex(load_or_create_key(tmp_path / "other.pem")) != public_key_hex(first)


def test_key_that_others_may_read_is_refused(tmp_path):
    path = tmp_path / "ledger.pem"
    load_or_create_key(path)
    os.chmod(path, 0o644)
    with pytest.raises(MmfedError, match="others may read") as caught:
        load_or_create_key(path)
    assert "chmod 600" in caught.value.fix


def test_anything_else_in_the_file_is_refused_and_kept(tmp_path):
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for content in (b"", b"garbage", bytes(range(256)), other):
        path = tmp_path / "ledger.pem"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(MmfedError, match="not an unencrypted ed25519 key") as caught:
            load_or_create_key(path)
        assert caught.value.code == ExitCode.STORAGE
        assert path.read_bytes() == content
