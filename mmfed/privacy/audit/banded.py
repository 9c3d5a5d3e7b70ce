"""What a ledger of correlated noise must hold for its run to be one Gaussian release: imports no mechanism."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_KEYS = {"coefficients", "separation", "participations"}


def banded_fields(value: Any) -> bool:
    """Whether a line's terms are well formed, and the bands no more than the separation (or columns would overlap)."""
    if not isinstance(value, dict) or set(value) != _KEYS:
        return False
    counts = [value["separation"], value["participations"]]
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 1 for one in counts):
        return False
    factor = value["coefficients"]
    if not isinstance(factor, list) or not 1 <= len(factor) <= value["separation"]:
        return False
    numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) and math.isfinite(one) for one in factor)
    return numbers and factor[0] == 1


class BandedOrder:
    """Rounds one after the other under unchanged terms, and as many participations charged as were possible."""

    def __init__(self) -> None:
        self._terms: tuple[Any, ...] | None = None
        self._round = 0
        self._participated: list[int] = []

    def fault(self, body: Mapping[str, Any]) -> str | None:
        """What is wrong with a release after those accepted before; None when it may stand (it is then accepted)."""
        if body["mechanism"] not in ("banded", "participation"):
            return "terms of correlated noise on another mechanism" if "banded" in body else None
        if "banded" not in body:
            return f"mechanism {body['mechanism']} without its terms"
        terms = (body["mechanism"], body["clip_norm"], body["noise_multiplier"], body["banded"])
        if self._terms is not None and terms != self._terms:
            return "noise, clip norm or terms changed on the way: the run is not one Gaussian release"
        if body["sampling"] != "full" or body.get("sensitivity", 1) != 1:
            return "a sampling claim, or a sensitivity of its own, with correlated noise"
        check = self._banded_fault if body["mechanism"] == "banded" else self._participation_fault
        if what := check(body):
            return what
        self._terms = terms
        return None

    def _banded_fault(self, body: Mapping[str, Any]) -> str | None:
        number, separation, most = body["round"], body["banded"]["separation"], body["banded"]["participations"]
        if number not in (self._round, self._round + 1) or number < 1:
            return f"round {number} after round {self._round}: correlated noise runs through every round"

        def possible(rounds: int) -> int:
            return min(most, -(-rounds // separation))

        due = possible(number) - possible(self._round) if number > self._round else 1
        if body["steps"] != due:
            return f"charges {body['steps']} participations with round {number}, {due} became possible"
        self._round = number
        return None

    def _participation_fault(self, body: Mapping[str, Any]) -> str | None:
        number, terms = body["round"], body["banded"]
        if body["steps"] != 1:
            return f"a participation charged {body['steps']} times"
        if len(self._participated) >= terms["participations"]:
            return f"took part more often than {terms['participations']} times"
        if self._participated and abs(number - self._participated[-1]) < terms["separation"]:
            return f"took part in rounds {self._participated[-1]} and {number}, less than {terms['separation']} apart"
        self._participated.append(number)
        return None
