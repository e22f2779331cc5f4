"""How many threads torch computes with; results depend on it, in the last digit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from mbnas.backbones import Backbone
from mbnas.settings import Recipe

SMALL = 1 << 19


@contextmanager
def suited_to(backbone: Backbone, recipe: Recipe) -> Iterator[None]:
    """Inside, a single thread if a training batch is too small to be worth sharing, or as before.

    Measured on two cores: digits, 65,000 numbers in the first activation of a batch, train in half
    the time with one thread; ResNet-20 on CIFAR-10, 2 million, takes twice as long.
    """
    stem = backbone.stem
    numbers = recipe.batch_size * stem.out_channels * stem.size**2
    with _threads(1 if numbers < SMALL else torch.get_num_threads()):
        yield


@contextmanager
def one_thread_each(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads in each of which torch computes with a single one."""
    with (
        _threads(1),
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        yield pool


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
