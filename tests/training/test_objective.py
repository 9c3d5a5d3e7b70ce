"""Objectives against loops that follow the words of the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import DIMENSIONS, ITEMS, histories_from, random_histories, tiny_config, tiny_features, tiny_model

from mmfed.training.batch import NEVER, training_batch
from mmfed.training.objective import user_losses

LISTS = [[3, 5, 3, 9, 5, 1], [], [8], [2, 2, 2], list(range(15)), [30, 31, 32, 33]]


def batch_of(histories, config, *, seed=4, round_number=1, step=0, item_count=ITEMS, model=None):
    return training_batch(
        histories,
        model=tiny_model(config, tiny_features(item_count)) if model is None else model,
        section=config.training,
        seed=seed,
        round_number=round_number,
        step=step,
        user_vectors=torch.zeros(len(histories), DIMENSIONS).double(),
        dtype=torch.float64,
    )


def state_by_loop(model, history_vectors, kept, position):
    """The definition of pooling, term by term."""
    state = torch.zeros(DIMENSIONS).double()
    for decay, mix in zip(model.pooling.decays, model.pooling.mix, strict=True):
        weighted, total = torch.zeros(DIMENSIONS).double(), 0.0
        for event in range(max(0, position - model.pooling.history), position):
            if kept[event]:
                weight = decay ** (position - 1 - event)
                weighted, total = weighted + weight * history_vectors[event], total + weight
        if total:
            state = state + (weighted / total**0.75) @ mix
    return state


def loss_by_loop(model, config, batch, user, items):
    tables = model.item_tables()
    kept = batch.histories.kept[user].bool().tolist()
    losses = []
    for index, position in enumerate(batch.histories.positions[user].tolist()):
        if batch.weights[user, index] == 0:
            continue
        target = items[position]
        assert int(batch.targets[user, index]) == target
        state = state_by_loop(model, tables.history[items], kept, position)
        scores = [float(state @ tables.target[item] + tables.bias[item]) for item in range(ITEMS)]
        seen = set(items[:position])
        drawn = [item for item in batch.negatives[user, index].tolist() if item not in seen and item != target]
        if config.training.objective == "softmax":
            allowed = [scores[item] for item in range(ITEMS) if item not in seen or item == target]
            losses.append(math.log(sum(math.exp(score) for score in allowed)) - scores[target])
        elif config.training.objective == "sampled-softmax":
            everyone = [scores[target], *(scores[item] for item in drawn)]
            losses.append(math.log(sum(math.exp(score) for score in everyone)) - scores[target])
        else:
            bpr = config.training.objective == "bpr"
            against = [math.log1p(math.exp(scores[item] - (scores[target] if bpr else 0.0))) for item in drawn]
            own = 0.0 if bpr else math.log1p(math.exp(-scores[target]))
            losses.append(own + (sum(against) / len(against) if against else 0.0))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("objective", ["softmax", "sampled-softmax", "bpr", "bce"])
def test_against_loops(objective):
    config = tiny_config(
        f"training.objective={objective}", "training.positions=4", "training.negatives=30", "model.history=5"
    )
    model = tiny_model(config)
    batch = batch_of(histories_from(LISTS), config)
    tables = model.item_tables()
    losses = user_losses(model, config.training, tables, tables.history[batch.histories.items], batch)
    with torch.no_grad():
        expected = [loss_by_loop(model, config, batch, user, items) for user, items in enumerate(LISTS)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-9)


def test_softmax_masks_exactly_the_items_seen_before():
    """Raising an item's bias changes the loss if and only if the item is a candidate at some position."""
    config = tiny_config("training.positions=1", "training.history_dropout=0")
    model = tiny_model(config)
    items = [4, 9, 4, 7]
    batch = batch_of(histories_from([items]), config)
    position = int(batch.histories.positions[0, 0])
    tables = model.item_tables()
    bias = tables.bias.detach().requires_grad_()
    vectors = tables.history[batch.histories.items]
    loss = user_losses(model, config.training, tables._replace(bias=bias), vectors, batch).sum()
    (gradient,) = torch.autograd.grad(loss, [bias])
    masked = set(items[:position]) - {items[position]}
    assert {item for item in range(ITEMS) if gradient[item] == 0} == masked
    assert all(gradient[item] > 0 for item in set(items[position + 1 :]) - set(items[: position + 1])), (
        "later: negative"
    )


