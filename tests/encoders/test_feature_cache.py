from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mmfed.encoders.cache import CHUNK, cached_features, default_cache
from mmfed.encoders.encoder import Encoded, ItemInputs, text_inputs
from mmfed.errors import ExitCode, MmfedError

SIZE = 3 * CHUNK + 17


class CountingEncoder:
    """Vectors made of each text's hash; texts with 'bad' in them cannot be read."""

    def __init__(self, name: str = "counting", weights: str = "0" * 64, pause: float = 0.0) -> None:
        self.name, self.weights_sha256, self._pause = name, weights, pause
        self.encoded = 0

    def encode(self, inputs: Sequence[str]) -> Encoded:
        time.sleep(self._pause)
        self.encoded += len(inputs)
        seed = self.name + self.weights_sha256
        rows = [np.frombuffer(hashlib.sha256((seed + text).encode()).digest(), dtype=np.uint8) for text in inputs]
        values = np.array(rows, dtype=np.float32)
        present = np.array(["bad" not in text for text in inputs])
        return Encoded(values, present, dict.fromkeys(np.flatnonzero(~present).tolist(), "no sense"))


def inputs(size: int = SIZE) -> ItemInputs[str]:
    titles = [None if n % 10 == 3 else f"bad {n}" if n % 50 == 7 else f"item {n}" for n in range(size)]
    return text_inputs(titles, [None] * size, [f"i{n}" for n in range(size)])


def entry(folder: Path) -> Path:
    (found,) = [path for path in folder.iterdir() if path.is_dir()]
    return found


def test_values_presence_and_reasons_come_back_by_item(tmp_path: Path) -> None:
    found = cached_features(tmp_path, "text", CountingEncoder(), inputs())
    for n in range(SIZE):
        assert found.features.present[n] == (n % 10 != 3 and n % 50 != 7)
    expected = CountingEncoder().encode(["item 200"]).values[0]
    np.testing.assert_array_equal(found.features.values[200], expected.astype(np.float16))
    assert (np.asarray(found.features.values)[~found.features.present] == 0).all()
    assert found.faults == dict.fromkeys(range(7, SIZE, 50), "no sense")
    assert found.features.values.dtype == np.float16
    assert isinstance(found.features.values, np.memmap)


def test_second_run_reads_the_same_bytes_and_encodes_nothing(tmp_path: Path) -> None:
    first = cached_features(tmp_path, "text", CountingEncoder(), inputs())
    before = (entry(tmp_path) / "values.npy").read_bytes()
    encoder = CountingEncoder()
    calls: list[tuple[int, int]] = []
    second = cached_features(tmp_path, "text", encoder, inputs(), lambda done, total: calls.append((done, total)))
    assert encoder.encoded == 0
    assert calls == [(calls[0][1], calls[0][1])]
    assert (entry(tmp_path) / "values.npy").read_bytes() == before
    np.testing.assert_array_equal(first.features.values, second.features.values)
    assert second.faults == first.faults
    assert not second.damaged
    record = json.loads((entry(tmp_path) / "record.json").read_text())
    assert record["shape"] == [SIZE, 32]
    assert record["encoder"] == "counting"
    assert not (entry(tmp_path) / "chunks").exists()


def test_a_run_stopped_in_between_continues(tmp_path: Path) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop(done: int, total: int) -> None:
        if done >= 2 * CHUNK:
            raise Stop

    first = CountingEncoder()
    with pytest.raises(Stop):
        cached_features(tmp_path, "text", first, inputs(), stop)
    assert first.encoded == 2 * CHUNK
    second = CountingEncoder()
    resumed = cached_features(tmp_path, "text", second, inputs())
    assert second.encoded == len(inputs().rows()) - 2 * CHUNK
    whole = cached_features(tmp_path / "whole", "text", CountingEncoder(), inputs())
    assert resumed.features.values.tobytes() == whole.features.values.tobytes()
    assert resumed.faults == whole.faults


@pytest.mark.parametrize("damage", ["truncate", "flip", "junk", "empty"])
def test_a_damaged_chunk_is_made_again(tmp_path: Path, damage: str) -> None:
    def stop(done: int, total: int) -> None:
        if done >= 2 * CHUNK:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path, "text", CountingEncoder(), inputs(), stop)
    chunk = entry(tmp_path) / "chunks" / f"{CHUNK:09d}.safetensors"
    spoil(chunk, damage)
    second = CountingEncoder()
    resumed = cached_features(tmp_path, "text", second, inputs())
    assert second.encoded == len(inputs().rows()) - CHUNK
    whole = cached_features(tmp_path / "whole", "text", CountingEncoder(), inputs())
    assert resumed.features.values.tobytes() == whole.features.values.tobytes()


