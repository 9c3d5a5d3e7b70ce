"""Configuration: one model tree, TOML on disk, ``--set key=value`` on top."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmfed.errors import ExitCode, MmfedError
from mmfed.person_attributes import PersonAttributes
from mmfed.scenario_file import read_scenario

PrivacyMode = Literal["none", "user-central", "user-distributed", "user-local", "user-ftrl", "record"]
ModalityName = Literal["image", "text", "attributes", "audio", "video"]
Precision = Literal["float32", "float16", "int8"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _none_by_name(cls, tree: Any) -> Any:
        """TOML has no null: "none" stands for it wherever None is allowed."""
        if not isinstance(tree, dict):
            return tree
        return {key: None if value == "none" and _optional(cls, key) else value for key, value in tree.items()}


class RunSection(_Section):
    """Name, seed and place of the run."""

    name: str = Field(default="demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="folder name under `folder`")
    folder: Path = Field(default=Path("runs"), description="where run folders are kept")
    seed: int = Field(default=0, ge=0, description="every random draw of a simulation derives from it")
    threads: int = Field(default=0, ge=0, description="CPU threads; 0 takes all")


class SplitSection(_Section):
    """How a person's history is cut in time."""

    kind: Literal["leave-last-out", "ratio", "global-time", "given"] = "leave-last-out"
    validation: float = Field(
        default=0.1, ge=0, lt=1, description="share of a history (ratio) or of the time span (global-time)"
    )
    test: float = Field(
        default=0.1, gt=0, lt=1, description="share of a history (ratio) or of the time span (global-time)"
    )
    minimum_history: int = Field(default=3, ge=1, description="users with fewer interactions are kept in training only")
    cold_items: float = Field(
        default=0.0, ge=0, lt=1, description="share of items held out wholly, as if they came after training"
    )
    new_users: float = Field(
        default=0.0, ge=0, lt=1, description="share of users held out wholly, as if they came after training"
    )
    fold: int = Field(default=0, ge=0, description="which of the disjoint shares of items and users is held out")

    @model_validator(mode="after")
    def _fold_exists(self) -> SplitSection:
        share = max(self.cold_items, self.new_users)
        if (self.fold + 1) * share > 1 + 1e-9:
            raise ValueError(f"fold {self.fold} does not exist: shares of {share:g} give {int(1 / share + 1e-9)} folds")
        return self


class DataSection(_Section):
    """Which shop, and how it is read."""

    source: Literal["demo", "table", "movielens", "mmrec"] = "demo"
    path: Path | None = Field(default=None, description="folder of the shop; the demo shop needs none")
    minimum_value: float | None = Field(default=None, description="drop ratings below this value; none keeps all")
    repeats: Literal["first", "last", "all"] = Field(
        default="first", description="which of a user's repeated items stay"
    )
    users: int | None = Field(
        default=None, ge=1, description="demo shop: number of simulated shoppers; elsewhere: keep only the first"
    )
    seed: int = Field(
        default=0, ge=0, description="demo shop: of the simulated shoppers, apart from the run's own seed"
    )
    own_content: bool = Field(
        default=True, description="table: read people's own queries, reviews and photos, where the folder has the file"
    )
    on_disk: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="table: keep interactions as memory-mapped files in the cache folder instead of in memory; auto: "
        "from 2 million rows (Parquet) or 100 MB (CSV)",
    )
    people: PersonAttributes = Field(
        default=(),
        description="what people may say of themselves: by attribute where its bands begin, or its categories",
    )
    split: SplitSection = SplitSection()


