"""``mmfed behaviour``: one table, marked for what it does not promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_shop import Command

from mmfed.errors import ExitCode

for module in ("sklearn", "imblearn", "xgboost"):
    pytest.importorskip(module)

SMALL = ("--set", "data.users=12", "--set", "evaluation.bootstrap=20", "--set", "federation.nodes=3")


def test_table_of_the_demo_shop(mmfed: Command) -> None:
    outcome = mmfed("behaviour", *SMALL)
    assert outcome.code == 0, outcome.err
    assert outcome.out.lstrip().startswith("NO DIFFERENTIAL PRIVACY.")
    for words in (
        "XGBoost + SMOTE",
        "AdaBoost",
        "federated over 3 nodes",
        "macro-F1",
        "(cart)",
        "no differential privacy",
    ):
        assert words in outcome.out
    assert "classifiers: 11" in outcome.err


@pytest.mark.slow
def test_json_holds_the_figures_and_nothing_else(mmfed: Command) -> None:
    tree = json.loads(mmfed("behaviour", *SMALL, "--format", "json").out)
    assert tree["privacy"] == "no differential privacy"
    for method in tree["methods"]:
        assert set(method["metrics"]) == {
            "accuracy",
            "balanced_accuracy",
            "macro_f1",
            *(f"{metric}/{name}" for metric in ("recall", "average_precision") for name in ("view", "cart", "buy")),
        }


def test_a_scenario_with_a_promise_is_refused(mmfed: Command, tmp_path: Path) -> None:
    (tmp_path / "shop.toml").write_text('[data]\nsource = "demo"\n')
    outcome = mmfed("behaviour", str(tmp_path / "shop.toml"))
    assert outcome.code == ExitCode.PRIVACY
    assert "privacy.mode=none" in outcome.err


def test_a_shop_with_purchases_only_is_refused_in_one_line(mmfed: Command, place: Path) -> None:
    outcome = mmfed("behaviour", "--set", "data.source=table", "--set", f"data.path={place / 'shop'}")
    assert outcome.code == ExitCode.DATA
    assert "every next action is 'buy'" in outcome.err
