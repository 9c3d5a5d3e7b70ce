"""The page and the Markdown of a comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from page_reader import Page

from mmfed.errors import MmfedError
from mmfed.records import RunFolder
from mmfed.reports.compare_report import comparison_markdown, comparison_page, write_compare_report

EVIL = "<script>alert(1)</script>|`*"


@pytest.fixture
def comparison(runs: dict[str, RunFolder]) -> dict[str, Any]:
    """Real figures of real runs in the form the comparison engine gives."""
    results = {mode: json.loads(run.results.read_text()) for mode, run in runs.items()}
    methods = [one | {"privacy": None} for one in results["none"]["methods"] if not one["federated"]]
    for mode, tree in results.items():
        ours = next(one for one in tree["methods"] if one["federated"])
        difference = {"ndcg@10": {"mean": 0.02, "low": 0.01, "high": 0.03, "users": 40}}
        methods.append(ours | {"name": mode, "privacy": tree["privacy"], "difference_to_popularity": difference})
    return {
        "scenario": "small.toml",
        "shop": "demo",
        "split": results["none"]["split"],
        "protocol": "full",
        "seeds": [0, 1, 2],
        "methods": methods,
        "published": [
            {"name": "Paper", "source": "its table 2", "metrics": {"recall@20": 0.1129, "hit_rate@10": ".09-.11"}}
        ],
        "notes": ["a note"],
    }


def test_both_files_are_written_and_load_nothing(comparison: dict[str, Any], tmp_path: Path) -> None:
    path = write_compare_report(tmp_path, comparison)
    page = Page(path.read_text(encoding="utf-8"))
    assert path == tmp_path / "report.html"
    assert all(one.startswith("data:") for one in page.loaded)
    assert "script" not in page.tags
    assert path.stat().st_size < 1_500_000
    assert (tmp_path / "comparison.md").read_text(encoding="utf-8") == comparison_markdown(comparison)


def test_privacy_comes_first_and_is_whole(comparison: dict[str, Any]) -> None:
    page = Page(comparison_page(comparison))
    assert page.texts[0].startswith("No differential privacy in 1 of the 3 federated methods")
    assert comparison_markdown(comparison).startswith(page.texts[0])
    markdown = comparison_markdown(comparison).replace("\\*", "*")
    for method in comparison["methods"]:
        statement = method["privacy"]
        if statement and statement["mode"] != "none":
            for part in ("unit", "adjacency", "trust", "delta_reason"):
                assert statement[part] in page.text
                assert statement[part] in markdown
            assert f"{statement['epsilon']:.4g}" in page.text


def test_private_methods_alone_are_called_private(comparison: dict[str, Any]) -> None:
    comparison["methods"] = [one for one in comparison["methods"] if one["name"] in ("record", "user-central")]
    assert Page(comparison_page(comparison)).texts[0].startswith("All federated methods are differentially private")
    comparison["methods"] = []
    assert "No method here is federated" in comparison_page(comparison)


def test_every_method_and_the_published_figures_are_in_the_tables(comparison: dict[str, Any]) -> None:
    page, markdown = Page(comparison_page(comparison)), comparison_markdown(comparison)
    for method in comparison["methods"]:
        recall = method["metrics"]["recall@10"]
        assert f"| {method['name']} |".replace("_", "\\_") in markdown
        assert any(one.startswith(f"{recall['mean']:.6g}; 95 % interval {recall['low']:.6g}") for one in page.titles)
    assert "published: its table 2" in page.text
    assert "0.113" in page.text
    assert ".09-.11" in page.text
    assert "| Paper (published) | published: its table 2 |" in markdown
    gini = markdown.split("### Coverage and exposure")[1].split("###")[0]
    assert "Paper" not in gini  # it has no figure there


def test_differences_are_coloured_by_their_interval(comparison: dict[str, Any]) -> None:
    ours = [one for one in comparison["methods"] if one["federated"]]
    ours[1]["difference_to_popularity"] = {"ndcg@10": {"mean": 0.02, "low": -0.01, "high": 0.03}}
    ours[2]["difference_to_popularity"] = {"ndcg@10": {"mean": -0.02, "low": -0.03, "high": -0.01}}
    html = comparison_page(comparison).split("Difference to popularity")[1]
    assert [html.count(f'<td class="{name}"') for name in ("up", "", "down")] == [1, 1, 1]


def test_few_seeds_and_other_protocols_are_announced(comparison: dict[str, Any]) -> None:
    assert "Fewer than 3 seeds" not in comparison_page(comparison)
    comparison |= {"seeds": [0], "protocol": "paper-compat"}
    for text in (comparison_page(comparison), comparison_markdown(comparison)):
        assert "Fewer than 3 seeds" in text
        assert "Protocol paper-compat" in text


def test_foreign_text_stays_text(comparison: dict[str, Any]) -> None:
    comparison |= {"scenario": EVIL, "name": EVIL, "shop": EVIL, "split": EVIL, "notes": [EVIL], "more": {"x": EVIL}}
    comparison["methods"][-1] |= {"name": EVIL, "kind": EVIL}
    comparison["published"][0] |= {"name": EVIL, "source": EVIL, "metrics": {"recall@10": EVIL}}
    page, markdown = Page(comparison_page(comparison)), comparison_markdown(comparison)
    assert "script" not in page.tags
    assert "<script" not in markdown
    table = next(part for part in markdown.split("\n\n") if part.startswith("| method"))
    assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"methods": None, "published": 3, "notes": "x", "seeds": None},
        {"methods": [{}, 1, {"name": None, "metrics": {"recall@10": float("nan")}, "privacy": 4}]},
        {"methods": [{"name": "w" * 5000, "kind": "k" * 5000, "federated": True, "privacy": {"mode": "user-central"}}]},
    ],
)
def test_partial_comparisons_still_give_a_page(broken: dict[str, Any]) -> None:
    Page(comparison_page(broken))
    assert comparison_markdown(broken)


def test_a_folder_that_cannot_be_written_is_a_fault(comparison: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MmfedError):
        write_compare_report(tmp_path / "file", comparison)
