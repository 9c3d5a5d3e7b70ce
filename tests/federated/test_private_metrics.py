"""Private evaluation: sensitivity 1, the law of its noise, its charge, and figures that mean what they say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny_shop import USERS, tiny_run, write_tiny_shop

from mmfed.errors import MmfedError
from mmfed.evaluation.beyond_accuracy import catalogue_coverage, gini
from mmfed.federated import tasks, wire, workspace
from mmfed.federated.evaluation_round import evaluate_privately, layout_of, users_metrics
from mmfed.federated.lifetime import Lifetime
from mmfed.federated.participant import Node, client_app
from mmfed.federated.private_metrics import MetricLayout, coverage_and_gini, gini_of, read_metrics, release_metrics
from mmfed.federated.workspace import load_workspace
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.ledger import Ledger, header_for
from mmfed.privacy.mechanisms import GaussianMechanism, SeededNoise
from mmfed.privacy.units import guarantee_for
from mmfed.simulation.inprocess import InProcessGrid
from mmfed.simulation.private_metrics import private_figures
from mmfed.simulation.run import simulate

ITEMS, K = 25, 5
LAYOUT = MetricLayout(ITEMS, K)


def people(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Figures and lists of invented people; low items are listed more often."""
    generator = np.random.default_rng(seed)
    weight = 1 / np.arange(1, ITEMS + 1)
    weight[-6:] = 0
    lists = np.stack([generator.choice(ITEMS, K, replace=False, p=weight / weight.sum()) for _ in range(count)])
    return generator.random((count, 3)), lists


@pytest.fixture
def ledger(tmp_path: Path):
    guarantee = guarantee_for("user-central", population=1000)
    header = header_for(
        guarantee, run_id="m", population=1000, population_basis="test", target_epsilon=3.0, noise_source="seeded"
    )
    with Ledger.create(tmp_path / "ledger.jsonl", header, Ed25519PrivateKey.generate()) as one:
        yield one


def mechanism(sigma: float) -> GaussianMechanism:
    return GaussianMechanism(clip_norm=1.0, noise_multiplier=sigma, noise=SeededNoise(4))


@given(
    arrays(float, (1, 3), elements=st.one_of(st.floats(allow_nan=True), st.floats(0, 1))),
    st.lists(st.integers(-1, ITEMS - 1), min_size=K, max_size=K + 3),
)
@settings(max_examples=200, deadline=None)
def test_one_user_never_adds_more_than_norm_one(figures, items):
    """Whatever the figures and the list are, repeated items and NaN included."""
    total = LAYOUT.total(figures, np.array([items]))
    assert np.isfinite(total).all()
    assert np.linalg.norm(total) <= 1 + 1e-12


def test_perfect_figures_and_a_full_list_use_the_whole_norm():
    total = LAYOUT.total(np.ones((1, 3)), np.arange(K)[None])
    assert np.linalg.norm(total) == pytest.approx(1.0)


def test_without_noise_the_figures_are_exact():
    figures, lists = people(200)
    found = read_metrics(LAYOUT.total(figures, lists), LAYOUT, 0.0)
    for place, name in enumerate(LAYOUT.names):
        assert found.values[name] == pytest.approx(figures[:, place].mean())
    assert found.values[f"catalogue_coverage@{K}"] == pytest.approx(catalogue_coverage(lists, ITEMS).mean)
    assert found.values[f"gini@{K}"] == pytest.approx(gini(lists, ITEMS).mean)
    assert found.exposure == pytest.approx(np.bincount(lists.ravel(), minlength=ITEMS))


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_noise_has_the_claimed_law(ledger, sigma):
    """Accepts σ and rejects 2σ/3 and 3σ/2, on the released exposure."""
    figures, lists = people(300)
    total = LAYOUT.total(figures, lists)
    exact = np.bincount(lists.ravel(), minlength=ITEMS)
    ledger_free = [read_metrics(mechanism(sigma).release(total, planned_cohort=1, round_number=n), LAYOUT, sigma)
                   for n in range(200)]  # fmt: skip
    off = np.concatenate([one.exposure - exact for one in ledger_free]) / ledger_free[0].deviation
    low, high = (1 - 5 * math.sqrt(1 / (2 * off.size))), (1 + 5 * math.sqrt(1 / (2 * off.size)))
    assert low < off.std() < high
    assert not low < off.std() * 2 / 3 < high
    assert not low < off.std() * 3 / 2 < high


