"""Random over- and under-sampling and SMOTE through imbalanced-learn, with the ancestry of every record.

Classes present in a pool are brought to one size: over-sampling up to the largest, under-sampling down to the smallest.
The pool is one device's records, or everybody's where no privacy is promised.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfed.config import PrivacyMode
from mmfed.data.imbalance.contribution import (
    NOBODY,
    Contribution,
    Method,
    Pool,
    check_resampling,
    contribution,
    privacy_multiplicity,
)
from mmfed.data.imbalance.extra import require_trees
from mmfed.errors import ExitCode, MmfedError
from mmfed.rng import derive
from mmfed.types import FloatArray, IntArray

NEIGHBOURS = 5  # of SMOTE (Chawla et al. 2002); fewer where a class has fewer records


@dataclass(frozen=True, eq=False)
class Resampled:
    """Records after resampling, ordered by pool; inside a pool the originals that stay come first.

    Attributes:
        values: [after, columns].
        labels: [after].
        groups: [after] user of each record, ``NOBODY`` for a synthetic record made from several people's.
        origins: [after] the original each record is or copies, -1 for a synthetic one.
        groups_before: [before] user of each original.
        lineage_before, lineage_after: number of the (pool, class) of each record, before and after.
    """

    values: FloatArray
    labels: IntArray
    groups: IntArray
    origins: IntArray
    groups_before: IntArray
    lineage_before: IntArray
    lineage_after: IntArray

    def __len__(self) -> int:
        return len(self.labels)

    def contribution(self) -> Contribution:
        """Records per user before and after; see ``contribution.contribution``."""
        return contribution(self.groups_before, self.groups)

    def privacy_multiplicity(self) -> int:
        """Most records that derive from one original; see ``contribution.privacy_multiplicity``."""
        return privacy_multiplicity(self.origins, self.lineage_before, self.lineage_after)


def resample(
    values: FloatArray,
    labels: IntArray,
    groups: IntArray,
    *,
    method: Method,
    privacy_mode: PrivacyMode,
    pool: Pool = "device",
    levels: IntArray | None = None,
    most_copies: int | None = None,
    seed: int = 0,
) -> Resampled:
    """Even out the classes.

    Args:
        values: [records, columns], finite.
        labels: [records] class of each, 0 or more.
        groups: [records] user of each, 0 or more.
        privacy_mode: what is promised; it decides what is allowed (``check_resampling``).
        levels: [columns] number of categories of a column, 0 for a numeric one; SMOTE never interpolates categories
            (SMOTENC). None: all are numeric.
        most_copies: most records that may derive from one original, that one included; those beyond it are left out,
            so that classes may stay uneven.
        seed: every pool draws from (seed, its user).

    Raises:
        MmfedError: bad or no data, what ``check_resampling`` refuses, or imbalanced-learn is missing.
    """
    values, labels, groups = np.asarray(values, dtype=np.float64), np.asarray(labels), np.asarray(groups)
    _check_data(values, labels, groups)
    check_resampling(method, pool=pool, groups=groups, privacy_mode=privacy_mode, most_copies=most_copies)
    kinds = np.zeros(values.shape[1], dtype=np.int64) if levels is None else np.asarray(levels)
    pools = groups if pool == "device" else np.zeros_like(groups)
    classes = int(labels.max()) + 1
    lineage = np.unique(pools, return_inverse=True)[1] * classes + labels
    if method == "none":
        origins = np.arange(len(labels))
        return Resampled(values, labels, groups, origins, groups, lineage, lineage)
    require_trees("imblearn")
    order = np.argsort(pools, kind="stable")
    bounds = np.flatnonzero(np.diff(pools[order])) + 1
    parts = []
    for members in np.split(order, bounds):
        key = derive(seed, "resample", method, int(pools[members[0]])) % 2**32
        part_values, part_labels, origins = _resample_pool(
            values[members], labels[members], method=method, kinds=kinds, key=key
        )
        kept = _within_limit(origins, part_labels, most_copies)
        own = groups[members[0]] if (groups[members] == groups[members[0]]).all() else NOBODY
        real = origins[kept] >= 0
        found = np.where(real, members[origins[kept]], -1)
        owners = np.where(real, groups[found], own)
        number = lineage[members[0]] // classes * classes
        parts.append((part_values[kept], part_labels[kept], owners, found, number + part_labels[kept]))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Resampled(columns[0], columns[1], columns[2], columns[3], groups, lineage, columns[4])


def _resample_pool(
    values: FloatArray, labels: IntArray, *, method: Method, kinds: IntArray, key: int
) -> tuple[FloatArray, IntArray, IntArray]:
    """One pool: values, labels and origins (-1: synthetic) after resampling."""
    present, counts = np.unique(labels, return_counts=True)
    everything = np.arange(len(labels))
    if len(present) < 2 or counts.min() == counts.max():
        return values, labels, everything
    from imblearn.over_sampling import RandomOverSampler
    from imblearn.under_sampling import RandomUnderSampler

    if method == "random-under":
        sampler = RandomUnderSampler(sampling_strategy="all", random_state=key)
    else:
        sampler = RandomOverSampler(sampling_strategy="not majority", random_state=key)
    if method != "smote":
        sampler.fit_resample(everything[:, None], labels)
        chosen = np.asarray(sampler.sample_indices_)
        chosen = np.sort(chosen) if method == "random-under" else chosen
        return values[chosen], labels[chosen], chosen
    # A class of one record has no neighbour of its kind: it is copied.
    single: Any = {int(one): int(counts.max()) for one, count in zip(present, counts, strict=True) if count == 1}
    origins = everything
    if single:
        copier = RandomOverSampler(sampling_strategy=single, random_state=key)
        copier.fit_resample(everything[:, None], labels)
        origins = np.asarray(copier.sample_indices_)
    rest = {int(one): int(counts.max()) for one, count in zip(present, counts, strict=True) if 1 < count < counts.max()}
    if not rest:
        return values[origins], labels[origins], origins
    neighbours = min(NEIGHBOURS, int(min(counts[(counts > 1) & (counts < counts.max())])) - 1)
    made, made_labels = _smote(values[origins], labels[origins], rest, kinds, neighbours, key)
    return made, made_labels, np.concatenate([origins, np.full(len(made_labels) - len(origins), -1)])


def _smote(
    values: FloatArray, labels: IntArray, targets: dict[int, int], kinds: IntArray, neighbours: int, key: int
) -> tuple[FloatArray, IntArray]:
    """Synthetic records after the originals, numbers interpolated, categories by vote of the neighbours."""
    from imblearn.over_sampling import SMOTE, SMOTEN, SMOTENC

    categorical = np.flatnonzero(kinds)
    options = {"sampling_strategy": targets, "random_state": key, "k_neighbors": neighbours}
    if not len(categorical):
        sampler = SMOTE(**options)
    elif len(categorical) == len(kinds):
        sampler = SMOTEN(**options)
    else:
        sampler = SMOTENC(categorical_features=categorical.tolist(), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn about its own future defaults
        made = sampler.fit_resample(values, labels)
    return np.asarray(made[0], dtype=np.float64), np.asarray(made[1])


def _within_limit(origins: IntArray, labels: IntArray, most_copies: int | None) -> IntArray:
    """Which records stay when no original may have more than ``most_copies`` descendants, itself included."""
    places = np.arange(len(origins))
    if most_copies is None:
        return places
    synthetic = origins < 0
    # Every original of a class counts as an ancestor of all synthetic records of the class.
    keys = np.where(synthetic, -1 - labels, origins)
    order = np.argsort(keys, kind="stable")
    arranged = keys[order]
    begins = np.concatenate([[True], arranged[1:] != arranged[:-1]])
    ordinal = np.empty(len(keys), dtype=np.int64)
    ordinal[order] = places - np.maximum.accumulate(np.where(begins, places, 0))
    return places[ordinal < np.where(synthetic, most_copies - 1, most_copies)]


def _check_data(values: FloatArray, labels: IntArray, groups: IntArray) -> None:
    records = len(values)
    if values.ndim != 2 or not records or labels.shape != (records,) or groups.shape != (records,):
        raise MmfedError(
            ExitCode.DATA,
            f"values {values.shape}, labels {labels.shape} and groups {groups.shape} are no table of records.",
            "give one label and one user per record, and at least one record.",
        )
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise MmfedError(
            ExitCode.DATA,
            f"record {row}, column {column} is not finite: distances to it do not exist.",
            "fill or leave out missing values before resampling.",
        )
    if labels.min() < 0 or groups.min() < 0:
        raise MmfedError(ExitCode.DATA, "a label or user number is negative.", "number classes and users from 0.")
