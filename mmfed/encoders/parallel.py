"""Blocks of encoder work over the processor's cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Block = TypeVar("Block")
Result = TypeVar("Result")


def map_blocks(work: Callable[[Block], Result], blocks: Iterable[Block]) -> list[Result]:
    """``work`` of every block, in order, on as many threads as torch may use, each computing alone.

    Threads inside one small operation wait for each other, which costs most where cores are shared with other work; and
    a block computed by one thread has the same bits whatever the number of threads. ``blocks`` is drawn in the calling
    thread while earlier ones are computed. torch's thread count is 1 meanwhile and put back afterwards.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [work(block) for block in blocks]
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, blocks))
    finally:
        torch.set_num_threads(threads)
