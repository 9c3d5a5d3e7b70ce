"""``mmfed modalities``: what a model is worth when modalities are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmfed.cli.options import DataOption, FormatOption, FreshOption, ResumeOption, SetOption, examples
from mmfed.cli.terminal import Format, remark

_DEMO = ("run.name=modalities", "federation.rounds=10")


def modalities(
    scenario: Annotated[Path | None, typer.Argument(metavar="SCENARIO.toml", show_default=False)] = None,
    overrides: SetOption = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Train nothing: take this finished run's model.")
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option("--dropout", metavar="SHARE", help="Also train with this modality dropout, between 0 and 1."),
    ] = None,
    data: DataOption = None,
    resume: ResumeOption = False,
    fresh: FreshOption = False,
    output: FormatOption = Format.TEXT,
) -> None:
    """Train once, then measure the test split with every modality hidden in turn, and with each of them alone.

    Without SCENARIO.toml it takes the bundled demo shop.
    """
    if run is not None and (scenario is not None or overrides or dropout is not None or resume or fresh):
        raise typer.BadParameter(
            "--run takes a finished run as it is: no scenario, --set, --dropout, --resume, --fresh"
        )
    if run is None and data is not None:
        raise typer.BadParameter("--data belongs to --run; otherwise write --set data.path=FOLDER")
    if dropout is not None and not 0 < dropout < 1:
        raise typer.BadParameter("--dropout is a share between 0 and 1")
    if run is None:
        _train(scenario, overrides or [], dropout, resume=resume, fresh=fresh, output=output)
    else:
        _take(run, data, output)


def _train(
    scenario: Path | None, overrides: list[str], dropout: float | None, *, resume: bool, fresh: bool, output: Format
) -> None:
    from mmfed.cli.progress import RunProgress
    from mmfed.cli.study import show_study
    from mmfed.config import build_config
    from mmfed.simulation.run_folders import put_aside
    from mmfed.simulation.study import read_study

    settings = [*(_DEMO if scenario is None else ()), *overrides]
    remark("starting")
    from mmfed.simulation.modalities import ModalitiesSection, missing_modalities

    tree, _ = read_study(scenario, "modalities", ModalitiesSection)
    config = build_config(tree, settings, where="configuration" if scenario is None else str(scenario))
    if fresh and not resume and (old := put_aside(config.run.folder / config.run.name)) is not None:
        remark(f"the earlier study is now {old}")
    with RunProgress(config) as progress:
        result = missing_modalities(scenario, settings, dropout=dropout, resume=resume, watcher=progress)
    show_study(result, "Missing modalities", output)


def _take(name: str, data: Path | None, output: Format) -> None:
    from mmfed.cli.progress import RunProgress
    from mmfed.cli.study import show_study
    from mmfed.simulation.run_folders import only_writer, open_run

    run, config = open_run(name, data=data)
    with only_writer(run), RunProgress(config) as progress:
        from mmfed.federated.workspace import load_workspace
        from mmfed.simulation.modalities import modalities_of_run

        progress.stage("loading")
        workspace = load_workspace(config, progress=progress.features)
        progress.stage("evaluation")
        result = modalities_of_run(run, config, workspace)
    show_study(result, "Missing modalities", output)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Test figures with every modality missing in turn.",
        epilog=examples(
            "mmfed modalities",
            "mmfed modalities shop.toml --dropout 0.2",
            "mmfed modalities --run demo",
            "mmfed modalities --run runs/demo --format json > modalities.json",
        ),
    )(modalities)
