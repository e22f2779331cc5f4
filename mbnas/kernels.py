"""The staircase of quantizers.py and its gradients, each in one pass over memory, on CPUs.

Tensors are walked in rows, the same ones whatever the number of threads, and each row leaves its
own partial sums: results do not depend on how many threads share the work. Within a row, blocks
that stay in the first-level cache are gone over once per step of the staircase.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbnas.config import Surrogate
from mbnas.progress import log

try:
    import numba
except ImportError:  # no wheel for this machine
    numba = None  # type: ignore[assignment]

_TANH, _POLYNOMIAL = -1.0, -2.0
_FORMS = {  # of the derivative of sign: the half-width of a window, or one of the above
    Surrogate.STE: 1.0,
    Surrogate.WIDE: 3.0,
    Surrogate.IDENTITY: np.inf,
    Surrogate.POLYNOMIAL: _POLYNOMIAL,
    Surrogate.TANH: _TANH,
}
_ROW = 1 << 15
_BLOCK = 1 << 10

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Floats = NDArray[np.float32]
_Sums = NDArray[np.float64]


def _compiled(function: _Function) -> _Function:
    """Machine code without the interpreter's lock, kept between runs where there is a place."""
    if numba is None:
        return function
    compile_ = partial(
        numba.njit, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"}
    )
    try:
        return cast(_Function, compile_(cache=True)(function))
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return cast(_Function, compile_()(function))


@cache
def available() -> bool:
    """Whether there is a compiler; one message says so where there is none."""
    if numba is None:
        log.info(
            "numba is not installed: quantizers take several times as long (pip install numba)"
        )
    return numba is not None


def applies(z: Tensor, heights: Tensor) -> bool:
    """Whether these kernels can stand in for the plain version.

    They are written for float32 on a CPU, with one height a step or one a step and ``z[i]``.
    """
    heights_of_a_step = heights[0].numel()
    return (
        z.device.type == "cpu"
        and z.dtype == heights.dtype == torch.float32
        and (heights_of_a_step == 1 or heights_of_a_step == heights.shape[1] == len(z))
        and available()
    )


def forward(z: Tensor, thresholds: Tensor, heights: Tensor) -> Tensor:
    """q(z), same shape; bit for bit what the plain version returns."""
    z = _dense(z)
    q = torch.empty_like(z)
    rows, length = _rows(z, heights)
    _share(_climb, rows, length, _flat(z), thresholds.numpy(), _table(heights), _flat(q))
    return q