class EncoderSection(_Section):
    """Encoder of one modality: frozen, adapted, or trained from raw inputs."""

    encoder: str = Field(
        default="default", description="'default', a torchvision/transformers model name, a folder, or 'none'"
    )
    weights: str = Field(default="default", description="'default', a torchvision weights name, or a file")
    dimensions: int | None = Field(
        default=64, ge=1, description="PCA to this many dimensions; none keeps the encoder's own"
    )
    whiten: bool = Field(default=True, description="unit variance of every kept direction")
    training: Literal["frozen", "adapter", "full"] = Field(
        default="frozen",
        description="frozen features, an adapter trained behind them, or a network trained from raw inputs",
    )
    scope: Literal["shared", "private"] = Field(
        default="shared", description="shared weights are aggregated; a private adapter never leaves the device"
    )
    network: str = Field(
        default="default",
        description="what is trained (full: cnn, text-cnn, lstm, gru, audio-gru, audio-cnn, frame-pooling, embedding; "
        "adapter: bottleneck, linear, lora); 'default' takes the first that fits",
    )

    @model_validator(mode="after")
    def _what_can_be_trained(self) -> EncoderSection:
        if self.training == "full" and self.scope == "private":
            raise ValueError(
                "a private full network would be trained from one person's few interactions: set training = 'adapter', "
                "or scope = 'shared'"
            )
        if self.training == "frozen" and (self.scope != "shared" or self.network != "default"):
            raise ValueError("scope and network belong to trained encoders: set training = 'adapter' or 'full'")
        if self.scope == "private" and self.network not in ("default", "linear"):
            raise ValueError(f"a private adapter is linear, not {self.network!r}: leave network at 'default'")
        return self


class TextSection(EncoderSection):
    """Encoder of titles and descriptions."""

    vectors: Path | None = Field(
        default=None, description="full: Word2Vec or GloVe file with start values of the words; every party needs it"
    )
    train_words: bool = Field(default=True, description="full: whether word vectors are trained and sent")

    @model_validator(mode="after")
    def _vectors_are_of_a_full_network(self) -> TextSection:
        if self.vectors is not None and self.training != "full":
            raise ValueError("vectors are start values of a network over words: set training = 'full'")
        return self


class AttributesSection(EncoderSection):
    """Encoder of the attribute columns, whose own width is small and already on one scale."""

    dimensions: int | None = Field(
        default=None, ge=1, description="PCA to this many dimensions; none keeps the encoder's own"
    )
    whiten: bool = Field(default=False, description="unit variance of every kept direction")


class FeaturesSection(_Section):
    """Features of the public catalogue."""

    modalities: tuple[ModalityName, ...] = ("image", "text", "attributes")
    cache: Path | None = Field(default=None, description="feature cache folder; none takes the user's cache folder")
    batch: int = Field(default=32, ge=1, description="pictures or texts at a time")
    precision: Precision = Field(
        default="float32",
        description="reduced features are rounded to this, so that they can be kept and sent in 2 bytes or 1 a number",
    )
    permuted: bool = Field(
        default=False, description="a control: every item gets another one's features, so content can say nothing"
    )
    image: EncoderSection = EncoderSection()
    text: TextSection = TextSection()
    attributes: AttributesSection = AttributesSection()
    audio: EncoderSection = EncoderSection()
    video: EncoderSection = EncoderSection()

    @property
    def private_adapters(self) -> tuple[ModalityName, ...]:
        """Modalities with an adapter per user."""
        return tuple(name for name in dict.fromkeys(self.modalities) if getattr(self, name).scope == "private")


class ModelSection(_Section):
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


class TrainingSection(_Section):
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
        description="local optimiser; its state lives for one round (momentum .9; Adam .9, .999, floor 1e-6)",
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


class ServerOptimiserSection(_Section):
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


class FederationSection(_Section):
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


class OneShotSection(_Section):
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
        default=0.5, gt=0, le=1, description="user-central: part of privacy.epsilon; all of it where no round follows"
    )
    popularity_share: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="user-central: popularity's part of the one-shot budget, 1 for popularity alone; none: by the "
        "number of users and epsilon",
    )
    items: int | None = Field(
        default=None,
        ge=1,
        description="user-central: co-occurrence of so many most popular items (by the released counts); none: 700",
    )
    denoising: Literal["spectrum", "threshold"] = Field(
        default="spectrum", description="what is kept of the noised co-occurrence; threshold: for short histories"
    )


