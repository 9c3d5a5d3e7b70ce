"""Lower bounds on ε from guesses: what an attack that worked proves, with confidence.

``one_run_epsilon`` assumes nothing of the mechanism (Steinke, Nasr, Jagielski 2023, theorem 5.2): m canaries, each in
by a fair coin, all in one run. The others take canaries for independent trials, which holds where each canary's score
depends on its own noise (orthogonal canaries in a Gaussian mechanism); they are tighter, and tell half the noise from
all of it.
Bounds hold with the confidence given; a low bound is no evidence of a small ε.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from mmfed.privacy.audit.recompute import gaussian_epsilon
from mmfed.types import BoolArray, FloatArray

NO_EVIDENCE = (
    "A low bound is no evidence of a small ε: an attack that fails shows only that this attack failed. "
    "Only the accounts of the ledgers bound every attack."
)
SHARES = (1.0, 0.5, 0.2)  # of the canaries that are guessed about; the best bound is taken, the confidence divided
_LARGEST = 100.0


@dataclass(frozen=True, kw_only=True)
class CanaryBound:
    """What a run's canaries prove.

    Args:
        epsilon: lower bound on ε at ``delta`` without any assumption on the mechanism.
        canaries, guesses, correct: m, r and v of that bound.
        epsilon_of_trials: lower bound on ε at ``delta`` from the error rates, canaries taken for independent trials.
        mu: lower bound on the μ of a Gaussian mechanism from the area under the curve, which is at most Φ(μ / √2).
        epsilon_of_mu: ε at ``delta`` that this μ gives.
        accuracy: share of right guesses when all are guessed about.
        confidence: of each bound.
        delta: δ.
    """

    epsilon: float
    canaries: int
    guesses: int
    correct: int
    epsilon_of_trials: float
    mu: float
    epsilon_of_mu: float
    accuracy: float
    confidence: float
    delta: float

    def sentence(self) -> str:
        """The bounds in words."""
        return (
            f"{self.canaries} canaries, each in or out by a coin; {self.accuracy:.1%} guessed right. With "
            f"{self.confidence:.0%} confidence ε is at least {self.epsilon:.3f} at δ = {self.delta:.2g} "
            f"({self.correct} of {self.guesses} guesses right, no assumption on the mechanism), at least "
            f"{self.epsilon_of_trials:.3f} if canaries are independent trials, and μ of a Gaussian mechanism at least "
            f"{self.mu:.3f}."
        )


def canary_bound(
    scores: FloatArray, included: BoolArray, *, delta: float, confidence: float = 0.95, middle: float = 0.5
) -> CanaryBound:
    """Bounds from one score a canary, larger for "in".

    Args:
        scores: [canaries].
        included: [canaries] what the coins said.
        middle: score above which "in" is guessed; must not be chosen by looking at ``included``.
    """
    scores, included = np.asarray(scores, dtype=float), np.asarray(included, dtype=bool)
    count = len(scores)
    distance = np.abs(scores - middle)
    right = (scores > middle) == included
    order = np.argsort(-distance, kind="stable")
    best = (0.0, count, int(right.sum()))
    for share in SHARES:
        guesses = max(1, round(share * count))
        correct = int(right[order[:guesses]].sum())
        level = 1 - (1 - confidence) / len(SHARES)
        value = one_run_epsilon(canaries=count, guesses=guesses, correct=correct, delta=delta, confidence=level)
        best = max(best, (value, guesses, correct))
    true_low, false_high = _rates(scores, included, middle, confidence)
    true_low_out, false_high_out = _rates(-scores, ~included, -middle, confidence)
    trials = max(_ratio(true_low, false_high, delta), _ratio(true_low_out, false_high_out, delta))
    mu = _mu(scores[included], scores[~included], confidence)
    return CanaryBound(
        epsilon=best[0],
        canaries=count,
        guesses=best[1],
        correct=best[2],
        epsilon_of_trials=trials,
        mu=mu,
        epsilon_of_mu=gaussian_epsilon(mu, delta),
        accuracy=float(right.mean()) if count else math.nan,
        confidence=confidence,
        delta=delta,
    )


def one_run_p_value(*, canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Bound on the probability of so many right guesses if the mechanism were (ε, δ)-DP.

    P[Binomial(r, e^ε / (1 + e^ε)) ≥ v] + 2 m δ · max over i of P[v > Binomial ≥ v − i] / i.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"{correct} correct of {guesses} guesses of {canaries} canaries")
    rate = 1 / (1 + math.exp(-epsilon))
    if correct == 0:
        return 1.0
    tail = float(special.betainc(correct, guesses - correct + 1, rate))
    below = np.arange(correct - 1, -1, -1)
    logs = (
        special.gammaln(guesses + 1) - special.gammaln(below + 1) - special.gammaln(guesses - below + 1)
        + below * math.log(rate) + (guesses - below) * math.log1p(-rate)
    )  # fmt: skip
    steps = np.cumsum(np.exp(logs)) / np.arange(1, correct + 1)
    return min(1.0, tail + 2 * canaries * delta * float(steps.max()))


def one_run_epsilon(*, canaries: int, guesses: int, correct: int, delta: float, confidence: float = 0.95) -> float:
    """The largest ε that so many right guesses refute, nats; 0 where they refute nothing."""

    def refuted(epsilon: float) -> bool:
        value = one_run_p_value(canaries=canaries, guesses=guesses, correct=correct, epsilon=epsilon, delta=delta)
        return value < 1 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high) and high < _LARGEST:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def rate_interval(hits: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a rate (Clopper and Pearson 1934)."""
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(special.betaincinv(hits, trials - hits + 1, tail))
    high = 1.0 if hits == trials else float(special.betaincinv(hits + 1, trials - hits, 1 - tail))
    return low, high


