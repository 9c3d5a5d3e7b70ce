"""What each kind of ledger line must hold: names, types, ranges, and what may follow what."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from mmfed.privacy.audit.banded import BandedOrder, banded_fields

Check = Callable[[Any], bool]

_HEX = set("0123456789abcdef")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _not_negative(value: Any) -> bool:
    return _number(value) and value >= 0


def _whole(least: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _one_of(*names: str) -> Check:
    return lambda value: isinstance(value, str) and value in names


def _hex(length: int) -> Check:
    return lambda value: isinstance(value, str) and len(value) == length and not set(value) - _HEX


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


_FIELDS: dict[str, dict[str, Check]] = {
    "header": {
        "format": _one_of("mmfed-ledger-1"),
        "run_id": _text,
        "mode": _one_of("user-central", "user-distributed", "user-local", "user-ftrl", "record"),
        "unit": _text,
        "adjacency": _text,
        "trust": _text,
        "covered": _texts,
        "not_covered": _texts,
        "population": _whole(2),
        "population_basis": _text,
        "delta": lambda value: _number(value) and 0 < value < 1,
        "delta_reason": _text,
        "target_epsilon": _or_null(_positive),
        "noise_source": _text,
        "code_version": _text,
        "lock_hash": _hex(64),
        "public_key": _hex(64),
    },
    "release": {
        "round": _whole(0),
        "line": _one_of("model", "metrics", "statistics", "tuning"),
        "mechanism": _one_of("gaussian", "dp-sgd", "laplace", "skellam", "banded", "participation"),
        "clip_norm": _positive,
        "noise_multiplier": _positive,
        "sampling": _one_of("poisson", "full"),
        "sampling_rate": lambda value: _number(value) and 0 < value <= 1,
        "steps": _whole(0),
        "planned_cohort": _whole(1),
        "realised_cohort": _or_null(_whole(0)),
        "weights": _one_of("equal"),
        "dropouts": _whole(0),
        "noise_added_by": _one_of("server", "device"),
        "result_hash": _hex(64),
        "epsilon": _not_negative,
        "epsilon_delta": lambda value: _number(value) and 0 < value < 1,
        "epsilon_method": _one_of("pld", "rdp"),
        "epsilon_discretisation": _not_negative,
    },
    "refusal": {"reason": _text, "by": _text, "round": _or_null(_whole(0))},
}
_OPTIONAL: dict[str, dict[str, Check]] = {
    "release": {"sensitivity": _positive, "shares_sample_with": _whole(1), "banded": banded_fields}
}
_MECHANISMS = {
    "user-central": ("gaussian",),
    "user-distributed": ("skellam",),
    "user-local": ("gaussian", "laplace"),
    "user-ftrl": ("banded", "participation"),
    "record": ("dp-sgd",),
}
_LOCAL_SENSITIVITY = 2.0  # replace-one, in clip norms: nothing less is believed of user-local
# ... but of the one-shot release, before the rounds: vectors of norm 1 without a negative entry are √2 apart at most.
_ONE_SHOT_SENSITIVITY = math.sqrt(2.0) * (1 - 1e-12)


_SKELLAM: dict[str, Check] = {"l2_squared": _whole(1), "l1": _whole(1), "minimum_cohort": _whole(1)}


def fault_in_body(kind: str, body: Mapping[str, Any]) -> str | None:
    """The first field of a line's body that is missing, unknown, or out of type or range; None when all hold."""
    checks = _FIELDS[kind] | (_SKELLAM if body.get("mechanism") == "skellam" else {})
    for name in checks:
        if name not in body:
            return f"{kind} lacks {name}"
    for name, value in body.items():
        if name in _OPTIONAL.get(kind, {}):
            if not _OPTIONAL[kind][name](value):
                return f"{kind}.{name} = {str(value)[:60]!r} is not allowed"
            continue
        if name not in checks:
            return f"{kind} has the unknown field {name[:40]!r}"
        if not checks[name](value):
            return f"{kind}.{name} = {str(value)[:60]!r} is not allowed"
    if kind == "header" and body["delta"] >= 1 / body["population"]:
        return f"header.delta = {body['delta']!r} is not below 1/N = {1 / body['population']:.3g}"
    if kind == "release" and body["steps"] == 0 and body["mechanism"] != "banded":
        return "release.steps = 0: a release of nothing"
    if kind == "release" and body["sampling"] == "full" and body["sampling_rate"] != 1:
        return f"release.sampling_rate = {body['sampling_rate']!r} with full participation"
    return _fault_in_skellam(body) if checks.keys() >= _SKELLAM.keys() else None


