"""Quality against epsilon: runs scenarios with a [compare] section and writes one page of small tables.

    python -m simulations.privacy_utility
    python -m simulations.privacy_utility SCENARIO.toml --set data.users=100000 --results FILE

The methods of a scenario are called "WAY, epsilon VALUE". Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfed.records import write_text
from mmfed.reports.tables import markdown_text
from mmfed.simulation.compare import compare

METRICS = {
    "recall@10": "recall@10",
    "hit_rate@10": "hit rate@10",
    "recall@20": "recall@20",
    "ndcg@10": "NDCG@10",
    "catalogue_coverage@10": "coverage@10",
    "ild_category@10": "diversity@10, category space",
    "ild_content@10": "diversity@10, content space",
}
SCENARIOS = ("ml100k", "trust", "rounds", "shoppers")
ABOUT = """# What privacy costs

User-level differential privacy: everything a person ever did is one unit. Where a row says no other, mode
`user-central`: add/remove one user; the server is trusted to add the noise. "one-shot" is the noised release of
popularity and co-occurrence alone, denoised, with content and recency on the device ([the guide](../one-shot.md));
"iterative" are noised rounds of training. "One-shot shared" and "one-shot local" are the same release, of one seed,
in the modes `user-distributed` (zero-out; the server sees sums alone) and `user-local` (replace-one; no trust).
"Alternating least squares" is the method of Chien et al. 2021: factors of users stay with them, those of items are
fitted to noised sums of statistics; it is simulated in one place, no device runs it, and no ledger was charged.
Popularity is exact, centralised and without privacy. Full ranking, honest negatives; means over the seeds with 95 %
bootstrap intervals over users. Every seed has its own noise. The iterative rows are of few rounds and one seed: longer
runs at epsilon 8 and without privacy stand in [ml100k.md](ml100k.md).

The constants of denoising and scoring were chosen on the training and validation events of MovieLens-100K: that choice
is not charged to epsilon, and its test figures were looked at several times on the way. So were the settings of
alternating least squares for each epsilon, by validation events alone. The shoppers are simulated; how the diagonal is
told was chosen on them.

Written by `python -m simulations.privacy_utility`; the settings stand in `simulations/privacy_utility_*.toml`.
"""


def page(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The whole page as Markdown.

    Args:
        comparisons: as ``mmfed compare`` writes them.
    """
    lines = [ABOUT]
    for one in comparisons:
        lines += [
            f"## {one['name']}",
            "",
            f"{markdown_text(one['shop'])}: {one['users']:,} users, {one['items']:,} items. Split: {one['split']}. "
            f"Seeds: {', '.join(map(str, one['seeds']))}.",
            "",
        ]
        lines += table(one["methods"])
        lines.append("")
        lines += [f"- {note}" for note in one["notes"]]
        lines += promises(one["methods"])
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def table(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows by method, columns by metric; metrics that no method has are left out."""
    columns = {name: title for name, title in METRICS.items() if any(name in one["metrics"] for one in methods)}
    lines = ["| method | " + " | ".join(columns.values()) + " |", "|---|" + "---:|" * len(columns)]
    return lines + [
        f"| {one['name']} | " + " | ".join(figure(one["metrics"].get(name)) for name in columns) + " |"
        for one in methods
    ]


def figure(estimate: Mapping[str, Any] | None) -> str:
    """Mean and interval, three digits."""
    if estimate is None or estimate["mean"] is None:
        return "–"
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def promises(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """The promise of every private method, as its ledgers charge it (the weakest seed's)."""
    return [
        f"- {one['name']}: {one['privacy']['sentence']}"
        for one in methods
        if one["privacy"] and one["privacy"]["epsilon"] is not None
    ]


def main() -> None:
    """Run, then write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parent
    standard = [here / f"privacy_utility_{name}.toml" for name in SCENARIOS]
    parser.add_argument("scenarios", nargs="*", type=Path, default=standard)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--results", type=Path, default=Path("docs/results/privacy-utility.md"))
    given = parser.parse_args()
    comparisons = [compare(path, given.set, resume=True).comparison for path in given.scenarios]
    write_text(given.results, page(comparisons))
    sys.stdout.write(f"Written: {given.results}\n")


if __name__ == "__main__":
    main()
