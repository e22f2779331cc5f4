"""What attacks share: their types, the random start, who is broken."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mbnas.errors import DataError, SettingsError
from mbnas.randomness import uniform

Model = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to logits (B, classes)."""

Attack = Callable[[Model, Tensor, Tensor], Tensor]
"""(model, x, y) -> x_adv, the other arguments bound by the caller."""


def ball(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The least and the greatest image within ``eps`` of each image and within [0, 1].

    Raises:
        SettingsError: if ``eps`` is not in the scale of images in [0, 1].
    """
    require_scale("eps", eps)
    return (x - eps).clamp(min=0), (x + eps).clamp(max=1)


def require_scale(name: str, distance: float) -> None:
    """Check a distance.

    Raises:
        SettingsError: if it is not in the scale of images in [0, 1].
    """
    if not 0 < distance <= 1:
        raise SettingsError(
            f"{name} {distance:g} is not in the scale of images in [0, 1]; "
            "8 of 255 levels are 8/255"
        )


def require_images(x: Tensor) -> None:
    """Check images (B, C, H, W).

    Raises:
        DataError: if they are not in [0, 1].
    """
    if not ((x >= 0) & (x <= 1)).all():
        raise DataError(
            f"images run from {x.min():g} to {x.max():g}; attacks need them in [0, 1]: divide by "
            "255 and leave standardisation to the network"
        )


def uniform_start(x: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """A uniform point of the eps-ball around each image, clipped to [0, 1]; shape of ``x``."""
    noise = uniform(x, generator) * 2 - 1
    return (x + eps * noise).clamp(0, 1)


@torch.no_grad()
def broken(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Which images are misclassified, (B,)."""
    return ~right(model(x), y)


def right(logits: Tensor, y: Tensor) -> Tensor:
    """Where logits (B, K) are finite and largest at the label, (B,)."""
    return (logits.argmax(dim=1) == y) & logits.isfinite().all(dim=1)
