"""What ``mmfed doctor`` says of optional packages, against what ``pyproject.toml`` offers."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mmfed.simulation import installation
from mmfed.simulation.installation import Check, examine

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
GATHERED = {"all", "dev"}  # made of the other extras


def offered() -> dict[str, list[Requirement]]:
    extras = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return {extra: list(map(Requirement, lines)) for extra, lines in extras.items() if extra not in GATHERED}


def extras_of(tmp_path: Path) -> dict[str, Check]:
    checks = examine(tmp_path / "runs", tmp_path / "cache")
    return {check.name.removeprefix("extra "): check for check in checks if check.name.startswith("extra ")}


def test_every_extra_is_looked_at(tmp_path: Path) -> None:
    found = extras_of(tmp_path)
    assert found.keys() == offered().keys()
    assert all(check.state in ("ok", "missing") for check in found.values())


@pytest.mark.parametrize(
    ("extra", "module", "use"),
    [
        ("audio", "soundfile", "sounds"),
        ("video", "av", "videos"),
        ("vectors", "gensim", "features.text.vectors"),
        ("trees", "xgboost", "mmfed behaviour"),
        ("trees", "imblearn", "mmfed behaviour"),
        ("reports", "jinja2", "report.html"),
    ],
)
def test_a_missing_package_is_named_with_its_use_and_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: str, module: str, use: str
) -> None:
    real = installation.find_spec
    monkeypatch.setattr(installation, "find_spec", lambda name: None if name == module else real(name))
    check = extras_of(tmp_path)[extra]
    assert check.state == "missing"
    assert f"without {module}" in check.found
    assert use in check.found
    assert check.fix == f"pip install 'mmfed[{extra}]'"


def test_what_is_installed_says_what_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = object()
    monkeypatch.setattr(installation, "_weights", list)
    monkeypatch.setattr(installation, "find_spec", lambda name: found)
    for extra, use in (("audio", "sounds"), ("video", "videos"), ("vectors", "Word2Vec"), ("trees", "classifiers")):
        check = extras_of(tmp_path)[extra]
        assert (check.state, check.fix) == ("ok", "")
        assert use in check.found


def test_the_modules_are_those_of_the_extra() -> None:
    """A package more in pyproject.toml is a module more here; where names differ, they are told apart by hand."""
    names = {
        "pillow": "PIL",
        "scikit-learn": "sklearn",
        "imbalanced-learn": "imblearn",
        "xgboost-cpu": "xgboost",
    }
    for extra in ("vision", "text", "audio", "vectors", "trees"):
        wanted = {names.get(line.name, line.name.replace("-", "_")) for line in offered()[extra]}
        assert set(installation._EXTRAS[extra]) == wanted
