from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmfed.config import FeaturesSection
from mmfed.data.schema import Catalogue, Features
from mmfed.encoders.precision import quantised, rounded, stored_bytes
from mmfed.encoders.store import catalogue_features
from mmfed.errors import ExitCode, MmfedError

finite = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)
shapes = arrays.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12)
matrices = arrays.arrays(np.float32, shapes, elements=finite)


@given(matrices)
def test_int8_is_off_by_half_a_step_at_most(values: np.ndarray) -> None:
    stored = quantised(values)
    assert stored.codes.dtype == np.int8
    items, dimensions = values.shape
    assert stored.codes.nbytes + stored.steps.nbytes == stored_bytes(items, dimensions, "int8")
    back = stored.values()
    assert back.dtype == np.float32
    assert np.isfinite(back).all()
    error = np.abs(back.astype(np.float64) - values)
    assert (error <= 0.5001 * stored.steps[:, None].astype(np.float64) + 1e-37).all()
    assert ((values == 0) <= (back == 0)).all()  # an absent item stays zero


@given(matrices)
def test_what_is_rounded_stays(values: np.ndarray) -> None:
    """Whoever rounds features that were rounded before holds the same ones, so digests agree."""
    once = rounded(values, "int8")
    assert np.allclose(rounded(once, "int8"), once, rtol=1e-6, atol=0)
    small = np.clip(values, -6e4, 6e4)
    half = rounded(small, "float16")
    assert np.array_equal(rounded(half, "float16"), half)
    assert np.array_equal(rounded(values, "float32"), values)


def test_beyond_float16_is_a_fault_that_names_the_setting() -> None:
    with pytest.raises(MmfedError, match="beyond 65504") as raised:
        rounded(np.array([[1.0, 70_000.0]], dtype=np.float32), "float16")
    assert raised.value.code == ExitCode.FEATURES


def test_bytes() -> None:
    assert stored_bytes(10, 64, "float32") == 2560
    assert stored_bytes(10, 64, "float16") == 1280
    assert stored_bytes(10, 64, "int8") == 680


def test_the_catalogue_is_rounded_and_has_another_digest() -> None:
    values = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    present = np.arange(20) != 3
    catalogue = Catalogue(
        item_ids=tuple(f"i{n}" for n in range(20)),
        titles=(None,) * 20,
        texts=(None,) * 20,
        images=(None,) * 20,
        prices=np.full(20, np.nan, dtype=np.float32),
        features={"image": Features(values, present)},
    )
    sets = {
        precision: catalogue_features(catalogue, FeaturesSection(modalities=("image",), precision=precision))
        for precision in ("float32", "float16", "int8")
    }
    exact = sets["float32"].modalities["image"].values
    assert len({one.digest for one in sets.values()}) == 3
    for precision, least, most in (("float16", 1e-6, 1e-2), ("int8", 1e-4, 0.02)):
        found = sets[precision].modalities["image"]
        assert least < np.abs(found.values - exact).max() < most
        assert (found.values[3] == 0).all()
        assert not found.present[3]
