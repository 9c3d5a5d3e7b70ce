"""Ranking metrics against an independent implementation, hand-computed lists and invariances."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, Success, nDCG

from mmfed.errors import MmfedError
from mmfed.evaluation.protocol import index_tie_keys, sampled_candidates, tie_keys
from mmfed.evaluation.ranking import evaluate_ranking, quick_metrics, top_k


@dataclass
class Lists:
    indptr: np.ndarray
    items: np.ndarray

    @property
    def user_count(self) -> int:
        return len(self.indptr) - 1


def lists_of(*rows: list[int]) -> Lists:
    return Lists(
        np.cumsum([0, *(len(row) for row in rows)]), np.array([i for row in rows for i in row], dtype=np.int32)
    )


def random_case(seed: int, users: int = 40, items: int = 60, levels: int | None = None) -> dict[str, Any]:
    """Scores, history and targets; few ``levels`` make many ties."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(users, items))
    if levels is not None:
        scores = np.floor(generator.random((users, items)) * levels)
    rows = [generator.permutation(items)[: generator.integers(0, 12)] for _ in range(users)]
    cuts = [int(generator.integers(0, len(row) + 1)) for row in rows]
    history = lists_of(*(row[:cut].tolist() for row, cut in zip(rows, cuts, strict=True)))
    targets = lists_of(*(row[cut:].tolist() for row, cut in zip(rows, cuts, strict=True)))
    return {"scores": scores, "history": history, "targets": targets, "items": items}


def run(case: dict[str, Any], **options: Any):
    items = case["items"]
    settings = {
        "history": case["history"],
        "targets": case["targets"],
        "item_count": items,
        "train_counts": np.bincount(case["history"].items, minlength=items),
        "ks": (1, 5, 10),
        "bootstrap": 50,
    } | options
    return evaluate_ranking(lambda users: case["scores"][users], **settings)


def of_user(lists: Lists, user: int) -> set[int]:
    return set(lists.items[lists.indptr[user] : lists.indptr[user + 1]].tolist())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [None, 4])
def test_accuracy_agrees_with_ir_measures(seed: int, levels: int | None) -> None:
    case = random_case(seed, levels=levels)
    result = run(case)
    # trec_eval breaks ties in its own way, so it is given strictly falling scores in the pessimistic order.
    order_key = np.random.default_rng(99).random(case["items"])
    qrels, rankings = {}, {}
    for user in result.evaluated_users:
        known, wanted = of_user(case["history"], user), of_user(case["targets"], user)
        ranked = sorted(
            (item for item in range(case["items"]) if item not in known),
            key=lambda item, user=user, wanted=wanted: (-case["scores"][user, item], item in wanted, order_key[item]),
        )
        qrels[str(user)] = {str(item): 1 for item in wanted}
        rankings[str(user)] = {str(item): float(-place) for place, item in enumerate(ranked)}
    provider = ir_measures.providers.registry["pytrec_eval"]
    for k in (1, 5, 10):
        names = {R @ k: "recall", P @ k: "precision", nDCG @ k: "ndcg", Success @ k: "hit_rate"}
        found = list(provider.iter_calc(list(names), qrels, rankings))
        # AP@k of trec_eval divides by all relevant items; RR@k is the reciprocal rank of the list cut at k.
        cut = {user: dict(sorted(ranked.items(), key=lambda x: -x[1])[:k]) for user, ranked in rankings.items()}
        found += list(provider.iter_calc([AP, RR], qrels, cut))
        for metric in found:
            place = result.evaluated_users.tolist().index(int(metric.query_id))
            relevant = len(qrels[metric.query_id])
            name = {AP: "map", RR: "mrr"}.get(metric.measure) or names[metric.measure]
            value = metric.value * relevant / min(relevant, k) if name == "map" else metric.value
            assert result.per_user[f"{name}@{k}"][place] == pytest.approx(value, abs=1e-9), (name, k)
        assert len(found) == 6 * result.users


