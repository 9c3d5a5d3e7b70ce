"""The one-shot round: every device's item co-occurrence, summed once before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.serverapp import Grid

from mmfed.config import Config
from mmfed.data.schema import Catalogue, Features
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import tasks
from mmfed.federated.one_shot_check import check_one_shot_reply
from mmfed.federated.one_shot_sum import FILE, OneShotSum, load_one_shot
from mmfed.federated.one_shot_terms import ROUND, check_one_shot, covered_items, one_shot_shapes
from mmfed.federated.sum_of_nodes import sum_of_nodes
from mmfed.models.band_ease import BandEase
from mmfed.models.base import Recommender
from mmfed.models.content_kernel import content_kernel
from mmfed.models.denoise import content_columns, denoised_popularity
from mmfed.models.gcn import GraphConvolution
from mmfed.models.noised_ease import NoisedPairs, most_popular, noised_ease
from mmfed.records import RunFolder
from mmfed.types import FloatArray, IntArray

__all__ = ["FILE", "OneShotRound", "check_one_shot", "collect_one_shot", "load_one_shot", "teacher_of"]

RIDGE, RIDGE_UNDER_NOISE = 2.0, 10.0  # users


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

    def task(self, users: IntArray, items: IntArray | None, noise_multiplier: float = 0.0) -> tasks.Task:
        """What a node is asked: one of the sums, over some of its users."""
        return tasks.Task(
            config=self.config,
            run_id=self.run_id,
            population=self.population,
            noise_multiplier=noise_multiplier,
            catalogue=self.catalogue,
            round_number=ROUND,
            users=users,
            items=items,
        )

    def total(self, items: IntArray | None = None, *, noise_multiplier: float = 0.0) -> tuple[FloatArray, int]:
        """The sum that was asked for over the users that answered, and how many these are.

        Every user adds norm 1; a node whose sum its users cannot have made is left out: by its norm and,
        where they add no noise, entry by entry (``one_shot_check``).

        Args:
            items: under noise: whose co-occurrence is asked for; None: popularity.
            noise_multiplier: that every device adds to its own vector; 0 where it adds none.

        Raises:
            MmfedError: no node answers.
        """
        shapes = one_shot_shapes(self.config, self.item_count, items)
        (name,) = shapes
        asked = {node: self.task(users, items, noise_multiplier) for node, users in self.nodes.items()}
        check = partial(check_one_shot_reply, name, size=self.item_count if items is None else len(items))
        return sum_of_nodes(
            self.grid,
            tasks.ONE_SHOT,
            asked,
            shapes,
            timeout=self.config.federation.round_timeout,
            purpose="one-shot round",
            check=None if noise_multiplier else check,  # noise may be negative anywhere
            noise=noise_multiplier,
        )


class Releases(Protocol):
    """A privacy mode's way to the two sums with their noise; whatever it gives was charged first."""

    @property
    def pairs(self) -> bool:
        """Whether there is budget for the co-occurrence."""
        ...

    def check_charged(self, kept: OneShotSum) -> None:
        """Refuse sums that the run's ledger was not charged for."""
        ...

    def released(self, asked: OneShotRound, covered: IntArray | None) -> OneShotSum:
        """Popularity (None), or the co-occurrence of some items."""
        ...


def collect_one_shot(
    asked: OneShotRound,
    run: RunFolder,
    key: Ed25519PrivateKey,
    *,
    release: Releases | None = None,
    features: Mapping[str, Features] | None = None,
) -> OneShotSum:
    """The sums over all users; each asked for once and kept in the run folder.

    Under noise popularity comes first: the co-occurrence is then asked for the most popular items alone (by the
    released counts, which is post-processing), so that everybody's norm of 1 is spent where there is something to see.

    Args:
        release: gets the sums with their noise, charged; must be there in a mode that promises privacy, and only there.
        features: of the catalogue, public; used under noise.

    Raises:
        MmfedError: see ``check_one_shot`` and the release; or no node answers.
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
            total, _ = asked.total()
            kept = OneShotSum(items, {"cooccurrence": total}, np.arange(items))
            kept.save(run, key)
        return kept
    if kept is None:
        kept = release.released(asked, None)
        kept.save(run, key)
    release.check_charged(kept)
    if release.pairs and "cooccurrence" not in kept.vectors:
        counts = _counts(kept, content_columns(features or {}, items))
        covered = most_popular(counts, covered_items(config, items))
        kept = kept.joined(release.released(asked, covered))
        kept.save(run, key)
    return kept


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
