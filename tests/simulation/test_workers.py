"""A round shared among worker processes: the same bits whatever their number, and nothing left behind by a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict
from tiny_shop import tiny_run, write_tiny_shop

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.checkpoint import load_checkpoint
from mmfed.federated.coordinator import server_app
from mmfed.federated.participant import client_app
from mmfed.federated.progress import LATEST
from mmfed.federated.tasks import read_training_reply
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.keys import load_or_create_key
from mmfed.records import RunFolder, read_lines
from mmfed.simulation import parts, shared_grid, worker_count
from mmfed.simulation.inprocess import InProcessGrid, run_on
from mmfed.simulation.part_work import Part, PartUpdate
from mmfed.simulation.run import device_ledgers, simulate
from mmfed.simulation.shared_grid import SharedGrid
from mmfed.simulation.workers import Workers

MODES = {
    "user-central": ["privacy.mode=user-central", "model.private_user_vector=true", "federation.cohort=9"],
    "record": ["privacy.mode=record", "federation.nodes=2"],
    "none": ["privacy.mode=none", "one_shot.enabled=true"],
}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dozen users make six parts; the users of a node are cut in this process."""
    for module in (parts, shared_grid):
        monkeypatch.setattr(module, "BLOCK", 2)
        monkeypatch.setattr(module, "DEVICES", 2)


def configured(folder: Path, name: str, *more: str) -> Config:
    if not (folder / "shop").exists():
        write_tiny_shop(folder / "shop")
    noise = ("privacy.epsilon=none", "privacy.noise_multiplier=1.5")
    return tiny_run(folder, f"run.name={name}", "training.pretraining=5", *noise, *more)


def run_of(config: Config) -> RunFolder:
    return RunFolder(config.run.folder / config.run.name)


def model_of(config: Config) -> dict[str, bytes]:
    """The bytes of the model and of the optimiser after the last round."""
    run = run_of(config)
    tensors, _ = load_checkpoint(run.checkpoints / LATEST, load_or_create_key(run.path / "key.pem"))
    return {name: value.contiguous().numpy().tobytes() for name, value in tensors.items()}


def charges(config: Config) -> list[tuple[str, int, str, float]]:
    """What the ledgers charged; every one of them holds."""
    run = run_of(config)
    ledgers = [path for path in (run.ledger, *device_ledgers(run)) if path.exists()]
    if ledgers:
        assert audit_ledgers(ledgers).holds
    bodies = [(path.name, line["body"]) for path in ledgers for line in read_lines(path) if line["kind"] == "release"]
    return [(name, body["round"], body["result_hash"], body["epsilon"]) for name, body in bodies]


def one_shot_sum(config: Config) -> bytes:
    run = run_of(config)
    tensors, _ = load_checkpoint(run.checkpoints / "one-shot.safetensors", load_or_create_key(run.path / "key.pem"))
    return tensors["cooccurrence"].numpy().tobytes()


def vectors_of(config: Config) -> dict[str, bytes]:
    folder = run_of(config).devices
    return {str(path.relative_to(folder).parts[1:]): path.read_bytes() for path in folder.glob("*/*/vectors/*")}


