"""Images as whole batches on the training device: drawn, moved there if need be, augmented."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mbnas.errors import DataError, SettingsError
from mbnas.randomness import derive, uniform

Batch = tuple[Tensor, Tensor]
"""Images (B, C, H, W) and labels (B,)."""


@dataclass(frozen=True)
class Images:
    """A selection of stored images; nothing is copied until batches are drawn.

    Attributes:
        pixels: (S, C, H, W) as uint8, possibly mapped from disk, or as floats in [0, 1].
        targets: (S,) labels as int64.
        positions: (N,) which of the S stored images belong to this selection, in this order.
        device: where batches are wanted. If the images are stored elsewhere, because they do not
            fit there, they are fetched while the batch before is being worked on.
    """

    pixels: Tensor
    targets: Tensor
    positions: Tensor
    device: torch.device

    @classmethod
    def of(cls, pixels: Tensor, targets: Tensor) -> Images:
        """All of the stored images.

        Raises:
            DataError: if these are no images with one label each.
        """
        if pixels.ndim != 4 or targets.shape != pixels.shape[:1]:
            raise DataError(
                f"images {tuple(pixels.shape)} and labels {tuple(targets.shape)} do not fit; give "
                "(n, C, H, W) and (n,)"
            )
        if targets.dtype != torch.int64:
            raise DataError(f"labels are {targets.dtype}; give whole numbers as torch.int64")
        positions = torch.arange(len(targets), device=targets.device)
        return cls(pixels, targets, positions, pixels.device)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def labels(self) -> Tensor:
        """(N,)."""
        return self.targets[self.positions]

    def take(self, indices: Tensor) -> Images:
        """The images at these positions of the selection, in this order."""
        return replace(self, positions=self.positions[indices])

    def first(self, count: int | None) -> Images:
        """The first ``count`` images, or all if there are no more; all of them for None.

        Raises:
            SettingsError: if ``count`` is negative.
        """
        if count is not None and count < 0:
            raise SettingsError(f"the first {count} images are none; give 0 or more")
        return replace(self, positions=self.positions[:count])

    def dense(self) -> Images:
        """The same selection with no other image stored beside it."""
        return Images.of(self.pixels[self.positions], self.labels).to(self.device)

    def to(self, device: torch.device) -> Images:
        """The same images for use on a device: stored there if they fill half its room at most."""
        if device == self.device:
            return self
        if len(self) * self.pixels[:1].nbytes > _room(device) / 2:
            return replace(self, device=device)
        pixels = self.pixels.new_empty((len(self), *self.pixels.shape[1:]), device=device)
        for slot, chosen in zip(
            torch.split(pixels, 4096), torch.split(self.positions, 4096), strict=True
        ):
            slot.copy_(self.pixels[chosen])  # a host's memory need not hold all of them
        return Images.of(pixels, self.labels.to(device))

    def gather(self, indices: Tensor | slice) -> Batch:
        """Images as floats in [0, 1], and labels; ``indices`` may lie on any device."""
        return self._unpacked(self._stored(indices))

    def batches(self, size: int) -> Iterator[Batch]:
        """All images in order, as :meth:`gather` returns them."""
        return self._gather_each(slice(i, i + size) for i in range(0, len(self), size))

    def batch_size(self, wanted: int, parts: int) -> int:
        """How many images a batch of an epoch has: all, where there are no more.

        Raises:
            SettingsError: if they have no so many equal parts.
        """
        size = min(wanted, len(self))
        if size % parts:
            raise SettingsError(
                f"batches of {size} images have no {parts} equal parts, one for each process; make "
                f"batch_size a multiple of {parts}, at most {len(self)}, or train with another "
                "number of processes"
            )
        return size

    def shuffled(
        self,
        size: int,
        *,
        shift: int,
        flip: bool,
        rng: torch.Generator,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[Batch]:
        """One epoch of augmented batches in random order; an incomplete last batch is left out.

        Args:
            part: (i, n) yields the i-th of n equal parts of each batch. All parts come from one
                ``rng`` in the same state, which goes on differently in each.

        Raises:
            SettingsError: if a batch has no n equal parts.
        """
        number, parts = part
        size = self.batch_size(size, parts)
        order = torch.randperm(len(self), generator=rng).to(self.positions.device)
        whole = torch.split(order[: len(self) // size * size], size)
        if number:
            rng.manual_seed(derive(rng.initial_seed(), "part", number))
        for x, y in self._gather_each(each[number::parts] for each in whole):
            yield augment(x, shift=shift, flip=flip, rng=rng), y

    def _gather_each(self, selections: Iterable[Tensor | slice]) -> Iterator[Batch]:
        if self.device == self.pixels.device:
            yield from map(self.gather, selections)
            return
        with ThreadPoolExecutor(1) as pool:
            fetched: deque[Future[Batch]] = deque()
            for indices in selections:
                fetched.append(pool.submit(self._stored, indices))
                if len(fetched) == 3:
                    yield self._unpacked(fetched.popleft().result())
            while fetched:
                yield self._unpacked(fetched.popleft().result())

    def _stored(self, indices: Tensor | slice) -> Batch:
        if isinstance(indices, Tensor):
            indices = indices.to(self.positions.device)
        chosen = self.positions[indices]
        x, y = self.pixels[chosen], self.targets[chosen]
        pinned = self.device.type == "cuda" and x.device.type == "cpu"
        return (x.pin_memory(), y.pin_memory()) if pinned else (x, y)

    def _unpacked(self, stored: Batch) -> Batch:
        x, y = (each.to(self.device, non_blocking=True) for each in stored)
        return x if x.is_floating_point() else x.float().div_(255), y


def _room(device: torch.device) -> float:
    """Free bytes of a device's own memory; a CPU reads what is mapped from disk where it lies."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else float("inf")


def augment(x: Tensor, *, shift: int, flip: bool, rng: torch.Generator) -> Tensor:
    """Random crops of the zero-padded images and random horizontal flips, (B, C, H, W) each."""
    count, _, height, width = x.shape
    if shift:
        corners = torch.randint(2 * shift + 1, (2, count, 1), generator=rng, pin_memory=x.is_cuda)
        top, left = corners.to(x.device, non_blocking=True)
        rows = (top + torch.arange(height, device=x.device))[:, None, :, None]
        columns = (left + torch.arange(width, device=x.device))[:, None, None, :]
        image = torch.arange(count, device=x.device)[:, None, None, None]
        channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
        x = F.pad(x, (shift,) * 4)[image, channel, rows, columns]
    if flip:
        mirrored = uniform(x[:, 0, 0, 0], rng) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
    return x
