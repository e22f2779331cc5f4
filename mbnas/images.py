"""Images in memory, drawn and augmented in whole batches on the device they lie on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """A selection of stored images; nothing is copied until batches are drawn.

    Attributes:
        pixels: (S, C, H, W) as uint8, possibly mapped from disk.
        targets: (S,) labels as int64.
        positions: (N,) which of the S stored images belong to this selection, in this order.
    """

    pixels: Tensor
    targets: Tensor
    positions: Tensor

    @classmethod
    def of(cls, pixels: Tensor, targets: Tensor) -> Images:
        """All of the stored images."""
        return cls(pixels, targets, torch.arange(len(targets), device=targets.device))

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def labels(self) -> Tensor:
        """(N,)."""
        return self.targets[self.positions]

    def take(self, indices: Tensor) -> Images:
        """The images at these positions of the selection, in this order."""
        return Images(self.pixels, self.targets, self.positions[indices])

    def first(self, count: int | None) -> Images:
        """The first ``count`` images; all of them for None."""
        return Images(self.pixels, self.targets, self.positions[:count])

    def dense(self) -> Images:
        """The same selection with no other image stored beside it."""
        return Images.of(self.pixels[self.positions], self.labels)

    def to(self, device: torch.device) -> Images:
        """The same images stored on a device; where they lie already, nothing is copied."""
        if device == self.pixels.device:
            return self
        dense = self.dense()
        return Images.of(dense.pixels.to(device), dense.targets.to(device))

    def gather(self, indices: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) as floats in [0, 1] and labels (B,)."""
        chosen = self.positions[indices]
        return self.pixels[chosen].float().div_(255), self.targets[chosen]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All images in order, as :meth:`gather` returns them."""
        for start in range(0, len(self), size):
            yield self.gather(slice(start, start + size))

    def shuffled(
        self, size: int, *, shift: int, flip: bool, rng: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of augmented batches in random order; an incomplete last batch is left out."""
        size = min(size, len(self))
        order = torch.randperm(len(self), generator=rng).to(self.positions.device)
        for start in range(0, len(self) - size + 1, size):
            x, y = self.gather(order[start : start + size])
            yield augment(x, shift=shift, flip=flip, rng=rng), y


def augment(x: Tensor, *, shift: int, flip: bool, rng: torch.Generator) -> Tensor:
    """Random crops of the zero-padded images and random horizontal flips, (B, C, H, W) each."""
    count, _, height, width = x.shape
    if shift:
        top, left = torch.randint(2 * shift + 1, (2, count, 1), generator=rng).to(x.device)
        rows = (top + torch.arange(height, device=x.device))[:, None, :, None]
        columns = (left + torch.arange(width, device=x.device))[:, None, None, :]
        image = torch.arange(count, device=x.device)[:, None, None, None]
        channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
        x = F.pad(x, (shift,) * 4)[image, channel, rows, columns]
    if flip:
        mirrored = torch.rand(count, generator=rng).to(x.device) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    return x
