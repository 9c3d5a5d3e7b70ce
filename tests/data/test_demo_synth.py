"""The demo shop as files: the same bytes, the whole folder or none, readable by the table source."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mmfed.data.demo import load_demo
from mmfed.data.demo_synth import synthesise
from mmfed.data.sources.table import load_table
from mmfed.errors import ExitCode, MmfedError


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_files_hold_the_shop_in_memory(tmp_path: Path) -> None:
    synthesise(tmp_path / "shop", users=150, seed=3)
    read, made = load_table(tmp_path / "shop"), load_demo(150, 3)
    assert read.notes == ()
    assert list(read.interactions.user_ids) == list(made.interactions.user_ids)
    for column in ("indptr", "items", "times", "actions", "values"):
        np.testing.assert_array_equal(getattr(read.interactions, column), getattr(made.interactions, column))
    for column in ("item_ids", "titles", "texts"):
        assert getattr(read.catalogue, column) == getattr(made.catalogue, column)
    np.testing.assert_array_equal(read.catalogue.prices, made.catalogue.prices)
    assert all(path is not None and path.is_file() for path in read.catalogue.images)


def test_same_seed_same_bytes_whatever_the_chunk(tmp_path: Path) -> None:
    synthesise(tmp_path / "a", users=500, seed=0)
    synthesise(tmp_path / "b", users=500, seed=0, chunk=61)
    synthesise(tmp_path / "c", users=500, seed=1)
    first, again, other = (digests(tmp_path / name) for name in "abc")
    assert first == again
    assert {name for name in first if first[name] != other[name]} == {"interactions.parquet"}


def test_licences_travel_with_the_pictures(tmp_path: Path) -> None:
    synthesise(tmp_path / "shop", users=5, seed=0, items=40)
    assert {"NOTICE", "LICENSE.clothing", "LICENSE.grocery"} <= set(digests(tmp_path / "shop"))
    assert len(list((tmp_path / "shop" / "media").iterdir())) == 40


@pytest.mark.parametrize("items", [10, 1000])
def test_other_catalogue_sizes(tmp_path: Path, items: int) -> None:
    synthesise(tmp_path / "shop", users=300, seed=0, items=items)
    shop = load_table(tmp_path / "shop")
    assert shop.catalogue.size == items
    assert shop.interactions.user_count == 300
    assert len(np.unique(shop.interactions.items)) > 0.6 * items


def test_progress_counts_up_to_the_end(tmp_path: Path) -> None:
    seen: list[int] = []
    synthesise(tmp_path / "shop", users=100, seed=0, chunk=40, progress=seen.append)
    assert seen == [40, 80, 100]


def test_an_empty_folder_is_taken_a_full_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    synthesise(tmp_path / "shop", users=5, seed=0, items=10)
    before = digests(tmp_path / "shop")
    with pytest.raises(MmfedError, match=r"not empty") as caught:
        synthesise(tmp_path / "shop", users=6, seed=0, items=10)
    assert caught.value.code == ExitCode.DATA
    assert digests(tmp_path / "shop") == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(MmfedError, match=r"is a file"):
        synthesise(tmp_path / "file", users=5, seed=0)


@pytest.mark.parametrize(("users", "items"), [(0, None), (-1, None), (5, 3)])
def test_sizes_out_of_range(tmp_path: Path, users: int, items: int | None) -> None:
    with pytest.raises(MmfedError, match=r"cannot have"):
        synthesise(tmp_path / "shop", users=users, seed=0, items=items)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(done: int) -> None:
        if done > 50:
            raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        synthesise(tmp_path / "shop", users=200, seed=0, chunk=25, progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_refusing_disk_is_a_fault_with_a_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise pl.exceptions.ComputeError("No space left on device (os error 28)")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", refuse)
    with pytest.raises(MmfedError, match=r"No space left") as caught:
        synthesise(tmp_path / "shop", users=5, seed=0, items=10)
    assert caught.value.code == ExitCode.STORAGE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_leaves_no_half_shop(tmp_path: Path, how: signal.Signals) -> None:
    program = (
        "import sys; from pathlib import Path; from mmfed.data.demo_synth import synthesise;"
        "synthesise(Path(sys.argv[1]), users=20_000_000, seed=0, progress=lambda n: sys.stdout.write('.\\n'))"
    )
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", program, str(tmp_path / "shop")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(how)
        deadline = time.monotonic() + 20
        while child.poll() is None and time.monotonic() < deadline:
            child.stdout.readline()
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    assert child.returncode not in (0, None)
    assert not (tmp_path / "shop").exists()
    if how == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []
