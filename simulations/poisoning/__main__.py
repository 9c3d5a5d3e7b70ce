"""Attacks and defences: runs scenarios with a [poisoning] section and writes one page of tables.

    python -m simulations.poisoning
    python -m simulations.poisoning SCENARIO.toml --set data.path=FOLDER --results FILE

Twelve minutes of one core for all of them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from mmfed.errors import MmfedError
from mmfed.records import write_text
from simulations.poisoning.page import page
from simulations.poisoning.study import Outcome, read_plan, run_plan

HERE = Path(__file__).parents[1]
STANDARD = [HERE / f"poisoning_{name}.toml" for name in ("ml100k", "late", "one_shot")]


def main() -> int:
    """Run, then write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", type=Path, default=STANDARD)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--results", type=Path, default=Path("docs/results/poisoning.md"))
    given = parser.parse_args()
    logging.getLogger("mmfed").setLevel(logging.ERROR)  # refused updates and alarms are counted in the tables
    try:
        found = [(plan, run_plan(plan, _tell)) for plan in (read_plan(path, given.set) for path in given.scenarios)]
        write_text(given.results, page(found))
    except MmfedError as fault:
        sys.stderr.write(f"{fault}\n")
        return int(fault.code)
    sys.stdout.write(f"Written: {given.results}\n")
    return 0


def _tell(one: Outcome) -> None:
    attack = "no attack" if one.attack is None else f"{one.attack.kind} {one.attack.share:.1%}"
    sys.stdout.write(f"{one.method}, {attack}, seed {one.seed}: shown {one.shown:.1%}, recall {one.recall:.3f}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
