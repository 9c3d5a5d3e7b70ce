"""The whole configuration, and the rules between its sections."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, model_validator

from mmfed.config.data import DataSection
from mmfed.config.defence import DefenceSection
from mmfed.config.features import FeaturesSection
from mmfed.config.federation import FederationSection, OneShotSection
from mmfed.config.privacy import PrivacySection
from mmfed.config.section import Section
from mmfed.config.training import CentralisedSection, ModelSection, TrainingSection


class RunSection(Section):
    """Name, seed and place of the run."""

    name: str = Field(default="demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="folder name under `folder`")
    folder: Path = Field(default=Path("runs"), description="where run folders are kept")
    seed: int = Field(default=0, ge=0, description="every random draw of a simulation derives from it")
    threads: int = Field(default=0, ge=0, description="CPU threads; 0 takes all")


class EvaluationSection(Section):
    """How quality is measured."""

    k: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(10, 20, 50), min_length=1, description="list lengths")
    every: int = Field(default=5, ge=1, description="rounds between validations")
    users: int | None = Field(
        default=20_000,
        ge=1,
        description="evaluate at most so many users, drawn by a seeded hash and the same in all rounds; none: everyone",
    )
    metric: str = Field(default="ndcg@10", description="the validation metric that chooses the round")
    bootstrap: int = Field(default=1000, ge=0, description="resamples of the 95 % interval")
    protocol: Literal["full", "sampled@99", "paper-compat"] = "full"
    popularity_discount: float = Field(
        default=0.0,
        ge=0,
        description="re-ranking: taken off a score per unit of popularity, both standardised",
    )
    baselines: tuple[str, ...] = ("random", "popularity")


class Config(Section):
    """Everything that decides a run."""

    run: RunSection = RunSection()
    data: DataSection = DataSection()
    features: FeaturesSection = FeaturesSection()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    federation: FederationSection = FederationSection()
    one_shot: OneShotSection = OneShotSection()
    defence: DefenceSection = DefenceSection()
    centralised: CentralisedSection = CentralisedSection()
    privacy: PrivacySection = PrivacySection()
    evaluation: EvaluationSection = EvaluationSection()

    @model_validator(mode="after")
    def _centralised_has_no_privacy(self) -> Config:
        if self.federation.backend == "centralised":
            if self.privacy.mode != "none":
                raise ValueError("federation.backend = 'centralised' trains without privacy: set privacy.mode = 'none'")
            if self.model.private_user_vector:
                raise ValueError("federation.backend = 'centralised' has no devices: no model.private_user_vector")
            if self.one_shot.enabled:
                raise ValueError("federation.backend = 'centralised' has no devices to sum over: no one_shot.enabled")
            if self.features.private_adapters:
                raise ValueError(
                    "federation.backend = 'centralised' has no devices: "
                    f"no features.{self.features.private_adapters[0]}.scope = 'private'"
                )
        return self

    @model_validator(mode="after")
    def _defences_fit_the_privacy_mode(self) -> Config:
        defence, mode = self.defence, self.privacy.mode
        chosen = (
            "defence.row_bound" if defence.aggregation == "mean" else f"defence.aggregation = {defence.aggregation!r}"
        )
        if self.federation.backend == "centralised" and defence != DefenceSection():
            raise ValueError("federation.backend = 'centralised' has no devices to defend against: no [defence]")
        if defence.norm_bound is not None and mode != "none":
            raise ValueError(
                f"defence.norm_bound is for privacy.mode = 'none', not {mode!r}: set privacy.clip_norm, which bounds "
                "one user's update there"
            )
        if defence.single_updates and mode == "user-distributed":
            raise ValueError(
                f"{chosen} reads single updates, and under secure aggregation nobody sees one: leave it out, or set "
                "privacy.mode = 'user-central'"
            )
        if defence.aggregation != "mean" and mode in ("user-central", "user-ftrl"):
            raise ValueError(
                f"{chosen} is not a sum of clipped updates, which is what the noise of privacy.mode = {mode!r} is "
                "sized for: set defence.aggregation = 'mean' (with defence.row_bound), or privacy.mode = 'none'"
            )
        if defence.row_bound is not None and mode in ("user-local", "record"):
            raise ValueError(
                f"defence.row_bound bounds nothing in privacy.mode = {mode!r}, where every device adds noise to every "
                "row: leave it out"
            )
        if defence.alarm_rise is not None and (self.training.objective == "mse" or self.model.history == 0):
            raise ValueError(
                "defence.alarm_rise watches lists made from histories: set training.objective to a ranking one and "
                "model.history above 0, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _learned_graph_needs_the_one_shot_round(self) -> Config:
        if self.model.name == "gcn" and self.model.graph != "content" and not self.one_shot.enabled:
            raise ValueError(f"model.graph = {self.model.graph!r} needs one_shot.enabled = true")
        return self

    @model_validator(mode="after")
    def _no_round_needs_the_one_shot_release(self) -> Config:
        if self.federation.rounds == 0 and not self.one_shot.enabled and self.federation.backend != "centralised":
            raise ValueError("federation.rounds = 0 learns nothing: set one_shot.enabled = true, or have a round")
        return self

    @model_validator(mode="after")
    def _record_mode_counts_noisy_steps(self) -> Config:
        if self.privacy.mode == "record" and (self.training.epochs is not None or self.training.optimiser != "sgd"):
            raise ValueError(
                "privacy.mode = 'record' takes training.steps noisy steps of SGD: leave out training.epochs, and set "
                "training.optimiser = 'sgd'"
            )
        return self

    @model_validator(mode="after")
    def _a_user_is_something(self) -> Config:
        if self.model.history == 0:
            if not self.model.private_user_vector:
                raise ValueError("model.history = 0 leaves nothing of a user: set model.private_user_vector = true")
            if self.privacy.mode == "record":
                raise ValueError("model.history = 0: privacy.mode = 'record' trains no private vector")
            if self.features.private_adapters or self.training.objective == "mse":
                raise ValueError("model.history = 0: private adapters and ratings (mse) read the history")
        return self

    @model_validator(mode="after")
    def _a_permuted_control_has_no_raw_inputs(self) -> Config:
        trained = [name for name in self.features.modalities if getattr(self.features, name).training == "full"]
        if self.features.permuted and (trained or self.features.text.network == "lora"):
            raise ValueError("features.permuted permutes frozen features only: train no modality from raw inputs")
        return self

    @property
    def planned_rounds(self) -> int:
        """Rounds of a federated run, epochs of a centralised one."""
        return self.centralised.epochs if self.federation.backend == "centralised" else self.federation.rounds

    @property
    def validation_metric(self) -> str:
        """What chooses the round; for ratings the (lowest) mean squared error."""
        return "mse" if self.training.objective == "mse" else self.evaluation.metric

    @property
    def selection(self) -> Literal["last", "best-validation"]:
        """Which round becomes the model."""
        chosen = self.federation.selection
        if self.model.private_user_vector or self.features.private_adapters:
            return "last"  # devices keep the latest private state only, not that of an earlier round
        return chosen or ("best-validation" if self.privacy.mode == "none" else "last")

    def to_toml(self) -> str:
        """The whole tree as TOML, None written as "none"; ``load_config`` reads it back equal."""
        return tomli_w.dumps(_none_to_name(json.loads(self.model_dump_json())))

    def to_flat(self) -> dict[str, str]:
        """For Flower's run config, which takes scalars only: one JSON string (``from_flat`` reads it back)."""
        return {"config": self.model_dump_json()}

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any]) -> Config:
        """Inverse of ``to_flat``."""
        return cls.model_validate_json(str(flat["config"]))


def _none_to_name(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _none_to_name(value) for key, value in tree.items()}
    return "none" if tree is None else tree
