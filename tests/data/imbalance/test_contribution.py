"""How much one user and one record weigh after resampling."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmfed.data.imbalance.contribution import (
    NOBODY,
    contribution,
    group_privacy,
    multiplicity_bound,
    privacy_multiplicity,
)
from mmfed.errors import ExitCode, MmfedError


def test_records_per_user_before_and_after() -> None:
    found = contribution(np.array([7, 3, 3, 9]), np.array([3, 3, 3, 7]))
    assert found.users.tolist() == [3, 7, 9]
    assert found.before.tolist() == [2, 1, 1]
    assert found.after.tolist() == [3, 1, 0]
    assert found.multiplicity.tolist() == [1.5, 1.0, 0.0]


@pytest.mark.parametrize(
    ("after", "says"), [([3, NOBODY], "1 synthetic records mix several people"), ([3, 4], "user 4 has records after")]
)
def test_records_of_nobody_or_strangers_are_refused(after: list[int], says: str) -> None:
    with pytest.raises(MmfedError, match=says) as caught:
        contribution(np.array([3, 3]), np.array(after))
    assert caught.value.code is ExitCode.PRIVACY


def test_multiplicity_counts_copies_and_synthetic_records_of_the_class_and_pool() -> None:
    lineage = np.array([0, 0, 1, 2])
    copies = privacy_multiplicity(np.array([0, 1, 2, 2, 2, 3]), lineage, lineage[[0, 1, 2, 2, 2, 3]])
    assert copies == 3
    # Two synthetic records of (pool, class) 0 count for both of its originals, whatever pair they lie between.
    both = privacy_multiplicity(np.array([0, 1, 2, 3, -1, -1]), lineage, np.array([0, 0, 1, 2, 0, 0]))
    assert both == 3
    assert privacy_multiplicity(np.array([0, 3]), lineage, np.array([0, 2])) == 1
    assert privacy_multiplicity(np.array([], dtype=int), lineage, np.array([], dtype=int)) == 0


def test_bound_is_known_before_the_data() -> None:
    assert multiplicity_bound("none", most_copies=None) == multiplicity_bound("random-under", most_copies=None) == 1
    assert multiplicity_bound("random-over", most_copies=4) == multiplicity_bound("smote", most_copies=4) == 4
    with pytest.raises(MmfedError, match="no promise can count it"):
        multiplicity_bound("smote", most_copies=None)


def test_group_privacy_chains_the_single_promise() -> None:
    epsilon, delta = 0.7, 1e-6
    chained = 0.0
    for _ in range(5):  # P <= e^eps (e^(k eps) P' + delta_k) + delta
        chained = math.exp(epsilon) * chained + delta
    assert group_privacy(epsilon, delta, size=5) == (pytest.approx(3.5), pytest.approx(chained))
    assert group_privacy(epsilon, delta, size=1) == (epsilon, delta)
    assert group_privacy(0.0, 1e-3, size=4) == (0.0, pytest.approx(4e-3))
    assert group_privacy(2.0, 0.0, size=3) == (6.0, 0.0)
    assert group_privacy(2.0, 1e-5, size=50) == (100.0, 1.0)
    assert group_privacy(8.0, 1e-5, size=1000)[1] == 1.0
    assert group_privacy(math.inf, 1e-5, size=2) == (math.inf, 1.0)


@pytest.mark.parametrize(("epsilon", "delta", "size"), [(-1, 0.1, 2), (math.nan, 0.1, 2), (1, 1.5, 2), (1, 0.1, 0)])
def test_group_privacy_refuses_nonsense(epsilon: float, delta: float, size: int) -> None:
    with pytest.raises(MmfedError, match="not allowed"):
        group_privacy(epsilon, delta, size=size)
