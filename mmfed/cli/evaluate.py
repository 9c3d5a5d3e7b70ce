"""``mmfed evaluate``: the test figures of a run's model, computed again."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmfed.cli.options import DataOption, FormatOption, RunArgument, examples
from mmfed.cli.terminal import Format, emit, say
from mmfed.errors import ExitCode, MmfedError

if TYPE_CHECKING:
    from mmfed.simulation.private_metrics import PrivateFigure


def evaluate(
    name: RunArgument,
    data: DataOption = None,
    private: Annotated[
        str | None,
        typer.Option("--private", metavar="EPSILONS", help="What private figures would cost and miss, e.g. 0.5,2,8."),
    ] = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Compute the test figures of a run's model again and write results.json.

    RUN is the folder of a run, or its name under runs/. --private evaluates through the devices and the mechanism as
    well, once for every epsilon given, and compares with the exact figures; the run's ledger is not charged.
    """
    epsilons = _epsilons(private)
    from mmfed.cli.figures import show_results
    from mmfed.cli.progress import RunProgress
    from mmfed.simulation.run_folders import only_writer, open_run

    run, config = open_run(name, data=data)
    with only_writer(run), RunProgress(config) as progress:
        from mmfed.federated.workspace import load_workspace
        from mmfed.simulation.run import evaluate_run

        progress.stage("loading")
        workspace = load_workspace(config, progress=progress.features)
        progress.stage("evaluation")
        result = evaluate_run(run, config, workspace)
        figures = []
        if epsilons:
            from mmfed.simulation.private_metrics import private_figures

            figures = private_figures(run, config, workspace, epsilons)
    if output is Format.JSON:
        told = {} if not epsilons else {"private": [_plain(one) for one in figures]}
        emit({"folder": str(run.path), **result.results, **told})
        return
    show_results(result.results)
    say("")
    for one in figures:
        say(
            f"private {one.name}: epsilon {one.epsilon:.3g} at delta {one.delta:.2g} on line metrics; "
            f"exact {one.exact:.4f}, error {one.error:.4f} (root mean square)"
        )
    if figures:
        say("One release gives all of them; unit: one user. A simulation of the cost: nothing is charged to the run.")
    say(f"Written: {run.results}")


def _epsilons(text: str | None) -> list[float]:
    if text is None:
        return []
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [math.nan]
    if not all(0 < one < math.inf for one in found):
        raise MmfedError(ExitCode.USAGE, f"--private {text}: not numbers above 0.", "write e.g. --private 0.5,2,8.")
    return found


def _plain(figure: PrivateFigure) -> dict[str, Any]:
    """A figure for JSON, which has no NaN."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in asdict(figure).items()
    }


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Compute a run's test figures again.",
        epilog=examples(
            "mmfed evaluate demo",
            "mmfed evaluate runs/demo --format json",
            "mmfed evaluate demo --private 0.5,2,8",
            "mmfed evaluate demo --data /srv/shop",
        ),
    )(evaluate)
