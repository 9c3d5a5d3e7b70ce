"""Shops in which one named modality alone tells what comes next.

Every item has one of six styles, which only the planted modality shows; the other modalities are noise of the same
width. Half of the items are cold: nobody touches them in training, and all test items are cold. Ids are off. A model
that does not see the planted modality therefore knows nothing about a test item that tells it from another cold one
(cold items are exchangeable), and ranks it among them by chance: recall@10 is 10 / 60 on average over shops, whatever
the model. That is the exact bound the tests rest on; a rank in the whole catalogue would mix in how far cold items lie
behind warm ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mmfed.config import Config, build_config
from mmfed.data.schema import Action, Catalogue, Features, Interactions, Shop, group_by_user
from mmfed.data.split import TEST, TRAIN, split_shop
from mmfed.encoders.store import catalogue_features
from mmfed.federated.optimiser import ServerOptimiser
from mmfed.federated.workspace import Workspace
from mmfed.models.base import Recommender
from mmfed.models.scoring import ModelScorer
from mmfed.rng import numpy_generator
from mmfed.simulation.assess import assess, assess_ratings
from mmfed.training.cohort import train_cohort
from mmfed.training.update import LocalWork
from mmfed.types import BoolArray, FloatArray, IntArray

MODALITIES = ("image", "text", "attributes", "audio", "video")
STYLES, ITEMS, USERS, WIDTH = 6, 120, 120, 8
HISTORY, WANDERING, BLUR = 8, 0.05, 0.25
RATED, RATED_IN_TEST, RATING_NOISE = 12, 3, 0.5
# Scattered, so that features or scores that slip by a row say nothing.
_PLACE = numpy_generator(0, "planted styles").permutation(ITEMS)
STYLE = _PLACE % STYLES
COLD = (_PLACE // STYLES) % 2 == 1
CHANCE = 10 / int(COLD.sum())


def modalities_beside(planted: str, model: str) -> tuple[str, ...]:
    """The planted modality and the two after it, which are noise.

    ``mtmf`` computes the user from attributes alone where there are any, so for it they are there only when planted.
    """
    start = MODALITIES.index(planted)
    others = [MODALITIES[(start + step) % len(MODALITIES)] for step in range(1, len(MODALITIES))]
    return (planted, *[name for name in others if model != "mtmf" or name != "attributes"][:2])


def planted_config(model: str, modalities: Sequence[str], *overrides: str, seed: int = 0) -> Config:
    """A run on the numbers as they are, without item ids and without privacy."""
    names = ", ".join(f'"{name}"' for name in modalities)
    raw = [f"features.{name}.{key}" for name in modalities for key in ("dimensions=none", "whiten=false")]
    fixed = [
        f"run.seed={seed}",
        f"features.modalities=[{names}]",
        "data.split.kind=given",
        f"model.name={model}",
        "model.dimensions=16",
        "model.item_ids=false",
        "training.history_dropout=0",
        "training.negatives=24",
        "federation.server_optimiser.learning_rate=0.08",
        "privacy.mode=none",
        "evaluation.k=[10]",
        "evaluation.bootstrap=0",
    ]
    return build_config({}, [*raw, *fixed, *overrides])


def planted_workspace(config: Config, *, signal: bool = True) -> Workspace:
    """A workspace in which ``config.features.modalities[0]`` is planted.

    Args:
        signal: False deals the planted modality's rows out to other items: the same numbers, saying nothing.
    """
    seed = config.run.seed
    catalogue = Catalogue(
        item_ids=tuple(f"i{item}" for item in range(ITEMS)),
        titles=(None,) * ITEMS,
        texts=(None,) * ITEMS,
        images=(None,) * ITEMS,
        prices=np.full(ITEMS, np.nan, dtype=np.float32),
        features=planted_features(config.features.modalities, seed=seed, signal=signal),
    )
    rows = rated_rows if config.training.objective == "mse" else walked_rows
    interactions, parts = rows(seed, config.features.modalities[0])
    shop = Shop("planted", catalogue, interactions, parts=parts)
    split = split_shop(shop, config.data.split)
    return Workspace(config, shop, split, catalogue_features(catalogue, config.features))


def write_planted_shop(folder: Path, modalities: Sequence[str], *, seed: int = 0) -> Path:
    """The same shop as files that ``data.source = "mmrec"`` reads; it has no place for attributes as numbers."""
    folder.mkdir(parents=True)
    interactions, parts = walked_rows(seed, modalities[0])
    rows = zip(interactions.user_of_row(), interactions.items, interactions.times, parts, strict=True)
    lines = ["userID\titemID\ttimestamp\tx_label", *("\t".join(str(number) for number in row) for row in rows)]
    (folder / "planted.inter").write_text("\n".join(lines), encoding="utf-8")
    for name, one in planted_features(modalities, seed=seed, signal=True).items():
        np.save(folder / f"{name}_feat.npy", one.values)
    return folder


def planted_features(modalities: Sequence[str], *, seed: int, signal: bool) -> dict[str, Features]:
    """The first modality shows an item's style, one of six orthogonal directions, blurred; the others are noise."""
    generator = numpy_generator(seed, "planted features", modalities[0])
    directions = np.linalg.qr(generator.normal(size=(WIDTH, WIDTH)))[0][:STYLES] * WIDTH**0.5
    values = {name: generator.normal(size=(ITEMS, WIDTH)) for name in modalities}
    shown = directions[STYLE] + BLUR * values[modalities[0]]
    values[modalities[0]] = shown if signal else shown[generator.permutation(ITEMS)]
    everything = np.ones(ITEMS, dtype=bool)
    return {name: Features(one.astype(np.float32), everything) for name, one in values.items()}


