"""What went wrong on a node, as one line that the coordinator can show."""

from __future__ import annotations

import functools
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from flwr.app import Context, Error, Message

from mmfed.errors import MmfedError

_APP_FAULT = 3  # Flower's code for an exception raised by a ClientApp
_LONGEST = 400
_NAMED_NODES = 3
_log = logging.getLogger(__name__)

Handler = Callable[[Message, Context], Message]


def faults_as_replies(handler: Handler) -> Handler:
    """A ClientApp handler that answers with the fault instead of raising it.

    Every carrier then brings the same line to the coordinator; left to Flower, each wraps it in its own way. A defect
    (any other exception) still goes through Flower, with its traceback in the node's log.
    """

    @functools.wraps(handler)
    def answer(message: Message, context: Context) -> Message:
        try:
            return handler(message, context)
        except MmfedError as fault:
            return error_reply(message, fault)

    return answer


def error_reply(message: Message, fault: MmfedError) -> Message:
    """What a node answers when it cannot do what a message asks."""
    _log.error("%s", fault)
    return Message(Error(code=_APP_FAULT, reason=str(fault)), reply_to=message)


def reason(error: Error) -> str:
    """The one line of an error reply that says what happened (Flower puts tracebacks and class names around it)."""
    lines = [line.strip() for line in str(error.reason or "").splitlines() if line.strip()]
    if not lines:
        return f"error code {error.code}"
    bare = re.sub(r"^<class '[\w.]+'>:<'(.*?)'?>?$", r"\1", lines[-1])
    bare = re.sub(r"^Exception \w+ occurred\. Message: |'>$", "", bare)
    return "".join(letter for letter in bare if letter.isprintable())[:_LONGEST]


def condensed(faults: Iterable[str]) -> str:
    """``node N: reason`` lines with equal reasons told once, so that a thousand nodes with one fault fit a line."""
    nodes: dict[str, list[str]] = defaultdict(list)
    for fault in faults:
        node, _, why = fault.partition(": ")
        nodes[why].append(node.removeprefix("node "))
    told = []
    for why, numbers in nodes.items():
        more = f" and {len(numbers) - _NAMED_NODES} more" if len(numbers) > _NAMED_NODES else ""
        told.append(f"node{'s' if len(numbers) > 1 else ''} {', '.join(numbers[:_NAMED_NODES])}{more}: {why}")
    return "; ".join(told)
