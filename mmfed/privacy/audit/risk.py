"""What (ε, δ) means for an attacker: bounds that hold for every attack, whatever it knows of the others.

A guarantee bounds every test of "was this unit in the data?" (Wasserman and Zhou 2010; Kairouz, Oh, Viswanath 2015):
TPR ≤ e^ε FPR + δ and 1 − TPR ≥ e^−ε (1 − δ − FPR). A mechanism has many (ε, δ); each bound is the best of those given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import special

FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
PRIORS = (0.01, 0.1, 0.5)
RISK_DELTAS = (
    0.9,
    0.7,
    0.5,
    0.3,
    0.1,
    0.03,
    0.01,
    1e-3,
    1e-4,
)  # δ that the bounds are taken at, besides those of ``deltas_for``

Profile = Mapping[float, float]  # δ → ε


@dataclass(frozen=True, kw_only=True)
class AttackRisk:
    """Upper bounds for any attack on one unit.

    Args:
        true_positive_rate: by false-positive rate: the largest share of members a membership attack can find.
        advantage: largest TPR − FPR.
        area: largest area under the curve of TPR against FPR (0.5 is guessing).
        posterior: by prior: the most sure an attacker can become that the unit is in.
        posterior_failure: the largest probability with which what is released makes somebody surer than that.
    """

    true_positive_rate: Mapping[float, float]
    advantage: float
    area: float
    posterior: Mapping[float, float]
    posterior_failure: float


def deltas_for(delta: float) -> tuple[float, ...]:
    """δ at which ε should be known for ``attack_risk`` with posteriors that fail with probability ``delta``."""
    return (*(one for one in RISK_DELTAS if one > delta), delta, delta / 2, delta / 10)


def attack_risk(profile: Profile, *, failure: float, mu: float | None = None) -> AttackRisk:
    """The bounds that a privacy profile gives.

    Args:
        profile: ε by δ; more entries make the bounds tighter. ``deltas_for(failure)`` is a good choice.
        failure: probability with which the posterior may be passed.
        mu: of Gaussian DP where the mechanism is exactly Gaussian: the bounds are then exact.
    """
    steps = [index / 400 for index in range(401)]
    largest_loss = loss_bound(profile, failure)
    rates = [true_positive_bound(profile, rate, mu=mu) for rate in steps]
    area = sum(rates[1:]) / 400  # the larger end of each step: an upper bound
    return AttackRisk(
        true_positive_rate={rate: true_positive_bound(profile, rate, mu=mu) for rate in FALSE_POSITIVE_RATES},
        advantage=advantage_bound(profile, mu=mu),
        area=min(1.0, area) if mu is None else float(special.ndtr(mu / math.sqrt(2))),
        posterior={prior: posterior_bound(prior, largest_loss) for prior in PRIORS},
        posterior_failure=failure,
    )


def true_positive_bound(profile: Profile, false_positive_rate: float, *, mu: float | None = None) -> float:
    """Largest TPR of any membership test at this FPR; exact with ``mu``."""
    rate = false_positive_rate
    if mu is not None:
        return 1.0 if rate >= 1 else float(special.ndtr(special.ndtri(rate) + mu)) if rate > 0 else 0.0
    bounds = [1.0]
    for delta, epsilon in profile.items():
        bounds.append(_product(epsilon, rate) + delta)
        bounds.append(1 - math.exp(-epsilon) * (1 - delta - rate) if math.isfinite(epsilon) else 1.0)
    return max(rate, min(bounds))


def advantage_bound(profile: Profile, *, mu: float | None = None) -> float:
    """Largest TPR − FPR of any membership test: (e^ε − 1 + 2δ) / (e^ε + 1)."""
    if mu is not None:
        return math.erf(mu / (2 * math.sqrt(2)))
    bounds = [1.0]
    bounds += [math.tanh(epsilon / 2) + delta * (1 - math.tanh(epsilon / 2)) for delta, epsilon in profile.items()]
    return min(bounds)


def loss_bound(profile: Profile, failure: float) -> float:
    """A privacy loss (nats) that is passed with probability ``failure`` at most.

    (ε, δ)-DP alone lets the loss pass ε more often than with δ; but it passes ε + t with at most δ / (1 − e^−t).
    """
    bounds = [
        epsilon - math.log1p(-delta / failure)
        for delta, epsilon in profile.items()
        if delta < failure and math.isfinite(epsilon)
    ]
    return min(bounds, default=math.inf)


def posterior_bound(prior: float, loss: float) -> float:
    """Belief, after a privacy loss, of one who believed ``prior`` before (Bayes)."""
    return 1 / (1 + (1 - prior) / prior * math.exp(-loss))


def sentences(risk: AttackRisk) -> Sequence[str]:
    """The bounds in words."""
    found = percent(risk.true_positive_rate[0.01])
    sure = risk.posterior[0.5]
    return (
        f"Who guesses whether somebody took part, and accuses 1 % of the others wrongly, finds at most {found} "
        "of those who did.",
        f"No such guess is better than chance by more than {percent(risk.advantage)} (TPR minus FPR).",
        f"Who thought it 50 % likely can become at most {percent(sure)} sure (except with probability "
        f"{risk.posterior_failure:.2g}).",
    )


def _product(epsilon: float, rate: float) -> float:
    if rate == 0:
        return 0.0
    return rate * math.exp(epsilon) if epsilon < 700 else 1.0


def percent(share: float) -> str:
    """As many digits as matter near 0 and near 1, rounded upwards: these are upper bounds."""
    value = 100 * share
    digits = 2 if value < 1 or value > 99 else 1
    return f"{min(100.0, math.ceil(value * 10**digits - 1e-9) / 10**digits):.{digits}f}\N{NO-BREAK SPACE}%"
