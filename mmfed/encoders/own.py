"""A person's own content as numbers: on the device, by the encoders that made the catalogue's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfed.config import EncoderSection, FeaturesSection
from mmfed.data.own_content import KINDS, OwnContent, own_content
from mmfed.data.schema import Catalogue, Features
from mmfed.encoders.cache import cached_features
from mmfed.encoders.encoder import ItemInputs, file_inputs, text_inputs
from mmfed.encoders.sealed_cache import sealed_features
from mmfed.encoders.store import FeatureSet, frozen_encoder
from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.vault import Vault
from mmfed.types import BoolArray


@dataclass(frozen=True, eq=False)
class OwnFeatures:
    """Own content that was encoded, as private as the content.

    Attributes:
        content: whose, when, and about which item.
        modalities: by name; values [rows, d_m] float32, as wide as the catalogue's, and presence [rows].
        notes: what could not be read, counted and not named.
    """

    content: OwnContent
    modalities: Mapping[str, Features]
    notes: tuple[str, ...] = ()

    def readable(self, names: Collection[str]) -> BoolArray:
        """[rows] true where one of the named modalities is present."""
        known = [one.present for name, one in self.modalities.items() if name in names]
        return np.logical_or.reduce(known) if known else np.zeros(len(self.content), dtype=bool)

    def of_user(self, user: int) -> OwnFeatures:
        """One person's alone."""
        content = self.content
        rows = slice(int(content.indptr[user]), int(content.indptr[user + 1]))
        modalities = {name: Features(one.values[rows], one.present[rows]) for name, one in self.modalities.items()}
        return OwnFeatures(content.for_users([content.user_ids[user]]), modalities)

    def followed_by(self, later: OwnFeatures) -> OwnFeatures:
        """One person's, and what the same person wrote later."""
        first, last = self.content, later.content
        content = own_content(
            user_ids=first.user_ids,
            users=np.zeros(len(first) + len(last), dtype=np.int64),
            times=np.concatenate([first.times, last.times]),
            items=np.concatenate([first.items, last.items]),
            contents={kind: (*first.of(kind), *last.of(kind)) for kind in KINDS},
        )
        names = dict.fromkeys([*self.modalities, *later.modalities])
        return OwnFeatures(content, {name: self._stacked(name, later) for name in names})

    def _stacked(self, name: str, later: OwnFeatures) -> Features:
        """A modality of both, absent where only the other has it."""
        parts = [(one.modalities.get(name), len(one.content)) for one in (self, later)]
        width = next(part.values.shape[1] for part, _ in parts if part is not None)
        values = [np.zeros((rows, width), dtype=np.float32) if part is None else part.values for part, rows in parts]
        present = [np.zeros(rows, dtype=bool) if part is None else part.present for part, rows in parts]
        return Features(np.concatenate(values), np.concatenate(present))


def own_features(
    content: OwnContent,
    catalogue: Catalogue,
    section: FeaturesSection,
    features: FeatureSet,
    *,
    cache: Path | Vault | None = None,
) -> OwnFeatures:
    """Encode own content with the catalogue's frozen encoders and reductions.

    A modality that the catalogue's features lack is left out: no weight of the model reads it.

    Args:
        features: of the catalogue.
        cache: for encoded content: a vault, or a folder that its owner alone may read; None keeps nothing.

    Raises:
        MmfedError: a modality has no frozen features to stand beside, a package or weights are missing, or the cache
            cannot be written.
    """
    modalities: dict[str, Features] = {}
    notes: list[str] = []
    for modality in KINDS:
        inputs = _inputs(content, modality)
        if modality not in section.modalities or not inputs.rows():
            continue
        settings: EncoderSection = getattr(section, modality)
        _check_frozen(modality, settings, catalogue, features)
        if modality not in features.modalities:
            continue
        found = _encoded(modality, settings, section.batch, inputs, cache)
        unread = len(inputs.rows()) - int(found.present.sum())
        if unread:
            notes.append(f"own content, {modality}: {unread} could not be read; treated as absent.")
        modalities[modality] = _reduced(found, features, modality)
    return OwnFeatures(content, modalities, tuple(notes))


def _inputs(content: OwnContent, modality: str) -> ItemInputs[Any]:
    if modality == "text":
        nothing = (None,) * len(content)
        return text_inputs(nothing, content.texts, ("",) * len(content))
    return file_inputs(content.of(modality))


def _check_frozen(modality: str, settings: EncoderSection, catalogue: Catalogue, features: FeatureSet) -> None:
    plan = features.plans.get(modality)
    if settings.training == "full" or (plan is not None and plan.inputs is not None):
        what = f"own content has {modality}, and features.{modality} is trained from raw inputs."
        fix = f"set features.{modality}.training = 'frozen' (or an adapter but lora), or data.own_content = false."
        raise MmfedError(ExitCode.CONFIG, what, fix)
    if modality in catalogue.features:
        what = f"own content has {modality}, and the shop delivers its {modality} as numbers made elsewhere."
        raise MmfedError(ExitCode.FEATURES, what, "deliver the raw files, or set data.own_content = false.")


def _encoded(
    modality: str, settings: EncoderSection, batch: int, inputs: ItemInputs[Any], cache: Path | Vault | None
) -> Features:
    """Before reduction; absent rows are zeros."""
    encoder = frozen_encoder(modality, settings, batch)
    if isinstance(cache, Vault):
        return sealed_features(cache, modality, encoder, inputs)
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cached_features(cache, modality, encoder, inputs).features
    rows = inputs.rows()
    encoded = encoder.encode([inputs.inputs[row] for row in rows])
    values = np.zeros((len(inputs.inputs), encoded.values.shape[1]), dtype=np.float16)  # as the catalogue's are kept
    present = np.zeros(len(inputs.inputs), dtype=bool)
    values[rows], present[rows] = encoded.values, encoded.present
    return Features(values, present)


def _reduced(found: Features, features: FeatureSet, modality: str) -> Features:
    present, reduction = found.present, features.reductions.get(modality)
    values = np.zeros((len(present), features.modalities[modality].values.shape[1]), dtype=np.float32)
    if present.any():
        made, all_there = found.values[present], np.ones(int(present.sum()), dtype=bool)
        values[present] = made if reduction is None else reduction.apply(made, all_there)
    return Features(values, present)
