"""Examine a shop's own files and report every fault, not only the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfed.config import DataSection
from mmfed.data.findings import LISTED, Finding, Findings
from mmfed.data.pictures import picture_fault
from mmfed.data.preprocess import clean, price_outliers
from mmfed.data.recordings import sound_fault, video_fault
from mmfed.data.schema import Shop
from mmfed.data.sources.people import proposed_people
from mmfed.data.sources.table import read_table
from mmfed.data.twins import item_twins
from mmfed.errors import MmfedError

TWIN_OVERLAP = 0.3


@dataclass(frozen=True)
class CheckReport:
    """What ``check_shop`` found.

    Attributes:
        findings: in the order of the files; of one kind in one column at most 20 rows are listed, then their number.
        counts: users, items, interactions, pictures, errors, warnings (all rows counted, listed or not).
    """

    folder: Path
    findings: tuple[Finding, ...]
    counts: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """Whether the shop loads: warnings do not keep it from that."""
        return self.counts["errors"] == 0


def check_shop(folder: Path, section: DataSection | None = None) -> CheckReport:
    """Validate a folder in the table format; collects all faults and raises none.

    The errors are those ``load_shop`` raises, in the same words. The contents of pictures, sound and video files
    and look-alike items are examined here only.

    Args:
        section: the cleaning to try (``repeats``, ``minimum_value``) and what people may say about themselves
            (``people``); None takes the defaults.
    """
    section = section or DataSection.model_validate({"source": "table", "path": folder})
    findings = Findings()
    shop = None
    if folder.is_dir():
        shop = read_table(folder, findings, people=tuple(one for one in section.people if one.size))
    else:
        findings.add("error", str(folder), "no such folder", "give the folder that holds the shop's files.")
    if shop is not None:
        _check_cleaning(shop, section, findings)
        _check_prices(shop, folder, findings)
        for files in _media(shop):
            _check_media(files, folder, findings)
        _check_twins(shop, folder, findings)
        _check_people(folder, section, findings)
    counts = {
        "users": 0 if shop is None else shop.interactions.user_count,
        "items": 0 if shop is None else shop.catalogue.size,
        "interactions": 0 if shop is None else len(shop.interactions),
        "pictures": 0 if shop is None else sum(image is not None for image in shop.catalogue.images),
        "errors": findings.errors,
        "warnings": findings.warnings,
    }
    return CheckReport(folder=folder, findings=tuple(findings.listed), counts=counts)


def _check_cleaning(shop: Shop, section: DataSection, findings: Findings) -> None:
    try:
        clean(shop, repeats=section.repeats, minimum_value=section.minimum_value)
    except MmfedError as error:
        where, _, what = error.message.rstrip(".").partition(": ")
        findings.add("error", where, what, error.fix)


def _check_prices(shop: Shop, folder: Path, findings: Findings) -> None:
    outliers, low, high = price_outliers(shop.catalogue.prices)
    places = np.flatnonzero(outliers)
    if len(places):
        items = ", ".join(shop.catalogue.item_ids[i] for i in places[:LISTED])
        what = f"{len(places)} prices are far from all others and are clipped to {low:.2f} … {high:.2f} (items {items})"
        findings.add("warning", _file(folder, "items"), what, "look at them: a point may be missing.", column="price")


@dataclass(frozen=True)
class _Media:
    """Files of one column: how to examine one, and the words for findings."""

    owner: str
    paths: tuple[Path | None, ...]
    fault: Callable[[Path], str | None]
    kind: str
    lacking: str
    package: str
    extra: str


def _media(shop: Shop) -> Iterator[_Media]:
    for owner, one in (("item", shop.catalogue), ("row", shop.own)):
        if one is not None:
            yield _Media(owner, one.images, picture_fault, "pictures", "a picture", "Pillow", "vision")
            yield _Media(owner, one.audios, sound_fault, "sound files", "sound", "soundfile", "audio")
            yield _Media(owner, one.videos, video_fault, "video files", "video", "PyAV", "video")


def _check_media(media: _Media, folder: Path, findings: Findings) -> None:
    looked_at: dict[Path, str | None] = {}
    try:
        for path in media.paths:
            if path is not None and path not in looked_at:
                looked_at[path] = media.fault(path)
    except ModuleNotFoundError:
        what = f"the {media.kind} were not examined, since {media.package} is not installed"
        findings.add("warning", "media", what, f"pip install 'mmfed[{media.extra}]'.")
        return
    faulty = [(path, fault) for path, fault in looked_at.items() if fault]
    for path, fault in faulty[:LISTED]:
        name = str(path.relative_to(folder))
        findings.add("warning", name, f"{fault}; the {media.owner} counts as without {media.lacking}", "replace it.")
    if len(faulty) > LISTED:
        findings.add("warning", "media", f"{len(faulty) - LISTED} more {media.kind} cannot be used", "replace them.")


def _check_twins(shop: Shop, folder: Path, findings: Findings) -> None:
    twins = item_twins(shop.interactions, threshold=TWIN_OVERLAP)
    if len(twins.pairs) == 0:
        return
    ids = shop.catalogue.item_ids
    shown = ", ".join(
        f"{ids[a]} and {ids[b]} ({overlap:.2f})"
        for (a, b), overlap in zip(twins.pairs[:5], twins.jaccard, strict=False)
    )
    whole = twins.users == shop.interactions.user_count
    among = "" if whole else f", judged by {twins.users} of {shop.interactions.user_count} users"
    what = f"{len(twins.pairs)} pairs of items share more than {TWIN_OVERLAP:.0%} of their customers{among}: {shown}"
    fix = "merge them where they are variants of one product: they make figures look better than they are."
    findings.add("warning", _file(folder, "interactions"), what, fix, column="item")


def _check_people(folder: Path, section: DataSection, findings: Findings) -> None:
    """A file of people of which nothing is asked, and the other way round."""
    asked, there = section.people, proposed_people(folder)
    unlisted = [one.name for one in asked if not one.size]
    for name, listed in there.items():
        if not asked or name in unlisted:
            fix = f"if the model may use it, list its values in the configuration: data.people.{name} = {listed}."
            findings.add("warning", _file(folder, "people"), "the column is not used", fix, column=name)
    if asked and not there:
        fix = "put it into the folder, or leave out data.people; devices may do without it."
        findings.add("warning", "people.csv", "no such file, so nobody says anything", fix)


def _file(folder: Path, stem: str) -> str:
    return f"{stem}.csv" if (folder / f"{stem}.csv").is_file() else f"{stem}.parquet"