class CentralisedSection(_Section):
    """The same model trained where all data lie in one place: what federation is compared with."""

    epochs: int = Field(default=30, ge=1)
    batch: int = Field(default=64, ge=1, description="users in a step")
    learning_rate: float = Field(default=0.003, gt=0, le=1e30, description="of Adam")
    weight_decay: float = Field(default=1e-4, ge=0, description="L2, in Adam's gradient")


class LinesSection(_Section):
    """Bounds on ε by budget line, besides the target on all of them together."""

    model: float | None = Field(default=None, gt=0, description="releases of the shared model")
    metrics: float | None = Field(default=None, gt=0, description="figures of quality taken from devices")
    statistics: float | None = Field(default=None, gt=0, description="quantiles, popularity and the like")
    tuning: float | None = Field(default=None, gt=0, description="choices made from private figures")


class PrivacySection(_Section):
    """What is promised, to whom, and the noise that keeps it (PRIVACY table in docs/privacy.md)."""

    mode: PrivacyMode = "user-central"
    epsilon: float | None = Field(default=8.0, gt=0, description="target; the noise multiplier is planned from it")
    noise_multiplier: float | None = Field(default=None, gt=0, description="given instead of epsilon")
    delta: float | None = Field(
        default=None, gt=0, lt=1, description="none: population ** -1.1 (record mode: records ** -1.1)"
    )
    clip_norm: float = Field(
        default=0.15, gt=0, description="bound on the L2 norm of one user's (record mode: one window's) update"
    )
    clipping: Literal["fixed", "adaptive"] = Field(
        default="fixed",
        description="user-central: adaptive moves the clip norm towards a quantile of the users' norms, round by "
        "round; the noised quantile is paid for (statistics line)",
    )
    clip_quantile: float = Field(
        default=0.5, gt=0, lt=1, description="adaptive clipping: share of users whose update is not to be clipped"
    )
    clip_rate: float = Field(default=0.2, gt=0, le=2, description="adaptive clipping: how fast the clip norm moves")
    quantile_noise: float | None = Field(
        default=None,
        gt=0,
        description="adaptive clipping: standard deviation of the noise on the number of users within the clip norm; "
        "none: a twentieth of the planned cohort, at least the noise multiplier",
    )
    task_clip_norm: float | None = Field(
        default=None,
        gt=0,
        description="user-central, models with several tasks on the device: bound on each task's part of a local step, "
        "so that none crowds out the others; the joint bound stays clip_norm",
    )
    local_noise: Literal["gaussian", "laplace"] = Field(
        default="gaussian", description="user-local: the device's noise; laplace clips in L1 instead of L2"
    )
    participations: int | None = Field(
        default=None,
        ge=1,
        description="user-local, record, user-ftrl: rounds one device may join, enforced on the device; none: so many "
        "that 99.9 % of the devices are never refused (user-ftrl: as the minimum separation allows)",
    )
    minimum_separation: int = Field(
        default=10, ge=1, description="user-ftrl: rounds from one participation of a user to the next, at least"
    )
    bands: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="user-ftrl: bands of the noise's factor, at most minimum_separation; none: as many, up to 256. The "
        "coordinator keeps a past row of noise in memory for each",
    )
    window: int = Field(default=10, ge=1, description="record mode: most interactions in one window")
    window_days: float = Field(default=7.0, gt=0, description="record mode: calendar span of a window")
    record_batch: int = Field(default=4, ge=1, description="record mode: public divisor of a device's summed gradients")
    record_sample_rate: float = Field(
        default=0.5, gt=0, le=1, description="record mode: Poisson rate of windows on the device"
    )
    lines: LinesSection = LinesSection()
    minimum_survivors: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="user-distributed: least share of a cohort in a sum; its noise is sized for it",
    )
    masks: Literal["always", "skipped"] = Field(
        default="always", description="user-distributed: secure aggregation; skipped: same integers, simulations only"
    )
    noise_source: Literal["seeded", "csprng"] = Field(
        default="seeded", description="seeded noise protects nobody: simulation only"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> PrivacySection:
        if self.mode != "none" and self.epsilon is None and self.noise_multiplier is None:
            raise ValueError("set privacy.epsilon or privacy.noise_multiplier")
        if self.mode == "user-ftrl" and self.bands is not None and self.bands > self.minimum_separation:
            raise ValueError("bands above minimum_separation void the sensitivity: lower privacy.bands")
        if self.clipping == "adaptive" and self.mode != "user-central":
            raise ValueError("clipping = 'adaptive' belongs to user-central: set mode = 'user-central', or 'fixed'")
        if self.task_clip_norm is not None and self.mode != "user-central":
            raise ValueError("task_clip_norm belongs to user-central: set mode = 'user-central', or leave it out")
        return self


class EvaluationSection(_Section):
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


class Config(_Section):
    """Everything that decides a run."""

    run: RunSection = RunSection()
    data: DataSection = DataSection()
    features: FeaturesSection = FeaturesSection()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    federation: FederationSection = FederationSection()
    one_shot: OneShotSection = OneShotSection()
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


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a scenario file and apply ``key=value`` overrides.

    Raises:
        MmfedError: unreadable file, bad TOML, unknown key (named with the nearest known one), wrong type or range.
    """
    tree = {} if path is None else read_scenario(path)
    for study in ("compare", "cold_start", "modalities"):
        tree.pop(study, None)
    return build_config(tree, overrides, where="configuration" if path is None else str(path))


def build_config(tree: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "configuration") -> Config:
    """Validate a plain tree with ``key=value`` overrides on top.

    Raises:
        MmfedError: names the key, what is wrong with it and the nearest known key.
    """
    merged = json.loads(json.dumps(tree, default=str))
    for override in overrides:
        _apply_override(merged, override)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, where) from None


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> dict[str, Any]:
    """Every dotted key with its field info, in the order of the tree."""
    keys: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys.update(known_keys(section, f"{prefix}{name}."))
        else:
            keys[prefix + name] = info
    return keys


def _optional(section: type[BaseModel], key: str) -> bool:
    field = section.model_fields.get(key)
    return field is not None and type(None) in get_args(field.annotation)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise MmfedError(
            ExitCode.CONFIG, f"--set {override}: not of the form key=value.", "write e.g. --set federation.rounds=20."
        )
    try:
        value = tomllib.loads(f"v = {text.strip()}")["v"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *sections, last = key.split(".")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise MmfedError(
                ExitCode.CONFIG, f"--set {key}: {section} is a value, not a section.", f"use {_nearest(key)}."
            )
    node[last] = value


def _explain(error: ValidationError, where: str) -> MmfedError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" ({error.error_count() - 1} more after this one)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return MmfedError(ExitCode.CONFIG, f"{where}: unknown key {key}{more}.", f"did you mean {_nearest(key)}?")
    info = known_keys().get(key)
    about = f" ({info.description})" if info is not None and info.description else ""
    given = first.get("input")
    shown = f" = {given!r}" if not isinstance(given, dict) else ""
    says = first["msg"].removeprefix("Value error, ")
    if not key:  # keys that do not go together: the rule says what, then the mend
        wrong, _, mend = says.partition(": ")
        return MmfedError(ExitCode.CONFIG, f"{where}: {wrong}{more}.", f"{mend or 'change one of these keys'}.")
    return MmfedError(ExitCode.CONFIG, f"{where}: {key}{shown}: {says}{more}.", f"change {key}{about}.")


def _nearest(key: str) -> str:
    known = list(known_keys())
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.3)
    last = key.split(".")[-1]
    by_name = [k for k in known if k.split(".")[-1] == last] or close or known[:1]
    return by_name[0]


def _none_to_name(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _none_to_name(value) for key, value in tree.items()}
    return "none" if tree is None else tree
