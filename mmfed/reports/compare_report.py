"""The report of a comparison: one HTML file and the same tables as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfed.records import write_text
from mmfed.reports.charts import shorten
from mmfed.reports.metric_info import info_of
from mmfed.reports.page import LONGEST_NAME, drawing, federated_first, metric_table, protocol_warnings, render
from mmfed.reports.privacy_words import statement_words
from mmfed.reports.run_charts import accuracy_scatter
from mmfed.reports.run_facts import mapping, mappings, strings
from mmfed.reports.tables import Cell, list_lengths, markdown_table, markdown_text, method_name, metric_rows, number

_DIFFERENCE = "difference_to_popularity"
_DIFFERENCES = ("ndcg", "recall", "hit_rate", "mrr", "ild_category", "ild_content", "novelty")


def write_compare_report(folder: Path, comparison: Mapping[str, Any]) -> Path:
    """Write ``report.html`` and ``comparison.md`` into the folder of a comparison; the path of the page.

    Args:
        comparison: plain data as ``mmfed.simulation.compare`` gives it.

    Raises:
        MmfedError: a file cannot be written.
    """
    write_text(folder / "comparison.md", comparison_markdown(comparison))
    page = folder / "report.html"
    write_text(page, comparison_page(comparison))
    return page


def comparison_page(comparison: Mapping[str, Any]) -> str:
    """The page as text."""
    ours = mappings(comparison.get("methods"))
    methods = [*ours, *_published(comparison)]
    ks = _lengths(ours, methods)
    k = ks[0] if ks else None
    open_ks = {one for one in ks if any(metric_rows(_published(comparison), k=one))}
    promises = [
        (shorten(method_name(one), LONGEST_NAME), statement_words(mapping(one["privacy"])))
        for one in [*ours, *mappings(comparison.get("ratings"))]
        if isinstance(one.get("privacy"), Mapping)
    ]
    shown_differences = _difference_metrics(ours, k)
    return render(
        "compare.html.j2",
        name=_name(comparison),
        subtitle=_subtitle(comparison),
        headline=_headline(len(promises), sum(words.protected for _, words in promises)),
        all_protected=bool(promises) and all(words.protected for _, words in promises),
        promises=promises,
        alerts=_alerts(comparison),
        scatter=drawing(accuracy_scatter(ours, k, "catalogue_coverage") if ks else ""),
        spread=drawing(accuracy_scatter(ours, k, "ild_category") if ks else ""),
        tables=[metric_table(methods, one) for one in ks],
        open_ks=open_ks,
        table_note=_table_note(comparison),
        difference_labels=[info_of(name).label for name in shown_differences],
        differences=_differences(ours, shown_differences),
        ratings=metric_table(mappings(comparison.get("ratings")), None) if comparison.get("ratings") else None,
        notes=[shorten(one, 600) for one in dict.fromkeys(strings(comparison.get("notes")))],
    )


def comparison_markdown(comparison: Mapping[str, Any]) -> str:
    """The comparison as a Markdown page: privacy first, then one table for every list length and group."""
    ours = mappings(comparison.get("methods"))
    methods = [*ours, *_published(comparison)]
    rating = mappings(comparison.get("ratings"))
    promised = [one for one in [*ours, *rating] if isinstance(one.get("privacy"), Mapping)]
    protected = sum(mapping(one["privacy"]).get("mode") != "none" for one in promised)
    lines = [_headline(len(promised), protected), "", f"# {markdown_text(_name(comparison))}", ""]
    lines += [markdown_text(_subtitle(comparison)), ""]
    lines += [f"**{markdown_text(one)}**\n" for one in _alerts(comparison)]
    methods = federated_first(methods)
    for k in _lengths(ours, methods):
        lines += [f"## Lists of {k}", ""]
        for group in metric_table(methods, k).groups:
            measured = [methods[place] for place in group.places]
            lines += [f"### {group.name}", "", markdown_table(measured, [row.metric for row in group.rows])]
    if rating:
        lines += ["## Ratings", "", "Every rated test interaction; means with their 95 % interval.", ""]
        lines += [markdown_table(rating, ["mse", "rmse", "mae", "pcc"])]
    lines += [markdown_text(_table_note(comparison)), ""]
    if promised:
        lines += ["## Privacy", ""]
        for one in promised:
            words = statement_words(mapping(one["privacy"]))
            told = [words.headline, *(f"{name}: {text}." for name, text in words.facts)]
            told += [f"Covered: {'; '.join(words.covered)}."] if words.covered else []
            told += [f"Not covered: {'; '.join(words.not_covered)}."] if words.not_covered else []
            told += words.warnings
            lines.append(f"- {markdown_text(method_name(one))}: {markdown_text(' '.join(told))}")
        lines.append("")
    notes = list(dict.fromkeys(strings(comparison.get("notes"))))
    if notes:
        lines += ["## Notes", "", *(f"- {markdown_text(shorten(one, 600))}" for one in notes), ""]
    return "\n".join(lines).encode("utf-8", "replace").decode("utf-8")


def _published(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{method_name(one)} (published)",
            "kind": f"published: {one.get('source') or 'source not recorded'}",
            "published": True,
            "metrics": mapping(one.get("metrics")),
        }
        for one in mappings(comparison.get("published"))
    ]


def _lengths(ours: Sequence[Mapping[str, Any]], methods: Sequence[Mapping[str, Any]]) -> list[int]:
    """Every list length, the one of the first table first: 10 where it was measured."""
    measured, ks = list_lengths(ours), list_lengths(methods)
    first = 10 if 10 in measured or not measured else measured[0]
    return sorted(ks, key=lambda k: (k != first, k))


def _name(comparison: Mapping[str, Any]) -> str:
    return shorten(str(comparison.get("name") or comparison.get("scenario") or "comparison"), 120)


def _subtitle(comparison: Mapping[str, Any]) -> str:
    parts = []
    for key in ("scenario", "shop"):
        if comparison.get(key):
            parts.append(f"{key} {shorten(str(comparison[key]), 80)}")
    for key in ("users", "items", "interactions"):
        count = number(comparison.get(key))
        if count is not None:
            parts.append(f"{count:,.0f} {key}".replace(",", " "))
    seeds = strings(comparison.get("seeds"))
    if seeds:
        parts.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(seeds[:20])})")
    return " · ".join(parts)


def _headline(told: int, protected: int) -> str:
    if told == 0:
        return "No method here is federated or private: baselines see all data in one place."
    if protected == 0:
        return "No differential privacy: none of the federated methods protects anybody; ε is infinite."
    if protected < told:
        return f"No differential privacy in {told - protected} of the {told} federated methods, nor in the baselines."
    return "All federated methods are differentially private as stated for each; baselines have no privacy."


def _alerts(comparison: Mapping[str, Any]) -> list[str]:
    alerts = protocol_warnings(comparison.get("protocol"))
    seeds = comparison.get("seeds")
    if isinstance(seeds, list) and len(seeds) < 3:
        alerts.append("Fewer than 3 seeds: the intervals say little about how the figures vary between runs.")
    return alerts


def _table_note(comparison: Mapping[str, Any]) -> str:
    split = comparison.get("split")
    return (
        "Mean over users and seeds with its 95 % interval. The best figure of a metric is marked, whether or not the "
        "intervals overlap; published figures and, outside accuracy, random lists are never marked. Published figures "
        "stem from their own protocol." + (f" Split: {shorten(str(split), 300)}." if split else "")
    )


def _difference_metrics(methods: Sequence[Mapping[str, Any]], k: int | None) -> list[str]:
    wanted = [f"{name}@{k}" for name in _DIFFERENCES]
    return [name for name in wanted if any(name in mapping(one.get(_DIFFERENCE)) for one in methods)]


def _differences(
    methods: Sequence[Mapping[str, Any]], metrics: Sequence[str]
) -> list[tuple[str, list[tuple[Cell, str]]]]:
    rows = []
    for one in methods:
        figures = mapping(one.get(_DIFFERENCE))
        if figures:
            cells = [row.cells[0] for row in metric_rows([{"metrics": figures}], metrics)]
            rows.append((shorten(method_name(one), LONGEST_NAME), [(cell, _direction(cell)) for cell in cells]))
    return rows


def _direction(cell: Cell) -> str:
    if cell.low is not None and cell.low > 0:
        return "up"
    return "down" if cell.high is not None and cell.high < 0 else ""
