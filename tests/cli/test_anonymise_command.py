"""``mmfed privacy anonymise``: what is written meets its demands, and nothing else is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from small_shop import Command

from mmfed.errors import ExitCode
from mmfed.privacy.anonymity import check

PEOPLE = Path(__file__).resolve().parents[2] / "simulations" / "people.csv"
ASKED = ("--quasi", "age,region", "--sensitive", "segment")


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PEOPLE, "people.csv")


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("target", ["safe.csv", "safe.parquet"])
def test_the_file_written_meets_the_demands(mmfed: Command, target: str) -> None:
    outcome = mmfed(
        "privacy", "anonymise", "people.csv", *ASKED, "-k", "5", "--distinct-l", "2", "--bins", "age=10,20",
        "--to", target, "--format", "json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    tree = json.loads(outcome.out)
    written = pl.read_csv(target) if target.endswith("csv") else pl.read_parquet(target)
    assert written.columns == ["age", "region", "segment"]
    report = check(written, quasi=["age", "region"], sensitive="segment", k=5, distinct_l=2)
    assert report.holds
    assert (report.k, report.people, report.t) == (tree["k"], 80 - tree["suppressed"], pytest.approx(tree["t"]))
    assert tree["loss"] < 1


@pytest.mark.usefixtures("people")
def test_it_says_what_it_is_not_and_writes_nothing_unasked(mmfed: Command) -> None:
    outcome = mmfed("privacy", "anonymise", "people.csv", *ASKED, "-k", "5")
    assert outcome.code == 0
    assert "no differential privacy" in outcome.out
    assert "Not written" in outcome.out
    assert [one.name for one in Path().iterdir()] == ["people.csv"]


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("people.csv", *ASKED, "-k", "81"), ExitCode.PRIVACY, "k = 81"),
        (("people.csv", *ASKED, "-k", "2", "--bins", "age=x"), ExitCode.USAGE, "--bins age=x"),
        (("people.csv", *ASKED, "-k", "2", "--bins", "user=2"), ExitCode.USAGE, "not among --quasi"),
        (("people.csv", *ASKED, "-k", "2", "--to", "people.csv"), ExitCode.STORAGE, "exists already"),
        (("people.csv", *ASKED, "-k", "2", "--to", "people.csv/where.csv"), ExitCode.STORAGE, "where.csv"),
        (("absent.csv", *ASKED, "-k", "2"), ExitCode.DATA, "absent.csv"),
        (("people.csv", "--quasi", "aeg", "--sensitive", "segment", "-k", "2"), ExitCode.DATA, "'aeg': missing"),
    ],
)
def test_faults(mmfed: Command, arguments: tuple[str, ...], code: ExitCode, message: str) -> None:
    outcome = mmfed("privacy", "anonymise", *arguments)
    assert outcome.code == code
    assert message in outcome.err
