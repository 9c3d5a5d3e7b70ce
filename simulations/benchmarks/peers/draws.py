"""One user's random choices of a round, drawn as ``mmfed.training.batch`` draws them, and no more work than that."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmfed.rng import derive, hash_uniform
from simulations.benchmarks.peers.problem import Array, Problem


class SampledStep(NamedTuple):
    """A local step against sampled negatives.

    Attributes:
        candidates: [states, 1 + negatives] items, the target first.
        share: [states, negatives] float32 weight of each negative: 1 / usable ones; 0 for what the user touched before.
    """

    candidates: Array
    share: Array


class PooledStep(NamedTuple):
    """The one local step of a state pooled from the history.

    Attributes:
        positions: [states] event that is the target.
        kept: [events] whether the event may enter a state.
        first: [items] event at which the item first occurs; ``NEVER`` where it does not.
    """

    positions: Array
    kept: Array
    first: Array


NEVER = 2**30


def sampled_steps(problem: Problem, user: int) -> list[SampledStep]:
    """The steps of an epoch."""
    settings, key = problem.settings, problem.keys[user : user + 1]
    items = np.asarray(problem.history(user))
    firsts = _firsts(problem, items)
    order = np.argsort(_uniform(problem, 0, "positions", key, np.arange(len(items))))
    steps = []
    for step, start in enumerate(range(0, len(items), settings.positions)):
        positions = order[start : start + settings.positions]
        cells = (positions[:, None] * settings.negatives + np.arange(settings.negatives)).ravel()
        drawn = (_uniform(problem, step, "negatives", key, cells) * settings.items).astype(np.int64)
        negatives = np.minimum(drawn, settings.items - 1).reshape(len(positions), -1)
        targets = items[positions][:, None]
        usable = (firsts[negatives] >= positions[:, None]) & (negatives != targets)
        share = usable / np.maximum(usable.sum(1, keepdims=True), 1)
        steps.append(SampledStep(np.concatenate([targets, negatives], axis=1), share.astype(np.float32)))
    return steps


def pooled_step(problem: Problem, user: int) -> PooledStep:
    """The step of a pooled state."""
    settings, key = problem.settings, problem.keys[user : user + 1]
    items = np.asarray(problem.history(user))
    events = np.arange(len(items))
    kept = _uniform(problem, 0, "history dropout", key, events) >= settings.history_dropout
    order = np.argsort(_uniform(problem, 0, "positions", key, events))
    return PooledStep(np.sort(order[: settings.positions]), kept, _firsts(problem, items))


def _firsts(problem: Problem, items: Array) -> Array:
    firsts = np.full(problem.settings.items, NEVER, dtype=np.int32)
    firsts[items[::-1]] = np.arange(len(items) - 1, -1, -1)  # of repeats the last write, the earliest event, stays
    return firsts


def _uniform(problem: Problem, step: int, purpose: str, key: Array, columns: Array) -> Array:
    settings = problem.settings
    stream = derive(settings.seed, "local", settings.round_number, step, purpose)
    return hash_uniform(stream, np.asarray(key, dtype=np.uint64), columns)[0]
