"""DiffMM and MMRec folders: given splits, float16 features, and what can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmfed.config import DataSection, SplitSection
from mmfed.data.load import load_shop
from mmfed.data.schema import Shop
from mmfed.data.split import split_shop
from mmfed.errors import ExitCode, MmfedError

GIVEN = SplitSection.model_validate({"kind": "given"})


def load(folder: Path, **values: object) -> Shop:
    return load_shop(DataSection.model_validate({"source": "mmrec", "path": folder, **values}), seed=0)


@pytest.fixture
def diffmm(tmp_path: Path) -> Path:
    (tmp_path / "train.txt").write_text("2 0\n0 3\n0 1\n")
    (tmp_path / "valid.txt").write_text("0 2\n")
    (tmp_path / "test.txt").write_text("2 3\n0 0\n")
    np.save(tmp_path / "image_feat.npy", np.arange(10, dtype=np.float16).reshape(5, 2))
    return tmp_path


INTER = "userID\titemID\trating\ttimestamp\tx_label\n" + (
    "0\t1\t5.0\t1300000002\t2\n1\t0\t4.0\t1300000005\t0\n0\t0\t3.0\t1300000001\t0\n"
)


@pytest.fixture
def mmrec(tmp_path: Path) -> Path:
    (tmp_path / "baby.inter").write_text(INTER)
    return tmp_path


def test_a_diffmm_folder(diffmm: Path) -> None:
    shop = load(diffmm)
    assert (shop.interactions.user_ids, shop.catalogue.size) == (
        ["0", "2"],
        5,
    )  # user 1 has no rows, item 4 only features
    assert not shop.interactions.times.any()
    split = split_shop(shop, GIVEN)
    assert [(p.user_of_row().tolist(), p.items.tolist()) for p in (split.train, split.validation, split.test)] == [
        ([0, 0, 1], [3, 1, 0]),
        ([0], [2]),
        ([0, 1], [0, 3]),
    ]
    image = shop.catalogue.features["image"]
    assert image.values.dtype == np.float32
    assert image.present.all()


def test_features_that_are_not_numbers_count_as_missing(diffmm: Path) -> None:
    values = np.ones((4, 3), dtype=np.float16)
    values[2, 1] = np.nan
    np.save(diffmm / "image_feat.npy", values)
    image = load(diffmm).catalogue.features["image"]
    assert image.present.tolist() == [True, True, False, True]
    assert np.isfinite(image.values).all()


def test_an_mmrec_folder_has_times_and_a_split(mmrec: Path) -> None:
    shop = load(mmrec)
    assert shop.interactions.times.tolist() == [1300000001, 1300000002, 1300000005]
    assert shop.interactions.values.tolist() == [3, 5, 4]
    assert shop.parts is not None
    assert shop.parts.tolist() == [0, 2, 0]
    assert len(split_shop(shop, SplitSection.model_validate({"kind": "global-time"})).test) == 1


def test_an_mmrec_table_without_labels_has_no_given_split(mmrec: Path) -> None:
    (mmrec / "baby.inter").write_text("userID\titemID\n0\t1\n")
    shop = load(mmrec)
    assert shop.parts is None
    with pytest.raises(MmfedError, match="came without a split"):
        split_shop(shop, GIVEN)


def test_first_users_keep_their_part_of_the_split(diffmm: Path) -> None:
    split = split_shop(load(diffmm, users=1), GIVEN)
    assert [part.items.tolist() for part in (split.train, split.validation, split.test)] == [[3, 1], [2], [0]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("valid.txt", None, "valid.txt: cannot be read"),
        ("test.txt", b"", "test.txt: the file is empty"),
        ("train.txt", b"0 1\n0\n", "train.txt: row 2 is not 'user item'"),
        ("train.txt", b"0 1\n0 -1\n", "train.txt: row 2 is not 'user item'"),
        ("train.txt", b"0 1\na b\n", "train.txt: row 2 is not 'user item'"),
        ("train.txt", b"0 1\n0 99999999999999999999\n", "train.txt: row 2 is not 'user item'"),
        ("train.txt", b"0 999999999\n", "the numbers do not run from 0 on"),
        ("train.txt", b"0 1\n\xff 1\n", "train.txt: byte 5 is not UTF-8"),
        ("image_feat.npy", b"", "image_feat.npy: is not a readable NumPy array"),
        ("image_feat.npy", b"\x80\x04K\x01.", "image_feat.npy: is not a readable NumPy array"),
    ],
)
def test_faults_are_named(diffmm: Path, name: str, content: bytes | None, message: str) -> None:
    (diffmm / name).unlink() if content is None else (diffmm / name).write_bytes(content)
    with pytest.raises(MmfedError) as caught:
        load(diffmm)
    assert caught.value.code is ExitCode.DATA
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 2), dtype=np.float32), "holds 3 rows for 4 items"),
        (np.ones(4, dtype=np.float32), "not floating numbers"),
        (np.ones((4, 2), dtype=np.int64), "not floating numbers"),
    ],
)
def test_features_must_fit(diffmm: Path, array: np.ndarray, message: str) -> None:
    np.save(diffmm / "image_feat.npy", array)
    with pytest.raises(MmfedError, match=message):
        load(diffmm)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("userID", "user", "row 1 has no column userID"),
        ("0\t1\t5.0\t1300000002\t2", "0\t1\t5.0\tnever\t2", "row 2 does not have numbers"),
        ("0\t1\t5.0\t1300000002\t2", "0\t1\t5.0", "row 2 does not have numbers"),
        ("1300000005\t0", "1300000005\t7", "row 3, column x_label"),
        ("1\t0\t4.0", "-1\t0\t4.0", "row 3 does not have numbers"),
    ],
)
def test_faults_of_a_table_are_named(mmrec: Path, old: str, new: str, message: str) -> None:
    (mmrec / "baby.inter").write_text(INTER.replace(old, new, 1))
    with pytest.raises(MmfedError, match=message):
        load(mmrec)


@pytest.mark.parametrize(
    ("name", "users", "items", "sizes"),
    [
        ("diffmm_tiktok", 9308, 6710, (59_541, 3_051, 6_130)),
        ("diffmm_baby", 19_445, 7_050, (118_551, 21_682, 20_559)),
    ],
)
def test_the_real_releases(shared_data: Path, name: str, users: int, items: int, sizes: tuple[int, int, int]) -> None:
    shop = load(shared_data / name)
    assert (shop.interactions.user_count, shop.catalogue.size) == (users, items)
    split = split_shop(shop, GIVEN)
    assert (len(split.train), len(split.validation), len(split.test)) == sizes
    expected = {"image", "audio"} if name == "diffmm_tiktok" else set()
    assert set(shop.catalogue.features) == expected
    assert all(f.values.shape == (6710, 128) and f.values.dtype == np.float32 for f in shop.catalogue.features.values())
    lines = (shared_data / name / "test.txt").read_text().split("\n")[:-1]
    ids = np.array([int(u) for u in split.test.user_ids])[split.test.user_of_row()]
    assert sorted(f"{u} {i}" for u, i in zip(ids, split.test.items, strict=True)) == sorted(lines)
