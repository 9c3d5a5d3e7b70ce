"""One-shot or iterative? An answer from public figures alone, before any data are touched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mmfed.privacy.one_shot import OneShotPlan, plan_one_shot
from mmfed.privacy.one_shot_local import LocalOneShotPlan, plan_one_shot_local
from mmfed.privacy.one_shot_shares import SharedOneShotPlan, plan_one_shot_shares
from mmfed.privacy.units import Mode, check_count

MOST_ITEMS = 10_000  # federated.one_shot_terms: several dense matrices of that size
COVERED = 700  # federated.one_shot_terms: most popular items whose pairs are asked for
# Strongest direction of the co-occurrence over the number of users, as measured on public shops: 0.14 on
# MovieLens-100K (median history 63), 0.05 on the demo shop (10), 0.004 on Amazon Baby and TikTok (4 and 2).
LONG_HISTORY, STRENGTH_LONG, STRENGTH_SHORT = 10, 0.05, 0.004

AnyPlan = OneShotPlan | SharedOneShotPlan | LocalOneShotPlan
MODES: tuple[Mode, ...] = ("user-central", "user-distributed", "user-local")
Way = Literal["one-shot", "one-shot, popularity alone", "iterative"]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Which way to spend ε, and why.

    Args:
        way: what is recommended.
        reasons: one sentence each.
        plan: noise of the one-shot release; None where it does not fit.
        strength: strongest direction of the co-occurrence over the edge of the noise, as estimated; None as above.
        settings: to put into the scenario.
    """

    way: Way
    reasons: tuple[str, ...]
    plan: AnyPlan | None
    strength: float | None
    settings: tuple[str, ...]


def advise(
    *,
    population: int,
    items: int,
    epsilon: float,
    delta: float | None = None,
    history: int = LONG_HISTORY,
    mode: Mode = "user-central",
    minimum_survivors: float = 0.8,
) -> Advice:
    """One-shot or iterative for a population, a catalogue and an ε.

    Args:
        population: enrolled users, N.
        items: size of the catalogue.
        epsilon: of the whole run, nats.
        delta: None takes N ** -1.1.
        history: events of a typical person, as a guess: looking it up in private data would be a release.
        mode: "user-central", "user-distributed" or "user-local".
        minimum_survivors: user-distributed: least share of the users in a sum.

    Raises:
        MmfedError: a parameter is out of range.
    """
    check_count("items", items)
    check_count("history", history)
    if items > MOST_ITEMS:
        reason = f"the one-shot release serves catalogues of at most {MOST_ITEMS:,} items; this one has {items:,}."
        return Advice(
            way="iterative", reasons=(reason,), plan=None, strength=None, settings=("one_shot.enabled=false",)
        )
    covered = min(items, COVERED)

    def planned(share: float | None) -> AnyPlan:
        shares = {"population": population, "epsilon": epsilon, "delta": delta, "popularity_share": share}
        if mode == "user-local":
            return plan_one_shot_local(**shares)
        if mode == "user-distributed":
            pairs = covered * (covered + 1) // 2
            return plan_one_shot_shares(items=items, pairs=pairs, minimum_survivors=minimum_survivors, **shares)
        return plan_one_shot(**shares)

    whole = planned(0.1)
    noise = (whole.cooccurrence_noise or 0.0) * (math.sqrt(population) if mode == "user-local" else 1.0)
    edge = 2.0 * noise / math.sqrt(2.0) * math.sqrt(covered)
    strength = (STRENGTH_LONG if history >= LONG_HISTORY else STRENGTH_SHORT) * population / edge
    estimate = (
        f"the strongest direction of the co-occurrence of {covered} items is about {strength:.2g} times the edge of "
        "its noise (an estimate: by what shops with such histories show)"
    )
    once = "the release pays once for a short vector; rounds share the same epsilon over all parameters of a model"
    settings = ["one_shot.enabled=true", "federation.rounds=0", f"privacy.epsilon={epsilon:g}"]
    if mode != "user-central":
        settings.append(f"privacy.mode={mode}")
    if strength < 1.0:
        reasons = (
            f"{estimate}: it would drown. Popularity is a shorter vector and is seen; taste comes from content and the "
            "own history, on the device.",
            f"{once}: rounds would fare no better.",
        )
        plan = planned(1.0)
        settings.append("one_shot.popularity_share=1")
        return Advice(
            way="one-shot, popularity alone", reasons=reasons, plan=plan, strength=strength, settings=tuple(settings)
        )
    plan = planned(None)
    if plan.cooccurrence_noise is None:  # the run would leave the pairs out by itself
        plan = whole
        settings.append("one_shot.popularity_share=0.1")
    if history < LONG_HISTORY:
        settings.append("one_shot.denoising=threshold")
    reasons = (
        f"{estimate}: it is seen.",
        f"{once}. docs/results/privacy-utility.md shows both against epsilon.",
    )
    return Advice(way="one-shot", reasons=reasons, plan=plan, strength=strength, settings=tuple(settings))
