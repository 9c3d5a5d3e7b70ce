"""The messages of a round of secure aggregation, as Flower records: which they are, and how they are read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import tasks
from mmfed.privacy.secure_aggregation.context import RoundContext

JOIN, PIN = "query.secure_join", "query.secure_pin"
ADVERTISE, SHARE, MASK = "train.secure_advertise", "train.secure_share", "train.secure_mask"
AGREE, ANSWER = "train.secure_agree", "train.secure_answer"
UNMASKED = "train.secure_unmasked"  # masks skipped: simulations only
_RECORD = "secure"
Fields = Mapping[str, bytes | list[bytes] | str]


def asking(task: tasks.Task, fields: Fields, arrays: ArrayRecord | None = None) -> RecordDict:
    """A message to a node: the task, what the step needs and, with it, the model."""
    content = tasks.task_content(task, arrays)
    content[_RECORD] = ConfigRecord(dict(fields))  # type: ignore[arg-type]
    return content


def replying(fields: Fields) -> RecordDict:
    """A node's answer."""
    return RecordDict({_RECORD: ConfigRecord(dict(fields))})  # type: ignore[arg-type]


def fields_of(content: RecordDict, *names: str) -> list[Any]:
    """The bytes, or list of bytes, of each name.

    Raises:
        MmfedError: the message is not one of ours; a reply holds more than it may.
    """
    try:
        record = content.config_records[_RECORD]
        values = [record[name] for name in names]
    except KeyError:
        raise _foreign() from None
    for value in values:
        if not isinstance(value, bytes) and not (isinstance(value, list) and all(isinstance(v, bytes) for v in value)):
            raise _foreign()
    return values


def one(value: bytes | list[bytes]) -> bytes:
    """A field that is one string of bytes.

    Raises:
        MmfedError: it is not.
    """
    if not isinstance(value, bytes):
        raise _foreign()
    return value


def many(value: bytes | list[bytes]) -> list[bytes]:
    """A field that is a list (Flower may carry an empty one as no bytes).

    Raises:
        MmfedError: it is not.
    """
    if value == b"":
        return []
    if not isinstance(value, list):
        raise _foreign()
    return value


def context_bytes(context: RoundContext) -> bytes:
    """A round's description."""
    return json.dumps(context.to_plain(), sort_keys=True).encode()


def read_context(data: bytes) -> RoundContext:
    """Inverse of ``context_bytes``.

    Raises:
        MmfedError: it is none.
    """
    try:
        plain = json.loads(data)
    except (ValueError, RecursionError):
        plain = {}
    return RoundContext.from_plain(plain if isinstance(plain, dict) else {})


def pairs(items: Mapping[bytes, bytes]) -> list[bytes]:
    """Keys of 32 bytes, each with its value behind it."""
    return [key + value for key, value in sorted(items.items())]


def read_pairs(items: Iterable[bytes]) -> dict[bytes, bytes]:
    """Inverse of ``pairs``."""
    return {item[:32]: item[32:] for item in items}


def _foreign() -> MmfedError:
    return MmfedError(
        ExitCode.FEDERATION,
        "the message is not a step of secure aggregation of this mmfed version",
        "run the same mmfed version on the coordinator and on every device.",
    )
