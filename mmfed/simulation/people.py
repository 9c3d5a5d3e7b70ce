"""What a simulation, where all people lie in one place, can say about ``data.people`` that a device may not."""

from __future__ import annotations

from mmfed.config import DataSection
from mmfed.data.sources.answers import proposal
from mmfed.data.sources.movielens import movielens_users
from mmfed.data.sources.people import proposed_people
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.workspace import Workspace


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