def walked_rows(seed: int, planted: str) -> tuple[Interactions, IntArray]:
    """Everybody walks through the styles in a ring, style s being followed by s + 1, and now and then strays.

    Similarity is no help: what resembles the history least is what comes next. A model has to learn the step, and an
    untrained one, which starts by recommending more of the same, stays at or below chance.
    """
    generator = numpy_generator(seed, "planted histories", planted)
    users, items, parts = [], [], []
    for user in range(USERS):
        style, known = int(generator.integers(STYLES)), []
        for _ in range(HISTORY):
            shown = int(generator.integers(STYLES)) if generator.random() < WANDERING else style
            known.append(_drawn(generator, (shown == STYLE) & ~COLD & ~np.isin(np.arange(ITEMS), known)))
            style = (style + 1) % STYLES
        items += [*known, _drawn(generator, (style == STYLE) & COLD)]
        users += [user] * (HISTORY + 1)
        parts += [TRAIN] * HISTORY + [TEST]
    return _packed(users, items, parts, None)


def rated_rows(seed: int, planted: str) -> tuple[Interactions, IntArray]:
    """Everybody loves three styles and dislikes three: 4.5 or 1.5 points, and noise.

    Nobody and no item is rated better than another on average, so neither a person's nor an item's mean says anything:
    without the planted modality no expectation is better than 3 points for all.
    """
    generator = numpy_generator(seed, "planted ratings", planted)
    users, items, parts, values = [], [], [], []
    for user in range(USERS):
        liked = generator.permutation(np.repeat([1.5, -1.5], STYLES // 2))
        styles = generator.permutation(np.arange(RATED) % STYLES)
        known: list[int] = []
        for style in styles:
            known.append(_drawn(generator, (style == STYLE) & ~COLD & ~np.isin(np.arange(ITEMS), known)))
        known += generator.permutation(np.flatnonzero(COLD))[:RATED_IN_TEST].tolist()
        points = 3 + liked[STYLE[known]] + RATING_NOISE * generator.normal(size=len(known))
        users += [user] * len(known)
        items += known
        parts += [TRAIN] * RATED + [TEST] * RATED_IN_TEST
        values += np.clip(points, 1, 5).tolist()
    return _packed(users, items, parts, values)


def shuffled(workspace: Workspace) -> Workspace:
    """The same shop whose training labels are dealt out anew over all people: items, or ratings where there are any.

    Every item keeps its popularity (the ratings their distribution), every history its length.
    """
    train = workspace.split.train
    order = numpy_generator(workspace.config.run.seed, "shuffled labels").permutation(len(train))
    if workspace.config.training.objective == "mse":
        train = replace(train, values=train.values[order])
    else:
        train = replace(train, items=train.items[order])
    return replace(workspace, split=replace(workspace.split, train=train))


def trained(workspace: Workspace, rounds: int) -> Recommender:
    """A new model after federated rounds with everybody in the cohort: local training, mean, server optimiser."""
    config, model = workspace.config, workspace.new_model()
    shared = model.shared_parameters()
    optimiser = ServerOptimiser(config.federation.server_optimiser, global_second_moment=False)
    for number in range(1, rounds + 1):
        work = LocalWork(training=config.training, privacy=config.privacy, seed=config.run.seed, round_number=number)
        vectors = torch.zeros(len(workspace.histories), model.private_dimensions)
        update = train_cohort(model, workspace.histories, vectors, work)
        mean = {name: value / update.realised for name, value in update.total.items()}
        stepped = optimiser.step({name: value.detach() for name, value in shared.items()}, mean)
        with torch.no_grad():
            for name, value in shared.items():
                value.copy_(stepped[name])
    return model


def cold_recall(workspace: Workspace, model: Recommender, *, hidden: Sequence[str] = ()) -> float:
    """Recall@10 of the test items among all cold items, told from the true training histories."""
    scorer = ModelScorer(model, workspace.split.before_test, hidden=hidden)
    return assess(workspace, scorer)["cold_start_recall_among_cold@10"]


def rating_error(workspace: Workspace, model: Recommender) -> float:
    """Mean squared error of the ratings of cold items, points²."""
    return assess_ratings(workspace, ModelScorer(model, workspace.split.before_test).ratings)["mse"]


def rating_variance(workspace: Workspace) -> float:
    """Error of the middle of the range for everything: the least to expect without the planted modality, points²."""
    return float(np.square(workspace.split.test.values - 3).mean())


def _drawn(generator: np.random.Generator, among: BoolArray) -> int:
    return int(generator.choice(np.flatnonzero(among)))


def _packed(
    users: list[int], items: list[int], parts: list[int], values: list[float] | None
) -> tuple[Interactions, IntArray]:
    count = len(users)
    points: FloatArray = np.full(count, np.nan) if values is None else np.array(values)
    interactions = group_by_user(
        user_ids=[f"u{user}" for user in range(USERS)],
        users=np.array(users),
        items=np.array(items),
        times=np.arange(count),
        actions=np.full(count, Action.VIEW if values is None else Action.RATE),
        values=points,
        item_count=ITEMS,
    )
    return interactions, np.array(parts, dtype=np.int8)
