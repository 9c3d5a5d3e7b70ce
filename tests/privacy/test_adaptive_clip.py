"""Adaptive clipping: what the quantile costs, that it is counted once and never too little, and where C goes."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from ledger_builder import make_event, make_header, make_key, write_chain
from scipy import stats

from mmfed.errors import MmfedError
from mmfed.privacy.accounting import Accountant, GaussianRelease, epsilon
from mmfed.privacy.adaptive_clip import AdaptiveClip, joined, shared_noise
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.ledger import Ledger
from mmfed.privacy.mechanisms import SecureNoise, SeededNoise

RATE = 0.1
POISSON = {"sampling": "poisson", "sampling_rate": RATE}


def release(sigma, count=1):
    return GaussianRelease(noise_multiplier=sigma, sampling="poisson", sampling_rate=RATE, count=count)


def pair(ledger, number, *, sigma=1.2, bits=6.0):
    index = ledger.charge(make_event(number, line="statistics", clip_norm=0.5, noise_multiplier=bits, **POISSON))
    return ledger.charge(make_event(number, noise_multiplier=sigma, shares_sample_with=index, **POISSON))


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create(tmp_path / "ledger.jsonl", make_header(target_epsilon=None), make_key()) as ledger:
        yield ledger


def test_dividing_the_noise_and_joining_it_again():
    shared = shared_noise(1.1, planned_cohort=1000)
    assert shared.bits == 50.0
    assert joined(shared.update, shared.bits_multiplier) == pytest.approx(1.1)
    small = shared_noise(3.0, planned_cohort=10)
    assert small.bits == 3.0
    assert small.update == pytest.approx(3.0 / math.sqrt(0.75))
    with pytest.raises(MmfedError, match="more than the whole budget"):
        shared_noise(3.0, planned_cohort=10, bits=1.5)


def test_one_sample_is_dearer_than_two_and_is_what_is_charged():
    """Two Gaussians of one sample: by the loss of the two-dimensional mixture, integrated on a grid."""
    sigma, bits, rate, bound = 0.8, 0.9, 0.2, 0.7
    x = np.linspace(-9, 10, 1901)
    off = np.outer(stats.norm.pdf(x, 0, sigma), stats.norm.pdf(x, 0, bits))
    on = np.outer(stats.norm.pdf(x, 1, sigma), stats.norm.pdf(x, 1, bits))
    mixed = (1 - rate) * off + rate * on
    delta = float(np.maximum(mixed - math.exp(bound) * off, 0).sum() * (x[1] - x[0]) ** 2)
    together = pld.from_gaussian_mechanism(joined(sigma, bits), sampling_prob=rate)
    assert together.get_delta_for_epsilon(bound) == pytest.approx(delta, rel=2e-3)
    apart = pld.from_gaussian_mechanism(sigma, sampling_prob=rate).compose(
        pld.from_gaussian_mechanism(bits, sampling_prob=rate)
    )
    assert apart.get_delta_for_epsilon(bound) < 0.9 * delta


def test_the_ledger_counts_a_pair_once(ledger):
    for number in range(5):
        pair(ledger, number)
    whole = epsilon([release(joined(1.2, 6.0), 5)], float(ledger.header.delta)).value
    assert ledger.spent().value == pytest.approx(whole, rel=1e-6)
    assert ledger.spent(1e-4).value == pytest.approx(epsilon([release(joined(1.2, 6.0), 5)], 1e-4).value, rel=1e-6)
    assert ledger.spent(line="model").value == pytest.approx(epsilon([release(1.2, 5)], 1000**-1.1).value, rel=1e-6)
    assert ledger.spent(line="statistics").value < 0.2 * whole
    audit = audit_ledgers([ledger.path], thorough=True)
    assert audit.holds, audit.findings
    assert audit.ledgers[0].recomputed == pytest.approx(whole, rel=1e-3)
    assert set(audit.ledgers[0].epsilon_by_line) == {"model", "statistics"}


def test_the_ledger_opened_again_counts_alike(ledger):
    for number in range(3):
        pair(ledger, number)
    ledger.charge(make_event(3, line="statistics", clip_norm=0.5, noise_multiplier=6.0, **POISSON))
    spent = ledger.spent().value
    ledger.close()
    with Ledger.open(ledger.path, make_key()) as again:
        assert again.spent().value == spent
        assert again.charge(make_event(3, noise_multiplier=1.2, shares_sample_with=7, **POISSON)) == 8
        assert again.spent().value < spent + 1.0
    assert audit_ledgers([ledger.path]).holds


@pytest.mark.parametrize("index", [0, 1, 2, 9])
def test_only_the_rounds_own_statistic_is_shared_and_only_once(ledger, index):
    pair(ledger, 0)
    with pytest.raises(MmfedError, match="no statistic"):
        ledger.charge(make_event(1, noise_multiplier=1.2, shares_sample_with=index, **POISSON))


def bodies(*events):
    """Bodies with claims that nobody checks before the form."""
    claim = {"epsilon": 1.0, "epsilon_delta": 1000**-1.1, "epsilon_method": "pld", "epsilon_discretisation": 1e-4}
    return [("release", {**event.body(), **claim}) for event in events]


@pytest.mark.parametrize(
    ("link", "what"),
    [(None, "as if it were another one"), (2, "no statistic"), (0, "not allowed"), ("1", "not allowed")],
)
def test_a_hidden_or_wrong_link_is_named(tmp_path, link, what):
    statistic = make_event(0, line="statistics", clip_norm=0.5, noise_multiplier=6.0, **POISSON)
    model = make_event(0, noise_multiplier=1.2, **POISSON)
    entries = bodies(statistic, model)
    if link is not None:
        entries[1][1]["shares_sample_with"] = link
    header = {**asdict(make_header()), "public_key": make_key().public_key().public_bytes_raw().hex()}
    header.update(covered=list(header["covered"]), not_covered=list(header["not_covered"]))
    path = write_chain(tmp_path / "x.jsonl", [("header", header), *entries], make_key())
    (finding,) = audit_ledgers([path]).findings[:1]
    assert finding.line == 3
    assert what in finding.what


def test_taking_back_what_was_never_charged_is_refused():
    account = Accountant(1e-5)
    account.add(release(1.0))
    with pytest.raises(MmfedError, match="never charged"):
        account.remove(release(2.0))
    before = account.epsilon()
    account.epsilon_after(release(0.7), replacing=release(1.0))
    assert account.epsilon() == before
    account.remove(release(1.0))
    assert account.epsilon().value == 0.0


def clip(noise=None, **changes):
    values = {"clip_norm": 1.0, "quantile": 0.5, "rate": 0.2, "bits": 5.0, "noise": noise or SeededNoise(1)}
    return AdaptiveClip(**{**values, **changes})


def test_the_clip_norm_finds_the_quantile():
    """Log-normal norms, as in the paper's experiments: C ends near the wanted quantile from far above and below."""
    norms = np.exp(np.random.default_rng(0).normal(size=2000))
    for quantile in (0.2, 0.5, 0.9):
        for start in (0.01, 100.0):
            moving, value = clip(clip_norm=start, quantile=quantile), start
            for number in range(500):
                within = int((norms <= value).sum())
                share = moving.share(within, realised=2000, planned_cohort=2000, round_number=number)
                value = moving.moved(value, share)
            assert (norms <= value).mean() == pytest.approx(quantile, abs=0.03)


@pytest.mark.parametrize("source", [SeededNoise(3), SecureNoise()])
def test_the_noise_on_the_count_has_its_law_with_power(source):
    moving = clip(source)
    drawn = [moving.share(30, realised=100, planned_cohort=200, round_number=n) for n in range(4000)]
    noise = (np.array(drawn) - 0.5) * 200 - (30 - 50)
    for scale, accepted in ((5.0, True), (10 / 3, False), (7.5, False)):
        assert (stats.kstest(noise, "norm", args=(0, scale)).pvalue > 1e-7) == accepted
        tail = stats.chi2.cdf(np.square(noise / scale).sum(), len(noise))
        assert (1e-7 < tail < 1 - 1e-7) == accepted


def test_bounds_hold_whatever_the_share():
    moving = clip()
    value = 1.0
    for _ in range(200):
        value = moving.moved(value, 1e9)
    assert value == pytest.approx(1e-4)
    for _ in range(400):
        value = moving.moved(value, -1e9)
    assert value == pytest.approx(1e4)
    with pytest.raises(MmfedError, match="within the clip norm"):
        moving.share(4, realised=3, planned_cohort=3, round_number=1)
