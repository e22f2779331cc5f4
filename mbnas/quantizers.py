"""From real numbers to a few binary bases and back: staircases of signs and their gradients.

A staircase with thresholds t_k and heights h_k is

    q(z) = sum_k h_k sign(z + t_k),    sign(0) = +1,

and its backward pass puts a surrogate s in the place of the derivative of sign,

    dL/dz   = dL/dq * sum_k h_k s(z + t_k)
    dL/dt_k = sum   dL/dq * h_k s(z + t_k)
    dL/dh_k = sum   dL/dq * sign(z + t_k).

z is a standardised x (normalisation.py). With x' = (x - mean) / deviation, z = gain x' + offset,

    dL/dgain = sum dL/dz * x',    dL/doffset = sum dL/dz,
    dL/dx = gain / deviation * (dL/dz - dL/doffset / n - x' dL/dgain / f),

where n numbers share a mean and f is n for the variance of a batch, n - 1 for the sample variance;
without the last two terms where mean and deviation are constants. As a surrogate there are

    ste         1[|a| <= 1]             Frickenstein et al. 2023, Eq. 2-3; Lin et al. 2017
    wide        1[|a| <= 3]
    identity    1                       Bengio et al. 2013
    polynomial  2 - 2 |a|, at least 0   Liu et al. 2018, Eq. 7
    tanh        1 - tanh(a)^2           smooth and never zero
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from mbnas import fusion, kernels
from mbnas.normalisation import Standard
from mbnas.settings import Surrogate


def derivative(surrogate: Surrogate, z: Tensor) -> Tensor:
    """What the surrogate takes the derivative of sign at ``z`` to be, same shape."""
    match surrogate:
        case Surrogate.STE:
            return (z.abs() <= 1).to(z.dtype)
        case Surrogate.WIDE:
            return (z.abs() <= 3).to(z.dtype)
        case Surrogate.IDENTITY:
            return torch.ones_like(z)
        case Surrogate.POLYNOMIAL:
            return (2 - 2 * z.abs()).clamp_(min=0)
        case Surrogate.TANH:
            return z.tanh().square_().neg_().add_(1)


class _Staircase(torch.autograd.Function):
    """Saves nothing but its input; what each step needs is recomputed in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch lets it hold attributes of any type)
        x: Tensor,
        gain: Tensor,
        offset: Tensor,
        thresholds: Tensor,
        heights: Tensor,
        surrogate: Surrogate,
        standard: Standard,
    ) -> Tensor:
        scale = standard.scale
        ctx.save_for_backward(
            x, standard.mean, standard.deviation, scale, offset, thresholds, heights
        )
        ctx.surrogate, ctx.freedom = surrogate, standard.freedom
        passes = _passes(x, standard.mean, heights)
        return passes.forward(x, standard.mean, scale, offset, thresholds, heights)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, mean, deviation, scale, offset, thresholds, heights = ctx.saved_tensors
        passes = _passes(x, mean, heights)
        (gradient,) = upstream
        wanted = ctx.needs_input_grad
        dx, level, product, by_threshold, by_height = passes.backward(
            x,
            gradient,
            mean,
            scale,
            offset,
            thresholds,
            heights,
            ctx.surrogate,
            sums=any(wanted[3:5]),
            moments=ctx.freedom is not None or any(wanted[1:3]),
        )
        if ctx.freedom is not None:
            count = x.numel() // mean.numel()
            lean = -scale * product / deviation.square() / ctx.freedom
            passes.tilt(dx, x, mean, -scale * level / count, lean)
        found = (dx, product / deviation, level, by_threshold, by_height)
        return *(g if want else None for g, want in zip(found, wanted, strict=False)), None, None


def plain_forward(
    x: Tensor, mean: Tensor, scale: Tensor, offset: Tensor, thresholds: Tensor, heights: Tensor
) -> Tensor:
    """q(z) in tensor operations: for every device and type, and the oracle of the kernels."""
    z = (x - mean) * scale + offset
    total = torch.where(z >= -thresholds[0], heights[0], -heights[0])
    for threshold, height in zip(thresholds[1:], heights[1:], strict=True):
        total += torch.where(z >= -threshold, height, -height)
    return total


def plain_backward(
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
    """What :func:`mbnas.kernels.backward` returns."""
    centred = x - mean
    z = centred * scale + offset
    slope = torch.zeros_like(x)
    by_threshold, by_height = torch.zeros_like(thresholds), torch.zeros_like(heights)
    for k, (threshold, height) in enumerate(zip(thresholds, heights, strict=True)):
        shifted = z + threshold
        step = derivative(surrogate, shifted).mul_(height)
        slope += step
        if sums:
            by_threshold[k] = step.mul_(gradient).sum()
            signed = torch.where(shifted >= 0, gradient, -gradient)
            by_height[k] = signed.sum_to_size(height.shape)
    slope.mul_(gradient)
    level, product = torch.zeros_like(mean), torch.zeros_like(mean)
    if moments:
        level = slope.sum_to_size(mean.shape)
        product = centred.mul_(slope).sum_to_size(mean.shape)
    return slope.mul_(scale), level, product, by_threshold, by_height


def plain_tilt(slope: Tensor, x: Tensor, mean: Tensor, level: Tensor, lean: Tensor) -> None:
    """What :func:`mbnas.kernels.tilt` does."""
    slope.add_((x - mean).mul_(lean).add_(level))


class _Passes(NamedTuple):
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]
    tilt: Callable[..., None]


_PLAIN = _Passes(plain_forward, plain_backward, plain_tilt)


def _passes(x: Tensor, mean: Tensor, heights: Tensor) -> _Passes:
    """Compiled ahead for a CPU, fused for a GPU, else plain."""
    if kernels.applies(x, mean, heights):
        return _Passes(kernels.forward, kernels.backward, kernels.tilt)
    return _Passes(*map(fusion.fused, _PLAIN)) if fusion.suits(x) else _PLAIN


def staircase(
    x: Tensor, thresholds: Tensor, heights: Tensor, surrogate: Surrogate, standard: Standard
) -> Tensor:
    """q(z) of the module's docstring for z = ``standard`` of x.

    Args:
        x: any shape.
        thresholds: (K,), one scalar per step.
        heights: (K, ...) where each ``heights[k]`` broadcasts to ``x``.
        surrogate: the derivative of sign seen by the backward pass.
    """
    apply = cast(Callable[..., Tensor], _Staircase.apply)
    return apply(x, standard.gain, standard.offset, thresholds, heights, surrogate, standard)


def threshold_grid(bases: int) -> list[float]:
    """Initial thresholds: evenly over [-1, 1], 0 for a single base (Lin et al. 2017, Eq. 3)."""
    if bases == 1:
        return [0.0]
    return [-1 + 2 * k / (bases - 1) for k in range(bases)]


def height_for_normal(thresholds: list[float]) -> float:
    """The h that minimises E[(z - h S(z))^2], S = sum_k sign(z + t_k), for standard normal z.

    h = E[z S] / E[S^2] with E[z sign(z + t)] = 2 phi(t) and
    E[sign(z + s) sign(z + t)] = 1 - 2 |Phi(s) - Phi(t)|.
    """

    def cumulative(t: float) -> float:
        return 0.5 * (1 + math.erf(t / math.sqrt(2)))

    correlation = sum(2 * math.exp(-t * t / 2) / math.sqrt(2 * math.pi) for t in thresholds)
    power = sum(1 - 2 * abs(cumulative(s) - cumulative(t)) for s in thresholds for t in thresholds)
    return correlation / power
