"""How many threads torch computes with; results depend on it, in the last digit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

from mbnas.backbones import Backbone
from mbnas.settings import Recipe

SMALL = 1 << 19
Item = TypeVar("Item")
Result = TypeVar("Result")


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


def side_by_side(
    work: Callable[[Item], Result],
    following: Callable[[], Item | None],
    record: Callable[[Result], None],
    workers: int,
) -> None:
    """Work on what ``following`` hands out, in threads; record each result as soon as it is there.

    Neither an interrupt nor a failure loses what else was begun. All is done when nothing is handed
    out and nothing is being worked on.
    """
    running: set[Future[Result]] = set()
    with one_thread_each(workers) as pool:
        while True:
            while len(running) < workers and (item := following()) is not None:
                running.add(pool.submit(work, item))
            if not running:
                return
            done: set[Future[Result]] = set()
            stopped: BaseException | None = None
            try:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                stopped = next(filter(None, (each.exception() for each in done)), None)
            except KeyboardInterrupt as interrupt:
                stopped = interrupt
            if stopped is not None:  # the pool lets go only when the others are done, too
                done |= wait(running).done
            for future in done:
                if future.exception() is None:
                    record(future.result())
            if stopped is not None:
                raise stopped


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
