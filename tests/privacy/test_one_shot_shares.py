"""The plan of the one-shot release under secure aggregation, against the auditor's own account."""

from __future__ import annotations

import pytest

from mmfed.errors import MmfedError
from mmfed.privacy.audit.recompute import Term, rdp_epsilon
from mmfed.privacy.one_shot import plan_one_shot
from mmfed.privacy.one_shot_shares import SharedOneShotPlan, plan_one_shot_shares


def recomputed(plan: SharedOneShotPlan, delta: float) -> float:
    kinds = plan.releases().values()
    return rdp_epsilon([Term(one.noise_multiplier, 1.0, 1, False, one.l2_squared, one.l1) for one in kinds], delta)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("share", [None, 0.05, 0.5, 1.0])
def test_both_sums_together_cost_epsilon_and_not_more(epsilon: float, share: float | None) -> None:
    plan = plan_one_shot_shares(
        population=5000, items=485, pairs=117_855, epsilon=epsilon, delta=1e-5, popularity_share=share
    )
    spent = recomputed(plan, 1e-5)
    assert spent <= epsilon
    assert spent == pytest.approx(epsilon, rel=1e-3)
    assert ("cooccurrence" in plan.noises) == (share != 1.0)
    if share == 0.05:
        ratio = plan.noises["popularity"].noise_multiplier / plan.noises["cooccurrence"].noise_multiplier
        assert ratio == pytest.approx((0.95 / 0.05) ** 0.5)


def test_the_price_of_not_trusting_the_server_is_small() -> None:
    """Noise for the fewest survivors, and a Rényi bound: within a fifth of what a trusted server would add."""
    shared = plan_one_shot_shares(population=10_000, items=485, pairs=117_855, epsilon=4.0)
    central = plan_one_shot(population=10_000, epsilon=4.0)
    assert central.cooccurrence_noise is not None
    assert shared.cooccurrence_noise is not None
    assert 1.0 < shared.cooccurrence_noise / central.cooccurrence_noise < 1.2
    noise = shared.noises["cooccurrence"]
    assert noise.minimum == 8000
    assert noise.deviation(10_000) == pytest.approx(noise.standard_deviation * 1.25**0.5)
    assert shared.upload == sum((one.width * one.bits + 7) // 8 for one in shared.noises.values())


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"items": 0}, {"pairs": 0}, {"popularity_share": 1.5}])
def test_parameters_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(MmfedError):
        plan_one_shot_shares(**{"population": 100, "items": 10, "pairs": 55, "epsilon": 1.0, **wrong})