def area_under_curve(positives: FloatArray, negatives: FloatArray) -> float:
    """P[positive > negative] + P[equal] / 2; NaN where a side is empty."""
    if not len(positives) or not len(negatives):
        return math.nan
    ordered = np.sort(np.asarray(negatives, dtype=float))
    below = np.searchsorted(ordered, positives, side="left")
    equal = np.searchsorted(ordered, positives, side="right") - below
    return float((below + equal / 2).mean() / len(ordered))


def area_interval(
    positives: FloatArray, negatives: FloatArray, *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """AUC and its interval (DeLong, DeLong, Clarke-Pearson 1988), never narrower than one misplaced case allows."""
    area = area_under_curve(positives, negatives)
    if not math.isfinite(area):
        return math.nan, math.nan, math.nan
    positives, negatives = np.asarray(positives, dtype=float), np.asarray(negatives, dtype=float)
    by_positive = _placed(positives, negatives)
    by_negative = 1 - _placed(negatives, positives)
    variance = _variance(by_positive) / len(positives) + _variance(by_negative) / len(negatives)
    least = 1 / (2 * min(len(positives), len(negatives)))
    reach = float(special.ndtri(0.5 + confidence / 2)) * math.sqrt(max(variance, 0.0))
    return area, max(0.0, min(area - reach, area - least)), min(1.0, max(area + reach, area + least))


def mean_interval(values: Sequence[float] | FloatArray, *, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean over people and its interval (Student's t)."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return (float(known[0]) if len(known) else math.nan), math.nan, math.nan
    mean, error = float(known.mean()), float(known.std(ddof=1)) / math.sqrt(len(known))
    reach = float(special.stdtrit(len(known) - 1, 0.5 + confidence / 2)) * error
    return mean, mean - reach, mean + reach


def _placed(values: FloatArray, against: FloatArray) -> FloatArray:
    """[values] share of ``against`` that each is above, equals counting half."""
    ordered = np.sort(against)
    below = np.searchsorted(ordered, values, side="left")
    return (below + (np.searchsorted(ordered, values, side="right") - below) / 2) / len(ordered)


def _variance(values: FloatArray) -> float:
    return float(np.var(values, ddof=1)) if len(values) > 1 else 0.25


def _rates(scores: FloatArray, included: BoolArray, middle: float, confidence: float) -> tuple[float, float]:
    """Lower bound of the TPR and upper bound of the FPR: each fails with half of 1 − confidence, so both hold at it."""
    inside, outside = scores[included] > middle, scores[~included] > middle
    if not len(inside) or not len(outside):
        return 0.0, 1.0
    true_low = rate_interval(int(inside.sum()), len(inside), confidence=confidence)[0]
    false_high = rate_interval(int(outside.sum()), len(outside), confidence=confidence)[1]
    return true_low, false_high


def _mu(inside: FloatArray, outside: FloatArray, confidence: float) -> float:
    if len(inside) < 2 or len(outside) < 2:
        return 0.0
    low = area_interval(inside, outside, confidence=1 - 2 * (1 - confidence))[1]  # one side only
    return max(0.0, math.sqrt(2) * float(special.ndtri(low)))


def _ratio(true_low: float, false_high: float, delta: float) -> float:
    return math.log((true_low - delta) / false_high) if true_low - delta > false_high > 0 else 0.0