def test_by_hand() -> None:
    """Two users with targets among four, six items, every metric computed on paper."""
    scores = np.array([[9, 8, 7, 6, 5, 4], [1, 2, 3, 4, 5, 6]], dtype=np.float32)
    result = evaluate_ranking(
        lambda users: scores[users],
        history=lists_of([0], [5, 4], [0], [1]),  # lists: user 0 gets 1, 2, 3; user 1 gets 3, 2, 1
        targets=lists_of([2, 5], [3], [], []),
        item_count=6,
        train_counts=np.array([2, 1, 0, 1, 1, 1]),
        ks=(3,),
        categories=np.array([[1, 0], [1, 0], [1, 1], [0, 1], [1, 0], [0, 0]], dtype=bool),
        content=np.eye(6)[:, :3],
        bootstrap=0,
    )
    assert result.lists is not None
    assert result.lists.tolist() == [[1, 2, 3], [3, 2, 1]]
    log3 = math.log2(3)
    ideal_two = 1 + 1 / log3
    expected = {
        "recall@3": (1 / 2 + 1) / 2,
        "precision@3": 1 / 3,
        "ndcg@3": ((1 / log3) / ideal_two + 1) / 2,
        "map@3": ((1 / 2) / 2 + 1) / 2,
        "hit_rate@3": 1.0,
        "mrr@3": (1 / 2 + 1) / 2,
        "catalogue_coverage@3": 3 / 6,
        "user_coverage@3": 1.0,
        # exposures 0 0 0 2 2 2: (1 + 3 + 5) * 2 / (6 * 6)
        "gini@3": 0.5,
        # cosines of the labels: (1, 2) and (2, 3) 1/sqrt 2, (1, 3) 0
        "ild_category@3": 1 - (2 / math.sqrt(2)) / 3,
        # item 3 has no content; 1 and 2 are orthogonal
        "ild_content@3": 1.0,
        # shares 1/4, (none counts as one) 1/4, 1/4 of the four training users
        "novelty@3": 2.0,
        "arp@3": 2 / 3,
        # user 0: item 2 (popularity 0) at rank 2; user 1: item 3 (popularity 1/4) at rank 1
        "epc@3": ((1 / log3) + 0.75) / 2 / (1 + 1 / log3 + 1 / 2),
        # item 2 has 4 unknown items of more count before it; item 3 (1 count) only item 0 for user 1
        "serendipity@3": (1 / 3 + 0) / 2,
        # item 2 is the only cold item, wanted by user 0 and listed
        "cold_start_recall@3": 1.0,
        "cold_start_recall_among_cold@3": 1.0,
    }
    assert set(result.metrics) == set(expected)
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=1e-6), name
    assert result.counts["cold_items"] == 1
    assert result.counts["cold_targets"] == 1
    assert result.metrics["cold_start_recall@3"].users == 1


def test_cold_recall_among_cold_ranks_cold_items_only() -> None:
    scores = np.array([[9.0, 8.0, 7.0, 3.0, 2.0, 1.0]])
    case = {"scores": scores, "history": lists_of([]), "targets": lists_of([4, 0]), "items": 6}
    result = run(case, ks=(1, 2, 5), train_counts=np.array([3, 3, 3, 0, 0, 0]))
    assert [result[f"cold_start_recall@{k}"] for k in (1, 2, 5)] == [0, 0, 1]
    assert [result[f"cold_start_recall_among_cold@{k}"] for k in (1, 2, 5)] == [0, 1, 1]
    marked = run(case, ks=(1, 2), train_counts=np.ones(6), cold_items=np.array([False] * 4 + [True] * 2))
    assert marked["cold_start_recall_among_cold@1"] == 1


def test_serendipity_leaves_out_what_popularity_would_list() -> None:
    scores = np.array([[5.0, 4.0, 3.0, 2.0, 1.0]])
    counts = np.array([9, 1, 5, 5, 7])
    # Unknown items by count: 0, 4, then 2 and 3 as equals, then 1. The target stands at 3 in both lists.
    case = {"scores": scores, "history": lists_of([]), "targets": lists_of([2]), "items": 5}
    assert run(case, ks=(3,), train_counts=counts)["serendipity@3"] == 0
    less_known = np.array([9, 8, 5, 5, 7])
    assert run(case, ks=(3,), train_counts=less_known)["serendipity@3"] == pytest.approx(1 / 3)
    # Knowing item 0 leaves it out of both lists; an item that is known and relevant stays in both.
    known = case | {"history": lists_of([0])}
    assert run(known, ks=(3,), train_counts=less_known)["serendipity@3"] == 0
    both = case | {"history": lists_of([0]), "targets": lists_of([0, 2])}
    assert run(both, ks=(3,), train_counts=less_known)["serendipity@3"] == pytest.approx(1 / 3)


