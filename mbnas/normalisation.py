"""How the input of a quantizer is standardised; computed where it is read, never stored.

    z = gain (x - mean) / deviation + offset

For activations this is batch-norm (Ioffe & Szegedy 2015), for latent weights
z = (W - mean W) / std W (Frickenstein et al. 2023, Eq. 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbnas import kernels, loops


@dataclass(frozen=True)
class Standard:
    """One standardisation; all tensors are scalars, or (C, 1, 1) for x of (B, C, H, W).

    Attributes:
        freedom: what the sum of squared deviations of ``x`` was divided by; None where mean and
            deviation do not depend on ``x``, so that no gradient goes through them.
    """

    mean: Tensor
    deviation: Tensor
    gain: Tensor
    offset: Tensor
    freedom: int | None

    @property
    def scale(self) -> Tensor:
        """dz/dx where mean and deviation are constants."""
        return self.gain / self.deviation


def unchanged(x: Tensor) -> Standard:
    """z = x."""
    zero, one = x.new_zeros(()), x.new_ones(())
    return Standard(zero, one, one, zero, None)


def of_weight(weight: Tensor) -> Standard:
    """By mean and sample deviation over a whole layer."""
    with torch.no_grad():
        deviation, mean = torch.std_mean(weight)
    one, zero = torch.ones_like(mean), torch.zeros_like(mean)
    return Standard(mean, deviation, one, zero, weight.numel() - 1)


def of_batch(norm: nn.BatchNorm2d, x: Tensor) -> Standard:
    """What ``norm`` does to x (B, C, H, W); in training mode its running statistics move."""
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        if norm.training:
            mean, variance = _moments(x)
            _follow(norm, mean, variance, x.numel() // x.shape[1])
        else:
            mean, variance = norm.running_mean, norm.running_var
        deviation = (variance + norm.eps).sqrt()
    freedom = x.numel() // x.shape[1] if norm.training else None
    return Standard(
        mean.view(-1, 1, 1),
        deviation.view(-1, 1, 1),
        norm.weight.view(-1, 1, 1),
        norm.bias.view(-1, 1, 1),
        freedom,
    )


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance of each channel, (C,) each."""
    if loops.suits(x):
        return kernels.moments(x)
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    return mean, variance


def _follow(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Move the running statistics, as :class:`torch.nn.BatchNorm2d` does."""
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (count / max(1, count - 1)), norm.momentum)
