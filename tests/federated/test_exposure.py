"""The exposure alarm: what rings it, when it keeps still, and that a resumed run hears the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from federation import federate

from mmfed.config import DefenceSection
from mmfed.federated.exposure import EVENTS, KEPT, SHOPPERS, ExposureWatch, MadeUpShoppers
from mmfed.federated.strategy import RoundRecord, RoundState
from mmfed.federated.workspace import load_workspace
from mmfed.records import read_lines
from mmfed.simulation.run import simulate

ITEMS = 30


@pytest.fixture
def model(configured):
    return load_workspace(configured("privacy.mode=none")).new_model()


def watch(model, *, rise: float = 0.3, rounds: int = 3, after: int = 2) -> ExposureWatch:
    section = DefenceSection(alarm_rise=rise, alarm_rounds=rounds, alarm_after=after)
    return ExposureWatch(model, section, names=[f"i{item}" for item in range(ITEMS)], seed=0, k=5)


def state(model, number: int, **biases: float) -> RoundState:
    """The model after a round, with the biases of some items raised."""
    parameters = {name: value.detach().clone() for name, value in model.shared_parameters().items()}
    for name, value in biases.items():
        parameters["item_bias"][int(name[1:])] += value
    record = RoundRecord(number, 12, 12, 12, 0, 0.1, None, None)
    return RoundState(record, parameters, {}, {"clip_norm": torch.ones(1)})


def rung(found: RoundState) -> list[str]:
    return [str(alarm["item"]) for alarm in found.record.alarms]


def test_exposure_is_the_share_of_lists_without_the_own_history(model) -> None:
    shoppers = MadeUpShoppers.drawn(ITEMS, seed=0)
    histories = shoppers.items.reshape(SHOPPERS, EVENTS)
    assert all(len(set(one)) == EVENTS for one in histories.tolist())
    with torch.no_grad():
        model.item_bias[7] += 1000.0
        model.item_bias[8] -= 1000.0
    shares = shoppers.exposure(model, 5)
    assert shares.sum() == pytest.approx(5)
    assert shares[7] == 1 - (histories == 7).any(axis=1).mean()
    assert shares[8] == 0
    assert MadeUpShoppers.drawn(ITEMS, seed=0).exposure(model, 500).max() <= 1  # a longer list than there are items
    assert len(MadeUpShoppers.drawn(2, seed=0).items) == 2 * SHOPPERS


def test_a_jump_rings_once_and_names_the_item(model, caplog: pytest.LogCaptureFixture) -> None:
    watching = watch(model)
    heard = [rung(watching.watched(state(model, number))) for number in range(1, 6)]
    heard += [rung(watching.watched(state(model, number, i7=1000.0))) for number in range(6, 12)]
    assert heard == [[]] * 5 + [["i7"]] + [[]] * 5
    assert "exposure alarm, round 6: item i7" in caplog.text


def test_a_slow_rise_rings_when_it_adds_up_within_the_window(model) -> None:
    heard = {}
    for window in (1, 10):
        watching = watch(model, rise=0.3, rounds=window, after=0)
        steps = enumerate(np.linspace(0, 0.03, 60), start=1)
        heard[window] = any(
            "i7" in rung(watching.watched(state(model, number, i7=float(bias)))) for number, bias in steps
        )
    assert heard == {1: False, 10: True}


def test_no_alarm_in_the_first_rounds_nor_without_a_rise(model) -> None:
    early = watch(model, after=4)
    assert [rung(early.watched(state(model, number, i7=1000.0 * (number > 2)))) for number in range(1, 5)] == [[]] * 4
    assert rung(early.watched(state(model, 5, i7=1000.0))) == ["i7"]  # risen within the window, told when armed
    assert rung(early.watched(state(model, 6, i7=1000.0))) == []
    first = watch(model, after=0)
    assert rung(first.watched(state(model, 1, i7=1000.0))) == []  # nothing to compare with


def test_a_fall_is_no_alarm(model) -> None:
    watching = watch(model, after=0)
    watching.watched(state(model, 1, i7=1000.0))
    assert "i7" not in rung(watching.watched(state(model, 2)))


def test_what_is_kept_is_enough_to_go_on(model) -> None:
    whole, cut = watch(model), watch(model)
    for number in range(1, 5):
        whole.watched(state(model, number))
    kept = [cut.watched(state(model, number)) for number in range(1, 5)][-1]
    assert "clip_norm" in kept.release
    resumed = watch(model)
    resumed.restore(kept.release)
    jump = state(model, 5, i7=1000.0)
    assert rung(resumed.watched(jump)) == rung(whole.watched(jump)) == ["i7"]
    torch.testing.assert_close(resumed.watched(jump).release[KEPT], whole.watched(jump).release[KEPT])


def test_the_watched_model_is_a_copy(model) -> None:
    before = {name: value.detach().clone() for name, value in model.shared_parameters().items()}
    watch(model).watched(state(model, 1, i7=1000.0))
    for name, value in model.shared_parameters().items():
        torch.testing.assert_close(value.detach(), before[name], rtol=0, atol=0)


def test_a_run_writes_its_alarms_and_says_so_in_results(configured) -> None:
    more = (
        "defence.alarm_rise=0.05",
        "defence.alarm_rounds=2",
        "defence.alarm_after=0",
        "evaluation.k=[5]",
        "evaluation.metric=ndcg@5",
    )
    result = simulate(configured("privacy.mode=none", *more, "federation.server_optimiser.learning_rate=0.3"))
    rounds = read_lines(result.run.metrics)
    alarms = [(one["round"], alarm["item"]) for one in rounds for alarm in one["alarms"]]
    assert alarms
    assert all(alarm["share"] - alarm["before"] >= 0.05 for one in rounds for alarm in one["alarms"])
    notes = [note for note in result.results["notes"] if note.startswith("exposure alarm")]
    assert len(notes) == len(alarms)
    assert f"round {alarms[0][0]}: item {alarms[0][1]} " in notes[0]


def test_a_quiet_run_says_that_the_alarm_was_on(configured) -> None:
    result = simulate(configured("privacy.mode=none", "defence.alarm_rise=1.0", "run.name=quiet"))
    assert "exposure alarm: none in 4 rounds" in result.results["notes"]
    plain = simulate(configured("privacy.mode=none", "run.name=plain"))
    assert not any("alarm" in note or "defence" in note for note in plain.results["notes"])


def test_a_resumed_run_hears_what_the_whole_one_hears(configured) -> None:
    more = ("privacy.mode=none", "defence.alarm_rise=0.05", "defence.alarm_after=1", "evaluation.k=[5]")
    whole, _ = federate(configured(*more, "run.name=whole", "federation.rounds=6"))
    cut = configured(*more, "run.name=cut", "federation.rounds=6")

    def gone(message, real):
        round_number = int(message.metadata.group_id)
        return [real()] if round_number < 4 else []

    with pytest.raises(Exception, match="none of 2 nodes"):
        federate(cut, fakes={1: gone, 2: gone})
    resumed, _ = federate(cut, resume=True)
    heard = [[one["alarms"] for one in read_lines(run.metrics)] for run in (whole, resumed)]
    assert heard[0] == heard[1]
    assert any(heard[0])
