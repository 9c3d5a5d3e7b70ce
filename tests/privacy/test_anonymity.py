"""Published tables with their published figures, and an oracle on random ones."""

import numpy as np
import polars as pl
import pytest
from anonymity_oracle import measures
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy import anonymity
from mmfed.privacy.anonymity import check

H, V, C = "heart disease", "viral infection", "cancer"

# Machanavajjhala et al. 2007, figures 2 (4-anonymous) and 3 (3-diverse): the same twelve people.
FOUR_ANONYMOUS = {
    "zip": ["130**"] * 4 + ["1485*"] * 4 + ["130**"] * 4,
    "age": ["< 30"] * 4 + [">= 40"] * 4 + ["3*"] * 4,
    "condition": [H, H, V, V, C, H, V, V, C, C, C, C],
}
THREE_DIVERSE = {
    "zip": ["1305*"] * 4 + ["1485*"] * 4 + ["1306*"] * 4,
    "age": ["<= 40"] * 4 + ["> 40"] * 4 + ["<= 40"] * 4,
    "condition": [H, V, C, C, C, H, V, V, H, V, C, C],
}


def salaries(*classes):
    """Li et al. 2007, tables 4 and 5: salaries in thousands."""
    rows = [(number, salary) for number, group in enumerate(classes) for salary in group]
    return {"class": [number for number, _ in rows], "salary": [salary for _, salary in rows]}


def test_hospital_table_is_4_anonymous_and_tells_that_people_in_their_thirties_have_cancer():
    report = check(FOUR_ANONYMOUS, quasi=["zip", "age"], sensitive="condition", k=4, distinct_l=2)
    assert (report.k, report.sizes, report.distinct_l, report.entropy_l) == (4, (4, 4, 4), 1, pytest.approx(1))
    assert not report.holds
    (offending,) = report.offending
    assert (offending.values, offending.size, offending.fails) == (("130**", "3*"), 4, ("distinct_l",))
    assert report.t == pytest.approx(1 - 5 / 12)  # cancer is 5 of 12
    assert "DOES NOT HOLD" in report.sentence()
    assert "no differential privacy" in report.sentence()


def test_hospital_table_made_3_diverse():
    report = check(THREE_DIVERSE, quasi=["zip", "age"], sensitive="condition", k=4, distinct_l=3, entropy_l=2**1.5)
    assert report.holds  # shares 1/4, 1/4, 1/2: 1.5 bits in every class, met with equality
    assert report.entropy_l == pytest.approx(2**1.5)
    missed = check(THREE_DIVERSE, quasi=["zip", "age"], sensitive="condition", entropy_l=2.83)
    assert [one.fails for one in missed.offending] == [("entropy_l",)] * 3


def test_published_earth_movers_distances_of_salaries():
    three_diverse = salaries([3, 4, 5], [6, 11, 8], [7, 9, 10])
    report = check(three_diverse, quasi=["class"], sensitive="salary", k=3, distinct_l=3, t=0.0)
    by_class = {one.values[0]: one.t for one in report.offending}
    assert by_class[0] == pytest.approx(0.375)  # Li et al. 2007, section 5.1
    assert by_class[1] == pytest.approx(1 / 6)  # printed as .167
    assert report.t == pytest.approx(0.375)
    close = salaries([3, 5, 9], [6, 11, 8], [4, 7, 10])
    assert check(close, quasi=["class"], sensitive="salary", t=1 / 6).holds  # table 5: .167-close
    assert not check(close, quasi=["class"], sensitive="salary", t=0.16).holds


def test_numbers_are_ordered_and_labels_are_not():
    rows = {"class": ["a", "a", "b", "b", "c", "c"], "value": [1, 2, 3, 4, 5, 6]}
    # By hand: cumulated differences of class a are 1/3, 2/3, 1/2, 1/3, 1/6, over 5 steps.
    assert check(rows, quasi=["class"], sensitive="value").t == pytest.approx(2 / 5)
    labels = {**rows, "value": [str(value) for value in rows["value"]]}
    assert check(labels, quasi=["class"], sensitive="value").t == pytest.approx(2 / 3)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.integers(-3, 3)), min_size=1, max_size=30),
    st.booleans(),
    st.integers(1, 20),
)
@settings(max_examples=150, deadline=None)
def test_measures_agree_with_the_definitions(rows, numbers, chunk):
    rows = [(letter, digit, value if numbers else f"{value}") for letter, digit, value in rows]
    table = pl.DataFrame(rows, schema=["letter", "digit", "value"], orient="row")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anonymity, "_CHUNK", chunk)
        report = check(table, quasi=["letter", "digit"], sensitive="value")
    expected = measures([((letter, digit), value) for letter, digit, value in rows])
    assert (report.k, report.distinct_l, report.entropy_l, report.t) == pytest.approx(expected, abs=1e-9)
    assert report.holds


def test_values_that_nobody_has_are_not_in_the_order():
    rows, once = np.array([0, 1]), np.array([1, 1])
    found = anonymity.measure(rows, np.array([0, 1]), once, values_count=3, ordered=True)
    assert found.distance.tolist() == [0.5, 0.5]  # of two values, not three


def test_other_columns_are_named_and_missing_is_a_value():
    table = {"name": ["x", "y", "z"], "age": [None, None, 3], "value": ["a", "b", "a"]}
    report = check(table, quasi=["age"], sensitive="value", k=2)
    assert report.unexamined == ("name",)
    assert [one.values for one in report.offending] == [(3,)]
    assert report.sizes == (1, 2)


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        ({"a": [], "s": []}, {}, "no rows"),
        ({"a": [1], "s": [None]}, {}, "1 sensitive values are missing"),
        ({"a": [float("nan")], "s": [1]}, {}, "'a' has NaN"),
        ({"a": [[1]], "s": [1]}, {}, "'a' holds List"),
        ({"s": [1]}, {}, "'a': missing"),
        ({"a": [1], "s": [1]}, {"quasi": []}, "quasi-identifiers"),
        ({"a": [1], "s": [1]}, {"quasi": ["a", "a"]}, "quasi-identifiers"),
        ({"a": [1], "s": [1]}, {"quasi": ["a", "s"]}, "quasi-identifiers"),
        ({"a": [1], "s": [1]}, {"k": 0}, "k = 0"),
        ({"a": [1], "s": [1]}, {"distinct_l": 1.5}, "distinct_l = 1.5"),
        ({"a": [1], "s": [1]}, {"entropy_l": 0.5}, "entropy_l = 0.5"),
        ({"a": [1], "s": [1]}, {"t": float("nan")}, "t = nan"),
        ({"a": [1], "s": [1]}, {"t": 1.1}, "t = 1.1"),
    ],
)
def test_what_cannot_be_checked_is_refused(table, arguments, message):
    with pytest.raises(MmfedError, match=message) as caught:
        check(table, **{"quasi": ["a"], "sensitive": "s", **arguments})
    assert caught.value.code in (ExitCode.DATA, ExitCode.PRIVACY)
