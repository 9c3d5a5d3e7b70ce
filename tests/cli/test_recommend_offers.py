"""``mmfed recommend --stores`` and ``--campaigns``, and the guide to both."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from small_shop import Command, options
from test_command_guides import DOCS, lines_of, parse

from mmfed.errors import ExitCode


@pytest.fixture
def here(place: Path, mmfed: Command) -> Path:
    """A run on the tiny shop, whose items come from three stores."""
    items = place / "shop" / "items.csv"
    header, *rows = items.read_text(encoding="utf-8").splitlines()
    rows = [f"{row},{('north', 'south', 'west')[number % 3]}" for number, row in enumerate(rows)]
    items.write_text("\n".join([f"{header},store", *rows]), encoding="utf-8")
    assert mmfed("simulate", *options("run.name=demo", "privacy.mode=none", "evaluation.bootstrap=0")).code == 0
    return place


def test_stores_and_campaigns_agree_with_the_list_of_items(here: Path, mmfed: Command) -> None:
    items = json.loads(mmfed("recommend", "demo", "--user", "u3", "-k", "30", "--format", "json").out)
    order = [one["item"] for one in items["items"]]

    found = json.loads(mmfed("recommend", "demo", "--user", "u3", "--stores", "--format", "json").out)
    assert found["history"] == items["history"]
    assert {one["store"] for one in found["stores"]} == {"north", "south", "west"}
    scores = [one["score"] for one in found["stores"]]
    assert scores == sorted(scores, reverse=True)
    for one in found["stores"]:
        held = [item["item"] for item in items["items"] if item["store"] == one["store"]]
        assert [item["item"] for item in one["items"]] == held[:3]
    shown = mmfed("recommend", "demo", "--user", "u3", "--stores", "-k", "1").out.split("Recommended by")[1]
    assert found["stores"][0]["store"] in shown
    assert found["stores"][1]["store"] not in shown
    assert found["stores"][0]["items"][0]["title"] in shown

    rows = [
        "campaign,item,text",
        *(f"best,{one},Ten off" for one in order[1:4]),
        *(f"worst,{one}," for one in order[-3:]),
    ]
    (here / "ads.csv").write_text("\n".join(rows), encoding="utf-8")
    chosen = json.loads(mmfed("recommend", "demo", "--user", "u3", "--campaigns", "ads.csv", "--format", "json").out)
    assert (chosen["campaign"]["campaign"], chosen["campaign"]["text"]) == ("best", "Ten off")
    assert [one["item"] for one in chosen["campaign"]["items"]] == order[1:4]
    told = mmfed("recommend", "demo", "--user", "u3", "--campaigns", "ads.csv").out
    assert "best: Ten off" in told
    assert chosen["campaign"]["items"][0]["title"] in told.split("because of")[1]
    (here / "ads.csv").write_text("\n".join([rows[0], *rows[4:]]), encoding="utf-8")
    none = mmfed("recommend", "demo", "--user", "u3", "--campaigns", "ads.csv", "--format", "json")
    assert json.loads(none.out)["campaign"] is None
    assert "No campaign" in mmfed("recommend", "demo", "--user", "u3", "--campaigns", "ads.csv").out


def test_what_cannot_be_answered_is_refused(trained: Path, mmfed: Command) -> None:
    single = mmfed("recommend", "demo", "--user", "u1", "--stores")
    assert single.code == ExitCode.DATA
    assert "single store" in single.err
    both = mmfed("recommend", "demo", "--user", "u1", "--stores", "--campaigns", "ads.csv")
    assert both.code == ExitCode.USAGE
    absent = mmfed("recommend", "demo", "--user", "u1", "--campaigns", "ads.csv")
    assert absent.code == ExitCode.DATA
    assert "ads.csv: no such file" in absent.err
    (trained / "ads.csv").write_text("campaign,item\na,i99\n", encoding="utf-8")
    unknown = mmfed("recommend", "demo", "--user", "u1", "--campaigns", "ads.csv")
    assert unknown.code == ExitCode.DATA
    assert "ads.csv, row 2, column item" in unknown.err


def test_guide_has_commands_that_parse() -> None:
    assert {parse(line) for line in lines_of("applications.md")} == {"simulate", "recommend"}


@pytest.mark.slow
def test_guide_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmfed: Command) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("torchvision")
    monkeypatch.chdir(tmp_path)
    (table,) = re.findall(r"```csv\n(.*?)```", (DOCS / "applications.md").read_text(encoding="utf-8"), flags=re.S)
    (tmp_path / "campaigns.csv").write_text(table, encoding="utf-8")
    for line in lines_of("applications.md"):
        outcome = mmfed(*shlex.split(line)[1:])
        assert outcome.code == 0, f"{line}\n{outcome.err}"
