"""PReLU, y = max(x, 0) + a min(x, 0) with a learned slope for each channel, and its gradient

    dL/dx = dL/dy (1 if x > 0 else a),    dL/da = sum dL/dy min(x, 0)

(He et al. 2015, Eq. 1 and 8), each as one pass over memory on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mbnas import loops
from mbnas.loops import (
    Floats,
    Sums,
    compiled,
    dense,
    flat,
    fold,
    laid_out_like,
    repeat,
    share,
    split,
)


class PReLU(nn.PReLU):
    """:class:`torch.nn.PReLU` of (B, C, H, W) -> same shape; its slopes are ``weight``, (C,)."""

    def forward(self, x: Tensor) -> Tensor:
        """What the module's docstring says."""
        if not loops.suits(x):
            return F.prelu(x, self.weight)
        return cast(Callable[..., Tensor], _Bend.apply)(x, self.weight)


class _Bend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slopes: Tensor) -> Tensor:  # noqa: ANN401 (torch's own type)
        ctx.save_for_backward(x, slopes)
        x = dense(x, period := slopes.numel())
        y = torch.empty_like(x)
        share(_bend, *split(x, period), flat(x), repeat(slopes, period), flat(y))
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: ANN401
        x, slopes = ctx.saved_tensors
        x = dense(x, period := slopes.numel())
        gradient = laid_out_like(upstream[0], x)
        dx = torch.empty_like(x)
        rows, length = split(x, period)
        by_slope = np.zeros((rows, period))
        lanes = repeat(slopes, period)
        share(_descend, rows, length, flat(x), flat(gradient), lanes, flat(dx), by_slope)
        wanted = ctx.needs_input_grad[1]
        return dx, torch.from_numpy(by_slope.sum(axis=0)).float() if wanted else None


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
def _descend(
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
        fold(sums, by_slope[row])
