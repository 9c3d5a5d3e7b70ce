"""Fusion heads by name. A new head takes one file and one line here."""

from __future__ import annotations

from mmfed.errors import ExitCode, MmfedError
from mmfed.fusion.attention import AttentionFusion
from mmfed.fusion.concat import ConcatFusion
from mmfed.fusion.gated import GatedFusion
from mmfed.fusion.head import FusionHead
from mmfed.fusion.late import LateFusion
from mmfed.fusion.product import ProductFusion

FUSION_HEADS: dict[str, type[FusionHead]] = {
    "concat": ConcatFusion,
    "gated": GatedFusion,
    "attention": AttentionFusion,
    "product": ProductFusion,
    "late": LateFusion,
}


def fusion_head(name: str) -> type[FusionHead]:
    """The head of that name.

    Raises:
        MmfedError: there is none.
    """
    if name not in FUSION_HEADS:
        known = ", ".join(FUSION_HEADS)
        raise MmfedError(ExitCode.CONFIG, f"model.fusion = {name!r}: no such fusion head.", f"choose one of: {known}.")
    return FUSION_HEADS[name]
