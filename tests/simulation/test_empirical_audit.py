"""The empirical audit: honest runs pass, and every sabotage of the promise is seen."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_shop import tiny_run

from mmfed.config import Config
from mmfed.errors import MmfedError
from mmfed.federated import release as federated_release
from mmfed.federated import strategy, workspace
from mmfed.federated.workspace import load_workspace
from mmfed.privacy import ledger, mechanisms
from mmfed.privacy.audit.canaries import canary_bound
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.audit.outcome import risk_of
from mmfed.records import RunFolder
from mmfed.simulation import conformity
from mmfed.simulation.audit_run import run_ledgers
from mmfed.simulation.canary_run import AuditedRun, audit_config, choose_people, run_with_coins
from mmfed.simulation.empirical import EmpiricalPlan, audit_empirically, smaller
from mmfed.simulation.membership import inclusion_scores, likelihood_ratios
from mmfed.simulation.payload_attacks import attack_payloads
from mmfed.simulation.payloads import device_payloads
from mmfed.training import record, update

USERS, ITEMS = 60, 40
PRIVATE = ("privacy.epsilon=1", "privacy.noise_multiplier=none", "privacy.delta=1e-5")
SPARSE = ("model.name=mf", "training.objective=bpr", "training.negatives=1", "training.positions=1")


def write_shop(folder: Path, users: int = USERS, items: int = ITEMS) -> None:
    """People with a taste for one of four categories."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    with open(folder / "items.csv", "w", newline="", encoding="utf-8") as file:
        rows = [[f"i{item}", f"thing {item}", 3 + item, "abcd"[item % 4]] for item in range(items)]
        csv.writer(file).writerows([["item", "title", "price", "category"], *rows])
    with open(folder / "interactions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "action"])
        for user in range(users):
            weight = np.where(np.arange(items) % 4 == user % 4, 4.0, 1.0)
            chosen = generator.choice(items, 6 + user % 5, replace=False, p=weight / weight.sum())
            writer.writerows(
                [f"u{user}", f"i{item}", 1_700_000_000 + 259_200 * step, "buy"] for step, item in enumerate(chosen)
            )


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., Config]:
    workspace._SHOPS.clear()
    workspace._WORKSPACES.clear()
    write_shop(tmp_path / "shop")
    return lambda *more: tiny_run(tmp_path, *more)


def played(config: Config, *, rounds: int = 3, people: int = 50, name: str = "audit", seed: int = 5) -> AuditedRun:
    ours = audit_config(config, config.run.folder, rounds=rounds, name=name)
    return run_with_coins(ours, choose_people(load_workspace(ours), people, seed=1), seed=seed)


def failed(audited: AuditedRun) -> set[str]:
    return {check.name for check in conformity.check_conformity(audited) if not check.holds}


def claim_of(audited: AuditedRun) -> tuple[float, float, float]:
    """δ, ε and μ that the run's own ledger gives."""
    (one,) = audit_ledgers([audited.run.ledger]).ledgers
    assert one.recomputed is not None
    return float(one.header["delta"]), one.recomputed, one.mu or 0.0


def test_an_honest_run_keeps_its_promise(configured: Callable[..., Config]) -> None:
    audited = played(configured(*PRIVATE))
    assert failed(audited) == set()
    delta, epsilon, mu = claim_of(audited)
    bound = canary_bound(inclusion_scores(audited), audited.included, delta=delta)
    assert bound.epsilon <= epsilon
    assert bound.epsilon_of_trials <= epsilon
    assert bound.mu <= mu
    assert 0.3 < audited.included.mean() < 0.7


def test_coins_take_people_out_of_the_sum_and_nothing_else(configured: Callable[..., Config]) -> None:
    audited = played(configured("privacy.mode=none"), rounds=1)
    assert audited.run.metrics.read_text().count(f'"realised": {USERS}') == 1  # those who are out answered with nothing
    scores = inclusion_scores(audited)
    assert scores == pytest.approx(audited.included.astype(float), abs=0.05)
    assert load_workspace(audited.config).split.train.lengths.min() > 0  # the shop is whole again


