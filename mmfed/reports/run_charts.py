"""The charts of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmfed.reports.charts import Dot, Mark, Series, line_chart, scatter_chart
from mmfed.reports.metric_info import info_of, split_name
from mmfed.reports.run_facts import RunFacts, mapping
from mmfed.reports.tables import figure, method_name, metric_rows, number

_CURVES = ("ndcg", "recall", "hit_rate")


def learning_chart(facts: RunFacts, k: int | None) -> tuple[str, list[str]]:
    """Validation figures against rounds with the chosen round, and notes for below it."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for record in facts.rounds:
        round_ = number(record.get("round"))
        for name, value in mapping(record.get("validation")).items():
            shown = number(value)
            if split_name(name)[0] in _CURVES and split_name(name)[1] == k and round_ is not None and shown is not None:
                lines.setdefault(name, []).append((round_, shown))
    notes: list[str] = []
    recall, hit_rate = f"recall@{k}", f"hit_rate@{k}"
    if recall in lines and lines[recall] == lines.get(hit_rate):
        del lines[hit_rate]
        notes.append(f"Hit rate @{k} equals recall @{k} here: every user has one held-out item.")
    ordered = sorted(lines, key=lambda name: _CURVES.index(split_name(name)[0]))
    chosen = number(facts.results.get("round"))
    marks = [] if chosen is None else [Mark(f"chosen: round {chosen:g}", x=chosen)]
    drawn = line_chart(
        [Series(info_of(name).label, lines[name]) for name in ordered],
        title=f"Validation figures at list length {k} against rounds",
        x_label="round",
        y_label="validation figure",
        marks=marks,
    )
    if drawn:
        notes.append(_selection(facts))
        if facts.mode not in ("", "none"):
            notes.append("These curves are exact figures of the simulation. A live federation would not see them.")
    return drawn, notes


def _selection(facts: RunFacts) -> str:
    if facts.results.get("selection") == "best-validation":
        return f"The model is the round with the best validation {facts.setting('evaluation.metric') or 'figure'}."
    if facts.results.get("selection") == "last":
        return "The model is that of the last round; validation figures chose nothing."
    return "The run is not finished: no round is chosen yet."


def cohort_chart(facts: RunFacts) -> tuple[str, list[str]]:
    """Planned and realised cohort against rounds, and notes for below it."""
    planned, realised = _by_round(facts.rounds, "planned"), _by_round(facts.rounds, "realised")
    drawn = line_chart(
        [Series("realised", realised), Series("planned", planned, dashed=True)],
        title="Planned and realised cohort against rounds",
        x_label="round",
        y_label="users",
    )
    notes: list[str] = []
    if realised:
        seconds = [value for _, value in _by_round(facts.rounds, "seconds")]
        wall = f"; {figure(sum(seconds) / len(seconds))} s a round on average" if seconds else ""
        refused = sum(value for _, value in _by_round(facts.rounds, "refused_nodes"))
        notes.append(f"{len(realised)} rounds{wall}; {refused:g} node replies were errors or refused.")
    return drawn, notes


def epsilon_chart(facts: RunFacts) -> str:
    """ε of the ledgers against rounds, with the target."""
    target = number(facts.setting("privacy.epsilon"))
    target = number(facts.header.get("target_epsilon")) if facts.header else target
    if not facts.curves:
        return ""
    marks = [] if target is None else [Mark(f"target ε = {target:g}", y=target)]
    return line_chart(
        [Series(curve.name, curve.points, dashed=curve.name.startswith("median")) for curve in facts.curves],
        title="Privacy spent against rounds",
        x_label="round",
        y_label="ε spent so far",
        marks=marks,
    )


def accuracy_scatter(methods: Sequence[Mapping[str, Any]], k: int | None, x_metric: str) -> str:
    """Recall against a metric of width or variety, methods labelled."""
    y_name, x_name = f"recall@{k}", f"{x_metric}@{k}"
    y_row, x_row = metric_rows(methods, [y_name, x_name])
    dots = []
    for method, y, x in zip(methods, y_row.cells, x_row.cells, strict=True):
        if y.mean is not None and x.mean is not None:
            name = method_name(method)
            tooltip = f"{name[:200]}: {y_row.label} {y.text} {y.interval}, {x_row.label} {x.text} {x.interval}"
            dots.append(Dot(name, x.mean, y.mean, y.low, y.high, bool(method.get("federated")), tooltip))
    return scatter_chart(dots, title=f"{y_row.label} against {x_row.label}", x_label=x_row.label, y_label=y_row.label)


def _by_round(rounds: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    pairs = [(number(record.get("round")), number(record.get(key))) for record in rounds]
    return [(round_, value) for round_, value in pairs if round_ is not None and value is not None]