def test_sampled_candidates_are_as_many_as_asked_and_never_excluded() -> None:
    users = np.arange(50)
    excluded = (np.repeat(users, 20), np.tile(np.arange(20), 50))
    drawn = sampled_candidates(users, 60, excluded=excluded, seed=0, count=30)
    assert (drawn.sum(axis=1) == 30).all()
    assert not drawn[excluded].any()
    assert drawn[:, 20:].mean(axis=0) == pytest.approx(np.full(40, 0.75), abs=0.25)
    everything = sampled_candidates(users, 60, excluded=excluded, seed=0, count=50)
    assert (everything.sum(axis=1) == 40).all()
    assert sampled_candidates(users, 60, excluded=excluded, seed=0, count=99).sum() == 40 * 50


def test_constant_scores_get_the_pessimistic_zero() -> None:
    case = random_case(3)
    case["scores"] = np.zeros_like(case["scores"])
    result = run(case)
    for name in ("recall", "precision", "ndcg", "map", "hit_rate", "mrr", "epc", "serendipity"):
        assert all(result[f"{name}@{k}"] == 0 for k in (1, 5, 10)), name
    assert result["user_coverage@10"] == 1  # the list that is shown is full all the same


def test_relevant_item_stands_behind_its_equals_only() -> None:
    scores = np.array([[3.0, 2.0, 2.0, 1.0, 2.0]])
    result = run({"scores": scores, "history": lists_of([]), "targets": lists_of([2]), "items": 5}, ks=(3, 4))
    assert result["hit_rate@3"] == 0
    assert result["mrr@4"] == pytest.approx(1 / 4)


def test_only_history_leaves_the_list_never_a_target() -> None:
    """Removing validation or test items from the list would leak them; keeping known items would waste places."""
    scores = np.array([[9.0, 8.0, 7.0, 6.0, 5.0]])
    validation = run({"scores": scores, "history": lists_of([0]), "targets": lists_of([2]), "items": 5}, ks=(2, 4))
    assert validation.lists is not None
    # item 1 is the test item of this user: it competes at validation
    assert validation.lists.tolist() == [[1, 2, 3, 4]]
    assert validation["mrr@2"] == 0.5
    both = run({"scores": scores, "history": lists_of([0, 1, 1]), "targets": lists_of([1, 1]), "items": 5}, ks=(2,))
    assert both.lists is not None
    assert both.lists.tolist() == [[1, 2]]
    assert both["recall@2"] == 1
    assert both["ndcg@2"] == 1


def test_every_validation_item_is_a_competitor() -> None:
    """On random data: removing history only, each user's list of all items is the catalogue without the history."""
    case = random_case(8)
    result = run(case, ks=(60,))
    assert result.lists is not None
    for place, user in enumerate(result.evaluated_users):
        listed = set(result.lists[place].tolist()) - {-1}
        assert listed == set(range(60)) - of_user(case["history"], user)


def test_short_lists_and_impossible_items() -> None:
    scores = np.array([[1.0, -np.inf, 3.0], [1.0, 2.0, 3.0]])
    case = {"scores": scores, "history": lists_of([2], []), "targets": lists_of([1], [0]), "items": 3}
    result = run(case, ks=(3, 10))
    assert result.lists is not None
    assert result.lists[:, :3].tolist() == [[0, -1, -1], [2, 1, 0]]
    assert result.per_user["recall@10"].tolist() == [0, 1]
    assert result["user_coverage@3"] == 0.5
    assert result["user_coverage@10"] == 0


def test_users_without_targets_are_left_out_and_counted() -> None:
    case = {"scores": np.eye(3), "history": lists_of([], [], []), "targets": lists_of([0], [], [2]), "items": 3}
    result = run(case, ks=(1,))
    assert (result.users, result.users_left_out) == (2, 1)
    assert result.evaluated_users.tolist() == [0, 2]
    assert result["recall@1"] == 1
    assert any("1 users without" in note for note in result.notes)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([None, 2, 5]), block=st.integers(1, 50))
