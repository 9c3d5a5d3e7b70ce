"""Whatever is released meets its demands, by an oracle; nothing less generalised would have."""

import itertools
import math

import polars as pl
import pytest
from anonymity_oracle import meets
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.generalisation import anonymise
from mmfed.privacy.hierarchies import Bins, Parents

REGIONS = {"Kent": "south", "Devon": "south", "Fife": "north", "Moray": "north"}
HIERARCHIES = {"age": Bins((10, 20)), "region": Parents((REGIONS,))}

AGES = st.none() | st.sampled_from([-15, -5, 3, 8, 12, 34])
PEOPLE = st.lists(
    st.tuples(AGES, st.none() | st.sampled_from(sorted(REGIONS)), st.integers(0, 3)), min_size=1, max_size=25
)
DEMANDS = st.fixed_dictionaries(
    {"k": st.integers(1, 6), "distinct_l": st.integers(1, 3),
     "entropy_l": st.floats(1, 2.5), "t": st.sampled_from([0.0, 0.1, 0.3, 1.0])}
)  # fmt: skip


def age_at(level, age):
    if level in (0, 3):
        return "*" if level else age
    if age is None:
        return "missing"
    width = 10 * level
    start = math.floor(age / width) * width
    return f"[{start}, {start + width})"


def region_at(level, region):
    return [region, REGIONS.get(region, "missing"), "*"][level]


def recoded(rows, age, region):
    return [((age_at(age, one), region_at(region, two)), value) for one, two, value in rows]


