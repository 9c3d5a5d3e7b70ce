from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmfed.encoders.image import ImageEncoder
from mmfed.encoders.parallel import map_blocks
from mmfed.encoders.text import TextEncoder


@pytest.fixture
def _three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_three_threads")
def test_results_in_order_each_computed_by_one_thread() -> None:
    found = map_blocks(lambda n: (n, torch.get_num_threads()), iter(range(50)))
    assert found == [(n, 1) for n in range(50)]
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("_three_threads")
def test_thread_count_is_put_back_after_a_fault() -> None:
    with pytest.raises(ZeroDivisionError):
        map_blocks(lambda n: 1 // n, [1, 0])
    assert torch.get_num_threads() == 3


def test_vectors_have_the_same_bits_on_any_number_of_threads(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{n}.png" for n in range(6)]
    for path in paths:
        Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    texts = [f"text {'word ' * n}" for n in range(6)]
    before = torch.get_num_threads()
    results: list[bytes] = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            pictures, words = ImageEncoder().encode(paths), TextEncoder(batch=2).encode(texts)
            results.append(pictures.values.tobytes() + words.values.tobytes())
    finally:
        torch.set_num_threads(before)
    assert results[0] == results[1]
