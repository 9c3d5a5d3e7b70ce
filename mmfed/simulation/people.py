"""What people say about themselves, where a run is at hand: proposals of a simulation, and anybody's answers given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from mmfed.config import DataSection
from mmfed.data.people import People
from mmfed.data.sources.answers import answers, proposal
from mmfed.data.sources.movielens import movielens_users
from mmfed.data.sources.people import proposed_people
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.workspace import Workspace
from mmfed.person_attributes import PersonAttribute
from mmfed.types import IntArray


def check_listed(section: DataSection) -> None:
    """Propose values for an attribute without any: a real shop lists them from what it knows itself.

    Raises:
        MmfedError: with the values that the local file has.
    """
    unlisted = [one.name for one in section.people if not one.size]
    if not unlisted or section.path is None or not section.path.is_dir():
        return
    found: dict[str, str] = {}
    if section.source == "table":
        found = proposed_people(section.path)
    elif section.source == "movielens":
        users = movielens_users(section.path)
        found = {name: proposal(users[name]) for name in users.columns}
    for name in unlisted:
        if name in found:
            raise MmfedError(
                ExitCode.CONFIG,
                f"data.people.{name} lists no values. They are public: devices are not asked what they hold.",
                f"write data.people.{name} = {found[name]}, as the simulated people say; for a real shop list what the "
                "shop knows by itself.",
            )


def check_answered(workspace: Workspace) -> None:
    """Refuse a simulation in which the model learns from answers that nobody gave.

    Raises:
        MmfedError: nobody gave any of the listed answers.
    """
    people = workspace.people
    if people is not None and people.size and (people < 0).all():
        names = ", ".join(one.name for one in workspace.config.data.people)
        raise MmfedError(
            ExitCode.DATA,
            f"data.people asks for {names}, and no user gives an answer that is listed.",
            "put people.csv into the shop's folder (docs/own-content.md), or leave out data.people.",
        )


def said(attributes: Sequence[PersonAttribute], about: Mapping[str, str]) -> IntArray:
    """[1, attributes] what somebody says, as ``HistoryBatch.person``.

    Args:
        attributes: that the run asked for.
        about: answers by attribute; those left out are none.

    Raises:
        MmfedError: the run did not ask, or lists no such answer.
    """
    known = {one.name: one for one in attributes}
    for name, answer in about.items():
        if name not in known:
            fix = f"take some of {', '.join(known)}." if known else "train one with data.people (docs/own-content.md)."
            raise MmfedError(ExitCode.CONFIG, f"--about {name}: this run was trained without it.", fix)
        if (_answer(known[name], answer) < 0).any():
            wanted = "a number" if known[name].bands else f"one of {', '.join(known[name].labels[:20])}"
            raise MmfedError(ExitCode.CONFIG, f"--about {name}={answer}: no such answer.", f"give {wanted}.")
    values = [_answer(one, about.get(one.name)) for one in attributes]
    return People(["somebody"], tuple(attributes), np.stack(values, axis=1)).rows


def _answer(attribute: PersonAttribute, answer: str | None) -> IntArray:
    return answers(pl.Series([answer], dtype=pl.String).str.strip_chars(), attribute)