def test_a_release_is_charged_on_its_own_line(ledger):
    figures, lists = people(400)
    found = release_metrics(
        LAYOUT.total(figures, lists), LAYOUT, mechanism(4.0), ledger, population=1000, users=400, round_number=7
    )
    (line,) = [one for one in ledger.events if one.kind == "release"]
    assert (line.body["line"], line.body["round"], line.body["clip_norm"]) == ("metrics", 7, 1)
    assert ledger.spent(line="metrics").value == pytest.approx(ledger.spent().value)
    assert found.values["recall@5"] == pytest.approx(figures[:, 0].mean(), abs=0.2)
    assert audit_ledgers([ledger.path]).holds


def test_beyond_the_budget_nothing_is_read(ledger):
    total = LAYOUT.total(*people(400))
    with pytest.raises(MmfedError, match="budget exhausted"):
        release_metrics(total, LAYOUT, mechanism(0.3), ledger, population=1000, users=400, round_number=1)
    assert [one.kind for one in ledger.events] == ["header", "refusal"]


@pytest.mark.parametrize("total", [np.full(LAYOUT.size, 9.0), np.full(LAYOUT.size, np.nan), np.zeros(3)])
def test_sums_that_users_cannot_make_are_refused(ledger, total):
    with pytest.raises(MmfedError):
        release_metrics(total, LAYOUT, mechanism(4.0), ledger, population=1000, users=1, round_number=1)
    assert len(ledger.events) == 1


@pytest.mark.parametrize("deviation", [1.0, 4.0])
def test_coverage_and_gini_through_noise(deviation):
    """Gamma-Poisson exposure: both figures are found although no single count can be read."""
    generator = np.random.default_rng(3)
    counts = generator.poisson(generator.gamma(0.5, 12.0, 3000)).astype(float)
    found = [coverage_and_gini(counts + generator.normal(0, deviation, len(counts)), deviation) for _ in range(20)]
    coverage, concentration = np.mean(found, axis=0)
    assert coverage == pytest.approx((counts > 0).mean(), abs=0.03)
    assert concentration == pytest.approx(gini_of(counts), abs=0.03)


def test_equal_exposure_is_read_as_equal():
    noised = 50 + np.random.default_rng(2).normal(0, 3, 2000)
    coverage, concentration = coverage_and_gini(noised, 3.0)
    assert coverage > 0.99
    assert concentration < 0.15


def test_weak_noise_is_rounded_away():
    counts = np.array([0.0, 0, 1, 7, 30])
    noised = counts + np.random.default_rng(2).normal(0, 0.02, 5)
    assert coverage_and_gini(noised, 0.02) == (0.6, pytest.approx(gini_of(counts)))


def test_noise_alone_is_no_figure():
    values = read_metrics(np.zeros(LAYOUT.size), LAYOUT, 1.0).values
    assert all(math.isnan(value) for value in values.values())
    assert math.isnan(gini_of(np.zeros(4)))


