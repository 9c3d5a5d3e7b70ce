"""``mmfed cold-start``: items and people that came after training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmfed.cli.options import FormatOption, FreshOption, ResumeOption, SetOption, examples
from mmfed.cli.terminal import Format, remark

_DEMO = ("run.name=cold-start", "federation.rounds=10")


def cold_start(
    scenario: Annotated[Path | None, typer.Argument(metavar="SCENARIO.toml", show_default=False)] = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
    fresh: FreshOption = False,
    output: FormatOption = Format.TEXT,
) -> None:
    """Hold a tenth of items and users out of training, then recommend the items from content and to the users at once.

    How much is held out is data.split.cold_items and data.split.new_users. Without SCENARIO.toml it takes the bundled
    demo shop.
    """
    from mmfed.cli.progress import RunProgress
    from mmfed.cli.study import show_study
    from mmfed.config import build_config
    from mmfed.simulation.run_folders import put_aside
    from mmfed.simulation.study import read_study

    settings = [*(_DEMO if scenario is None else ()), *(overrides or ())]
    remark("starting")
    from mmfed.simulation.cold_start import ColdStartSection
    from mmfed.simulation.cold_start import cold_start as run_cold_start

    tree, _ = read_study(scenario, "cold_start", ColdStartSection)
    config = build_config(tree, settings, where="configuration" if scenario is None else str(scenario))
    if fresh and not resume and (old := put_aside(config.run.folder / config.run.name)) is not None:
        remark(f"the earlier study is now {old}")
    with RunProgress(config) as progress:
        result = run_cold_start(scenario, settings, resume=resume, watcher=progress)
    show_study(result, "Cold start", output)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        name="cold-start",
        short_help="New items from content alone, new users from their first interactions.",
        epilog=examples(
            "mmfed cold-start",
            "mmfed cold-start --set run.name=open --set privacy.mode=none --set federation.rounds=20",
            "mmfed cold-start simulations/cold_start_ml100k.toml --resume",
            "mmfed cold-start shop.toml --format json > cold_start.json",
        ),
    )(cold_start)
