"""Charts as SVG text: pure functions from numbers to markup that needs no script and no network.

Colours come from the page's style sheet (classes ``series-0`` … ``series-5``): light and dark pages share one drawing.
Every text is escaped here: the result may be put into a page as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from mmfed.reports.tables import figure

WIDTH, HEIGHT = 460, 280  # drawing units; small, so that text stays readable on a narrow screen
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 42
MOST_POINTS = 300  # a line of more is thinned: nobody can tell, and the page stays small
_MOST_DOTS = 40
_COLOURS = 6


@dataclass(frozen=True)
class Series:
    """A line: name and (x, y) points in ascending x; points that are not finite are left out."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A labelled line across the chart: vertical at x or horizontal at y."""

    label: str
    x: float | None = None
    y: float | None = None


@dataclass(frozen=True)
class Dot:
    """A labelled point of a scatter chart, with optional 95 % interval along y."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    emphasis: bool = False
    tooltip: str = ""


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    marks: Sequence[Mark] = (),
    zero: bool = True,
) -> str:
    """An SVG line chart; "" when no series has a point.

    Args:
        title: read out by screen readers.
        zero: let the y axis start at 0.
    """
    drawn = [Series(one.name, thin(_finite(one.points)), one.dashed) for one in series]
    drawn = [one for one in drawn if one.points]
    if not drawn:
        return ""
    xs = [x for one in drawn for x, _ in one.points] + [mark.x for mark in marks if mark.x is not None]
    ys = [y for one in drawn for _, y in one.points] + [mark.y for mark in marks if mark.y is not None]
    frame = _Frame.around(xs, ys, zero=zero, whole_x=True)
    parts = [frame.axes(x_label, y_label), *(frame.mark(mark) for mark in marks)]
    for index, one in enumerate(drawn):
        parts.append(_line(frame, one, index % _COLOURS))
    legend = _legend([(one.name, one.dashed) for one in drawn])
    return _figure(title, "".join(parts), legend)


def scatter_chart(dots: Sequence[Dot], *, title: str, x_label: str, y_label: str) -> str:
    """An SVG scatter chart with a label at every point; "" when there is none."""
    shown = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)]
    if not shown:
        return ""
    ys = [value for dot in shown for value in (dot.y, dot.low, dot.high) if value is not None]
    frame = _Frame.around([0.0, *(dot.x for dot in shown)], ys, zero=True)
    parts = [frame.axes(x_label, y_label)]
    taken: list[_Box] = [_Box(frame.x(dot.x) - 5, frame.y(dot.y) - 5, 10, 10) for dot in shown]
    labels: list[str] = []
    for index, dot in enumerate(shown):
        parts.append(_dot(frame, dot, index % _COLOURS))
        labels.append(_place_label(frame, dot, taken))
    return _figure(title, "".join(parts + labels), "")


def thin(points: Sequence[tuple[float, float]], limit: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most about ``limit`` points: the lowest and highest of every stretch, and both ends, so peaks stay."""
    if len(points) <= limit:
        return list(points)
    stretches = max(1, (limit - 2) // 2)
    size = len(points) / stretches
    kept = {0, len(points) - 1}
    for stretch in range(stretches):
        rows = range(int(stretch * size), max(int(stretch * size) + 1, int((stretch + 1) * size)))
        kept.add(min(rows, key=lambda row: points[row][1]))
        kept.add(max(rows, key=lambda row: points[row][1]))
    return [points[row] for row in sorted(kept)]


def ticks(low: float, high: float, *, about: int = 5, whole: bool = False) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


@dataclass(frozen=True)
class _Box:
    x: float
    y: float
    width: float
    height: float

    def meets(self, other: _Box) -> bool:
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )


