"""Fusion heads: what is missing is not read, and what is present counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmfed.fusion.attention import AttentionFusion
from mmfed.fusion.concat import ConcatFusion
from mmfed.fusion.registry import FUSION_HEADS
from mmfed.models.base import item_features

ITEMS, D = 12, 4
WIDTHS = {"image": 5, "text": 3, "attributes": 2}


def made(kind, widths=WIDTHS, seed=0):
    head = kind(widths, D, scale=0.5, generator=torch.Generator().manual_seed(seed)).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double()
    return head


def inputs(widths=WIDTHS, seed=2):
    generator = torch.Generator().manual_seed(seed)
    values = tuple(torch.randn(ITEMS, width, generator=generator).double() for width in widths.values())
    present = (torch.rand(ITEMS, len(widths), generator=generator) < 0.6).double()
    present[0], present[1] = 0.0, 1.0
    return values, present


@pytest.mark.parametrize("kind", list(FUSION_HEADS.values()))
class TestEveryHead:
    def test_values_of_missing_modalities_do_not_matter(self, kind):
        head, (values, present) = made(kind), inputs()
        other = tuple(
            torch.where(present[:, column, None] == 1, value, torch.full_like(value, 1e6))
            for column, value in enumerate(values)
        )
        torch.testing.assert_close(head(other, present), head(values, present), rtol=1e-9, atol=1e-9)

    def test_every_present_modality_matters(self, kind):
        head, (values, present) = made(kind), inputs()
        for column in range(len(values)):
            changed = tuple(value + (index == column) for index, value in enumerate(values))
            moved = (head(changed, present) - head(values, present)).abs().max(1).values
            assert torch.equal(moved > 1e-9, present[:, column] == 1)

    def test_items_do_not_see_each_other(self, kind):
        head, (values, present) = made(kind), inputs()
        whole = head(values, present)
        alone = torch.cat([head(tuple(v[i : i + 1] for v in values), present[i : i + 1]) for i in range(ITEMS)])
        torch.testing.assert_close(alone, whole)

    def test_without_anything_there_is_a_learned_vector(self, kind):
        head, (values, present) = made(kind), inputs()
        head(values, present)[0].sum().backward()
        assert head.missing.grad.abs().max() > 0

    def test_no_modality_at_all(self, kind):
        head = made(kind, widths={})
        assert head((), torch.zeros(ITEMS, 0).double()).shape == (ITEMS, D)

    def test_same_generator_same_weights(self, kind):
        for one, other in zip(made(kind).parameters(), made(kind).parameters(), strict=True):
            assert torch.equal(one, other)


def test_concatenation_is_one_linear_map_of_the_joined_features():
    head, (values, _) = made(ConcatFusion), inputs()
    everything = torch.ones(ITEMS, len(values)).double()
    torch.testing.assert_close(
        head(values, everything), torch.cat(values, 1) @ torch.cat([head.project[name] for name in head.modalities], 0)
    )


def test_attention_is_the_softmax_over_what_is_there():
    head, (values, present) = made(AttentionFusion), inputs()
    fused = head(values, present)
    for item in range(1, ITEMS):
        there = [column for column in range(3) if present[item, column]]
        if not there:
            torch.testing.assert_close(fused[item], head.missing)
            continue
        projected = torch.stack([values[column][item] @ head.project[head.modalities[column]] for column in there])
        weights = torch.softmax((projected * head.item_query[there]).sum(1), 0)
        torch.testing.assert_close(fused[item], len(there) * (weights[:, None] * projected).sum(0))


def test_with_equal_attention_both_heads_agree():
    attention, concat, (values, _) = made(AttentionFusion), made(ConcatFusion), inputs()
    present = torch.ones(ITEMS, 3).double()
    with torch.no_grad():
        attention.item_query.zero_()
        for one, other in ((attention.project[name], concat.project[name]) for name in WIDTHS):
            one.copy_(other)
    torch.testing.assert_close(attention(values, present), concat(values, present))


def test_nan_in_an_absent_row_is_not_packed():
    values = np.ones((3, 2))
    values[1] = np.nan
    packed = item_features({"image": (values, np.array([True, False, True]))}, 3)
    assert torch.isfinite(packed.values[0]).all()
    assert packed.present[:, 0].tolist() == [1, 0, 1]
