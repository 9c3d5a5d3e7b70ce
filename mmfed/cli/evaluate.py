"""``mmfed evaluate``: the test figures of a run's model, computed again."""

from __future__ import annotations

import typer

from mmfed.cli.options import DataOption, FormatOption, RunArgument, examples
from mmfed.cli.terminal import Format, emit, say


def evaluate(name: RunArgument, data: DataOption = None, output: FormatOption = Format.TEXT) -> None:
    """Compute the test figures of a run's model again and write results.json.

    RUN is the folder of a run, or its name under runs/.
    """
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
    if output is Format.JSON:
        emit({"folder": str(run.path), **result.results})
        return
    show_results(result.results)
    say("")
    say(f"Written: {run.results}")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Compute a run's test figures again.",
        epilog=examples(
            "mmfed evaluate demo", "mmfed evaluate runs/demo --format json", "mmfed evaluate demo --data /srv/shop"
        ),
    )(evaluate)