class Watched:
    """Follows a run and stops it after a round."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.told: list[int] = []

    def stage(self, name: str) -> None: ...

    def features(self, modality: str, done: int, total: int) -> None: ...

    def planned(self, population: int, rate: float, noise_multiplier: float | None) -> None: ...

    def processes(self, count: int) -> None:
        self.told.append(count)

    def round(self, record, epsilon: float | None) -> None:
        if record.round == self.stop:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "counts"), [("user-central", (2, 4)), ("record", (4,)), ("none", (2,))])
def test_any_number_of_workers_gives_the_same_bits(tmp_path, mode, counts):
    one = configured(tmp_path, "one", "federation.workers=1", *MODES[mode])
    simulate(one)
    assert bool(charges(one)) == (mode != "none")
    sums = []
    for count in counts:
        # From memory-mapped interactions, which every worker maps for itself.
        more = (f"federation.workers={count}", "data.on_disk=always")
        several, watched = configured(tmp_path, f"with-{count}", *more, *MODES[mode]), Watched()
        simulate(several, watcher=watched)
        assert watched.told == [count]
        assert model_of(several) == model_of(one)
        assert charges(several) == charges(one)
        assert vectors_of(several) == vectors_of(one)
        assert bool(vectors_of(one)) == (mode == "user-central")
        if mode == "none":
            sums = [one_shot_sum(config) for config in (one, several)]
            assert sums[0] == sums[1]
    assert bool(sums) == (mode == "none")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_resumed_with_another_number(tmp_path, first, then):
    whole = configured(tmp_path, "whole", "federation.workers=1", *MODES["user-central"])
    simulate(whole)
    stopped = configured(tmp_path, "stopped", f"federation.workers={first}", *MODES["user-central"])
    with pytest.raises(KeyboardInterrupt):
        simulate(stopped, watcher=Watched(stop=2))
    resumed = configured(tmp_path, "stopped", f"federation.workers={then}", *MODES["user-central"])
    simulate(resumed, resume=True)
    assert model_of(resumed) == model_of(whole)
    assert charges(resumed) == charges(whole)
    assert vectors_of(resumed) == vectors_of(whole)


@pytest.mark.slow
def test_a_killed_worker_costs_its_round_alone(tmp_path, monkeypatch):
    whole = configured(tmp_path, "whole", "federation.workers=1", *MODES["user-central"])
    simulate(whole)
    started: list[Struck] = []

    class Struck(Workers):
        """Of the second round's parts, one is computed; then a worker is killed while it holds another."""

        def __init__(self, count: int) -> None:
            super().__init__(count)
            started.append(self)
            self.rounds, self.processes = 0, self.process_ids

        def run(self, *parts, **named):
            self.rounds += 1
            if self.rounds == 2:
                os.kill(self.processes[1], signal.SIGSTOP)
            for done in super().run(*parts, **named):
                yield done
                if self.rounds == 2:
                    os.kill(self.processes[1], signal.SIGKILL)

    killed = configured(tmp_path, "killed", "federation.workers=2", *MODES["user-central"])
    with monkeypatch.context() as patch:
        patch.setattr(shared_grid, "Workers", Struck)
        with pytest.raises(MmfedError, match=r"worker 2 of 2 \(process \d+\) was ended by SIGKILL") as raised:
            simulate(killed)
    assert raised.value.code == ExitCode.FEDERATION
    assert "--resume" in raised.value.fix
    assert not any(alive(process) for process in started[0].processes)
    assert len(read_lines(run_of(killed).metrics)) == 1
    simulate(killed.model_copy(update={"federation": killed.federation.model_copy(update={"workers": 1})}), resume=True)
    assert model_of(killed) == model_of(whole)
    assert charges(killed) == charges(whole)


def alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


