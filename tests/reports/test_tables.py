"""Figures as rows and as Markdown."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfed.models.baselines.base import KIND_NOTES
from mmfed.reports.tables import Cell, figure, list_lengths, markdown_table, markdown_text, metric_rows, number


def method(name: str, kind: str = "centralised", **metrics: object) -> dict[str, object]:
    return {"name": name, "kind": kind, "metrics": {key.replace("_at_", "@"): value for key, value in metrics.items()}}


def estimate(mean: object, low: object = None, high: object = None, **more: object) -> dict[str, object]:
    return {"mean": mean, "low": low, "high": high, "users": 7, **more}


def test_best_follows_the_direction_of_the_metric() -> None:
    one = method("one", recall_at_10=estimate(0.2), gini_at_10=estimate(0.2), arp_at_10=estimate(2.0))
    two = method("two", recall_at_10=estimate(0.1), gini_at_10=estimate(0.4), arp_at_10=estimate(1.0))
    rows = {row.metric: [cell.best for cell in row.cells] for row in metric_rows([one, two])}
    assert rows == {"recall@10": [True, False], "gini@10": [True, False], "arp@10": [False, False]}


def test_equal_figures_are_not_marked() -> None:
    rows = metric_rows([method("one", recall_at_10=estimate(0.2)), method("two", recall_at_10=estimate(0.2))])
    assert [cell.best for cell in rows[0].cells] == [False, False]


def test_random_is_marked_for_accuracy_only() -> None:
    random = method("random", KIND_NOTES["no data"], recall_at_10=estimate(0.3), ild_category_at_10=estimate(0.9))
    ours = method("ours", recall_at_10=estimate(0.2), ild_category_at_10=estimate(0.5))
    third = method("third", recall_at_10=estimate(0.1), ild_category_at_10=estimate(0.4))
    recall, diversity = metric_rows([random, ours, third])
    assert [cell.best for cell in recall.cells] == [True, False, False]
    assert [cell.best for cell in diversity.cells] == [False, True, False]


def test_published_figures_are_never_best_and_may_be_text() -> None:
    ours = method("ours", recall_at_10=estimate(0.2))
    other = method("other", recall_at_10=estimate(0.1))
    published = method("paper", recall_at_10=0.9) | {"published": True}
    ranged = method("paper", recall_at_10=".089-.115") | {"published": True}
    cells = metric_rows([ours, other, published, ranged])[0].cells
    assert [cell.best for cell in cells] == [True, False, False, False]
    assert [cell.text for cell in cells] == ["0.200", "0.100", "0.900", ".089-.115"]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.5", True, [1], 10**400])
def test_what_is_no_number_is_undefined_with_a_reason(value: object) -> None:
    given = method("a", recall_at_10=estimate(value, 0.1, 0.2, reason="why not"))
    without = method("b", recall_at_10=estimate(value))
    cells = metric_rows([given, without, method("c")])[0].cells
    assert [cell.mean for cell in cells] == [None, None, None]
    assert [cell.text for cell in cells] == ["–", "–", "–"]
    assert [cell.reason for cell in cells] == ["why not", "no reason recorded", "not computed"]
    assert "why not" in cells[0].description


def test_an_interval_needs_both_ends() -> None:
    cell = metric_rows([method("a", recall_at_10=estimate(0.5, 0.4, math.nan))])[0].cells[0]
    assert (cell.interval, cell.low, cell.high) == ("", None, None)
    assert Cell(0.5, 0.4, 0.6).interval == "[0.400, 0.600]"


def test_rows_come_in_the_order_of_the_documentation_and_unknown_metrics_last() -> None:
    one = method(
        "a", zeta_at_20=estimate(1), ndcg_at_20=estimate(1), recall_at_20=estimate(1), recall_at_10=estimate(1)
    )
    assert [row.metric for row in metric_rows([one])] == ["recall@10", "recall@20", "ndcg@20", "zeta@20"]
    assert [row.metric for row in metric_rows([one], k=10)] == ["recall@10"]
    assert [row.metric for row in metric_rows([one], ["ndcg@20", "mrr@10"])] == ["ndcg@20", "mrr@10"]
    assert list_lengths([one]) == [10, 20]


def test_diversity_names_its_space() -> None:
    rows = metric_rows([method("a", ild_category_at_10=estimate(1), ild_content_at_10=estimate(1))])
    assert [row.label for row in rows] == ["Diversity (category space) @10", "Diversity (content space) @10"]


def test_metrics_that_are_no_table_are_left_out() -> None:
    assert metric_rows([{"name": "a", "metrics": [1, 2]}, {"name": "b"}]) == []


def test_markdown_golden() -> None:
    methods = [
        method("ours", "federated", recall_at_10=estimate(0.2, 0.1, 0.3)),
        method("a|b\n<script>", "central", recall_at_10=estimate(None, reason="no user")),
        method("third", "central", recall_at_10=estimate(0.1)),
    ]
    assert markdown_table(methods) == (
        "| method | what it sees | Recall @10 |\n"
        "|---|---|---:|\n"
        "| ours | federated | **0.200** [0.100, 0.300] |\n"
        "| a\\|b &lt;script&gt; | central | – |\n"
        "| third | central | 0.100 |\n"
    )
    assert "[" not in markdown_table(methods[:1], intervals=False)


@settings(deadline=None)  # a loaded machine is no fault
@given(st.text())
def test_markdown_text_stays_in_its_cell(text: str) -> None:
    safe = markdown_text(text)
    assert "\n" not in safe
    assert "<" not in safe
    assert safe.replace("\\\\", "").replace("\\|", "").count("|") == 0


@settings(deadline=None)  # a loaded machine is no fault
@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6))
def test_a_figure_is_within_half_a_shown_digit(value: float) -> None:
    assert math.isclose(float(figure(value)), value, rel_tol=0.051, abs_tol=1e-300)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.1534, "0.153"), (0.00183, "0.0018"), (5.545, "5.54"), (17.97, "18.0"), (1204.4, "1204")],
)
def test_figures(value: float, text: str) -> None:
    assert figure(value) == text


def test_number_takes_finite_numbers_only() -> None:
    assert number(3) == 3.0
    assert [number(value) for value in (True, "1", None, math.nan, -math.inf, 10**400)] == [None] * 6
