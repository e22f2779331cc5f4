"""Convolutions: a layer is a latent weight and two quantizers, which its number format decides.

Multi-bit ones (Frickenstein et al. 2023, Eq. 2; ABC-Net, Lin et al. 2017, Eq. 3-6):

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
from torch.nn.utils import prune

from mbnas import precision
from mbnas.assignment import Bases, Space
from mbnas.backbones import Row
from mbnas.fixed_point import clip_for_normal, fixed_point
from mbnas.formats import Family
from mbnas.normalisation import Standard, of_batch, of_weight, unchanged
from mbnas.quantizers import height_for_normal, staircase, threshold_grid
from mbnas.settings import Surrogate


class WeightQuantizer(nn.Module):
    """M weight bases: thresholds u (M,) and scales alpha (M, C_out, 1, 1, 1)."""

    def __init__(self, bases: int, out_channels: int, spread: float) -> None:
        super().__init__()
        grid = threshold_grid(bases)
        scale = height_for_normal(grid) * spread
        self.u = nn.Parameter(torch.tensor(grid))
        self.alpha = nn.Parameter(torch.full((bases, out_channels, 1, 1, 1), scale))

    def forward(self, weight: Tensor, surrogate: Surrogate) -> Tensor:
        """Merged weight sum_m alpha_m B_m; (C_out, C_in, k, k) -> same shape."""
        return staircase(weight, self.u, self.alpha, surrogate, of_weight(weight))


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


class Rectifier(nn.Module):
    """Full precision: ReLU."""

    def forward(self, x: Tensor, norm: nn.BatchNorm2d, surrogate: Surrogate) -> Tensor:
        """relu(norm(x)); (B, C_in, H, W) -> same shape; nothing needs a surrogate."""
        return F.relu(norm(x))


def takes_surrogates(network: nn.Module) -> bool:
    """Whether attacks through one surrogate or another differ: a format has rectifiers, or none."""
    return not any(isinstance(each, Rectifier) for each in network.modules())


class Unquantized(nn.Module):
    """Full precision: the weights as they are."""

    def forward(self, weight: Tensor, surrogate: Surrogate) -> Tensor:
        """(C_out, C_in, k, k) -> same; nothing needs a surrogate."""
        return weight


class PrunedWeights(nn.Module):
    """Full precision with ``kept`` of 8 weights, or of 8 input channels, the others zero.

    Those of least magnitude, or channels of least L1 norm, go (Han et al. 2015; Li et al. 2017),
    but never the last one; only what is kept gets a gradient. What is not whole goes, too, so that
    the cost, which counts kept / 8 of the products, is not exceeded (by fewer than 8 / kept
    channels it is: the last one of them stays).
    """

    def __init__(self, kept: int, *, channels: bool) -> None:
        super().__init__()
        self.kept, self.channels = kept, channels

    def forward(self, weight: Tensor, surrogate: Surrogate) -> Tensor:
        """(C_out, C_in, k, k) -> same shape; nothing needs a surrogate."""
        whole = torch.ones_like(weight)
        count = weight.shape[1] if self.channels else weight.numel()
        gone = count - max(1, count * self.kept // 8)
        pruning = (
            prune.LnStructured(gone, n=1, dim=1) if self.channels else prune.L1Unstructured(gone)
        )
        mask: Tensor = pruning.compute_mask(weight.detach(), whole)  # type: ignore[no-untyped-call]
        return weight * mask


class FixedPointWeights(nn.Module):
    """``bits``-bit weights over a learned range [-abs(clip), abs(clip)], clip () (fixed_point.py).

    A range below zero would make all weights alike; a step of Adam beyond zero comes back so.
    """

    def __init__(self, bits: int, spread: float) -> None:
        super().__init__()
        self.bits = bits
        self.clip = nn.Parameter(torch.tensor(clip_for_normal(bits, signed=True) * spread))

    def forward(self, weight: Tensor, surrogate: Surrogate) -> Tensor:
        """(C_out, C_in, k, k) -> same shape."""
        clip = self.clip.abs()
        return fixed_point(weight, -clip, clip, self.bits, surrogate)


class FixedPointActivations(nn.Module):
    """``bits``-bit activations over a learned range [0, abs(clip)], clip () (fixed_point.py)."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.clip = nn.Parameter(torch.tensor(clip_for_normal(bits, signed=False)))

    def forward(self, x: Tensor, norm: nn.BatchNorm2d, surrogate: Surrogate) -> Tensor:
        """(B, C_in, H, W) -> same shape."""
        return fixed_point(norm(x), x.new_zeros(()), self.clip.abs(), self.bits, surrogate)


