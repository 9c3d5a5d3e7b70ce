"""Banded matrix factorisation against dense algebra, brute force over participations, and values of another library."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_builder import make_header, make_key, write_chain
from scipy import linalg, optimize, stats

from mmfed.errors import MmfedError
from mmfed.privacy.accounting import GaussianRelease, cross_check, epsilon
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.banded import (
    CorrelatedNoise,
    Participation,
    banded_coefficients,
    banded_multiplier,
    column_norm,
    prefix_error,
    square_root_coefficients,
)
from mmfed.privacy.events import ReleaseEvent
from mmfed.privacy.keyed_noise import KeyedNoise
from mmfed.privacy.ledger import Ledger
from mmfed.privacy.planning_banded import plan_banded

# rounds, bands, first coefficients, root mean squared prefix error: printed by jax-privacy (optimize_banded_toeplitz)
JAX_PRIVACY = [
    (16, 4, (1.0, 0.55157463, 0.41424622, 0.32692191), 1.9375302749),
    (64, 8, (1.0, 0.58774426, 0.47845505, 0.41828836, 0.375968, 0.34193069, 0.31165278, 0.28141488), 2.6639748341),
    (200, 20, (1.0, 0.561741, 0.45366789, 0.39925847), 3.1564366726),
]


def dense(coefficients, rounds):
    return linalg.toeplitz(np.pad(coefficients, (0, rounds - len(coefficients))), np.zeros(rounds))


@pytest.mark.parametrize(("rounds", "bands", "first", "error"), JAX_PRIVACY)
def test_golden_values(rounds, bands, first, error):
    found = banded_coefficients(rounds, bands)
    assert found[: len(first)] == pytest.approx(first, abs=3e-5)
    assert prefix_error(found, rounds) == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize(("rounds", "bands"), [(12, 1), (12, 3), (30, 7), (9, 9)])
def test_no_better_factor_by_a_second_optimiser(rounds, bands):
    prefix = np.tril(np.ones((rounds, rounds)))

    def error(tail):
        c = np.concatenate([[1.0], tail])
        return np.linalg.norm(prefix @ np.linalg.inv(dense(c, rounds))) * np.linalg.norm(c) / math.sqrt(rounds)

    found = banded_coefficients(rounds, bands)
    assert prefix_error(found, rounds) == pytest.approx(error(found[1:]), rel=1e-9)
    assert prefix_error(found, rounds) <= prefix_error(square_root_coefficients(bands), rounds)
    if bands > 1:
        other = optimize.minimize(error, np.zeros(bands - 1), method="BFGS")
        assert prefix_error(found, rounds) <= other.fun * (1 + 1e-6)


def test_square_root_squares_to_the_prefix_sums():
    square = dense(square_root_coefficients(20), 20)
    assert square @ square == pytest.approx(np.tril(np.ones((20, 20))))


@pytest.mark.parametrize(("bands", "separation", "most"), [(3, 3, 4), (2, 5, 2), (4, 4, 1), (1, 1, 6), (3, 4, 9)])
def test_sensitivity_by_brute_force(bands, separation, most):
    """Every pattern of participations, every sign pattern of one-dimensional updates: none moves C x further."""
    rounds = 11
    matrix = dense(banded_coefficients(rounds, bands), rounds)
    bound = column_norm(banded_coefficients(rounds, bands))
    terms, furthest = Participation(separation=separation, most=most), 0.0
    for size in range(1, most + 1):
        for pattern in itertools.combinations(range(rounds), size):
            if all(b - a >= separation for a, b in itertools.pairwise(pattern)):
                last = pattern[-1] + 1
                assert size <= terms.by(last)
                moved = np.linalg.norm(matrix[:, pattern].sum(axis=1))
                assert moved <= math.sqrt(size) * bound * (1 + 1e-12)
                furthest = max(furthest, moved / math.sqrt(terms.by(rounds)))
    assert furthest >= 0.8 * bound, "the bound wastes little"


def test_too_little_separation_would_break_the_bound():
    matrix = dense(banded_coefficients(12, 4), 12)
    assert np.linalg.norm(matrix[:, [0, 1]].sum(axis=1)) > math.sqrt(2) * column_norm(banded_coefficients(12, 4)) * 1.1


def test_streamed_noise_is_the_inverse_times_the_draws():
    factor = banded_coefficients(40, 6)
    draws = np.random.default_rng(0).normal(size=(40, 7))
    stream, rows = CorrelatedNoise(factor), []
    for fresh in draws:
        rows.append(stream.row(fresh))
        stream.keep(rows[-1])
        assert len(stream._past) <= 5
    assert np.array(rows) == pytest.approx(np.linalg.solve(dense(factor, 40), draws))
    plain = CorrelatedNoise((1.0,))
    plain.keep(plain.row(draws[0]))
    assert np.array_equal(plain.row(draws[1]), draws[1])


def test_noise_has_its_law_with_power():
    """C times the released noise is independent and normal; with 2/3 or 3/2 of it the test says no."""
    factor = banded_coefficients(50, 8)
    noise = KeyedNoise(make_key(), "run")
    stream, rows = CorrelatedNoise(factor), []
    for number in range(50):
        rows.append(stream.row(noise.standard_normal(400, round_number=number, purpose="x")))
        stream.keep(rows[-1])
    rows = np.array(rows)
    white = dense(factor, 50) @ rows
    for scale, accepted in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        assert (stats.kstest(white.ravel() / scale, "norm").pvalue > 1e-7) == accepted
    assert abs(np.corrcoef(white[:-1].ravel(), white[1:].ravel())[0, 1]) < 7 / math.sqrt(white[1:].size)
    assert np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1] < -0.2, "what is released is correlated"
    sums = rows.cumsum(axis=0)
    independent = np.sqrt(np.arange(1, 51))[:, None] / column_norm((1.0,))
    assert np.square(sums * column_norm(factor)).mean() < 0.4 * np.square(independent).mean()


def test_keyed_noise_is_drawn_again_only_with_the_key():
    one, same = KeyedNoise(make_key(), "run"), KeyedNoise(make_key(), "run")
    drawn = one.standard_normal(9, round_number=3, purpose="a")
    assert np.array_equal(drawn, same.standard_normal(9, round_number=3, purpose="a"))
    others = [
        one.standard_normal(9, round_number=4, purpose="a"),
        one.standard_normal(9, round_number=3, purpose="b"),
        KeyedNoise(make_key(), "other").standard_normal(9, round_number=3, purpose="a"),
        KeyedNoise(Ed25519PrivateKey.generate(), "run").standard_normal(9, round_number=3, purpose="a"),
    ]
    assert not any(np.isin(drawn, other).any() for other in others)


def test_plan_keeps_epsilon_and_agrees_with_the_exact_gaussian():
    found = plan_banded(population=10_000, cohort=None, rounds=200, separation=20, epsilon=4.0)
    assert found.releases == 10
    one = banded_multiplier(found.noise_multiplier, banded_coefficients(200, 20))
    release = GaussianRelease(noise_multiplier=one, sampling="full", sampling_rate=1.0, count=10)
    assert cross_check([release], found.delta)["exact"] == pytest.approx(4.0, rel=1e-6)
    assert epsilon([release], found.delta).value <= 4.0
    again = plan_banded(
        population=10_000, cohort=None, rounds=200, separation=20, noise_multiplier=found.noise_multiplier
    )
    assert again.epsilon == pytest.approx(4.0, rel=1e-6)
    white = plan_banded(population=10_000, cohort=None, rounds=200, separation=20, bands=1, epsilon=4.0)
    assert found.noise_on_mean < 0.5 * white.noise_on_mean
    assert found.cohort == 500


WRONG = {"bands": 21, "separation": 0, "participations": 0, "epsilon": None, "rounds": 0, "population": 1, "delta": 0.1}


@pytest.mark.parametrize("wrong", [{name: value} for name, value in WRONG.items()])
def test_bad_plans_are_refused(wrong):
    good = {"population": 100, "cohort": None, "rounds": 200, "separation": 20, "epsilon": 1.0}
    with pytest.raises(MmfedError):
        plan_banded(**{**good, **wrong})


TERMS = {"coefficients": [1.0, 0.5], "separation": 3, "participations": 2}


def event(number, steps, **changes):
    values = {
        "round": number,
        "mechanism": "banded",
        "clip_norm": 0.5,
        "noise_multiplier": 9.0,
        "sampling": "full",
        "sampling_rate": 1.0,
        "steps": steps,
        "planned_cohort": 10,
        "result_hash": f"{number + 16 * steps:064x}",
        "banded": TERMS,
    }
    return ReleaseEvent(**{**values, **changes})


STEPS = {1: 1, 2: 0, 3: 0, 4: 1, 5: 0, 6: 0, 7: 0}


def test_the_ledger_charges_participations_as_they_become_possible(tmp_path):
    header = make_header(mode="user-ftrl", target_epsilon=None)
    with Ledger.create(tmp_path / "l.jsonl", header, make_key()) as ledger:
        spent = []
        for number, steps in STEPS.items():
            ledger.charge(event(number, steps))
            spent.append(ledger.spent().value)
        sigma = 9.0 / math.hypot(1.0, 0.5)
        one = GaussianRelease(noise_multiplier=sigma, sampling="full", sampling_rate=1.0)
        each = [epsilon([one] * count, header.delta) for count in (1, 2)]
        assert spent == pytest.approx([each[0].value] * 3 + [each[1].value] * 4)
        assert ledger.spent(1e-4).value > 0
    with Ledger.open(tmp_path / "l.jsonl", make_key()) as again:
        assert again.spent().value == spent[-1]
        again.charge(event(7, 1, result_hash="f" * 64))  # repeated with another result
        assert again.spent().value > spent[-1]
    result = audit_ledgers([tmp_path / "l.jsonl"], thorough=True)
    assert result.holds, result.findings
    assert result.ledgers[0].recomputed == pytest.approx(result.ledgers[0].claimed, rel=1e-3)


LIES = {
    "charge skipped": (4, {"steps": 0}, "became possible"),
    "round skipped": (4, {"round": 5}, "runs through every round"),
    "noise changed": (3, {"noise_multiplier": 8.0}, "not one Gaussian"),
    "clip norm changed": (3, {"clip_norm": 0.6}, "not one Gaussian"),
    "cap changed": (3, {"banded": {**TERMS, "participations": 9}}, "not one Gaussian"),
    "too many bands": (1, {"banded": {**TERMS, "separation": 1}}, "not allowed"),
    "no terms": (1, {"banded": None}, "without its terms"),
    "sampling claimed": (1, {"sampling": "poisson", "sampling_rate": 0.1}, "sampling claim"),
    "scaled factor": (1, {"banded": {**TERMS, "coefficients": [0.1, 0.05]}}, "not allowed"),
    "plain noise": (1, {"mechanism": "gaussian", "banded": None}, "mechanism gaussian"),
    "nothing released": (1, {"mechanism": "participation", "steps": 0}, "release of nothing"),
}


@pytest.mark.parametrize(("at", "changes", "what"), LIES.values(), ids=LIES)
def test_every_lie_about_the_terms_is_named(tmp_path, at, changes, what):
    header = make_header(mode="user-ftrl", target_epsilon=None)
    head = {**asdict(header), "public_key": make_key().public_key().public_bytes_raw().hex()}
    head.update(covered=list(header.covered), not_covered=list(header.not_covered))
    claim = {"epsilon": 1.0, "epsilon_delta": header.delta, "epsilon_method": "pld", "epsilon_discretisation": 0.0}
    entries = [("header", head)]
    for number, steps in STEPS.items():
        body = {**event(number, steps).body(), **claim}
        if number == at:
            body = {name: value for name, value in {**body, **changes}.items() if value is not None}
            body.setdefault("realised_cohort", None)
        entries.append(("release", {"realised_cohort": None, **body}))
    path = write_chain(tmp_path / "x.jsonl", entries, make_key())
    finding = audit_ledgers([path]).findings[0]
    assert finding.line == at + 1
    assert what in finding.what


def test_bad_factors_are_refused():
    with pytest.raises(MmfedError, match="bands"):
        banded_coefficients(5, 6)
    for wrong in ((), (2.0, 1.0), (1.0, math.nan)):
        with pytest.raises(MmfedError, match="coefficients"):
            CorrelatedNoise(wrong)
