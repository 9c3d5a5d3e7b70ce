"""The one-shot round: every device's item co-occurrence, summed once before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.serverapp import Grid

from mmfed.config import Config
from mmfed.data.schema import Catalogue, Features
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import tasks, wire
from mmfed.federated.one_shot_check import check_one_shot_reply
from mmfed.federated.one_shot_sum import FILE, OneShotRelease, OneShotSum, load_one_shot
from mmfed.federated.sum_of_nodes import sum_of_nodes
from mmfed.models.band_ease import BandEase
from mmfed.models.base import Recommender
from mmfed.models.content_kernel import content_kernel
from mmfed.models.denoise import content_columns, denoised_popularity
from mmfed.models.gcn import GraphConvolution
from mmfed.models.noised_ease import NoisedPairs, most_popular, noised_ease
from mmfed.records import RunFolder
from mmfed.training.cooccurrence import packed_size
from mmfed.types import FloatArray, IntArray

__all__ = ["FILE", "OneShotRound", "check_one_shot", "collect_one_shot", "load_one_shot", "teacher_of"]

MOST_ITEMS = 20_000  # the message holds items² / 2 numbers of 8 bytes: 1.6 GB
MOST_NOISED_ITEMS = 10_000  # noise, weights and content hold several matrices of that size
RIDGE, RIDGE_UNDER_NOISE = 2.0, 10.0  # users
ITEMS_UNDER_NOISE = 700


def one_shot_shapes(config: Config, item_count: int, items: IntArray | None) -> wire.Shapes:
    """What a one-shot reply holds: co-occurrence; under noise popularity first, then co-occurrence of some items."""
    if config.privacy.mode == "none":
        return {"cooccurrence": (packed_size(item_count),)}
    return {"popularity": (item_count,)} if items is None else {"cooccurrence": (packed_size(len(items)),)}


def check_one_shot(config: Config, item_count: int) -> None:
    """Refuse what cannot be done.

    Raises:
        MmfedError: a privacy mode without a one-shot release, noise given instead of ε, or too large a catalogue.
    """
    privacy = config.privacy
    if privacy.mode not in ("none", "user-central"):
        raise MmfedError(
            ExitCode.PRIVACY,
            f"one_shot.enabled = true with privacy.mode = {privacy.mode!r}: the one-shot sum has no noise yet there.",
            "set one_shot.enabled = false, or privacy.mode = 'user-central'.",
        )
    if privacy.mode != "none" and (privacy.noise_multiplier is not None or privacy.epsilon is None):
        raise MmfedError(
            ExitCode.PRIVACY,
            "one_shot.enabled = true: its noise is planned from privacy.epsilon, and privacy.noise_multiplier is set.",
            "set privacy.epsilon and leave privacy.noise_multiplier out.",
        )
    most = MOST_ITEMS if privacy.mode == "none" else MOST_NOISED_ITEMS
    if item_count > most:
        raise MmfedError(
            ExitCode.CONFIG,
            f"one_shot.enabled = true: {item_count} items need a message of {packed_size(item_count) * 8 >> 20} MiB.",
            f"set one_shot.enabled = false; with this privacy mode it serves catalogues of at most {most} items.",
        )


@dataclass(frozen=True)
class OneShotRound:
    """Asks every device for its part of a sum, adds up what holds, and leaves out what does not.

    Attributes:
        nodes: user keys by node id.
        catalogue: digest of the catalogue's features.
        item_count: size of the catalogue.
    """

    grid: Grid
    config: Config
    run_id: str
    nodes: Mapping[int, IntArray]
    catalogue: str
    item_count: int

    @property
    def population(self) -> int:
        """Enrolled users."""
        return sum(len(one) for one in self.nodes.values())

    def total(self, items: IntArray | None = None) -> tuple[str, FloatArray, int]:
        """What was asked for, its sum over the users that answered, and how many these are.

        Every user adds norm 1; a node whose sum its users cannot have made is left out (``one_shot_check``).

        Args:
            items: under noise: whose co-occurrence is asked for; None: popularity.

        Raises:
            MmfedError: no node answers.
        """
        shapes = one_shot_shapes(self.config, self.item_count, items)
        asked = {
            node: tasks.Task(
                config=self.config,
                run_id=self.run_id,
                population=self.population,
                noise_multiplier=0.0,
                catalogue=self.catalogue,
                round_number=0,
                users=users,
                items=items,
            )
            for node, users in self.nodes.items()
        }
        (name,) = shapes
        check = partial(check_one_shot_reply, name, size=self.item_count if items is None else len(items))
        timeout = self.config.federation.round_timeout
        total, users_in = sum_of_nodes(
            self.grid, tasks.ONE_SHOT, asked, shapes, timeout=timeout, purpose="one-shot round", check=check
        )
        return name, total, users_in


def collect_one_shot(
    asked: OneShotRound,
    run: RunFolder,
    key: Ed25519PrivateKey,
    *,
    release: OneShotRelease | None = None,
    features: Mapping[str, Features] | None = None,
) -> OneShotSum:
    """The sums over all users; each asked for once and kept in the run folder.

    Under noise popularity comes first: the co-occurrence is then asked for the most popular items alone (by the
    released counts, which is post-processing), so that everybody's norm of 1 is spent where there is something to see.

    Args:
        release: adds the noise and charges for it; must be there in a mode that promises privacy, and only there.
        features: of the catalogue, public; used under noise.

    Raises:
        MmfedError: see ``check_one_shot`` and ``OneShotRelease``; or no node answers.
    """
    config, items = asked.config, asked.item_count
    check_one_shot(config, items)
    if (release is None) != (config.privacy.mode == "none"):
        raise MmfedError(
            ExitCode.PRIVACY, f"privacy.mode = {config.privacy.mode!r} and no release to match.", "report this."
        )
    kept = load_one_shot(run) if (run.checkpoints / FILE).exists() else None
    if release is None:
        if kept is None:
            name, total, _ = asked.total()
            kept = OneShotSum(items, {name: total}, np.arange(items))
            kept.save(run, key)
        return kept
    if kept is None:
        kept = _released(asked, release, None)
        kept.save(run, key)
    release.check_charged(kept)
    if release.pairs and "cooccurrence" not in kept.vectors:
        counts = _counts(kept, content_columns(features or {}, items))
        covered = most_popular(counts, config.one_shot.items or ITEMS_UNDER_NOISE)
        kept = kept.joined(_released(asked, release, covered))
        kept.save(run, key)
    return kept


def _released(asked: OneShotRound, release: OneShotRelease, covered: IntArray | None) -> OneShotSum:
    name, total, realised = asked.total(covered)
    population = asked.population
    vector, noise = release.noised(
        name, total, planned=population, realised=realised, dropouts=population - realised
    )  # fmt: skip
    return OneShotSum(asked.item_count, {name: vector}, np.arange(0) if covered is None else covered, {name: noise})


def _counts(found: OneShotSum, content: FloatArray) -> FloatArray:
    return denoised_popularity(found.vectors["popularity"], found.noise["popularity"], content)


def teacher_of(found: OneShotSum, config: Config, features: Mapping[str, Features], catalogue: Catalogue) -> BandEase:
    """Band-EASE of the sums; what is noised is denoised first, which is post-processing and costs nothing."""
    section = config.one_shot
    if not found.noise:
        return BandEase(found.cooccurrence, ridge=section.ridge or RIDGE, history_decay=section.history_decay)
    content = content_columns(features, found.item_count)
    pairs = None
    if "cooccurrence" in found.vectors:
        pairs = NoisedPairs(found.cooccurrence, found.items, found.noise["cooccurrence"])
    return noised_ease(
        counts=_counts(found, content),
        pairs=pairs,
        content=content,
        kernel=content_kernel(features, catalogue),
        ridge=section.ridge or RIDGE_UNDER_NOISE,
        history_decay=section.history_decay,
        denoising=section.denoising,
    )


def use_one_shot(model: Recommender, teacher: BandEase, config: Config) -> None:
    """Give a model what it takes of the one-shot sum: ``gcn`` its learned graph; others nothing."""
    if isinstance(model, GraphConvolution) and model.learned:
        model.use_learned_graph(teacher.graph(config.model.neighbours))
