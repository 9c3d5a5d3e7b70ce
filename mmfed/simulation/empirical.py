"""The empirical audit of a configuration: attacks and checks on runs of the production code, as plain data.

A promise can be refuted by an attack, never proven: where every attack fails, only these attacks have failed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfed.config import Config
from mmfed.federated.workspace import load_workspace
from mmfed.privacy.audit.canaries import CanaryBound, area_interval, canary_bound
from mmfed.privacy.audit.ledgers import LedgerAudit, audit_ledgers
from mmfed.privacy.audit.outcome import risk_of
from mmfed.privacy.audit.risk import advantage_bound
from mmfed.rng import numpy_generator
from mmfed.simulation.audit_run import run_ledgers
from mmfed.simulation.canary_run import AuditedRun, audit_config, choose_people, run_with_coins
from mmfed.simulation.conformity import Check, check_conformity, check_senders
from mmfed.simulation.membership import final_losses, inclusion_scores, likelihood_ratios
from mmfed.simulation.payload_attacks import Attack, attack_payloads
from mmfed.simulation.payloads import device_payloads

VERDICT = 0.9999  # confidence at which a bound refutes a promise; what is shown has 95 %
_USER_LEVEL = ("user-central", "user-ftrl", "user-distributed")  # promise for a user about released models
_WIRE_LEVEL = ("record", "user-local")  # promise about what leaves one device
_SEEN_BY_SERVER = ("none", "user-central", "user-ftrl")

Told = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class EmpiricalPlan:
    """How much is tried.

    Args:
        people: whose inclusion a coin decides (the canaries).
        rounds: of every run.
        shadows: further runs for LiRA.
        devices: whose single update is attacked.
        users: most users in a run; a larger shop is cut down to so many, at the same share a round.
        seed: of coins and choices.
    """

    people: int = 200
    rounds: int = 5
    shadows: int = 6
    devices: int = 120
    users: int = 400
    seed: int = 0


def audit_empirically(
    config: Config, folder: Path, plan: EmpiricalPlan | None = None, *, told: Told | None = None
) -> dict[str, Any]:
    """Attack a configuration.

    Args:
        folder: scratch, empty; runs are kept in it.
        told: of progress: (stage, done, total).

    Returns:
        "about", "holds", "canary", "attacks" and "checks", as ``empirical.json`` holds them. "holds" is None where
        nothing is promised.

    Raises:
        MmfedError: too few users, or whatever stops a run.
    """
    plan = plan or EmpiricalPlan()
    tell = told or (lambda stage, done, total: None)
    config = smaller(config, plan)
    mode, steps = config.privacy.mode, plan.shadows + 3
    first = audit_config(config, folder, rounds=plan.rounds, name="audit-target")
    people = choose_people(load_workspace(first), plan.people, seed=plan.seed)
    tell("attacks", 0, steps)
    target = run_with_coins(first, people, seed=plan.seed)
    ledger = _worst_ledger(target)
    promised = ledger if mode in _USER_LEVEL else None
    scores = inclusion_scores(target)
    delta = float(ledger.header["delta"]) if ledger is not None else 1e-5
    bound = canary_bound(scores, target.included, delta=delta)
    canary = _canary(bound, canary_bound(scores, target.included, delta=delta, confidence=VERDICT), promised)
    attacks = [_membership(target, scores, "membership, everything known", _KNOWN, promised)]
    tell("attacks", 1, steps)
    shadows = []
    for number in range(plan.shadows):
        # Another seed, for other noise: a shadow that shares the target's noise would betray it.
        other = config.model_copy(update={"run": config.run.model_copy(update={"seed": config.run.seed + 1 + number})})
        shadow = audit_config(other, folder, rounds=plan.rounds, name=f"audit-shadow-{number}")
        again = run_with_coins(shadow, people, seed=plan.seed + 1 + number)
        shadows.append((final_losses(again), again.included))
        tell("attacks", 2 + number, steps)
    if shadows:
        ratios = likelihood_ratios(final_losses(target), shadows)
        attacks.append(_membership(target, ratios, "membership, last model (LiRA)", _LAST, promised))
    checks = check_conformity(target)
    alone = audit_config(config, folder, rounds=plan.rounds, name="audit-devices")
    workspace = load_workspace(alone)
    chosen = np.flatnonzero(workspace.split.train.lengths)
    if len(chosen) > plan.devices:
        chosen = np.sort(numpy_generator(plan.seed, "audit", "devices").choice(chosen, plan.devices, replace=False))
    payloads = device_payloads(alone, workspace, chosen)
    if mode == "user-central":
        checks.append(check_senders(np.linalg.norm(payloads.updates, axis=1), config.privacy.clip_norm))
    on_wire = attack_payloads(payloads, workspace, seed=plan.seed)
    attacks += [_payload(one, mode, ledger) for one in on_wire]
    tell("attacks", steps, steps)
    return _tree(target, plan, canary, attacks, checks, clear=bool(on_wire))


def smaller(config: Config, plan: EmpiricalPlan) -> Config:
    """The configuration on at most ``plan.users`` users, the same share of them a round."""
    count = load_workspace(config).shop.interactions.user_count
    if count <= plan.users:
        return config
    cohort = config.federation.cohort
    scaled = None if cohort is None else max(1, round(min(1.0, cohort / count) * plan.users))
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"users": plan.users}),
            "federation": config.federation.model_copy(update={"cohort": scaled}),
        }
    )


_KNOWN = "who took part, by one who knows all histories and every released model, and lacks only the coins"
_LAST = "who took part, from the loss of the last model, with shadow runs"


def _worst_ledger(target: AuditedRun) -> LedgerAudit | None:
    """The ledger with the largest ε of the run; None without one that holds."""
    found = [one for one in audit_ledgers(run_ledgers(target.run)).ledgers if one.holds and one.releases]
    return max(found, key=lambda one: one.recomputed or 0.0, default=None)


def _canary(shown: CanaryBound, verdict: CanaryBound, promised: LedgerAudit | None) -> dict[str, Any]:
    """The bounds against the promise: ε without assumptions, and μ or the error rates where they say more."""
    tree: dict[str, Any] = {**asdict(shown), "sentence": shown.sentence(), "claimed": None, "holds": None}
    if promised is None or promised.recomputed is None:
        tree["sentence"] += " The released models promise nothing for a whole user in this mode."
        return tree
    claimed = promised.recomputed
    refuted = verdict.epsilon > claimed or verdict.epsilon_of_trials > claimed
    refuted = refuted or (promised.mu is not None and verdict.mu > promised.mu)
    tree |= {"claimed": claimed, "holds": not refuted}
    tree["sentence"] += f" The ledger claims ε = {claimed:.3f}" + (
        f", μ = {promised.mu:.3f}." if promised.mu is not None else "."
    )
    if refuted:
        tree["sentence"] += f" THE PROMISE IS BROKEN: with {VERDICT:.2%} confidence the truth is above the claim."
    return tree


def _membership(
    target: AuditedRun, scores: np.ndarray, name: str, what: str, promised: LedgerAudit | None
) -> dict[str, Any]:
    inside, outside = scores[target.included], scores[~target.included]
    value, low, high = area_interval(inside, outside)
    surely = area_interval(inside, outside, confidence=VERDICT)[1]
    limit = None if promised is None else risk_of(promised).area
    return {
        "name": name,
        "what": f"{what}; {len(scores)} people",
        "figure": "AUC",
        "value": _plain(value),
        "low": _plain(low),
        "high": _plain(high),
        "chance": 0.5,
        "limit": limit,
        "holds": None if limit is None or not math.isfinite(surely) else surely <= limit,
    }


def _payload(attack: Attack, mode: str, ledger: LedgerAudit | None) -> dict[str, Any]:
    """An attack on single updates; bounded where the mode promises something about what leaves a device."""
    limit = None
    if mode in _WIRE_LEVEL and ledger is not None and attack.name in ("support recall", "interaction membership"):
        limit = _pair_limit(ledger, twice=mode == "record")
    seen = "; the server, which is trusted, sees this" if mode in _SEEN_BY_SERVER else ""
    found = {
        "name": attack.name,
        "what": attack.what + seen,
        "figure": "AUC",
        "value": _plain(attack.value),
        "low": _plain(max(attack.low, 0.0)),
        "high": _plain(min(attack.high, 1.0)),
        "chance": _plain(attack.chance),
        "limit": limit,
        "holds": None,
    }
    if attack.precision is not None:
        found |= {"precision": attack.precision, "recall": attack.recall}
    if limit is not None and math.isfinite(attack.low):
        # 95 % over people, and popularity alone may already tell as much: both are allowed for.
        margin = attack.value - attack.low
        found["holds"] = attack.value - 2 * margin <= max(limit, attack.chance)
    return found


def _pair_limit(ledger: LedgerAudit, *, twice: bool) -> float:
    """Largest chance of telling which of two items was touched: exchanging them changes one user, or two windows."""
    delta = float(ledger.header["delta"])
    if not twice:
        return (1 + risk_of(ledger).advantage) / 2
    profile = {}
    for one, epsilon in ledger.epsilon_for((delta, delta / 10, delta / 100)).items():
        profile[min(1.0, one * (1 + math.exp(min(epsilon, 700.0))))] = 2 * epsilon
    return (1 + min(1.0, advantage_bound(profile))) / 2


def _tree(
    target: AuditedRun,
    plan: EmpiricalPlan,
    canary: Mapping[str, Any],
    attacks: list[dict[str, Any]],
    checks: list[Check],
    *,
    clear: bool,
) -> dict[str, Any]:
    verdicts = [canary["holds"], *(one["holds"] for one in attacks), *(one.holds for one in checks)]
    told = [one for one in verdicts if one is not None]
    mode = target.config.privacy.mode
    about = (
        f"Runs of {plan.rounds} rounds of the production code in mode {mode} on {target.population} users, "
        f"{len(target.people)} of them in or out by a coin, {plan.shadows} shadow runs; plain averaging, seeded noise."
    )
    if mode not in ("none", "user-central"):
        about += " The law of the noise, clipping and sampling are checked from the inside in mode user-central only."
    if not clear:
        about += " No device's update was seen in the clear."
    return {
        "about": about,
        "mode": mode,
        "holds": None if mode == "none" else all(told),
        "canary": dict(canary),
        "attacks": attacks,
        "checks": [asdict(one) for one in checks],
        "plan": asdict(plan),
    }


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
