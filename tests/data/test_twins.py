"""Look-alike items against a count by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from mmfed.data.schema import Interactions, group_by_user
from mmfed.data.twins import item_twins


def interactions(seed: int, users: int = 60, items: int = 12, rows: int = 400) -> Interactions:
    generator = np.random.default_rng(seed)
    return group_by_user(
        user_ids=[str(u) for u in range(users)],
        users=generator.integers(0, users, rows),
        items=(generator.beta(0.7, 2, rows) * items).astype(int),
        times=np.arange(rows),
        actions=np.zeros(rows),
        values=np.zeros(rows),
        item_count=items,
    )


@pytest.mark.parametrize("seed", range(5))
def test_pairs_and_overlaps_agree_with_sets(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmfed.data.twins._BLOCK", 5)  # several blocks, the last one partial
    rows = interactions(seed)
    users = rows.user_of_row()
    audience = [set(users[rows.items == item].tolist()) for item in range(rows.item_count)]
    expected = {
        (a, b): len(audience[a] & audience[b]) / len(audience[a] | audience[b])
        for a, b in combinations(range(rows.item_count), 2)
        if min(len(audience[a]), len(audience[b])) >= 5
    }
    twins = item_twins(rows)
    found = {(int(a), int(b)): float(j) for (a, b), j in zip(twins.pairs, twins.jaccard, strict=True)}
    assert found == pytest.approx({pair: j for pair, j in expected.items() if j > 0.3})
    assert found
    assert (np.diff(twins.jaccard) <= 0).all()
    assert twins.users == 60


def test_two_items_that_share_their_only_customer_are_no_twins() -> None:
    rows = interactions(0).keep_users(np.array([0]))
    assert len(item_twins(rows).pairs) == 0
    assert len(item_twins(rows, minimum_users=1).pairs) > 0


def test_work_is_capped_by_looking_at_fewer_users() -> None:
    rows = interactions(0)
    work = int((rows.lengths.astype(float) ** 2).sum())
    assert item_twins(rows, most_pairs=-(-work // 3)).users == 20  # every third


def test_no_users_no_twins() -> None:
    assert len(item_twins(interactions(0).keep_users(np.zeros(0, dtype=int))).pairs) == 0
