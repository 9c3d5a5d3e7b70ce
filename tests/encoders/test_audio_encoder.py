from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from mmfed.config import EncoderSection, FeaturesSection
from mmfed.data.recordings import UnreadableRecordingError
from mmfed.data.schema import Catalogue, Features
from mmfed.encoders.audio import AudioEncoder, mel_statistics
from mmfed.encoders.encoder import Encoded
from mmfed.encoders.mel import BANDS, HIGHEST, HOP, LOWEST, TRANSFORM, WINDOW, log_mel, mel_filters, mel_frames
from mmfed.encoders.sound import SAMPLE_RATE, read_sound
from mmfed.encoders.store import catalogue_features
from mmfed.errors import ExitCode, MmfedError

FORMANTS = {"a": (800, 1200, 2600), "i": (280, 2300, 3000), "u": (320, 800, 2300)}
MP3 = "MP3" in soundfile.available_formats()


def vowel(name: str, pitch: float, *, seconds: float = 1.0, rate: int = SAMPLE_RATE, seed: int = 0) -> np.ndarray:
    """Harmonics of a voice below 3.8 kHz, louder near the vowel's formants, syllables four times a second."""
    time = np.arange(int(seconds * rate)) / rate
    generator = np.random.default_rng(seed)
    sound = np.zeros(len(time))
    for harmonic in np.arange(pitch, 3800, pitch):
        loudness = sum(1 / (1 + ((harmonic - formant) / 90) ** 2) for formant in FORMANTS[name])
        sound += loudness * np.sin(2 * np.pi * (harmonic * time + generator.random()))
    sound *= 0.6 + 0.4 * np.sin(2 * np.pi * 4 * time)
    return 0.4 * sound / np.abs(sound).max()


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    return AudioEncoder()


def write(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE, **options: Any) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def one(encoder: AudioEncoder, path: Path) -> np.ndarray:
    encoded = encoder.encode([path])
    assert encoded.present[0], encoded.faults
    return encoded.values[0]


def test_filters_and_frames_equal_a_second_implementation(tmp_path: Path) -> None:
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    bins = TRANSFORM // 2 + 1
    filters = mel_filter_bank(bins, BANDS, LOWEST, HIGHEST, SAMPLE_RATE, norm=None, mel_scale="htk")
    np.testing.assert_allclose(mel_filters(), filters.T, atol=1e-9)
    assert (mel_filters().max(axis=1) > 0).all()
    samples = read_sound(write(tmp_path / "a.wav", vowel("a", 110)))
    power = spectrogram(
        samples, window_function(WINDOW, "hann"), WINDOW, HOP, TRANSFORM, power=2.0, center=False, mel_filters=filters
    ).T
    expected = 1 + np.maximum(10 * np.log10(np.maximum(power, 1e-10) / power.max()), -80) / 80
    found = log_mel(tmp_path / "a.wav")
    assert found.shape == (98, BANDS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-4)


def mel(hertz: float) -> float:
    return 2595 * float(np.log10(1 + hertz / 700))


@pytest.mark.parametrize("hertz", [200.0, 1000.0, 5000.0])
def test_a_tone_is_loudest_in_its_band(hertz: float, tmp_path: Path) -> None:
    path = write(tmp_path / "tone.flac", 0.1 * np.sin(2 * np.pi * hertz * np.arange(8000) / SAMPLE_RATE))
    frames = log_mel(path)
    mels = np.linspace(mel(LOWEST), mel(HIGHEST), BANDS + 2)[1:-1]
    assert frames.mean(0).argmax() == np.abs(mels - mel(hertz)).argmin()
    assert frames.max() == 1.0
    assert frames.min() >= 0.0


