import math
import subprocess
import sys
import time

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import Accountant, GaussianRelease, cross_check, epsilon


def poisson(sigma: float, rate: float, count: int = 1) -> GaussianRelease:
    return GaussianRelease(noise_multiplier=sigma, sampling="poisson", sampling_rate=rate, count=count)


def full(sigma: float, count: int = 1) -> GaussianRelease:
    return GaussianRelease(noise_multiplier=sigma, sampling="full", sampling_rate=1.0, count=count)


MIXED = [poisson(1.0, 0.02, 30), full(15.0, 3), poisson(2.0, 0.1, 20), poisson(1.0, 0.02, 20), full(30.0)]


def test_a_mixture_equals_dp_accounting_event_by_event():
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    for release in MIXED:
        event = dp_accounting.GaussianDpEvent(release.noise_multiplier)
        if release.sampling == "poisson":
            event = dp_accounting.PoissonSampledDpEvent(release.sampling_rate, event)
        accountant.compose(event, release.count)
    assert epsilon(MIXED, 1e-6).value == pytest.approx(accountant.get_epsilon(1e-6), abs=1e-6)


def test_running_account_equals_the_one_off_account():
    accountant = Accountant(1e-5)
    charged = []
    for release in [poisson(1.0, 0.05)] * 5 + [full(20.0)] + [poisson(1.5, 0.05)] * 2 + [poisson(1.0, 0.05, 7)]:
        before = accountant.epsilon()
        after = accountant.epsilon_after(release)
        assert accountant.epsilon() == before
        accountant.add(release)
        charged.append(release)
        assert accountant.epsilon() == after
        assert after.value > before.value
        assert after.value == pytest.approx(epsilon(charged, 1e-5).value, abs=1e-7)


def test_running_account_does_not_depend_on_when_it_was_started():
    """A resumed run reads its ledger at once; it must claim the very same ε as one that never stopped."""
    slow, fast = Accountant(1e-5), Accountant(1e-5)
    for _ in range(13):
        slow.add(poisson(1.1, 0.07))
        slow.epsilon()
        fast.add(poisson(1.1, 0.07))
    assert fast.epsilon() == slow.epsilon()


def test_nothing_charged_is_nothing_spent():
    assert epsilon([], 1e-5).value == 0.0
    assert Accountant(1e-5).epsilon().value == 0.0


def test_identical_releases_are_one_with_their_count():
    assert epsilon([poisson(1.0, 0.05)] * 20, 1e-5) == epsilon([poisson(1.0, 0.05, 20)], 1e-5)


def test_tiny_delta_falls_back_to_renyi():
    estimate = epsilon([poisson(1.0, 0.01, 1000)], 1e-15)
    assert estimate.method == "rdp"
    assert math.isfinite(estimate.value)
    assert estimate.value > epsilon([poisson(1.0, 0.01, 1000)], 1e-9).value


def test_coarse_grids_do_not_win_over_renyi_by_accident():
    coarse = epsilon([poisson(1.0, 0.0001, 500)], 1e-10, discretisation=1e-2)
    fine = epsilon([poisson(1.0, 0.0001, 500)], 1e-10)
    assert coarse.value >= fine.value
    assert (coarse.discretisation, fine.discretisation) == (1e-2, 1e-4)


def test_huge_losses_use_a_coarser_grid_and_say_so():
    started = time.perf_counter()
    estimate = epsilon([poisson(0.5, 0.5, 2000)], 1e-5)
    assert time.perf_counter() - started < 20
    assert estimate.discretisation > 1e-4
    assert math.isfinite(estimate.value)


@given(st.floats(0.6, 8.0), st.floats(0.001, 0.9), st.integers(1, 60))
@settings(max_examples=8, deadline=None)
def test_more_noise_less_sampling_and_fewer_rounds_cost_less(sigma, rate, count):
    grid = {"discretisation": 1e-3}
    value = epsilon([poisson(sigma, rate, count)], 1e-5, **grid).value
    assert epsilon([poisson(sigma * 1.5, rate, count)], 1e-5, **grid).value <= value + 1e-9
    assert epsilon([poisson(sigma, rate / 2, count)], 1e-5, **grid).value <= value + 1e-9
    assert epsilon([poisson(sigma, rate, count + 5)], 1e-5, **grid).value >= value - 1e-9
    assert value <= epsilon([full(sigma, count)], 1e-5).value + 1e-3


def test_other_accountants_agree():
    values = cross_check([poisson(2.0, 0.1, 50)], 1e-5)
    own = epsilon([poisson(2.0, 0.1, 50)], 1e-5).value
    assert own <= values["opacus-rdp"]
    assert values["opacus-prv"] == pytest.approx(own, abs=0.02)
    assert values["exact"] is None
    assert cross_check([], 1e-5) == {"opacus-rdp": 0.0, "opacus-prv": 0.0, "exact": 0.0}


@pytest.mark.parametrize(
    "arguments",
    [
        {"noise_multiplier": 0.0},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"sampling_rate": math.nan},
        {"count": 0},
        {"count": 2.5},
        {"sampling": "fixed"},
    ],
)
def test_impossible_releases_are_refused(arguments):
    good = {"noise_multiplier": 1.0, "sampling": "poisson", "sampling_rate": 0.5, "count": 1}
    with pytest.raises(MmfedError, match=next(iter(arguments))) as caught:
        GaussianRelease(**{**good, **arguments})
    assert caught.value.code == ExitCode.PRIVACY


def test_amplification_is_not_claimed_for_full_participation():
    with pytest.raises(MmfedError, match=r"sampling_rate = 0\.5"):
        GaussianRelease(noise_multiplier=1.0, sampling="full", sampling_rate=0.5)
    assert epsilon([poisson(3.0, 1.0, 4)], 1e-5) == epsilon([full(3.0, 4)], 1e-5)


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan, -0.1])
def test_impossible_delta(delta):
    with pytest.raises(MmfedError, match="delta"):
        epsilon([full(1.0)], delta)
    with pytest.raises(MmfedError, match="delta"):
        Accountant(delta)


def test_privacy_runs_without_torch_and_the_audit_without_any_accountant():
    code = (
        "import sys, mmfed.privacy.ledger, mmfed.privacy.mechanisms, mmfed.privacy.budget, mmfed.privacy.planning;"
        "bad = {'torch', 'opacus', 'flwr', 'polars'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    audit = (
        "import sys, mmfed.privacy.audit.ledgers;"
        "bad = {'torch', 'opacus', 'dp_accounting', 'mmfed.privacy.accounting'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    for program in (code, audit):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
