"""The page on reduced features says what was measured."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from mmfed.encoders.precision import stored_bytes
from simulations import feature_reduction
from simulations.feature_reduction import VARIANTS, configured, measured, page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "feature-reduction.md"


@pytest.mark.slow
def test_a_variant_is_measured(shared_data, tmp_path):
    pytest.importorskip("transformers")
    cheap = ('features.modalities=["attributes"]', "evaluation.bootstrap=10", "data.users=60")
    config = configured(VARIANTS[-1], tmp_path, shared_data / "ml100k_posters", 1, cheap)
    assert (config.features.image.dimensions, config.features.precision) == (32, "int8")
    row = measured(VARIANTS[-1], config, 1)
    assert row.users_per_second > 0
    text = page([row, replace(row, variant=VARIANTS[0])], rounds=1, resamples=10)
    assert "| 32, whitened | int8 |" in text
    assert "+0.000 [+0.000, +0.000]" in text


def test_the_page_has_every_variant_and_its_size():
    rows = re.findall(r"^\| (all|\d+), .*? \| (\w+) \| ([\d,]+) \|", PAGE.read_text(encoding="utf-8"), flags=re.M)
    assert [row[:2] for row in rows] == [(one.name.split(",")[0], one.precision) for one in VARIANTS]
    for width, precision, size in rows:
        if width != "all":
            both = 2 * stored_bytes(1682, int(width), precision)
            assert int(size.replace(",", "")) == round(both / 1024)
    assert feature_reduction.METRICS[0] in PAGE.read_text(encoding="utf-8")