def _fault_in_skellam(body: Mapping[str, Any]) -> str | None:
    """What the numbers of a sum of integer vectors cannot be."""
    if body["sampling"] != "full":
        return "release.sampling is not full, though the server saw who took part"
    if body["l1"] > body["l2_squared"]:
        return f"release.l1 = {body['l1']} exceeds l2_squared: no vector of integers has such norms"
    if body["l1"] ** 2 < body["l2_squared"]:
        return f"release.l1 = {body['l1']} is below the square root of l2_squared"
    realised = body["realised_cohort"]
    if realised is not None and realised < body["minimum_cohort"]:
        return f"release of {realised} users, below its minimum of {body['minimum_cohort']}"
    return None


def _local_fault(mode: str, body: Mapping[str, Any]) -> str | None:
    """What a device's own release must say, and others may not."""
    sensitivity = body.get("sensitivity", 1.0)
    if mode == "user-local":
        if sensitivity < (_ONE_SHOT_SENSITIVITY if body["round"] == 0 else _LOCAL_SENSITIVITY):
            least = "the square root of 2 before the rounds" if body["round"] == 0 else "2"
            return f"sensitivity {sensitivity!r} clip norms in mode user-local, where replace-one makes it {least}"
        if body["noise_added_by"] != "device" or body["sampling"] != "full":
            return "mode user-local, but the device did not add the noise, or a sampling claim is made"
    elif sensitivity < 1:
        return f"sensitivity {sensitivity!r}: a clipped unit can move a sum by one clip norm"
    return None


class Order:
    """What may follow what: δ and mechanism agree with the header, ε falls by no more than grid error, rounds go on."""

    def __init__(self) -> None:
        self._header: Mapping[str, Any] = {}
        self._epsilon = 0.0
        self._latest: dict[str, int] = {}
        self._rounds: set[tuple[str, int]] = set()
        self._releases: set[tuple[str, int, str]] = set()
        self._index = -1
        self._banded = BandedOrder()
        self._statistics: dict[int, tuple[int, float]] = {}  # lines not yet included in another: round and rate

    def fault(self, kind: str, body: Mapping[str, Any]) -> str | None:
        """What is wrong with this line after the ones accepted before; None when it may stand (it is then accepted)."""
        if kind == "header":
            self._header = body
        if kind != "release":
            self._index += 1
            return None
        line, number, result = body["line"], body["round"], body["result_hash"]
        mode = self._header["mode"]
        if body["mechanism"] not in _MECHANISMS[mode]:
            return f"mechanism {body['mechanism']} in mode {mode}"
        if what := _local_fault(mode, body) or self._banded.fault(body):
            return what
        if body["epsilon_delta"] != self._header["delta"]:
            return f"epsilon is claimed at delta {body['epsilon_delta']!r}, the header says {self._header['delta']!r}"
        if body["epsilon"] * 1.01 + 1e-3 < self._epsilon:
            return f"claimed epsilon falls from {self._epsilon!r} to {body['epsilon']!r}"
        if (line, number, result) in self._releases:
            return f"round {number} of line {line} is charged twice for the same result"
        if number <= self._latest.get(line, -1) and (line, number) not in self._rounds:
            return f"round {number} of line {line} comes after round {self._latest[line]}"
        if what := self._sample_fault(body):
            return what
        self._index += 1
        if line == "statistics":
            self._statistics[self._index] = (number, body["sampling_rate"])
        self._epsilon = max(self._epsilon, body["epsilon"])
        self._latest[line] = max(number, self._latest.get(line, -1))
        self._rounds.add((line, number))
        self._releases.add((line, number, result))
        return None

    def _sample_fault(self, body: Mapping[str, Any]) -> str | None:
        """A release of a sample that a statistic was taken of too: the account must know, and count that one once."""
        key, index = (body["round"], body["sampling_rate"]), body.get("shares_sample_with")
        if index is None:
            hidden = [line for line, other in self._statistics.items() if other == key and key[1] < 1]
            if body["line"] == "model" and hidden:
                return f"a sample of the round of line {hidden[-1] + 1}, accounted as if it were another one"
            return None
        if body["line"] != "model" or body["steps"] != 1 or self._statistics.get(index) != key:
            return f"shares_sample_with = {index}: no statistic of this round and rate that is still to be included"
        del self._statistics[index]
        return None