def test_nearest_sounds_are_the_same_vowel(encoder: AudioEncoder, tmp_path: Path) -> None:
    labels = [name for name in FORMANTS for _ in range(4)]
    paths = []
    for n, name in enumerate(labels):
        samples = vowel(name, 95 + 17 * (n % 4), seconds=0.6 + 0.3 * (n % 3), seed=n)
        noise = np.random.default_rng(n).normal(0, 0.003, len(samples))
        paths.append(write(tmp_path / f"{n}.wav", samples + noise))
    values = encoder.encode(paths).values
    distance = np.linalg.norm(values[:, None] - values[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert [labels[n] for n in distance.argmin(1)] == labels


@pytest.mark.parametrize(
    ("name", "rate", "channels", "options"),
    [
        ("x.wav", 44_100, 1, {}),
        ("x.wav", 8_000, 1, {}),
        ("x.wav", 48_000, 2, {"subtype": "FLOAT"}),
        ("x.wav", 22_050, 1, {"subtype": "PCM_24"}),
        ("x.wav", 11_027, 1, {}),
        ("x.flac", 96_000, 2, {}),
        ("x.ogg", 44_100, 1, {}),
        ("x.aiff", 32_000, 1, {}),
        pytest.param("x.mp3", 44_100, 2, {}, marks=pytest.mark.skipif(not MP3, reason="libsndfile before 1.1")),
        ("name of a picture.png", 16_000, 1, {"format": "WAV"}),
    ],
)
def test_container_rate_and_channels_hardly_matter(
    encoder: AudioEncoder, name: str, rate: int, channels: int, options: dict[str, str], tmp_path: Path
) -> None:
    def noisy(vowel_name: str, rate: int) -> np.ndarray:
        time = np.arange(rate) / rate  # a floor of its own, else the codec's takes its place
        centres = np.geomspace(70, min(7500, 0.48 * rate), 100)
        floor = sum(np.sin(2 * np.pi * (f * time + n * n * 0.37)) for n, f in enumerate(centres))
        return 0.8 * vowel(vowel_name, 120, rate=rate) + 1e-3 * floor

    plain = one(encoder, write(tmp_path / "plain.wav", noisy("a", SAMPLE_RATE)))
    other = one(encoder, write(tmp_path / "other.wav", noisy("i", SAMPLE_RATE)))
    samples = np.repeat(noisy("a", rate)[:, None], channels, axis=1)
    found = one(encoder, write(tmp_path / name, samples, rate, **options))
    bands = slice(None)
    if rate < SAMPLE_RATE:  # what the file cannot hold is missing: compare the bands it does
        bands = np.tile(np.arange(BANDS) < 40, 4)
    assert np.linalg.norm((found - plain)[bands]) < 0.15 * np.linalg.norm((other - plain)[bands])


def test_recording_level_and_offset_do_not_matter(encoder: AudioEncoder, tmp_path: Path) -> None:
    samples = vowel("u", 130)
    loud = one(encoder, write(tmp_path / "loud.wav", samples, subtype="FLOAT"))
    for number, changed in enumerate((samples * 0.01, samples * 1e30, samples * 0.3 + 0.5, -samples)):
        found = one(encoder, write(tmp_path / f"{number}.wav", changed, subtype="FLOAT"))
        np.testing.assert_allclose(found, loud, atol=1e-3)


def test_only_the_first_minute_counts(encoder: AudioEncoder, tmp_path: Path) -> None:
    start = vowel("a", 100, seconds=60)
    rest = 0.3 * np.random.default_rng(0).normal(size=5 * SAMPLE_RATE)
    whole = write(tmp_path / "whole.flac", np.clip(np.concatenate([start, rest]), -1, 1))
    assert log_mel(whole).shape == (5998, BANDS)
    np.testing.assert_array_equal(one(encoder, whole), one(encoder, write(tmp_path / "start.flac", start)))
    assert log_mel(whole, seconds=1.0).shape == (98, BANDS)


def test_statistics_are_what_their_name_says() -> None:
    frames = np.random.default_rng(0).random((50, BANDS)).astype(np.float32)
    change = frames[1:].astype(np.float64) - frames[:-1]
    expected = np.concatenate([frames.mean(0), frames.std(0), change.mean(0), change.std(0)])
    np.testing.assert_allclose(mel_statistics(frames), expected, atol=1e-6)
    assert (mel_statistics(frames[:1])[BANDS:] == 0).all()
    assert mel_frames(np.ones(3, dtype=np.float32)).shape == (1, BANDS)


def test_one_sample_more_than_nothing(encoder: AudioEncoder, tmp_path: Path) -> None:
    encoded = encoder.encode([write(tmp_path / "two.wav", np.array([0.5, -0.5]))])
    assert encoded.present[0]
    assert np.isfinite(encoded.values).all()


def cut(ending: str, keep: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        whole = write(path.parent / f"whole.{ending}", vowel("a", 110, seconds=3, rate=44_100), 44_100)
        data = whole.read_bytes()
        path.write_bytes(data[: int(keep * len(data))])

    return make


def samples(*values: float | list[float], **options: Any) -> Callable[[Path], None]:
    return lambda path: write(path, np.array(values), **options) and None


def cut_between_pages(path: Path) -> None:
    cut("ogg", 1.0)(path)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"OggS")])


FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("x.wav", lambda path: None, "no such file"),
    "a folder": ("x.wav", lambda path: path.mkdir(), "no such file"),
    "empty": ("x.wav", lambda path: path.write_bytes(b""), "empty file"),
    "text": ("x.mp3", lambda path: path.write_text("not a sound\n" * 99), "not a WAV"),
    "junk behind an ID3 tag": ("x.mp3", lambda path: path.write_bytes(b"ID3" + b"junk" * 400), "damaged"),
    "one byte": ("x.mp3", lambda path: path.write_bytes(b"\xff"), "not a WAV"),
    "picture": ("x.wav", lambda path: path.write_bytes(b"RIFF\x20\0\0\0WEBPVP8 " + b"\0" * 24), "not a WAV"),
    "header only": ("x.wav", samples(), "no samples"),
    "digital silence": ("x.wav", samples(*[0.0] * 800), "silence throughout"),
    "constant": ("x.wav", samples(*[0.7] * 800), "silence throughout"),
    "last bit": ("x.wav", samples(*[3e-5, -3e-5] * 400), "silence throughout"),
    "not a number": ("x.wav", samples(0.1, float("nan"), *[0.2] * 800, subtype="FLOAT"), "not numbers"),
    "infinity": ("x.wav", samples(0.1, float("inf"), *[0.2] * 800, subtype="FLOAT"), "not numbers"),
    "largest numbers": ("x.wav", samples([1.7e308, 1.7e308], [0.0, 0.0], subtype="DOUBLE"), "not numbers"),
    "rate of one": ("x.wav", lambda path: write(path, np.ones(9), 1), "out of range"),
    "too many channels": ("x.wav", lambda path: write(path, np.ones((4, 200))), "out of range"),
    "cut off wav": ("x.wav", cut("wav", 0.5), "cut off"),
    "cut off aiff": ("x.aiff", cut("aiff", 0.5), "cut off"),
    "cut off flac": ("x.flac", cut("flac", 0.5), "damaged"),
    "cut off ogg": ("x.ogg", cut("ogg", 0.5), "cut off"),
    "cut off between pages": ("x.ogg", cut_between_pages, "cut off"),
    "cut off in the last page": ("x.ogg", cut("ogg", 0.995), "cut off"),
}
if MP3:
    FAULTS["cut off mp3"] = ("x.mp3", cut("mp3", 0.5), "cut off")


@pytest.mark.parametrize("name", FAULTS)
def test_unusable_recordings_are_masked_with_the_reason(encoder: AudioEncoder, name: str, tmp_path: Path) -> None:
    file, make, reason = FAULTS[name]
    path = tmp_path / "case" / file
    path.parent.mkdir()
    make(path)
    good = write(tmp_path / "good.wav", vowel("a", 110, seconds=0.2))
    encoded = encoder.encode([path, good, path])
    np.testing.assert_array_equal(encoded.present, [False, True, False])
    assert set(encoded.faults) == {0, 2}
    assert reason in encoded.faults[0]
    assert (encoded.values[[0, 2]] == 0).all()
    with pytest.raises(UnreadableRecordingError, match=reason):
        log_mel(path)


