"""The contract every registered recommender keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from tiny_models import (
    DIMENSIONS,
    ITEMS,
    histories_from,
    tiny_config,
    tiny_features,
    tiny_model,
    work_of,
)
from torch.func import functional_call

from mmfed.config import load_config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import wire
from mmfed.fusion.registry import FUSION_HEADS
from mmfed.models.base import HistoryBatch, ItemFeatures, Scope
from mmfed.models.registry import RECOMMENDERS, build_recommender
from mmfed.models.scoring import ModelScorer
from mmfed.training.cohort import train_cohort

VARIANTS = (
    "model.fusion=default",
    *(f"model.fusion={name}" for name in FUSION_HEADS),
    "model.item_ids=false",
    "model.private_user_vector=true",
    "model.similarity=cosine",
    "training.objective=mse",
)
WITHOUT_COSINE = {("mmfnet", "model.similarity=cosine"), ("mmcnn", "model.similarity=cosine")}


@pytest.fixture(
    params=[
        (name, variant)
        for name in sorted(RECOMMENDERS)
        for variant in VARIANTS
        if (name, variant) not in WITHOUT_COSINE
    ],
    ids="-".join,
)
def config(request):
    name, variant = request.param
    return tiny_config(f"model.name={name}", variant)


@pytest.fixture
def model(config):
    return tiny_model(config)


def batch(lists, vectors=None):
    longest = max(map(len, lists), default=0) or 1
    items = torch.zeros(len(lists), longest, dtype=torch.int64)
    known = torch.zeros(len(lists), longest).double()
    for row, one in enumerate(lists):
        items[row, : len(one)] = torch.tensor(one, dtype=torch.int64)
        known[row, : len(one)] = 1
    positions = torch.tensor([[len(one)] for one in lists])
    own = torch.zeros(len(lists), DIMENSIONS).double() if vectors is None else vectors
    ratings = (torch.arange(longest) % 5 / 4).double().expand(len(lists), -1)
    return HistoryBatch(items, known, known, positions, torch.zeros(len(lists), 1).double(), own, ratings)


def scores(model, lists, vectors=None):
    with torch.inference_mode():
        return model(batch(lists, vectors))[:, 0]


def test_configuration_round_trip(config, tmp_path):
    (tmp_path / "run.toml").write_text(config.to_toml())
    again = load_config(tmp_path / "run.toml")
    one, other = (build_recommender(c.model, tiny_features(), seed=3).state_dict() for c in (config, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_seed_decides_the_weights(config):
    one, same, other = (build_recommender(config.model, tiny_features(), seed=s).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_initial_weights_do_not_touch_the_global_generator(config):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    build_recommender(config.model, tiny_features(), seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_save_and_load(config, model):
    data = save({name: value.contiguous() for name, value in model.state_dict().items()})
    other = tiny_model(config, seed=9)
    assert not torch.equal(scores(other, [[1, 2]]), scores(model, [[1, 2]]))
    other.load_state_dict(load(data))
    assert torch.equal(scores(other, [[1, 2]]), scores(model, [[1, 2]]))


def test_scoring_is_deterministic_and_changes_nothing(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert torch.equal(scores(model, [[1, 2], [3]]), scores(model, [[1, 2], [3]]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_shapes_and_finiteness(model):
    tables = model.item_tables()
    assert len(tables.history) == len(tables.target) == ITEMS
    assert tables.bias.shape == (ITEMS,)
    found = scores(model, [[], [0], list(range(ITEMS)), [5] * 300])
    assert found.shape == (4, ITEMS)
    assert torch.isfinite(found).all()


def test_candidates_score_as_in_the_whole_catalogue(model):
    one = batch([[1, 2, 3], [7]])
    tables = model.item_tables()
    states = model.user_states(tables.history[one.items], one)
    candidates = torch.tensor([[[4, 9, 4]], [[0, 39, 7]]])
    whole = model.score(states, tables)
    torch.testing.assert_close(model.score_candidates(states, tables, candidates), whole.gather(2, candidates))


def test_an_empty_history_gives_the_same_scores_to_everybody(config, model):
    found = scores(model, [[], [1, 2], []])
    torch.testing.assert_close(found[0], found[2])
    if config.model.name != "mmcnn":  # whose network sees the item beside an empty state, too
        torch.testing.assert_close(found[0], model.item_tables().bias.detach())


def test_history_and_recency_matter(model):
    one, turned, other = scores(model, [[1, 2, 3], [3, 2, 1], [1, 2, 4]])
    assert not torch.allclose(one, turned)
    assert not torch.allclose(one, other)


def test_padding_and_company_do_not_matter(model):
    lists = [[1, 2, 3], [], [4] * 9]
    together = scores(model, lists)
    for row, one in enumerate(lists):
        torch.testing.assert_close(together[row], scores(model, [one])[0])
    padded = batch(lists)
    padded.items[0, 3:] = 17
    with torch.inference_mode():
        torch.testing.assert_close(model(padded)[:, 0], together)


def test_only_the_latest_events_count(config, model):
    limit = config.model.history
    old, new = [[1] * 50 + [2, 3] * (limit // 2)], [[9] * 50 + [2, 3] * (limit // 2)]
    torch.testing.assert_close(scores(model, old), scores(model, new))


def test_an_item_out_of_the_catalogue_is_an_error_not_a_guess(model):
    for unknown in (ITEMS, -ITEMS - 1):
        with pytest.raises(IndexError):
            scores(model, [[1, unknown]])


def test_a_catalogue_of_one_item(config):
    model = tiny_model(config, tiny_features(1, missing=0.0))
    assert scores(model, [[0], []]).shape == (2, 1)
    update = train_cohort(model, histories_from([[0, 0, 0]]), torch.zeros(1, DIMENSIONS).double(), work_of(config))
    assert all(torch.isfinite(value).all() for value in update.total.values())


def test_missing_modalities_are_not_read(config):
    features = tiny_features(missing=0.5)
    noisy = ItemFeatures(
        features.names,
        tuple(
            torch.where(features.present[:, column, None] == 1, value, torch.full_like(value, 1e4))
            for column, value in enumerate(features.values)
        ),
        features.present,
    )
    one, other = tiny_model(config, features), tiny_model(config, noisy)
    torch.testing.assert_close(scores(other, [[1, 2, 3]]), scores(one, [[1, 2, 3]]), rtol=1e-9, atol=1e-9)


def test_a_catalogue_without_content(config):
    features = tiny_features(widths={})
    if not config.model.item_ids:
        with pytest.raises(MmfedError) as fault:
            tiny_model(config, features)
        assert fault.value.code is ExitCode.CONFIG
        return
    assert torch.isfinite(scores(tiny_model(config, features), [[1, 2]])).all()


def test_scores_follow_the_items_when_the_catalogue_is_reordered(config, model):
    order = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(0))
    features = model.features
    turned = tiny_model(
        config, ItemFeatures(features.names, tuple(value[order] for value in features.values), features.present[order])
    )
    per_item = [name for name, value in model.named_parameters() if value.shape[:1] == (ITEMS,)]
    state = model.state_dict()
    turned.load_state_dict({name: value[order] if name in per_item else value for name, value in state.items()})
    place = torch.argsort(order)
    lists = [[1, 2, 3], [39, 0]]
    moved = [[int(place[item]) for item in one] for one in lists]
    torch.testing.assert_close(scores(turned, moved), scores(model, lists)[:, order])


def test_rows_alone_are_rows_of_the_whole(model):
    """What ``rowwise`` promises, and training per user relies on; a model that mixes items says False."""
    if not model.rowwise:
        return
    chosen = torch.tensor([7, 0, 7, 31])
    parameters = {name: value.detach() for name, value in model.shared_parameters().items()}
    parameters |= {name: parameters[name][chosen] for name in model.row_parameters()}
    values = {name: value[chosen] for name, value in model.item_values().items()}
    stages = _Sides(model)
    prefixed = {f"model.{name}": value for name, value in parameters.items()}
    history, target, bias = functional_call(stages, prefixed, (values, model.present(None)[chosen]))
    whole = model.item_tables()
    for alone, among in ((history, whole.history), (target, whole.target), (bias, whole.bias)):
        torch.testing.assert_close(alone, among[chosen].detach(), rtol=1e-12, atol=1e-12)


class _Sides(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, values, present):
        return self.model.history_side(values, present), *self.model.target_side(values, present)


def test_linear_tables_are_a_rule_of_three(model):
    """What ``linear_tables`` promises: parameters twice as large make tables twice as large."""
    if model.linear_tables(model.present(None)) is None:
        return
    single = model.item_tables()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2
    for twice, once in zip(model.item_tables(), single, strict=True):
        torch.testing.assert_close(twice, 2 * once, rtol=1e-12, atol=1e-12)


def test_scopes_name_every_parameter_and_only_shared_ones_train(config, model):
    names = set(dict(model.named_parameters()))
    scopes = model.scopes()
    assert set(scopes) == names
    shared = {name for name in names if scopes[name] is Scope.SHARED}
    assert list(model.shared_parameters()) == sorted(shared)
    assert set(wire.shared_shapes(model)) == shared
    assert (shared != names) == config.model.private_user_vector
    vectors = torch.randn(2, DIMENSIONS, generator=torch.Generator().manual_seed(0)).double()
    update = train_cohort(model, histories_from([list(range(20)), list(range(39, 5, -1))]), vectors, work_of(config))
    assert set(update.total) == shared
    never = {name for name, value in update.total.items() if not value.any()}
    assert never <= {name for name in shared if name.endswith(".missing")}, never
    assert torch.equal(update.user_vectors, vectors) != config.model.private_user_vector


def test_the_private_vector_moves_the_scores_only_where_asked_for(config, model):
    vectors = torch.linspace(-1, 1, DIMENSIONS).double()[None]
    plain, own = scores(model, [[1, 2]]), scores(model, [[1, 2]], vectors)
    if config.model.private_user_vector:
        assert not torch.allclose(plain, own)


def test_features_are_never_parameters(model):
    carried = {id(value) for value in (*model.features.values, model.features.present)}
    assert not carried & {id(value) for value in (*model.parameters(), *model.buffers())}
    assert not any(value.shape == model.features.present.shape for value in model.state_dict().values())


def test_single_precision_agrees(config, model):
    single = tiny_model(config, dtype=torch.float32)
    with torch.inference_mode():
        one = batch([[1, 2, 3]])
        one = HistoryBatch(
            *(value.float() if torch.is_tensor(value) and value.is_floating_point() else value for value in one)
        )
        torch.testing.assert_close(single(one)[:, 0].double(), scores(model, [[1, 2, 3]]), rtol=1e-4, atol=1e-4)


def test_the_scorer_gives_the_models_scores(config, model):
    class Lists:
        indptr = np.array([0, 3, 3, 5])
        items = np.array([1, 2, 3, 7, 8])
        values = np.array([1.0, 2.0, 3.0, 1.0, 2.0])  # as in ``batch``

    vectors = np.random.default_rng(0).normal(size=(3, DIMENSIONS)) if config.model.private_user_vector else None
    own = None if vectors is None else torch.from_numpy(vectors)
    expected = scores(model, [[1, 2, 3], [], [7, 8]], own).numpy()
    scorer = ModelScorer(model, Lists(), user_vectors=vectors, block=2)
    np.testing.assert_allclose(scorer(np.arange(3)), expected)
    np.testing.assert_allclose(scorer(np.array([2, 0])), expected[[2, 0]])
    assert scorer(np.array([], dtype=np.int64)).shape == (0, ITEMS)


def test_training_lowers_the_loss(config):
    free = tiny_config(f"model.name={config.model.name}", "privacy.mode=none", "training.learning_rate=0.02")
    model = tiny_model(free)
    histories = histories_from([[1, 2, 3, 4], [2, 3, 4, 5], [9, 1, 2, 3]])
    before = scores(model, [[1, 2]])[0].log_softmax(0)[3]
    for number in range(1, 30):
        update = train_cohort(model, histories, torch.zeros(3, DIMENSIONS).double(), work_of(free, round_number=number))
        with torch.no_grad():
            for name, parameter in model.shared_parameters().items():
                parameter += update.total[name] / 3
    assert scores(model, [[1, 2]])[0].log_softmax(0)[3] > before


def test_an_unknown_name_is_a_fault_of_the_configuration():
    with pytest.raises(MmfedError) as fault:
        build_recommender(tiny_config("model.name=dmfm").model, tiny_features(), seed=0)
    assert fault.value.code is ExitCode.CONFIG
    assert "dfmf" in fault.value.fix
