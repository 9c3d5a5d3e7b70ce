"""What is protected, from whom, and how much: the words that go with every ε."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from mmfed.errors import ExitCode, MmfedError

Mode = Literal["none", "user-central", "user-distributed", "user-local", "user-ftrl", "record"]
DEVICE_MODES: tuple[Mode, ...] = ("user-local", "record")  # every device adds its own noise and keeps its own ledger
CENTRAL_MODES: tuple[Mode, ...] = ("user-central", "user-ftrl")  # the coordinator adds the noise and keeps the ledger

_ONE_USER = "one user (everything the user ever did)"
_NOT_COVERED = (
    "cohort sizes and dropouts written in the ledger (exact counts: keep the ledger among auditors)",
    "validation figures and choices made from them (tuning)",
    "statistics of the data such as popularity, unless charged on their own line",
    "what others' data say about a person (inference from the population)",
)


class _UserMode(TypedDict):
    adjacency: str
    trust: str
    covered: tuple[str, ...]
    not_covered: tuple[str, ...]


_USER_MODES: dict[Mode, _UserMode] = {
    "user-central": {
        "adjacency": "add/remove one user",
        "trust": "the server is trusted to add the noise and to keep single updates to itself",
        "covered": ("every release of the shared model",),
        "not_covered": _NOT_COVERED,
    },
    "user-distributed": {
        "adjacency": "zero-out of one user (who takes part is no secret)",
        "trust": "the server is honest but curious: it sees sums of many users, never one; "
        "the devices add the noise and do not collude with it",
        "covered": ("every sum that leaves secure aggregation",),
        "not_covered": (
            "who takes part, and when: the server sees it",
            "devices that collude with the server, which can take off their own shares of the noise",
            *_NOT_COVERED,
        ),
    },
    "user-ftrl": {
        "adjacency": "zero-out of one user (all the user's updates of the run)",
        "trust": "the server is trusted to add the noise and to keep single updates to itself; nothing is claimed of "
        "how users are drawn, only that each takes part no more often and no sooner again than promised, which "
        "the devices enforce",
        "covered": ("every release of the shared model",),
        "not_covered": _NOT_COVERED,
    },
    "user-local": {
        "adjacency": "replace-one: the user's data against any other data, or none",
        "trust": "nobody is trusted: the device clips and adds the noise before it answers",
        "covered": ("every update that leaves this device",),
        "not_covered": ("that the device takes part, and when", *_NOT_COVERED),
    },
}


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """An (ε, δ) statement with everything that gives it meaning.

    Args:
        mode: privacy mode of the run.
        unit: what one protected record is.
        adjacency: which data sets count as neighbours.
        trust: who is trusted, with what.
        covered: what the ε accounts for.
        not_covered: what it says nothing about.
        epsilon: privacy loss bound, nats; infinity when nothing is promised.
        delta: probability that the bound fails.
        delta_reason: why this δ.
    """

    mode: Mode
    unit: str
    adjacency: str
    trust: str
    covered: tuple[str, ...]
    not_covered: tuple[str, ...]
    epsilon: float
    delta: float
    delta_reason: str

    def sentence(self) -> str:
        """One line that carries ε, δ, unit, adjacency and trust."""
        if self.mode == "none":
            return (
                f"NO DIFFERENTIAL PRIVACY: epsilon = infinity, delta = {self.delta:.3g}; unit: {self.unit}; "
                f"adjacency: {self.adjacency}; trust: {self.trust}."
            )
        value = f"epsilon = {self.epsilon:.4g}" if math.isfinite(self.epsilon) else "epsilon = infinity"
        return (
            f"{value}, delta = {self.delta:.3g} ({self.delta_reason}); unit: {self.unit}; "
            f"adjacency: {self.adjacency}; trust: {self.trust}."
        )


def guarantee_for(
    mode: Mode,
    *,
    epsilon: float | None = None,
    population: int | None = None,
    delta: float | None = None,
    window: int | None = None,
    window_days: float | None = None,
) -> Guarantee:
    """The guarantee of a privacy mode.

    Args:
        mode: "none", "user-central", "user-distributed", "user-local", "user-ftrl" or "record".
        epsilon: spent or targeted ε, nats; None stands for "no bound" (infinity).
        population: N that δ refers to: enrolled users (user modes); records (record).
        delta: None takes ``default_delta(population)``.
        window: record mode: most interactions in one window, w.
        window_days: record mode: calendar length of a window in days.

    Raises:
        MmfedError: unknown mode, missing or invalid population, δ, ε or window.
    """
    if mode == "none":
        return Guarantee(
            mode="none",
            unit="none",
            adjacency="none",
            trust="the server sees every update and is trusted with it",
            covered=(),
            not_covered=("everything: updates carry no noise",),
            epsilon=math.inf,
            delta=0.0,
            delta_reason="no bound is claimed",
        )
    if mode not in get_args(Mode):
        known = ", ".join(repr(one) for one in get_args(Mode))
        raise MmfedError(ExitCode.PRIVACY, f"privacy.mode = {mode!r}: unknown.", f"use one of {known}.")
    if population is None:
        raise MmfedError(
            ExitCode.PRIVACY, f"population is missing for mode {mode}.", "give the N that delta refers to."
        )
    check_population(population)
    reason = f"{population} ** -1.1" if delta is None else "given"
    delta = check_delta(default_delta(population) if delta is None else delta, population=population)
    bound = math.inf if epsilon is None else epsilon
    if math.isnan(bound) or bound < 0:
        raise _bad("epsilon", bound, "use a number >= 0.")
    if mode != "record":
        reason = f"{reason}, N = {population} enrolled users"
        return Guarantee(
            **_USER_MODES[mode], mode=mode, unit=_ONE_USER, epsilon=bound, delta=delta, delta_reason=reason
        )
    if window is None:
        raise MmfedError(
            ExitCode.PRIVACY, "window is missing for mode record.", "give the most interactions in a window."
        )
    check_count("window", window)
    span = "" if window_days is None else f" of {window_days:g} days"
    return Guarantee(
        mode=mode,
        unit=f"one window of at most {window} interactions (hence any one interaction)",
        adjacency=f"zero-out of one window, cut by calendar time{span}",
        trust="the server is not trusted: the device adds the noise",
        covered=("every update that leaves this device",),
        not_covered=(
            *_NOT_COVERED,
            "the user as a whole: many windows of one person compose",
            "cleaning and the evaluation split: the claim is about the interactions that are left for training",
        ),
        epsilon=bound,
        delta=delta,
        delta_reason=f"{reason}, N = {population}",
    )


def default_delta(population: int) -> float:
    """δ = N ** -1.1: below 1/N, so that publishing one random person outright is not allowed."""
    return check_population(population) ** -1.1


def check_population(population: int, *, name: str = "population") -> int:
    """N, at least 2 (with N = 1 no δ below 1/N leaves anything to protect by default)."""
    check_count(name, population)
    if population < 2:
        raise _bad(name, population, "have at least 2, or do without a promise (privacy.mode = none).")
    return population


def check_delta(delta: float, *, population: int | None = None) -> float:
    """δ in (0, 1) and below 1/N when N is given."""
    if not _is_number(delta) or not 0.0 < delta < 1.0:
        raise _bad("delta", delta, "use a number between 0 and 1.")
    if population is not None and delta >= 1.0 / population:
        raise MmfedError(
            ExitCode.PRIVACY,
            f"delta = {delta!r}: not below 1/N = {1.0 / population:.3g} (N = {population}); "
            "such a delta allows publishing one person outright.",
            f"use at most {population**-1.1:.3g} (N ** -1.1), or leave it out.",
        )
    return delta


def check_epsilon(epsilon: float, *, name: str = "epsilon") -> float:
    """ε > 0, finite."""
    return check_positive(name, epsilon)


def check_positive(name: str, value: float) -> float:
    """A finite number above zero (ε, σ, clip norm)."""
    if not _is_number(value) or not value > 0.0:
        raise _bad(name, value, "use a finite number above 0.")
    return value


def check_rate(name: str, value: float) -> float:
    """A sampling rate in (0, 1]."""
    if not _is_number(value) or not 0.0 < value <= 1.0:
        raise _bad(name, value, "use a rate above 0 and at most 1.")
    return value


def check_count(name: str, value: int) -> int:
    """A whole number, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _bad(name, value, "use a whole number, at least 1.")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _bad(name: str, value: object, fix: str) -> MmfedError:
    return MmfedError(ExitCode.PRIVACY, f"{name} = {value!r}: not allowed.", fix)