def test_a_wav_written_to_a_pipe_is_whole(encoder: AudioEncoder, tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.wav", vowel("a", 110)).read_bytes())
    data[4:8] = b"\xff\xff\xff\xff"
    place = data.index(b"data")
    data[place + 4 : place + 8] = b"\xff\xff\xff\xff"
    (tmp_path / "pipe.wav").write_bytes(data)
    np.testing.assert_array_equal(one(encoder, tmp_path / "pipe.wav"), one(encoder, tmp_path / "a.wav"))


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg", *(["mp3"] if MP3 else [])])
def test_random_damage_never_escapes(encoder: AudioEncoder, ending: str, tmp_path: Path) -> None:
    data = write(tmp_path / f"whole.{ending}", vowel("a", 110, seconds=0.4)).read_bytes()
    paths = []
    for seed in range(25):
        generator = np.random.default_rng(seed)
        broken = bytearray(data)
        for _ in range(int(generator.integers(1, 30))):
            broken[int(generator.integers(len(data) if seed % 2 else 64))] = int(generator.integers(256))
        paths.append(tmp_path / f"{seed}.{ending}")
        paths[-1].write_bytes(bytes(broken))
    encoded = encoder.encode(paths)
    assert np.isfinite(encoded.values).all()
    assert set(encoded.faults) == set(np.flatnonzero(~encoded.present).tolist())


def test_nothing_at_all_has_the_width(encoder: AudioEncoder) -> None:
    assert encoder.encode([]).values.shape == (0, 256)


def test_batches_and_threads_do_not_change_the_vectors(encoder: AudioEncoder, tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.wav", vowel("a", 100 + n, seconds=0.3)) for n in range(5)]
    whole = encoder.encode(paths).values
    np.testing.assert_array_equal(AudioEncoder(batch=2).encode(paths).values, whole)
    np.testing.assert_array_equal(encoder.encode(paths[3:]).values, whole[3:])


def test_weights_of_their_own_are_refused() -> None:
    with pytest.raises(MmfedError, match=r"features\.audio\.weights") as caught:
        AudioEncoder(weights="w.pth")
    assert caught.value.code == ExitCode.CONFIG


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmfed.encoders.extras.find_spec", lambda name: None)
    with pytest.raises(MmfedError) as caught:
        AudioEncoder()
    assert caught.value.code == ExitCode.MISSING_EXTRA
    assert caught.value.fix == "pip install 'mmfed[audio]'"


def test_the_default_loads_no_more_than_it_needs() -> None:
    code = (
        "import sys, mmfed.encoders.store, mmfed.encoders.audio, mmfed.encoders.video\n"
        "mmfed.encoders.audio.AudioEncoder().weights_sha256\n"
        "bad = {'soundfile', 'transformers', 'av', 'scipy.signal'} & set(sys.modules)\n"
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# The feature store


@pytest.fixture
def shop(tmp_path: Path) -> Catalogue:
    names = ["a", "i", "u", "a", "i", "u"]
    paths = [write(tmp_path / f"{n}.wav", vowel(v, 100 + 5 * n, seconds=0.3)) for n, v in enumerate(names)]
    (tmp_path / "4.wav").write_bytes(b"")
    nothing = (None,) * 6
    return Catalogue(
        item_ids=tuple("abcdef"),
        titles=nothing,
        texts=nothing,
        images=nothing,
        prices=np.full(6, np.nan, dtype=np.float32),
        audios=(paths[0], None, *paths[2:]),
    )


def test_store_encodes_sound_once(shop: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = FeaturesSection(
        modalities=("audio",), cache=tmp_path / "cache", audio=EncoderSection(dimensions=None, whiten=False)
    )
    calls: list[tuple[str, int, int]] = []
    built = catalogue_features(shop, section, progress=lambda *call: calls.append(call))
    features = built.modalities["audio"]
    np.testing.assert_array_equal(features.present, [True, False, True, True, False, True])
    assert features.values.shape == (6, 256)
    assert (features.values[[1, 4]] == 0).all()
    assert built.notes == ("audio: 4.wav: empty file; the item is treated as having no audio.",)
    assert calls == [("audio", 5, 5)]

    def refuse(*_: object) -> Encoded:
        raise AssertionError("encoded although cached")

    monkeypatch.setattr("mmfed.encoders.audio.AudioEncoder.encode", refuse)
    assert catalogue_features(shop, section).digest == built.digest


def test_delivered_numbers_take_the_place_of_the_files(shop: Catalogue, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(6, 4))
    delivered = replace(shop, features={"audio": Features(values, np.ones(6, dtype=bool))})
    raw = EncoderSection(dimensions=None, whiten=False)
    section = FeaturesSection(modalities=("audio",), cache=tmp_path / "cache", audio=raw)
    np.testing.assert_allclose(catalogue_features(delivered, section).modalities["audio"].values, values, rtol=1e-6)
    assert not (tmp_path / "cache").exists()


def test_encoder_none_and_no_sound_need_no_package(
    shop: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmfed.encoders.extras.find_spec", lambda name: None)
    section = FeaturesSection(modalities=("audio",), cache=tmp_path / "cache")
    for audios in ((), (None,) * 6):
        built = catalogue_features(replace(shop, audios=audios), section)
        assert built.notes == ("audio: no item has a sound file; left out.",)
    off = FeaturesSection(modalities=("audio",), audio=EncoderSection(encoder="none"))
    assert catalogue_features(shop, off).modalities == {}
