"""From a configuration to a cleaned ``Shop``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mmfed.config import DataSection, SplitSection
from mmfed.data.own_content import OwnContent
from mmfed.data.people import nobody
from mmfed.data.population import is_large, load_population, split_population
from mmfed.data.preprocess import clean, clip_price_outliers
from mmfed.data.schema import Shop, Split
from mmfed.data.split import no_split, split_shop
from mmfed.errors import ExitCode, MmfedError
from mmfed.person_attributes import PersonAttribute


def load_shop(
    section: DataSection, *, seed: int, interactions_optional: bool = False, cache: Path | None = None
) -> Shop:
    """Read a shop and clean it; ``notes`` says what cleaning changed.

    Args:
        seed: only the demo shop, whose shoppers are simulated, draws from it.
        interactions_optional: a ``table`` folder without an interactions file gives the catalogue and no users, as a
            coordinator that may not see interactions needs it.
        cache: where a ``table`` shop too large for memory is kept as files (``population``); None reads all of it.

    Raises:
        MmfedError: names the file, row and column at fault, or says that nothing is left.
    """
    _check_listed(section)
    if cache is not None and _on_disk(section):
        shop = load_population(_folder(section), section, cache)
        catalogue, notes = clip_price_outliers(shop.catalogue)
        shop = replace(shop, catalogue=catalogue, notes=(*shop.notes, *notes))
        return shop if shop.own is None else _with_own_content(shop, shop.own)
    shop = _with_people(_read(section, seed, interactions_optional), section.people)
    if interactions_optional and shop.interactions.user_count == 0:
        catalogue, notes = clip_price_outliers(shop.catalogue)
        return replace(shop, catalogue=catalogue, notes=(*shop.notes, *notes))
    if section.users is not None and section.source != "demo" and section.users < shop.interactions.user_count:
        shop = _first_users(shop, section.users)
    shop = clean(shop, repeats=section.repeats, minimum_value=section.minimum_value)
    shop = shop if shop.own is None else _with_own_content(shop, shop.own)
    if shop.people is None:
        return shop
    people = shop.people.for_users(shop.interactions.user_ids)
    return replace(shop, people=people, notes=(*shop.notes, *people.notes()))


def _with_people(shop: Shop, asked: tuple[PersonAttribute, ...]) -> Shop:
    """Who was asked and has no file of answers gave none."""
    return replace(shop, people=nobody(asked)) if asked and shop.people is None else shop


def _check_listed(section: DataSection) -> None:
    """What there is to answer is public knowledge: it is written down, never gathered from the people.

    Raises:
        MmfedError: an attribute without values, or a source that knows nothing about people.
    """
    for one in section.people:
        if not one.size:
            raise MmfedError(
                ExitCode.CONFIG,
                f"data.people.{one.name} lists no values.",
                f"write where its bands begin, data.people.{one.name} = [18, 35], or its categories, "
                "['north', 'south']; `mmfed data check` proposes a list from a file of simulated people.",
            )
    if section.people and section.source not in ("table", "movielens"):
        raise MmfedError(
            ExitCode.CONFIG,
            f'data.source = "{section.source}" knows nothing about people.',
            "leave out data.people, or take a table or MovieLens.",
        )


def load_split(shop: Shop, section: SplitSection) -> Split:
    """Train, validation and test of a shop, on disk where its interactions are.

    Raises:
        MmfedError: the shop cannot be cut like that.
    """
    if shop.stored is not None:
        return split_population(shop, section)
    return split_shop(shop, section) if len(shop.interactions) else no_split(shop.interactions)


def _on_disk(section: DataSection) -> bool:
    if section.source != "table" or section.on_disk == "never":
        return False
    if section.people:
        if section.on_disk == "always":
            raise MmfedError(
                ExitCode.CONFIG,
                "data.on_disk = 'always' has no place for data.people yet.",
                "leave out data.people, or set data.on_disk = 'never'.",
            )
        return False
    folder = _folder(section)
    return any(folder.glob("interactions.*")) and (section.on_disk == "always" or is_large(folder))


def _with_own_content(shop: Shop, read: OwnContent) -> Shop:
    """The shop with the own content of its users, reviews never before what they are about."""
    own = read.for_users(shop.interactions.user_ids).settled(shop.interactions)
    notes = [f"own content of {int((np.diff(own.indptr) > 0).sum())} users: {len(own)} rows"]
    if len(own) < len(read):
        notes.append(f"{len(read) - len(own)} rows of own content were left out: their users have no interactions")
    return replace(shop, own=own if len(own) else None, notes=(*shop.notes, *notes))


def _read(section: DataSection, seed: int, interactions_optional: bool) -> Shop:
    if section.source == "demo":
        from mmfed.data.demo import load_demo

        return load_demo(section.users, seed)
    folder = _folder(section)
    if section.source == "table":
        from mmfed.data.sources.table import load_table

        return load_table(
            folder,
            interactions_optional=interactions_optional,
            own_content=section.own_content,
            people=section.people,
        )
    if section.source == "movielens":
        from mmfed.data.sources.movielens import load_movielens

        return load_movielens(folder, section.people)
    from mmfed.data.sources.mmrec import load_mmrec

    return load_mmrec(folder)


def _folder(section: DataSection) -> Path:
    if section.path is None:
        raise MmfedError(
            ExitCode.CONFIG,
            f'data.source = "{section.source}" needs data.path, the folder of the shop.',
            "add --set data.path=FOLDER, or take the demo shop with data.source = demo.",
        )
    if not section.path.is_dir():
        what = "is not a folder" if section.path.exists() else "no such folder"
        raise MmfedError(
            ExitCode.DATA, f"{section.path}: {what}.", "set data.path to the folder that holds the shop's files."
        )
    return section.path


def _first_users(shop: Shop, users: int) -> Shop:
    kept = shop.interactions.keep_users(np.arange(users))
    return replace(
        shop,
        interactions=kept,
        parts=None if shop.parts is None else shop.parts[: len(kept)],
        notes=(*shop.notes, f"only the first {users} of {shop.interactions.user_count} users were kept (data.users)"),
    )
