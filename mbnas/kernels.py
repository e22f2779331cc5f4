"""Batch-norm, the staircase of quantizers.py, PReLU: gradients too, as few passes over memory.

Within a block (loops.py) there is one pass for each step of the staircase.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mbnas import loops
from mbnas.loops import Floats, Sums, compiled, exact
from mbnas.settings import Surrogate

_TANH, _POLYNOMIAL = -1.0, -2.0
_FORMS = {  # of the derivative of sign: the half-width of a window, or one of the above
    Surrogate.STE: 1.0,
    Surrogate.WIDE: 3.0,
    Surrogate.IDENTITY: np.inf,
    Surrogate.POLYNOMIAL: _POLYNOMIAL,
    Surrogate.TANH: _TANH,
}


def applies(x: Tensor, mean: Tensor, heights: Tensor) -> bool:
    """Whether these kernels can stand in for the plain version.

    Either x is (B, C, H, W) with one mean a channel and one height a step, or there is one mean
    and one height a step or one a step and ``x[i]``.
    """
    heights_of_a_step = heights[0].numel()
    shared = heights_of_a_step == 1
    channels = shared and x.dim() == 4 and mean.numel() == x.shape[1]
    whole = mean.numel() == 1 and (shared or heights_of_a_step == heights.shape[1] == len(x))
    return (channels or whole) and heights.dtype == torch.float32 and loops.suits(x)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel of (B, C, H, W), (C,) each."""
    x = loops.dense(x, channels := x.shape[1])
    origin = x[0, :, 0, 0]  # near the mean as seen from far away: squares stay small
    rows, length = loops.split(x, channels)
    first, second = np.zeros((2, rows, channels))
    loops.share(_gather, rows, length, loops.flat(x), loops.repeat(origin, channels), first, second)
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
    x = loops.dense(x, period := mean.numel())
    q = torch.empty_like(x)
    rows, length = loops.split(x, period, heights[0].numel())
    lanes = (loops.repeat(each, period) for each in (mean, scale, offset))
    loops.share(
        _climb,
        rows,
        length,
        loops.flat(x),
        *lanes,
        thresholds.numpy(),
        _table(heights),
        loops.flat(q),
    )
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
    moments: bool,
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
        moments: whether the two sums are; zero if not.
    """
    x = loops.dense(x, period := mean.numel())
    slope = torch.empty_like(x)
    rows, length = loops.split(x, period, heights[0].numel())
    lanes = (loops.repeat(each, period) for each in (mean, scale, offset))
    by_threshold, by_height = np.zeros((2, rows, len(thresholds)))
    first, second = np.zeros((2, rows, period))
    loops.share(
        _descend,
        rows,
        length,
        loops.flat(x),
        loops.flat(loops.laid_out_like(gradient, x)),
        *lanes,
        thresholds.numpy(),
        _table(heights),
        _FORMS[surrogate],
        sums,
        moments,
        loops.flat(slope),
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
    x = loops.dense(x, period := mean.numel())
    rows, length = loops.split(x, period)
    lanes = (loops.repeat(each, period) for each in (mean, level, lean))
    loops.share(_tilt, rows, length, loops.flat(x), *lanes, loops.flat(slope))


def bend(x: Tensor, slopes: Tensor) -> Tensor:
    """max(x, 0) + a min(x, 0) for x (B, C, H, W) and slopes a (C,), shaped like x."""
    x = loops.dense(x, period := slopes.numel())
    y = torch.empty_like(x)
    rows, length = loops.split(x, period)
    lanes = loops.repeat(slopes, period)
    loops.share(_bend, rows, length, loops.flat(x), lanes, loops.flat(y))
    return y


def unbend(x: Tensor, gradient: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of :func:`bend` by x, shaped like it, and by the slopes, (C,)."""
    x = loops.dense(x, period := slopes.numel())
    dx = torch.empty_like(x)
    rows, length = loops.split(x, period)
    lanes = loops.repeat(slopes, period)
    upstream = loops.flat(loops.laid_out_like(gradient, x))
    sums = np.zeros((rows, period))
    loops.share(_unbend, rows, length, loops.flat(x), upstream, lanes, loops.flat(dx), sums)
    return dx, torch.from_numpy(sums.sum(axis=0)).float()


