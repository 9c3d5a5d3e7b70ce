"""Quality against epsilon: the page says what the comparisons hold, and the scenarios say what the page claims."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from mmfed.config import build_config
from mmfed.federated.one_shot_terms import check_one_shot
from mmfed.simulation.private_als import AlsMethod
from simulations import privacy_utility

HERE = Path(privacy_utility.__file__).parent
EPSILONS = ["0.5", "1", "2", "4", "8", "infinite"]


def estimate(mean: float | None) -> dict[str, float | None]:
    return {"mean": mean, "low": None if mean is None else mean - 0.01, "high": None if mean is None else mean + 0.01}


def comparison(**metrics: float | None) -> dict:
    own = {"epsilon": 3.9, "sentence": "epsilon = 3.9, unit: one user"}
    none = {"epsilon": None, "sentence": "NO DIFFERENTIAL PRIVACY"}
    figures = {name.replace("_at_", "@"): estimate(value) for name, value in metrics.items()}
    return {
        "name": "tiny",
        "shop": "a_shop",
        "users": 1200,
        "items": 30,
        "seeds": [0, 1],
        "split": "last out",
        "notes": ["a note"],
        "methods": [
            {"name": "popularity", "metrics": figures, "privacy": None},
            {"name": "one-shot, epsilon 4", "metrics": figures, "privacy": own},
            {"name": "one-shot, epsilon infinite", "metrics": figures, "privacy": none},
        ],
    }


def test_the_page_holds_figures_intervals_and_promises() -> None:
    text = privacy_utility.page([comparison(recall_at_10=0.1234, ndcg_at_10=None)])
    assert "| method | recall@10 | NDCG@10 |" in text
    assert "| one-shot, epsilon 4 | 0.123 [0.113, 0.133] | – |" in text
    assert "a\\_shop: 1,200 users, 30 items. Split: last out. Seeds: 0, 1." in text
    assert "- one-shot, epsilon 4: epsilon = 3.9, unit: one user" in text
    assert "NO DIFFERENTIAL PRIVACY" not in text
    assert "- a note" in text


@pytest.mark.parametrize("name", [name for name in privacy_utility.SCENARIOS if name != "trust"])
def test_every_method_has_the_epsilon_of_its_name(name: str) -> None:
    tree = tomllib.loads((HERE / f"privacy_utility_{name}.toml").read_text(encoding="utf-8"))
    section = tree.pop("compare")
    assert section["baselines"] == ["popularity"]
    found = []
    for method in section["methods"]:
        config = build_config(tree, [f"{key}={_toml(value)}" for key, value in method["set"].items()])
        way, epsilon = method["name"].split(", epsilon ")
        found.append(epsilon)
        private = config.privacy.mode == "user-central"
        assert (f"{config.privacy.epsilon:g}" if private else "infinite") == epsilon
        assert config.one_shot.enabled == (way == "one-shot") == (config.federation.rounds == 0)
        assert config.selection == "last" or not private
    assert found == EPSILONS


def test_rows_of_less_trust_are_the_release_in_the_modes_that_they_name() -> None:
    tree = tomllib.loads((HERE / "privacy_utility_trust.toml").read_text(encoding="utf-8"))
    found = []
    for method in tree.pop("compare")["methods"]:
        config = build_config(tree, [f"{key}={_toml(value)}" for key, value in method["set"].items()])
        check_one_shot(config, 1682)
        way = {"user-distributed": "shared", "user-local": "local"}[config.privacy.mode]
        found.append(method["name"])
        assert method["name"] == f"one-shot {way}, epsilon {config.privacy.epsilon:g}"
        assert config.one_shot.enabled
        assert config.federation.rounds == 0
    assert len(set(found)) == 2 * len(EPSILONS[:-1])


def test_every_row_of_alternating_least_squares_has_the_epsilon_of_its_name() -> None:
    tree = tomllib.loads((HERE / "privacy_utility_ml100k.toml").read_text(encoding="utf-8"))
    rows = [AlsMethod.model_validate(one) for one in tree["compare"]["private_als"]]
    names = [f"alternating least squares, epsilon {epsilon}" for epsilon in EPSILONS]
    assert [one.name for one in rows] == names
    for one, epsilon in zip(rows, EPSILONS, strict=True):
        assert ("infinite" if one.epsilon is None else f"{one.epsilon:g}") == epsilon
        assert one.epsilon is None or one.delta == 1e-5


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)


def test_the_published_page_is_of_this_form() -> None:
    text = (HERE.parent / "docs" / "results" / "privacy-utility.md").read_text(encoding="utf-8")
    assert text.startswith(privacy_utility.ABOUT)
    for epsilon in EPSILONS:
        assert re.search(rf"^\| one-shot, epsilon {re.escape(epsilon)} \| 0\.\d", text, flags=re.M)
        for way in ("shared", "local") if epsilon != "infinite" else ():
            assert re.search(rf"^\| one-shot {way}, epsilon {re.escape(epsilon)} \| 0\.\d", text, flags=re.M)
        assert re.search(rf"^\| alternating least squares, epsilon {re.escape(epsilon)} \| 0\.\d", text, flags=re.M)
