"""The one-shot release under user-level privacy: noise of the planned size, charged before it is kept, never twice."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from federation import SpyingGrid, device, federate
from one_shot_sums import accepted, direct_sums
from tiny_shop import ITEMS, USERS

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import one_shot, one_shot_sum, tasks
from mmfed.federated.coordinator import coordinate, enrol, planned_noise
from mmfed.federated.one_shot import OneShotRound, collect_one_shot, load_one_shot
from mmfed.federated.one_shot_sum import OneShotRelease
from mmfed.federated.one_shot_terms import MOST_NOISED_ITEMS, check_one_shot, one_shot_plan
from mmfed.federated.participant import client_app
from mmfed.federated.workspace import load_workspace
from mmfed.models.noised_ease import NoisedEase
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.audit.recompute import gaussian_epsilon
from mmfed.privacy.keys import load_or_create_key
from mmfed.privacy.ledger import Ledger
from mmfed.privacy.mechanisms import SecureNoise, SeededNoise
from mmfed.records import RunFolder
from mmfed.simulation.audit_run import against_rounds
from mmfed.simulation.inprocess import InProcessGrid
from mmfed.simulation.scorer import WEIGHT_UNDER_NOISE, run_model
from mmfed.training.cooccurrence import packed_size

PRIVATE = (
    "one_shot.enabled=true",
    "one_shot.popularity_share=0.2",
    "privacy.noise_multiplier=none",
    "privacy.epsilon=4",
    "privacy.delta=1e-3",
    "federation.rounds=0",
)
COVERED = 12


def lines(run: RunFolder) -> list[dict]:
    found = Ledger.open(run.ledger, load_or_create_key(run.path / "key.pem"))
    with found as ledger:
        return [dict(event.body) | {"kind": event.kind} for event in ledger.events]


def kinds(grid: SpyingGrid) -> list[str]:
    return [message.metadata.message_type for message in grid.sent]


class TestTheRun:
    def test_popularity_is_asked_first_and_then_the_pairs_of_the_most_popular(self, configured):
        config = configured(*PRIVATE, f"one_shot.items={COVERED}")
        run, grid = federate(config)
        assert kinds(grid) == [tasks.ENROL] * 2 + [tasks.ONE_SHOT] * 4
        first, second = [
            [tasks.read_task(message.content)[0].items for message in grid.sent[start : start + 2]] for start in (2, 4)
        ]
        assert first == [None, None]
        kept = load_one_shot(run)
        assert all(np.array_equal(items, kept.items) for items in second)
        assert len(kept.items) == COVERED
        assert kept.vectors["popularity"].shape == (ITEMS,)
        assert kept.cooccurrence.shape == (COVERED, COVERED)
        assert np.array_equal(kept.cooccurrence, kept.cooccurrence.T)

    def test_the_noise_is_the_planned_noise_of_the_seed(self, configured):
        """An independent sum, plus the seeded noise, rounded: nothing is added twice, nothing left out."""
        config = configured(*PRIVATE)
        run, _ = federate(config)
        kept, plan = load_one_shot(run), one_shot_plan(config, USERS)
        assert plan is not None
        assert kept.items.tolist() == list(range(ITEMS))
        for name, exact in zip(("popularity", "cooccurrence"), direct_sums(config, kept.items), strict=True):
            sigma = plan.releases()[name].noise_multiplier
            drawn = SeededNoise(config.run.seed).standard_normal(
                len(exact), round_number=0, purpose=f"one-shot-{name}"
            )  # fmt: skip
            np.testing.assert_allclose(kept.vectors[name], exact + sigma * drawn, atol=sigma * 2.0**-16)
            assert kept.noise[name] == sigma

    def test_every_coordinate_is_noised_with_the_right_deviation(self, configured):
        """σ on the packed vector, hence σ/√2 off the diagonal; 2/3 and 3/2 of it are rejected."""
        config = configured(*PRIVATE)
        plan = one_shot_plan(config, USERS)
        assert plan is not None
        assert plan.cooccurrence_noise is not None
        run, _ = federate(config)
        kept = load_one_shot(run)
        exact = direct_sums(config, kept.items)[1]
        noise = kept.vectors["cooccurrence"] - exact
        assert len(np.unique(noise)) == len(noise)

        for factor, right in ((1.0, True), (2 / 3, False), (1.5, False)):
            assert accepted(noise, factor * plan.cooccurrence_noise) == right
        matrix = kept.cooccurrence - load_matrix(exact)
        above = matrix[np.triu_indices(ITEMS, 1)]
        for factor, right in ((1.0, True), (2 / 3, False), (1.5, False)):
            assert accepted(above, factor * plan.cooccurrence_noise / math.sqrt(2)) == right

    def test_both_charges_are_in_the_ledger_and_the_audit_recomputes_them(self, configured):
        config = configured(*PRIVATE)
        run, _ = federate(config)
        header, *releases = lines(run)
        assert [(one["kind"], one["line"], one["round"], one["sampling"]) for one in releases] == [
            ("release", "statistics", 0, "full"),
            ("release", "model", 0, "full"),
        ]
        assert all(one["clip_norm"] == 1.0 and one["planned_cohort"] == USERS for one in releases)
        mu = math.sqrt(sum(1 / one["noise_multiplier"] ** 2 for one in releases))
        assert gaussian_epsilon(mu, 1e-3) == pytest.approx(4.0, rel=2e-3)
        assert releases[-1]["epsilon"] <= header["target_epsilon"] == 4.0
        audit = against_rounds(run, config, audit_ledgers([run.ledger], thorough=True))
        assert audit.holds
        assert audit.ledgers[0].recomputed == pytest.approx(4.0, rel=2e-3)
        assert 0 < audit.ledgers[0].epsilon_by_line["statistics"] < audit.ledgers[0].epsilon_by_line["model"] < 4

    def test_the_model_of_no_round_is_kept_and_scored_beside_the_release(self, configured):
        config = configured(*PRIVATE, "one_shot.teacher_steps=3")
        run, _ = federate(config)
        found = run_model(run, config, load_workspace(config))
        assert found.round == 0
        assert isinstance(found.beside, NoisedEase)
        assert found.weight == WEIGHT_UNDER_NOISE, "no private validation figure chooses it"
        records = (run.metrics).read_text().splitlines()
        assert len(records) == 1

    def test_popularity_alone_asks_for_no_pairs(self, configured):
        config = configured(*PRIVATE, "one_shot.popularity_share=1")
        run, grid = federate(config)
        assert kinds(grid) == [tasks.ENROL] * 2 + [tasks.ONE_SHOT] * 2
        kept = load_one_shot(run)
        assert set(kept.vectors) == {"popularity"}
        with pytest.raises(MmfedError, match="popularity alone"):
            _ = kept.cooccurrence
        teacher = run_model(run, config, load_workspace(config)).beside
        assert isinstance(teacher, NoisedEase)
        assert not teacher.paired


def load_matrix(vector: np.ndarray) -> np.ndarray:
    """The symmetric matrix of a packed vector, entry by entry."""
    matrix, place = np.zeros((ITEMS, ITEMS)), 0
    for i in range(ITEMS):
        for j in range(i, ITEMS):
            matrix[i, j] = matrix[j, i] = vector[place] if i == j else vector[place] / math.sqrt(2)
            place += 1
    return matrix


class TestTheBudget:
    def test_release_and_rounds_share_one_target(self, configured):
        config = configured(*PRIVATE, "federation.rounds=3", "one_shot.epsilon_share=0.4")
        run, _ = federate(config)
        header, *releases = lines(run)
        assert [one["round"] for one in releases] == [0, 0, 1, 2, 3]
        early = math.sqrt(sum(1 / one["noise_multiplier"] ** 2 for one in releases[:2]))
        assert gaussian_epsilon(early, 1e-3) == pytest.approx(0.4 * 4, rel=2e-3)
        everything = math.sqrt(sum(1 / one["noise_multiplier"] ** 2 for one in releases))
        assert gaussian_epsilon(everything, 1e-3) == pytest.approx(4.0, rel=2e-3)
        assert gaussian_epsilon(everything, 1e-3) <= 4.0
        assert header["target_epsilon"] == 4.0
        assert against_rounds(run, config, audit_ledgers([run.ledger])).holds

    @pytest.mark.slow
    def test_sampled_rounds_compose_with_the_release(self, configured):
        config = configured(*PRIVATE, "federation.rounds=3", "federation.cohort=6", "one_shot.epsilon_share=0.4")
        run, _ = federate(config)
        audit = against_rounds(run, config, audit_ledgers([run.ledger]))
        assert audit.holds
        assert audit.ledgers[0].recomputed is not None
        assert 3.9 < audit.ledgers[0].recomputed <= 4.0 + 1e-6

    def test_rounds_get_more_noise_with_a_release_before_them(self, configured):
        config = configured(*PRIVATE, "federation.rounds=3")
        without = config.model_copy(update={"one_shot": config.one_shot.model_copy(update={"enabled": False})})
        beside, alone = (
            planned_noise(config, USERS, 1.0, parameters=1, item_count=ITEMS),
            planned_noise(without, USERS, 1.0, parameters=1, item_count=ITEMS),
        )
        assert beside is not None
        assert alone is not None
        assert beside > 1.1 * alone

    def test_nothing_left_for_the_rounds_is_refused(self, configured):
        with pytest.raises(MmfedError, match="leaves nothing") as fault:
            federate(configured(*PRIVATE, "federation.rounds=1", "one_shot.epsilon_share=1"))
        assert fault.value.code is ExitCode.PRIVACY

    def test_noise_given_instead_of_epsilon_is_refused_before_anybody_is_asked(self, configured):
        config = configured(*PRIVATE, "privacy.noise_multiplier=1")
        with pytest.raises(MmfedError, match="its noise is planned"):
            federate(config)
        assert not (config.run.folder / "tiny" / "ledger.jsonl").exists()

    def test_a_catalogue_too_large_for_noise_is_refused(self, configured):
        check_one_shot(configured(*PRIVATE), MOST_NOISED_ITEMS)
        with pytest.raises(MmfedError, match="this privacy mode"):
            check_one_shot(configured(*PRIVATE), MOST_NOISED_ITEMS + 1)

    def test_no_round_and_no_release_is_no_run(self, configured):
        with pytest.raises(MmfedError, match="learns nothing"):
            configured("federation.rounds=0")


@dataclass
class Place:
    """A run folder with an open ledger, to be killed at any instant."""

    config: Config
    run: RunFolder
    folder: Path

    def collect(self, noise=None) -> one_shot.OneShotSum:
        workspace = load_workspace(self.config)
        grid = SpyingGrid(InProcessGrid(client_app(), nodes=2, state_folder=self.folder / "state"))
        members = enrol(grid, self.config, "run-1", workspace)
        asked = OneShotRound(grid, self.config, "run-1", members, workspace.features.digest, ITEMS)
        key, plan = load_or_create_key(self.run.path / "key.pem"), one_shot_plan(self.config, USERS)
        assert plan is not None
        from mmfed.federated.coordinator import _ledger

        with _ledger(self.config, self.run, "run-1", USERS, key) as ledger:  # type: ignore[union-attr]
            release = OneShotRelease(self.config, plan, ledger, noise or SeededNoise(self.config.run.seed))
            return collect_one_shot(asked, self.run, key, release=release)


@pytest.fixture
def place(configured, tmp_path) -> Place:
    return Place(configured(*PRIVATE), RunFolder(tmp_path / "run"), tmp_path)


class Killed(BaseException):
    """The process dies here."""


class TestACrash:
    @pytest.mark.parametrize("charges", [0, 1])
    def test_before_a_charge_nothing_is_kept_of_it(self, place, monkeypatch, charges):
        real, done = Ledger.charge, []

        def dies(self, event):
            if len(done) == charges:
                raise Killed
            done.append(event)
            return real(self, event)

        monkeypatch.setattr(Ledger, "charge", dies)
        with pytest.raises(Killed):
            place.collect()
        held = place.run.checkpoints / one_shot.FILE
        assert held.exists() == (charges == 1)
        assert charges == 0 or set(load_one_shot(place.run).vectors) == {"popularity"}

    @pytest.mark.parametrize("saves", [0, 1])
    def test_after_a_charge_a_seeded_run_draws_the_same_and_pays_once(self, place, monkeypatch, tmp_path, saves):
        whole = Place(place.config, RunFolder(tmp_path / "whole"), tmp_path / "other").collect()
        self.killed_at_save(place, monkeypatch, saves)
        assert len(lines(place.run)) == 2 + saves
        again = place.collect()
        assert all(np.array_equal(again.vectors[name], whole.vectors[name]) for name in whole.vectors)
        assert [one["kind"] for one in lines(place.run)] == ["header", "release", "release"]

    @pytest.mark.parametrize("saves", [0, 1])
    def test_after_a_charge_secure_noise_is_refused_a_second_draw(self, place, monkeypatch, saves):
        """The budget is spent on nothing, and the ledger says so: never a second release for the price of one."""
        self.killed_at_save(place, monkeypatch, saves, noise=SecureNoise())
        with pytest.raises(MmfedError, match="budget exhausted") as fault:
            place.collect(SecureNoise())
        assert fault.value.code is ExitCode.PRIVACY
        held = load_one_shot(place.run).vectors if (place.run.checkpoints / one_shot.FILE).exists() else {}
        charged = {one["result_hash"] for one in lines(place.run) if one["kind"] == "release"}
        assert all(one_shot_sum.result_hash(vector) in charged for vector in held.values())
        assert lines(place.run)[-1]["kind"] == "refusal"
        assert max(one.get("epsilon", 0.0) for one in lines(place.run)) <= 4.0

    @staticmethod
    def killed_at_save(place, monkeypatch, saves, noise=None):
        real, done = one_shot_sum.save_checkpoint, []

        def dies(*arguments):
            if len(done) == saves:
                raise Killed
            done.append(arguments)
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(one_shot_sum, "save_checkpoint", dies)
            with pytest.raises(Killed):
                place.collect(noise)

    def test_a_kept_release_is_read_and_nobody_asked_again(self, place):
        first = place.collect()
        again = place.collect(SecureNoise())
        assert all(np.array_equal(first.vectors[name], again.vectors[name]) for name in first.vectors)
        assert len(lines(place.run)) == 3

    def test_a_release_of_another_ledger_is_refused(self, place, tmp_path):
        place.collect()
        place.run.ledger.unlink()
        with pytest.raises(MmfedError, match="not what the ledger was charged for") as fault:
            place.collect()
        assert fault.value.code is ExitCode.AUDIT

    def test_a_full_disk_at_the_ledger_leaves_nothing(self, place, monkeypatch):
        import mmfed.privacy.ledger as ledger

        calls, real = [], ledger._write_all

        def full(*arguments):
            calls.append(arguments)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(ledger, "_write_all", full)
        with pytest.raises(MmfedError, match="could not be made durable"):
            place.collect()
        assert calls
        assert not (place.run.checkpoints / one_shot.FILE).exists()
        monkeypatch.setattr(ledger, "_write_all", real)
        place.collect()
        assert len(lines(place.run)) == 3

    def test_a_resumed_run_does_not_ask_again(self, configured):
        config = configured(*PRIVATE, "federation.rounds=1", "one_shot.epsilon_share=0.5")
        run, _ = federate(config)
        before = run.ledger.read_bytes()
        _, again = federate(config.model_copy(deep=True), resume=True)
        assert tasks.ONE_SHOT not in kinds(again)
        assert run.ledger.read_bytes() == before


class TestTheAudit:
    def test_a_ledger_without_its_rounds_is_noticed_though_the_release_is_there(self, configured):
        """Two one-shot charges do not stand for two rounds."""
        config = configured(*PRIVATE, "federation.rounds=2", "one_shot.epsilon_share=0.5")
        run, _ = federate(config)
        cut = run.ledger.read_bytes().splitlines(keepends=True)[:4]
        run.ledger.write_bytes(b"".join(cut))
        findings = against_rounds(run, config, audit_ledgers([run.ledger])).findings
        assert any("recorded 2 rounds" in finding.what for finding in findings)


class TestADevice:
    def test_it_gives_popularity_first_and_pairs_of_the_items_asked_for(self, configured, tmp_path):
        config = configured(*PRIVATE)
        answer = device(config, tmp_path)
        for items, name, size in ((None, "popularity", ITEMS), (np.arange(3, 9), "cooccurrence", packed_size(6))):
            reply = answer(tasks.task_content(replace(task_of(config), items=items)), tasks.ONE_SHOT)
            arrays = reply.content.array_records["model"]
            assert {one: tuple(array.shape) for one, array in arrays.items()} == {name: (size,)}
            vector = arrays[name].numpy()
            assert np.linalg.norm(vector) <= 1 + 1e-12

    @pytest.mark.parametrize("items", [[0, ITEMS], [3, 3], [4, 2]])
    def test_items_that_are_not_there_or_twice_are_refused(self, configured, tmp_path, items):
        config = configured(*PRIVATE)
        task = replace(task_of(config), items=np.array(items))
        reply = device(config, tmp_path)(tasks.task_content(task), tasks.ONE_SHOT)
        assert reply.has_error()

    def test_a_limit_of_its_own_on_epsilon_holds_here_too(self, configured, tmp_path):
        config = configured(*PRIVATE)
        reply = device(config, tmp_path, **{"max-epsilon": "1"})(tasks.task_content(task_of(config)), tasks.ONE_SHOT)
        assert reply.has_error()
        assert "allows epsilon 1" in reply.error.reason


def task_of(config: Config) -> tasks.Task:
    workspace = load_workspace(config)
    return tasks.Task(
        config=config,
        run_id="run-1",
        population=USERS,
        noise_multiplier=0.0,
        catalogue=workspace.features.digest,
        round_number=0,
        users=workspace.user_keys[:1],
    )


def test_a_mode_that_promises_privacy_never_collects_without_noise(configured, tmp_path):
    config = configured(*PRIVATE)
    workspace, run = load_workspace(config), RunFolder(tmp_path / "run")
    grid = SpyingGrid(InProcessGrid(client_app(), nodes=2, state_folder=tmp_path / "state"))
    asked = OneShotRound(grid, config, "run-1", {1: workspace.user_keys}, workspace.features.digest, ITEMS)
    with pytest.raises(MmfedError, match="no release to match"):
        collect_one_shot(asked, run, load_or_create_key(run.path / "key.pem"))
    assert not grid.sent


def test_the_coordinator_is_what_adds_the_noise(configured):
    """The whole way, without the test's own ledger: what is kept is never the plain sum."""
    config = configured(*PRIVATE, "run.name=whole")
    run = RunFolder(config.run.folder / config.run.name)
    grid = SpyingGrid(InProcessGrid(client_app(), nodes=2, state_folder=run.devices))
    coordinate(grid, config, run, None, resume=False)
    kept = load_one_shot(run)
    exact = direct_sums(config, kept.items)[1]
    assert np.abs(kept.vectors["cooccurrence"] - exact).min() > 0
