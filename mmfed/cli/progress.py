"""How a run goes, while it goes: bars in a terminal, one plain line per validated round elsewhere. Always on stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from mmfed.cli.terminal import remarks

if TYPE_CHECKING:
    from mmfed.config import Config
    from mmfed.federated.strategy import RoundRecord

_UNITS = {
    "user-central": "one user",
    "user-distributed": "one user",
    "user-ftrl": "one user",
    "user-local": "one user, worst device",
    "record": "one window, worst device",
}
_STAGES = {"loading": "loading the shop", "training": "training", "evaluation": "evaluating on the test split"}


class RunProgress:
    """Follows a run (``simulation.run.Watcher``) or a comparison (``simulation.compare.CompareWatcher``).

    Args:
        config: for the number of rounds, the validation metric and the unit of ε; None where there are no rounds.
    """

    def __init__(self, config: Config | None) -> None:
        self._config = config
        self._console = remarks()
        self._live = self._console.is_terminal
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[about]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._clock = _Clock()
        self._told: set[str] = set()
        self._encoding: set[str] = set()
        self._validated = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def method(self, name: str, seed: int, number: int, total: int) -> None:
        """A method of a comparison starts."""
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()
        self._say(f"[{number}/{total}] {name}, seed {seed}")

    def follow(self, config: Config) -> None:
        """The configuration of the run that comes now (a comparison has many)."""
        self._config = config

    def stage(self, name: str) -> None:
        """A new stage starts."""
        self._clock = _Clock()
        if self._live:
            for task in [task for key, task in self._tasks.items() if key != "training"]:
                self._bars.update(task, visible=False)
        if name != "training":
            self._say(_STAGES.get(name, name))

    def features(self, modality: str, done: int, total: int) -> None:
        """Encoding of a modality goes on."""
        self._show(f"encoding {modality}", done, total, "items")
        if done < total:
            self._encoding.add(modality)
        elif not self._live and modality in self._encoding:  # features from the cache are not worth a line
            self._encoding.discard(modality)
            self._say(f"encoded {modality}: {total} items")

    def planned(self, population: int, rate: float, noise_multiplier: float | None) -> None:
        """The cohort plan."""
        noise = "no noise" if noise_multiplier is None else f"noise multiplier {noise_multiplier:.3g}"
        each = "all of them" if rate >= 1 else f"{rate * population:.0f} (each with probability {rate:.3g})"
        self._say(f"{population} user{'' if population == 1 else 's'}, in every round {each}; {noise}")

    def processes(self, count: int) -> None:
        """How many processes compute the rounds from now on."""
        self._clock = _Clock()
        self._say(
            f"the rounds are computed by {count} worker processes"
            if count > 1
            else "the rounds are computed by one process"
        )

    def round(self, record: RoundRecord, epsilon: float | None) -> None:
        """A round is done."""
        total = self._config.planned_rounds if self._config else record.round
        metric = self._config.validation_metric if self._config else "ndcg@10"
        validation = record.validation
        if validation:
            self._validated = f"{metric} {validation.get(metric, next(iter(validation.values()))):.4f}"
        left = self._clock.left(record.round, total)
        mode = self._config.privacy.mode if self._config else "none"
        spent = "no privacy" if epsilon is None or mode == "none" else f"ε {epsilon:.3g} ({_UNITS[mode]})"
        cohort = f"cohort {record.realised}/{record.planned:.0f}"
        lost = f", {record.refused_nodes} nodes failed" if record.refused_nodes else ""
        parts = [part for part in (self._validated, cohort + lost, spent, left) if part]
        self._show("training", record.round, total, " · ".join(parts))
        if not self._live and (validation or record.round == total):
            self._say(f"round {record.round}/{total} · " + " · ".join(parts))

    def count(self, what: str, done: int, total: int) -> None:
        """Any other counted work; elsewhere than in a terminal only its end is told."""
        self._show(what, done, total, "")
        if not self._live and done >= total and what not in self._told:
            self._told.add(what)
            self._say(f"{what}: {total}")

    def _say(self, line: str) -> None:
        """A line above the bars."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _show(self, name: str, done: int, total: int, about: str) -> None:
        if not self._live:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, about=about)
        self._bars.update(self._tasks[name], completed=done, total=total, about=about, visible=True)


class _Clock:
    """Time left, from the rounds done since it was started (a resumed run does not start at round 1)."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None

    def left(self, done: int, total: int) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first = (done, now)
            return ""
        rounds, seconds = done - self._first[0], now - self._first[1]
        if rounds <= 0 or done >= total:
            return ""
        rest = round(seconds / rounds * (total - done))
        return f"{rest // 60}:{rest % 60:02d} left"
