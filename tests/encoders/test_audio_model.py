"""Audio models from transformers, loaded from a folder as from the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from mmfed.encoders.audio import AudioEncoder
from mmfed.encoders.sound import SAMPLE_RATE, read_sound
from mmfed.errors import ExitCode, MmfedError


def tone(hertz: float, seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return 0.5 * np.sin(2 * np.pi * hertz * time * (1 + 0.1 * time))


def write(path: Path, samples: np.ndarray) -> Path:
    soundfile.write(path, samples, SAMPLE_RATE)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models with random weights, saved as the hub has them."""
    from transformers import (
        ASTConfig,
        ASTFeatureExtractor,
        ASTModel,
        HubertConfig,
        HubertModel,
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2Model,
    )

    folder = tmp_path_factory.mktemp("models")
    small: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    wave: dict[str, Any] = {**small, "conv_dim": (8, 8), "conv_stride": (10, 16), "conv_kernel": (20, 16)}
    wave |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE, do_normalize=True)
    slow_extractor = Wav2Vec2FeatureExtractor(sampling_rate=8_000, do_normalize=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = {
            "wav2vec2": (Wav2Vec2Model(Wav2Vec2Config(**wave)), extractor),
            "hubert": (HubertModel(HubertConfig(**wave)), extractor),
            "at 8 kHz": (Wav2Vec2Model(Wav2Vec2Config(**wave)), slow_extractor),
            "ast": (
                ASTModel(ASTConfig(**small, max_length=128, num_mel_bins=32)),
                ASTFeatureExtractor(num_mel_bins=32, max_length=128),
            ),
        }
    for name, (network, preparation) in made.items():
        network.save_pretrained(folder / name)
        preparation.save_pretrained(folder / name)
    return {name: folder / name for name in made}


def by_hand(folder: Path, pieces: list[np.ndarray], rate: int) -> np.ndarray:
    from transformers import AutoFeatureExtractor, AutoModel

    extractor, network = AutoFeatureExtractor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = [
            network(**extractor(piece, sampling_rate=rate, return_tensors="pt")).last_hidden_state[0]
            for piece in pieces
        ]
    return torch.cat(states).mean(0).numpy()


@pytest.mark.parametrize(
    ("name", "rate"), [("wav2vec2", 16_000), ("hubert", 16_000), ("at 8 kHz", 8_000), ("ast", 16_000)]
)
def test_a_model_is_averaged_over_time(models: dict[str, Path], name: str, rate: int, tmp_path: Path) -> None:
    encoder = AudioEncoder(str(models[name]))
    short = write(tmp_path / "short.wav", tone(700, 0.5))
    long = write(tmp_path / "long.wav", tone(300, 12))
    encoded = encoder.encode([short, tmp_path / "gone.wav", long])
    np.testing.assert_array_equal(encoded.present, [True, False, True])
    assert encoded.values.shape == (3, 16)
    np.testing.assert_allclose(
        encoded.values[0], by_hand(models[name], [read_sound(short, rate=rate)], rate), atol=1e-5
    )
    halves = np.split(read_sound(long, rate=rate), 2)
    np.testing.assert_allclose(encoded.values[2], by_hand(models[name], halves, rate), atol=1e-5)


def test_a_click_is_long_enough_for_a_model(models: dict[str, Path], tmp_path: Path) -> None:
    path = write(tmp_path / "click.wav", np.array([0.1, -0.5, 0.2]))
    assert AudioEncoder(str(models["wav2vec2"])).encode([path]).present[0]


def test_names_and_hashes_tell_encoders_apart(models: dict[str, Path]) -> None:
    encoders = [AudioEncoder(), *(AudioEncoder(str(folder)) for folder in models.values())]
    assert len({encoder.name for encoder in encoders}) == len(encoders)
    assert len({encoder.weights_sha256 for encoder in encoders}) == len(encoders)
    assert AudioEncoder().name == "log-mel-statistics/1/60s"
    assert AudioEncoder().weights_sha256 == AudioEncoder().weights_sha256


def test_global_random_stream_is_left_alone(models: dict[str, Path], tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(700, 0.2))
    before = torch.random.get_rng_state()
    AudioEncoder(str(models["hubert"])).encode([path])
    AudioEncoder().encode([path])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("damage", ["no folder content", "no weights", "no extractor", "pickle only", "a text model"])
def test_folders_that_are_no_audio_model(models: dict[str, Path], damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    keep = {
        "no folder content": [],
        "no weights": ["config.json", "preprocessor_config.json"],
        "no extractor": ["config.json", "model.safetensors"],
        "pickle only": ["config.json", "preprocessor_config.json"],
        "a text model": ["preprocessor_config.json"],
    }[damage]
    for name in keep:
        (folder / name).write_bytes((models["wav2vec2"] / name).read_bytes())
    if damage == "pickle only":
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    if damage == "a text model":
        from transformers import BertConfig, BertModel

        BertModel(
            BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
        ).save_pretrained(folder)
    with pytest.raises(MmfedError, match="not a usable audio model") as caught:
        AudioEncoder(str(folder)).encode([write(tmp_path / "a.wav", tone(700, 0.2))])
    assert caught.value.code == ExitCode.FEATURES
    assert "\n" not in caught.value.message


def test_no_internet_is_a_fault_with_a_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(
        MmfedError, match=r"features\.audio\.encoder: 'someone/a-model'.*cannot be downloaded"
    ) as caught:
        AudioEncoder("someone/a-model")
    assert caught.value.code == ExitCode.FEATURES