def backward(
    z: Tensor,
    gradient: Tensor,
    thresholds: Tensor,
    heights: Tensor,
    surrogate: Surrogate,
    *,
    sums: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for z, thresholds and heights, shaped like them.

    Args:
        z: what the forward pass read.
        gradient: dL/dq, shaped like z.
        thresholds: (K,).
        heights: (K, ...).
        surrogate: the derivative of sign.
        sums: whether the gradients for thresholds and heights are wanted; zero if not.
    """
    z = _dense(z)
    if gradient.stride() != z.stride():
        gradient = torch.empty_like(z).copy_(gradient)
    slope = torch.empty_like(z)
    rows, length = _rows(z, heights)
    by_threshold, by_height = np.zeros((2, rows, len(thresholds)))
    _share(
        _descend,
        rows,
        length,
        _flat(z),
        _flat(gradient),
        thresholds.numpy(),
        _table(heights),
        _FORMS[surrogate],
        sums,
        _flat(slope),
        by_threshold,
        by_height,
    )
    per_height = by_height if heights[0].numel() > 1 else by_height.sum(axis=0, keepdims=True)
    return (
        slope,
        torch.from_numpy(by_threshold.sum(axis=0)).float(),
        torch.from_numpy(per_height.T.copy()).float().view_as(heights),
    )


@_compiled
def _differentiate(
    form: float, height: np.float32, threshold: np.float32, block: _Floats, step: _Floats
) -> None:
    if form == _TANH:
        for i in range(len(block)):
            step[i] = height * _sech_squared(block[i] + threshold)
    elif form == _POLYNOMIAL:
        for i in range(len(block)):
            reach = np.float32(1) - abs(block[i] + threshold)
            step[i] = height * np.float32(2) * max(reach, np.float32(0))
    else:
        width = np.float32(form)
        for i in range(len(block)):
            step[i] = height if abs(block[i] + threshold) <= width else np.float32(0)


@_compiled
def _sech_squared(a: np.float32) -> np.float32:
    """1 - tanh(a)^2 = 2 / (1 + cosh 2a), to 1e-7, in steps that a compiler can vectorise.

    s = cosh(a/4) - 1 by its Taylor series; cosh(2b) - 1 = 2 s (s + 2) three times over.
    """
    w = a * a * np.float32(1 / 16)
    s = np.float32(1 / 56) * w + np.float32(1)
    s = np.float32(1 / 30) * w * s + np.float32(1)
    s = np.float32(1 / 12) * w * s + np.float32(1)
    s = np.float32(1 / 2) * w * s
    s = np.float32(2) * s * (s + np.float32(2))
    s = np.float32(2) * s * (s + np.float32(2))
    s = np.float32(2) * s * (s + np.float32(2))
    return np.float32(2) / (s + np.float32(2))


@_compiled
def _climb(
    first: int,
    last: int,
    length: int,
    z: _Floats,
    thresholds: _Floats,
    heights: _Floats,
    q: _Floats,
) -> None:
    for row in range(first, last):
        end = min((row + 1) * length, z.size)
        for start in range(row * length, end, _BLOCK):
            block, total = z[start : min(start + _BLOCK, end)], q[start : min(start + _BLOCK, end)]
            for k in range(len(thresholds)):
                edge, height = -thresholds[k], heights[k, row % heights.shape[1]]
                if k == 0:
                    for i in range(len(block)):
                        total[i] = height if block[i] >= edge else -height
                else:
                    for i in range(len(block)):
                        total[i] += height if block[i] >= edge else -height


@_compiled
def _descend(
    first: int,
    last: int,
    length: int,
    z: _Floats,
    gradient: _Floats,
    thresholds: _Floats,
    heights: _Floats,
    form: float,
    sums: bool,
    slope: _Floats,
    by_threshold: _Sums,
    by_height: _Sums,
) -> None:
    scratch = np.empty(_BLOCK, np.float32)
    for row in range(first, last):
        end = min((row + 1) * length, z.size)
        for start in range(row * length, end, _BLOCK):
            stop = min(start + _BLOCK, end)
            block, upstream, total = z[start:stop], gradient[start:stop], slope[start:stop]
            step = scratch[: stop - start]
            total[:] = 0
            for k in range(len(thresholds)):
                threshold, height = thresholds[k], heights[k, row % heights.shape[1]]
                _differentiate(form, height, threshold, block, step)
                for i in range(len(block)):
                    total[i] += step[i]
                if sums:
                    threshold_sum = height_sum = np.float32(0)
                    for i in range(len(block)):
                        threshold_sum += step[i] * upstream[i]
                        height_sum += upstream[i] if block[i] + threshold >= 0 else -upstream[i]
                    by_threshold[row, k] += threshold_sum
                    by_height[row, k] += height_sum
            for i in range(len(block)):
                total[i] *= upstream[i]


def _rows(z: Tensor, heights: Tensor) -> tuple[int, int]:
    """How many rows, and elements in each: one row a height where they differ along z."""
    groups = heights[0].numel()
    if groups > 1:
        return groups, z.numel() // groups
    return -(-z.numel() // _ROW), _ROW


def _share(kernel: Callable[..., None], rows: int, length: int, *arguments: object) -> None:
    """Run ``kernel`` over all rows, on as many threads as torch has where that pays."""
    threads = min(torch.get_num_threads(), rows * length // _ROW, rows)
    if threads <= 1:
        kernel(0, rows, length, *arguments)
        return
    bounds = [rows * i // threads for i in range(threads + 1)]
    mine, *others = pairwise(bounds)
    running = [_pool().submit(kernel, *part, length, *arguments) for part in others]
    kernel(*mine, length, *arguments)
    for each in running:
        each.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="mbnas-kernels")


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _dense(z: Tensor) -> Tensor:
    """``z`` without gaps in memory, its axes in the order they have."""
    if z.dim() == 4 and z.is_contiguous(memory_format=torch.channels_last):
        return z
    return z.contiguous()


def _flat(dense: Tensor) -> _Floats:
    """The numbers of a tensor without gaps in the order they lie in memory, not copied."""
    view: _Floats = dense.detach().as_strided((dense.numel(),), (1,)).numpy()
    return view


def _table(heights: Tensor) -> _Floats:
    """(K, 1) or (K, C_out)."""
    table: _Floats = heights.detach().reshape(len(heights), -1).numpy()
    return table
