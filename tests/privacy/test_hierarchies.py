"""Bins are public, closed on the left and nested; labels go up by their parents."""

import pytest

from mmfed.privacy.hierarchies import Bins, Parents, levels_of


def test_bins_start_at_zero_and_hold_what_decimals_say():
    exact, narrow, wide, anything = levels_of("q", Bins((0.1, 0.3)), [-0.05, 0.05, 0.3, 0.2, None])
    assert exact.labels == (-0.05, 0.05, 0.3, 0.2, None)
    assert narrow.labels == ("[-0.1, 0)", "[0, 0.1)", "[0.3, 0.4)", "[0.2, 0.3)", "missing")
    assert wide.labels == ("[-0.3, 0)", "[0, 0.3)", "[0.3, 0.6)", "[0, 0.3)", "missing")
    assert anything.labels == ("*",) * 5
    assert narrow.losses == pytest.approx((0.1 / 0.35,) * 4 + (0,))


def test_values_in_one_bin_stay_in_one_bin():
    values = [number / 100 for number in range(-300, 300)]
    narrow, middle, wide = levels_of("q", Bins((0.07, 0.21, 0.84), anything=False), values)[1:]
    for below, above in ((narrow, middle), (middle, wide)):
        assert len(dict(zip(below.labels, above.labels, strict=True))) == len(
            set(zip(below.labels, above.labels, strict=True))
        )


def test_labels_go_up_and_missing_stays():
    levels = levels_of("q", Parents(({"a": "x", "b": "x", "c": "y"}, {"x": "z", "y": "z"})), ["a", "b", "c", None])
    assert [level.labels for level in levels[1:]] == [
        ("x", "x", "y", "missing"), ("z", "z", "z", "missing"), ("*",) * 4,
    ]  # fmt: skip
    assert levels[1].losses == pytest.approx((1 / 3, 1 / 3, 0, 0))
