"""The one-shot release in mode user-distributed: exact sums of noised vectors under masks, charged on both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from federation import device, federate
from one_shot_sums import accepted, direct_sums
from test_secure_devices import RefusalError, Round
from test_secure_rounds import named_run, releases, silent_from
from tiny_shop import ITEMS, USERS

from mmfed.errors import MmfedError
from mmfed.federated import one_shot_sum, tasks
from mmfed.federated import secure_messages as messages
from mmfed.federated.one_shot import load_one_shot
from mmfed.federated.one_shot_terms import device_plan, sum_noise
from mmfed.federated.secure_exchange import SecureExchange
from mmfed.federated.workspace import load_workspace
from mmfed.models.noised_ease import NoisedEase
from mmfed.privacy.audit.crosscheck import cross_check
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.one_shot_shares import SharedOneShotPlan
from mmfed.privacy.random_words import SeededWords
from mmfed.records import RunFolder, read_lines
from mmfed.rng import derive
from mmfed.simulation.audit_run import against_rounds, run_ledgers
from mmfed.simulation.scorer import run_model

SHARED = (
    "privacy.mode=user-distributed",
    "one_shot.enabled=true",
    "one_shot.popularity_share=0.2",
    "privacy.noise_multiplier=none",
    "privacy.epsilon=4",
    "privacy.delta=1e-3",
    "federation.rounds=0",
    "federation.round_timeout=60",
)
ONE_NODE = (*SHARED, "privacy.masks=skipped")


def plan_of(config) -> SharedOneShotPlan:
    plan = device_plan(config, USERS, ITEMS)
    assert isinstance(plan, SharedOneShotPlan)
    return plan


class TestTheSum:
    def test_it_is_exactly_the_sum_of_what_the_devices_encode(self, configured):
        """Under masks, one node a user: the integers of every device, made here, add up to the release, bit for bit."""
        config = configured(*SHARED)
        run, _ = named_run(config, nodes=USERS)
        kept, workspace = load_one_shot(run), load_workspace(config)
        for place, name in enumerate(("popularity", "cooccurrence")):
            noise = plan_of(config).noises[name]
            total = np.zeros(noise.width, dtype=np.int64)
            for user in range(USERS):
                own = direct_sums(config, kept.items, users=[user])[place]
                seed = derive(config.run.seed, "device", int(workspace.user_keys[user]))
                source = SeededWords(seed, f"one-shot-{name}", 0)
                total += noise.encode(own, run_id="tiny-1", round_number=0, source=source)
            decoded = noise.decode(total, run_id="tiny-1", round_number=0)
            assert np.array_equal(kept.vectors[name], decoded)

    def test_masks_and_nodes_change_nothing_in_it(self, configured):
        found = []
        for name, nodes, masks in (("cohorts", 4, "always"), ("simulated", 1, "skipped")):
            config = configured(*SHARED, f"run.name={name}", f"privacy.masks={masks}")
            found.append(load_one_shot(named_run(config, nodes=nodes)[0]))
        assert all(np.array_equal(found[0].vectors[name], found[1].vectors[name]) for name in found[0].vectors)

    def test_the_noise_in_it_has_its_law_with_power(self, configured):
        config = configured(*ONE_NODE)
        kept = load_one_shot(federate(config, nodes=1)[0])
        exact = direct_sums(config, kept.items)[1]
        noise = kept.vectors["cooccurrence"] - exact
        for factor, right in ((1.0, True), (2 / 3, False), (1.5, False)):
            assert accepted(noise, factor * kept.noise["cooccurrence"]) == right
        assert kept.noise["cooccurrence"] == plan_of(config).noises["cooccurrence"].deviation(USERS)


class TestTheAccount:
    def test_both_sides_pay_for_both_sums_and_the_audit_recomputes_it(self, configured):
        config = configured(*SHARED)
        run, grid = federate(config, nodes=USERS)
        paths = run_ledgers(run)
        assert len(paths) == 1 + USERS
        audit = against_rounds(run, config, audit_ledgers(paths, thorough=True))
        assert audit.holds, audit.findings
        assert not cross_check(audit.ledgers).findings
        for one in audit.ledgers:
            assert one.recomputed == pytest.approx(4.0, rel=1e-3)
            assert one.recomputed <= 4.0
            bodies = [line.body for line in one.charges()]
            assert [(body["line"], body["round"], body["mechanism"]) for body in bodies] == [
                ("statistics", 0, "skellam"),
                ("model", 0, "skellam"),
            ]
        assert tasks.ONE_SHOT not in {message.metadata.message_type for message in grid.sent}, "nothing in the clear"

    def test_rounds_after_it_share_the_target(self, configured):
        config = configured(*ONE_NODE, "federation.rounds=2", "one_shot.epsilon_share=0.4", "training.pretraining=0")
        run, _ = federate(config, nodes=1)
        audit = against_rounds(run, config, audit_ledgers([run.ledger]))
        assert audit.holds, audit.findings
        assert [body["round"] for body in releases(run)] == [0, 0, 1, 2]
        assert audit.ledgers[0].recomputed == pytest.approx(4.0, rel=1e-3)
        early = [one for one in releases(run) if one["round"] == 0][-1]
        assert early["epsilon"] == pytest.approx(1.6, rel=1e-3)

    def test_a_missing_charge_is_noticed(self, configured):
        config = configured(*ONE_NODE)
        run, _ = federate(config, nodes=1)
        run.ledger.write_bytes(run.ledger.read_bytes().splitlines(keepends=True)[0])
        assert not against_rounds(run, config, audit_ledgers([run.ledger])).holds

    def test_a_bound_on_the_line_stops_it_before_anybody_is_asked(self, configured, monkeypatch):
        monkeypatch.setattr(SecureExchange, "total", lambda *arguments: pytest.fail("devices were asked"))
        config = configured(*ONE_NODE, "privacy.lines.statistics=0.1")
        with pytest.raises(MmfedError, match="budget of line statistics"):
            federate(config, nodes=1)
        run = RunFolder(config.run.folder / config.run.name)
        assert releases(run) == []
        assert read_lines(run.ledger)[-1]["kind"] == "refusal"

    @pytest.mark.parametrize("saves", [0, 1])
    def test_killed_after_a_charge_it_asks_again_and_pays_once(self, configured, monkeypatch, saves):
        config, real, done = configured(*ONE_NODE), one_shot_sum.save_checkpoint, []

        def dies(*arguments):
            if len(done) == saves:
                raise KeyboardInterrupt
            done.append(arguments)
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(one_shot_sum, "save_checkpoint", dies)
            with pytest.raises(KeyboardInterrupt):
                federate(config, nodes=1)
        run, _ = federate(config, nodes=1)
        assert [body["line"] for body in releases(run)] == ["statistics", "model"]
        assert against_rounds(run, config, audit_ledgers([run.ledger])).holds


class TestDropouts:
    def test_it_goes_on_without_those_who_vanish_and_knows_its_noise(self, configured):
        fakes = {3: silent_from(messages.MASK, 0), 7: silent_from(messages.ADVERTISE, 0)}
        config = configured(*SHARED)
        run, _ = federate(config, nodes=USERS, fakes=fakes)
        assert [(body["realised_cohort"], body["dropouts"]) for body in releases(run)] == [(10, 2), (10, 2)]
        kept = load_one_shot(run)
        assert kept.noise["popularity"] == plan_of(config).noises["popularity"].deviation(10)
        beside = run_model(run, config, load_workspace(config)).beside
        assert isinstance(beside, NoisedEase)

    def test_below_the_minimum_nothing_is_released(self, configured):
        fakes = {node: silent_from(messages.MASK, 0) for node in (1, 4, 5)}
        config = configured(*SHARED)
        with pytest.raises(MmfedError, match="9 users"):
            federate(config, nodes=USERS, fakes=fakes)
        run = RunFolder(config.run.folder / config.run.name)
        assert releases(run) == []
        assert not (run.checkpoints / one_shot_sum.FILE).exists()

    def test_without_masks_the_minimum_holds_as_well(self, configured):
        """A node of three users that says nothing (labelled fake)."""
        config = configured(*ONE_NODE)
        with pytest.raises(MmfedError, match="9 users of the 10 needed; nothing was released"):
            federate(config, nodes=4, fakes={2: lambda message, real: []})
        run = RunFolder(config.run.folder / config.run.name)
        assert releases(run) == []
        assert not (run.checkpoints / one_shot_sum.FILE).exists()


class EarlyRound(Round):
    """A real device and eleven peers in the one-shot round."""

    def __init__(self, config, folder, *, items=None, noise=None, **settings: str) -> None:
        super().__init__(config, folder, **settings)
        name = "popularity" if items is None else "cooccurrence"
        planned = plan_of(config).noises.get(name)
        sigma = noise or (1.0 if planned is None else planned.noise_multiplier)
        self.task = replace(self.task, round_number=0, items=items, noise_multiplier=sigma)
        self.arrays = None

    def context(self, **changes):
        noise = sum_noise(
            self.task.config,
            ITEMS,
            population=USERS,
            noise_multiplier=self.task.noise_multiplier,
            items=self.task.items,
        )
        terms = {"minimum_users": noise.minimum, "bits": noise.bits, "length": noise.width, "terms": noise.terms()}
        whole = {**terms, "round_number": 0, **changes}
        return super().context(**whole)


SECURE = (*SHARED, "privacy.noise_source=csprng")


class TestADevice:
    def test_it_takes_part_and_pays_before_its_masked_vector_leaves(self, configured, tmp_path):
        one = EarlyRound(configured(*SECURE), tmp_path)
        one.enrol()
        context, _, vector = one.until_masked()
        assert len(vector) == context.ring.size(context.length)
        (path,) = tmp_path.rglob("ledgers/*.jsonl")
        body = read_lines(path)[1]["body"]
        assert (body["line"], body["round"], body["mechanism"]) == ("statistics", 0, "skellam")

    @pytest.mark.parametrize(
        ("more", "change", "said"),
        [
            ((), {"noise": 0.5}, "offers noise 0.5 on popularity"),
            ((), {"items": np.arange(5)}, "pairs of 5 items, the plan says 30"),
            (("one_shot.popularity_share=1",), {"items": np.arange(ITEMS)}, "has no budget for"),
            (("one_shot.enabled=false", "federation.rounds=1"), {}, "has no budget for"),
        ],
    )
    def test_a_release_that_asks_too_much_is_refused_before_a_key_is_made(
        self, configured, tmp_path, more, change, said
    ):
        honest = configured(*SECURE)
        one = EarlyRound(honest, tmp_path, **change)
        one.task = replace(one.task, config=configured(*SECURE, *more))
        one.enrol()
        with pytest.raises(RefusalError, match=said):
            one.say(messages.ADVERTISE, context=messages.context_bytes(one.context()))
        assert not list(tmp_path.rglob("ledgers/*.jsonl"))

    def test_a_second_ask_with_fresh_noise_is_refused_and_written_down(self, configured, tmp_path):
        one = EarlyRound(configured(*SECURE, "one_shot.popularity_share=1"), tmp_path)
        one.enrol()
        one.until_masked()
        with pytest.raises(RefusalError, match="budget is spent"):
            one.until_masked()
        (path,) = tmp_path.rglob("ledgers/*.jsonl")
        assert [line["kind"] for line in read_lines(path)] == ["header", "release", "refusal"]

    def test_the_owners_bound_over_all_runs_holds(self, configured, tmp_path):
        one = EarlyRound(configured(*SECURE), tmp_path, **{"max-total-epsilon": "0.5"})
        one.enrol()
        with pytest.raises(RefusalError, match="over all runs"):
            one.until_masked()

    def test_terms_swapped_between_the_steps_are_refused(self, configured, tmp_path):
        """Agreed on popularity, then asked to mask pairs."""
        one = EarlyRound(configured(*SECURE), tmp_path)
        one.enrol()
        pairs = EarlyRound(configured(*SECURE), tmp_path, items=np.arange(ITEMS)).task
        with pytest.raises(RefusalError, match="terms of the noise"):
            one.until_masked(pairs)

    @pytest.mark.parametrize("items", [None, np.arange(ITEMS)])
    def test_no_vector_leaves_in_the_clear(self, configured, tmp_path, items):
        config = configured(*SECURE)
        one = EarlyRound(config, tmp_path, items=items)
        reply = device(config, tmp_path)(tasks.task_content(one.task), tasks.ONE_SHOT)
        assert reply.has_error()
        assert "in the clear" in str(reply.error.reason)
        with pytest.raises(RefusalError, match="vector without masks"):
            one.say(messages.UNMASKED)