@pytest.mark.parametrize("seed", range(6))
def test_every_position_masks_its_own_past(seed):
    config = tiny_config("training.positions=10")
    items = [4, 9, 4, 7, 1, 9]
    batch = batch_of(histories_from([items]), config, seed=seed)
    for item in range(ITEMS):
        expected = items.index(item) if item in items else NEVER
        assert int(batch.first_seen[0, item]) == expected
    assert batch.histories.positions[0].tolist() == list(range(6))


def test_positions_are_a_uniform_choice_without_repetition():
    config = tiny_config("training.positions=3")
    histories = histories_from([list(range(8))] * 4000, keys=range(1, 4001))
    positions = batch_of(histories, config).histories.positions.numpy()
    assert (np.diff(positions, axis=1) > 0).all()
    counts = np.bincount(positions.ravel(), minlength=8)
    assert np.abs(counts - 1500).max() < 6 * math.sqrt(1500 * (1 - 3 / 8))


def test_negatives_and_dropout_have_their_rates():
    config = tiny_config(
        "training.objective=bpr", "training.negatives=10", "training.positions=2", "training.history_dropout=0.3"
    )
    histories = histories_from([[1, 2, 3, 4]] * 2000, keys=range(1, 2001))
    batch = batch_of(histories, config, item_count=10)
    counts = np.bincount(batch.negatives.numpy().ravel(), minlength=10)
    assert np.abs(counts - 4000).max() < 6 * math.sqrt(4000)
    assert float(batch.histories.kept.mean()) == pytest.approx(0.7, abs=0.02)
    assert (batch.histories.kept <= batch.histories.known).all(), "a padded event is never kept"


@pytest.mark.parametrize("objective", ["softmax", "bpr"])
def test_a_user_alone_draws_what_it_draws_in_company(objective):
    config = tiny_config(f"training.objective={objective}", "training.positions=3", "training.negatives=4")
    histories = random_histories((2, 20, 0, 7))
    together = batch_of(histories, config)
    for user, length in enumerate(histories.lengths):
        alone = batch_of(histories.take(np.array([user])), config)
        states = min(3, length)
        for field in ("targets", "weights", "negatives"):
            one, among = getattr(alone, field)[0, :states], getattr(together, field)[user, :states]
            assert torch.equal(one, among), field
        assert torch.equal(alone.histories.positions[0, :states], together.histories.positions[user, :states])
        assert torch.equal(alone.histories.kept[0, :length], together.histories.kept[user, :length])
        assert torch.equal(alone.first_seen[0], together.first_seen[user])
        assert not together.weights[user, states:].any()


def test_what_comes_later_enters_no_state():
    config = tiny_config("training.history_dropout=0")
    model = tiny_model(config)
    batch = batch_of(histories_from([[4, 9, 2, 7]]), config).histories
    tables = model.item_tables()
    states = model.user_states(tables.history[batch.items], batch)
    changed = tables.history[batch.items].clone()
    changed[0, 2:] += 100.0
    after = model.user_states(changed, batch)
    assert torch.equal(states[0, :3], after[0, :3])
    assert not torch.allclose(states[0, 3], after[0, 3])
    assert not states[0, 0].any(), "an empty history gives the zero state"


def test_where_order_is_not_time_a_state_holds_everything_but_its_target():
    config = tiny_config("training.context=others", "training.history_dropout=0", "model.decays=[1.0]")
    model = tiny_model(config)
    items = [4, 9, 2, 7]
    batch = batch_of(histories_from([items]), config)
    tables = model.item_tables()
    states = model.user_states(tables.history[batch.histories.items], batch.histories)
    for index, position in enumerate(batch.histories.positions[0].tolist()):
        others = [item for item in items if item != items[position]]
        expected = tables.history[others].sum(0) / len(others) ** 0.75 @ model.pooling.mix[0]
        torch.testing.assert_close(states[0, index], expected)
    shuffled = [items[place] for place in (2, 0, 3, 1)]
    losses = []
    for order in (items, shuffled):
        one = batch_of(histories_from([order]), config)
        losses.append(user_losses(model, config.training, tables, tables.history[one.histories.items], one))
    torch.testing.assert_close(losses[0], losses[1])
