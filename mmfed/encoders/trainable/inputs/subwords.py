"""Texts as the tokens of a transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mmfed.encoders.extras import require
from mmfed.encoders.trainable.inputs.raw import RawInputs
from mmfed.encoders.trainable.lora import Tokens


def subword_ids(texts: Sequence[str | None], folder: Path, *, longest: int = 64) -> RawInputs[Tokens]:
    """Tokens of the texts by the model's own tokenizer, [items, tokens], at most ``longest`` with its marks of
    beginning and end; empty texts are absent.

    Raises:
        MmfedError: transformers is missing, or the folder holds no tokenizer.
    """
    require("text", "transformers")
    from mmfed.encoders.hub import silence, unusable_model

    with silence():
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise unusable_model(folder, "text", error) from None
        plain = [(text or "").encode("utf-8", "replace").decode().strip() for text in texts]
        rows: list[list[int]] = tokenizer(plain, truncation=True, max_length=longest)["input_ids"] if plain else []
    rows = [row if text else [] for row, text in zip(rows, plain, strict=True)]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    width = max(1, max((len(row) for row in rows), default=1))
    ids = torch.full((len(rows), width), tokenizer.pad_token_id or 0, dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
    mask = torch.arange(width) < lengths[:, None]
    faults = {row: "no word in it" for row, text in enumerate(texts) if text is not None and not lengths[row]}
    return RawInputs(Tokens(ids, mask), (lengths > 0).numpy(), faults)