def test_bounds_and_invariances(seed: int, levels: int | None, block: int) -> None:
    case = random_case(seed, users=12, items=25, levels=levels)
    if len(case["targets"].items) == 0:
        return
    generator = np.random.default_rng(seed)
    key = index_tie_keys(25, 0)
    labels, content = generator.random((25, 4)) < 0.4, np.abs(generator.normal(size=(25, 3)))
    base = run(case, tie_key=key, categories=labels, content=content)
    for name, estimate in base.metrics.items():
        if not estimate.defined or name.startswith(("novelty", "arp")):
            continue
        assert -1e-12 <= estimate.mean <= 1 + 1e-12, name
        assert estimate.low is None or estimate.high is None or estimate.low <= estimate.high
    assert base["novelty@5"] >= 0

    same = run(case, tie_key=key, categories=labels, content=content, block=block)
    for name, values in base.per_user.items():
        np.testing.assert_allclose(values, same.per_user[name], atol=1e-12, err_msg=name)

    # New item numbers: item i becomes place[i].
    place = generator.permutation(25)
    moved = np.argsort(place)
    renamed = {
        "scores": case["scores"][:, moved],
        "history": Lists(case["history"].indptr, place[case["history"].items]),
        "targets": Lists(case["targets"].indptr, place[case["targets"].items]),
        "items": 25,
    }
    other = run(renamed, tie_key=key[moved], categories=labels[moved], content=content[moved])
    for name, estimate in base.metrics.items():
        np.testing.assert_allclose(estimate.mean, other[name], atol=1e-9, err_msg=name)

    # Users in another order.
    order = generator.permutation(12)
    shuffled = {
        "scores": case["scores"][order],
        "history": lists_of(*(sorted(of_user(case["history"], u)) for u in order)),
        "targets": lists_of(*(sorted(of_user(case["targets"], u)) for u in order)),
        "items": 25,
    }
    again = run(shuffled, tie_key=key, categories=labels, content=content)
    for name, estimate in base.metrics.items():
        np.testing.assert_allclose(estimate.mean, again[name], atol=1e-9, err_msg=name)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 12), levels=st.sampled_from([1, 2, 5, 1000]))
def test_top_k_is_a_full_sort_cut_off(seed: int, k: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    scores = np.floor(generator.random((4, 9)) * levels)
    scores[generator.random((4, 9)) < 0.3] = -np.inf
    key, relevant = generator.random(9), generator.random((4, 9)) < 0.3
    for mask in (None, relevant):
        lists = top_k(scores, k, key, mask)
        for row in range(4):
            last = np.zeros(9) if mask is None else mask[row]
            order = sorted(range(9), key=lambda i, row=row, last=last: (-scores[row, i], last[i], key[i]))
            order = [i for i in order if scores[row, i] > -np.inf][:k]
            assert lists[row].tolist() == order + [-1] * (k - len(order))


def test_ties_do_not_follow_the_index() -> None:
    lists = top_k(np.zeros((1, 500)), 50, index_tie_keys(500, 0))[0]
    assert abs(lists.mean() - 249.5) < 80
    assert abs(np.corrcoef(np.arange(50), lists)[0, 1]) < 0.5
    ids = [f"sku-{i}" for i in range(500)]
    assert abs(np.corrcoef(np.arange(500), tie_keys(ids, 1))[0, 1]) < 0.15
    assert tie_keys(ids, 1)[7] == tie_keys(["sku-7"], 1)[0]
    assert tie_keys(ids, 1)[7] != tie_keys(ids, 2)[7]


@pytest.mark.parametrize("levels", [None, 3])
def test_quick_metrics_equal_the_evaluation(levels: int | None) -> None:
    case = random_case(5, levels=levels)
    quick = quick_metrics(
        lambda users: case["scores"][users], case["history"], case["targets"], (1, 5), item_count=60, block=7
    )
    result = run(case)
    assert set(quick) == {f"{name}@{k}" for name in ("recall", "ndcg", "hit_rate") for k in (1, 5)}
    for name, value in quick.items():
        assert value == pytest.approx(result[name], abs=1e-12)


def test_quick_metrics_take_milliseconds() -> None:
    generator = np.random.default_rng(0)
    scores = generator.random((943, 1682), dtype=np.float32)
    history = lists_of(*(generator.integers(0, 1682, 100).tolist() for _ in range(943)))
    targets = lists_of(*([int(i)] for i in generator.integers(0, 1682, 943)))
    taken = []
    for _ in range(5):
        start = time.process_time()
        quick_metrics(lambda users: scores[users], history, targets, item_count=1682)
        taken.append(time.process_time() - start)
    assert min(taken) < 0.25  # about 0.025 on an idle core; the margin is for a crowded machine


def test_sampled_protocol_ranks_against_99_unseen_items() -> None:
    case = random_case(1, users=300, items=400)
    result = run(case, protocol="sampled@99", ks=(10, 100))
    # With one target and random scores, the target is in the top 10 of 100 one time in ten.
    single = np.diff(case["targets"].indptr)[result.evaluated_users] == 1
    assert single.sum() > 20
    assert result.per_user["recall@100"][single].min() == 1
    assert run(case, protocol="sampled@99", ks=(10,), block=13)["ndcg@10"] == result["ndcg@10"]
    assert result.metrics["gini@10"].reason.startswith("needs the full ranking")
    assert result.lists is None
    assert "not comparable" in result.notes[0]
    assert run(case, protocol="sampled@99", seed=1)["ndcg@10"] != result["ndcg@10"]


def test_sampled_rate_is_right_on_random_scores() -> None:
    generator = np.random.default_rng(4)
    case = {
        "scores": generator.random((2000, 300)),
        "history": lists_of(*(generator.integers(0, 150, 5).tolist() for _ in range(2000))),
        "targets": lists_of(*([int(i)] for i in generator.integers(150, 300, 2000))),
        "items": 300,
    }
    found = run(case, protocol="sampled@99", ks=(10,))
    assert found["hit_rate@10"] == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 2000))


