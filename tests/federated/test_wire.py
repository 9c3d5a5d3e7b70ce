"""Only what a model declares shared travels, and only as what it is declared to be."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import tiny_config, tiny_model
from tiny_plans import PLANS, catalogue_of

from mmfed.errors import ExitCode, MmfedError
from mmfed.federated import wire
from mmfed.models.registry import RECOMMENDERS

SHAPES: wire.Shapes = {"bias": (4,), "table": (3, 2), "nothing": (0, 2)}


def tensors(**changes):
    made = {name: torch.arange(float(np.prod(shape))).reshape(shape) + 0.5 for name, shape in SHAPES.items()}
    return {name: value for name, value in (made | changes).items() if value is not None}


def payload(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def record_with(array: Array, name: str = "bias") -> ArrayRecord:
    arrays = dict(wire.encode(tensors(), SHAPES).items()) | {name: array}
    return ArrayRecord(arrays)


def raw(data: bytes, *, dtype: str = "float32", shape: tuple[int, ...] = (4,), stype: str = "numpy.ndarray") -> Array:
    return Array(dtype, shape, stype, data)


@pytest.fixture(params=[*sorted(RECOMMENDERS), "private adapter"])
def private_model(request):
    if request.param in RECOMMENDERS:
        model = tiny_model(tiny_config(f"model.name={request.param}", "model.private_user_vector=true"))
    else:
        model = tiny_model(tiny_config(), catalogue_of(PLANS["private adapter"]))
    private = [name for name in dict(model.named_parameters()) if name not in model.shared_parameters()]
    assert private, "the test needs a model with something private"
    return model, private[0]


def test_there_and_back_is_exact():
    for dtype, kind in ((np.float32, torch.float32), (np.float64, torch.float64)):
        values = {name: value.to(kind) for name, value in tensors().items()}
        back = wire.decode(wire.encode(values, SHAPES, dtype=dtype), SHAPES)
        assert all(torch.equal(back[name], values[name]) and back[name].dtype is kind for name in SHAPES)


def test_flatten_and_back():
    values = {name: value.double() for name, value in tensors().items()}
    back = wire.unflatten(wire.flatten(values, SHAPES), SHAPES)
    assert all(torch.equal(back[name], values[name]) for name in SHAPES)


def test_private_parameters_are_not_on_the_list(private_model):
    model, private = private_model
    assert private not in wire.shared_shapes(model)
    assert set(wire.shared_shapes(model)) < set(dict(model.named_parameters()))


def test_every_way_to_leak_is_refused(private_model):
    model, private = private_model
    shapes = wire.shared_shapes(model)
    shared = {name: value.detach() for name, value in model.shared_parameters().items()}
    secret = dict(model.named_parameters())[private].detach()
    name = "item_bias"
    attempts = {
        "under its own name": shared | {private: secret},
        "under another name": shared | {"innocent": secret},
        "prefixed": shared | {f"model.{private}": secret},
        "appended to another tensor": shared | {name: torch.cat([shared[name], secret.flatten()])},
        "stacked onto another tensor": shared | {name: torch.stack([shared[name], shared[name]])},
        "in the place of another tensor": shared | {name: secret},
        "in the place of a missing tensor": {key: value for key, value in shared.items() if key != name}
        | {private: secret},
    }
    for how, leaking in attempts.items():
        with pytest.raises(MmfedError) as fault:
            wire.encode(leaking, shapes)
        assert fault.value.code is ExitCode.FEDERATION, how


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_neither_leave_nor_enter(bad):
    values = tensors(bias=torch.tensor([1.0, bad, 2.0, 3.0]))
    with pytest.raises(MmfedError, match="bias"):
        wire.encode(values, SHAPES)
    with pytest.raises(MmfedError, match="bias"):
        wire.decode(record_with(Array(values["bias"].numpy())), SHAPES)


def test_a_value_too_large_for_the_wire_is_refused():
    with pytest.raises(MmfedError, match="bias"):
        wire.encode(tensors(bias=torch.full((4,), 1e300, dtype=torch.float64)), SHAPES)


GOOD = np.ones(4, dtype=np.float32)
HOSTILE = {
    "pickled": raw(b"\x80\x04K\x01.", stype="pickle"),
    "torch tensor": raw(payload(GOOD), stype="torch.Tensor"),
    "objects": raw(
        b"\x93NUMPY\x01\x00\x46\x00{'descr': '|O', 'fortran_order': False, 'shape': (4,), }" + b" " * 12 + b"\n"
    ),
    "an archive": raw(b"PK\x03\x04" + bytes(40)),
    "empty": raw(b""),
    "no header": raw(bytes(64)),
    "truncated": raw(payload(GOOD)[:-1]),
    "truncated in the header": raw(payload(GOOD)[:20]),
    "something appended": raw(payload(GOOD) + b"secret"),
    "integers called floats": raw(payload(np.ones(4, dtype=np.int64))),
    "text called floats": raw(payload(np.array(list("abcd")))),
    "complex called floats": raw(payload(np.ones(4, dtype=np.complex64))),
    "big endian": raw(payload(GOOD.astype(">f4"))),
    "half": raw(payload(GOOD.astype(np.float16)), dtype="float16"),
    "another shape inside": raw(payload(np.ones((2, 2), dtype=np.float32))),
    "another shape outside": raw(payload(GOOD), shape=(2, 2)),
    "a shape that fills the memory": raw(
        b"\x93NUMPY\x01\x00\x46\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000000,)}".ljust(69)
        + b"\n"
    ),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_arrays_are_refused_in_one_line(how):
    with pytest.raises(MmfedError) as fault:
        wire.decode(record_with(HOSTILE[how]), SHAPES)
    assert "\n" not in str(fault.value)


def test_missing_and_extra_names_are_refused():
    arrays = dict(wire.encode(tensors(), SHAPES).items())
    with pytest.raises(MmfedError, match="table is missing"):
        wire.decode(ArrayRecord({name: value for name, value in arrays.items() if name != "table"}), SHAPES)
    with pytest.raises(MmfedError, match="extra is not declared shared"):
        wire.decode(ArrayRecord(arrays | {"extra": Array(GOOD)}), SHAPES)
    with pytest.raises(MmfedError, match="bias is missing"):
        wire.encode(tensors(bias=None), SHAPES)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_no_bytes_make_decode_raise_anything_else(data):
    with pytest.raises(MmfedError):
        wire.decode(record_with(raw(data)), SHAPES)


@settings(max_examples=200)
@given(st.integers(0, len(payload(GOOD)) - 1), st.integers(1, 255))
def test_no_flipped_byte_makes_decode_raise_anything_else(position, flip):
    data = bytearray(payload(GOOD))
    data[position] ^= flip
    try:
        found = wire.decode(record_with(raw(bytes(data))), SHAPES)
    except MmfedError:
        return
    assert tuple(found["bias"].shape) == (4,)
    assert torch.isfinite(found["bias"]).all()
