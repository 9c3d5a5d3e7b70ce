"""Durable files: whole or as before, whatever the disk says."""

from __future__ import annotations

import errno
import json
import os
import resource
from contextlib import contextmanager

import pytest

from mmfed.errors import ExitCode, MmfedError
from mmfed.records import append_line, atomic_file, read_lines, sha256_file, write_bytes, write_json, write_text


@contextmanager
def file_size_limit(size: int):
    """The kernel refuses to let any file of this process grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def no_space(monkeypatch, call: str):
    def refuse(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse)
        yield


def assert_untouched(path, content, fault):
    assert fault.value.code is ExitCode.STORAGE
    assert str(path) in fault.value.message
    assert "--resume" in fault.value.fix
    assert path.read_bytes() == content
    assert [one.name for one in path.parent.iterdir()] == [path.name], "no temporary file is left"


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "deep" / "down" / "file.json"
    write_json(path, {"a": [1, None, "é"]})
    assert json.loads(path.read_text()) == {"a": [1, None, "é"]}
    assert path.stat().st_mode & 0o777 == 0o644
    assert len(sha256_file(path)) == 64


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x", {"a": float("nan")})
    assert not (tmp_path / "x").exists()


def test_a_file_too_large_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with file_size_limit(1000), pytest.raises(MmfedError) as fault:
        write_bytes(path, bytes(5000))
    assert_untouched(path, b"old", fault)


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_full_disk_leaves_the_old_one(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_text(path, "old")
    with no_space(monkeypatch, call), pytest.raises(MmfedError) as fault:
        write_text(path, "new")
    assert_untouched(path, b"old", fault)
    write_text(path, "new")
    assert path.read_text() == "new"


def _interrupted_write(path):
    with atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_an_interruption_leaves_the_old_one(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt):
        _interrupted_write(path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    for write in (lambda: write_text(tmp_path / "file" / "y", "z"), lambda: append_line(tmp_path / "file" / "y", {})):
        with pytest.raises(MmfedError) as fault:
            write()
        assert fault.value.code is ExitCode.STORAGE


def test_lines_come_back_in_order(tmp_path):
    path = tmp_path / "a" / "lines.jsonl"
    assert read_lines(path) == []
    records = [{"round": number, "text": "é\n"} for number in range(5)]
    for record in records:
        append_line(path, record)
    assert read_lines(path) == records


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_left_out(tmp_path, cut):
    path = tmp_path / "lines.jsonl"
    for number in range(3):
        append_line(path, {"round": number, "text": "abcdefgh"})
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_lines(path) == [{"round": number, "text": "abcdefgh"} for number in range(2)]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(MmfedError, match="line 2") as fault:
        read_lines(path)
    assert fault.value.code is ExitCode.STORAGE


def test_a_line_that_does_not_fit_loses_no_earlier_one(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_line(path, {"round": 1})
    with file_size_limit(100), pytest.raises(MmfedError):
        append_line(path, {"text": "x" * 500})
    assert read_lines(path) == [{"round": 1}]
