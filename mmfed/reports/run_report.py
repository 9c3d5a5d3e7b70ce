"""The report of one run: a single HTML file that works without a network."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfed.records import RunFolder, write_text
from mmfed.reports.charts import shorten
from mmfed.reports.metric_info import split_name
from mmfed.reports.page import LONGEST_NAME, drawing, metric_table, protocol_warnings, render
from mmfed.reports.privacy_words import run_words
from mmfed.reports.run_charts import accuracy_scatter, cohort_chart, epsilon_chart, learning_chart
from mmfed.reports.run_facts import RunFacts, mapping, mappings, read_run
from mmfed.reports.tables import Cell, list_lengths, method_kind, method_name, metric_rows, number
from mmfed.reports.thumbnails import Thumbnails

_KEY_METRICS = ("ndcg", "recall", "hit_rate", "catalogue_coverage", "ild_category", "ild_content")
_MOST_SHOPPERS, _MOST_ITEMS = 8, 20
_REFERENCE = "popularity"


def write_run_report(run: RunFolder) -> Path:
    """Write ``report.html`` from what the run folder holds, whole or not.

    Raises:
        MmfedError: there is no run in the folder, or the report cannot be written.
    """
    write_text(run.report, run_page(read_run(run)))
    return run.report


def run_page(facts: RunFacts) -> str:
    """The page as text."""
    ks = list_lengths(facts.methods)
    chosen_by = split_name(str(facts.setting("evaluation.metric") or ""))[1]
    k = chosen_by if chosen_by in ks or not ks else ks[0]
    learning, learning_notes = learning_chart(facts, chosen_by if chosen_by is not None else k)
    cohort, cohort_notes = cohort_chart(facts)
    scatter = accuracy_scatter(facts.methods, k, "catalogue_coverage") if ks else ""
    spread = accuracy_scatter(facts.methods, k, "ild_category") if ks else ""
    others = [one for one in ks if one != k]
    name = shorten(str(facts.results.get("run") or facts.name), 120)
    return render(
        "run.html.j2",
        name=name,
        subtitle=_subtitle(facts),
        words=run_words(facts),
        alerts=_alerts(facts),
        figures=_key_figures(facts.methods, k),
        figures_note=_figures_note(facts),
        learning=drawing(learning),
        learning_notes=learning_notes,
        cohort=drawing(cohort),
        cohort_notes=cohort_notes,
        epsilon=drawing(epsilon_chart(facts)),
        epsilon_notes=_epsilon_notes(facts),
        tables=[metric_table(facts.methods, one) for one in ([k, *others] if ks else [])],
        table_note=_table_note(facts),
        scatter=drawing(scatter),
        spread=drawing(spread),
        shoppers=_shoppers(facts),
        shoppers_note=_shoppers_note(facts),
        notes=_notes(facts),
        commands=_commands(facts),
        environment=_environment(facts.environment),
        config_text=facts.config_text,
        version=_version(facts.environment),
    )


def _subtitle(facts: RunFacts) -> str:
    shop = facts.results.get("shop") or facts.setting("data.source")
    parts = [f"shop {shorten(str(shop), 80)}"] if shop else []
    for key in ("users", "items", "interactions"):
        count = number(facts.results.get(key))
        if count is not None:
            parts.append(f"{count:,.0f} {key}".replace(",", " "))
    if facts.setting("model.name"):
        parts.append(f"model {facts.setting('model.name')}")
    modalities = [
        f"{name} ({mapping(one).get('present', '?')} items)"
        for name, one in mapping(facts.results.get("modalities")).items()
    ]
    if modalities:
        parts.append(f"features: {', '.join(modalities)}")
    return " · ".join(parts)


def _alerts(facts: RunFacts) -> list[str]:
    alerts = []
    if not facts.results:
        planned = facts.setting("federation.rounds") or "?"
        alerts.append(
            f"This run is not finished: {len(facts.rounds)} of {planned} rounds are done. Continue it with --resume."
        )
    return [*alerts, *protocol_warnings(facts.results.get("protocol")), *facts.problems]


def _key_figures(methods: Sequence[Mapping[str, Any]], k: int | None) -> list[dict[str, str]]:
    ours = next((index for index, one in enumerate(methods) if one.get("federated")), None)
    if ours is None or k is None:
        return []
    reference = next((index for index, one in enumerate(methods) if method_name(one) == _REFERENCE), None)
    rows = {split_name(row.metric)[0]: row for row in metric_rows(methods, [f"{name}@{k}" for name in _KEY_METRICS])}
    recall = rows["recall"]
    if all(one.mean == other.mean for one, other in zip(recall.cells, rows["hit_rate"].cells, strict=True)):
        del rows["hit_rate"]  # one held-out item a user: the same figure twice
    found = []
    for row in rows.values():
        mine = row.cells[ours]
        if mine.mean is None:
            continue
        card = {"name": row.label, "value": mine.text, "interval": mine.interval, "tooltip": mine.description}
        card |= {"against": "", "against_interval": "", "verdict": "", "direction": ""}
        if reference is not None and row.cells[reference].mean is not None:
            other = row.cells[reference]
            card["against"], card["against_interval"] = f"popularity {other.text}", other.interval
            card["verdict"], card["direction"] = _verdict(mine, other)
        found.append(card)
    return found


def _verdict(mine: Cell, other: Cell) -> tuple[str, str]:
    if mine.mean is None or other.mean is None:
        return "", ""
    if mine.low is None or mine.high is None or other.low is None or other.high is None:
        return "no intervals to compare", ""
    if mine.low <= other.high and other.low <= mine.high:
        return "intervals overlap: not told apart", ""
    above = mine.mean > other.mean
    compared = (
        f"{mine.mean / other.mean:.2g} × popularity"
        if other.mean > 0
        else f"{'above' if above else 'below'} popularity"
    )
    return f"{compared}, intervals apart", "up" if above else "down"


def _figures_note(facts: RunFacts) -> str:
    ours = next((one for one in facts.methods if one.get("federated")), {})
    users = number(ours.get("users"))
    over = "" if users is None else f" over {users:,.0f} users".replace(",", " ")
    left_out = number(ours.get("users_left_out"))
    without = f" ({left_out:.0f} without a test item are left out)" if left_out else ""
    return (
        f"{shorten(method_name(ours), LONGEST_NAME)}: figures on the test split with 95 % intervals{over}{without}, "
        "against recommending the most popular items to everybody."
    )


def _epsilon_notes(facts: RunFacts) -> list[str]:
    if facts.mode == "none":
        return ["Mode none: nothing is protected, so nothing is charged. There is no ledger and ε is infinite."]
    if not facts.curves:
        return ["No release is charged in the ledgers of this run."]
    notes = []
    if facts.devices and facts.mode != "user-ftrl":
        notes.append(
            f"Every one of the {facts.devices} devices keeps its own ledger; ε counts "
            f"{'one window of interactions, not a person' if facts.mode == 'record' else 'one person'}. "
            "The figure that counts is the worst device's."
        )
    else:
        notes.append("Every point is a charge in the coordinator's ledger, written before the noised result was used.")
    if facts.refusals:
        notes.append(f"{facts.refusals} releases were refused because the budget did not allow them.")
    return notes


def _table_note(facts: RunFacts) -> str:
    split = facts.results.get("split")
    return (
        "Mean over users with its 95 % interval below. ↑ ↓: which way is better; the best figure of a row is marked, "
        "whether or not the intervals overlap. Random lists are varied by nature and are not marked for it."
        + (f" Split: {shorten(str(split), 300)}." if split else "")
    )


def _shoppers(facts: RunFacts) -> list[dict[str, Any]]:
    pictures = Thumbnails()
    shoppers = []
    for one in facts.recommendations[:_MOST_SHOPPERS]:
        listed, held_out = mappings(one.get("recommended"))[:_MOST_ITEMS], mappings(one.get("held_out"))[:_MOST_ITEMS]
        wanted = {str(item.get("item")) for item in held_out}
        ranks = [rank for rank, item in enumerate(listed, start=1) if str(item.get("item")) in wanted]
        names = {str(item.get("item")) for item in listed}
        missed = [item for item in held_out if str(item.get("item")) not in names]
        hit = "held-out item at rank " + ", ".join(map(str, ranks)) if ranks else "the held-out item is not among them"
        shoppers.append(
            {
                "user": shorten(str(one.get("user", "")), LONGEST_NAME),
                "outcome": hit if held_out else "no held-out item",
                "history": [_item(item, pictures) for item in mappings(one.get("history"))[-_MOST_ITEMS:]],
                "recommended": [_item(item, pictures, hit=str(item.get("item")) in wanted) for item in listed],
                "missed": [_item(item, pictures) for item in missed],
            }
        )
    return shoppers


def _item(item: Mapping[str, Any], pictures: Thumbnails, *, hit: bool = False) -> dict[str, Any]:
    label = str(item.get("label") or item.get("item") or "unnamed item")
    image = item.get("image")
    return {
        "label": shorten(label, 90),
        "title": shorten(f"{label} ({item.get('item')})", 300),
        "image": pictures.uri(image) if isinstance(image, str) else None,
        "hit": hit,
    }


def _shoppers_note(facts: RunFacts) -> str:
    if facts.setting("data.source") == "demo":
        whose = "These are simulated shoppers of the demo shop, no real people."
    else:
        whose = (
            "These are test users of this data set. If the data are of real people, so is this section: "
            "keep the page as confidential as the data."
        )
    return f"{whose} A few users, evenly spaced, not chosen for looks; the latest part of their history is shown."


def _notes(facts: RunFacts) -> list[str]:
    own = facts.results.get("notes")
    notes = [str(one) for one in own] if isinstance(own, list) else []
    for method in facts.methods:
        if method.get("federated") and isinstance(method.get("notes"), list):
            notes += [str(one) for one in method["notes"]]
    kinds = {method_name(one): method_kind(one) for one in facts.methods}
    notes += [f"{name}: {kind}" for name, kind in kinds.items() if kind]
    return [shorten(one, 600) for one in dict.fromkeys(notes)]


def _commands(facts: RunFacts) -> list[tuple[str, str]]:
    folder = facts.setting("run.folder")
    run = shlex.quote(f"{folder}/{facts.name}" if folder else facts.name)
    commands = []
    if facts.config_text:
        again = shlex.quote(f"run.name={facts.name}-again")
        if facts.setting("data.path"):  # as the run saw it: a path in a scenario file is taken relative to that file
            again += " --set " + shlex.quote(f"data.path={facts.setting('data.path')}")
        commands.append(
            (
                "Repeat it from its own configuration (same seeds, same result on the same versions):",
                f"mmfed simulate {run}/config.toml --set {again}",
            )
        )
    commands.append(("Compute the figures and this page again:", f"mmfed evaluate {run}\nmmfed report {run}"))
    if facts.mode not in ("", "none"):
        commands.append(("Check every charge and recompute ε from the ledgers, trusting nobody:", f"mmfed audit {run}"))
    return commands


def _environment(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [(str(key), str(value)) for key, value in environment.items() if not isinstance(value, Mapping)]
    for name, version in mapping(environment.get("versions")).items():
        rows.append((str(name), "not installed" if version is None else str(version)))
    return rows


def _version(environment: Mapping[str, Any]) -> str:
    version = mapping(environment.get("versions")).get("mmfed")
    return f" {version}" if version else ""
