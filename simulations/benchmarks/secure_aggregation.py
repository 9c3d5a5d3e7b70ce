"""What a round of secure aggregation costs: bytes and milliseconds against cohort and model size.

One device's part and the coordinator's are timed apart, in CPU time of this process, on one thread, without Flower,
training or network. A tenth of the cohort (one at least) drops out before its masked vector, which is the dear case for
the coordinator. Figures are of one device chosen from the cohort; the coordinator's are of the whole round.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mmfed.privacy.distributed import DistributedNoise
from mmfed.privacy.distributed_planning import minimum_cohort
from mmfed.privacy.random_words import SecureWords
from mmfed.privacy.secure_aggregation.advertisement import Advertisement
from mmfed.privacy.secure_aggregation.context import RoundContext, least_threshold
from mmfed.privacy.secure_aggregation.coordinator import Coordinator
from mmfed.privacy.secure_aggregation.device import Device
from mmfed.privacy.secure_aggregation.roster import Roster
from mmfed.privacy.secure_aggregation.sealed_share import SealedShare
from mmfed.records import write_text

CASES = ((10, 5_000), (50, 5_000), (200, 5_000), (10, 100_000), (50, 100_000), (200, 100_000), (10, 1_000_000))
_Made = TypeVar("_Made")


@dataclass
class Cost:
    """Of one round.

    Attributes:
        encode, protocol: CPU milliseconds of one device: rounding and noise; keys, shares, masks and answers.
        server: CPU milliseconds of the coordinator.
        up, down: bytes of one device: payloads of the five exchanges, without the model and what Flower adds.
    """

    cohort: int
    parameters: int
    bits: int
    encode: float = 0.0
    protocol: float = 0.0
    server: float = 0.0
    up: int = 0
    down: int = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, or write, the table."""
    parser = argparse.ArgumentParser(prog="python -m simulations.benchmarks.secure_aggregation", description=__doc__)
    parser.add_argument("--cohort", type=int, help="devices asked in a round, 5 at least; with --parameters")
    parser.add_argument("--parameters", type=int, help="trained coordinates")
    parser.add_argument("--markdown", type=Path, help="write the page there")
    chosen = parser.parse_args(arguments)
    if (chosen.cohort is None) != (chosen.parameters is None):
        parser.error("give --cohort and --parameters, or neither")
    cases = CASES if chosen.cohort is None else [(chosen.cohort, chosen.parameters)]
    costs = [measure(cohort, parameters) for cohort, parameters in cases]
    page = markdown(costs)
    if chosen.markdown is None:
        print(page, end="")  # noqa: T201 - a command that prints its table
    else:
        write_text(chosen.markdown, page)


def measure(cohort: int, parameters: int) -> Cost:
    """One round, whose sum is checked. The other devices run as well, and are not timed."""
    noise = DistributedNoise(
        clip_norm=0.15, noise_multiplier=1.0, dimension=parameters, cohort=cohort, minimum=minimum_cohort(cohort, 0.8)
    )
    cost = Cost(cohort, parameters, noise.bits)
    keys = sorted(
        (Ed25519PrivateKey.generate() for _ in range(cohort)), key=lambda key: key.public_key().public_bytes_raw()
    )
    context = RoundContext(
        run_id="cost",
        round_number=1,
        nonce=bytes(16),
        parties=tuple(key.public_key().public_bytes_raw() for key in keys),
        users=(1,) * cohort,
        threshold=least_threshold(cohort),
        minimum_users=noise.minimum,
        bits=noise.bits,
        length=noise.width,
        terms=noise.terms(),
    )
    roster = Roster.of(context.parties)
    devices = {key.public_key().public_bytes_raw(): Device(key, roster, context) for key in keys}
    watched = context.parties[0]
    coordinator = Coordinator(context)

    def device(step: Callable[[], _Made]) -> _Made:
        made, spent = timed(step)
        cost.protocol += spent
        return made

    def server(step: Callable[[], _Made]) -> _Made:
        made, spent = timed(step)
        cost.server += spent
        return made

    def by_all(step: Callable[[bytes], _Made], parties: Iterable[bytes]) -> dict[bytes, _Made]:
        return {p: device(lambda p=p: step(p)) if p == watched else step(p) for p in parties}

    adverts = by_all(lambda p: devices[p].advertise(), devices)
    passed = server(lambda: coordinator.advertised(adverts))
    sealed = by_all(lambda p: devices[p].share(passed), devices)
    shares = server(lambda: coordinator.shared(sealed))
    update = np.random.default_rng(0).normal(size=parameters)
    vector, cost.encode = timed(lambda: noise.encode(update, run_id="cost", round_number=1, source=SecureWords()))
    empty = np.zeros(noise.width, dtype=np.int64)
    alive = list(devices)[: cohort - max(1, cohort // 10)]
    masked = by_all(lambda p: devices[p].mask(shares[p], vector if p == watched else empty), alive)
    survivors = server(lambda: coordinator.masked(masked))
    signatures = by_all(lambda p: devices[p].agree(survivors), survivors)
    agreed = server(lambda: coordinator.agreed(signatures))
    answers = by_all(lambda p: devices[p].answer(survivors, coordinator.dropped, agreed), survivors)
    total = server(lambda: coordinator.answered(answers))
    if not np.array_equal(total, vector):
        raise AssertionError("the sum is wrong")
    share, key, signature = SealedShare.SIZE, Advertisement.SIZE, 64
    answer = sum(len(part) for part in answers[watched].to_bytes())
    cost.up = key + share * len(sealed[watched]) + len(masked[watched]) + signature + answer
    described = len(json.dumps(context.to_plain()))
    lists = 32 * len(survivors) + 32 * cohort + (32 + signature) * len(agreed)
    cost.down = described + key * cohort + share * len(shares[watched]) + lists
    return cost


def timed(step: Callable[[], _Made]) -> tuple[_Made, float]:
    """What a step gives and its CPU milliseconds."""
    start = time.process_time()
    made = step()
    return made, 1000 * (time.process_time() - start)


def markdown(costs: Sequence[Cost]) -> str:
    """The page."""
    rows = [
        f"| {c.cohort} | {c.parameters:,} | {c.bits} | {c.up / 1000:,.0f} | {c.down / 1000:,.0f} | "
        f"{c.up / (8 * c.parameters):.2f} | {c.encode:,.0f} | {c.protocol:,.0f} | {c.server:,.0f} |"
        for c in costs
    ]
    head = [
        "# Cost of secure aggregation",
        "",
        "Written by `python -m simulations.benchmarks.secure_aggregation`.",
        "",
        " ".join((__doc__ or "").split()),
        "",
        f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}; CPU time of one thread.",
        "",
        "| cohort | parameters | bits | up, kB | down, kB | up / float64 update | device: encode, ms | "
        "device: protocol, ms | coordinator, ms |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    return "\n".join([*head, *rows, ""])


if __name__ == "__main__":
    main()
