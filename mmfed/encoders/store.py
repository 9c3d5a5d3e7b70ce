"""The catalogue as numbers: what the server computes once, pins by hash and hands to every device."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmfed.config import EncoderSection, FeaturesSection
from mmfed.data.schema import Catalogue, Features
from mmfed.encoders.attributes import attribute_features
from mmfed.encoders.cache import CachedFeatures, cached_features, default_cache
from mmfed.encoders.encoder import FrozenEncoder, ItemInputs, file_inputs, text_inputs
from mmfed.encoders.precision import rounded
from mmfed.encoders.reduce import Reduction, fit_reduction
from mmfed.encoders.trainable.plan import TowerPlan
from mmfed.encoders.trainable.planner import LORA, adapter_plan, full_plan, lora_plan
from mmfed.errors import ExitCode, MmfedError
from mmfed.rng import numpy_generator

ModalityProgress = Callable[[str, int, int], None]

_NAMED = 20  # unreadable inputs named one by one before the rest is only counted
_NOTHING = {"image": "a picture", "text": "a title or text", "audio": "a sound file", "video": "a video file"}


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of every item, the same on the server and on every device.

    Attributes:
        modalities: frozen features by name; values [items, d_m] float32 after reduction (zero where absent), presence
            [items].
        notes: what was left out or made again and why, one line each.
        digest: hex SHA-256 over item ids, values and presence of all modalities, and the plans' inputs.
        plans: of the modalities with trained weights, with their raw inputs; a full network's has no frozen features.
        reductions: what made the frozen features narrower, for content that comes later; none for those kept whole.
    """

    modalities: dict[str, Features]
    notes: tuple[str, ...]
    digest: str
    plans: Mapping[str, TowerPlan] = field(default_factory=dict)
    reductions: Mapping[str, Reduction] = field(default_factory=dict)

    @property
    def shape(self) -> dict[str, tuple[int, int]]:
        """Width of the vectors and number of items that have them, by modality."""
        frozen = {name: (int(one.values.shape[1]), int(one.present.sum())) for name, one in self.modalities.items()}
        trained = {
            name: (plan.width, int(plan.present.sum())) for name, plan in self.plans.items() if plan.present is not None
        }
        return frozen | trained


def catalogue_features(
    catalogue: Catalogue, section: FeaturesSection, *, progress: ModalityProgress | None = None
) -> FeatureSet:
    """Features of the modalities asked for, from the cache where an earlier run left them.

    Numbers the shop delivers itself take the place of an encoder. A modality that no item has is left out, with a note.
    A full network needs its raw inputs only: no frozen backbone is loaded for it.

    Args:
        progress: called with (modality, items done, items to do) after each durable chunk; what it raises stops the
            work, and a later call continues from there.

    Raises:
        MmfedError: a package, model or weights are missing, or the cache folder cannot be written.
    """
    modalities: dict[str, Features] = {}
    plans: dict[str, TowerPlan] = {}
    reductions: dict[str, Reduction] = {}
    notes: list[str] = []
    for modality in dict.fromkeys(section.modalities):
        settings: EncoderSection = getattr(section, modality)
        if settings.training == "full":
            plan = full_plan(catalogue, modality, settings, _fault_notes(catalogue, modality, notes))
            if plan is None:
                notes.append(f"{modality}: no item has any that could be read; left out.")
            else:
                plans[modality] = plan
            continue
        raw = _raw(catalogue, section, modality, settings, progress, notes)
        if raw is None:
            continue
        features, reduction = _reduced(modality, raw, settings, notes)
        if features is None:
            continue
        features = Features(rounded(features.values, section.precision), features.present)
        modalities[modality] = features
        if reduction is not None:
            reductions[modality] = reduction
        if settings.training == "adapter":
            plans[modality] = _adapter(catalogue, section, modality, features, reduction, notes)
    if section.permuted:
        modalities = _permuted(modalities, catalogue.size)
        notes.append("the features are permuted among the items: a control without content.")
    return FeatureSet(modalities, tuple(notes), _digest(catalogue.item_ids, modalities, plans), plans, reductions)


def _adapter(
    catalogue: Catalogue,
    section: FeaturesSection,
    modality: str,
    features: Features,
    reduction: Reduction | None,
    notes: list[str],
) -> TowerPlan:
    settings: EncoderSection = getattr(section, modality)
    width = features.values.shape[1]
    plan = adapter_plan(modality, settings, width)
    if plan.network != LORA:
        return plan
    if modality in catalogue.features:
        raise MmfedError(
            ExitCode.FEATURES,
            "features.text.network = 'lora': the shop delivers text numbers, and no transformer made them here.",
            "set features.text.network = 'bottleneck'.",
        )
    from mmfed.encoders.text import TextEncoder

    encoder = TextEncoder(settings.encoder, settings.weights, batch=section.batch)
    told = _fault_notes(catalogue, modality, notes)
    return lora_plan(catalogue, encoder.folder, encoder.weights_sha256, reduction, width, told)


def _fault_notes(catalogue: Catalogue, modality: str, notes: list[str]) -> Callable[[dict[int, str]], None]:
    """Notes of the raw inputs that could not be read."""

    def told(faults: dict[int, str]) -> None:
        rows = sorted(faults.items())
        for row, reason in rows[:_NAMED]:
            notes.append(
                f"{modality}: {catalogue.item_ids[row]}: {reason}; the item is treated as having no {modality}."
            )
        if len(rows) > _NAMED:
            notes.append(f"{modality}: {len(rows) - _NAMED} more could not be read.")

    return told


def _permuted(modalities: Mapping[str, Features], items: int) -> dict[str, Features]:
    """All modalities in one random order of the items, always the same."""
    order = numpy_generator(0, "permuted features").permutation(items)
    return {name: Features(one.values[order], one.present[order]) for name, one in modalities.items()}


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
    encoder = frozen_encoder(modality, settings, section.batch)
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


def frozen_encoder(modality: str, settings: EncoderSection, batch: int) -> FrozenEncoder[Any]:
    """The frozen encoder of text, image, audio or video.

    Raises:
        MmfedError: a package, model or weights are missing.
    """
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


def _reduced(
    modality: str, raw: Features, settings: EncoderSection, notes: list[str]
) -> tuple[Features | None, Reduction | None]:
    if settings.dimensions is None and not settings.whiten:
        values = np.zeros(raw.values.shape, dtype=np.float32)
        values[raw.present] = raw.values[raw.present]
        return Features(values, raw.present), None
    reduction = fit_reduction(raw.values, raw.present, settings.dimensions, settings.whiten)
    if reduction.dimensions == 0:
        notes.append(f"{modality}: all items have the same features; left out.")
        return None, None
    wanted = min(settings.dimensions or raw.values.shape[1], raw.values.shape[1])
    if reduction.dimensions < wanted:
        notes.append(f"{modality}: only {reduction.dimensions} of {wanted} directions vary over this catalogue.")
    return Features(reduction.apply(raw.values, raw.present), raw.present), reduction


def _digest(item_ids: tuple[str, ...], modalities: Mapping[str, Features], plans: Mapping[str, TowerPlan]) -> str:
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
    for name in sorted(plans):
        for part in plans[name].digest_parts():
            add(part)
    return digest.hexdigest()
