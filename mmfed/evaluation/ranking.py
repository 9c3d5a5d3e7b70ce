"""Ranking evaluation: score blocks of users, remove what they know, and measure the lists and the relevant items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmfed.errors import ExitCode, MmfedError
from mmfed.evaluation.accuracy import TargetRanks, accuracy_metrics, sum_by_user, target_ranks
from mmfed.evaluation.beyond_accuracy import (
    catalogue_coverage,
    expected_popularity_complement,
    full_list,
    gini,
    intra_list_diversity,
    list_mean,
    popularity_ranks,
    serendipity,
    surprise,
)
from mmfed.evaluation.intervals import Estimate, bootstrap_estimates, undefined
from mmfed.evaluation.protocol import (
    BLOCK_CELLS,
    ItemLists,
    Progress,
    ProtocolName,
    ScoreFunction,
    check_inputs,
    describe_protocol,
    distinct,
    flatten,
    index_tie_keys,
    sampled_candidates,
    score_block,
)
from mmfed.evaluation.result import RankingResult
from mmfed.types import BoolArray, FloatArray, IntArray

BLOCK = 128  # items


def top_k(scores: FloatArray, k: int, tie_key: FloatArray, relevant: BoolArray | None = None) -> IntArray:
    """The best k items of every row, best first: [users, k], -1 where fewer can be listed (score -inf never is).

    Args:
        scores: [users, items] without NaN.
        tie_key: [items]; equal scores stand in ascending order of it.
        relevant: [users, items]; where given, relevant items stand last among equal scores (pessimistic ties).

    Raises:
        MmfedError: a score is NaN.
    """
    users, item_count = scores.shape
    kept = min(k, item_count)
    if not kept:
        return np.full((users, k), -1, dtype=np.int64)
    bound = _lower_bound(scores, kept)
    if np.isnan(bound).any():
        row, item = np.argwhere(np.isnan(scores))[0]
        raise MmfedError(
            ExitCode.CONFIG,
            f"score in row {int(row)}, item {int(item)} is NaN.",
            "the model diverged: lower the learning rate; use -inf for items that cannot be recommended.",
        )
    # -inf bounds (fewer than k listable items) must not let -inf items in.
    bound = np.maximum(bound, np.finfo(scores.dtype).min)
    rows, items = np.divmod(np.flatnonzero(scores >= bound[:, None]), item_count)
    last = tie_key[items]
    keys = (
        (last, -scores[rows, items], rows)
        if relevant is None
        else (last, relevant[rows, items], -scores[rows, items], rows)
    )
    arrangement = np.lexsort(keys)
    rows, items = rows[arrangement], items[arrangement]
    counts = np.bincount(rows, minlength=users)
    place = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    inside = place < kept
    lists = np.full((users, k), -1, dtype=np.int64)
    lists[rows[inside], place[inside]] = items[inside]
    return lists


def _lower_bound(scores: FloatArray, kept: int) -> FloatArray:
    """[users] a score that at least ``kept`` items of the row reach, and few more; NaN where a score is NaN.

    The best of every block of items are that many items: their ``kept``-th best is the bound, found in one pass.
    """
    users, item_count = scores.shape
    width = min(BLOCK, item_count // (2 * kept))
    if width < 2:
        whole = item_count - kept
        return np.where(np.isnan(scores).any(1), np.nan, np.partition(scores, whole, axis=1)[:, whole])
    blocks = item_count // width
    best = scores[:, : blocks * width].reshape(users, blocks, width).max(axis=2)
    rest = scores[:, blocks * width :]
    if rest.shape[1]:
        best = np.column_stack([best, rest.max(axis=1)])
    place = best.shape[1] - kept
    return np.where(np.isnan(best).any(1), np.nan, np.partition(best, place, axis=1)[:, place])


def quick_metrics(
    score: ScoreFunction,
    history: ItemLists,
    targets: ItemLists,
    ks: Sequence[int] = (10, 20, 50),
    *,
    item_count: int,
    seed: int = 0,
    block: int = 512,
    users: IntArray | None = None,
) -> dict[str, float]:
    """Mean recall, ndcg and hit rate under full ranking, for validation during training; equal to ``evaluate_ranking``.

    Args:
        users: as there.

    Raises:
        MmfedError: NaN scores, or nobody has a target.
    """
    check_inputs(history, targets, item_count, ks)
    names = ("recall", "ndcg", "hit_rate")
    tie_key = index_tie_keys(item_count, seed)
    users = _users_with_targets(targets) if users is None else users
    totals = {f"{name}@{k}": 0.0 for name in names for k in ks}
    for start, part in _blocks(users, item_count, block):
        del start
        scored = _score_users(score, part, history, targets, item_count)
        for name, values in accuracy_metrics(_rank(scored, tie_key), ks, names).items():
            totals[name] += float(values.sum())
    return {name: total / len(users) for name, total in totals.items()}


def evaluate_ranking(
    score: ScoreFunction,
    *,
    history: ItemLists,
    targets: ItemLists,
    item_count: int,
    train_counts: IntArray,
    ks: Sequence[int] = (10, 20, 50),
    train_users: IntArray | None = None,
    categories: BoolArray | None = None,
    content: FloatArray | None = None,
    cold_items: BoolArray | None = None,
    protocol: ProtocolName = "full",
    seed: int = 0,
    block: int = 512,
    bootstrap: int = 1000,
    tie_key: FloatArray | None = None,
    progress: Progress | None = None,
    users: IntArray | None = None,
) -> RankingResult:
    """All ranking metrics over the users who have targets.

    Args:
        score: scores of some users over the whole catalogue.
        history: what each user knows; removed from the list unless it is also a target.
        targets: the relevant items; repeats count once.
        train_counts: [items] training interactions (popularity is taken from training only).
        train_users: [items] distinct training users of each item; default ``train_counts``.
        categories: [items, labels] bool, the space of ``ild_category``.
        content: [items, d], the space of ``ild_content``; all-zero rows have no content.
        cold_items: [items] bool; default the items without training interactions.
        seed: of sampled candidates, tie order and bootstrap.
        block: users scored at once (fewer where the catalogue is large).
        bootstrap: resamples of the intervals over users; 0 gives none.
        tie_key: [items] orders equal scores, see ``protocol.tie_keys``; default a seeded hash of the index.
        users: a sample of those with targets, ascending, to evaluate in their place; None for all of them. The history
            of others is not read.

    Raises:
        MmfedError: inputs that do not belong together, NaN scores, or nobody has a target.
    """
    describe_protocol(protocol)
    check_inputs(history, targets, item_count, ks)
    context = _Context(
        item_count=item_count,
        train_counts=_column("train_counts", train_counts, item_count),
        train_users=_column("train_users", train_counts if train_users is None else train_users, item_count),
        user_total=history.user_count,
        cold=_column("cold_items", train_counts == 0 if cold_items is None else cold_items, item_count).astype(bool),
        tie_key=_column("tie_key", index_tie_keys(item_count, seed) if tie_key is None else tie_key, item_count),
        ks=tuple(ks),
    )
    everyone = _users_with_targets(targets)
    users = everyone if users is None else users
    full = protocol == "full"
    longest = max(ks)
    lists = np.full((len(users), longest), -1, dtype=np.int32)
    gathered: list[dict[str, FloatArray]] = []
    cold_targets = 0
    for start, part in _blocks(users, item_count, block):
        scored = _score_users(score, part, history, targets, item_count)
        if full:
            lists[start : start + len(part)] = top_k(scored.with_targets(), longest, context.tie_key)
        else:
            _keep_candidates(scored, part, item_count, seed)
        found = _rank(scored, context.tie_key)
        values = accuracy_metrics(found, ks)
        if full:
            values |= _relevance_metrics(scored, found, context)
            cold_targets += int(context.cold[found.items].sum())
        gathered.append(values)
        if progress is not None:
            progress(start + len(part), len(users))
    per_user = {name: np.concatenate([values[name] for values in gathered]) for name in gathered[0]}
    whole: dict[str, Estimate] = {}
    if full:
        per_user |= _list_metrics(lists, context, categories, content)
        for k in ks:
            whole[f"catalogue_coverage@{k}"] = catalogue_coverage(lists[:, :k], item_count)
            whole[f"gini@{k}"] = gini(lists[:, :k], item_count)
    metrics = bootstrap_estimates(per_user, resamples=bootstrap, seed=seed) | whole
    metrics |= {name: undefined(reason) for name, reason in _missing(ks, full, categories, content)}
    left_out = targets.user_count - len(everyone)
    counts = {"users": len(users), "users_left_out": left_out, "items": item_count}
    if full:
        counts |= {"cold_items": int(context.cold.sum()), "cold_targets": cold_targets}
    return RankingResult(
        metrics=metrics,
        per_user=per_user,
        evaluated_users=users,
        lists=lists if full else None,
        users=len(users),
        users_left_out=left_out,
        protocol=protocol,
        counts=counts,
        notes=_notes(protocol, counts, len(everyone)),
    )


@dataclass(frozen=True, eq=False)
class _Context:
    """What does not change between blocks; arrays are [items]."""

    item_count: int
    train_counts: IntArray
    train_users: IntArray
    user_total: int
    cold: BoolArray
    tie_key: FloatArray
    ks: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Scored:
    """A block of users: competitors' scores and the relevant items set aside.

    Attributes:
        masked: [users, items] -inf on known and on relevant items.
        known: (rows, items) removed from the list.
        rows, items, scores: [pairs] relevant items, ordered by row.
    """

    masked: FloatArray
    known: tuple[IntArray, IntArray]
    rows: IntArray
    items: IntArray
    scores: FloatArray

    def with_targets(self) -> FloatArray:
        """[users, items] what a list is made from: only known items at -inf."""
        shown = self.masked.copy()
        shown[self.rows, self.items] = self.scores
        return shown


def _score_users(
    score: ScoreFunction, users: IntArray, history: ItemLists, targets: ItemLists, item_count: int
) -> _Scored:
    masked = score_block(score, users, item_count)
    rows, items = distinct(*flatten(targets, users), item_count)
    known_rows, known_items = distinct(*flatten(history, users), item_count)
    relevant_too = np.isin(known_rows * item_count + known_items, rows * item_count + items, assume_unique=True)
    known = (known_rows[~relevant_too], known_items[~relevant_too])
    target_scores = masked[rows, items]
    masked[known] = -np.inf
    masked[rows, items] = -np.inf
    return _Scored(masked, known, rows, items, target_scores)


def _keep_candidates(scored: _Scored, users: IntArray, item_count: int, seed: int) -> None:
    """Leave only the sampled negatives in the race."""
    taken = tuple(np.concatenate(pair) for pair in zip(scored.known, (scored.rows, scored.items), strict=True))
    candidates = sampled_candidates(users, item_count, excluded=(taken[0], taken[1]), seed=seed)
    scored.masked[~candidates] = -np.inf


def _rank(scored: _Scored, tie_key: FloatArray) -> TargetRanks:
    return target_ranks(scored.masked, scored.rows, scored.items, scored.scores, tie_key)


def _relevance_metrics(scored: _Scored, found: TargetRanks, context: _Context) -> dict[str, FloatArray]:
    """EPC, serendipity and cold-start recall of a block."""
    popularity = np.clip(context.train_users / max(context.user_total, 1), 0.0, 1.0)
    by_popularity = popularity_ranks(found.rows, found.items, scored.known, context.train_counts)
    cold = context.cold[found.items]
    cold_relevant = sum_by_user(found.rows, cold, len(found.relevant))
    among = _ranks_among_cold(scored, context)
    values: dict[str, FloatArray] = {}
    for k in context.ks:
        values[f"epc@{k}"] = expected_popularity_complement(found, popularity, k)
        values[f"serendipity@{k}"] = serendipity(found, by_popularity, k)
        for name, rows, hit in (
            ("cold_start_recall", found.rows, cold & (found.ranks <= k)),
            ("cold_start_recall_among_cold", among.rows, among.ranks <= k),
        ):
            hits = sum_by_user(rows, hit, len(found.relevant))
            missing = np.full(len(hits), np.nan)
            values[f"{name}@{k}"] = np.divide(hits, cold_relevant, out=missing, where=cold_relevant > 0)
    return values


def _ranks_among_cold(scored: _Scored, context: _Context) -> TargetRanks:
    """Ranks of the cold relevant items in a list of cold items only."""
    mine = context.cold[scored.items]
    columns = scored.masked[:, context.cold] if mine.any() else scored.masked[:, :0]
    return target_ranks(columns, scored.rows[mine], scored.items[mine], scored.scores[mine], context.tie_key)


def _list_metrics(
    lists: IntArray, context: _Context, categories: BoolArray | None, content: FloatArray | None
) -> dict[str, FloatArray]:
    """Per-user metrics of the lists themselves, relevant or not."""
    item_surprise = surprise(context.train_users, context.user_total)
    values: dict[str, FloatArray] = {}
    for k in context.ks:
        values[f"user_coverage@{k}"] = full_list(lists[:, :k])
        values[f"novelty@{k}"] = list_mean(lists[:, :k], item_surprise)
        values[f"arp@{k}"] = list_mean(lists[:, :k], context.train_counts)
    for name, space in (("ild_category", categories), ("ild_content", content)):
        if space is not None:
            diversity = intra_list_diversity(lists, _column(name, space, context.item_count), context.ks)
            values |= {f"{name}@{k}": found for k, found in diversity.items()}
    return values


LIST_METRICS = (
    "catalogue_coverage",
    "user_coverage",
    "gini",
    "ild_category",
    "ild_content",
    "novelty",
    "epc",
    "serendipity",
    "arp",
    "cold_start_recall",
    "cold_start_recall_among_cold",
)


def _missing(
    ks: Sequence[int], full: bool, categories: BoolArray | None, content: FloatArray | None
) -> list[tuple[str, str]]:
    """Names of metrics that were not computed, with the reason."""
    if not full:
        reason = "needs the full ranking: a list of sampled candidates is no list of the catalogue"
        return [(f"{name}@{k}", reason) for name in LIST_METRICS for k in ks]
    absent = [("ild_category", "the catalogue has no category")] if categories is None else []
    absent += [("ild_content", "no content features were given")] if content is None else []
    return [(f"{name}@{k}", reason) for name, reason in absent for k in ks]


def _notes(protocol: ProtocolName, counts: dict[str, int], everyone: int) -> tuple[str, ...]:
    notes = [describe_protocol(protocol)]
    if counts["users"] < everyone:
        notes.append(f"figures of {counts['users']} users drawn at random (seeded) from {everyone} with relevant items")
    if counts["users_left_out"]:
        notes.append(f"{counts['users_left_out']} users without relevant items are left out of every figure")
    if "cold_items" in counts:
        notes.append(f"{counts['cold_targets']} relevant items are among the {counts['cold_items']} cold items")
    return tuple(notes)


def _users_with_targets(targets: ItemLists) -> IntArray:
    users = np.flatnonzero(np.diff(np.asarray(targets.indptr)) > 0)
    if len(users) == 0:
        raise MmfedError(
            ExitCode.DATA,
            "no user has an item to be found: the evaluation part of the split is empty.",
            "give users longer histories, or lower data.split.minimum_history.",
        )
    return users


def _blocks(users: IntArray, item_count: int, block: int) -> list[tuple[int, IntArray]]:
    size = max(1, min(block, BLOCK_CELLS // max(1, item_count)))
    return [(start, users[start : start + size]) for start in range(0, len(users), size)]


def _column(name: str, values: np.ndarray, item_count: int) -> np.ndarray:
    values = np.asarray(values)
    if len(values) != item_count:
        raise MmfedError(
            ExitCode.FAULT,
            f"{name} has {len(values)} entries for a catalogue of {item_count} items.",
            "pass one entry per item of the catalogue.",
        )
    return values
