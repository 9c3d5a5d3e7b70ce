"""A thousand honest ledgers of every shape, and no alarm."""

import os
import random

import pytest
from ledger_builder import make_event, make_header, make_key

from mmfed.privacy.audit.crosscheck import cross_check
from mmfed.privacy.audit.ledgers import audit_ledgers
from mmfed.privacy.ledger import Ledger

LEDGERS = 1000
SAMPLED = [
    (0.8, 0.01),
    (1.5, 0.2),
]  # (sigma, rate) of sampled releases: few, so that accounts are computed once
NAMES = ["demo", "caf\u00e9 \u4e2d\u6587 \U0001f6d2", 'a "quoted" \\ name', "\x7f\u2028", "x" * 2000]


@pytest.fixture
def quick_disk(monkeypatch):
    """Durability is another test's matter."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def draw(path, generator):
    """A ledger as a run might leave it: repeated rounds, several lines, refusals, restarts, no release at all."""
    sampled = generator.choice(SAMPLED) if generator.random() < 0.1 else None
    population = generator.choice([2, 3, 50, 1000, 10**6, 10**9]) if sampled is None else 1000
    header = make_header(
        run_id=generator.choice(NAMES),
        population=population,
        delta=min(population**-1.1, 0.3),
        target_epsilon=None,
        unit=generator.choice(NAMES),
    )
    rounds = dict.fromkeys(["model", "metrics", "statistics", "tuning"], generator.randrange(3))
    if sampled is not None:  # a statistic and a model update of one sample are charged together, not one by one
        del rounds["statistics"]
    events = 0
    with Ledger.create(path, header, make_key(generator.randrange(3))) as ledger:
        for _ in range(generator.choice([0, 1, 2, 3, 5, 8] if sampled is None else [1, 2, 3])):
            line = generator.choice(list(rounds))
            if generator.random() < 0.15:
                ledger.refuse(generator.choice(NAMES), by="device", round_number=generator.choice([None, 0, 7]))
                continue
            rounds[line] += generator.choice([0, 1, 1, 1, 3])  # 0: a round repeated after a crash
            changes = {"noise_multiplier": generator.choice([0.4, 1.0, 5.0, 3e3, generator.uniform(0.5, 50)])}
            if sampled is not None:
                changes = {"noise_multiplier": sampled[0], "sampling": "poisson", "sampling_rate": sampled[1]}
            realised = generator.choice([None, 0, 1, min(population, 998)])
            events += 1
            ledger.charge(
                make_event(
                    rounds[line],
                    line=line,
                    clip_norm=generator.choice([1e-9, 0.1, 1, 1e9]),
                    realised_cohort=realised,
                    dropouts=0,
                    result_hash=f"{generator.getrandbits(256):064x}",
                    **changes,
                )
            )
    return events


def test_no_alarm(tmp_path, quick_disk):
    generator = random.Random(20)
    released = 0
    for number in range(LEDGERS):
        path = tmp_path / f"{number % 50}.jsonl"
        path.unlink(missing_ok=True)
        events = draw(path, generator)
        result = audit_ledgers([path])
        assert result.holds, (number, [str(finding) for finding in result.findings])
        assert cross_check(result.ledgers).findings == (), number
        assert result.ledgers[0].releases == events
        released += events
    assert released > LEDGERS