def test_the_noise_switched_off(configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanisms.SeededNoise, "standard_normal", lambda self, size, **_: np.zeros(size))
    audited = played(configured(*PRIVATE))
    assert "noise has the claimed strength" in failed(audited)
    delta, epsilon, mu = claim_of(audited)
    bound = canary_bound(inclusion_scores(audited), audited.included, delta=delta)
    assert bound.accuracy == 1
    assert bound.epsilon > epsilon
    assert bound.epsilon_of_trials > epsilon
    assert bound.mu > mu


@pytest.mark.parametrize("scale", [0.5, 0.9])
def test_less_noise_than_claimed(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    real = mechanisms.SeededNoise.standard_normal
    monkeypatch.setattr(
        mechanisms.SeededNoise, "standard_normal", lambda self, size, **named: scale * real(self, size, **named)
    )
    assert failed(played(configured(*PRIVATE), rounds=5)) == {"noise has the claimed strength"}


@pytest.mark.slow
def test_half_the_noise_passes_the_claimed_mu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With enough canaries the attack alone tells half the noise from all of it."""
    write_shop(tmp_path / "shop", users=400, items=150)
    real = mechanisms.SeededNoise.standard_normal
    found = {}
    for scale in (1.0, 0.5):
        monkeypatch.setattr(
            mechanisms.SeededNoise,
            "standard_normal",
            lambda self, size, scale=scale, **named: scale * real(self, size, **named),
        )
        config = tiny_run(tmp_path, *PRIVATE, "model.dimensions=16")
        audited = played(config, rounds=1, people=390, name=f"half-{scale}")
        delta, _, mu = claim_of(audited)
        found[scale] = canary_bound(inclusion_scores(audited), audited.included, delta=delta).mu - mu
    assert found[1.0] <= 0 < found[0.5]


def test_clipping_skipped_is_refused_by_the_coordinator(
    configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update.LocalWork, "clip_norm", property(lambda self: None))
    with pytest.raises(MmfedError, match="exceeds"):
        played(configured(*PRIVATE, "privacy.clip_norm=0.01"))


@pytest.mark.slow
def test_clipping_skipped_on_both_sides(configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update.LocalWork, "clip_norm", property(lambda self: None))
    monkeypatch.setattr(federated_release.Release, "check_norm", lambda self, vector, users: None)
    real = mechanisms.GaussianMechanism.release
    monkeypatch.setattr(
        mechanisms.GaussianMechanism,
        "release",
        lambda self, total, **named: real(self, total, **{**named, "contributors": None}),
    )
    config = configured(*PRIVATE, "privacy.clip_norm=0.01", "privacy.epsilon=0.5")
    audited = played(config, people=USERS - 1)
    assert "noise has the claimed strength" in failed(audited)
    delta, epsilon, mu = claim_of(audited)
    bound = canary_bound(inclusion_scores(audited), audited.included, delta=delta)
    assert bound.epsilon > epsilon
    assert bound.mu > mu
    alone = audit_config(config, config.run.folder, rounds=1, name="devices")
    payloads = device_payloads(alone, load_workspace(alone), np.arange(10))
    assert not conformity.check_senders(np.linalg.norm(payloads.updates, axis=1), 0.01).holds


@pytest.mark.slow
def test_noise_on_touched_rows_only(configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    real = mechanisms.GaussianMechanism.release

    def touched_only(self, total, **named):
        return np.where(total != 0, real(self, total, **named), 0.0)

    config = configured(*PRIVATE, *SPARSE, "federation.cohort=4")
    assert failed(played(config)) == set()
    monkeypatch.setattr(mechanisms.GaussianMechanism, "release", touched_only)
    assert "noise stands on every coordinate" in failed(played(config, name="sparse"))


@pytest.mark.slow
def test_fixed_cohorts_instead_of_coins(configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    def fixed(users, rate, *, seed, round_number, source):
        generator = np.random.default_rng([seed % 2**32, round_number])
        return np.sort(generator.choice(users, round(rate * len(users)), replace=False))

    config = configured(*PRIVATE, "federation.cohort=20")
    assert failed(played(config)) == set()
    monkeypatch.setattr(strategy, "poisson_cohort", fixed)
    assert failed(played(config, name="fixed")) == {"cohorts are drawn by independent coins"}


@pytest.mark.slow
def test_favourites_among_the_sampled(configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    real = strategy.poisson_cohort

    def favouring(users, rate, **named):
        return np.union1d(real(users, rate, **named), users[:1])

    config = configured(*PRIVATE, "federation.cohort=20")
    monkeypatch.setattr(strategy, "poisson_cohort", favouring)
    assert "cohorts are drawn by independent coins" in failed(played(config))


def test_a_charge_skipped(configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    real = ledger.Ledger.charge
    monkeypatch.setattr(ledger.Ledger, "charge", lambda self, event: 0 if event.round == 2 else real(self, event))
    assert "every release is charged" in failed(played(configured(*PRIVATE)))


def test_lira_finds_members_and_only_by_their_own_shadows() -> None:
    generator = np.random.default_rng(2)
    coins = generator.random((9, 300)) < 0.5
    level = generator.normal(0, 3, 300)  # how hard a person is: what shadows are for
    losses = level - 1.0 * coins + generator.normal(0, 1, coins.shape)
    ratios = likelihood_ratios(losses[0], list(zip(losses[1:], coins[1:], strict=True)))
    found = canary_bound(ratios, coins[0], delta=1e-5, middle=0.0)
    plain = canary_bound(-losses[0], coins[0], delta=1e-5, middle=0.0)
    assert found.accuracy > 0.63 > plain.accuracy
    constant = [(np.zeros(300), coins[1])]
    assert np.isfinite(likelihood_ratios(np.zeros(300), constant)).all()


def areas(config: Config, name: str) -> dict[str, float]:
    alone = audit_config(config, config.run.folder, rounds=1, name=name)
    payloads = device_payloads(alone, load_workspace(alone), np.arange(USERS))
    return {attack.name: attack.value for attack in attack_payloads(payloads, load_workspace(alone), seed=1)}


def test_one_device_without_privacy_shows_everything(configured: Callable[..., Config]) -> None:
    found = areas(configured("privacy.mode=none"), "open")
    assert found["support recall"] > 0.9
    assert found["interaction membership"] > 0.85
    assert found["attribute inference"] > 0.6
    assert found["embedding inversion"] > 0.7


@pytest.mark.slow
def test_one_device_under_strong_noise_shows_nothing(configured: Callable[..., Config]) -> None:
    config = configured("privacy.mode=record", "privacy.epsilon=none", "privacy.noise_multiplier=300")
    alone = audit_config(config, config.run.folder, rounds=1, name="noisy")
    payloads = device_payloads(alone, load_workspace(alone), np.arange(USERS))
    for attack in attack_payloads(payloads, load_workspace(alone), seed=1):
        assert attack.low - 0.05 <= 0.5 <= attack.high + 0.05, attack


@pytest.mark.slow
def test_noise_on_touched_rows_of_a_device(configured: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """However strong the noise: which rows have any tells what was touched."""
    sparse = (
        *SPARSE,
        "training.positions=8",
        "training.history_dropout=0",
        "privacy.record_sample_rate=1",
        "training.engine=reference",
    )
    config = configured("privacy.mode=record", "privacy.epsilon=none", "privacy.noise_multiplier=300", *sparse)
    honest = areas(config, "dense")
    real = record._DeviceOptimiser.add_noise

    def touched_only(self) -> None:
        sums = [parameter.summed_grad.clone() for parameter in self.params]
        real(self)
        for parameter, total in zip(self.params, sums, strict=True):
            parameter.grad = parameter.grad * (total != 0)

    monkeypatch.setattr(record._DeviceOptimiser, "add_noise", touched_only)
    sabotaged = areas(config, "touched")
    assert honest["support recall"] < 0.65
    assert sabotaged["support recall"] > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("more", [PRIVATE, (*PRIVATE, "federation.cohort=20"), ("privacy.mode=none",)])
def test_the_whole_audit(configured: Callable[..., Config], tmp_path: Path, more: tuple[str, ...]) -> None:
    told = []
    found = audit_empirically(
        configured(*more),
        tmp_path / "scratch",
        EmpiricalPlan(people=40, rounds=3, shadows=3, devices=40),
        told=lambda stage, done, total: told.append((done, total)),
    )
    open_ = "privacy.mode=none" in more
    assert found["holds"] is (None if open_ else True), found
    assert {one["name"] for one in found["attacks"]} == {
        "membership, everything known",
        "membership, last model (LiRA)",
        "support recall",
        "interaction membership",
        "attribute inference",
        "embedding inversion",
    }
    assert told[-1] == (6, 6)
    if open_:
        assert found["attacks"][0]["value"] == 1.0
    else:
        assert found["canary"]["claimed"] == pytest.approx(1.0, abs=0.01)
        assert len(found["checks"]) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("privacy.clipping=adaptive",),
        ("privacy.mode=user-local",),
        ("privacy.mode=user-local", "privacy.local_noise=laplace"),
        ("privacy.mode=user-ftrl", "federation.cohort=15"),
        ("privacy.mode=record",),
    ],
)
def test_every_mode_keeps_its_promise(configured: Callable[..., Config], tmp_path: Path, more: tuple[str, ...]) -> None:
    plan = EmpiricalPlan(people=30, rounds=2, shadows=1, devices=30)
    found = audit_empirically(configured(*PRIVATE, *more), tmp_path / "scratch", plan)
    assert found["holds"] is True, found
    assert len(found["attacks"]) == 6
    bounded = {one["name"] for one in found["attacks"] if one["limit"] is not None}
    on_wire = {"support recall", "interaction membership"}
    released = {"membership, everything known", "membership, last model (LiRA)"}
    assert bounded == (on_wire if more[0] in ("privacy.mode=user-local", "privacy.mode=record") else released)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.5, 2, 8])
def test_one_device_in_user_local_shows_no_more_than_its_epsilon_allows(
    configured: Callable[..., Config], epsilon: float
) -> None:
    config = configured("privacy.mode=user-local", f"privacy.epsilon={epsilon}", "privacy.noise_multiplier=none")
    alone = audit_config(config, config.run.folder, rounds=1, name="local")
    payloads = device_payloads(alone, load_workspace(alone), np.arange(USERS))
    ledgers = audit_ledgers(run_ledgers(RunFolder(alone.run.folder / alone.run.name))).ledgers
    worst = max(ledgers, key=lambda one: one.recomputed or 0.0)
    limit = (1 + risk_of(worst).advantage) / 2
    assert worst.recomputed == pytest.approx(epsilon, rel=0.01)
    for attack in attack_payloads(payloads, load_workspace(alone), seed=1)[:2]:
        assert attack.low <= max(limit, attack.chance), attack


@pytest.mark.slow
def test_a_device_without_noise_breaks_the_promise_of_user_local(
    configured: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mechanisms.SeededNoise, "standard_normal", lambda self, size, **_: np.zeros(size))
    config = configured("privacy.mode=user-local", "privacy.epsilon=0.5", "privacy.noise_multiplier=none")
    found = audit_empirically(
        config, tmp_path / "scratch", EmpiricalPlan(people=30, rounds=1, shadows=0, devices=USERS)
    )
    assert found["holds"] is False
    broken = {one["name"] for one in found["attacks"] if one["holds"] is False}
    assert broken == {"support recall", "interaction membership"}


def test_a_large_shop_is_cut_down_at_the_same_share(configured: Callable[..., Config]) -> None:
    config = configured(*PRIVATE, "federation.cohort=30")
    found = smaller(config, EmpiricalPlan(users=20))
    assert (found.data.users, found.federation.cohort) == (20, 10)
    assert smaller(config, EmpiricalPlan(users=USERS)) is config


def test_too_few_people(tmp_path: Path) -> None:
    workspace._SHOPS.clear()
    workspace._WORKSPACES.clear()
    write_shop(tmp_path / "shop", users=4)
    with pytest.raises(MmfedError, match="too few"):
        played(tiny_run(tmp_path, *PRIVATE))


@pytest.mark.slow
def test_under_secure_aggregation_there_is_no_update_to_attack(
    configured: Callable[..., Config], tmp_path: Path
) -> None:
    """Devices refuse to answer in the clear; what is attacked are the released models, without masks."""
    found = audit_empirically(
        configured(*PRIVATE, "privacy.mode=user-distributed"),
        tmp_path / "scratch",
        EmpiricalPlan(people=40, rounds=3, shadows=1, devices=10),
    )
    assert found["holds"] is True, found
    assert {one["name"] for one in found["attacks"]} == {
        "membership, everything known",
        "membership, last model (LiRA)",
    }
