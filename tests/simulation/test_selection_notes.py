"""Choices made from private validation figures are named in the results."""

from __future__ import annotations

import pytest

from mmfed.config import build_config
from mmfed.simulation.run import _selection_notes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["privacy.mode=none", "federation.early_stopping=2"], []),
        (["privacy.mode=user-central"], []),
        (["privacy.mode=user-central", "federation.selection=best-validation"], ["the round was chosen"]),
        (["privacy.mode=record", "federation.early_stopping=2"], ["stop early"]),
    ],
)
def test_uncharged_choices_are_named(settings, words):
    notes = _selection_notes(build_config({}, settings))
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))
