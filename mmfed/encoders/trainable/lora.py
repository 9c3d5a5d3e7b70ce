"""LoRA: low-rank changes of the attention projections of a frozen transformers encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmfed.encoders.extras import require
from mmfed.encoders.trainable.layers import drawn
from mmfed.encoders.trainable.masking import masked_mean
from mmfed.encoders.trainable.tower import Tower
from mmfed.errors import ExitCode, MmfedError

ATTENTION = ("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v")  # names of the projections adapted


class Tokens(NamedTuple):
    """Texts as a transformer reads them.

    Attributes:
        ids: [n, tokens] int64.
        mask: [n, tokens] bool, true where there is a token.
    """

    ids: Tensor
    mask: Tensor


class LoraLinear(nn.Module):
    """W x + (scale / rank) B A x with W frozen (Hu et al. 2022, equation 3); A Gaussian, B zero, so that training
    begins at the frozen map.

    Args:
        frozen: the map to adapt; it must hold no parameters (see ``freeze``).
        rank: columns between A and B.
        scale: the paper's α.
        generator: of A.
    """

    def __init__(self, frozen: nn.Linear, *, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.frozen = frozen
        self.a = drawn(nn.Linear, frozen.in_features, rank, bias=False, generator=generator)
        self.b = drawn(nn.Linear, rank, frozen.out_features, bias=False, generator=generator)
        with torch.no_grad():
            self.a.weight.normal_(0.0, frozen.in_features**-0.5, generator=generator)
            self.b.weight.zero_()
        self.factor = scale / rank

    def forward(self, values: Tensor) -> Tensor:
        """[..., outputs] of [..., inputs]."""
        return self.frozen(values) + self.b(self.a(values)) * self.factor


class LoraTransformer(Tower):
    """Mean of the last layer's token vectors, scaled to norm 1 (as ``encoders.text``), with LoRA on the query and value
    projections of the last layers. Only A and B are parameters; the encoder's own weights are buffers that are neither
    trained, saved nor sent, and its dropout is off.

    Args:
        network: a transformers encoder; changed, and owned by this tower from now on. It must use the "eager"
            attention (``load_frozen`` does), the one that ``torch.func`` can differentiate.
        rank: of each change.
        scale: the paper's α; None takes the rank, a factor of 1.
        layers: how many layers are adapted, counted from the output; None takes all.
        projections: names of the linear maps to adapt.
        generator: of the initial weights.

    Raises:
        MmfedError: the network has no projection of these names.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        generator: torch.Generator,
        rank: int = 4,
        scale: float | None = None,
        layers: int | None = None,
        projections: Sequence[str] = ATTENTION,
    ) -> None:
        config: Any = network.config
        super().__init__(int(config.hidden_size))
        freeze(network)
        chosen = _projections(network, projections, layers)
        for parent, name, linear in chosen:
            adapted = LoraLinear(linear, rank=rank, scale=rank if scale is None else scale, generator=generator)
            setattr(parent, name, adapted)
        self.network = network
        self.train(True)

    def train(self, mode: bool = True) -> LoraTransformer:
        """The frozen network stays in evaluation mode whatever the mode: its dropout draws from no generator."""
        super().train(mode)
        self.network.eval()
        for module in self.network.modules():
            if isinstance(module, LoraLinear):
                module.train(mode)
        return self

    def forward(self, inputs: Tokens) -> Tensor:
        """Vectors [n, width] of tokens [n, tokens], padded at the end."""
        if not len(inputs.ids):  # which the attention's reshapes do not take
            return torch.zeros(0, self.width, dtype=self._dtype)
        # As sums rather than as a mask: transformers looks into a mask's values, which a vectorised one does not have.
        hidden = (~inputs.mask)[:, None, None, :].to(self._dtype) * -1e9
        states = self.network(input_ids=inputs.ids, attention_mask=hidden).last_hidden_state
        return nn.functional.normalize(masked_mean(states, inputs.mask), dim=1)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def freeze(network: nn.Module) -> None:
    """Turn every parameter into a buffer that is not saved, so that nothing of it can be trained or sent."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach(), persistent=False)


def load_frozen(folder: Path) -> nn.Module:
    """A transformers encoder from a folder with its configuration and safetensors weights, in float32.

    Raises:
        MmfedError: transformers is missing, or the folder holds no usable encoder.
    """
    require("text", "transformers")
    from mmfed.encoders.hub import silence, unusable_model

    with silence():
        from transformers import AutoModel

        try:
            return AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation="eager"
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise unusable_model(folder, "text", error) from None


def _projections(
    network: nn.Module, names: Sequence[str], layers: int | None
) -> list[tuple[nn.Module, str, nn.Linear]]:
    """(parent, name, linear) of the projections in the last ``layers`` layers, in the network's order."""
    found = [
        (path.rpartition(".")[0], network.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], module)
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] in names
    ]
    parents = list(dict.fromkeys(parent for parent, *_ in found))
    kept = set(parents if layers is None else parents[len(parents) - min(layers, len(parents)) :])
    chosen = [(module, name, linear) for parent, module, name, linear in found if parent in kept]
    if not chosen:
        raise MmfedError(
            ExitCode.FEATURES,
            f"the text model ({type(network).__name__}) has no attention projection of a known name for LoRA.",
            "choose another text model, or training = 'adapter' with network = 'bottleneck'.",
        )
    return chosen