STARTER = """
import sys, time
from mmfed.simulation.workers import Workers

class Slow:
    def __reduce__(self):  # who reads it sleeps: a worker that computes, and does not look at its connection
        return time.sleep, (300,)

with Workers(2) as workers:
    print(*workers.process_ids, flush=True)
    list(workers.run([(Slow(), None)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_worker_outlives_the_run(how):
    with subprocess.Popen(
        [sys.executable, "-c", STARTER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    ) as starter:
        assert starter.stdout is not None
        workers = [int(one) for one in starter.stdout.readline().split()]
        assert len(workers) == 2
        time.sleep(4)  # one has its part by then
        os.killpg(starter.pid, how)  # as a terminal sends Ctrl-C: to the whole group
        starter.wait(30)
    deadline = time.monotonic() + 60
    while any(alive(process) for process in workers):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_defect_in_a_worker_shows_its_traceback():
    with Workers(1) as workers, pytest.raises(RuntimeError, match=r"(?s)worker process 1.*Traceback.*AttributeError"):
        list(workers.run([(cast(Part, "no part"), ArrayRecord())]))


@pytest.mark.slow
def test_a_fault_on_a_node_is_its_reply(tmp_path):
    """The fault of a worker reads as that of this process."""
    faults = []

    class Damaging(Watched):
        def round(self, record, epsilon: float | None) -> None:
            device_ledgers(run_of(config))[0].write_text("damaged\n")

    for count in (1, 2):
        config = configured(tmp_path, f"with-{count}", f"federation.workers={count}", "privacy.mode=record")
        with pytest.raises(MmfedError, match="none of 1 nodes gave an update") as raised:
            simulate(config, watcher=Damaging())
        faults.append(re.sub(r"/\S*/ledgers/", "", raised.value.message))
        assert ".jsonl" in faults[-1]
    assert faults[0] == faults[1]


@pytest.mark.parametrize("mode", MODES)
def test_parts_add_up_to_the_whole(tmp_path, mode):
    """Cut or not: the same model up to rounding."""
    shared = configured(tmp_path, "shared", "federation.workers=1", *MODES[mode])
    simulate(shared)
    whole = configured(tmp_path, "whole", *MODES[mode])
    run = run_of(whole)
    grid = InProcessGrid(client_app(), nodes=whole.federation.nodes, state_folder=run.devices)
    run_on(grid, server_app(run.path), whole.to_flat())
    models = []
    for config in (shared, whole):
        folder = run_of(config)
        tensors, _ = load_checkpoint(folder.checkpoints / LATEST, load_or_create_key(folder.path / "key.pem"))
        models.append({name: value.double() for name, value in tensors.items() if name.startswith("model.")})
    assert max(float((models[0][name] - value).abs().max()) for name, value in models[1].items()) <= 1e-6
    assert [one[:2] for one in charges(shared)] == [one[:2] for one in charges(whole)]


def test_other_modes_are_not_cut(tmp_path, monkeypatch):
    """A mode whose reply may be more than a sum over users goes to the app whole."""
    monkeypatch.setattr(shared_grid, "MODES", ())
    monkeypatch.setattr(SharedGrid, "_compute", lambda *arguments: pytest.fail("cut"))
    watched = Watched()
    simulate(configured(tmp_path, "whole", *MODES["none"]), watcher=watched)
    assert watched.told == [1]


def test_workers_start_where_they_pay(monkeypatch):
    monkeypatch.setattr(worker_count, "usable_cores", lambda: 4)
    monkeypatch.setattr(worker_count, "_fitting", lambda: 3)
    start = worker_count.START
    assert worker_count.worthwhile(2 * start, parts=8, rounds_left=1) == 3  # what memory holds
    assert worker_count.worthwhile(start / 100, parts=8, rounds_left=100) == 1  # saves two thirds of the start
    assert worker_count.worthwhile(start / 100, parts=8, rounds_left=200) == 3
    assert worker_count.worthwhile(3 * start, parts=2, rounds_left=1) == 2
    assert worker_count.worthwhile(1000.0, parts=8, rounds_left=0) == 1
    assert worker_count.worthwhile(1000.0, parts=1, rounds_left=9) == 1


def test_fitting_is_at_least_one_and_cores_are_counted():
    assert worker_count._fitting() >= 1
    assert worker_count.usable_cores() >= 1


def test_workers_are_chosen_after_a_round(tmp_path, monkeypatch):
    """Automatic: the first round is computed here; the choice is told, and changes nothing but the time."""
    started = []

    class Here:
        """Computes as a worker would, in this process."""

        def __init__(self, count: int) -> None:
            self.count, self.work = count, shared_grid.PartWork()
            started.append(count)

        def run(self, work, *, deadline):
            for place in reversed(range(len(work))):  # as they come
                yield place, self.work(*work[place])

        def close(self) -> None:
            started.append("closed")

    one = configured(tmp_path, "one", "federation.workers=1", *MODES["user-central"])
    watched = Watched()
    simulate(one, watcher=watched)
    assert watched.told == [1]
    monkeypatch.setattr(shared_grid, "Workers", Here)
    monkeypatch.setattr(shared_grid, "worthwhile", lambda seconds, parts, rounds_left: 2)
    chosen, watched = configured(tmp_path, "chosen", *MODES["user-central"]), Watched()
    simulate(chosen, watcher=watched)
    assert started == [2, "closed"]
    assert watched.told == [2]
    assert model_of(chosen) == model_of(one)
    assert charges(chosen) == charges(one)


def test_what_is_told_on_the_command_line(tmp_path, capsys):
    from mmfed.cli.progress import RunProgress

    with RunProgress(None) as progress:
        progress.processes(1)
        progress.processes(3)
    shown = capsys.readouterr().err
    assert "one process" in shown
    assert "3 worker processes" in shown
    config = configured(tmp_path, "any", "federation.workers=3")
    assert json.loads(config.model_dump_json())["federation"]["workers"] == 3


@pytest.mark.parametrize(
    ("mode", "network", "cut"), [("none", "full", 0), ("user-central", "full", 6), ("none", "no", 6)]
)
def test_a_trained_encoder_reads_the_catalogue_once(tmp_path, monkeypatch, mode, network, cut):
    """Where nobody is clipped it reads it for everybody; parts would each read it again."""
    monkeypatch.setattr(parts, "NUMBERS", 10**9)
    seen = []
    monkeypatch.setattr(
        SharedGrid, "_compute", lambda grid, asked, deadline: seen.append(len(asked[0].parts)) or stop()
    )
    trained = ("features.text.training=full",) if network == "full" else ()
    more = ("federation.rounds=1", 'features.modalities=["text"]', "features.text.encoder=none", *trained)
    config = configured(tmp_path, "any", f"privacy.mode={mode}", "training.positions=4", *more)
    if cut:
        with pytest.raises(KeyboardInterrupt):
            simulate(config)
        assert seen == [cut]
    else:
        simulate(config)
        assert not seen


def stop() -> None:
    raise KeyboardInterrupt


def test_parts_are_added_in_their_order_not_as_they_come(tmp_path):
    grid = InProcessGrid(client_app(), nodes=1, state_folder=tmp_path)
    message = grid.create_message(RecordDict(), "train", 1, "1")
    large, small = (PartUpdate({"x": (1,)}, np.array([value]), 1) for value in (1e16, 1.0))
    gone = PartUpdate({"x": (1,)}, np.array([-1e16]), 2)
    asked = shared_grid._Asked(message, [cast(Part, None)] * 3, ArrayRecord(), {2: gone, 0: large, 1: small})
    reply = asked.reply()
    assert reply is not None
    arrays, realised = read_training_reply(reply.content)
    assert arrays["x"].numpy() == 0.0  # 1e16 + 1 is 1e16; in another order 1 is left
    assert realised == 4


@pytest.mark.parametrize("begun", [0, 1])
def test_no_part_begins_after_the_deadline(tmp_path, monkeypatch, begun):
    """A message that lacks a part has no reply, as a node that is late."""

    class Ticking:
        """Once a part is begun the deadline is over."""

        def __init__(self) -> None:
            self.left = begun

        def monotonic(self) -> float:
            self.left -= 1
            return 0.0 if self.left >= 0 else 2.0

    honest = SharedGrid._compute

    def hurried(grid, asked, deadline):
        monkeypatch.setattr(shared_grid, "time", Ticking())
        honest(grid, asked, 1.0)
        monkeypatch.setattr(shared_grid, "time", time)
        assert len(asked[0].done) == begun

    monkeypatch.setattr(SharedGrid, "_compute", hurried)
    with pytest.raises(MmfedError, match=r"none of 1 nodes gave an update \(no reply within"):
        simulate(configured(tmp_path, "late", *MODES["user-central"]))
