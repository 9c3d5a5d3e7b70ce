"""What every metric is called and means, for tables and pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class MetricInfo:
    """What a metric is called and means.

    Attributes:
        label: for table heads; a diversity names its space.
        group: heading it stands under.
        better: direction that is better; None where neither is.
        definition: one line.
    """

    label: str
    group: str
    better: Direction | None
    definition: str


ACCURACY, REACH, DIVERSITY, NOVELTY, COLD, RATING = (
    "Accuracy",
    "Coverage and exposure",
    "Diversity",
    "Novelty",
    "Cold items",
    "Rating prediction",
)

METRICS: Mapping[str, MetricInfo] = {
    "recall": MetricInfo("Recall", ACCURACY, "higher", "share of a user's relevant items in the list; mean over users"),
    "precision": MetricInfo("Precision", ACCURACY, "higher", "relevant items in the list, divided by k"),
    "ndcg": MetricInfo("NDCG", ACCURACY, "higher", "rank-discounted gain over the best possible for min(relevant, k)"),
    "map": MetricInfo("MAP", ACCURACY, "higher", "average precision over min(relevant, k)"),
    "hit_rate": MetricInfo(
        "Hit rate", ACCURACY, "higher", "share of users with at least one relevant item in the list"
    ),
    "mrr": MetricInfo("MRR", ACCURACY, "higher", "one over the rank of the first relevant item, 0 without one"),
    "catalogue_coverage": MetricInfo(
        "Catalogue coverage", REACH, "higher", "distinct items recommended to anybody, over the size of the catalogue"
    ),
    "user_coverage": MetricInfo("User coverage", REACH, "higher", "share of users with a full list of k"),
    "gini": MetricInfo(
        "Gini of exposure", REACH, "lower", "0: every item of the catalogue is shown equally often; 1: one item only"
    ),
    "arp": MetricInfo("Average popularity", REACH, None, "mean number of training interactions of the listed items"),
    "ild_category": MetricInfo(
        "Diversity (category space)",
        DIVERSITY,
        "higher",
        "mean distance of two items of a list: 1 where their categories differ",
    ),
    "ild_content": MetricInfo(
        "Diversity (content space)",
        DIVERSITY,
        "higher",
        "mean cosine distance of two items of a list in the space of all content features",
    ),
    "novelty": MetricInfo(
        "Novelty (bits)", NOVELTY, "higher", "mean of -log2(share of training users who had the item)"
    ),
    "epc": MetricInfo(
        "EPC", NOVELTY, "higher", "rank-discounted relevance times (1 - popularity): relevant and not popular"
    ),
    "serendipity": MetricInfo(
        "Serendipity",
        NOVELTY,
        "higher",
        "share of the list that is relevant and that popularity would not have listed",
    ),
    "cold_start_recall": MetricInfo(
        "Recall of cold items", COLD, "higher", "recall of items without any training interaction, in the whole list"
    ),
    "cold_start_recall_among_cold": MetricInfo(
        "Recall among cold items", COLD, "higher", "the same with cold items ranked against cold items only"
    ),
    "mse": MetricInfo("MSE", RATING, "lower", "mean squared error of predicted ratings"),
    "rmse": MetricInfo("RMSE", RATING, "lower", "root of the mean squared error"),
    "mae": MetricInfo("MAE", RATING, "lower", "mean absolute error"),
    "pcc": MetricInfo("PCC", RATING, "higher", "correlation of predicted and given ratings over all test pairs"),
}


def split_name(metric: str) -> tuple[str, int | None]:
    """ "recall@10" as ("recall", 10); a metric without a list length has None."""
    name, at, k = metric.rpartition("@")
    return (name, int(k)) if at and k.isdecimal() else (metric, None)


def info_of(metric: str) -> MetricInfo:
    """What is known of a metric; one that is not known stands under its own name."""
    name, k = split_name(metric)
    known = METRICS.get(name)
    if known is None:
        return MetricInfo(metric, "Other", None, "")
    label = known.label if k is None else f"{known.label} @{k}"
    return MetricInfo(label, known.group, known.better, known.definition)
