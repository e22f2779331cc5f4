"""Fixed point with learned clipping (PACT, Choi et al. 2018, Eq. 1-3; paper, Eq. 4-5).

    q(x) = low + round((clip(x, low, high) - low) n / (high - low)) (high - low) / n,   n = 2^k - 1

    dq/dx = s(z),    dq/dhigh = 1[x >= high],    dq/dlow = 1[x < low]

z runs from -1 at low to 1 at high, and s is what stands for the derivative of sign elsewhere
(quantizers.py): ``ste`` is PACT's own window, ``tanh`` has no dead zone. ``polynomial`` stands at
each of the n thresholds and is one step of q wide to either side, which sums up to a window with
sloping edges: with t = (x - low) n / (high - low)

    dq/dx = sum_j max(0, 1 - |t - j + 1/2|),  j = 1..n    = min(t + 1/2, n + 1/2 - t), in [0, 1]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from statistics import NormalDist, fmean
from typing import Any, cast

import torch
from torch import Tensor

from mbnas.quantizers import derivative
from mbnas.settings import Surrogate


class _FixedPoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch lets it hold attributes of any type)
        x: Tensor,
        low: Tensor,
        high: Tensor,
        bits: int,
        surrogate: Surrogate,
    ) -> Tensor:
        ctx.save_for_backward(x, low, high)
        ctx.surrogate, ctx.steps = surrogate, 2**bits - 1
        step = (high - low) / ctx.steps
        return x.clamp(low, high).sub_(low).div_(step).round_().mul_(step).add_(low)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, low, high = ctx.saved_tensors
        (gradient,) = upstream
        within = (x - low).div_(high - low)
        dx = _slope(ctx.surrogate, within, ctx.steps).mul_(gradient)
        dlow = torch.where(x < low, gradient, 0).sum_to_size(low.shape)
        dhigh = torch.where(x >= high, gradient, 0).sum_to_size(high.shape)
        return dx, dlow, dhigh, None, None


def _slope(surrogate: Surrogate, within: Tensor, steps: int) -> Tensor:
    """dq/dx where ``within`` runs from 0 at low to 1 at high."""
    if surrogate is Surrogate.POLYNOMIAL:
        t = within.mul(steps)
        return torch.minimum(t + 0.5, steps + 0.5 - t).clamp_(0, 1)
    return derivative(surrogate, within.mul(2).sub_(1))


def fixed_point(x: Tensor, low: Tensor, high: Tensor, bits: int, surrogate: Surrogate) -> Tensor:
    """q(x) of the module's docstring.

    Args:
        x: any shape.
        low, high: scalars, the range that 2^bits evenly spaced levels share.
        surrogate: the slope of the staircase seen by the backward pass.
    """
    apply = cast(Callable[..., Tensor], _FixedPoint.apply)
    return apply(x, low, high, bits, surrogate)


@cache
def clip_for_normal(bits: int, *, signed: bool) -> float:
    """The c that minimises E[(f(z) - q(z))^2] for standard normal z.

    f is the identity with levels over [-c, c] if ``signed``, else ReLU with levels over [0, c].
    """
    normal, levels = NormalDist(), 2**bits - 1
    sample = [normal.inv_cdf((i + 0.5) / 1000) for i in range(1000)]
    values = sample if signed else [max(z, 0.0) for z in sample]

    def error(clip: float) -> float:
        low = -clip if signed else 0.0
        step = (clip - low) / levels
        return fmean(
            (v - low - step * round((min(max(v, low), clip) - low) / step)) ** 2 for v in values
        )

    return min((0.05 * i for i in range(1, 101)), key=error)