class ScaledSigns(nn.Module):
    """XNOR-Net's weights, mean|W| sign(W) for each output channel (Rastegari et al. 2016, Eq. 6).

    W is centred over input channels first, as in the code of its authors.
    """

    def forward(self, weight: Tensor, surrogate: Surrogate) -> Tensor:
        """(C_out, C_in, k, k) -> same shape."""
        centred = weight - weight.mean(dim=1, keepdim=True)
        scale = centred.abs().mean(dim=(1, 2, 3), keepdim=True)
        return scale * _signs(centred, unchanged(weight), surrogate)


class Signs(nn.Module):
    """XNOR-Net's activations, sign(norm(x)); without the scaling map K, as in its authors' code."""

    def forward(self, x: Tensor, norm: nn.BatchNorm2d, surrogate: Surrogate) -> Tensor:
        """(B, C_in, H, W) -> same shape."""
        return _signs(x, of_batch(norm, x), surrogate)


def _signs(x: Tensor, standard: Standard, surrogate: Surrogate) -> Tensor:
    """The staircase of one step from -1 to 1 at 0."""
    return staircase(x, x.new_zeros(1), x.new_ones(1), surrogate, standard)


def initial_spread(row: Row) -> float:
    """Standard deviation of latent weights that carries the variance of x through the layer."""
    return 1 / math.sqrt(row.in_channels * row.kernel**2)


def latent_weight(row: Row) -> nn.Parameter:
    """Random latent weights W, (C_out, C_in, k, k)."""
    shape = (row.out_channels, row.in_channels, row.kernel, row.kernel)
    return nn.Parameter(torch.randn(shape) * initial_spread(row))


def _convolve(activations: Tensor, weight: Tensor, row: Row) -> Tensor:
    """Under autocast in low precision; what follows is in that of the activations again."""
    dtype = precision.of_convolutions(activations)
    y = F.conv2d(
        activations.to(dtype), weight.to(dtype), stride=row.stride, padding=row.kernel // 2
    )
    return y.to(activations.dtype)


class QuantizedConv2d(nn.Module):
    """One convolution of quantized weights and activations.

    Parameters: latent ``weight`` (C_out, C_in, k, k) and those of the two quantizers.

    Args:
        gain: deviation of the latent weights against one that keeps the variance of activations.
    """

    def __init__(
        self, row: Row, weights: nn.Module, activations: nn.Module, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.row = row
        self.weight = nn.Parameter(gain * latent_weight(row).detach())
        self.weights = weights
        self.activations = activations

    def forward(
        self,
        x: Tensor,
        norm: nn.BatchNorm2d,
        surrogate: Surrogate = Surrogate.STE,
        weight_surrogate: Surrogate = Surrogate.STE,
    ) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""
        merged = self.weights(self.weight, weight_surrogate)
        return _convolve(self.activations(x, norm, surrogate), merged, self.row)


def convolution(row: Row, family: Family, widths: Bases) -> QuantizedConv2d:
    """A fresh convolution of one format, initialised from torch's generator."""
    spread, rectified = initial_spread(row), math.sqrt(2)  # half of what is rectified is cut off
    match family:
        case Family.FLOAT:
            return QuantizedConv2d(row, Unquantized(), Rectifier(), rectified)
        case Family.PACT:
            weights = FixedPointWeights(widths.weights, rectified * spread)
            activations = FixedPointActivations(widths.activations)
            return QuantizedConv2d(row, weights, activations, rectified)
        case Family.WEIGHT_PRUNED | Family.CHANNEL_PRUNED:
            pruned = PrunedWeights(widths.weights, channels=family is Family.CHANNEL_PRUNED)
            return QuantizedConv2d(row, pruned, Rectifier(), rectified)
        case Family.XNOR:
            return QuantizedConv2d(row, ScaledSigns(), Signs())
        case Family.MBN:
            bases = WeightQuantizer(widths.weights, row.out_channels, spread)
            return QuantizedConv2d(row, bases, ActivationQuantizer(widths.activations))


class FrozenConv2d(nn.Module):
    """A convolution whose weights were quantized once; for evaluation and attacks."""

    merged: Tensor

    def __init__(self, layer: QuantizedConv2d) -> None:
        super().__init__()
        self.row = layer.row
        self.activations = layer.activations
        self.register_buffer("merged", layer.weights(layer.weight, Surrogate.STE).detach())

    def forward(
        self,
        x: Tensor,
        norm: nn.BatchNorm2d,
        surrogate: Surrogate = Surrogate.STE,
        weight_surrogate: Surrogate = Surrogate.STE,
    ) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H/stride, W/stride); its weights have no gradient."""
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
        self,
        x: Tensor,
        norm: nn.BatchNorm2d,
        bases: Bases,
        surrogate: Surrogate = Surrogate.STE,
        weight_surrogate: Surrogate = Surrogate.STE,
    ) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""
        merged = self.weights[str(bases.weights)](self.weight, weight_surrogate)
        quantized = self.activations[str(bases.activations)](x, norm, surrogate)
        return _convolve(quantized, merged, self.row)
