"""User-ftrl end to end: correlated noise for every model, participations kept on both sides, killed runs go on."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federation import device, federate
from scipy import linalg, stats
from tiny_shop import USERS

from mmfed.config import build_config
from mmfed.errors import MmfedError
from mmfed.federated import banded_release, tasks, wire
from mmfed.federated.participation import SeparatedSampler, banded_noise, banded_terms
from mmfed.federated.workspace import load_workspace
from mmfed.models.registry import RECOMMENDERS
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.banded import Participation, column_norm
from mmfed.privacy.ledger import Ledger, header_for
from mmfed.privacy.units import default_delta, guarantee_for
from mmfed.records import read_lines
from mmfed.simulation.audit_run import against_rounds, run_ledgers

FTRL = ("privacy.mode=user-ftrl", "privacy.minimum_separation=2", "privacy.clip_norm=0.5")
PLANNED = ("privacy.epsilon=5.0", "privacy.noise_multiplier=none", "federation.rounds=5")


def releases(run):
    return [line["body"] for line in read_lines(run.ledger) if line["kind"] == "release"]


@pytest.mark.parametrize("engine", ["cohort", "reference"])
@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_every_model_runs_and_its_audit_holds(configured, name, engine):
    config = configured(*FTRL, *PLANNED, f"model.name={name}", f"training.engine={engine}")
    run, _ = federate(config)
    charged = releases(run)
    assert [body["steps"] for body in charged] == [1, 0, 1, 0, 1]
    audit = against_rounds(run, config, audit_ledgers(run_ledgers(run)))
    assert audit.holds, audit.findings
    own = next(one for one in audit.ledgers if one.path == run.ledger)
    assert own.claimed == pytest.approx(5.0, rel=1e-5)
    assert max(body["epsilon"] for body in charged) <= 5.0


def test_the_noise_is_the_planned_one(configured):
    config = configured(*FTRL, *PLANNED)
    terms = banded_terms(config)
    sigma = banded_noise(config, epsilon=5.0, delta=default_delta(USERS))
    assert releases(federate(config)[0])[0]["noise_multiplier"] == pytest.approx(sigma)
    one = sigma / column_norm(terms.coefficients) / np.sqrt(terms.participation.most)
    assert one == pytest.approx(sigma / math.hypot(*terms.coefficients) / math.sqrt(3))


@pytest.mark.parametrize("source", ["seeded", "csprng"])
def test_what_is_released_is_the_sum_and_correlated_noise_with_power(configured, tmp_path, source):
    """The factor times the noise of all rounds is white, of the charged size; 2/3 and 3/2 of it are rejected."""
    more = ("federation.rounds=8", "privacy.minimum_separation=4", f"privacy.noise_source={source}")
    config = configured(*FTRL, *more, "privacy.noise_multiplier=6.0")
    promise, key = guarantee_for("user-ftrl", population=1000), Ed25519PrivateKey.generate()
    header = header_for(
        promise, run_id="x", population=1000, population_basis="test", target_epsilon=None, noise_source=source
    )
    totals = np.random.default_rng(0).normal(size=(8, 3000)) * 1e-3
    with Ledger.create(tmp_path / "l.jsonl", header, key) as ledger:
        release = banded_release.BandedRelease(config, ledger, 6.0, key=key, run_id="x")
        noise = [
            release.mean(totals[t], round_number=t + 1, rate=1.0, planned=5, realised=3, dropouts=0) * 5 - totals[t]
            for t in range(8)
        ]
    factor = banded_terms(config).coefficients
    white = linalg.toeplitz(np.pad(factor, (0, 8 - len(factor))), np.zeros(8)) @ np.array(noise)
    for scale, accepted in ((3.0, True), (2.0, False), (4.5, False)):
        assert (stats.kstest(white.ravel() / scale, "norm").pvalue > 1e-7) == accepted
    assert np.abs(np.corrcoef(white) - np.eye(8)).max() < 7 / math.sqrt(3000)
    assert audit_ledgers([tmp_path / "l.jsonl"]).holds


def test_sampler_keeps_separation_and_cap_and_goes_on_from_its_state():
    users = np.arange(500, dtype=np.uint64) * np.uint64(2**55 + 1)
    terms = Participation(separation=4, most=3)
    sampler, drawn = SeparatedSampler(users, terms, rounds=30, wanted=None), []
    for number in range(1, 31):
        if number == 11:
            kept = sampler.state()
            sampler = SeparatedSampler(users[::-1], terms, rounds=30, wanted=None)
            sampler.restore(kept)
        drawn.append(set(sampler.draw(number, seed=1, source="seeded").tolist()))
    assert sampler.planned == 50
    for user in users.tolist():
        rounds = [number for number, cohort in enumerate(drawn) if user in cohort]
        assert len(rounds) <= 3
        assert all(later - sooner >= 4 for sooner, later in itertools.pairwise(rounds))
    sizes = np.array([len(cohort) for cohort in drawn])
    assert 40 < sizes[:20].mean() < 60


def test_the_device_keeps_separation_and_cap_whatever_the_server_asks(configured, tmp_path):
    config = configured(*FTRL, "federation.rounds=9", "privacy.participations=2", "privacy.minimum_separation=3")
    workspace = load_workspace(config)
    model = workspace.new_model()
    shapes = wire.shared_shapes(model)
    everything = dict(model.shared_parameters()) | model.public_tensors()
    arrays = wire.encode(everything, shapes | wire.public_shapes(model))
    answer, taken = device(config, tmp_path), []
    for number in (1, 1, 2, 3, 4, 4, 7, 9):
        task = tasks.Task(config, "run-1", USERS, 9.0, workspace.features.digest, number, workspace.user_keys[2:3])
        reply = answer(tasks.task_content(task, arrays))
        found, realised = tasks.read_training_reply(reply.content)
        vector = wire.flatten(wire.decode(found, shapes), shapes)
        assert (np.linalg.norm(vector) > 0) == bool(realised)
        taken.append(realised)
    assert taken == [1, 1, 0, 0, 1, 1, 0, 0]
    (path,) = tmp_path.glob("*/*/ledgers/*.jsonl")
    reasons = [line["body"]["reason"] for line in read_lines(path) if line["kind"] == "refusal"]
    assert [("rounds lie between" in one, "of at most 2" in one) for one in reasons] == [(True, False)] * 2 + [
        (False, True)
    ] * 2
    assert audit_ledgers([path]).holds


@pytest.mark.parametrize("source", ["seeded", "csprng"])
@pytest.mark.parametrize("killed", ["after the charge", "after the checkpoint"])
def test_a_killed_run_goes_on_with_the_same_noise(configured, monkeypatch, source, killed):
    """Seeded, the cohorts repeat, and so must the noise; else a repeated round may be charged once more."""
    open_end = () if source == "seeded" else ("privacy.epsilon=none", "privacy.noise_multiplier=9")
    more = (*FTRL, *PLANNED, *open_end, f"privacy.noise_source={source}")
    config = configured(*more)
    place = (
        (banded_release.Ledger, "charge") if killed == "after the charge" else (banded_release.BandedRelease, "state")
    )
    real, counted = getattr(*place), [0]

    def dying(self, *arguments):
        found = real(self, *arguments)
        if self.__class__ is not banded_release.Ledger or self.path.name == "ledger.jsonl":
            counted[0] += 1
            if counted[0] == 3:
                raise KeyboardInterrupt
        return found

    monkeypatch.setattr(*place, dying)
    with pytest.raises(KeyboardInterrupt):
        federate(config)
    monkeypatch.undo()
    before = releases(federate(configured(*more, "run.name=whole"))[0])
    run, _ = federate(config, resume=True)
    charged = releases(run)
    assert audit_ledgers(run_ledgers(run)).holds
    assert [body["round"] for body in charged if body["steps"] or body["round"] % 2 == 0][:2] == [1, 2]
    if source == "seeded":
        assert [body["result_hash"] for body in charged] == [body["result_hash"] for body in before]
        assert charged[-1]["epsilon"] == before[-1]["epsilon"]
        assert len(charged) == 5


def test_a_repeated_round_with_another_sum_draws_anew_and_pays(configured, tmp_path):
    config = configured(*FTRL, "privacy.noise_multiplier=2", "federation.rounds=5")
    run, _ = federate(config, nodes=1)
    from mmfed.federated.progress import Progress
    from mmfed.privacy.keys import load_or_create_key

    key = load_or_create_key(run.path / "key.pem")
    tensors = Progress.load(run, config, key, resume=True).tensors
    kept = {name[8:]: value for name, value in tensors.items() if name.startswith("release.")}
    kept["attempts"] = kept["attempts"][:4]
    with Ledger.open(run.ledger, key) as ledger:
        spent = ledger.spent().value

        def again(total):
            release = banded_release.BandedRelease(config, ledger, 2.0, key=key, run_id="x")
            release.restore(kept)
            return release.mean(total, round_number=5, rate=1, planned=6, realised=6, dropouts=0) * 6

        first, other = again(np.zeros(4000)), again(np.full(4000, 0.001))
        assert np.abs(first - other).max() > 1, "the difference does not show what changed"
        assert abs(np.corrcoef(first, other)[0, 1]) > 0.05, "both continue the rows before"
        assert np.array_equal(again(np.full(4000, 0.001)), other), "the same sum again is the same release"
        assert ledger.spent().value > spent
        assert [body["round"] for body in releases(run)] == [1, 2, 3, 4, 5, 5, 5]
        release = banded_release.BandedRelease(config, ledger, 2.0, key=key, run_id="x")
        with pytest.raises(MmfedError, match="every round in turn"):
            release.mean(np.zeros(4), round_number=3, rate=1, planned=6, realised=6, dropouts=0)
    assert audit_ledgers([run.ledger]).holds


def test_an_exhausted_budget_stops_the_coordinator(configured):
    tight = ("privacy.noise_multiplier=1.5", "privacy.epsilon=0.7", "federation.rounds=5")
    with pytest.raises(MmfedError, match="budget exhausted"):
        federate(configured(*FTRL, *tight))


def test_no_noise_is_stored(configured):
    """A checkpoint holds which draws stand, and who took part; nothing of the noise."""
    from mmfed.federated.checkpoint import load_checkpoint
    from mmfed.privacy.keys import load_or_create_key

    run, _ = federate(configured(*FTRL, *PLANNED))
    tensors, _ = load_checkpoint(run.checkpoints / "latest.safetensors", load_or_create_key(run.path / "key.pem"))
    kept = {name: value.numel() for name, value in tensors.items() if name.startswith("release.")}
    sampler = {f"release.sampler.{name}": USERS for name in ("users", "last", "count")}
    assert kept == {"release.attempts": 5, **sampler}


def test_more_bands_than_separation_are_refused():
    with pytest.raises(MmfedError, match="bands above minimum_separation"):
        build_config({}, ["privacy.mode=user-ftrl", "privacy.bands=11"])
