"""The one-shot release in mode user-local: every device bounds, noises and pays for its own vectors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from federation import device, federate
from one_shot_sums import accepted, direct_sums
from tiny_shop import ITEMS, USERS

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import tasks, wire
from mmfed.federated.one_shot import load_one_shot
from mmfed.federated.one_shot_terms import MOST_PAIRED_ITEMS, check_one_shot, device_plan, one_shot_shapes
from mmfed.federated.workspace import load_workspace
from mmfed.models.noised_ease import NoisedEase
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.mechanisms import SeededNoise
from mmfed.privacy.one_shot_local import ONE_SHOT_SENSITIVITY, LocalOneShotPlan
from mmfed.records import read_lines
from mmfed.rng import derive
from mmfed.simulation.audit_run import against_rounds, run_ledgers
from mmfed.simulation.scorer import run_model

LOCAL = (
    "privacy.mode=user-local",
    "one_shot.enabled=true",
    "one_shot.popularity_share=0.2",
    "privacy.noise_multiplier=none",
    "privacy.epsilon=4",
    "privacy.delta=1e-3",
    "federation.rounds=0",
)


def plan_of(config) -> LocalOneShotPlan:
    plan = device_plan(config, USERS, ITEMS)
    assert isinstance(plan, LocalOneShotPlan)
    return plan


def task_of(config, items=None, *, user=3, **changes) -> tasks.Task:
    workspace = load_workspace(config)
    name = "popularity" if items is None else "cooccurrence"
    task = tasks.Task(
        config=config,
        run_id="run-1",
        population=USERS,
        noise_multiplier=plan_of(config).noise_multipliers().get(name, 1.0),
        catalogue=workspace.features.digest,
        round_number=0,
        users=workspace.user_keys[user : user + 1],
        items=items,
    )
    return replace(task, **changes)


def sent(config, folder, task, **settings):
    """What one device's reply holds, or why it refused."""
    reply = device(config, folder, **settings)(tasks.task_content(task), tasks.ONE_SHOT)
    if reply.has_error():
        return reply.error.reason
    arrays, realised = tasks.read_training_reply(reply.content)
    shapes = one_shot_shapes(task.config, ITEMS, task.items)
    return wire.flatten(wire.decode(arrays, shapes), shapes), realised


