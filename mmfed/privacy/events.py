"""What a ledger's lines say: the header's promise and the release about to leave."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mmfed.errors import ExitCode, MmfedError
from mmfed.privacy.accounting import GaussianRelease, PureRelease, Release, Sampling
from mmfed.privacy.adaptive_clip import joined
from mmfed.privacy.banded import banded_multiplier
from mmfed.privacy.skellam import SkellamRelease
from mmfed.privacy.units import Guarantee, check_count, check_positive

FORMAT = "mmfed-ledger-1"

Line = Literal["model", "metrics", "statistics", "tuning"]
Mechanism = Literal["gaussian", "dp-sgd", "laplace", "skellam", "banded", "participation"]


@dataclass(frozen=True, kw_only=True)
class LedgerHeader:
    """What the ledger promises; the first line. ``header_for`` fills it from a guarantee.

    Args:
        run_id: names the run.
        mode: privacy mode.
        unit, adjacency, trust, covered, not_covered: as in ``units.Guarantee``.
        population: N that δ refers to.
        population_basis: how N was fixed.
        delta, delta_reason: δ and why.
        target_epsilon: the budget; None when only a noise multiplier was given.
        noise_source: name of the noise source.
        code_version: version of mmfed.
        lock_hash: SHA-256 over the names and versions of everything installed.
        public_key: hex of the ed25519 key that signs; filled by ``Ledger.create``.
    """

    run_id: str
    mode: str
    unit: str
    adjacency: str
    trust: str
    covered: tuple[str, ...]
    not_covered: tuple[str, ...]
    population: int
    population_basis: str
    delta: float
    delta_reason: str
    target_epsilon: float | None
    noise_source: str
    code_version: str
    lock_hash: str
    public_key: str = ""
    format: str = FORMAT

    def promise(self) -> dict[str, Any]:
        """The fields a resumed run must repeat exactly."""
        loose = {"code_version", "lock_hash", "public_key", "noise_source"}
        return {name: value for name, value in asdict(self).items() if name not in loose}


def header_for(
    guarantee: Guarantee,
    *,
    run_id: str,
    population: int,
    population_basis: str,
    target_epsilon: float | None,
    noise_source: str,
) -> LedgerHeader:
    """The header of a new ledger: the guarantee's words plus the versions of the code that runs now."""
    installed = _installed()
    versions = [entry.partition("==")[2] for entry in installed if entry.startswith("mmfed==")]
    return LedgerHeader(
        run_id=run_id,
        mode=guarantee.mode,
        unit=guarantee.unit,
        adjacency=guarantee.adjacency,
        trust=guarantee.trust,
        covered=guarantee.covered,
        not_covered=guarantee.not_covered,
        population=population,
        population_basis=population_basis,
        delta=guarantee.delta,
        delta_reason=guarantee.delta_reason,
        target_epsilon=target_epsilon,
        noise_source=noise_source,
        code_version=versions[0] if versions else "unknown",
        lock_hash=hashlib.sha256("\n".join(installed).encode()).hexdigest(),
    )


@functools.cache
def _installed() -> tuple[str, ...]:
    """``name==version`` of everything installed; read once, for every device of a simulation has a ledger."""
    found = importlib.metadata.distributions()
    return tuple(sorted({f"{one.metadata['Name']}=={one.version}".lower() for one in found if one.metadata}))


