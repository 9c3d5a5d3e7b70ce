"""What a run has done so far, kept in its checkpoint so that a kill at any instant loses one round at most."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor

from mmfed.config import Config
from mmfed.errors import ExitCode, MmfedError
from mmfed.federated.checkpoint import load_checkpoint, save_checkpoint
from mmfed.federated.strategy import RoundRecord, RoundState
from mmfed.privacy.keys import load_or_create_key
from mmfed.records import RunFolder, append_line, write_text

LATEST, BEST = "latest.safetensors", "best.safetensors"


class Observer(Protocol):
    """Who watches a run: a simulation (which can see all data), or nobody."""

    def enrolled(self, population: int, rate: float, noise_multiplier: float | None) -> None:
        """The cohort plan, before the first round."""

    def validate(self, round_number: int, parameters: Mapping[str, Tensor]) -> Mapping[str, float] | None:
        """Validation metrics of a model; None where no data may be seen."""

    def round_done(self, record: RoundRecord) -> None:
        """After the round's checkpoint is durable."""


@dataclass
class Progress:
    """What was done so far: rounds, validations, the best model. Lives in the checkpoint."""

    run: RunFolder
    config: Config
    key: Ed25519PrivateKey
    records: list[dict[str, Any]] = field(default_factory=list)
    best_round: int = 0
    best_value: float | None = None
    stopped: bool = False
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def round(self) -> int:
        """The last finished round, 0 before the first."""
        return int(self.records[-1]["round"]) if self.records else 0

    @classmethod
    def load(cls, run: RunFolder, config: Config, key: Ed25519PrivateKey, *, resume: bool) -> Progress:
        """The progress of a run folder; ``metrics.jsonl`` is brought back to what the checkpoint knows."""
        path = run.checkpoints / LATEST
        if not path.exists():
            if run.metrics.exists():
                write_text(run.metrics, "")
            return cls(run, config, key)
        if not resume:
            raise MmfedError(
                ExitCode.STORAGE,
                f"{run.path}: holds a run already (checkpoint of an earlier start).",
                "continue it with --resume, or give the new run another name (--set run.name=NAME).",
            )
        tensors, state = load_checkpoint(path, key)
        progress = cls(run, config, key, **state, tensors=tensors)
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in progress.records)
        if not run.metrics.exists() or run.metrics.read_bytes() != lines.encode("utf-8"):
            write_text(run.metrics, lines)
        return progress

    def keep(self, state: RoundState, observer: Observer | None) -> bool:
        """Validate, checkpoint and report a round; True when training should stop early."""
        number = state.record.round
        section = self.config.evaluation
        due = number % section.every == 0 or number == self.config.planned_rounds
        validation = observer.validate(number, state.parameters) if observer is not None and due else None
        model = {f"model.{name}": value for name, value in state.parameters.items()}
        if validation is not None:
            metric = self.config.validation_metric
            value = -validation[metric] if metric == "mse" else validation[metric]
            if self.best_value is None or value > self.best_value:
                self.best_round, self.best_value = number, value
                save_checkpoint(self.run.checkpoints / BEST, model, {"round": number}, self.key)
            patience = self.config.federation.early_stopping
            self.stopped = patience is not None and number - self.best_round >= patience * section.every
        reported = replace(state.record, validation=validation)
        record = asdict(reported)
        self.records.append(record)
        optimiser = {f"optimiser.{name}": value for name, value in state.optimiser.items()}
        release = {f"release.{name}": value for name, value in state.release.items()}
        summary = {
            "records": self.records,
            "best_round": self.best_round,
            "best_value": self.best_value,
            "stopped": self.stopped,
        }
        save_checkpoint(self.run.checkpoints / LATEST, model | optimiser | release, summary, self.key)
        append_line(self.run.metrics, record)
        if observer is not None:
            observer.round_done(reported)
        return self.stopped


def chosen_model(run: RunFolder, config: Config) -> tuple[dict[str, Tensor], int]:
    """The shared parameters of the run's model and their round, by ``config.selection``.

    Raises:
        MmfedError: there is no checkpoint, or it is damaged.
    """
    best = config.selection == "best-validation" and (run.checkpoints / BEST).exists()
    path = run.checkpoints / (BEST if best else LATEST)
    if not path.exists():
        raise MmfedError(ExitCode.STORAGE, f"{run.path}: no checkpoint in it.", "name the folder of a finished run.")
    tensors, state = load_checkpoint(path, load_or_create_key(run.path / "key.pem"))
    number = int(state["round"]) if best else int(state["records"][-1]["round"])
    return {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}, number


def load_parameters(model: torch.nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Put shared parameters into a model, in place."""
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in parameters.items():
            named[name].copy_(value)
