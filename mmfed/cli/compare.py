"""``mmfed compare``: several methods over several seeds, in one table on the same users."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmfed.cli.options import FormatOption, FreshOption, ResumeOption, SetOption, examples
from mmfed.cli.terminal import Format, emit, remark, say

if TYPE_CHECKING:
    from mmfed.simulation.compare import CompareResult


def compare(
    scenario: Annotated[Path, typer.Argument(metavar="SCENARIO.toml", show_default=False)],
    overrides: SetOption = None,
    resume: ResumeOption = False,
    fresh: FreshOption = False,
    output: FormatOption = Format.TEXT,
) -> None:
    """Run every method of SCENARIO.toml's [compare] section for every seed; one table with the baselines.

    With --resume finished runs are not repeated.
    """
    from mmfed.cli.figures import say_promise, show_methods, show_ratings
    from mmfed.cli.progress import RunProgress
    from mmfed.config import build_config
    from mmfed.scenario_file import read_scenario
    from mmfed.simulation.run_folders import put_aside

    tree = read_scenario(scenario)
    tree.pop("compare", None)
    config = build_config(tree, overrides or (), where=str(scenario))
    if fresh and not resume and (old := put_aside(config.run.folder / config.run.name)) is not None:
        remark(f"the earlier comparison is now {old}")
    remark("starting")
    from mmfed.simulation.compare import compare as run_comparison

    with RunProgress(config) as progress:
        result = run_comparison(scenario, overrides or (), resume=resume, watcher=progress)
    report = _write_report(result)
    if output is Format.JSON:
        emit({"folder": str(result.folder), "report": None if report is None else str(report), **result.comparison})
        return
    table = result.comparison
    say(
        f"\n{table['name']}: shop {table['shop']}, {table['users']:,} users, {table['items']:,} items; "
        f"means over seeds {', '.join(map(str, table['seeds']))} with 95 % intervals.\n"
    )
    show_methods(table["methods"])
    if table["ratings"]:
        say("\nRatings")
        show_ratings(table["ratings"])
    for one in [*table["methods"], *table["ratings"]]:
        if one["privacy"] is not None:
            say(f"\n{one['name']} (worst seed):")
            say_promise(one["privacy"])
    for one in table["published"]:
        figures = ", ".join(f"{name} {value}" for name, value in one["metrics"].items())
        say(f"\nPublished elsewhere: {one['name']}: {figures} ({one['source']}).")
    for note in table["notes"]:
        say(f"Note: {note.rstrip('.')}.")
    written = [result.folder / "comparison.json", report, result.markdown]
    say("\nWritten: " + ", ".join(str(path) for path in written if path is not None))


def _write_report(result: CompareResult) -> Path | None:
    """``report.html`` and the Markdown table, or a remark that the extra is missing."""
    try:
        from mmfed.reports.compare_report import comparison_markdown, write_compare_report
    except ModuleNotFoundError as missing:
        remark(f"no report: {missing.name} is not installed. pip install 'mmfed[reports]', then repeat with --resume.")
        return None
    from mmfed.records import write_text

    page = write_compare_report(result.folder, result.comparison)
    if result.markdown is not None:
        write_text(result.markdown, comparison_markdown(result.comparison))
    return page


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Several methods and seeds in one table.",
        epilog=examples(
            "mmfed compare simulations/demo.toml",
            "mmfed compare simulations/demo.toml --resume",
            "mmfed compare shop.toml --set federation.rounds=20 --format json > comparison.json",
        ),
    )(compare)
