"""Does the code do what its ledger says? Checks with the insider's view of an audit run: cohorts, sums and noise known.

Every check is a test that an honest implementation fails with a probability of about 1e-6 at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from mmfed.federated import strategy
from mmfed.privacy.audit.crosscheck import cross_check
from mmfed.privacy.audit.ledgers import AuditResult, audit_ledgers
from mmfed.records import read_lines
from mmfed.rng import derive
from mmfed.simulation.audit_run import against_rounds, run_ledgers
from mmfed.simulation.canary_run import AuditedRun, single_updates
from mmfed.types import FloatArray, IntArray

FALSE_ALARM = 1e-6
_DRAWS = 400  # cohorts drawn to test the sampler
_SENDERS = 40  # devices whose own update is measured


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it holds, and what was found."""

    name: str
    holds: bool
    what: str


def check_conformity(audited: AuditedRun) -> list[Check]:
    """All checks that apply to the run's privacy mode; only the charge where the server adds no noise."""
    checks = [check_charges(audited)]
    if audited.config.privacy.mode != "user-central":
        return checks
    residuals = noise_residuals(audited)
    return [*checks, check_noise(audited, residuals), check_dense(residuals), check_sampling(audited)]


def check_charges(audited: AuditedRun) -> Check:
    """Every round is charged, every ledger holds, and the ledgers fit one another."""
    paths = run_ledgers(audited.run)
    found = audit_ledgers(paths)
    crossed = cross_check(found.ledgers)
    result = against_rounds(
        audited.run, audited.config, AuditResult(found.ledgers, (*found.findings, *crossed.findings))
    )
    name = "every release is charged"
    if result.findings:
        return Check(name, False, str(result.findings[0]))
    releases = sum(one.releases for one in result.ledgers)
    return Check(name, True, f"{len(paths)} ledgers hold, {releases} releases in {len(audited.rounds)} rounds")


def noise_residuals(audited: AuditedRun) -> list[FloatArray]:
    """Per round [coordinates]: planned · mean − the exact sum of the cohort's clipped updates, in claimed σ."""
    took_part = np.ones(audited.population, dtype=bool)
    took_part[audited.people[~audited.included]] = False
    keys = audited.everyone.user_keys
    found = []
    for at in audited.rounds:
        cohort = np.flatnonzero(np.isin(keys, _cohort(audited, at.number)) & took_part)
        total = single_updates(audited, at, cohort).sum(axis=0)
        deviation = audited.sigma(at.number) * audited.clip_norm(at.number)
        found.append((at.mean * audited.planned - total) / deviation)
    return found


def _cohort(audited: AuditedRun, number: int) -> IntArray:
    """The keys drawn in a round: audit runs draw from a seed."""
    return strategy.poisson_cohort(
        audited.everyone.user_keys,
        audited.rate,
        seed=audited.config.run.seed,
        round_number=number,
        source="seeded",
    )


def check_noise(audited: AuditedRun, residuals: Sequence[FloatArray]) -> Check:
    """σ of what is left of a release without the exact sum, by χ² in both directions."""
    values = np.concatenate(list(residuals))
    found = float(np.sqrt(np.mean(values**2)))
    count = len(values)
    ratio = count * found**2
    # Rounding of released models to float32, and of the updates, may add a little; it can hardly take away.
    low, high = (float(special.chdtri(count, tail)) for tail in (1 - FALSE_ALARM / 2, FALSE_ALARM / 2))
    holds = low * 0.999 <= ratio <= high * 1.02
    last = audited.sigma(audited.rounds[-1].number)
    what = f"{found:.4f} times the claimed standard deviation (σ = {last:.4f} clip norms) on {count} coordinates"
    if not holds:
        what += ": the noise is not what is claimed, or somebody's update is not clipped"
    return Check("noise has the claimed strength", holds, what)


def check_dense(residuals: Sequence[FloatArray]) -> Check:
    """Every coordinate has noise in every round: an exact zero tells which items nobody touched."""
    strength = float(np.sqrt(np.mean(np.concatenate(list(residuals)) ** 2))) or 1.0
    # A normal sample is below 1e-4 standard deviations with probability 8e-5: many of them are no accident.
    still = np.array([np.abs(one) < 1e-4 * strength for one in residuals])
    count, share = int(still.sum()), float(still.mean())
    most = _upper_count(still.size, 8e-5)
    holds = count <= most
    return Check(
        "noise stands on every coordinate", holds, f"{count} of {still.size} coordinates ({share:.2%}) have none"
    )


def _upper_count(trials: int, rate: float) -> int:
    """A count that a binomial passes with probability ``FALSE_ALARM`` at most (Chernoff)."""
    mean = trials * rate
    count = math.ceil(mean) + 1
    while mean - count + count * math.log(mean / count) > math.log(FALSE_ALARM):
        count += 1
    return count


def check_sampling(audited: AuditedRun) -> Check:
    """Cohorts are Poisson samples: sizes spread like a binomial, and pairs are drawn together as if independent."""
    name = "cohorts are drawn by independent coins"
    population, rate = audited.population, audited.rate
    if rate >= 1:
        asked = [int(record["asked"]) for record in read_lines(audited.run.metrics)]
        holds = all(count == population for count in asked)
        return Check(name, holds, f"everyone takes part: {min(asked)} to {max(asked)} of {population} asked")
    keys = audited.everyone.user_keys
    seed = derive(audited.config.run.seed, "audit", "sampling")
    drawn = np.stack(
        [
            np.isin(keys, strategy.poisson_cohort(keys, rate, seed=seed, round_number=number, source="seeded"))
            for number in range(1, _DRAWS + 1)
        ]
    )
    sizes = drawn.sum(axis=1)
    variance = population * rate * (1 - rate)
    spread = float(((sizes - population * rate) ** 2).sum() / variance)
    low, high = (float(special.chdtri(_DRAWS, tail)) for tail in (1 - FALSE_ALARM / 8, FALSE_ALARM / 8))
    # The size of a small cohort is discrete and skewed: its fourth moment widens the interval.
    excess = (1 - 6 * rate * (1 - rate)) / variance
    slack = 5.2 * math.sqrt(_DRAWS * max(excess, 0.0))
    joined = drawn.sum(axis=0)
    worst = float(np.abs(joined - _DRAWS * rate).max() / math.sqrt(_DRAWS * rate * (1 - rate)))
    often = worst <= -float(special.ndtri(FALSE_ALARM / (4 * population))) + 0.5
    asked = [int(record["asked"]) for record in read_lines(audited.run.metrics)]
    repeated = [len(_cohort(audited, at.number)) for at in audited.rounds]
    holds = low - slack <= spread <= high + slack and often and asked == repeated
    what = (
        f"{_DRAWS} cohorts of {sizes.min()} to {sizes.max()} users (expected {population * rate:.1f}): variance "
        f"{spread / _DRAWS:.3f} times that of independent coins; the run asked {asked}"
    )
    return Check(name, holds, what)


def check_senders(norms: FloatArray, clip_norm: float) -> Check:
    """Single devices' updates, as they leave, keep within the clip norm.

    Args:
        norms: [devices] of what each sent.
    """
    name = "every device clips its update"
    if not len(norms):
        return Check(name, False, "no device answered with an update")
    largest = float(np.max(norms))
    return Check(
        name,
        bool(largest <= clip_norm * (1 + 1e-4)),
        f"largest norm of {len(norms)} devices' updates {largest:.4g}, clip norm {clip_norm:g}",
    )
