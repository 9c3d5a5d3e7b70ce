"""The account of private alternating least squares, against closed forms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.errors import MmfedError
from mmfed.privacy.accounting import epsilon as account
from mmfed.privacy.als import plan_als
from mmfed.privacy.audit.recompute import gaussian_epsilon


@settings(max_examples=40, deadline=None)
@given(epsilon=st.floats(0.2, 20), rounds=st.integers(1, 20), share=st.floats(0.02, 0.9))
def test_counts_and_rounds_together_cost_epsilon_and_not_more(epsilon: float, rounds: int, share: float) -> None:
    plan = plan_als(epsilon=epsilon, delta=1e-5, rounds=rounds, counts_share=share)
    squared = plan.counts_noise**-2 + rounds * plan.noise_multiplier**-2
    spent = gaussian_epsilon(math.sqrt(squared), 1e-5)  # exact, by the auditor's own code
    assert spent <= epsilon
    assert spent == pytest.approx(epsilon, rel=2e-3)
    assert account(plan.releases(), 1e-5).value == pytest.approx(spent, rel=1e-6)
    assert plan.counts_noise**-2 == pytest.approx(share * squared)
    zero_concentrated = squared / 2 + math.sqrt(2 * squared * math.log(1e5))  # Bun and Steinke 2016: looser
    assert spent < zero_concentrated


@pytest.mark.parametrize("wrong", [{"epsilon": 0.0}, {"rounds": 0}, {"counts_share": 0.0}, {"counts_share": 1.0}])
def test_parameters_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(MmfedError):
        plan_als(**{"epsilon": 1.0, "delta": 1e-5, "rounds": 2, "counts_share": 0.1, **wrong})
