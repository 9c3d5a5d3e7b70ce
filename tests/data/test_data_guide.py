"""The examples of docs/data.md are a shop that loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mmfed.data.check import check_shop

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def test_the_examples_load_and_the_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    interactions, items = re.findall(r"```csv\n(.*?)```", text, re.DOTALL)
    folder = tmp_path / "myshop"
    (folder / "media").mkdir(parents=True)
    (folder / "interactions.csv").write_text(interactions, encoding="utf-8")
    (folder / "items.csv").write_text(items, encoding="utf-8")
    report = check_shop(folder)
    assert report.ok
    assert {f.message.split("'")[0] for f in report.findings} == {"there is no file "}  # the guide ships no pictures
    assert (report.counts["users"], report.counts["items"], report.counts["interactions"]) == (2, 4, 4)

    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    scope: dict[str, object] = {}
    exec(compile(code, str(GUIDE), "exec"), scope)
    assert len(scope["shop"].interactions) == 3  # type: ignore[attr-defined]
    assert capsys.readouterr().out.count("warning items.csv, row") == 3
