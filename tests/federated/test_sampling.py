"""Poisson cohorts: independent coins of one bias, addressed by user and round alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmfed.federated.sampling import poisson_cohort, sampling_rate
from mmfed.rng import user_key

USERS = np.array([user_key(f"u{number}") for number in range(4000)], dtype=np.uint64)


def draw(users=USERS, rate=0.2, *, seed=1, round_number=1, source="seeded"):
    return poisson_cohort(users, rate, seed=seed, round_number=round_number, source=source)


def test_rates():
    assert sampling_rate(None, 10) == 1.0
    assert sampling_rate(3, 12) == 0.25
    assert sampling_rate(20, 10) == 1.0


@pytest.mark.parametrize("source", ["seeded", "csprng"])
@pytest.mark.parametrize("rate", [0.01, 0.2, 0.9])
def test_every_user_joins_at_the_rate(source, rate):
    rounds = 60
    joined = np.zeros(len(USERS))
    sizes = []
    for number in range(rounds):
        cohort = draw(rate=rate, round_number=number, source=source)
        joined += np.isin(USERS, cohort)
        sizes.append(len(cohort))
    deviation = math.sqrt(rate * (1 - rate))
    assert joined.sum() / (rounds * len(USERS)) == pytest.approx(
        rate, abs=6 * deviation / math.sqrt(rounds * len(USERS))
    )
    # The size of a cohort varies as independent coins make it vary: a fixed size is another mechanism.
    spread = np.var(sizes) / (len(USERS) * rate * (1 - rate))
    assert 0.35 < spread < 2.2
    assert np.var(joined) / (rounds * rate * (1 - rate)) == pytest.approx(1.0, abs=0.15)


def test_full_participation_takes_everyone():
    for source in ("seeded", "csprng"):
        assert draw(rate=1.0, source=source).tolist() == USERS.tolist()


def test_the_draw_depends_on_neither_order_nor_company():
    cohort = set(draw().tolist())
    shuffled = np.random.default_rng(0).permutation(USERS)
    assert set(draw(shuffled).tolist()) == cohort
    parts = [draw(USERS[node::5]).tolist() for node in range(5)]
    assert set().union(*parts) == cohort
    assert [user for user in USERS.tolist() if user in cohort] == draw().tolist(), "order of users is kept"


def test_rounds_and_seeds_are_independent():
    rate = 0.2
    for other in (draw(round_number=2), draw(seed=2)):
        both = len(np.intersect1d(draw(), other))
        assert both == pytest.approx(len(USERS) * rate**2, abs=6 * math.sqrt(len(USERS) * rate**2))


def test_only_the_secure_source_cannot_be_repeated():
    assert draw().tolist() == draw().tolist()
    assert draw(source="csprng").tolist() != draw(source="csprng").tolist()
    assert draw(source="csprng").tolist() != draw().tolist()


def test_nobody():
    assert draw(USERS[:0]).tolist() == []
    assert draw(USERS[:0], source="csprng").tolist() == []
