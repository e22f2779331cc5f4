"""A table and one module per searchable row -> a residual network.

The order is batch-norm -> sign -> convolution -> shortcut (Rastegari et al. 2016).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mbnas.assignment import Assignment, Space
from mbnas.backbones import Backbone, Row
from mbnas.errors import DataError
from mbnas.formats import Format
from mbnas.layers import FrozenConv2d, QuantizedConv2d, convolution
from mbnas.prelu import PReLU
from mbnas.settings import Surrogate


class Skeleton(nn.Module):
    """All of a network but what its searchable convolutions compute.

    Args:
        convolutions: one module per searchable row, by row name.

    The buffers ``mean`` and ``std`` (C, 1, 1) standardise images in [0, 1]; they are 0 and 1 until
    :meth:`standardise_by` sets them from data.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, convolutions: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        stem, classifier = backbone.stem, backbone.classifier
        self.register_buffer("mean", torch.zeros(stem.in_channels, 1, 1))
        self.register_buffer("std", torch.ones(stem.in_channels, 1, 1))
        self.stem = nn.Conv2d(
            stem.in_channels,
            stem.out_channels,
            stem.kernel,
            stride=stem.stride,
            padding=stem.kernel // 2,
            bias=False,
        )
        self.norms = nn.ModuleDict(
            {row.name: nn.BatchNorm2d(row.in_channels) for row in backbone.searchable}
        )
        self.convolutions = nn.ModuleDict(dict(convolutions))
        self.bends = nn.ModuleDict(
            {row.name: PReLU(row.out_channels) for row in backbone.main} if backbone.prelu else {}
        )
        self.head = nn.BatchNorm2d(classifier.in_channels)
        self.classifier = nn.Linear(classifier.in_channels, classifier.out_channels)

    def standardise_by(self, mean: Tensor, std: Tensor) -> None:
        """Fix the input standardisation; ``mean`` and ``std`` are (C,)."""
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(std.view_as(self.std))

    def propagate(self, x: Tensor, convolve: Callable[[Row, Tensor], Tensor]) -> Tensor:
        """Images (B, C, H, W) -> logits (B, classes), each searchable row run by ``convolve``.

        Raises:
            DataError: if they are not floats of as many channels as the stem takes.
        """
        if x.ndim != 4 or x.shape[1] != len(self.mean) or not x.is_floating_point():
            raise DataError(
                f"images {tuple(x.shape)} of {x.dtype} do not fit; give (B, {len(self.mean)}, H, "
                "W) as floats in [0, 1]"
            )
        images = ((x - self.mean) / self.std).to(self.mean.dtype)
        # This memory format convolves 10-30 % faster.
        x = self.stem(images.contiguous(memory_format=torch.channels_last)).to(images.dtype)
        if self.backbone.stem_pool:
            x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        for block in self.backbone.blocks:
            x = self._residual(block, x, convolve)
        pooled = F.relu(self.head(x)).mean(dim=(2, 3))
        logits: Tensor = self.classifier(pooled)
        return logits.to(images.dtype)

    def _residual(
        self, block: tuple[Row, ...], x: Tensor, convolve: Callable[[Row, Tensor], Tensor]
    ) -> Tensor:
        """Every main convolution has its own shortcut (Liu et al. 2018, Bi-Real Net).

        Where the backbone says so, there is one around all of them (He et al. 2016), and what is
        negative is bent by a learned slope for each channel first (PReLU; Bulat et al. 2019, Liu
        et al. 2020).
        """
        main = [row for row in block if row.role == "main"]
        projection = next((row for row in block if row.role == "shortcut"), None)
        for branch in [main] if self.backbone.block_shortcuts else [[row] for row in main]:
            z = x
            for row in branch:
                z = convolve(row, z)
                if self.backbone.prelu:
                    z = self.bends[row.name](z)
            if z.shape == x.shape:
                x = z + x
            elif projection is not None:
                x = z + convolve(projection, x)
            else:
                x = z + self.shortcut(x, branch[0])
        return x

    def shortcut(self, x: Tensor, row: Row) -> Tensor:
        """What is added to a main row of another shape; (B, C_in, H, W) -> that shape."""
        if self.backbone.averaged_shortcuts:
            return _average_and_repeat(x, row)
        return _subsample_and_pad(x, row)


def _average_and_repeat(x: Tensor, row: Row) -> Tensor:
    """Means over ``stride`` x ``stride`` pixels, all channels several times (Liu et al. 2020)."""
    averaged = F.avg_pool2d(x, kernel_size=row.stride, ceil_mode=True)
    return torch.cat([averaged] * (row.out_channels // row.in_channels), dim=1)


def _subsample_and_pad(x: Tensor, row: Row) -> Tensor:
    """Every ``stride``-th pixel, new channels zero (He et al. 2016, option A)."""
    new = row.out_channels - row.in_channels
    # Slicing would do, but its gradient comes back in another memory format than all others.
    sampled = F.avg_pool2d(x, kernel_size=1, stride=row.stride)
    return F.pad(sampled, (0, 0, 0, 0, new // 2, new - new // 2))


class Network(Skeleton):
    """A network with fixed bases: ``network(x)``, or ``network(x, surrogate)`` under attack."""

    def forward(
        self,
        x: Tensor,
        surrogate: Surrogate = Surrogate.STE,
        weight_surrogate: Surrogate = Surrogate.STE,
    ) -> Tensor:
        """Images (B, C, H, W) in [0, 1] -> logits (B, classes).

        Args:
            surrogate, weight_surrogate: the derivative of sign that a backward pass sees in the
                quantizers of activations and of latent weights.
        """
        return self.propagate(
            x,
            lambda row, z: self.convolutions[row.name](
                z, self.norms[row.name], surrogate, weight_surrogate
            ),
        )


class Source(Protocol):
    """What networks are taken from: a supernet, or a network that is pruned."""

    @property
    def kind(self) -> str:
        """What metrics call a start from it."""

    @property
    def backbone(self) -> Backbone:
        """Their table."""

    @property
    def space(self) -> Space:
        """Which ones there are."""

    def network(self, assignment: Assignment) -> Network:
        """One of them, with tensors of its own."""

    def to(self, device: torch.device) -> Source:
        """The same on a device, moved there, not copied."""


def build_network(backbone: Backbone, format_: Format) -> Network:
    """A fresh network in one number format, initialised from torch's generator."""
    rows = zip(backbone.searchable, format_.widths, strict=True)
    return Network(
        backbone, {row.name: convolution(row, format_.family, widths) for row, widths in rows}
    )


def multibit(backbone: Backbone, assignment: Assignment) -> Network:
    """A fresh network with the bases of ``assignment``."""
    return build_network(backbone, Format.multibit(assignment))


def take_over(network: Network, trained: Network) -> None:
    """Give ``network`` all that fits of one with the same convolutions, of whatever format.

    Quantizers and PReLU that the other one does not have stay as they are.
    """
    own, given = network.state_dict(), trained.state_dict()
    fitting = {
        key: each for key, each in given.items() if key in own and own[key].shape == each.shape
    }
    network.load_state_dict(fitting, strict=False)


def freeze(network: Network) -> Network:
    """A copy for evaluation: weights merged once, no parameter gradients, batch-norm fixed.

    What is frozen stays as it is.
    """
    frozen = copy.deepcopy(network).requires_grad_(False)
    for name, layer in frozen.convolutions.items():
        if isinstance(layer, QuantizedConv2d):
            frozen.convolutions[name] = FrozenConv2d(layer)
    return frozen.eval()