class TestTheRun:
    def test_the_sums_are_the_exact_ones_plus_the_noise_of_every_device(self, configured):
        config = configured(*LOCAL)
        run, _ = federate(config)
        kept, workspace = load_one_shot(run), load_workspace(config)
        for name, exact in zip(("popularity", "cooccurrence"), direct_sums(config, kept.items), strict=True):
            sigma = plan_of(config).noise_multipliers()[name]
            drawn = sum(
                SeededNoise(derive(config.run.seed, "device", int(key))).standard_normal(
                    len(exact), round_number=0, purpose=f"one-shot-{name}"
                )
                for key in workspace.user_keys
            )
            np.testing.assert_allclose(kept.vectors[name], exact + sigma * drawn, atol=USERS * sigma * 2.0**-16)
            assert kept.noise[name] == pytest.approx(sigma * math.sqrt(USERS))
            for factor, right in ((1.0, True), (2 / 3, False), (1.5, False)):
                if name == "cooccurrence":
                    assert accepted(kept.vectors[name] - exact, factor * kept.noise[name]) == right

    def test_every_device_pays_for_both_and_the_audit_recomputes_it(self, configured):
        config = configured(*LOCAL)
        run, grid = federate(config)
        assert not run.ledger.exists(), "the server charges nothing"
        ledgers = run_ledgers(run)
        audit = against_rounds(run, config, audit_ledgers(ledgers, thorough=True))
        assert audit.holds, audit.findings
        assert len(ledgers) == USERS
        for one in audit.ledgers:
            assert one.recomputed == pytest.approx(4.0, rel=1e-6)
            bodies = [line.body for line in one.charges()]
            assert [(body["line"], body["round"]) for body in bodies] == [("statistics", 0), ("model", 0)]
            assert {body["sensitivity"] for body in bodies} == {ONE_SHOT_SENSITIVITY}
            assert {body["noise_added_by"] for body in bodies} == {"device"}
        kinds = [message.metadata.message_type for message in grid.sent]
        assert kinds == [tasks.ENROL] * 2 + [tasks.ONE_SHOT] * 4
        for path in ledgers:
            forget_charges(path)
        assert not against_rounds(run, config, audit_ledgers(ledgers)).holds

    def test_the_model_is_scored_beside_the_release(self, configured):
        config = configured(*LOCAL)
        run, _ = federate(config)
        beside = run_model(run, config, load_workspace(config)).beside
        assert isinstance(beside, NoisedEase)
        assert beside.paired

    def test_rounds_after_it_share_the_epsilon_of_every_device(self, configured):
        config = configured(*LOCAL, "federation.rounds=2", "one_shot.epsilon_share=0.4", "privacy.participations=2")
        run, _ = federate(config)
        audit = against_rounds(run, config, audit_ledgers(run_ledgers(run)))
        assert audit.holds, audit.findings
        for one in audit.ledgers:
            assert [line.body["round"] for line in one.charges()] == [0, 0, 1, 2], "the release is no participation"
            assert one.recomputed == pytest.approx(4.0, rel=1e-6)
        assert [record["realised"] for record in read_lines(run.metrics)] == [USERS, USERS]

    def test_a_node_whose_sum_is_larger_than_noise_explains_is_left_out(self, configured, monkeypatch):
        from mmfed.federated import participant

        real, nodes = participant.noised_statistics, []

        def forged(node, task):
            total, realised = real(node, task)
            nodes.append(node)
            return (total + 1e3 if len(nodes) % 2 else total), realised

        monkeypatch.setattr(participant, "noised_statistics", forged)
        run, _ = federate(configured(*LOCAL))
        kept = load_one_shot(run)
        sigma = plan_of(configured(*LOCAL)).popularity_noise
        assert kept.noise["popularity"] == pytest.approx(sigma * math.sqrt(USERS / 2))
        assert np.abs(kept.vectors["popularity"]).max() < 100


def forget_charges(path) -> None:
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


