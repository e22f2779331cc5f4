"""Square: random search that sees logits only (Andriushchenko et al. 2020, Alg. 1-2)."""

from __future__ import annotations

import math
from bisect import bisect_left

import torch
from torch import Tensor

from mbnas.attacks.common import Model, ball, require_images
from mbnas.losses import margin

_SHARE = 0.8  # of an image that the first square covers; smaller ones follow
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries
_DRAWS = 10  # of a colour, till it is another; in one channel every second one is not


@torch.no_grad()
def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    queries: int,
    generator: torch.Generator,
) -> Tensor:
    """L-infinity Square attack on the margin.

    Starts with vertical stripes of x - eps and x + eps; each further query sets one square of each
    image, whose colour is x - eps or x + eps in every channel, and keeps it if the margin grows.
    A square that has its colour already is given another one, as in the authors' code.

    Args:
        x: images (B, C, H, W) in [0, 1]; y: labels (B,).
        eps: radius of the ball, in the scale of the images.
        queries: most times the model sees an image.
        generator: of the CPU, wherever the images are.

    Returns:
        (B, C, H, W): the best found; misclassified where any query was.

    Raises:
        SettingsError: if ``eps`` is not in the scale of images in [0, 1].
        DataError: if the images are not.
    """
    require_images(x)
    lower, upper = ball(x, eps)
    batch, channels, height, width = x.shape

    def either(*shape: int) -> Tensor:
        return torch.randint(2, shape, generator=generator).bool().to(x.device)

    adversarial = torch.where(either(batch, channels, 1, width), upper, lower)
    values = margin(model(adversarial), y)
    standing = torch.arange(batch, device=x.device)
    for query in range(1, queries):
        standing = standing[values[standing] <= 0]
        if len(standing) == 0:
            break
        side = min(_side((query - 1) / queries, height * width), height, width)
        best, floor, ceiling = adversarial[standing], lower[standing], upper[standing]
        inside = _windows(best, side, generator)
        colour = either(len(standing), channels, 1, 1)
        for _ in range(_DRAWS):
            squares = torch.where(colour, ceiling, floor)
            tried = torch.where(inside, squares, best)
            idle = (tried == best).flatten(1).all(dim=1).nonzero()[:, 0]
            if len(idle) == 0:
                break
            colour[idle] = either(len(idle), channels, 1, 1)
        found = margin(model(tried), y[standing])
        better = (found > values[standing]).nonzero()[:, 0]
        adversarial[standing[better]], values[standing[better]] = tried[better], found[better]
    return adversarial


def _side(progress: float, pixels: int) -> int:
    """Of the square in pixels: its area is halved at set fractions of all queries."""
    halvings = bisect_left(_HALVINGS, int(progress * 10_000))
    return max(1, round(math.sqrt(_SHARE / 2**halvings * pixels)))


def _windows(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A square somewhere in each image of (B, C, H, W), (B, 1, H, W) of bool."""
    count, _, height, width = x.shape
    top, left = (
        torch.randint(length - side + 1, (count, 1, 1, 1), generator=generator).to(x.device)
        for length in (height, width)
    )
    below = torch.arange(height, device=x.device).view(-1, 1) - top
    right = torch.arange(width, device=x.device) - left
    return (below >= 0) & (below < side) & (right >= 0) & (right < side)
