"""What lies behind an input's end, or where a value is missing, is never read as data."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from tower_cases import CASES, Case, columns, frames, generator, tokens, video

from mmfed.encoders.trainable.attribute_embed import AttributeEmbedding
from mmfed.encoders.trainable.image_cnn import ImageCnn
from mmfed.encoders.trainable.lora import Tokens
from mmfed.encoders.trainable.masking import Sequences, last_step, mask_of, masked_mean
from mmfed.encoders.trainable.video_pool import VideoPool

BY_NAME = {case.name: case for case in CASES}


def gradients(tower, inputs):
    tower.zero_grad()
    vectors = tower(inputs)
    vectors.square().sum().backward()
    return vectors, [parameter.grad.clone() for parameter in tower.parameters()]


def assert_nothing_changes(tower, inputs, other):
    before, after = gradients(tower, inputs), gradients(tower, other)
    torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["text-cnn", "lstm", "gru", "kept-words", "lora"])
def test_more_padding_changes_no_text(name: str) -> None:
    tower, ids = BY_NAME[name].tower(dtype=torch.float64), tokens(generator(2))
    longer = functional.pad(ids, (0, 5))
    wrap = (lambda value: Tokens(value, value != 0)) if name == "lora" else (lambda value: value)
    assert_nothing_changes(tower, wrap(ids), wrap(longer))


@pytest.mark.parametrize("filler", [7.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["audio-gru", "audio-cnn"])
def test_what_lies_behind_a_recording_changes_nothing(name: str, filler: float) -> None:
    tower, clips = BY_NAME[name].tower(dtype=torch.float64), frames(generator(2))
    outside = torch.arange(13) >= clips.lengths[:, None]
    longer = functional.pad(torch.where(outside[:, :, None], filler, clips.values), (0, 0, 0, 6), value=filler)
    assert_nothing_changes(tower, clips, Sequences(longer, clips.lengths))


@pytest.mark.parametrize("name", ["audio-gru", "audio-cnn"])
def test_every_frame_of_a_recording_counts_and_its_level_does_not(name: str) -> None:
    tower, clips = BY_NAME[name].tower(dtype=torch.float64), frames(generator(2))
    vectors = tower(clips)
    for step in range(int(clips.lengths[-1])):
        changed = clips.values.clone()
        changed[-1, step, 0] += 1.0
        assert (tower(Sequences(changed, clips.lengths))[-1] - vectors[-1]).abs().max() > 1e-6
    louder = tower(Sequences(clips.values * 3 - 40, clips.lengths))
    torch.testing.assert_close(louder, vectors, rtol=1e-3, atol=1e-4)


def test_the_recurrent_audio_network_step_by_step() -> None:
    """One recording after the other, with PyTorch's GRU; the last means are over fewer frames."""
    tower, clips = BY_NAME["audio-gru"].tower(dtype=torch.float64), frames(generator(2))
    layer = torch.nn.GRU(tower.recurrent.weight_ih_l0.shape[1], tower.recurrent.hidden, batch_first=True).double()
    layer.load_state_dict(tower.recurrent.state_dict())
    for row, length in enumerate(clips.lengths.tolist()):
        if length:
            own = clips.values[row, :length].double()
            level = (own - own.mean()) / (own.var(correction=0) + 1e-5).sqrt()
            means = torch.stack([block.mean(0) for block in level.split(4)])
            wanted = tower.project(layer(means[None])[0][0, -1])
            torch.testing.assert_close(tower(clips)[row], wanted, rtol=1e-10, atol=1e-10)


def test_frames_behind_a_clip_change_nothing_and_the_others_are_averaged() -> None:
    tower, clips = VideoPool(6, generator=generator()).double(), video(generator(2))
    outside = torch.arange(3) >= clips.lengths[:, None]
    noisy = torch.where(outside[:, :, None, None, None], 255, clips.values)
    assert_nothing_changes(tower, clips, Sequences(noisy, clips.lengths))
    two = torch.stack([tower.image(clips.values[2:3, step]) for step in range(2)]).mean(0)
    torch.testing.assert_close(tower(clips)[2:3], two)


def test_a_clip_and_its_picture_can_share_a_network() -> None:
    image = ImageCnn(6, generator=generator())
    tower, pictures = VideoPool(6, generator=generator(1), image=image), video(generator(2)).values[:, 0]
    still = tower(Sequences(pictures[:, None], torch.ones(len(pictures), dtype=torch.int64)))
    torch.testing.assert_close(still, image(pictures))


def test_unknown_numbers_are_masked_and_missing_has_a_vector() -> None:
    tower, inputs = BY_NAME["embedding"].tower(dtype=torch.float64), columns(generator(2))
    numbers = torch.where(inputs.known, inputs.numbers, torch.nan)
    assert_nothing_changes(tower, inputs, inputs._replace(numbers=numbers))
    mean = inputs._replace(numbers=torch.zeros_like(inputs.numbers), known=torch.ones_like(inputs.known))
    assert not torch.allclose(tower(mean), tower(mean._replace(known=torch.zeros_like(inputs.known))))
    known = inputs._replace(codes=torch.zeros_like(inputs.codes))
    assert not torch.allclose(tower(known), tower(known._replace(codes=torch.full_like(inputs.codes, -1))))
    untagged = inputs._replace(tags=torch.zeros_like(inputs.tags))
    tower.zero_grad()
    tower(untagged).sum().backward()
    assert tower.tags.weight.grad[:, -1].abs().max() > 0
    assert tower.tags.weight.grad[:, :-1].abs().max() == 0


def test_attributes_without_a_column_are_refused() -> None:
    with pytest.raises(ValueError, match="without a single column"):
        AttributeEmbedding(4, labels=(), generator=generator())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_width_must_be_positive(case: Case) -> None:
    kind = type(case.build(generator()))
    if case.name not in ("lora", "kept-words"):
        with pytest.raises((ValueError, TypeError)):
            kind(0, generator=generator())


def test_means_and_last_steps_of_nothing_are_zero() -> None:
    values, lengths = torch.full((2, 3, 4), torch.nan), torch.tensor([0, 0])
    assert torch.equal(masked_mean(values, torch.zeros(2, 3, dtype=torch.bool)), torch.zeros(2, 4))
    assert torch.equal(last_step(values, lengths), torch.zeros(2, 4))


def test_means_and_last_steps_stop_at_the_length() -> None:
    values, lengths = torch.arange(12.0).reshape(2, 3, 2), torch.tensor([2, 3])
    assert last_step(values, lengths).tolist() == [[2, 3], [10, 11]]
    assert masked_mean(values, mask_of(lengths, 3)).tolist() == [[1, 2], [8, 9]]
