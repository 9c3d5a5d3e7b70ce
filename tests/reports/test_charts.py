"""Charts are drawings: where a point lands, and that nothing foreign gets out of its text."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.reports.charts import HEIGHT, MOST_POINTS, WIDTH, Dot, Mark, Series, line_chart, scatter_chart, thin, ticks

FINITE = st.floats(min_value=-1e9, max_value=1e9, allow_nan=False)


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{svg}</div>")


def coordinates(svg: str) -> list[tuple[float, float]]:
    return [(float(c.get("cx", "nan")), float(c.get("cy", "nan"))) for c in parse(svg).iter("circle")]


def test_points_land_where_the_axes_say() -> None:
    svg = line_chart([Series("a", [(0, 0), (5, 1), (10, 2)])], title="t", x_label="x", y_label="y")
    (x0, y0), (x1, y1), (x2, y2) = coordinates(svg)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert x0 < x2
    assert y0 > y2  # up is more
    axis = next(line for line in parse(svg).iter("line") if line.get("class") == "axis")
    assert y0 == float(axis.get("y1", "nan"))
    assert [title.text for title in parse(svg).iter("title")] == ["a, 0: 0", "a, 5: 1.000", "a, 10: 2.00"]


def test_marks_stand_where_they_say() -> None:
    svg = line_chart(
        [Series("a", [(1, 1), (4, 3), (9, 2)])],
        title="t",
        x_label="x",
        y_label="y",
        marks=[Mark("at", x=4), Mark("up", y=2)],
    )
    _, (x, _), (_, y) = coordinates(svg)
    vertical, horizontal = (line for line in parse(svg).iter("line") if line.get("class") == "mark")
    assert float(vertical.get("x1", "nan")) == float(vertical.get("x2", "nan")) == x
    assert float(horizontal.get("y1", "nan")) == float(horizontal.get("y2", "nan")) == y


@settings(deadline=None)  # a loaded machine is no fault
@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=30))
def test_every_point_stays_inside(points: list[tuple[float, float]]) -> None:
    ordered = sorted(points)
    for svg in (
        line_chart([Series("a", ordered)], title="t", x_label="x", y_label="y", marks=[Mark("m", y=ordered[0][1])]),
        scatter_chart([Dot("a", x, y) for x, y in points], title="t", x_label="x", y_label="y"),
    ):
        for x, y in coordinates(svg):
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


def test_what_is_not_finite_is_left_out_and_nothing_gives_nothing() -> None:
    svg = line_chart([Series("a", [(1, math.nan), (2, 1.0), (3, math.inf)])], title="t", x_label="x", y_label="y")
    assert len(coordinates(svg)) == 1
    assert line_chart([Series("a", [(1, math.nan)])], title="t", x_label="x", y_label="y") == ""
    assert scatter_chart([Dot("a", math.nan, 1.0)], title="t", x_label="x", y_label="y") == ""


def test_foreign_text_stays_text() -> None:
    evil = '<script>alert(1)</script>"&'
    for svg in (
        line_chart([Series(evil, [(1, 1)]), Series("b", [(1, 2)])], title=evil, x_label=evil, y_label=evil),
        line_chart([Series(evil, [(1, 1)])], title=evil, x_label="x", y_label="y", marks=[Mark(evil, x=1)]),
        scatter_chart([Dot(evil, 1, 1, tooltip=evil)], title=evil, x_label="x", y_label="y"),
    ):
        assert "<script" not in svg
        assert not list(parse(svg).iter("script"))


def test_thinning_keeps_ends_and_peaks() -> None:
    points = [(float(round_), math.sin(round_ / 50)) for round_ in range(10_000)]
    points[7_777] = (7_777.0, 9.0)
    points[3_333] = (3_333.0, -9.0)
    kept = thin(points)
    assert len(kept) <= MOST_POINTS
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert points[7_777] in kept
    assert points[3_333] in kept
    assert kept == sorted(kept)
    assert thin(points[:MOST_POINTS]) == points[:MOST_POINTS]


@settings(deadline=None)  # a loaded machine is no fault
@given(st.floats(min_value=-1e3, max_value=1e3), st.floats(min_value=1e-6, max_value=1e9))
def test_ticks_cover_the_span(low: float, span: float) -> None:
    high = low + span
    found = ticks(low, high)
    step = (found[-1] - found[0]) / max(1, len(found) - 1)
    assert found[0] <= low + step * 1e-6
    assert found[-1] >= high - step * 1e-6
    assert len(found) <= 9
    assert ticks(1, 3, whole=True) == [1, 2, 3]


def test_labels_of_near_points_do_not_meet() -> None:
    dots = [Dot(f"method number {place}", 0.5, 0.5 + place * 1e-4) for place in range(4)]
    svg = scatter_chart(dots, title="t", x_label="x", y_label="y")
    names = [t for t in parse(svg).iter("text") if (t.get("class") or "").startswith("dot-name")]
    places = {(t.get("text-anchor"), float(t.get("y", "nan"))) for t in names}
    assert len(places) == 4
    for anchor in ("start", "end"):
        heights = sorted(y for side, y in places if side == anchor)
        assert all(second - first >= 13 for first, second in pairwise(heights))


def test_long_labels_are_cut() -> None:
    svg = scatter_chart([Dot("x" * 5000, 1, 1, tooltip="short")], title="t", x_label="x", y_label="y")
    assert max(len(text) for text in re.findall(r">([^<>]+)<", svg)) < 40