@dataclass(frozen=True)
class _Frame:
    """The map from data to drawing units."""

    x_ticks: Sequence[float]
    y_ticks: Sequence[float]
    x_low: float
    x_high: float

    @classmethod
    def around(cls, xs: Sequence[float], ys: Sequence[float], *, zero: bool, whole_x: bool = False) -> _Frame:
        x_low, x_high = _spread(min(xs), max(xs))
        y_low, y_high = _spread(min([*ys, 0.0]) if zero else min(ys), max(ys))
        x_ticks = ticks(x_low, x_high, whole=whole_x)
        if whole_x:  # rounds: the axis ends where the data end
            return cls([t for t in x_ticks if x_low <= t <= x_high], ticks(y_low, y_high), x_low, x_high)
        return cls(x_ticks, ticks(y_low, y_high), x_ticks[0], x_ticks[-1])

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return round(HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)

    def axes(self, x_label: str, y_label: str) -> str:
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        parts = []
        for tick in self.y_ticks:
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{_tick(tick)}</text>')
        for tick in self.x_ticks:
            parts.append(
                f'<text class="tick" x="{self.x(tick)}" y="{bottom + 16}" text-anchor="middle">{_tick(tick)}</text>'
            )
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        middle = (_LEFT + right) / 2
        parts.append(f'<text class="name" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
        height = (_TOP + bottom) / 2
        parts.append(
            f'<text class="name" transform="translate(11 {height}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>"
        )
        return "".join(parts)

    def mark(self, mark: Mark) -> str:
        label = escape(shorten(mark.label, 40))
        if mark.x is not None:
            x = self.x(mark.x)
            left_of_line = x > WIDTH / 2
            anchor, offset = ("end", -5) if left_of_line else ("start", 5)
            return (
                f'<line class="mark" x1="{x}" x2="{x}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
                f'<text class="mark-name" x="{x + offset}" y="{HEIGHT - _BOTTOM - 6}" text-anchor="{anchor}">'
                f"{label}</text>"
            )
        y = self.y(mark.y or 0.0)
        return (
            f'<line class="mark" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
            f'<text class="mark-name" x="{_LEFT + 5}" y="{y - 5}">{label}</text>'
        )


def shorten(text: str, length: int) -> str:
    """Text cut to ``length`` characters with an ellipsis."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _finite(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _spread(low: float, high: float) -> tuple[float, float]:
    """A span wide enough to divide by."""
    size = max(abs(low), abs(high))
    if high - low > 1e-9 * max(1.0, size):
        return low, high
    margin = size * 0.5 if size > 1e-6 else 1.0
    return low - margin, high + margin


def _tick(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 1000 else f"{value:g}"


def _line(frame: _Frame, series: Series, colour: int) -> str:
    path = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in series.points)
    dashed = " dashed" if series.dashed else ""
    dots = len(series.points) <= _MOST_DOTS and not series.dashed
    kind = "point" if dots else "touch"
    circles = "".join(
        f'<circle class="{kind}" cx="{frame.x(x)}" cy="{frame.y(y)}" r="{3.5 if dots else 5}">'
        f"<title>{escape(series.name)}, {x:g}: {figure(y)}</title></circle>"
        for x, y in series.points
    )
    return f'<g class="series-{colour}{dashed}"><polyline points="{path}"/>{circles}</g>'


def _dot(frame: _Frame, dot: Dot, colour: int) -> str:
    x, y = frame.x(dot.x), frame.y(dot.y)
    whisker = ""
    if dot.low is not None and dot.high is not None:
        whisker = f'<line class="whisker" x1="{x}" x2="{x}" y1="{frame.y(dot.low)}" y2="{frame.y(dot.high)}"/>'
    size = 7 if dot.emphasis else 5
    return (
        f'<g class="series-{colour}">{whisker}<circle class="point" cx="{x}" cy="{y}" r="{size}">'
        f"<title>{escape(dot.tooltip or dot.label)}</title></circle></g>"
    )


def _place_label(frame: _Frame, dot: Dot, taken: list[_Box]) -> str:
    """The first place around the point that meets no other label; all taken: right of it."""
    text = shorten(dot.label, 28)
    width, x, y = 6.6 * len(text), frame.x(dot.x), frame.y(dot.y)
    places = [
        place
        for distance in (0, 14, 28, 42)
        for place in (
            (x + 9, y + 4 - distance, "start"),
            (x - 9, y + 4 - distance, "end"),
            (x + 9, y + 4 + distance, "start"),
            (x - 9, y + 4 + distance, "end"),
        )
    ]
    inside = [place for place in places if _label_box(place, width).x >= _LEFT - 4]
    inside = [place for place in inside if _label_box(place, width).x + width <= WIDTH]
    free = [place for place in inside if not any(_label_box(place, width).meets(box) for box in taken)]
    left, top, anchor = (free or inside or places)[0]
    taken.append(_label_box((left, top, anchor), width))
    weight = " strong" if dot.emphasis else ""
    return f'<text class="dot-name{weight}" x="{left}" y="{top}" text-anchor="{anchor}">{escape(text)}</text>'


def _label_box(place: tuple[float, float, str], width: float) -> _Box:
    x, y, anchor = place
    return _Box(x if anchor == "start" else x - width, y - 11, width, 13)


def _legend(names: Sequence[tuple[str, bool]]) -> str:
    if len(names) < 2:
        return ""
    keys = "".join(
        f'<li><span class="key series-{index % _COLOURS}{" dashed" if dashed else ""}"></span>{escape(name)}</li>'
        for index, (name, dashed) in enumerate(names)
    )
    return f'<ul class="legend">{keys}</ul>'


def _figure(title: str, drawing: str, legend: str) -> str:
    return (
        f'{legend}<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{drawing}</svg>"
    )