@dataclass(frozen=True, kw_only=True)
class ReleaseEvent:
    """One release about to leave; charged with ``Ledger.charge``.

    Args:
        round: round number, from 0.
        line: budget line.
        mechanism: "gaussian", "dp-sgd", "laplace", "skellam" (``SkellamEvent``), "banded" (a round of correlated noise)
            or "participation" (of one device in such a round).
        clip_norm: C.
        noise_multiplier: σ (laplace: b; banded: of the independent draws) relative to C.
        sampling, sampling_rate: how units were chosen.
        steps: releases of this kind inside the event (record mode: DP-SGD steps; banded: participations of one user
            that became possible with this round, often none).
        planned_cohort, realised_cohort: units meant to take part and that did (None: not to be told).
        weights: always "equal".
        dropouts: units that were chosen and did not answer.
        noise_added_by: who added the noise.
        result_hash: hex SHA-256 of the noised result.
        shares_sample_with: index of the statistics line of the same round that comes from the same sample of users:
            the two are accounted as one release.
        banded: coefficients of the factor, minimum separation and cap on participations.
        sensitivity: how far two neighbours' contributions can be apart, in clip norms; 2 for replace-one.
    """

    round: int
    line: Line = "model"
    mechanism: Mechanism = "gaussian"
    clip_norm: float
    noise_multiplier: float
    sampling: Sampling
    sampling_rate: float
    steps: int = 1
    planned_cohort: int
    realised_cohort: int | None = None
    weights: Literal["equal"] = "equal"
    dropouts: int = 0
    noise_added_by: Literal["server", "device"] = "server"
    result_hash: str
    sensitivity: float = 1.0
    shares_sample_with: int | None = None
    banded: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_positive("clip_norm", self.clip_norm)
        check_positive("sensitivity", self.sensitivity)
        check_count("planned_cohort", self.planned_cohort)
        if self.round < 0 or self.dropouts < 0 or (self.realised_cohort is not None and self.realised_cohort < 0):
            raise MmfedError(
                ExitCode.PRIVACY, f"release of round {self.round}: a count is below 0.", "use counts >= 0."
            )
        if len(self.result_hash) != 64 or set(self.result_hash) - set("0123456789abcdef"):
            raise MmfedError(
                ExitCode.PRIVACY, f"result_hash = {self.result_hash!r}: not a hex SHA-256.", "use ledger.result_hash."
            )
        if self.mechanism != "banded" or self.steps != 0:
            self.release()

    def release(self) -> Release:
        """What the accountant sees."""
        return release_of(asdict(self))

    def body(self) -> dict[str, Any]:
        """The fields as the ledger's line holds them: what the mechanism does not need is left out."""
        return {name: value for name, value in asdict(self).items() if value != _ABSENT.get(name, _NEVER)}


def result_hash(result: Any) -> str:
    """Hex SHA-256 of a noised array: its dtype, shape and bytes."""
    digest = hashlib.sha256(f"{result.dtype.str}{result.shape}".encode())
    digest.update(result.tobytes())
    return digest.hexdigest()


_NEVER = object()
# A line without the field means this value.
_ABSENT: Mapping[str, Any] = {"sensitivity": 1.0, "shares_sample_with": None, "banded": None}


def joint_release(first: Release, second: Release) -> GaussianRelease:
    """Two Gaussian releases of one and the same sample of units, as one release of that sample.

    Raises:
        MmfedError: they are not of one sample.
    """
    same = (
        isinstance(first, GaussianRelease)
        and isinstance(second, GaussianRelease)
        and first.count == second.count == 1
        and (first.sampling, first.sampling_rate) == (second.sampling, second.sampling_rate)
    )
    if not same:
        raise MmfedError(ExitCode.PRIVACY, f"{first} and {second}: not of one sample.", "charge them apart.")
    return GaussianRelease(
        noise_multiplier=joined(first.noise_multiplier, second.noise_multiplier),  # type: ignore[union-attr]
        sampling=first.sampling,  # type: ignore[union-attr]
        sampling_rate=first.sampling_rate,  # type: ignore[union-attr]
    )


def release_of(body: Mapping[str, Any]) -> Release:
    """The accountant's view of a release line."""
    if body["mechanism"] == "skellam":
        return SkellamRelease(
            noise_multiplier=float(body["noise_multiplier"]),
            l2_squared=int(body["l2_squared"]),
            l1=int(body["l1"]),
            count=int(body["steps"]),
        )
    effective = float(body["noise_multiplier"]) / float(body.get("sensitivity", 1.0))
    if body["mechanism"] == "banded":
        effective = banded_multiplier(effective, tuple(body["banded"]["coefficients"]))
    if body["mechanism"] == "laplace":
        return PureRelease(epsilon=1.0 / check_positive("noise_multiplier", effective), count=int(body["steps"]))
    return GaussianRelease(
        noise_multiplier=effective,
        sampling=body["sampling"],
        sampling_rate=float(body["sampling_rate"]),
        count=int(body["steps"]),
    )
