import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.units import (
    check_count,
    check_delta,
    check_positive,
    check_rate,
    default_delta,
    guarantee_for,
)

NAN_AND_INFINITIES = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("mode", ["user-central", "record"])
def test_sentence_always_carries_epsilon_delta_unit_adjacency_and_trust(mode):
    guarantee = guarantee_for(mode, epsilon=3.25, population=1000, window=10, window_days=30)
    sentence = guarantee.sentence()
    assert "\n" not in sentence
    for part in ("epsilon = 3.25", "0.000501", "1000", guarantee.unit, guarantee.adjacency, guarantee.trust):
        assert part in sentence


def test_mode_none_says_so_first():
    guarantee = guarantee_for("none")
    assert guarantee.sentence().startswith("NO DIFFERENTIAL PRIVACY: epsilon = infinity")
    assert math.isinf(guarantee.epsilon)


def test_units_of_the_two_modes():
    user = guarantee_for("user-central", epsilon=1, population=100)
    record = guarantee_for("record", epsilon=1, population=100, window=7)
    assert "one user" in user.unit
    assert user.adjacency == "add/remove one user"
    assert "server is trusted" in user.trust
    assert "at most 7 interactions" in record.unit
    assert "zero-out" in record.adjacency
    assert "not trusted" in record.trust


@pytest.mark.parametrize("epsilon", [math.nan, -1.0, -math.inf])
def test_impossible_epsilon_is_refused(epsilon):
    with pytest.raises(MmfedError, match="epsilon"):
        guarantee_for("user-central", epsilon=epsilon, population=10)


def test_missing_arguments_are_named():
    with pytest.raises(MmfedError, match="population"):
        guarantee_for("user-central", epsilon=1)
    with pytest.raises(MmfedError, match="window"):
        guarantee_for("record", epsilon=1, population=10)
    with pytest.raises(MmfedError, match=r"privacy\.mode = 'user-private'"):
        guarantee_for("user-private", epsilon=1, population=10)  # type: ignore[arg-type]


@given(st.integers(2, 10**12))
def test_default_delta_is_below_one_over_population(population):
    delta = default_delta(population)
    assert delta < 1 / population
    assert check_delta(delta, population=population) == delta


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-9, 0.01, *NAN_AND_INFINITIES, True, "1e-5", None])
def test_bad_delta_names_argument_and_value(delta):
    with pytest.raises(MmfedError, match="delta = ") as caught:
        check_delta(delta, population=100)
    assert caught.value.code == ExitCode.PRIVACY
    assert repr(delta) in caught.value.message


@pytest.mark.parametrize("name", ["epsilon", "noise_multiplier", "clip_norm"])
@pytest.mark.parametrize("value", [0, 0.0, -1.0, *NAN_AND_INFINITIES, True, "2", None])
def test_bad_positive_names_argument_and_value(name, value):
    with pytest.raises(MmfedError, match=name) as caught:
        check_positive(name, value)
    assert caught.value.code == ExitCode.PRIVACY
    assert repr(value) in caught.value.message


@pytest.mark.parametrize("value", [0.0, -0.1, 1.0000001, *NAN_AND_INFINITIES])
def test_bad_rate(value):
    with pytest.raises(MmfedError, match="sampling_rate"):
        check_rate("sampling_rate", value)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, math.nan])
def test_bad_count(value):
    with pytest.raises(MmfedError, match="rounds"):
        check_count("rounds", value)


def test_one_user_is_no_population():
    with pytest.raises(MmfedError, match="population = 1"):
        default_delta(1)
