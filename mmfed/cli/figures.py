"""The table of test figures, and the promise below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from mmfed.cli.terminal import is_narrow, say, show

_COLUMNS = (
    ("recall", "recall@{k}"),
    ("ndcg", "ndcg@{k}"),
    ("catalogue_coverage", "catalogue\ncoverage@{k}"),
    ("ild_category", "diversity@{k}\n(category)"),
    ("ild_content", "diversity@{k}\n(content)"),
)


def shown_k(metrics: Mapping[str, Any]) -> int:
    """10 where it was measured, else the shortest list that was."""
    ks = sorted(int(name.partition("@")[2]) for name in metrics if name.startswith("recall@"))
    return 10 if 10 in ks or not ks else ks[0]


def show_methods(methods: Sequence[Mapping[str, Any]]) -> None:
    """Method × metric with 95 % intervals; the best figure of a column is not marked: intervals overlap."""
    k = shown_k(methods[0]["metrics"]) if methods else 10
    names = [(f"{name}@{k}", title.format(k=k)) for name, title in _COLUMNS]
    names = [(name, title) for name, title in names if any(_known(one, name) for one in methods)]
    narrow = is_narrow()
    table = Table(box=None, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0), header_style="bold")
    table.add_column("method", no_wrap=not narrow)
    for _, title in names:
        table.add_column(title, no_wrap=True)
    private = any(one.get("privacy") for one in methods)
    if private:
        table.add_column("ε\n(unit)", no_wrap=not narrow)
    if not narrow:
        table.add_column("sees", no_wrap=True)
    for one in methods:
        figures = [Text(figure(one["metrics"].get(name), narrow=narrow)) for name, _ in names]
        sees = [] if narrow else [Text(str(one["kind"]))]
        spent = [Text(_spent(one.get("privacy")))] if private else []
        table.add_row(Text(str(one["name"])), *figures, *spent, *sees, style="bold" if one.get("federated") else "")
    show(table)
    if narrow:
        say("")
        for one in methods:
            say(f"{one['name']}: {one['kind']}")


def show_ratings(methods: Sequence[Mapping[str, Any]]) -> None:
    """Method × rating metric with 95 % intervals."""
    narrow = is_narrow()
    table = Table(box=None, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0), header_style="bold")
    for title in ("method", "MSE", "RMSE", "MAE", "PCC", "ε\n(unit)"):
        table.add_column(title, no_wrap=title != "method")
    for one in methods:
        figures = [Text(figure(one["metrics"].get(name), narrow=narrow)) for name in ("mse", "rmse", "mae", "pcc")]
        spent = Text(_spent(one.get("privacy")))
        table.add_row(Text(str(one["name"])), *figures, spent, style="bold" if one.get("federated") else "")
    show(table)


_UNITS = {
    "user-central": "one user",
    "user-distributed": "one user",
    "user-ftrl": "one user",
    "user-local": "one user,\nworst device",
    "record": "one window,\nworst device",
}


def _spent(statement: Mapping[str, Any] | None) -> str:
    """ε with its unit, in a cell; the sentence with δ, adjacency and trust stands below the table."""
    if statement is None:
        return "–"
    if statement["epsilon"] is None:
        return "∞ (no privacy)"
    return f"{statement['epsilon']:.2f} ({_UNITS[statement['mode']]})"


def figure(estimate: Mapping[str, Any] | None, *, narrow: bool = False) -> str:
    """``0.123 [0.101, 0.145]``; ``.123`` above ``[.101–.145]`` in a narrow terminal; – where undefined."""
    if estimate is None or estimate.get("mean") is None:
        return "–"
    numbers = [estimate["mean"], estimate.get("low"), estimate.get("high")]
    shown = [f"{one:.3f}" for one in numbers if one is not None]
    if narrow:
        shown = [one.removeprefix("0") for one in shown]
    if len(shown) < 3:
        return shown[0]
    return f"{shown[0]}\n[{shown[1]}–{shown[2]}]" if narrow else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def say_promise(statement: Mapping[str, Any]) -> None:
    """ε with δ, unit, adjacency and trust, what it does not cover, and whether the noise was real."""
    say(f"Privacy: {statement['sentence']}")
    if statement["mode"] != "none":
        say(f"Not covered: {'; '.join(statement['not_covered'])}.")
    if statement.get("simulated"):
        say(f"Note: {statement['simulated']}.")


def show_results(results: Mapping[str, Any]) -> None:
    """All a run's ``results.json`` says that a person needs at once."""
    say("")
    say(
        f"Run {results['run']}: shop {results['shop']}, {results['users']:,} users, {results['items']:,} items, "
        f"{results['interactions']:,} interactions. Test figures with 95 % intervals; model of round "
        f"{results['round']} of {results['rounds']} ({results['selection']})."
    )
    say("")
    promised = [one | {"privacy": results["privacy"]} if one["federated"] else one for one in results["methods"]]
    if any("mse" in one["metrics"] for one in promised):
        show_ratings(promised)
    else:
        show_methods(promised)
    say("")
    say_promise(results["privacy"])
    for note in results["notes"]:
        say(f"Note: {note.rstrip('.')}.")


def _known(method: Mapping[str, Any], name: str) -> bool:
    return method["metrics"].get(name, {}).get("mean") is not None
