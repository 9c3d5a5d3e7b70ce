"""The recommender, and how it is trained on a device or where all data lie in one place."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmfed.config.section import Section


class ModelSection(Section):
    """The recommender."""

    name: str = "dfmf"
    dimensions: int = Field(default=64, ge=1, description="width of user states and item vectors")
    fusion: str = Field(
        default="default", description="concat, gated, attention, product or late; 'default' takes the model's own"
    )
    item_ids: bool = Field(
        default=True, description="item-id residual on top of content, for items known at training time"
    )
    private_user_vector: bool = Field(
        default=False, description="a trained vector per user that never leaves the device"
    )
    decays: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(0.5, 0.8, 0.95, 1.0), min_length=1, description="recency decays of the user state, each in (0, 1]"
    )
    history: int = Field(
        default=200,
        ge=0,
        description="events of a history that count, the latest ones; 0: the user is the private vector alone",
    )
    content_scale: float = Field(default=0.3, gt=0, description="content features are multiplied by this")
    bias_scale: float = Field(
        default=1.0, gt=0, description="weight of item biases in a step; about 10 lets popularity through the noise"
    )
    hidden: int = Field(default=128, ge=1, description="dfmf: width of the deep fusion's hidden layer")
    layers: int = Field(default=2, ge=0, description="gcn: graph convolutions over the item-item graph")
    neighbours: int = Field(default=10, ge=1, description="gcn: nearest items of every item in its graph")
    graph: Literal["content", "learned", "both"] = Field(
        default="content", description="gcn: nearest items by content, by the one-shot co-occurrence, or both"
    )
    similarity: Literal["dot", "cosine"] = Field(
        default="dot", description="how a state meets an item; cosine is divided by `temperature`"
    )
    temperature: float = Field(default=0.15, gt=0, description="cosine similarity only")


class TrainingSection(Section):
    """What a device does in a round."""

    objective: Literal["default", "softmax", "sampled-softmax", "bpr", "bce", "mse"] = Field(
        default="default", description="rank the next item, or (mse) predict its rating; 'default' is the model's own"
    )
    context: Literal["past", "others"] = Field(
        default="past",
        description="a target is told from the events before it, or (where order is not time) from all others",
    )
    positions: int = Field(default=30, ge=1, description="positions of a history used as targets in one pass")
    negatives: int = Field(default=64, ge=1, description="sampled negatives per position (all objectives but softmax)")
    steps: int = Field(default=1, ge=1, description="local gradient steps a round, each on positions drawn at random")
    epochs: int | None = Field(
        default=None, ge=1, description="instead of steps: passes over the own history in batches of 'positions'"
    )
    optimiser: Literal["sgd", "momentum", "adam"] = Field(
        default="sgd",
        description="local optimiser; its state lives for one round (momentum .9; Adam .9, .999, floor 1e-5)",
    )
    learning_rate: float = Field(default=1.0, gt=0, description="local step size")
    negative_sampling: Literal["uniform", "popularity", "hard"] = Field(
        default="uniform",
        description="sampled negatives: uniform, by the model's own item biases, or the best-scored of 4 times as many",
    )
    history_dropout: float = Field(default=0.2, ge=0, lt=1)
    modality_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of (item, modality) pairs hidden in a step; ids count as one"
    )
    auxiliary_weight: float = Field(
        default=0.1, ge=0, description="weight of public tasks (category, price band); taken by the coordinator"
    )
    pretraining: int | None = Field(
        default=None,
        ge=0,
        description="steps of pre-training on the public catalogue; none: 300 under privacy, 0 without",
    )
    action_weight: float = Field(
        default=0.1, ge=0, description="mmfnet: weight of predicting the next action (view, cart, buy), on the device"
    )
    rating_range: tuple[float, float] = Field(
        default=(1.0, 5.0), description="mse: lowest and highest rating there is (public)"
    )
    private_learning_rate: float = Field(
        default=0.1, gt=0, description="step size of the private user vector and adapters"
    )
    engine: Literal["cohort", "reference"] = "cohort"


class CentralisedSection(Section):
    """The same model trained where all data lie in one place: what federation is compared with."""

    epochs: int = Field(default=30, ge=1)
    batch: int = Field(default=64, ge=1, description="users in a step")
    learning_rate: float = Field(default=0.003, gt=0, le=1e30, description="of Adam")
    weight_decay: float = Field(default=1e-4, ge=0, description="L2, in Adam's gradient")
