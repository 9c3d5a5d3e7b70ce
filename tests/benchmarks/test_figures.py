"""Figures as text and as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from simulations.benchmarks.differences import relative
from simulations.benchmarks.plot import ratios
from simulations.benchmarks.table import cells, columns, page, reasons

ROW = {
    "workload": "W2",
    "about": "a tower",
    "engine": 1000.0,
    "definition": 100.0,
    "ratio": 10.0,
    "share_of_floor": 0.5,
    "difference": 1e-6,
    "peers": {
        "plain": {"users_per_cpu_second": 500.0, "ratio": 2.0, "of": "cpu", "difference": 0.0},
        "ray": {"users_per_cpu_second": 50.0, "users_per_second": 80.0, "ratio": 25.0, "of": "wall", "difference": 0.0},
        "pfl": {"skipped": "no network"},
    },
}
PEERS = ["plain", "ray", "pfl", "opacus"]


def test_cells_hold_ratio_and_speed():
    assert cells(ROW, PEERS)[6:] == ["2.0× (500)", "25.0× by wall (80/s)", "skipped", "–"]
    assert len(cells(ROW, PEERS)) == len(columns(PEERS))


def test_the_page_names_the_reason_of_a_gap():
    assert reasons([ROW]) == ["pfl-research 0.6: no network"]
    assert "skipped, pfl-research 0.6: no network" in page("a machine", [ROW], PEERS)
    assert "skipped" not in page("a machine", [ROW | {"peers": {}}])


def test_the_picture_has_a_bar_for_each_ratio():
    drawn = ElementTree.fromstring(ratios([ROW, ROW | {"workload": "<W>", "ratio": 0.25, "peers": {}}], PEERS))
    texts = [one.text for one in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"10×", "2×", "25×", "0.25×"} <= set(texts)
    assert "<W>, definition" in texts
    bars = list(drawn.iter("{http://www.w3.org/2000/svg}rect"))[1:]
    assert len(bars) == 4
    assert all(float(one.get("width", 0)) > 0 for one in bars)
    ElementTree.fromstring(ratios([], PEERS))


def test_differences():
    expected = {"a": np.array([3.0, 0.0]), "b": np.array([4.0])}
    assert relative({"a": expected["a"], "b": np.array([4.5])}, expected) == pytest.approx(0.1)
    assert relative({"a": expected["a"]}, expected) == pytest.approx(0.8)
    assert relative({"a": expected["a"], "b": expected["b"], "c": np.ones(1)}, expected) == np.inf
    assert relative({"a": expected["a"], "b": np.array([np.nan])}, expected) != relative(expected, expected)
