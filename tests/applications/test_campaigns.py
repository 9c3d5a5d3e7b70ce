"""Which campaign a person is shown: better than chance, or none."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mmfed.applications.campaigns import Campaign, campaign_scores, choose_campaign
from mmfed.applications.item_sets import best_mean, standardised
from mmfed.errors import MmfedError
from mmfed.rng import numpy_generator

SCORES = np.array([9.0, 5.0, 4.0, 1.0, 0.0, -1.0])
GOOD, BAD = Campaign("good", "Ten off", (2, 0)), Campaign("bad", None, (3, 5))


def test_score_is_what_a_campaign_has_above_random_sets_of_its_size() -> None:
    generator = numpy_generator(0, "campaigns")
    scores = generator.normal(size=(1, 12))
    scores[0, 7] = -np.inf
    campaign = Campaign("c", None, (1, 4, 7, 8, 9, 10))  # five of which can be offered
    whole = standardised(scores)
    offered = np.flatnonzero(np.isfinite(scores[0]))
    drawn = [best_mean(whole[:, generator.choice(offered, 5, replace=False)])[0] for _ in range(20_000)]
    found = campaign_scores(scores, [campaign])[0, 0]
    assert found == pytest.approx(best_mean(whole[:, list(campaign.items)])[0] - np.mean(drawn), abs=0.02)


def test_random_campaigns_of_any_size_are_at_zero_on_average() -> None:
    generator = numpy_generator(0, "random campaigns")
    scores = generator.gumbel(size=(4, 40))
    for size in (1, 3, 20, 39):
        many = [Campaign("c", None, tuple(generator.choice(40, size, replace=False).tolist())) for _ in range(1500)]
        assert np.abs(campaign_scores(scores, many).mean(1)).max() < 0.08


def test_the_best_is_chosen_with_its_reason() -> None:
    choice = choose_campaign(SCORES, [BAD, GOOD], seed=0)
    assert choice is not None
    assert (choice.campaign, choice.items) == (GOOD, (0, 2))
    assert choice.score == campaign_scores(SCORES[None], [GOOD])[0, 0] > 0


@pytest.mark.parametrize(
    ("scores", "campaigns"),
    [
        (SCORES, [BAD]),
        (SCORES, [Campaign("everything", None, tuple(range(6)))]),
        (np.ones(6), [GOOD, BAD]),
        (np.array([-np.inf, 0.0, -np.inf, 1.0, 1.0, 1.0]), [GOOD]),
        (np.full(6, -np.inf), [GOOD]),
        (SCORES, []),
    ],
    ids=["below chance", "is chance", "no preference", "all touched", "nothing left", "no campaigns"],
)
def test_none_where_nothing_is_better_than_chance(scores: np.ndarray, campaigns: list[Campaign]) -> None:
    assert choose_campaign(scores, campaigns, seed=0) is None


def test_one_at_its_cap_makes_room_for_the_next() -> None:
    capped, next_best = Campaign("capped", None, (0,), cap=2), Campaign("next", None, (1,))

    def chosen(shown: dict[str, int]) -> str | None:
        choice = choose_campaign(SCORES, [capped, next_best], seed=0, shown=shown)
        return None if choice is None else choice.campaign.id

    assert [chosen({}), chosen({"capped": 1}), chosen({"capped": 2, "next": 99})] == ["capped", "capped", "next"]


def test_equal_campaigns_stand_by_id_not_by_place() -> None:
    campaigns = [Campaign(name, None, (0, 1)) for name in "abcdefgh"]
    chosen = set()
    for seed in range(20):
        one, other = (choose_campaign(SCORES, some, seed=seed) for some in (campaigns, campaigns[::-1]))
        assert one is not None
        assert other is not None
        assert one.campaign.id == other.campaign.id
        chosen.add(one.campaign.id)
    assert len(chosen) > 1


def test_faults_are_named() -> None:
    with pytest.raises(MmfedError, match="advertises no item"):
        Campaign("x", None, ())
    with pytest.raises(MmfedError, match="cap 0"):
        Campaign("x", None, (1,), cap=0)
    with pytest.raises(MmfedError, match="item 6 of 6"):
        choose_campaign(SCORES, [Campaign("x", None, (1, 6))], seed=0)
    with pytest.raises(MmfedError, match="nan"):
        choose_campaign(np.array([np.nan, 1.0]), [Campaign("x", None, (1,))], seed=0)


def test_a_device_that_only_recommends_needs_neither_torch_nor_flower() -> None:
    code = "import sys, mmfed.applications.stores, mmfed.applications.campaigns as _; "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'flwr', 'opacus')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
