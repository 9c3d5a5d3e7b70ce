"""From a configuration to a cleaned ``Shop``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mmfed.config import DataSection
from mmfed.data.own_content import OwnContent
from mmfed.data.preprocess import clean, clip_price_outliers
from mmfed.data.schema import Shop
from mmfed.errors import ExitCode, MmfedError


def load_shop(section: DataSection, *, seed: int, interactions_optional: bool = False) -> Shop:
    """Read a shop and clean it; ``notes`` says what cleaning changed.

    Args:
        seed: only the demo shop, whose shoppers are simulated, draws from it.
        interactions_optional: a ``table`` folder without an interactions file gives the catalogue and no users, as a
            coordinator that may not see interactions needs it.

    Raises:
        MmfedError: names the file, row and column at fault, or says that nothing is left.
    """
    shop = _read(section, seed, interactions_optional)
    if interactions_optional and shop.interactions.user_count == 0:
        catalogue, notes = clip_price_outliers(shop.catalogue)
        return replace(shop, catalogue=catalogue, notes=(*shop.notes, *notes))
    if section.users is not None and section.source != "demo" and section.users < shop.interactions.user_count:
        shop = _first_users(shop, section.users)
    shop = clean(shop, repeats=section.repeats, minimum_value=section.minimum_value)
    return shop if shop.own is None else _with_own_content(shop, shop.own)


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

        return load_table(folder, interactions_optional=interactions_optional, own_content=section.own_content)
    if section.source == "movielens":
        from mmfed.data.sources.movielens import load_movielens

        return load_movielens(folder)
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
