"""The rows that users touch: renumbered without loss, and independent of the size of the catalogue."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import histories_from, tiny_config, tiny_features, tiny_model, work_of

from mmfed.training import rows
from mmfed.training.batch import local_steps, training_batch
from mmfed.training.rows import RowTraining, distinct, touched_rows


def batches_of(histories, config, model):
    work = work_of(config)
    return [
        training_batch(
            histories,
            model=model,
            section=work.training,
            seed=work.seed,
            round_number=work.round_number,
            step=step,
            user_vectors=torch.zeros(len(histories), 0),
            dtype=torch.float64,
        )
        for step in range(int(local_steps(histories, work.training).max()))
    ]


@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.lists(st.integers(0, 8), min_size=n, max_size=n), min_size=1)))
def test_distinct_items_of_every_row(lists):
    items = np.array(lists, dtype=np.int64)
    found, places = distinct(items, 9)
    assert np.array_equal(np.take_along_axis(found, places, axis=1), items)
    for row, own, used in zip(items, found, places, strict=True):
        assert sorted(set(row.tolist())) == sorted(set(own.tolist()))
        assert used.max() < len(set(row.tolist())), "padding is read by nobody"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lists=st.lists(st.lists(st.integers(0, 29), max_size=9), min_size=1, max_size=4),
    objective=st.sampled_from(["bce", "bpr", "sampled-softmax", "mse"]),
    amount=st.sampled_from(["training.steps=2", "training.epochs=2"]),
)
def test_renumbered_batches_name_the_same_items(monkeypatch, lists, objective, amount):
    config = tiny_config(f"training.objective={objective}", amount, "training.positions=3", "training.negatives=4")
    model = tiny_model(config, tiny_features(30))
    batches = batches_of(histories_from(lists), config, model)
    for share in (0.0, 2.0):  # every scored item once, and every candidate where it stands
        monkeypatch.setattr(rows, "MANY", share)
        touched = touched_rows(batches, 30, history=True)
        for batch, places in zip(batches, touched.steps, strict=True):
            assert torch.equal(touched.items.gather(1, places.events), batch.histories.items)
            read = torch.cat([batch.targets[:, :, None], batch.negatives], dim=2)
            scored = touched.items.gather(1, places.targets.flatten(1)).view(places.targets.shape)
            if share:
                assert torch.equal(scored, read)
                continue
            renumbered = torch.cat([places.batch.targets[:, :, None], places.batch.negatives], dim=2)
            assert torch.equal(scored.gather(1, renumbered.flatten(1)).view(read.shape), read)


def test_an_epoch_visits_every_event_once():
    config = tiny_config("training.epochs=2", "training.positions=4")
    histories = histories_from([list(range(11)), list(range(4)), [7], []])
    assert local_steps(histories, config.training).tolist() == [6, 2, 2, 2]
    batches = batches_of(histories, config, tiny_model(config))
    for user, length in enumerate((11, 4, 1, 0)):
        per_epoch = max(-(-length // 4), 1)
        visits = [
            batch.histories.positions[user][batch.weights[user] > 0].tolist() for batch in batches[: 2 * per_epoch]
        ]
        for epoch in (visits[:per_epoch], visits[per_epoch:]):
            assert sorted(position for batch in epoch for position in batch) == list(range(length))
        assert not any(batch.weights[user].any() for batch in batches[2 * per_epoch :]), "and then stops"
    first, second = (batches[step].histories.positions[0].tolist() for step in (0, 3))
    assert first != second, "every epoch has an order of its own"


def test_gradients_do_not_grow_with_the_catalogue():
    sizes = {}
    for items in (40, 4000):
        config = tiny_config("model.name=dfmf", "training.objective=bce", "privacy.clip_norm=1.0")
        model = tiny_model(config, tiny_features(items))
        (batch,) = batches_of(histories_from([[1, 2, 3], [4, 5]]), config, model)
        touched = touched_rows([batch], items, history=True)
        training = RowTraining(model, config.training, [model.present(None)])
        _, of_rows, _ = training.changes(touched, torch.zeros(2, 0).double(), torch.ones(2))
        sizes[items] = max(value.shape[1] for value in of_rows.values())
    assert sizes[4000] <= 3 + 3 * (1 + 64), "history, targets and negatives of one user"
    assert sizes[40] <= 40
