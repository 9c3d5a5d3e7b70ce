"""Frozen audio encoders: log-mel statistics without any weights, or a transformers model by name or folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmfed.data.recordings import UnreadableRecordingError
from mmfed.encoders.encoder import Encoded
from mmfed.encoders.extras import require
from mmfed.encoders.hub import locate_model, model_sha256, silence, unusable_model
from mmfed.encoders.mel import BANDS, HIGHEST, HOP, LOWEST, RANGE, TRANSFORM, WINDOW, log_mel
from mmfed.encoders.parallel import map_blocks
from mmfed.encoders.sound import MAXIMUM_SECONDS, SAMPLE_RATE, read_sound
from mmfed.errors import ExitCode, MmfedError

_VERSION = 1  # changes when the same constants give other statistics
_PIECE_SECONDS = 10  # of a recording in one forward pass: attention grows with the square
_SHORTEST_SECONDS = 0.1  # shorter pieces are padded, since convolutions need a first window
_ABSENT = "the encoder gave no finite numbers"


class AudioEncoder:
    """One vector per recording, from its first 60 seconds.

    "default" needs no weights: mean and deviation over time of every log-mel band, then mean and deviation of the
    band's change per frame (256-d). Any other name is a transformers model (Wav2Vec2, HuBERT, WavLM, AST, ...): the
    average over time of its last layer, recordings longer than 10 seconds in equal pieces.

    Args:
        encoder: "default", a folder, or a name on the Hugging Face hub.
        weights: "default"; a model and its weights are one folder here.
        batch: recordings handed to the workers at a time; it does not change the vectors.

    Raises:
        MmfedError: a package or the model is missing, or ``weights`` is given.
    """

    def __init__(self, encoder: str = "default", weights: str = "default", *, batch: int = 32) -> None:
        if weights != "default":
            raise MmfedError(
                ExitCode.CONFIG,
                f"features.audio.weights: '{weights}': an audio model brings its own weights.",
                "give the model's folder or name as features.audio.encoder, and leave weights at 'default'.",
            )
        require("audio", "soundfile")
        self._batch = batch
        self._folder: Path | None = None
        self._label = f"log-mel-statistics/{_VERSION}"
        if encoder != "default":
            require("audio", "transformers")
            self._folder, self._label = locate_model(encoder, "audio")

    @property
    def name(self) -> str:
        """Model, pooling and the seconds that count, as it stands in the cache record."""
        pieces = "" if self._folder is None else f"/mean-{_PIECE_SECONDS}s"
        return f"{self._label}{pieces}/{MAXIMUM_SECONDS}s"

    @property
    def weights_sha256(self) -> str:
        """Hash over the model's files; for the default over the constants of the log-mel frames."""
        return self._weights_sha256

    @cached_property
    def _weights_sha256(self) -> str:
        if self._folder is not None:
            return model_sha256(self._folder)
        constants = [_VERSION, SAMPLE_RATE, MAXIMUM_SECONDS, WINDOW, HOP, TRANSFORM, BANDS, LOWEST, HIGHEST, RANGE]
        return hashlib.sha256(json.dumps(constants).encode()).hexdigest()

    @cached_property
    def _model(self) -> tuple[Any, Any] | None:
        """Feature extractor and network; None for the default."""
        if self._folder is None:
            return None
        with silence(), torch.random.fork_rng(devices=[]):  # networks are drawn before they are filled
            from transformers import AutoFeatureExtractor, AutoModel

            try:
                extractor = AutoFeatureExtractor.from_pretrained(self._folder, local_files_only=True)
                network = AutoModel.from_pretrained(
                    self._folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
                )
            except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
                raise unusable_model(self._folder, "audio", error) from None
        return extractor, network.eval()

    @cached_property
    def _width(self) -> int:
        if self._folder is None:
            return 4 * BANDS
        return len(self._pooled(np.zeros(_PIECE_SECONDS, dtype=np.float32)))

    def encode(self, inputs: Sequence[Path]) -> Encoded:
        """Vectors of the recordings, [recordings, d] float32; those that cannot be read are absent, with the reason."""
        values = np.zeros((len(inputs), self._width), dtype=np.float32)
        present = np.zeros(len(inputs), dtype=bool)
        faults: dict[int, str] = {}
        work: Callable[[Path], np.ndarray | str] = self._vector_or_reason
        for start in range(0, len(inputs), self._batch):
            found = map_blocks(work, inputs[start : start + self._batch])
            for row, vector in enumerate(found, start=start):
                if isinstance(vector, str):
                    faults[row] = vector
                elif np.isfinite(vector).all():
                    values[row], present[row] = vector, True
                else:
                    faults[row] = _ABSENT
        return Encoded(values, present, faults)

    def _vector_or_reason(self, path: Path) -> np.ndarray | str:
        try:
            if self._model is None:
                return mel_statistics(log_mel(path))
            return self._pooled(read_sound(path, rate=self._rate))
        except UnreadableRecordingError as error:
            return str(error)

    @property
    def _rate(self) -> int:
        """Samples per second the model was trained at."""
        return int(getattr(self._model[0], "sampling_rate", SAMPLE_RATE)) if self._model else SAMPLE_RATE

    def _pooled(self, samples: np.ndarray) -> np.ndarray:
        """Last layer averaged over time, [samples] -> [d]."""
        if self._model is None or self._folder is None:
            raise RuntimeError("only a model pools")
        extractor, network = self._model
        count = max(1, -(-len(samples) // (_PIECE_SECONDS * self._rate)))
        total, frames = 0.0, 0
        for piece in np.array_split(samples, count):
            padded = np.pad(piece, (0, max(0, int(_SHORTEST_SECONDS * self._rate) - len(piece))))
            try:
                batch = extractor(padded, sampling_rate=self._rate, return_tensors="pt")
                with torch.inference_mode():
                    states = network(**batch).last_hidden_state[0]
            except (AttributeError, TypeError, ValueError, RuntimeError) as error:
                raise unusable_model(self._folder, "audio", error) from None
            total, frames = total + states.sum(0).numpy(), frames + len(states)
        return np.asarray(total / frames, dtype=np.float32)


def mel_statistics(frames: np.ndarray) -> np.ndarray:
    """Mean and deviation of every band, and of its change from frame to frame, [frames, bands] -> [4 x bands]."""
    frames = frames.astype(np.float64)
    change = np.diff(frames, axis=0) if len(frames) > 1 else np.zeros((1, frames.shape[1]))
    parts = (frames.mean(0), frames.std(0), change.mean(0), change.std(0))
    return np.concatenate(parts).astype(np.float32)
