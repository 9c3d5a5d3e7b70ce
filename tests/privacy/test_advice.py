"""One-shot or iterative: the answer follows from public figures, in the direction that it should."""

from __future__ import annotations

import math

import pytest

from mmfed.config import build_config
from mmfed.errors import MmfedError
from mmfed.federated.one_shot_terms import check_one_shot
from mmfed.privacy.advice import COVERED, MODES, MOST_ITEMS, advise


def test_many_people_and_a_catalogue_that_fits_spend_once() -> None:
    found = advise(population=100_000, items=5_000, epsilon=1.0)
    assert found.way == "one-shot"
    assert found.plan is not None
    assert found.plan.cooccurrence_noise is not None


def test_few_people_have_popularity_alone() -> None:
    found = advise(population=500, items=5_000, epsilon=0.5)
    assert found.way == "one-shot, popularity alone"
    assert found.plan is not None
    assert found.plan.cooccurrence_noise is None
    assert "drown" in " ".join(found.reasons)


def test_a_catalogue_that_does_not_fit_is_iterative() -> None:
    assert advise(population=10**6, items=MOST_ITEMS, epsilon=1.0).way == "one-shot"
    found = advise(population=10**6, items=MOST_ITEMS + 1, epsilon=1.0)
    assert found.way == "iterative"
    assert f"{MOST_ITEMS + 1:,}" in found.reasons[0]


def test_the_strength_is_what_its_words_say() -> None:
    found = advise(population=20_000, items=300, epsilon=2.0)
    assert found.plan is not None
    assert found.plan.cooccurrence_noise is not None
    edge = 2 * found.plan.cooccurrence_noise / math.sqrt(2) * math.sqrt(300)
    assert found.strength == pytest.approx(0.05 * 20_000 / edge, rel=1e-9)
    more = advise(population=20_000, items=COVERED * 4, epsilon=2.0)
    assert more.strength == pytest.approx(0.05 * 20_000 / edge * math.sqrt(300 / COVERED), rel=1e-9)


def test_more_epsilon_more_people_and_longer_histories_never_hurt() -> None:
    def strength(population: int = 3_000, epsilon: float = 2.0, history: int = 20) -> float:
        return advise(population=population, items=900, epsilon=epsilon, history=history).strength or 0.0

    assert strength(epsilon=4.0) > strength() > strength(epsilon=1.0)
    assert strength(population=6_000) > strength() > strength(history=3)


def test_less_trust_costs_signal_and_much_of_it_where_nobody_is_trusted() -> None:
    found = {mode: advise(population=10**5, items=485, epsilon=4.0, mode=mode) for mode in MODES}
    central, shared, local = (found[mode].strength or 0.0 for mode in MODES)
    assert central > shared > central / 1.2
    assert local == pytest.approx(central / math.sqrt(2 * 10**5), rel=0.01)  # √2 of replace-one, √N of the devices
    assert found["user-local"].way == "one-shot, popularity alone"
    assert advise(population=10**7, items=485, epsilon=4.0, mode="user-local").way == "one-shot"
    for mode in ("user-distributed", "user-local"):
        config = build_config({}, found[mode].settings)
        check_one_shot(config, 485)
        assert config.privacy.mode == mode


@pytest.mark.parametrize("population", [200, 10_000, 10**6])
@pytest.mark.parametrize("epsilon", [0.5, 8.0])
@pytest.mark.parametrize("items", [100, MOST_ITEMS + 1])
@pytest.mark.parametrize("history", [3, 30])
def test_the_settings_make_a_configuration(population: int, epsilon: float, items: int, history: int) -> None:
    found = advise(population=population, items=items, epsilon=epsilon, history=history)
    config = build_config({}, found.settings)
    assert config.one_shot.enabled == (found.way != "iterative")
    assert not config.one_shot.enabled or config.federation.rounds == 0


@pytest.mark.parametrize("wrong", [{"items": 0}, {"population": 1}, {"epsilon": 0.0}, {"history": 0}])
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(MmfedError):
        advise(**{"population": 100, "items": 10, "epsilon": 1.0, **wrong})  # type: ignore[arg-type]
