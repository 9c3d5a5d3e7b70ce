"""Every recommender learns what an age band likes, and recommends it to new users of whom nothing else is known.

All items of a band are taken alike, so an empty history scores by popularity alone, which is the same for all bands:
recall@5 among 40 items is 1/8 on average. With the band known, 5 of its 10 items stand on the list: 1/2.
Found over 6 models and 5 seeds: with answers .46 to .54; without, and with ages dealt out anew, .07 to .19.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from people_shop import CHANCE, people_run, write_people_shop
from planted_shop import trained

from mmfed.config import Config
from mmfed.data.split import held_out
from mmfed.federated.workspace import load_workspace
from mmfed.models.registry import RECOMMENDERS
from mmfed.models.scoring import ModelScorer

ROUNDS, K = 25, 5
MARGIN, NOT_ABOVE_CHANCE = 0.2, CHANCE + 0.12
FAST = {"mf", "dfmf"}
MODELS = [pytest.param(name, id=name, marks=[] if name in FAST else pytest.mark.slow) for name in RECOMMENDERS]


def recall_of_new_users(config: Config) -> float:
    """Recall@5 of everything that new users took, from no history at all."""
    workspace = load_workspace(config)
    model = trained(workspace, ROUNDS)
    new = np.flatnonzero(held_out(workspace.shop, config.data.split).users)
    interactions = workspace.shop.interactions
    assert len(new) >= 20
    assert not workspace.split.train.lengths[new].any()
    nothing = interactions.keep_rows(np.zeros(len(interactions), dtype=bool))
    scores = ModelScorer(model, nothing, people=workspace.people)(new)
    best = np.argsort(-scores, axis=1)[:, :K]
    hits = [
        np.isin(interactions.items[interactions.rows(int(u))], row).mean() for u, row in zip(new, best, strict=True)
    ]
    return float(np.mean(hits))


@pytest.mark.parametrize("name", MODELS)
def test_new_users_are_known_by_what_they_say(name: str, tmp_path: Path) -> None:
    write_people_shop(tmp_path / "shop")
    write_people_shop(tmp_path / "other" / "shop", shuffled=True)
    told = recall_of_new_users(people_run(tmp_path, f"model.name={name}"))
    silent = recall_of_new_users(people_run(tmp_path, f"model.name={name}", asked=False))
    shuffled = recall_of_new_users(people_run(tmp_path / "other", f"model.name={name}"))
    assert told >= silent + MARGIN
    assert told >= shuffled + MARGIN
    assert silent <= NOT_ABOVE_CHANCE
    assert shuffled <= NOT_ABOVE_CHANCE
