"""Batch-norm and the staircase of quantizers.py, and their gradients, as few passes over memory.

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
_BLOCK = 1 << 8

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Floats = NDArray[np.float32]
_Sums = NDArray[np.float64]


def _compiled(function: _Function, *, rounding: bool = True) -> _Function:
    """Machine code without the interpreter's lock, kept between runs where there is a place.

    Args:
        rounding: whether terms may be reordered and products be added without rounding first.
    """
    if numba is None:
        return function
    fast = {"contract", "reassoc", "nsz"} if rounding else False
    compile_ = partial(numba.njit, nogil=True, error_model="numpy", fastmath=fast)
    try:
        return cast(_Function, compile_(cache=True)(function))
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return cast(_Function, compile_()(function))


_exact = partial(_compiled, rounding=False)


@cache
def available() -> bool:
    """Whether there is a compiler; one message says so where there is none."""
    if numba is None:
        log.info(
            "numba is not installed: quantizers take several times as long (pip install numba)"
        )
    return numba is not None


def suits(x: Tensor) -> bool:
    """Whether these kernels can work on ``x``: they are written for float32 on a CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32 and available()


def applies(x: Tensor, mean: Tensor, heights: Tensor) -> bool:
    """Whether these kernels can stand in for the plain version.

    Either x is (B, C, H, W) with one mean a channel and one height a step, or there is one mean
    and one height a step or one a step and ``x[i]``.
    """
    heights_of_a_step = heights[0].numel()
    shared = heights_of_a_step == 1
    channels = shared and x.dim() == 4 and mean.numel() == x.shape[1]
    whole = mean.numel() == 1 and (shared or heights_of_a_step == heights.shape[1] == len(x))
    return (channels or whole) and heights.dtype == torch.float32 and suits(x)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel of (B, C, H, W), (C,) each."""
    x = _dense(x, channels := x.shape[1])
    origin = x[0, :, 0, 0]  # near the mean as seen from far away: squares stay small
    rows, length = _rows(x, channels, 1)
    first, second = np.zeros((2, rows, channels))
    _share(_gather, rows, length, _flat(x), _lanes(origin, channels), first, second)
    count = x.numel() // channels
    mean, square = first.sum(axis=0) / count, second.sum(axis=0) / count
    return (
        origin + torch.from_numpy(mean).float(),
        torch.from_numpy(square - mean * mean).float().clamp_(min=0),
    )


def forward(
    x: Tensor, mean: Tensor, scale: Tensor, offset: Tensor, thresholds: Tensor, heights: Tensor
) -> Tensor:
    """q((x - mean) scale + offset), shaped like x; bit for bit what the plain version returns."""
    x = _dense(x, period := mean.numel())
    q = torch.empty_like(x)
    rows, length = _rows(x, period, heights[0].numel())
    lanes = (_lanes(each, period) for each in (mean, scale, offset))
    _share(_climb, rows, length, _flat(x), *lanes, thresholds.numpy(), _table(heights), _flat(q))
    return q


def backward(
    x: Tensor,
    gradient: Tensor,
    mean: Tensor,
    scale: Tensor,
    offset: Tensor,
    thresholds: Tensor,
    heights: Tensor,
    surrogate: Surrogate,
    *,
    sums: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """scale dL/dz, sum dL/dz, sum (x - mean) dL/dz, and the gradients of thresholds and heights.

    Args:
        x: what the forward pass read.
        gradient: dL/dq, shaped like x.
        mean, scale, offset: () or (C, 1, 1), as are the two sums.
        thresholds: (K,).
        heights: (K, ...).
        surrogate: the derivative of sign.
        sums: whether the gradients for thresholds and heights are wanted; zero if not.
    """
    x = _dense(x, period := mean.numel())
    if gradient.stride() != x.stride():
        gradient = torch.empty_like(x).copy_(gradient)
    slope = torch.empty_like(x)
    rows, length = _rows(x, period, heights[0].numel())
    lanes = (_lanes(each, period) for each in (mean, scale, offset))
    by_threshold, by_height = np.zeros((2, rows, len(thresholds)))
    first, second = np.zeros((2, rows, period))
    _share(
        _descend,
        rows,
        length,
        _flat(x),
        _flat(gradient),
        *lanes,
        thresholds.numpy(),
        _table(heights),
        _FORMS[surrogate],
        sums,
        _flat(slope),
        by_threshold,
        by_height,
        first,
        second,
    )
    per_height = by_height if heights[0].numel() > 1 else by_height.sum(axis=0, keepdims=True)
    return (
        slope,
        torch.from_numpy(first.sum(axis=0)).float().view_as(mean),
        torch.from_numpy(second.sum(axis=0)).float().view_as(mean),
        torch.from_numpy(by_threshold.sum(axis=0)).float(),
        torch.from_numpy(per_height.T.copy()).float().view_as(heights),
    )


def tilt(slope: Tensor, x: Tensor, mean: Tensor, level: Tensor, lean: Tensor) -> None:
    """Add level + lean (x - mean) to ``slope`` in place; all but x are as in :func:`backward`."""
    x = _dense(x, period := mean.numel())
    rows, length = _rows(x, period, 1)
    lanes = (_lanes(each, period) for each in (mean, level, lean))
    _share(_tilt, rows, length, _flat(x), *lanes, _flat(slope))


@_compiled
def _differentiate(
    form: float, height: np.float32, threshold: np.float32, z: _Floats, step: _Floats
) -> None:
    if form == _TANH:
        for i in range(len(z)):
            step[i] = height * _sech_squared(z[i] + threshold)
    elif form == _POLYNOMIAL:
        for i in range(len(z)):
            reach = np.float32(1) - abs(z[i] + threshold)
            step[i] = height * np.float32(2) * max(reach, np.float32(0))
    else:
        width = np.float32(form)
        for i in range(len(z)):
            step[i] = height if abs(z[i] + threshold) <= width else np.float32(0)


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


@_exact
def _standardise(x: _Floats, mean: _Floats, scale: _Floats, offset: _Floats, z: _Floats) -> None:
    for i in range(len(x)):
        z[i] = (x[i] - mean[i]) * scale[i] + offset[i]


@_compiled
def _fold(lanes: _Floats, sums: _Sums) -> None:
    """Add what each lane holds to the sum of its channel."""
    for i in range(len(lanes)):
        sums[i % len(sums)] += lanes[i]


@_compiled
def _gather(
    first: int,
    last: int,
    length: int,
    x: _Floats,
    origin: _Floats,
    by_channel: _Sums,
    by_square: _Sums,
) -> None:
    sums, squares = np.empty_like(origin), np.empty_like(origin)
    for row in range(first, last):
        end = min((row + 1) * length, x.size)
        sums[:] = 0
        squares[:] = 0
        for start in range(row * length, end, len(origin)):
            block = x[start : min(start + len(origin), end)]
            for i in range(len(block)):
                distance = block[i] - origin[i]
                sums[i] += distance
                squares[i] += distance * distance
        _fold(sums, by_channel[row])
        _fold(squares, by_square[row])


@_compiled
def _climb(
    first: int,
    last: int,
    length: int,
    x: _Floats,
    mean: _Floats,
    scale: _Floats,
    offset: _Floats,
    thresholds: _Floats,
    heights: _Floats,
    q: _Floats,
) -> None:
    scratch = np.empty_like(mean)
    for row in range(first, last):
        end = min((row + 1) * length, x.size)
        for start in range(row * length, end, len(mean)):
            stop = min(start + len(mean), end)
            z, total = scratch[: stop - start], q[start:stop]
            _standardise(x[start:stop], mean, scale, offset, z)
            for k in range(len(thresholds)):
                edge, height = -thresholds[k], heights[k, row % heights.shape[1]]
                if k == 0:
                    for i in range(len(z)):
                        total[i] = height if z[i] >= edge else -height
                else:
                    for i in range(len(z)):
                        total[i] += height if z[i] >= edge else -height


@_compiled
def _descend(
    first: int,
    last: int,
    length: int,
    x: _Floats,
    gradient: _Floats,
    mean: _Floats,
    scale: _Floats,
    offset: _Floats,
    thresholds: _Floats,
    heights: _Floats,
    form: float,
    sums: bool,
    slope: _Floats,
    by_threshold: _Sums,
    by_height: _Sums,
    by_channel: _Sums,
    by_product: _Sums,
) -> None:
    scratch = np.empty((3, len(mean)), np.float32)
    level, product = np.empty_like(mean), np.empty_like(mean)
    for row in range(first, last):
        end = min((row + 1) * length, x.size)
        level[:] = 0
        product[:] = 0
        for start in range(row * length, end, len(mean)):
            stop = min(start + len(mean), end)
            size = stop - start
            read, upstream, out = x[start:stop], gradient[start:stop], slope[start:stop]
            z, total, step = scratch[0, :size], scratch[1, :size], scratch[2, :size]
            _standardise(read, mean, scale, offset, z)
            total[:] = 0
            for k in range(len(thresholds)):
                threshold, height = thresholds[k], heights[k, row % heights.shape[1]]
                _differentiate(form, height, threshold, z, step)
                for i in range(len(z)):
                    total[i] += step[i]
                if sums:
                    threshold_sum = height_sum = np.float32(0)
                    for i in range(len(z)):
                        threshold_sum += step[i] * upstream[i]
                        height_sum += upstream[i] if z[i] + threshold >= 0 else -upstream[i]
                    by_threshold[row, k] += threshold_sum
                    by_height[row, k] += height_sum
            for i in range(len(z)):
                share = total[i] * upstream[i]
                level[i] += share
                product[i] += share * (read[i] - mean[i])
                out[i] = share * scale[i]
        _fold(level, by_channel[row])
        _fold(product, by_product[row])


@_compiled
def _tilt(
    first: int,
    last: int,
    length: int,
    x: _Floats,
    mean: _Floats,
    level: _Floats,
    lean: _Floats,
    slope: _Floats,
) -> None:
    for row in range(first, last):
        end = min((row + 1) * length, x.size)
        for start in range(row * length, end, len(mean)):
            stop = min(start + len(mean), end)
            read, total = x[start:stop], slope[start:stop]
            for i in range(len(read)):
                total[i] += level[i] + lean[i] * (read[i] - mean[i])


def _rows(x: Tensor, period: int, groups: int) -> tuple[int, int]:
    """How many rows, and elements in each: one row a height where they differ along x."""
    if groups > 1:
        return groups, x.numel() // groups
    length = period * max(1, _ROW // period)
    return -(-x.numel() // length), length


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


def _dense(x: Tensor, period: int) -> Tensor:
    """``x`` without gaps in memory, its channels innermost where they are told apart."""
    if period > 1 or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return x.contiguous(memory_format=torch.channels_last)
    return x.contiguous()


def _flat(dense: Tensor) -> _Floats:
    """The numbers of a tensor without gaps in the order they lie in memory, not copied."""
    view: _Floats = dense.detach().as_strided((dense.numel(),), (1,)).numpy()
    return view


def _lanes(channels: Tensor, period: int) -> _Floats:
    """One number a channel, over and over, as far as a block goes."""
    lanes: _Floats = np.tile(channels.detach().reshape(-1).numpy(), max(1, _BLOCK // period))
    return lanes


def _table(heights: Tensor) -> _Floats:
    """(K, 1) or (K, C_out)."""
    table: _Floats = heights.detach().reshape(len(heights), -1).numpy()
    return table
