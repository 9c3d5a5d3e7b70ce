"""What the one-shot round leaves in the run folder, and the noise and charge that come before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.checkpoint import load_checkpoint, save_checkpoint
from mmfed.federated.one_shot_terms import LINES, ROUND, sum_name
from mmfed.privacy.accounting import GaussianRelease, PureRelease, Release
from mmfed.privacy.budget import Budget
from mmfed.privacy.events import Line, ReleaseEvent, result_hash
from mmfed.privacy.keys import load_or_create_key
from mmfed.privacy.ledger import Ledger
from mmfed.privacy.mechanisms import GaussianMechanism, NoiseSource
from mmfed.privacy.one_shot import OneShotPlan
from mmfed.records import RunFolder
from mmfed.training.cooccurrence import unpacked
from mmfed.types import FloatArray, IntArray

if TYPE_CHECKING:
    from mmfed.federated.one_shot import OneShotRound

FILE = "one-shot.safetensors"
DECAY, DECAY_UNDER_NOISE = 0.9, 0.95


@dataclass(frozen=True, eq=False)
class OneShotSum:
    """Sums over all users, each of whom added vectors of norm 1.

    Attributes:
        item_count: size of the catalogue.
        vectors: "cooccurrence", packed; under noise "popularity" as well, and perhaps alone.
        items: [m] the items that the co-occurrence covers, ascending.
        noise: standard deviation on each coordinate of each vector; empty without privacy.
    """

    item_count: int
    vectors: Mapping[str, FloatArray]
    items: IntArray
    noise: Mapping[str, float] = field(default_factory=dict)

    @property
    def cooccurrence(self) -> FloatArray:
        """[m, m], symmetric; noise σ on the diagonal is σ/√2 elsewhere.

        Raises:
            MmfedError: all of the budget went to popularity.
        """
        if "cooccurrence" not in self.vectors:
            raise MmfedError(
                ExitCode.PRIVACY,
                "the one-shot release holds popularity alone, no co-occurrence.",
                "lower one_shot.popularity_share, or raise privacy.epsilon, in a new run.",
            )
        return unpacked(self.vectors["cooccurrence"], len(self.items))

    def joined(self, later: OneShotSum) -> OneShotSum:
        """Popularity, and the co-occurrence that was asked for after it."""
        vectors = {**self.vectors, **later.vectors}
        return OneShotSum(self.item_count, vectors, later.items, {**self.noise, **later.noise})

    def save(self, run: RunFolder, key: Ed25519PrivateKey) -> None:
        """Keep it in the run folder, signed."""
        tensors = {name: torch.from_numpy(vector) for name, vector in self.vectors.items()}
        state = {"item_count": self.item_count, "items": self.items.tolist(), "noise": dict(self.noise)}
        save_checkpoint(run.checkpoints / FILE, tensors, state, key)


def load_one_shot(run: RunFolder) -> OneShotSum:
    """What a run has kept.

    Raises:
        MmfedError: there is none, or it is damaged.
    """
    path = run.checkpoints / FILE
    if not path.exists():
        raise MmfedError(ExitCode.STORAGE, f"{path}: no such file.", "start the run with one_shot.enabled = true.")
    tensors, state = load_checkpoint(path, load_or_create_key(run.path / "key.pem"))
    vectors = {name: tensor.numpy() for name, tensor in tensors.items()}
    noise = {name: float(one) for name, one in state["noise"].items()}
    return OneShotSum(int(state["item_count"]), vectors, np.array(state["items"], dtype=np.int64), noise)


def cooccurrence_decay(config: Config) -> float:
    """Weight of a pair per event between its items; a wider band where noise has to be exceeded."""
    given = config.one_shot.decay
    return (DECAY if config.privacy.mode == "none" else DECAY_UNDER_NOISE) if given is None else given


class OneShotRelease:
    """Noise on the sums, and the charge for it, durable before the result is used or kept.

    Unit: one user; adjacency: add/remove; trust: whoever runs this sees the sums. Each sum is a charge of its own:
    popularity on the line "statistics", co-occurrence on the line "model", both at round 0.

    A run that dies between the charge and the file asks, draws and charges again. Seeded noise on the same answers is
    the same release and costs nothing more; any other is charged in full, or refused where the budget has no room: then
    the run has spent its ε on nothing, and has to be started anew.
    """

    def __init__(self, config: Config, plan: OneShotPlan, ledger: Ledger, noise: NoiseSource) -> None:
        self._plan = plan
        self._ledger = ledger
        self._noise = noise
        target = config.privacy.epsilon
        self._budget = None if target is None else Budget(target_epsilon=target, ledger=ledger)

    def noised(
        self, name: str, total: FloatArray, *, planned: int, realised: int, dropouts: int
    ) -> tuple[FloatArray, float]:
        """A sum with its noise, charged, and the deviation of that noise.

        Args:
            name: "popularity" or "cooccurrence".
            total: over the users; to be discarded at once.
            planned, realised, dropouts: users asked, in the sum, and missing.

        Raises:
            MmfedError: the budget has no room or the charge cannot be made durable; nothing is released then.
        """
        kind = self._plan.releases()[name]
        mechanism = GaussianMechanism(clip_norm=1.0, noise_multiplier=kind.noise_multiplier, noise=self._noise)
        vector = mechanism.release(
            total, planned_cohort=1, round_number=ROUND, contributors=realised, purpose=f"one-shot-{name}"
        )
        event = _event(LINES[name], kind, vector, planned, realised, dropouts)
        if self._budget is not None and not self._ledger.is_charged(event):
            self._budget.admit(kind, round_number=ROUND)
        self._ledger.charge(event)
        return vector, kind.noise_multiplier

    @property
    def pairs(self) -> bool:
        """Whether there is budget for the co-occurrence."""
        return self._plan.cooccurrence_noise is not None

    def check_charged(self, kept: OneShotSum) -> None:
        """Refuse a release that the ledger does not know (another ledger, or a file from elsewhere).

        Raises:
            MmfedError: names the sum.
        """
        check_charged(self._ledger, self._plan.releases(), kept)

    def released(self, asked: OneShotRound, covered: IntArray | None) -> OneShotSum:
        """Ask for one of the sums, and noise it (``noised``).

        Raises:
            MmfedError: no node answers, or as ``noised``.
        """
        total, realised = asked.total(covered)
        population, name = asked.population, sum_name(covered)
        vector, noise = self.noised(
            name, total, planned=population, realised=realised, dropouts=population - realised
        )  # fmt: skip
        return OneShotSum(asked.item_count, {name: vector}, np.arange(0) if covered is None else covered, {name: noise})


def check_charged(ledger: Ledger, planned: Mapping[str, Release], kept: OneShotSum) -> None:
    """Refuse a release that the coordinator's ledger does not know (another ledger, or a file from elsewhere).

    Raises:
        MmfedError: names the sum.
    """
    charged = {
        (line.body["line"], line.body["round"], line.body["noise_multiplier"], line.body["result_hash"])
        for line in ledger.events
        if line.kind == "release"
    }
    for name, vector in kept.vectors.items():
        kind = planned.get(name)
        noise = None if kind is None or isinstance(kind, PureRelease) else kind.noise_multiplier
        if (LINES.get(name), ROUND, noise, result_hash(vector)) not in charged:
            raise MmfedError(
                ExitCode.AUDIT,
                f"{FILE}: its {name} is not what the ledger was charged for.",
                "restore ledger and checkpoints of the same run, or start a run with another name.",
            )


def _event(
    line: Line, kind: GaussianRelease, vector: np.ndarray, planned: int, realised: int, dropouts: int
) -> ReleaseEvent:
    return ReleaseEvent(
        round=ROUND,
        line=line,
        clip_norm=1.0,
        noise_multiplier=kind.noise_multiplier,
        sampling=kind.sampling,
        sampling_rate=kind.sampling_rate,
        planned_cohort=planned,
        realised_cohort=realised,
        dropouts=dropouts,
        result_hash=result_hash(vector),
    )
