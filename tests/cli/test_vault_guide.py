"""docs/vault.md: its commands run one after the other, and its faults and figures are those of the code."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from small_shop import Command

from mmfed.privacy import key_derivation, key_source, sealing, vault, wrapped_keys
from mmfed.privacy.vault import Vault

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "vault.md").read_text(encoding="utf-8")


def test_the_guide_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmfed: Command) -> None:
    monkeypatch.chdir(tmp_path)
    Vault(Path("state"), key_source.key_source(None, Path("state"))).write("run-1/node-0-of-1/vectors/000000000", b"x")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, flags=re.S) for line in block.splitlines()]
    assert len(lines) == 6
    for line in lines:
        if line.startswith("mmfed "):
            outcome = mmfed(*shlex.split(line)[1:])
            assert outcome.code == 0, f"{line}\n{outcome.err}"
        else:
            subprocess.run(["sh", "-c", line], check=True)
    assert {path.name for path in (tmp_path / "state").rglob("*") if path.is_file()} == {"vault.lock"}


def test_the_faults_are_worded_as_the_code_words_them() -> None:
    code = " ".join(
        Path(str(module.__file__)).read_text(encoding="utf-8") for module in (sealing, vault, wrapped_keys, key_source)
    )
    table = GUIDE.split("| fault |")[1].split("\n\n")[0]
    for words in (
        "does not open the vault",
        "the wrapped keys of this vault are",
        "was changed or damaged since it was sealed",
        "is cut off",
        "holds the record",
        "was sealed under a key that this vault does not hold",
        "others may read",
    ):
        assert words in table
        assert words in code


def test_the_figures_are_those_of_the_code() -> None:
    cost = key_derivation.STRETCHING
    assert cost["n"] == 2**17
    assert f"N = 2^17, r = {cost['r']}, p = {cost['p']}" in GUIDE
    assert 128 * cost["n"] * cost["r"] == 128 * 2**20
    assert f"{key_source.SHORTEST_PASSPHRASE} or more characters" in GUIDE
    assert vault.MOST_SEALS == 2**32
