"""Multi-bit convolutions (Frickenstein et al. 2023, Eq. 2; ABC-Net, Lin et al. 2017, Eq. 3-6).

    B_m = sign((W - mean W)/std W + u_m),  m = 1..M        A_n = sign(norm(x) + v_n),  n = 1..N

    y = sum_m sum_n alpha_m beta_n conv(B_m, A_n) = conv(sum_n beta_n A_n, sum_m alpha_m B_m)

The right-hand side is exact by linearity, so a layer costs one convolution whatever M and N are.
Zero padding adds nothing on either side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mbnas import precision
from mbnas.assignment import Bases, Space
from mbnas.backbones import Row
from mbnas.config import Surrogate
from mbnas.normalisation import of_batch, of_weight
from mbnas.quantizers import height_for_normal, staircase, threshold_grid


class WeightQuantizer(nn.Module):
    """M weight bases: thresholds u (M,) and scales alpha (M, C_out, 1, 1, 1)."""

    def __init__(self, bases: int, out_channels: int, spread: float) -> None:
        super().__init__()
        grid = threshold_grid(bases)
        scale = height_for_normal(grid) * spread
        self.u = nn.Parameter(torch.tensor(grid))
        self.alpha = nn.Parameter(torch.full((bases, out_channels, 1, 1, 1), scale))

    def forward(self, weight: Tensor) -> Tensor:
        """Merged weight sum_m alpha_m B_m; (C_out, C_in, k, k) -> same shape."""
        return staircase(weight, self.u, self.alpha, Surrogate.STE, of_weight(weight))


class ActivationQuantizer(nn.Module):
    """N activation bases: thresholds v (N,) and scales beta (N,)."""

    def __init__(self, bases: int) -> None:
        super().__init__()
        grid = threshold_grid(bases)
        self.v = nn.Parameter(torch.tensor(grid))
        self.beta = nn.Parameter(torch.full((bases,), height_for_normal(grid)))

    def forward(self, x: Tensor, norm: nn.BatchNorm2d, surrogate: Surrogate) -> Tensor:
        """Merged activation sum_n beta_n A_n of norm(x); (B, C_in, H, W) -> same shape."""
        return staircase(x, self.v, self.beta, surrogate, of_batch(norm, x))


def initial_spread(row: Row) -> float:
    """Standard deviation of latent weights that carries the variance of x through the layer."""
    return 1 / math.sqrt(row.in_channels * row.kernel**2)


def latent_weight(row: Row) -> nn.Parameter:
    """Random latent weights W, (C_out, C_in, k, k)."""
    shape = (row.out_channels, row.in_channels, row.kernel, row.kernel)
    return nn.Parameter(torch.randn(shape) * initial_spread(row))


def _convolve(activations: Tensor, weight: Tensor, row: Row) -> Tensor:
    """Under autocast in low precision, which no comparison with a threshold ever is."""
    dtype = precision.of_convolutions(activations)
    y = F.conv2d(
        activations.to(dtype), weight.to(dtype), stride=row.stride, padding=row.kernel // 2
    )
    return y.to(activations.dtype)


class MultiBitConv2d(nn.Module):
    """One convolution with M weight bases and N activation bases.

    Parameters: latent ``weight`` (C_out, C_in, k, k) and those of the two quantizers.
    """

    def __init__(self, row: Row, bases: Bases) -> None:
        super().__init__()
        self.row = row
        self.weight = latent_weight(row)
        self.weights = WeightQuantizer(bases.weights, row.out_channels, initial_spread(row))
        self.activations = ActivationQuantizer(bases.activations)

    def forward(
        self, x: Tensor, norm: nn.BatchNorm2d, surrogate: Surrogate = Surrogate.STE
    ) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""
        merged = self.weights(self.weight)
        return _convolve(self.activations(x, norm, surrogate), merged, self.row)


class FloatConv2d(nn.Module):
    """The full-precision twin: ReLU in the place of the bases, the same shapes and order."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row = row
        self.weight = nn.Parameter(math.sqrt(2) * latent_weight(row).detach())  # half is cut off

    def forward(
        self, x: Tensor, norm: nn.BatchNorm2d, surrogate: Surrogate = Surrogate.STE
    ) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H/stride, W/stride); nothing needs a surrogate."""
        return F.conv2d(
            F.relu(norm(x)), self.weight, stride=self.row.stride, padding=self.row.kernel // 2
        )


class FrozenMultiBitConv2d(nn.Module):
    """A multi-bit convolution whose weights were merged once; for evaluation and attacks."""

    merged: Tensor

    def __init__(self, layer: MultiBitConv2d) -> None:
        super().__init__()
        self.row = layer.row
        self.activations = layer.activations
        self.register_buffer("merged", layer.weights(layer.weight).detach())

    def forward(
        self, x: Tensor, norm: nn.BatchNorm2d, surrogate: Surrogate = Surrogate.STE
    ) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""
        return _convolve(self.activations(x, norm, surrogate), self.merged, self.row)


class ElasticMultiBitConv2d(nn.Module):
    """A multi-bit convolution whose M and N are arguments.

    The latent weight is shared; u and alpha are private per M, v and beta private per N.
    """

    def __init__(self, row: Row, space: Space) -> None:
        super().__init__()
        self.row = row
        self.weight = latent_weight(row)
        self.weights = nn.ModuleDict(
            {
                str(m): WeightQuantizer(m, row.out_channels, initial_spread(row))
                for m in space.weights
            }
        )
        self.activations = nn.ModuleDict(
            {str(n): ActivationQuantizer(n) for n in space.activations}
        )

    def forward(
        self, x: Tensor, norm: nn.BatchNorm2d, bases: Bases, surrogate: Surrogate = Surrogate.STE
    ) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""
        merged = self.weights[str(bases.weights)](self.weight)
        quantized = self.activations[str(bases.activations)](x, norm, surrogate)
        return _convolve(quantized, merged, self.row)
