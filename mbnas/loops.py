"""Loops over tensors as machine code: compiled by numba, walked in rows, shared out to threads.

A loop goes over rows of a tensor, the same ones whatever the number of threads, and each row leaves
its own partial sums: results do not depend on how many threads share the work. Within a row, blocks
that stay in the first-level cache are gone over as often as need be.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbnas.progress import log

try:
    import numba
except ImportError:  # no wheel for this machine
    numba = None  # type: ignore[assignment]

_ROW = 1 << 15
_BLOCK = 1 << 8

_Function = TypeVar("_Function", bound=Callable[..., Any])
Floats = NDArray[np.float32]
Sums = NDArray[np.float64]


def compiled(function: _Function, *, reorder: bool = True) -> _Function:
    """Machine code without the interpreter's lock, kept between runs where there is a place.

    What is kept is made anew when the file of ``function`` or this one changes, and these only:
    loops must not call compiled functions of other modules.

    Args:
        reorder: whether terms may be reordered and products be added without rounding first.
    """
    if numba is None:
        return function
    fast = {"contract", "reassoc", "nsz"} if reorder else False
    compile_ = partial(numba.njit, nogil=True, error_model="numpy", fastmath=fast)
    try:
        # numba keeps code under this name and replaces an old version's in two steps; who read
        # between them, or after someone who was killed there, would compute with the old one.
        function.__qualname__ += f"_{_version(function.__code__.co_filename)}"
        return cast(_Function, compile_(cache=True)(function))
    except (OSError, RuntimeError):  # no source, or no folder that could be written
        return cast(_Function, compile_()(function))


def _version(file: str) -> str:
    """Of the loops in a file."""
    return sha256(Path(file).read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]


exact = partial(compiled, reorder=False)


@cache
def available() -> bool:
    """Whether there is a compiler; one message says so where there is none."""
    if numba is None:
        log.info(
            "numba is not installed: quantizers, batch-norm and PReLU take several times as long "
            "(pip install numba)"
        )
    return numba is not None


def suits(x: Tensor) -> bool:
    """Whether loops can work on ``x``: they are written for float32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and available()


def split(x: Tensor, period: int, groups: int = 1) -> tuple[int, int]:
    """How many rows, and elements in each.

    Args:
        period: numbers after which lanes repeat; rows begin where they do.
        groups: equal parts of ``x`` of which each is a row, where that is more than one.
    """
    if groups > 1:
        return groups, x.numel() // groups
    length = period * max(1, _ROW // period)
    return -(-x.numel() // length), length


def share(loop: Callable[..., None], rows: int, length: int, *arguments: object) -> None:
    """Run ``loop(first, last, length, *arguments)`` over all rows, on threads where that pays."""
    threads = min(torch.get_num_threads(), rows * length // _ROW, rows)
    if threads <= 1:
        loop(0, rows, length, *arguments)
        return
    bounds = [rows * i // threads for i in range(threads + 1)]
    mine, *others = pairwise(bounds)
    running = [_pool().submit(loop, *part, length, *arguments) for part in others]
    loop(*mine, length, *arguments)
    for each in running:
        each.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="mbnas-loops")


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def dense(x: Tensor, period: int) -> Tensor:
    """``x`` without gaps in memory, its channels innermost where they are told apart."""
    if period > 1 or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


def laid_out_like(gradient: Tensor, x: Tensor) -> Tensor:
    """``gradient`` in the order in which the numbers of ``x`` lie in memory."""
    if gradient.stride() == x.stride():
        return gradient
    return torch.empty_like(x).copy_(gradient)


def flat(x: Tensor) -> Floats:
    """The numbers of a tensor without gaps in the order they lie in memory, not copied."""
    view: Floats = x.detach().as_strided((x.numel(),), (1,)).numpy()
    return view


def repeat(channels: Tensor, period: int) -> Floats:
    """One number a channel, over and over, as far as a block goes."""
    repeated: Floats = np.tile(channels.detach().reshape(-1).numpy(), max(1, _BLOCK // period))
    return repeated
