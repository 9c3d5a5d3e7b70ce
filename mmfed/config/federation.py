"""What the coordinator does: rounds, its optimiser, and the one-shot sum before the first round."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmfed.config.section import Section


class ServerOptimiserSection(Section):
    """How the coordinator applies the aggregated update (Reddi et al. 2021)."""

    name: Literal["fedavg", "fedadam", "fedadagrad"] = "fedadam"
    learning_rate: float = Field(default=0.02, gt=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    epsilon: float = Field(default=1e-6, gt=0, description="Adam/Adagrad denominator floor")
    weight_decay: float = Field(
        default=0.0, ge=0, description="decoupled, applied by the coordinator to shared parameters"
    )
    global_second_moment: bool | None = Field(
        default=None, description="one second moment for the whole model; none: only under noise"
    )


class FederationSection(Section):
    """Who takes part in a round and how updates become a model."""

    rounds: int = Field(default=75, ge=0, description="0 with one_shot.enabled: nothing but the one-shot release")
    cohort: int | None = Field(default=None, ge=1, description="planned users per round; none means everyone")
    backend: Literal["inprocess", "ray", "centralised"] = Field(
        default="inprocess", description="where devices are simulated; centralised pools all data and federates nothing"
    )
    nodes: int = Field(default=1, ge=1, description="how many nodes the users are spread over in a simulation")
    workers: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="inprocess: processes that share a round's users, the same result for any number; "
        "none: one per core where that pays for their start",
    )
    ray_address: str | None = Field(
        default=None, min_length=1, description="ray: HOST:PORT of a running cluster; none starts Ray on this machine"
    )
    round_timeout: float = Field(default=600.0, gt=0, description="seconds to wait for a node")
    minimum_nodes: int = Field(default=1, ge=1, description="nodes that must be connected before training starts")
    early_stopping: int | None = Field(
        default=None, ge=1, description="stop after this many evaluations without a better one"
    )
    selection: Literal["last", "best-validation"] | None = Field(
        default=None, description="which round becomes the model; none: best-validation without privacy, last with it"
    )
    server_optimiser: ServerOptimiserSection = ServerOptimiserSection()


class OneShotSection(Section):
    """One federated sum before the first round: every device's banded item co-occurrence, of norm 1."""

    enabled: bool = Field(default=False, description="ask every device once for its item co-occurrence")
    decay: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="weight of a pair of items per event between them; none: 0.9, and 0.95 under noise",
    )
    ridge: float | None = Field(
        default=None, gt=0, description="band-EASE: regularisation, in users; none: 2, and 10 under noise"
    )
    history_decay: float = Field(default=0.9, gt=0, le=1, description="band-EASE: weight of an event per later event")
    ensemble: float | None = Field(
        default=None,
        ge=0,
        description="weight of band-EASE beside the model; none chooses it on validation, or takes 4 under noise",
    )
    teacher_steps: int = Field(
        default=0, ge=0, description="steps in which band-EASE teaches the model before the first round"
    )
    epsilon_share: float = Field(
        default=0.5, gt=0, le=1, description="under noise: part of privacy.epsilon; all of it where no round follows"
    )
    popularity_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="under noise: popularity's part of the one-shot budget, 1 for popularity alone; none: by the "
        "number of users and epsilon",
    )
    items: int | None = Field(
        default=None,
        ge=1,
        description="under noise: co-occurrence of so many most popular items (by the released counts); none: 700",
    )
    denoising: Literal["spectrum", "threshold"] = Field(
        default="spectrum", description="what is kept of the noised co-occurrence; threshold: for short histories"
    )
