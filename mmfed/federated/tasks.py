"""The messages of a run: enrolment and one round's work, as Flower records."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.types import IntArray

ENROL = "query"
TRAIN = "train"
ONE_SHOT = "train.one_shot"
EVALUATE = "evaluate"
_MODEL, _TASK, _REPLY, _REPORT = "model", "task", "reply", "report"


@dataclass(frozen=True, eq=False)
class Task:
    """What the coordinator asks of a node.

    Attributes:
        config: the run's configuration.
        run_id: names the run in ledgers.
        population: enrolled users; 0 while enrolling.
        noise_multiplier: record mode: σ the device has to add; 0 elsewhere.
        catalogue: hex digest of the features every party must hold.
        round_number: 1-based; 0 while enrolling.
        users: [chosen] uint64 keys of the users asked to take part.
        clip_norm: adaptive clipping: the clip norm of this round, in place of the configuration's; the reply then
            counts the users within it.
        items: one-shot round under noise: the items whose co-occurrence is asked for; None: popularity first.
    """

    config: Config
    run_id: str
    population: int
    noise_multiplier: float
    catalogue: str
    round_number: int
    users: IntArray
    clip_norm: float | None = None
    items: IntArray | None = None

    def to_record(self) -> ConfigRecord:
        chosen = {} if self.items is None else {"items": np.asarray(self.items, dtype="<u8").tobytes()}
        moved = {} if self.clip_norm is None else {"clip-norm": self.clip_norm}
        return ConfigRecord(
            {
                **moved,
                **chosen,
                "config": self.config.model_dump_json(),
                "run-id": self.run_id,
                "population": self.population,
                "noise-multiplier": self.noise_multiplier,
                "catalogue": self.catalogue,
                "round": self.round_number,
                "users": np.asarray(self.users, dtype="<u8").tobytes(),
            }
        )


def task_content(task: Task, arrays: ArrayRecord | None = None) -> RecordDict:
    """A message's content: the task and, in training, the model."""
    records: dict[str, ArrayRecord | ConfigRecord | MetricRecord] = {_TASK: task.to_record()}
    if arrays is not None:
        records[_MODEL] = arrays
    return RecordDict(records)


def read_task(content: RecordDict) -> tuple[Task, ArrayRecord]:
    """The task and the model arrays (empty while enrolling) of a message.

    Raises:
        MmfedError: the message is not one of ours.
    """
    try:
        record = content.config_records[_TASK]
        task = Task(
            config=Config.model_validate_json(str(record["config"])),
            run_id=_run_id(record["run-id"]),
            population=_count(record["population"]),
            noise_multiplier=float(record["noise-multiplier"]),  # type: ignore[arg-type]
            catalogue=str(record["catalogue"]),
            round_number=_count(record["round"]),
            users=_keys(record["users"]),
            clip_norm=_clip_norm(record.get("clip-norm")),
            items=_items(record["items"]) if "items" in record else None,
        )
    except (KeyError, ValueError, TypeError) as error:
        said = " ".join(str(error).split())
        raise MmfedError(
            ExitCode.FEDERATION,
            f"the message is not a task of this mmfed version ({type(error).__name__}: {said[:120]}).",
            "run the same mmfed version on the coordinator and on every device.",
        ) from None
    return task, content.array_records.get(_MODEL) or ArrayRecord()


def enrolment_reply(users: IntArray, catalogue: str) -> RecordDict:
    """A node's answer to enrolment: its users' keys and the digest of its catalogue."""
    return RecordDict({_REPLY: ConfigRecord({"users": np.asarray(users, "<u8").tobytes(), "catalogue": catalogue})})


def read_enrolment(content: RecordDict) -> tuple[IntArray, str]:
    """Inverse of ``enrolment_reply``.

    Raises:
        MmfedError: the reply is not one of ours.
    """
    try:
        record = content.config_records[_REPLY]
        return _keys(record["users"]), str(record["catalogue"])
    except (KeyError, ValueError, TypeError):
        raise _foreign("an enrolment reply") from None


def training_reply(arrays: ArrayRecord, realised: int, within: int | None = None) -> RecordDict:
    """A node's update: the sum over its users, how many users are in it and, where asked, within the clip norm."""
    counted = {} if within is None else {"within": within}
    return RecordDict({_MODEL: arrays, _REPORT: MetricRecord({"realised": realised, **counted})})


def read_within(content: RecordDict, realised: int) -> int:
    """Users within the clip norm, of a reply that ``read_training_reply`` accepted as counted.

    Raises:
        MmfedError: more than are in the sum.
    """
    within = content.metric_records[_REPORT]["within"]
    if isinstance(within, bool) or not isinstance(within, int) or not 0 <= within <= realised:
        raise _foreign("a training reply")
    return within


def read_training_reply(content: RecordDict, *, counted: bool = False) -> tuple[ArrayRecord, int]:
    """Inverse of ``training_reply``.

    Args:
        counted: whether users within the clip norm were asked for.

    Raises:
        MmfedError: the reply is not one of ours, or holds more than one of ours may.
    """
    try:
        report = content.metric_records[_REPORT]
        if set(content) != {_MODEL, _REPORT} or set(report) != ({"realised", "within"} if counted else {"realised"}):
            raise _foreign("a training reply")
        return content.array_records[_MODEL], _count(report["realised"])
    except (KeyError, ValueError, TypeError):
        raise _foreign("a training reply") from None


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise ValueError(f"{value!r:.40} is not a count")
    return value


def _clip_norm(value: object) -> float | None:
    if value is not None and not (isinstance(value, float) and 0 < value < float("inf")):
        raise ValueError(f"{value!r:.40} is not a clip norm")
    return value


def _keys(value: object) -> IntArray:
    if not isinstance(value, bytes):
        raise TypeError("user keys are not bytes")
    return np.frombuffer(value, dtype="<u8")


def _items(value: object) -> IntArray:
    """Ascending item indices: each stands once."""
    items = _keys(value)
    if len(items) and (items[-1] >= 2**31 or bool((np.diff(items.astype(np.int64)) <= 0).any())):
        raise ValueError("item indices are not ascending")
    return items.astype(np.int64)


def _run_id(value: object) -> str:
    """A run's name becomes a folder on the device: it may not lead out of the device's own."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", value):
        raise ValueError(f"run id {value!r:.40}")
    return value


def _foreign(what: str) -> MmfedError:
    return MmfedError(
        ExitCode.FEDERATION,
        f"the message is not {what} of this mmfed version",
        "run the same mmfed version on the coordinator and on every device.",
    )
