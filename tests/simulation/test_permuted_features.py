"""The control without content: every item has another one's features, and nothing else is changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_shop import ITEMS, tiny_run, write_tiny_shop

from mmfed.config import FeaturesSection, build_config
from mmfed.data.load import load_shop
from mmfed.data.schema import Catalogue, Features
from mmfed.encoders.store import FeatureSet, catalogue_features
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.workspace import load_workspace
from mmfed.simulation.run import simulate

BOTH = ('features.modalities=["attributes", "image"]', "features.image.dimensions=none", "features.image.whiten=false")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """The tiny shop's, with picture numbers that every third item lacks."""
    folder = tmp_path_factory.mktemp("permuted")
    write_tiny_shop(folder / "shop")
    shop = load_shop(tiny_run(folder).data, seed=0)
    values = np.random.default_rng(0).normal(size=(ITEMS, 4)).astype(np.float32)
    present = np.arange(ITEMS) % 3 > 0
    return replace(shop.catalogue, features={"image": Features(np.where(present[:, None], values, 0), present)})


def section(*more: str, permuted: bool) -> FeaturesSection:
    return build_config({}, [*BOTH, f"features.permuted={str(permuted).lower()}", *more]).features


def rows(features: FeatureSet) -> np.ndarray:
    """[items, columns] everything an item has, values and presence of all modalities side by side."""
    return np.concatenate(
        [part for one in features.modalities.values() for part in (one.values, one.present[:, None])], axis=1
    )


def in_order(matrix: np.ndarray) -> np.ndarray:
    return matrix[np.lexsort(matrix.T)]


@pytest.fixture(scope="module")
def plain(catalogue: Catalogue) -> FeatureSet:
    return catalogue_features(catalogue, section(permuted=False))


@pytest.fixture(scope="module")
def permuted(catalogue: Catalogue) -> FeatureSet:
    return catalogue_features(catalogue, section(permuted=True))


def test_the_same_rows_in_another_order(plain: FeatureSet, permuted: FeatureSet) -> None:
    """Values, presence and modalities of an item travel together."""
    assert list(permuted.modalities) == list(plain.modalities) == ["attributes", "image"]
    assert np.array_equal(in_order(rows(permuted)), in_order(rows(plain)))
    assert not np.array_equal(rows(permuted), rows(plain))


def test_presence_travels_with_its_values(plain: FeatureSet, permuted: FeatureSet) -> None:
    image = permuted.modalities["image"]
    assert image.present.sum() == plain.modalities["image"].present.sum() == 20
    assert not np.array_equal(image.present, plain.modalities["image"].present)
    assert np.array_equal(image.values.any(axis=1), image.present)


def test_almost_no_item_keeps_its_own(plain: FeatureSet, permuted: FeatureSet) -> None:
    own = plain.modalities["attributes"].values
    kept = (permuted.modalities["attributes"].values == own).all(axis=1)
    assert kept.mean() < 0.2


def test_every_party_permutes_alike(catalogue: Catalogue, permuted: FeatureSet) -> None:
    again = catalogue_features(catalogue, section(permuted=True))
    assert np.array_equal(rows(again), rows(permuted))
    assert again.digest == permuted.digest


def test_parties_with_and_without_it_have_other_digests(plain: FeatureSet, permuted: FeatureSet) -> None:
    assert permuted.digest != plain.digest


def test_it_is_said(plain: FeatureSet, permuted: FeatureSet) -> None:
    assert [note for note in permuted.notes if note not in plain.notes] == [
        "the features are permuted among the items: a control without content."
    ]


@pytest.mark.parametrize("modality", ["image", "text", "attributes", "audio", "video"])
def test_raw_inputs_are_refused(modality: str) -> None:
    settings = [f'features.modalities=["{modality}"]', "features.permuted=true", f"features.{modality}.training=full"]
    with pytest.raises(MmfedError, match="permutes frozen features only") as fault:
        build_config({}, settings)
    assert fault.value.code is ExitCode.CONFIG
    assert build_config({}, [*settings, "features.permuted=false"])


def test_a_transformer_that_reads_words_is_refused() -> None:
    lora = ["features.text.training=adapter", "features.text.network=lora"]
    with pytest.raises(MmfedError, match="permutes frozen features only"):
        build_config({}, ["features.permuted=true", *lora])
    assert build_config({}, lora)


@pytest.mark.parametrize("scope", ["shared", "private"])
def test_an_adapter_reads_the_permuted_rows(shop_folder: Path, tmp_path: Path, scope: str) -> None:
    adapted = ("features.attributes.training=adapter", f"features.attributes.scope={scope}")
    one, other = (
        load_workspace(tiny_run(shop_folder, *adapted, f"features.permuted={permuted}", f"run.folder={tmp_path}"))
        for permuted in ("true", "false")
    )
    assert np.array_equal(one.item_features.values[0].numpy(), one.features.modalities["attributes"].values)
    assert not np.array_equal(one.item_features.values[0].numpy(), other.item_features.values[0].numpy())


@pytest.mark.parametrize("items", [0, 1, 2])
def test_small_catalogues(catalogue: Catalogue, items: int) -> None:
    image = catalogue.features["image"]
    few = replace(
        catalogue,
        item_ids=catalogue.item_ids[1 : 1 + items],
        features={"image": Features(image.values[1 : 1 + items], image.present[1 : 1 + items])},
    )
    settings = build_config({}, ['features.modalities=["image"]', *BOTH[1:], "features.permuted=true"]).features
    found = catalogue_features(few, settings).modalities
    if items:
        assert np.array_equal(in_order(found["image"].values), in_order(image.values[1 : 1 + items]))


def test_without_any_content_there_is_nothing_to_permute(shop_folder: Path, tmp_path: Path) -> None:
    config = tiny_run(shop_folder, "features.modalities=[]", "features.permuted=true", f"run.folder={tmp_path}")
    assert load_workspace(config).features.modalities == {}


def test_a_run_whose_seed_differs_has_the_same_control_and_says_so(shop_folder: Path, tmp_path: Path) -> None:
    seen = []
    for seed in (0, 1):
        control = ("features.permuted=true", "privacy.mode=none", "federation.rounds=1", f"run.seed={seed}")
        config = tiny_run(shop_folder, *control, f"run.name=seed{seed}", f"run.folder={tmp_path}")
        result = simulate(config)
        assert any("a control without content" in note for note in result.results["notes"])
        seen.append(load_workspace(config).features.digest)
    assert seen[0] == seen[1]