@given(PEOPLE, DEMANDS, st.sampled_from([0.0, 0.1, 0.4]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_is_released_meets_the_demands_and_is_the_least_generalised(rows, demands, share, numbers):
    rows = [(age, region, value if numbers else f"s{value}") for age, region, value in rows]
    schema = {"age": pl.Int64, "region": pl.String, "segment": pl.Int64 if numbers else pl.String}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    nodes = list(itertools.product(range(4), range(3)))
    enough = [node for node in nodes if meets(recoded(rows, *node), **demands)]
    try:
        found = anonymise(table, HIERARCHIES, sensitive="segment", max_suppressed=share, **demands)
    except MmfedError:
        assert not enough
        return
    released = [((age, region), value) for age, region, value in found.table.iter_rows()]
    assert meets(released, **demands)
    assert found.report.holds
    assert found.suppressed == len(rows) - len(released) <= share * len(rows)
    levels = (found.levels["age"], found.levels["region"])
    remaining = iter(recoded(rows, *levels))
    assert all(row in remaining for row in released)  # the rows as they were, in their order, some left out
    if enough:
        assert sum(levels) <= min(map(sum, enough))
    if share == 0:
        assert sum(levels) == min(map(sum, enough))
    assert 0 <= found.loss <= 1


def test_numbers_fall_into_public_nested_bins_and_loss_is_what_it_says():
    regions = ["Kent", "Devon", "Fife", "Moray"]
    table = {"id": [1, 2, 3, 4], "age": [21, 29, 34, 38], "region": regions, "segment": list("abab")}
    found = anonymise(table, HIERARCHIES, sensitive="segment", k=2, distinct_l=2)
    assert found.table.rows() == [
        ("[20, 30)", "south", "a"), ("[20, 30)", "south", "b"), ("[30, 40)", "north", "a"), ("[30, 40)", "north", "b"),
    ]  # fmt: skip
    assert found.levels == {"age": 1, "region": 1}
    assert found.table.columns == ["age", "region", "segment"]  # the id is gone
    assert found.loss == pytest.approx((10 / 17 + 1 / 3) / 2)


def test_least_loss_wins_among_equal_sums():
    table = {"a": ["x", "y", "x", "y"], "b": ["p", "p", "q", "r"], "s": list("1212")}
    hierarchies = {"b": Parents(({"p": "p", "q": "qr", "r": "qr"},)), "a": Parents()}
    assert anonymise(table, hierarchies, sensitive="s", k=1).levels == {"b": 0, "a": 0}
    found = anonymise(table, hierarchies, sensitive="s", k=2)
    assert found.levels == {"b": 2, "a": 0}  # not b = 1, a = 1, which comes first and loses (1/4 + 1) / 2
    assert found.loss == pytest.approx(1 / 2)


def test_the_rest_is_suppressed_and_counts_as_lost():
    table = {"region": ["Kent"] * 9 + ["Fife"], "segment": list("ababababab")}
    found = anonymise(table, {"region": Parents()}, sensitive="segment", k=2, max_suppressed=0.1)
    assert (found.suppressed, found.levels, found.loss) == (1, {"region": 0}, pytest.approx(0.1))
    assert set(found.table["region"]) == {"Kent"}
    kept = anonymise(table, {"region": Parents()}, sensitive="segment", k=2, max_suppressed=0.09)
    assert (kept.suppressed, kept.levels, kept.loss) == (0, {"region": 1}, 1.0)


def test_suppression_goes_on_while_it_moves_the_whole_distribution():
    rows = [("x", 1)] * 4 + [("x", 2)] * 4 + [("y", 1)] * 3 + [("y", 2)] * 4 + [("z", 2)] * 3
    table = {"q": [quasi for quasi, _ in rows], "s": [str(value) for _, value in rows]}
    found = anonymise(table, {"q": Parents(anything=False)}, sensitive="s", k=1, t=0.04, max_suppressed=0.9)
    assert meets([((one,), two) for one, two in found.table.iter_rows()], k=1, distinct_l=1, entropy_l=1, t=0.04)


@pytest.mark.parametrize(
    ("demands", "message"),
    [
        ({"k": 11}, r"meets k = 11 \(10 people in classes that miss it, worst 10\)"),
        ({"k": 2, "distinct_l": 3}, "distinct_l = 3 .*worst 2"),
        ({"k": 2, "entropy_l": 2.1}, "entropy_l = 2.1 .*worst 2"),
        ({"k": 6, "distinct_l": 3}, "distinct_l = 3"),
    ],
)
def test_the_impossible_is_refused_by_name(demands, message):
    table = {"region": ["Kent"] * 5 + ["Fife"] * 5, "segment": list("ababababab")}
    with pytest.raises(MmfedError, match=message) as caught:
        anonymise(table, {"region": Parents()}, sensitive="segment", **demands)
    assert caught.value.code is ExitCode.PRIVACY
    assert "max_suppressed" in caught.value.fix


def test_without_a_last_star_the_coarsest_level_decides():
    table = {"region": ["Kent", "Devon", "Fife"], "segment": ["1", "2", "1"]}
    with pytest.raises(MmfedError, match=r"k = 2 \(1 people"):
        anonymise(table, {"region": Parents((REGIONS,), anything=False)}, sensitive="segment", k=2)
    with pytest.raises(MmfedError, match=r"t = 0.1 \(3 people"):
        anonymise(table, {"region": Parents((REGIONS,), anything=False)}, sensitive="segment", k=1, t=0.1)


@pytest.mark.parametrize(
    ("hierarchy", "values", "message"),
    [
        (Bins((10, 25)), [1, 2], "do not nest"),
        (Bins((10, 10)), [1, 2], "do not nest"),
        (Bins((0,)), [1, 2], "bin width 0"),
        (Bins((1e-9,)), [1e9, 2.0], "too narrow"),
        (Bins((10,)), ["1", "2"], "not all numbers"),
        (Parents((REGIONS,)), ["Kent", "Paris"], "'Paris' has no parent on level 1"),
    ],
)
def test_hierarchies_are_checked(hierarchy, values, message):
    with pytest.raises(MmfedError, match=message):
        anonymise({"q": values, "s": ["a", "b"]}, {"q": hierarchy}, sensitive="s", k=1)


@pytest.mark.parametrize("share", [-0.1, 1.0, 2, float("nan"), True])
def test_the_share_suppressed_is_checked(share):
    with pytest.raises(MmfedError, match="max_suppressed"):
        anonymise({"q": [1], "s": ["a"]}, {"q": Bins(())}, sensitive="s", k=1, max_suppressed=share)


def test_bins_nest_where_floats_do_not_divide():
    table = {"q": [0.3, 0.6, 0.7, -0.1, None], "s": list("aabbb")}
    found = anonymise(table, {"q": Bins((0.1, 0.2), anything=False)}, sensitive="s", k=1, distinct_l=1, t=1.0)
    assert found.levels == {"q": 0}
    with pytest.raises(MmfedError, match="distinct_l"):
        anonymise(table, {"q": Bins((0.1, 0.2), anything=False)}, sensitive="s", k=1, distinct_l=2)


def test_too_many_levels_are_refused():
    table = {name: [1, 2] for name in "abcdef"} | {"s": ["a", "b"]}
    with pytest.raises(MmfedError, match="117649 combinations"):
        anonymise(table, dict.fromkeys("abcdef", Bins((1, 2, 4, 8, 16))), sensitive="s", k=3)
