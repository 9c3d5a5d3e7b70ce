"""The catalogue as numbers: what the server computes once, pins by hash and hands to every device."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfed.config import EncoderSection, FeaturesSection
from mmfed.data.schema import Catalogue, Features
from mmfed.encoders.attributes import attribute_features
from mmfed.encoders.cache import CachedFeatures, cached_features, default_cache
from mmfed.encoders.encoder import FrozenEncoder, ItemInputs, file_inputs, text_inputs
from mmfed.encoders.reduce import fit_reduction

ModalityProgress = Callable[[str, int, int], None]

_NAMED = 20  # unreadable inputs named one by one before the rest is only counted
_NOTHING = {"image": "a picture", "text": "a title or text", "audio": "a sound file", "video": "a video file"}


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of every item, the same on the server and on every device.

    Attributes:
        modalities: by name; values [items, d_m] float32 after reduction (zero where absent), presence [items].
        notes: what was left out or made again and why, one line each.
        digest: hex SHA-256 over item ids, values and presence of all modalities.
    """

    modalities: dict[str, Features]
    notes: tuple[str, ...]
    digest: str


def catalogue_features(
    catalogue: Catalogue, section: FeaturesSection, *, progress: ModalityProgress | None = None
) -> FeatureSet:
    """Features of the modalities asked for, from the cache where an earlier run left them.

    Numbers the shop delivers itself take the place of an encoder. A modality that no item has is left out, with a note.

    Args:
        progress: called with (modality, items done, items to do) after each durable chunk; what it raises stops the
            work, and a later call continues from there.

    Raises:
        MmfedError: a package, model or weights are missing, or the cache folder cannot be written.
    """
    modalities: dict[str, Features] = {}
    notes: list[str] = []
    for modality in section.modalities:
        if modality in modalities:
            continue
        settings: EncoderSection = getattr(section, modality)
        raw = _raw(catalogue, section, modality, settings, progress, notes)
        if raw is not None:
            features = _reduced(modality, raw, settings, notes)
            if features is not None:
                modalities[modality] = features
    return FeatureSet(modalities, tuple(notes), _digest(catalogue.item_ids, modalities))


def _raw(
    catalogue: Catalogue,
    section: FeaturesSection,
    modality: str,
    settings: EncoderSection,
    progress: ModalityProgress | None,
    notes: list[str],
) -> Features | None:
    """Features before reduction, or None (with a note) when there are none."""
    delivered = catalogue.features.get(modality)
    if delivered is not None:
        return _sound(modality, delivered, notes)
    if settings.encoder == "none":
        notes.append(f"{modality}: the encoder is 'none' and the shop delivers no numbers; left out.")
        return None
    if modality != "attributes":
        return _encoded(catalogue, section, modality, settings, progress, notes)
    features = attribute_features(catalogue)
    if not features.present.any():
        notes.append(f"{modality}: no item has any; left out.")
        return None
    return features


def _encoded(
    catalogue: Catalogue,
    section: FeaturesSection,
    modality: str,
    settings: EncoderSection,
    progress: ModalityProgress | None,
    notes: list[str],
) -> Features | None:
    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(modality, done, total)

    inputs = _inputs(catalogue, modality)
    if not inputs.rows():
        notes.append(f"{modality}: no item has {_NOTHING[modality]}; left out.")
        return None
    folder = section.cache or default_cache()
    encoder = _encoder(modality, settings, section.batch)
    found = cached_features(folder, modality, encoder, inputs, report)
    _note_faults(modality, found, inputs.labels, folder, notes)
    if not found.features.present.any():
        notes.append(f"{modality}: nothing could be read; left out.")
        return None
    return found.features


def _inputs(catalogue: Catalogue, modality: str) -> ItemInputs[Any]:
    """What the encoder of a modality reads, per item."""
    if modality == "text":
        return text_inputs(catalogue.titles, catalogue.texts, catalogue.item_ids)
    return file_inputs({"image": catalogue.images, "audio": catalogue.audios, "video": catalogue.videos}[modality])


def _encoder(modality: str, settings: EncoderSection, batch: int) -> FrozenEncoder[Any]:
    if modality == "image":
        from mmfed.encoders.image import ImageEncoder as Encoder
    elif modality == "text":
        from mmfed.encoders.text import TextEncoder as Encoder
    elif modality == "audio":
        from mmfed.encoders.audio import AudioEncoder as Encoder
    else:
        from mmfed.encoders.video import VideoEncoder as Encoder
    return Encoder(settings.encoder, settings.weights, batch=batch)


def _note_faults(modality: str, found: CachedFeatures, labels: tuple[str, ...], folder: Path, notes: list[str]) -> None:
    if found.damaged:
        notes.append(f"{modality}: the cached features in {folder} did not match their hash; computed again.")
    faults = sorted(found.faults.items())
    for row, reason in faults[:_NAMED]:
        notes.append(f"{modality}: {labels[row]}: {reason}; the item is treated as having no {modality}.")
    if len(faults) > _NAMED:
        notes.append(f"{modality}: {len(faults) - _NAMED} more could not be read.")


def _sound(modality: str, delivered: Features, notes: list[str]) -> Features | None:
    """Delivered numbers with rows that are not finite masked."""
    finite = np.isfinite(delivered.values).all(axis=1)
    present = delivered.present & finite
    broken = int((delivered.present & ~finite).sum())
    if broken:
        notes.append(f"{modality}: {broken} delivered rows hold NaN or infinity; treated as absent.")
    if not present.any() or delivered.values.shape[1] == 0:
        notes.append(f"{modality}: no item has any; left out.")
        return None
    return Features(delivered.values, present)


def _reduced(modality: str, raw: Features, settings: EncoderSection, notes: list[str]) -> Features | None:
    if settings.dimensions is None and not settings.whiten:
        values = np.zeros(raw.values.shape, dtype=np.float32)
        values[raw.present] = raw.values[raw.present]
        return Features(values, raw.present)
    reduction = fit_reduction(raw.values, raw.present, settings.dimensions, settings.whiten)
    if reduction.dimensions == 0:
        notes.append(f"{modality}: all items have the same features; left out.")
        return None
    wanted = min(settings.dimensions or raw.values.shape[1], raw.values.shape[1])
    if reduction.dimensions < wanted:
        notes.append(f"{modality}: only {reduction.dimensions} of {wanted} directions vary over this catalogue.")
    return Features(reduction.apply(raw.values, raw.present), raw.present)


def _digest(item_ids: tuple[str, ...], modalities: Mapping[str, Features]) -> str:
    digest = hashlib.sha256()

    def add(part: bytes) -> None:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    for item in item_ids:
        add(item.encode("utf-8", "surrogatepass"))
    for name in sorted(modalities):
        features = modalities[name]
        add(name.encode())
        add(repr(features.values.shape).encode())
        add(np.ascontiguousarray(features.values, dtype="<f4").tobytes())
        add(np.ascontiguousarray(features.present, dtype=np.uint8).tobytes())
    return digest.hexdigest()
