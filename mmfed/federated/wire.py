"""What may be put on the wire: an allow-list of shared parameters, checked on both ends.

Nothing is serialised by default. A tensor leaves only if the model declares its name shared and its shape is the
declared one; anything else is refused, not skipped.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from mmfed.errors import ExitCode, MmfedError
from mmfed.models.base import Recommender

Shapes = dict[str, tuple[int, ...]]


def shared_shapes(model: Recommender) -> Shapes:
    """Name and shape of every parameter that may travel, sorted by name."""
    return {name: tuple(value.shape) for name, value in model.shared_parameters().items()}


def public_shapes(model: Recommender) -> Shapes:
    """Name and shape of what the coordinator sends beside the parameters; it never comes back."""
    return {name: tuple(value.shape) for name, value in sorted(model.public_tensors().items())}


def encode(tensors: Mapping[str, Tensor], shapes: Shapes, *, dtype: type[np.floating] = np.float32) -> ArrayRecord:
    """Tensors as a message record.

    Raises:
        MmfedError: a name that is not shared, a missing one, a wrong shape or a value that is not finite.
    """
    _check({name: tuple(value.shape) for name, value in tensors.items()}, shapes, "leave")
    arrays = {}
    for name in shapes:
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, which is refused below
            values = tensors[name].detach().cpu().numpy().astype(dtype)
        if not np.isfinite(values).all():
            raise MmfedError(
                ExitCode.FEDERATION,
                f"parameter {name} holds NaN or infinity and may not leave.",
                "lower training.learning_rate or federation.server_optimiser.learning_rate.",
            )
        arrays[name] = Array(np.ascontiguousarray(values))
    return ArrayRecord(arrays)


def decode(record: ArrayRecord, shapes: Shapes) -> dict[str, Tensor]:
    """The tensors of a message record (copies, float64 or float32 as sent).

    Raises:
        MmfedError: unexpected, missing, misshapen, non-floating or non-finite arrays: the sender is broken or hostile.
    """
    _check({name: tuple(array.shape) for name, array in record.items()}, shapes, "enter")
    tensors = {}
    for name, shape in shapes.items():
        values = _values(name, record[name], shape)
        if not np.isfinite(values).all():
            raise _refused(f"{name} holds NaN or infinity", "enter")
        tensors[name] = torch.from_numpy(values.copy())
    return tensors


def _values(name: str, array: Array, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of one array, whose payload must be byte for byte what ``encode`` makes around them.

    NumPy's own reader is not asked: it takes archives, and parses headers with Python's tokenizer.
    """
    if array.dtype not in ("float32", "float64") or array.stype != "numpy.ndarray":
        raise _refused(f"{name} has type {array.dtype}/{array.stype}", "enter")
    dtype = np.dtype(array.dtype).newbyteorder("<")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype.str, "fortran_order": False, "shape": shape})
    start, size = len(header.getvalue()), dtype.itemsize * math.prod(shape)
    if len(array.data) != start + size or not array.data.startswith(header.getvalue()):
        raise _refused(f"{name} is not {array.dtype} numbers of shape {shape}", "enter")
    return np.frombuffer(array.data, dtype=dtype, offset=start).reshape(shape)


def flatten(tensors: Mapping[str, Tensor], shapes: Shapes) -> np.ndarray:
    """One float64 vector, parameters in wire order."""
    return np.concatenate([tensors[name].detach().double().numpy().ravel() for name in shapes])


def unflatten(vector: np.ndarray, shapes: Shapes) -> dict[str, Tensor]:
    """Inverse of ``flatten``."""
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return {
        name: torch.from_numpy(part.reshape(shape).copy())
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def _check(found: Shapes, shapes: Shapes, direction: str) -> None:
    extra = sorted(found.keys() - shapes.keys())
    missing = sorted(shapes.keys() - found.keys())
    wrong = sorted(name for name in found.keys() & shapes.keys() if found[name] != shapes[name])
    if extra:
        raise _refused(f"{', '.join(extra)} is not declared shared", direction)
    if missing:
        raise _refused(f"{', '.join(missing)} is missing", direction)
    if wrong:
        raise _refused(f"{wrong[0]} has shape {found[wrong[0]]}, not {shapes[wrong[0]]}", direction)


def _refused(what: str, direction: str) -> MmfedError:
    return MmfedError(
        ExitCode.FEDERATION,
        f"parameters refused: {what} and may not {direction}.",
        "run the same mmfed version and scenario on both ends; only parameters a model declares shared travel.",
    )
