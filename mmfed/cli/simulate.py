"""``mmfed simulate``: a whole federation on this machine, from files to figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmfed.cli.options import FormatOption, FreshOption, ResumeOption, SetOption, examples
from mmfed.cli.terminal import Format, emit, remark, say

# A round over so few shoppers costs much noise: at epsilon 8 recall@10 is .16 after 10 rounds and .10 after 75.
_DEMO = ("federation.rounds=10",)


def simulate(
    scenario: Annotated[
        Path | None,
        typer.Argument(metavar="SCENARIO.toml", show_default=False),
    ] = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
    fresh: FreshOption = False,
    backend: Annotated[
        Literal["inprocess", "ray"] | None,
        typer.Option("--backend", help="Where the nodes run: here, or in Ray workers."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Processes that share a round; the result is the same. Default: what pays."
        ),
    ] = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Train a recommender by simulated federated learning, evaluate it and write a run folder with a report.

    Without SCENARIO.toml it takes the bundled demo shop, with as few rounds as suit so few shoppers (10).
    """
    from mmfed.cli.figures import show_results
    from mmfed.cli.progress import RunProgress
    from mmfed.cli.report import try_report
    from mmfed.config import load_config
    from mmfed.simulation.run_folders import put_aside

    given = list(overrides or ())
    on_demo = scenario is None and not any(one.strip().startswith("data.source") for one in given)
    chosen = {"backend": backend, "workers": workers}
    options = [f"federation.{name}={value}" for name, value in chosen.items() if value is not None]
    settings = [*(_DEMO if on_demo else ()), *given, *options]
    config = load_config(scenario, settings)
    if fresh and not resume and (old := put_aside(config.run.folder / config.run.name)) is not None:
        remark(f"the earlier run is now {old}")
    remark("starting")
    from mmfed.simulation.run import simulate as run_simulation

    with RunProgress(config) as progress:
        result = run_simulation(config, resume=resume, watcher=progress)
    report = try_report(result.run)
    if output is Format.JSON:
        emit({"folder": str(result.run.path), "report": None if report is None else str(report), **result.results})
        return
    show_results(result.results)
    say("")
    say(f"Run folder: {result.run.path}" + ("" if report is None else f"   Report: {report}"))


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Train and evaluate a federation on this machine.",
        epilog=examples(
            "mmfed simulate",
            "mmfed simulate --set run.name=strict --set privacy.epsilon=2 --set federation.cohort=300",
            "mmfed simulate shop.toml --resume",
            "mmfed simulate shop.toml --format json > result.json",
        ),
    )(simulate)
