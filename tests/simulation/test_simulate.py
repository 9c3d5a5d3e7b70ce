"""Whole runs on a tiny shop: backends agree, folders hold, nothing is invented."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tiny_models import relative_error

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.progress import chosen_model
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.audit.verify import Head
from mmfed.privacy.calibration import noise_multiplier_for
from mmfed.privacy.units import default_delta
from mmfed.records import RunFolder, read_lines
from mmfed.simulation.run import device_ledgers, read_results, simulate, worst_device

TIMELESS = ("round", "planned", "asked", "realised", "refused_nodes", "epsilon", "validation")


def run_of(config) -> RunFolder:
    return RunFolder(config.run.folder / config.run.name)


def model_of(config):
    return chosen_model(run_of(config), config)[0]


def metrics_of(config):
    return [{key: record[key] for key in TIMELESS} for record in read_lines(run_of(config).metrics)]


def ledger_events(config):
    lines = read_lines(run_of(config).ledger)
    return [
        {k: v for k, v in line["body"].items() if k != "result_hash"} for line in lines if line["kind"] == "release"
    ]


@pytest.mark.parametrize("mode", ["none", "user-central", "record"])
@pytest.mark.parametrize("cohort", ["none", "5"])
def test_the_number_of_nodes_does_not_matter(configured, mode, cohort):
    configs = {
        nodes: configured(
            f"federation.nodes={nodes}",
            f"run.name=n{nodes}",
            f"privacy.mode={mode}",
            f"federation.cohort={cohort}",
            "federation.rounds=3",
        )
        for nodes in (1, 2, 5)
    }
    results = {nodes: simulate(config) for nodes, config in configs.items()}
    for nodes in (2, 5):
        assert relative_error(model_of(configs[nodes]), model_of(configs[1])) <= 1e-6
        assert ledger_events(configs[nodes]) == ledger_events(configs[1])
        one, other = metrics_of(configs[1]), metrics_of(configs[nodes])
        for first, second in zip(one, other, strict=True):
            assert {k: v for k, v in first.items() if k != "validation"} == {
                k: v for k, v in second.items() if k != "validation"
            }
            assert (first["validation"] or {}) == pytest.approx(second["validation"] or {}, abs=1e-9)
        assert results[nodes].results["methods"][-1]["metrics"] == results[1].results["methods"][-1]["metrics"]


@pytest.mark.parametrize("mode", ["none", "user-central", "record"])
def test_the_same_seed_gives_the_same_bytes(configured, mode):
    one, other = (configured(f"run.name={name}", f"privacy.mode={mode}", "federation.rounds=2") for name in "ab")
    simulate(one)
    simulate(other)
    first, second = model_of(one), model_of(other)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_another_run(configured):
    one, other = (configured(f"run.name=s{seed}", f"run.seed={seed}", "federation.rounds=2") for seed in (0, 1))
    simulate(one)
    simulate(other)
    assert relative_error(model_of(other), model_of(one)) > 1e-3


@pytest.mark.parametrize("engine", ["cohort", "reference"])
@pytest.mark.parametrize("private", ["true", "false"])
def test_the_engine_does_not_matter(configured, engine, private, request):
    config = configured(
        f"training.engine={engine}",
        f"model.private_user_vector={private}",
        "training.steps=2",
        "federation.rounds=3",
        "run.name=" + engine,
    )
    other = configured(
        "training.engine=cohort",
        f"model.private_user_vector={private}",
        "training.steps=2",
        "federation.rounds=3",
        "run.name=base",
    )
    simulate(config)
    simulate(other)
    assert relative_error(model_of(config), model_of(other)) < 1e-4


def test_no_privacy_means_no_noise_no_ledger_and_saying_so(configured):
    config = configured("privacy.mode=none")
    result = simulate(config)
    run = run_of(config)
    assert not run.ledger.exists()
    statement = result.results["privacy"]
    assert statement["epsilon"] is None
    assert statement["sentence"].startswith("NO DIFFERENTIAL PRIVACY")
    assert all(record["epsilon"] is None for record in read_lines(run.metrics))


def test_a_run_folder_after_user_level_privacy(configured):
    config = configured("privacy.noise_multiplier=none", "privacy.epsilon=4", "federation.cohort=6")
    result = simulate(config)
    run = run_of(config)
    sigma = noise_multiplier_for(
        epsilon=4.0, delta=default_delta(12), sampling="poisson", sampling_rate=0.5, rounds=config.federation.rounds
    )
    events = ledger_events(config)
    assert len(events) == 4
    assert {event["noise_multiplier"] for event in events} == {sigma}
    assert {(event["sampling"], event["sampling_rate"]) for event in events} == {("poisson", 0.5)}
    spent = result.results["privacy"]["epsilon"]
    assert 3.5 < spent <= 4.0
    assert [event["epsilon"] for event in events] == sorted(event["epsilon"] for event in events)
    assert spent == events[-1]["epsilon"] == read_lines(run.metrics)[-1]["epsilon"]
    assert audit_ledgers([run.ledger]).holds
    assert json.loads(run.results.read_text()) == json.loads(json.dumps(result.results))
    assert read_results(run) == json.loads(run.results.read_text())
    key = load_pem_private_key((run.path / "key.pem").read_bytes(), None)
    public = key.public_key().public_bytes_raw().hex()
    audit = audit_ledgers(
        [run.ledger], {run.ledger: public}, {run.ledger: Head(4, audit_ledgers([run.ledger]).ledgers[0].head.hash)}
    )
    assert audit.holds


def test_record_mode_reports_its_worst_device(configured):
    config = configured("privacy.mode=record", "federation.cohort=6", "federation.rounds=5")
    result = simulate(config)
    run = run_of(config)
    ledgers = device_ledgers(run)
    figures = {path.name: read_lines(path)[-1]["body"]["epsilon"] for path in ledgers}
    assert result.results["privacy"]["epsilon"] == max(figures.values()) == worst_device(run)
    assert len(set(figures.values())) > 1, "devices joined different numbers of rounds"
    assert audit_ledgers(ledgers).holds
    joins = sum(len(read_lines(path)) - 1 for path in ledgers)
    assert joins == sum(record["realised"] for record in read_lines(run.metrics))


def test_a_second_run_of_the_same_name_is_refused(configured):
    config = configured("federation.rounds=1")
    simulate(config)
    before = run_of(config).results.read_bytes()
    with pytest.raises(MmfedError, match="holds a run already"):
        simulate(config)
    again = simulate(config, resume=True)
    assert run_of(config).results.read_bytes() == before
    assert again.results["rounds"] == 1


@pytest.mark.parametrize("change", ["run.seed=1", "privacy.clip_norm=0.5", "federation.rounds=9", "model.dimensions=7"])
def test_resuming_with_another_configuration_is_refused(configured, change):
    simulate(configured("federation.rounds=1"))
    with pytest.raises(MmfedError) as fault:
        simulate(configured("federation.rounds=1", change), resume=True)
    assert fault.value.code is ExitCode.CONFIG
    assert change.split("=")[0] in fault.value.message


def test_a_metric_that_is_not_measured_is_named_before_training(configured):
    config = configured("evaluation.metric=ndcg@7")
    with pytest.raises(MmfedError, match="ndcg@7"):
        simulate(config)
    assert not run_of(config).metrics.exists()


def test_early_stopping_and_the_best_round(configured):
    config = configured(
        "privacy.mode=none",
        "federation.rounds=40",
        "evaluation.every=1",
        "federation.early_stopping=2",
        "federation.server_optimiser.learning_rate=0.5",
    )
    result = simulate(config)
    values = [record["validation"]["ndcg@10"] for record in read_lines(run_of(config).metrics)]
    best = int(np.argmax(values)) + 1
    assert result.results["round"] == best
    assert len(values) == best + 2 < 40
    assert simulate(config, resume=True).results["rounds"] == len(values), "resuming a stopped run trains no further"


def test_a_spent_budget_stops_the_run_and_leaves_the_model(configured):
    probe = configured("federation.rounds=2", "run.name=probe")
    simulate(probe)
    spent = ledger_events(probe)[-1]["epsilon"]
    config = configured(f"privacy.epsilon={spent * 1.01}", "federation.rounds=4")
    with pytest.raises(MmfedError) as fault:
        simulate(config)
    assert fault.value.code is ExitCode.PRIVACY
    assert "budget exhausted" in fault.value.message
    run = run_of(config)
    assert len(read_lines(run.metrics)) == len(ledger_events(config)) == 2
    assert audit_ledgers([run.ledger]).holds
    assert math.isclose(ledger_events(config)[-1]["epsilon"], spent)
    assert relative_error(model_of(config), model_of(probe)) == 0.0


@pytest.mark.parametrize("nodes", [1, 2])
def test_too_few_nodes_for_masks_are_refused_before_any_data_is_read(configured, tmp_path, nodes):
    config = configured(
        "privacy.mode=user-distributed", f"federation.nodes={nodes}", "data.source=table", f"data.path={tmp_path}/none"
    )
    with pytest.raises(MmfedError, match=f"lies on {nodes} nodes?; masks need 3") as fault:
        simulate(config)
    assert fault.value.code == ExitCode.FEDERATION
    assert "privacy.masks = 'skipped'" in fault.value.fix
    assert not run_of(config).path.exists()
    for enough in ("federation.nodes=3", "privacy.masks=skipped"):
        with pytest.raises(MmfedError, match="none"):
            simulate(
                configured("privacy.mode=user-distributed", "data.source=table", f"data.path={tmp_path}/none", enough)
            )
