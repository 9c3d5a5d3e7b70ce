"""``python -m mmfed.privacy.audit``: needs neither torch nor flwr, and says the same."""

import json
import subprocess
import sys

import pytest
from ledger_builder import make_event, make_header, make_key

from mmfed.privacy.audit import __main__ as alone
from mmfed.privacy.ledger import Ledger

ALLOWED = {"numpy", "scipy", "cryptography", "rfc8785", "mmfed"}
BLOCKED = (
    "torch", "flwr", "opacus", "dp_accounting", "polars", "pydantic", "typer", "rich", "jinja2",
    "safetensors", "tomli_w",
)  # fmt: skip

BLOCK = f"""
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Wall())
"""


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", BLOCK + code, *map(str, arguments)], capture_output=True, text=True)


AUDIT = """
from mmfed.privacy.audit.__main__ import main
code = main(sys.argv[1:])
third = {name.partition('.')[0] for name, module in sys.modules.items() if 'site-packages' in (getattr(module, '__file__', None) or '')}
sys.stderr.write('MODULES ' + ' '.join(sorted(third)))
sys.exit(code)
"""  # noqa: E501
COMMAND = "import sys\nfrom mmfed.cli.main import run\ncode = run(['audit', *sys.argv[1:]])\n"
COMMAND += "print(*sorted({'torch', 'flwr', 'pydantic', 'polars'} & set(sys.modules)), file=sys.stderr)\nsys.exit(code)"


def test_it_audits_without_the_heavy_packages(honest_ledger, tmp_path):
    path = honest_ledger()
    done = run(AUDIT, path, "--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv")
    assert done.returncode == 0, done.stderr
    assert "1 ledgers, 0 faults: holds." in done.stdout
    loaded = set(done.stderr.partition("MODULES ")[2].split())
    assert not loaded & set(BLOCKED)
    assert not {name for name in loaded if not name.startswith("_")} - ALLOWED - {"cffi", "charset_normalizer"}
    tree = json.loads((tmp_path / "a.json").read_text())
    assert tree["ledgers"][0]["claimed"] == pytest.approx(tree["ledgers"][0]["recomputed"], rel=1e-3)
    assert tree["attack_risk"]["advantage"] < 1
    assert (tmp_path / "a.csv").read_text().count("\n") == 2


def test_it_finds_what_is_wrong_without_them(honest_ledger):
    path = honest_ledger()
    path.write_bytes(path.read_bytes().replace(b'"steps":1', b'"steps":2', 1))
    done = run(AUDIT, path)
    assert done.returncode == 9
    assert f"FAULT: {path}: line 2: the signature does not hold" in done.stdout
    assert "1 faults: DOES NOT HOLD" in done.stdout


def test_the_command_on_files_loads_neither_torch_nor_flwr(honest_ledger):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(honest_ledger()), "--format", "json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["holds"] is True
    assert done.stderr.strip() == ""


def test_key_head_and_groups(honest_ledger, tmp_path, capsys):
    path = honest_ledger()
    with Ledger.open(path, make_key()) as ledger:
        ledger.head.save(tmp_path / "head.json")
    public = make_key().public_key().public_bytes_raw().hex()
    assert alone.main([str(path), "--key", public.upper(), "--head", str(tmp_path / "head.json")]) == 0
    said = capsys.readouterr().out
    assert "key pinned" in said
    assert "end anchored" in said
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert alone.main([str(path), "--head", str(tmp_path / "head.json")]) == 9
    assert alone.main([str(path), "--key", "0" * 64]) == 9
    assert alone.main([str(path), "--key", "xyz"]) == 9
    assert "not an ed25519 public key" in capsys.readouterr().err
    (tmp_path / "groups.csv").write_text("device,group\nx,y\n")
    assert alone.main([str(path), "--groups", str(tmp_path / "groups.csv"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"][0]["ledgers"] == 1
    (tmp_path / "groups.csv").write_text("name\nx\n")
    assert alone.main([str(path), "--groups", str(tmp_path / "groups.csv"), "--format", "json"]) == 9


def test_two_ledgers_and_one_key(honest_ledger, capsys):
    assert alone.main([str(honest_ledger("a")), str(honest_ledger("b")), "--key", "0" * 64]) == 9
    assert "concern one ledger" in capsys.readouterr().err


def test_contradictions_between_ledgers_are_faults(tmp_path, capsys):
    paths = []
    for number, clip_norm in enumerate((0.1, 0.1, 0.2)):
        paths.append(tmp_path / f"{number}.jsonl")
        with Ledger.create(paths[-1], make_header(run_id=f"r/{number}"), make_key(number)) as ledger:
            ledger.charge(make_event(0, clip_norm=clip_norm))
    assert alone.main([str(path) for path in paths]) == 9
    assert f"FAULT: {paths[2]}: line 2: round 0: clip_norm is 0.2" in capsys.readouterr().out


def test_missing_file(tmp_path, capsys):
    assert alone.main([str(tmp_path / "nothing")]) == 9
    assert "cannot be read" in capsys.readouterr().err