class TestADevice:
    def test_what_leaves_is_within_noise_of_its_vector(self, configured, tmp_path):
        config = configured(*LOCAL)
        vector, realised = sent(config, tmp_path, task_of(config))
        exact, sigma = direct_sums(config, np.arange(ITEMS), users=[3])[0], plan_of(config).popularity_noise
        assert realised == 1
        assert np.abs(vector - exact).min() > 0, "every coordinate is noised, touched or not"
        assert np.linalg.norm(vector - exact) < sigma * (math.sqrt(ITEMS) + 6)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"noise_multiplier": 0.1}, "offers noise 0.1 on popularity"),
            ({"noise_multiplier": float("nan")}, "offers noise nan"),
            ({"round_number": 1}, "comes before the rounds"),
            ({"items": np.arange(3, 9)}, "pairs of 6 items, the plan says 30"),
        ],
    )
    def test_a_release_that_asks_too_much_is_refused(self, configured, tmp_path, changes, said):
        config = configured(*LOCAL)
        answer = sent(config, tmp_path, task_of(config, **changes))
        assert isinstance(answer, str)
        assert said in answer
        assert not list(tmp_path.rglob("ledgers/*.jsonl")), "nothing was charged, nothing left"

    def test_pairs_that_the_plan_has_no_budget_for_are_refused(self, configured, tmp_path):
        config = configured(*LOCAL, "one_shot.popularity_share=1")
        answer = sent(config, tmp_path, task_of(config, np.arange(ITEMS)))
        assert "has no budget for" in answer

    def test_a_second_ask_with_fresh_noise_is_refused_and_written_down(self, configured, tmp_path):
        config = configured(*LOCAL, "privacy.noise_source=csprng")
        for items in (None, np.arange(ITEMS)):
            assert sent(config, tmp_path, task_of(config, items))[1] == 1
        for items in (None, np.arange(ITEMS)):
            vector, realised = sent(config, tmp_path, task_of(config, items))
            assert realised == 0
            assert not vector.any()
        (path,) = tmp_path.rglob("ledgers/*.jsonl")
        kinds = [line["kind"] for line in read_lines(path)]
        assert kinds == ["header", "release", "release", "refusal", "refusal"]
        assert audit_ledgers([path]).holds

    def test_a_second_ask_with_the_seeded_noise_is_the_same_and_free(self, configured, tmp_path):
        config = configured(*LOCAL)
        first, second = (sent(config, tmp_path, task_of(config))[0] for _ in range(2))
        assert np.array_equal(first, second)
        (path,) = tmp_path.rglob("ledgers/*.jsonl")
        assert [line["kind"] for line in read_lines(path)] == ["header", "release"]

    def test_the_owners_bound_and_the_bound_of_a_line_hold(self, configured, tmp_path):
        config = configured(*LOCAL)
        assert sent(config, tmp_path / "a", task_of(config), **{"max-total-epsilon": "1"})[1] == 0
        bounded = configured(*LOCAL, "privacy.lines.statistics=0.5")
        assert sent(bounded, tmp_path / "b", task_of(bounded))[1] == 0
        assert sent(bounded, tmp_path / "b", task_of(bounded, np.arange(ITEMS)))[1] == 1

    @pytest.mark.parametrize("mode", ["user-local", "record", "user-central", "none"])
    def test_training_under_the_name_of_the_release_is_refused(self, configured, tmp_path, mode):
        """An update moves by 2 clip norms, a vector of the release by √2: it must not be charged as one."""
        config = configured(*LOCAL[3:], f"privacy.mode={mode}", "federation.rounds=3")
        workspace = load_workspace(config)
        arrays = wire.encode(workspace.new_model().shared_parameters(), wire.shared_shapes(workspace.new_model()))
        for round_number, refused in ((0, True), (1, False)):
            task = tasks.Task(
                config=config,
                run_id="run-1",
                population=USERS,
                noise_multiplier=50.0,
                catalogue=workspace.features.digest,
                round_number=round_number,
                users=workspace.user_keys[3:4],
            )
            reply = device(config, tmp_path)(tasks.task_content(task, arrays), tasks.TRAIN)
            assert reply.has_error() == refused
            if refused:
                assert "rounds begin at 1" in reply.error.reason
                assert not list(tmp_path.rglob("*.jsonl")), "nothing was charged, nothing left"

    def test_a_charge_that_cannot_be_made_durable_lets_nothing_out(self, configured, tmp_path, monkeypatch):
        from mmfed.privacy.ledger import Ledger

        def full(self, event):
            raise MmfedError(ExitCode.STORAGE, "disk full", "make room.")

        monkeypatch.setattr(Ledger, "charge", full)
        config = configured(*LOCAL)
        assert "disk full" in sent(config, tmp_path, task_of(config))


class TestRefusals:
    def test_laplace_noise_does_not_fit(self, configured):
        with pytest.raises(MmfedError, match="bounded in L2"):
            federate(configured(*LOCAL, "privacy.local_noise=laplace"))

    @pytest.mark.parametrize("mode", ["user-local", "user-distributed"])
    def test_too_many_pairs_for_a_device(self, configured, mode):
        right = configured(*LOCAL, f"privacy.mode={mode}", f"one_shot.items={MOST_PAIRED_ITEMS}")
        check_one_shot(right, 9_000)
        wrong = configured(*LOCAL, f"privacy.mode={mode}", f"one_shot.items={MOST_PAIRED_ITEMS + 1}")
        with pytest.raises(MmfedError, match=r"4,19\d,\d\d\d numbers, 32 MiB") as fault:
            check_one_shot(wrong, 9_000)
        assert f"at most {MOST_PAIRED_ITEMS}" in fault.value.fix
        check_one_shot(wrong, MOST_PAIRED_ITEMS)  # no more items than there are