@compiled
def _differentiate(
    form: float, height: np.float32, threshold: np.float32, z: Floats, step: Floats
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


@compiled
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


@exact
def _standardise(x: Floats, mean: Floats, scale: Floats, offset: Floats, z: Floats) -> None:
    for i in range(len(x)):
        z[i] = (x[i] - mean[i]) * scale[i] + offset[i]


@compiled
def _fold(lanes: Floats, sums: Sums) -> None:
    """Add what each lane holds to the sum of its channel."""
    for i in range(len(lanes)):
        sums[i % len(sums)] += lanes[i]


@compiled
def _gather(
    first: int,
    last: int,
    length: int,
    x: Floats,
    origin: Floats,
    by_channel: Sums,
    by_square: Sums,
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


@compiled
def _climb(
    first: int,
    last: int,
    length: int,
    x: Floats,
    mean: Floats,
    scale: Floats,
    offset: Floats,
    thresholds: Floats,
    heights: Floats,
    q: Floats,
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


@compiled
def _descend(
    first: int,
    last: int,
    length: int,
    x: Floats,
    gradient: Floats,
    mean: Floats,
    scale: Floats,
    offset: Floats,
    thresholds: Floats,
    heights: Floats,
    form: float,
    sums: bool,
    moments: bool,
    slope: Floats,
    by_threshold: Sums,
    by_height: Sums,
    by_channel: Sums,
    by_product: Sums,
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
            if moments:
                for i in range(len(z)):
                    descent = total[i] * upstream[i]
                    level[i] += descent
                    product[i] += descent * (read[i] - mean[i])
                    out[i] = descent * scale[i]
            else:
                for i in range(len(z)):
                    out[i] = total[i] * upstream[i] * scale[i]
        if moments:
            _fold(level, by_channel[row])
            _fold(product, by_product[row])


@compiled
def _tilt(
    first: int,
    last: int,
    length: int,
    x: Floats,
    mean: Floats,
    level: Floats,
    lean: Floats,
    slope: Floats,
) -> None:
    for row in range(first, last):
        end = min((row + 1) * length, x.size)
        for start in range(row * length, end, len(mean)):
            stop = min(start + len(mean), end)
            read, total = x[start:stop], slope[start:stop]
            for i in range(len(read)):
                total[i] += level[i] + lean[i] * (read[i] - mean[i])


@compiled
def _bend(first: int, last: int, length: int, x: Floats, slopes: Floats, y: Floats) -> None:
    for row in range(first, last):
        end = min((row + 1) * length, x.size)
        for start in range(row * length, end, len(slopes)):
            stop = min(start + len(slopes), end)
            read, out = x[start:stop], y[start:stop]
            for i in range(len(read)):
                out[i] = read[i] if read[i] > 0 else slopes[i] * read[i]


@compiled
def _unbend(
    first: int,
    last: int,
    length: int,
    x: Floats,
    gradient: Floats,
    slopes: Floats,
    dx: Floats,
    by_slope: Sums,
) -> None:
    sums = np.empty_like(slopes)
    for row in range(first, last):
        end = min((row + 1) * length, x.size)
        sums[:] = 0
        for start in range(row * length, end, len(slopes)):
            stop = min(start + len(slopes), end)
            read, upstream, out = x[start:stop], gradient[start:stop], dx[start:stop]
            for i in range(len(read)):
                out[i] = upstream[i] if read[i] > 0 else slopes[i] * upstream[i]
                sums[i] += min(read[i], np.float32(0)) * upstream[i]
        _fold(sums, by_slope[row])


def _table(heights: Tensor) -> Floats:
    """(K, 1) or (K, C_out)."""
    table: Floats = heights.detach().reshape(len(heights), -1).numpy()
    return table
