"""What narrower and shorter features cost: ``python -m simulations.feature_reduction``.

MovieLens-100K with posters, overviews and genres; a recommender that sees content alone (no item ids), federated,
without privacy. Image and text features go through PCA and whitening (``features.*.dimensions``, ``whiten``) and are
rounded (``features.precision``). Writes a page of Markdown with test figures, their differences from the features as
they were encoded on the same people, and the speed of the engine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mmfed.config import Config, Precision, build_config
from mmfed.encoders.precision import stored_bytes
from mmfed.evaluation.intervals import Estimate
from mmfed.evaluation.result import RankingResult, paired_difference
from mmfed.federated.workspace import load_workspace
from mmfed.simulation.run import simulate
from mmfed.training.cohort import train_cohort
from mmfed.training.update import LocalWork

METRICS = ("recall@10", "ndcg@10")
MODALITIES = ("image", "text")
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "ml100k_posters"
SETTINGS = (
    "data.source=movielens",
    "model.name=mf",
    "model.item_ids=false",
    "privacy.mode=none",
    "training.action_weight=0",
    "federation.server_optimiser.learning_rate=0.003",  # 0.02, the default, swings without item ids
    "evaluation.every=8",
    "evaluation.baselines=[]",
    "evaluation.k=[10]",
    "federation.workers=1",
)


@dataclass(frozen=True)
class Variant:
    """One way of keeping the features; ``dimensions`` None keeps the encoder's own."""

    dimensions: int | None
    whiten: bool
    precision: Precision

    @property
    def name(self) -> str:
        width = "all" if self.dimensions is None else str(self.dimensions)
        return f"{width}{', whitened' if self.whiten else ', as encoded'}"


VARIANTS = tuple(
    Variant(dimensions, whiten, precision)
    for dimensions, whiten in ((None, False), (128, True), (64, True), (32, True))
    for precision in ("float16", "int8")
)


@dataclass(frozen=True, eq=False)
class Row:
    """A variant, measured.

    Attributes:
        users_per_second: of the engine, per CPU-second.
        size: bytes of the image and text features of the catalogue.
    """

    variant: Variant
    result: RankingResult
    users_per_second: float
    size: int


def configured(variant: Variant, folder: Path, data: Path, rounds: int, more: Sequence[str] = ()) -> Config:
    """The run of a variant."""
    width = "none" if variant.dimensions is None else variant.dimensions
    settings = [f"features.{name}.dimensions={width}" for name in MODALITIES]
    settings += [f"features.{name}.whiten={str(variant.whiten).lower()}" for name in MODALITIES]
    name = f"{variant.name.replace(', ', '-').replace(' ', '-')}-{variant.precision}"
    return build_config(
        {},
        [
            *SETTINGS,
            f"data.path={data}",
            f"federation.rounds={rounds}",
            f"features.precision={variant.precision}",
            f"run.folder={folder}",
            f"run.name={name}",
            *settings,
            *more,
        ],
    )


def measured(variant: Variant, config: Config, repetitions: int) -> Row:
    """Train, evaluate, and time one local round of everybody."""
    result = simulate(config).federated.result
    workspace = load_workspace(config)
    model = workspace.new_model()
    work = LocalWork(training=config.training, privacy=config.privacy, seed=config.run.seed, round_number=1)
    people, vectors = workspace.histories, torch.zeros(workspace.shop.interactions.user_count, model.private_dimensions)
    speeds = []
    for _ in range(repetitions):
        started = time.process_time()
        train_cohort(model, people, vectors, work)
        speeds.append(len(people) / (time.process_time() - started))
    kept = workspace.features.modalities
    widths = [kept[name].values.shape[1] for name in MODALITIES if name in kept]
    size = sum(stored_bytes(workspace.shop.catalogue.size, width, variant.precision) for width in widths)
    return Row(variant, result, statistics.median(speeds), size)


def page(rows: Sequence[Row], *, rounds: int, resamples: int = 1000) -> str:
    """The figures as Markdown; differences are from the first row."""
    heads = ["image and text dimensions", "stored as", "KiB", *METRICS]
    heads += [f"{metric}: difference" for metric in METRICS] + ["engine, users/cpu-s"]
    lines = [
        "# Features reduced offline: what it costs",
        "",
        "Written by `python -m simulations.feature_reduction`.",
        "",
        f"MovieLens-100K with posters, overviews and genres; model `mf` on content alone, federated, {rounds} rounds, "
        "no privacy, one seed; the round is chosen on validation. Test figures with 95 % intervals over people; "
        "differences from the first row on the same people, with paired 95 % intervals: one that holds 0 is no "
        f"difference that these {rows[0].result.users} people show. Genres (attributes) are whole in every row. "
        "Speed is of one thread, with other work on the machine: judge by ratios.",
        "",
        "| " + " | ".join(heads) + " |",
        "|---|---|" + "---:|" * (len(heads) - 2),
    ]
    for row in rows:
        difference = paired_difference(row.result, rows[0].result, resamples=resamples)
        cells = [row.variant.name, row.variant.precision, f"{row.size / 1024:,.0f}"]
        cells += [_shown(row.result.metrics[metric]) for metric in METRICS]
        cells += ["–" if row is rows[0] else _shown(difference[metric], sign="+") for metric in METRICS]
        lines.append("| " + " | ".join([*cells, f"{row.users_per_second:,.0f}"]) + " |")
    lines += [
        "",
        "`int8` keeps each item's vector as whole numbers of a step of its own (1/127 of its largest entry). The "
        "engine computes in float32 whatever they are stored as. `mf` projects the catalogue once a round, so that its "
        "speed hardly depends on the dimensions; W1 and W2 in [performance.md](performance.md) show a model where it "
        "does. So few rounds are not the end of training: the rows compare equal work at one step size, not the best "
        "that each width can reach. The default is 64, whitened, float32: `features.image.dimensions`, "
        "`features.image.whiten`, `features.precision`.",
        "",
    ]
    return "\n".join(lines)


def _shown(estimate: Estimate, sign: str = "") -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:{sign}.3f}"
    return f"{estimate.mean:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all variants and write the page."""
    parser = argparse.ArgumentParser(prog="python -m simulations.feature_reduction", description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of MovieLens-100K with posters")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--repetitions", type=int, default=3, help="of the timing")
    parser.add_argument("--set", action="append", default=[], dest="more", metavar="KEY=VALUE")
    parser.add_argument("--markdown", type=Path, help="write the page there, and not to standard output")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="mmfed-reduction.") as folder:
        rows = [
            measured(one, configured(one, Path(folder), chosen.data, chosen.rounds, chosen.more), chosen.repetitions)
            for one in VARIANTS
        ]
    text = page(rows, rounds=chosen.rounds)
    if chosen.markdown:
        chosen.markdown.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