def test_through_messages_devices_and_ledger(tmp_path: Path) -> None:
    workspace._SHOPS.clear()
    workspace._WORKSPACES.clear()
    write_tiny_shop(tmp_path / "shop")
    config = tiny_run(tmp_path, "privacy.mode=none", "federation.nodes=3")
    result = simulate(config)
    shop = load_workspace(config)
    found = private_figures(result.run, config, shop, [0.5, 1e4], draws=4)
    assert len(found) == 10
    loose = {one.name: one for one in found if one.epsilon > 100}
    exact = result.results["methods"][-1]["metrics"]
    for name in ("recall@10", "ndcg@10", "catalogue_coverage@10", "gini@10"):
        assert loose[name].exact == pytest.approx(exact[name]["mean"], abs=1e-9)
        assert loose[name].private == pytest.approx(exact[name]["mean"], abs=0.02)
    tight = {one.name: one for one in found if one.epsilon < 1}
    assert tight["recall@10"].epsilon == pytest.approx(0.5, rel=2e-3)
    assert tight["catalogue_coverage@10"].error > loose["catalogue_coverage@10"].error
    assert not result.run.ledger.exists()


@pytest.mark.parametrize("mode", ["record"])
def test_a_server_that_is_not_trusted_gets_no_sum(tmp_path: Path, mode: str) -> None:
    workspace._SHOPS.clear()
    workspace._WORKSPACES.clear()
    write_tiny_shop(tmp_path / "shop")
    config = tiny_run(tmp_path, f"privacy.mode={mode}")
    shop = load_workspace(config)
    grid = InProcessGrid(client_app(), nodes=1, state_folder=tmp_path / "devices")
    model = shop.new_model()
    shapes = wire.shared_shapes(model) | wire.public_shapes(model)
    sent = dict(model.shared_parameters()) | model.public_tensors()
    task = tasks.Task(config=config, run_id="x", population=USERS, noise_multiplier=1.0,
                      catalogue=shop.features.digest, round_number=1, users=shop.user_keys)  # fmt: skip
    message = grid.create_message(tasks.task_content(task, wire.encode(sent, shapes)), tasks.EVALUATE, 1, "1")
    (reply,) = grid.send_and_receive([message])
    assert reply.has_error()
    assert "not trusted" in reply.error.reason
    with pytest.raises(MmfedError, match="not trusted"):
        evaluate_privately(grid, config, run_id="x", nodes={1: shop.user_keys}, catalogue="", item_count=1, arrays={},
                           shapes={}, mechanism=mechanism(1.0), ledger=None, round_number=1)  # type: ignore[arg-type]  # fmt: skip


def test_an_owner_who_bounds_epsilon_gives_no_figures_that_the_device_cannot_count(tmp_path: Path) -> None:
    workspace._SHOPS.clear()
    workspace._WORKSPACES.clear()
    write_tiny_shop(tmp_path / "shop")
    config = tiny_run(tmp_path, "privacy.mode=user-ftrl")
    shop = load_workspace(config)
    model = shop.new_model()
    sent = dict(model.shared_parameters()) | model.public_tensors()
    task = tasks.Task(config=config, run_id="x", population=USERS, noise_multiplier=1.0,
                      catalogue=shop.features.digest, round_number=1, users=shop.user_keys)  # fmt: skip
    free = Node(shop, np.arange(USERS), tmp_path / "state")
    assert free.metrics(task, sent)["metrics"].any()
    bounded = Node(shop, np.arange(USERS), tmp_path / "state", lifetime=Lifetime(tmp_path / "state", 5.0, 1e-6))
    with pytest.raises(MmfedError, match="max-total-epsilon"):
        bounded.metrics(task, sent)


def test_users_without_a_target_add_nothing(tmp_path: Path) -> None:
    workspace._SHOPS.clear()
    workspace._WORKSPACES.clear()
    write_tiny_shop(tmp_path / "shop")
    config = tiny_run(tmp_path)
    shop = load_workspace(config)
    model = shop.new_model()
    alone = [users_metrics(model, shop, np.array([user]), None)["metrics"].numpy() for user in range(USERS)]
    together = users_metrics(model, shop, np.arange(USERS), None)["metrics"].numpy()
    assert sum(alone) == pytest.approx(together)
    assert max(np.linalg.norm(one) for one in alone) <= 1 + 1e-12
    assert not users_metrics(model, shop, np.zeros(0, dtype=np.int64), None)["metrics"].any()
    assert len(together) == layout_of(config, model.item_count).size
