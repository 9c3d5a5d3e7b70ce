"""``mmfed behaviour``: classifiers of the next action, with the rare classes in view."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mmfed.cli.options import FormatOption, SetOption, examples
from mmfed.cli.terminal import Format, emit, is_narrow, remark, say, show

_DEMO = ("privacy.mode=none",)


def behaviour(
    scenario: Annotated[Path | None, typer.Argument(metavar="SCENARIO.toml", show_default=False)] = None,
    overrides: SetOption = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Predict what a person does next (view, cart, buy, ...): baselines, AdaBoost, XGBoost, resampling, federated.

    None of it has differential privacy, so a scenario must say privacy.mode = none. Without SCENARIO.toml it takes the
    bundled demo shop.
    """
    from mmfed.cli.progress import RunProgress
    from mmfed.config import load_config

    config = load_config(scenario, [*(_DEMO if scenario is None else ()), *(overrides or ())])
    remark("starting")
    from mmfed.simulation.behaviour import classify_behaviour

    with RunProgress(None) as progress:
        result = classify_behaviour(config, progress=progress.count).to_json()
    if output is Format.JSON:
        emit(result)
        return
    total = sum(result["classes"].values())
    shares = ", ".join(f"{name} {count / total:.0%}" for name, count in result["classes"].items())
    say(
        f"\nNO DIFFERENTIAL PRIVACY. Next action on shop {result['shop']}: {shares}; {result['users']:,} users, "
        f"{result['test_rows']:,} test rows of {result['test_users']:,} users, 95 % intervals over users.\n"
    )
    _show_methods(result)
    say(f"\nSplit: {result['split']}.")
    for note in result["notes"]:
        say(f"Note: {note.rstrip('.')}.")


def _show_methods(result: Mapping[str, Any]) -> None:
    """Method × metric; recall and average precision of each class below the overall figures' names."""
    from rich.table import Table
    from rich.text import Text

    from mmfed.cli.figures import figure

    narrow = is_narrow()
    columns = [("balanced_accuracy", "balanced\naccuracy"), ("macro_f1", "macro-F1"), ("accuracy", "accuracy")]
    per_class = [
        (f"{metric}/{name}", f"{title}\n({name})")
        for metric, title in (("recall", "recall"), ("average_precision", "AP"))
        for name in result["classes"]
    ]
    table = Table(box=None, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0), header_style="bold")
    table.add_column("method")
    for _, title in [*columns, *per_class]:
        table.add_column(title, no_wrap=True)
    table.add_column("rows from\none record", no_wrap=True)
    for one in result["methods"]:
        overall = [Text(figure(one["metrics"][name], narrow=narrow)) for name, _ in columns]
        # Intervals of the class columns are in the JSON: beside the others they would not fit on a line.
        classes = [Text(figure({"mean": one["metrics"][name]["mean"]}, narrow=narrow)) for name, _ in per_class]
        many = one["rows_from_one_original"]
        table.add_row(Text(one["name"]), *overall, *classes, Text("1" if many is None else f"{many:,}"))
    show(table)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Classifiers of the next action; class imbalance. No differential privacy.",
        epilog=examples(
            "mmfed behaviour",
            "mmfed behaviour --set data.users=200 --set run.seed=1",
            "mmfed behaviour shop.toml --set privacy.mode=none --format json > behaviour.json",
        ),
    )(behaviour)
