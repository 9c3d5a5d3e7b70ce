"""``mmfed recommend``: what a run's model would show to somebody."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mmfed.cli.options import DataOption, FormatOption, RunArgument, examples
from mmfed.cli.terminal import Format, emit, remark, say


def recommend(
    name: RunArgument,
    user: Annotated[str | None, typer.Option("--user", help="Id of a person of the shop.")] = None,
    history: Annotated[
        str | None,
        typer.Option("--history", metavar="A,B,C", help="Item ids, oldest first, of somebody training never saw."),
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", metavar="WORDS", help="What the person looks for right now.")
    ] = None,
    about: Annotated[
        list[str] | None,
        typer.Option("--about", metavar="NAME=ANSWER", help="What the person says, e.g. age=31; repeatable."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Length of the list.", min=1, show_default=False)] = 10,
    stores: Annotated[bool, typer.Option("--stores", help="Rank the shop's stores instead of its items.")] = False,
    campaigns: Annotated[
        Path | None,
        typer.Option("--campaigns", metavar="FILE", help="Say which campaign of FILE the person is shown, if any."),
    ] = None,
    data: DataOption = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Show the list that the model of RUN gives to a person; nothing the person already touched is in it.

    Somebody new may say something (age, region and the like), where the run was trained with data.people
    (docs/own-content.md). With a query the list answers it, re-ranked by what the person did. Stores and campaigns are
    judged by their items (docs/applications.md).

    RUN is the folder of a run, or its name under runs/.
    """
    if (user is not None and history is not None) or (user is None and history is None and query is None and not about):
        raise typer.BadParameter("give exactly one of --user and --history; --query goes with either, or alone")
    answers = dict(one.split("=", 1) for one in about or [] if "=" in one)
    if len(answers) < len(about or []) or (answers and user is not None):
        raise typer.BadParameter("--about takes NAME=ANSWER, each name once, and goes with --history, --query or alone")
    if stores and campaigns is not None:
        raise typer.BadParameter("give at most one of --stores and --campaigns")
    from mmfed.cli.progress import RunProgress
    from mmfed.simulation.run_folders import open_run

    run, config = open_run(name, data=data)
    from mmfed.applications.campaign_file import read_campaigns
    from mmfed.applications.stores import several_stores
    from mmfed.cli.lists import show_campaign, show_history, show_items, show_stores
    from mmfed.federated.workspace import load_workspace
    from mmfed.simulation.offers import CampaignChoice, StoreList, offer_campaign, offer_stores
    from mmfed.simulation.person_scores import scores_for_history, scores_for_user
    from mmfed.simulation.recommend import check_length, recommended

    with RunProgress(config) as progress:
        workspace = load_workspace(config, progress=progress.features)
    catalogue, seed = workspace.shop.catalogue, config.run.seed
    # What is wrong with the request is said before the model is loaded.
    known = () if campaigns is None else read_campaigns(campaigns, catalogue)
    if stores:
        several_stores(catalogue.store)
    elif campaigns is None:
        check_length(k, catalogue)
    if user is not None:
        person = scores_for_user(run, config, workspace, user, query=query)
    else:
        person = scores_for_history(run, config, workspace, (history or "").split(","), query=query, about=answers)
    if stores:
        found = offer_stores(person, catalogue, k=k, seed=seed)
    elif campaigns is not None:
        found = offer_campaign(person, catalogue, known, seed=seed)
    else:
        found = recommended(person, catalogue, k=k, seed=seed)
    if output is Format.JSON:
        emit({"run": str(run.path), **asdict(found)})
        return
    show_history(found.user, found.history)
    if query is not None:
        say(f"\nLooks for: {query}")
    say(f"\nRecommended by {run.path.name}, model of round {found.round}:")
    if isinstance(found, StoreList):
        show_stores(found.stores)
    elif isinstance(found, CampaignChoice):
        show_campaign(found.campaign)
    else:
        show_items(found.items, scored=True)
        if len(found.items) < k:
            remark(f"only {len(found.items)} items are left that this person has not touched")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command(
        short_help="Show what a run's model recommends.",
        epilog=examples(
            "mmfed recommend demo --user shopper-0000042",
            "mmfed recommend demo --history clothing-001,clothing-134 -k 5",
            'mmfed recommend demo --user shopper-0000042 --query "warm jacket"',
            "mmfed recommend shop --history a1,a7 --about age=31 --about region=north",
            "mmfed recommend demo --user shopper-0000042 --stores",
            "mmfed recommend demo --user shopper-0000042 --campaigns campaigns.csv",
            "mmfed recommend runs/demo --user shopper-0000042 --format json",
        ),
    )(recommend)
