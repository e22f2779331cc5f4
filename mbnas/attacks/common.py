"""What attacks share: their types, the random start, restarts, who is broken."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to logits (B, classes)."""

Attack = Callable[[Model, Tensor, Tensor], Tensor]
"""(model, x, y) -> x_adv, the other arguments bound by the caller."""


def uniform_start(x: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """A uniform point of the eps-ball around each image, clipped to [0, 1]; shape of ``x``."""
    noise = torch.rand(x.shape, generator=generator).to(x) * 2 - 1
    return (x + eps * noise).clamp(0, 1)


def restarted(attack: Attack, model: Model, x: Tensor, y: Tensor, restarts: int) -> Tensor:
    """Attack up to ``restarts`` times, each time only the images that still stand."""
    adversarial = x.clone()
    standing = torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        adversarial[standing] = attack(model, x[standing], y[standing])
        standing = standing[~broken(model, adversarial[standing], y[standing])]
        if len(standing) == 0:
            break
    return adversarial


@torch.no_grad()
def broken(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Which images are misclassified, (B,)."""
    return model(x).argmax(dim=1) != y
