"""Random numbers that depend on what they are for, never on what ran before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derive(seed: int, *purpose: object) -> int:
    """A seed for one purpose, such as ``derive(0, "epoch", 3)``; 63 bits of SHA-256.

    Torch's generators for a CPU tell seeds apart by the lower 32 of them. Words of one purpose hold
    no slash, by which they are told apart.
    """
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator for one purpose; draws move to the device, so all devices see the same."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def uniform(x: Tensor, rng: torch.Generator) -> Tensor:
    """Numbers in [0, 1), shaped like ``x`` and where it is; a GPU does not wait for them."""
    return torch.rand(x.shape, generator=rng, pin_memory=x.is_cuda).to(x, non_blocking=True)


@contextmanager
def seeded(seed: int, *purpose: object) -> Iterator[None]:
    """Torch's global generator seeded for one purpose inside the block, restored after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *purpose))
        yield
