"""The score function of a finished run: the model of its chosen round, with band-EASE beside it where asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mmfed.config import Config
from mmfed.data.schema import Interactions
from mmfed.evaluation.ranking import quick_metrics
from mmfed.federated.one_shot import load_one_shot, teacher_of, use_one_shot
from mmfed.federated.progress import chosen_model, load_parameters
from mmfed.federated.workspace import Workspace
from mmfed.models.band_ease import BandEase, standardised
from mmfed.models.base import Recommender
from mmfed.models.own_events import Timelines
from mmfed.models.scoring import ModelScorer
from mmfed.records import RunFolder
from mmfed.types import FloatArray, IntArray

ENSEMBLE_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)
WEIGHT_UNDER_NOISE = 4.0


@dataclass(frozen=True, eq=False)
class RunModel:
    """What a run has learned.

    Attributes:
        model: with the chosen round's parameters.
        round: that round.
        beside: band-EASE of the one-shot sum; None where the run has none.
        weight: of band-EASE's standardised score beside the model's; infinite where the model has learned nothing, and
            band-EASE alone recommends.
    """

    config: Config
    model: Recommender
    round: int
    beside: BandEase | None
    weight: float

    def scorer(
        self,
        history: Interactions,
        vectors: FloatArray | None = None,
        *,
        hidden: tuple[str, ...] = (),
        timelines: Interactions | Timelines | None = None,
        people: IntArray | None = None,
    ) -> RunScorer:
        """Scores of every item given each user's history.

        Args:
            history: what each user did up to the moment of the recommendation.
            vectors: [users, p] private vectors; None for models without.
            hidden: modalities that are treated as missing from every item.
            timelines: the same with own content, which the model alone reads; None for the history.
            people: [users, attributes] what each user says about the own person; None: nothing.
        """
        alone = ModelScorer(
            self.model,
            history if timelines is None else timelines,
            user_vectors=vectors,
            people=people,
            rating_range=self.config.training.rating_range,
            hidden=hidden,
        )
        discount = self.config.evaluation.popularity_discount * self.popularity() if self.discounted else None
        return RunScorer(alone, self.beside if self.weight else None, history, self.weight, discount)

    @property
    def discounted(self) -> bool:
        """Whether lists are re-ranked away from popular items."""
        return self.config.evaluation.popularity_discount > 0

    def popularity(self) -> FloatArray:
        """[items] standardised popularity as the run knows it: of the one-shot sum, or the model's own item biases."""
        if self.beside is not None:
            known = self.beside.popularity
        else:
            with torch.inference_mode():
                known = self.model.item_tables().bias.double().numpy()
        return standardised(known[None, :])[0]


class RunScorer:
    """The model's scores; standardised and joined with band-EASE's, less a discount, where asked for.

    Args:
        model: the scores of the model alone.
        beside: joins with ``weight``; None leaves the model alone.
        discount: [items] taken off the standardised score; None for nothing.
    """

    def __init__(
        self,
        model: ModelScorer,
        beside: BandEase | None,
        history: Interactions,
        weight: float,
        discount: FloatArray | None = None,
    ) -> None:
        self._model = model
        self._beside = beside
        self._history = history
        self._weight = weight
        self._discount = discount

    def __call__(self, users: IntArray) -> FloatArray:
        """[users, items] scores."""
        if self._beside is not None and np.isinf(self._weight):
            scores = self._beside.score(self._history, users)
            return scores if self._discount is None else standardised(scores) - self._discount
        scores = self._model(users)
        if self._beside is None and self._discount is None:
            return scores
        scores = standardised(scores)
        if self._beside is not None:
            scores = scores + self._weight * standardised(self._beside.score(self._history, users))
        return scores if self._discount is None else standardised(scores) - self._discount

    def ratings(self, users: IntArray, items: IntArray) -> FloatArray:
        """[pairs] the model's own ratings: band-EASE ranks, it does not rate."""
        return self._model.ratings(users, items)


def run_model(run: RunFolder, config: Config, workspace: Workspace) -> RunModel:
    """The model a run has chosen.

    Raises:
        MmfedError: there is no checkpoint, or it is damaged.
    """
    parameters, number = chosen_model(run, config)
    model = workspace.new_model()
    beside = None
    if config.one_shot.enabled:
        beside = teacher_of(load_one_shot(run), config, workspace.features.modalities, workspace.shop.catalogue)
        use_one_shot(model, beside, config)
    load_parameters(model, parameters)
    section, private = config.one_shot, config.privacy.mode != "none"
    if beside is not None and not (config.federation.rounds or section.teacher_steps):
        return RunModel(config, model, number, beside, np.inf)
    # Validation figures are private, and a choice made by them is a release.
    weight = WEIGHT_UNDER_NOISE if private and section.ensemble is None else section.ensemble or 0.0
    found = RunModel(config, model, number, beside, weight)
    if beside is None or private or section.ensemble is not None or config.training.objective == "mse":
        return found
    return RunModel(config, model, number, beside, _best_weight(found, workspace))


def _best_weight(found: RunModel, workspace: Workspace) -> float:
    """The weight of band-EASE with the best validation figure; 0 without validation data."""
    split, config = workspace.split, workspace.config
    if not len(split.validation) or found.beside is None:
        return 0.0
    history = workspace.timelines(split.train, split.validation, split.test)
    alone = ModelScorer(found.model, history, people=workspace.people)
    items = workspace.shop.catalogue.size
    users = workspace.evaluated(split.validation)
    values = []
    for weight in ENSEMBLE_WEIGHTS:
        score = RunScorer(alone, found.beside if weight else None, split.train, weight)
        metrics = quick_metrics(
            score, split.train, split.validation, config.evaluation.k, item_count=items, users=users
        )
        values.append(metrics[config.evaluation.metric])
    return ENSEMBLE_WEIGHTS[int(np.argmax(values))]