def test_paper_compat_stamps_its_name() -> None:
    result = run(random_case(1), protocol="paper-compat")
    assert result.protocol == "paper-compat"
    assert result.to_json()["protocol"] == "paper-compat"
    assert result.notes[0].startswith("paper-compat")


def test_json_has_no_nan_and_gives_reasons() -> None:
    case = random_case(2)
    tree = run(case, cold_items=np.zeros(60, dtype=bool)).to_json()
    text = json.dumps(tree, allow_nan=False)
    assert "per_user" not in text
    metrics = tree["metrics"]
    assert metrics["cold_start_recall@10"] | {"reason": ""} == {
        "mean": None,
        "low": None,
        "high": None,
        "users": 0,
        "reason": "",
    }
    assert metrics["cold_start_recall@10"]["reason"]
    assert metrics["ild_content@5"]["reason"] == "no content features were given"


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    result = run(random_case(2), block=7, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (result.users, result.users)
    assert len(seen) == math.ceil(result.users / 7)


def test_does_not_write_into_the_scorers_array() -> None:
    case = random_case(2)
    before = case["scores"].copy()
    evaluate_ranking(
        lambda users: case["scores"],
        history=lists_of(*[[0]] * 40),
        targets=lists_of(*[[1]] * 40),
        item_count=60,
        train_counts=np.ones(60, dtype=int),
        bootstrap=0,
    )
    assert np.array_equal(before, case["scores"])


@pytest.mark.parametrize("which", ["scores", "top_k"])
def test_nan_is_named(which: str) -> None:
    case = random_case(2)
    case["scores"][:, 17] = np.nan
    with pytest.raises(MmfedError, match=r"item 17 is NaN"):
        run(case) if which == "scores" else top_k(case["scores"], 3, index_tie_keys(60, 0))


def test_faults_say_what_is_wrong() -> None:
    case = random_case(2)
    with pytest.raises(MmfedError, match=r"returned shape"):
        run(case | {"scores": case["scores"][:, :50]})
    with pytest.raises(MmfedError, match=r"no user has an item"):
        run(case | {"targets": lists_of(*[[]] * 40)})
    with pytest.raises(MmfedError, match=r"40 users and targets 1"):
        run(case | {"targets": lists_of([1])})
    with pytest.raises(MmfedError, match=r"catalogue has 60 items"):
        run(case | {"targets": lists_of([60], *[[1]] * 39)})
    with pytest.raises(MmfedError, match=r"evaluation\.k"):
        run(case, ks=(0,))
    with pytest.raises(MmfedError, match=r"evaluation\.protocol"):
        run(case, protocol="half")
    with pytest.raises(MmfedError, match=r"train_counts has 3 entries"):
        run(case, train_counts=np.zeros(3, dtype=int))