def spoil(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[-40] ^= 1
        path.write_bytes(data)
    elif damage == "junk":
        path.write_bytes(b"\xff" * 100)
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("name", ["values.npy", "present.npy", "record.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "junk", "empty", "missing"])
def test_damaged_or_tampered_files_are_found_and_made_again(tmp_path: Path, name: str, damage: str) -> None:
    good = cached_features(tmp_path, "text", CountingEncoder(), inputs())
    expected, present = np.array(good.features.values), good.features.present.copy()
    path = entry(tmp_path) / name
    if damage == "missing":
        path.unlink()
    elif damage == "flip" and name == "record.json":
        path.write_text(path.read_text().replace('"items"', '"itemz"'))
    else:
        spoil(path, damage)
    encoder = CountingEncoder()
    again = cached_features(tmp_path, "text", encoder, inputs())
    assert encoder.encoded == len(inputs().rows())
    assert again.damaged == (name != "record.json" or damage != "missing")
    np.testing.assert_array_equal(again.features.values, expected)
    np.testing.assert_array_equal(again.features.present, present)


def test_encoders_weights_and_inputs_do_not_collide(tmp_path: Path) -> None:
    variants = [CountingEncoder("a"), CountingEncoder("b"), CountingEncoder("a", "1" * 64)]
    results = [cached_features(tmp_path, "text", encoder, inputs()).features.values.tobytes() for encoder in variants]
    assert len(set(results)) == 3
    changed = text_inputs(["another"] + [None] * 5, [None] * 6, ["i"] * 6)
    cached_features(tmp_path, "text", CountingEncoder("a"), changed)
    cached_features(tmp_path, "image", CountingEncoder("a"), inputs())
    assert len(list(tmp_path.iterdir())) == 5
    encoder = CountingEncoder("a")
    cached_features(tmp_path, "text", encoder, inputs())
    assert encoder.encoded == 0


def test_the_fingerprint_sees_order_content_and_absence() -> None:
    def fingerprint(*titles: str | None) -> str:
        return text_inputs(titles, [None] * len(titles), ["x"] * len(titles)).fingerprint

    seen = {
        fingerprint("a", "b"),
        fingerprint("b", "a"),
        fingerprint("ab", None),
        fingerprint(None, "ab"),
        fingerprint("a"),
    }
    assert len(seen) == 5
    assert fingerprint(" a ", "b") == fingerprint("a", "b")


def test_writers_at_once_do_the_work_once_and_agree(tmp_path: Path) -> None:
    encoders = [CountingEncoder(pause=0.01) for _ in range(4)]
    results: list[bytes] = []

    def work(encoder: CountingEncoder) -> None:
        results.append(cached_features(tmp_path, "text", encoder, inputs()).features.values.tobytes())

    threads = [threading.Thread(target=work, args=(encoder,)) for encoder in encoders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == 1
    assert sum(encoder.encoded for encoder in encoders) == len(inputs().rows())


def test_vectors_beyond_float16_are_masked_with_a_reason(tmp_path: Path) -> None:
    class Loud(CountingEncoder):
        def encode(self, inputs: Sequence[str]) -> Encoded:
            encoded = super().encode(inputs)
            encoded.values[1] = 1e6
            return encoded

    found = cached_features(tmp_path, "text", Loud(), text_inputs(["a", "b", "c"], [None] * 3, ["x"] * 3))
    np.testing.assert_array_equal(found.features.present, [True, False, True])
    assert found.faults == {1: "vector beyond float16"}
    assert (found.features.values[1] == 0).all()


def test_unusable_folder_names_the_mend(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(MmfedError, match="cache cannot be used") as caught:
        cached_features(blocked / "cache", "text", CountingEncoder(), inputs())
    assert caught.value.code == ExitCode.FEATURES
    assert "features.cache" in caught.value.fix


def test_disk_full_while_encoding_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmfed.records import write_bytes

    def full(path: Path, data: bytes) -> None:
        if path.name.startswith(f"{CHUNK:09d}"):
            raise OSError(28, "No space left on device")
        write_bytes(path, data)

    with monkeypatch.context() as patch:
        patch.setattr("mmfed.encoders.cache.write_bytes", full)
        with pytest.raises(MmfedError, match="No space left"):
            cached_features(tmp_path, "text", CountingEncoder(), inputs())
    second = CountingEncoder()
    cached_features(tmp_path, "text", second, inputs())
    assert second.encoded == len(inputs().rows()) - CHUNK


def test_default_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "mmfed"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "mmfed"


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_feature_cache import CountingEncoder, inputs
from mmfed.encoders.cache import cached_features
encoder = CountingEncoder(pause=float(sys.argv[3]))
cached_features(Path(sys.argv[1]), "text", encoder, inputs(), lambda done, total: print(done, flush=True))
print("encoded", encoder.encoded, flush=True)
"""


def worker(folder: Path, pause: float) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", WORKER, str(folder), here, str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_process_is_continued_by_the_next(tmp_path: Path) -> None:
    first = worker(tmp_path, 1.0)
    assert first.stdout is not None
    assert first.stdout.readline() == f"{CHUNK}\n"
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    second = CountingEncoder()
    resumed = cached_features(tmp_path, "text", second, inputs())
    assert second.encoded == len(inputs().rows()) - CHUNK
    whole = cached_features(tmp_path / "whole", "text", CountingEncoder(), inputs())
    assert resumed.features.values.tobytes() == whole.features.values.tobytes()


@pytest.mark.slow
def test_processes_at_once_do_the_work_once(tmp_path: Path) -> None:
    workers = [worker(tmp_path, 0.2) for _ in range(2)]
    outputs = [process.communicate()[0] for process in workers]
    assert [process.returncode for process in workers] == [0, 0]
    assert sum(int(output.split()[-1]) for output in outputs) == len(inputs().rows())
