"""Models whose worst case is known, and images for them to be attacked on."""

import torch
from torch import Tensor, nn

from mbnas.attacks import Model
from mbnas.images import Images
from mbnas.settings import Surrogate

WEIGHT = torch.linspace(-1, 1, 12, dtype=torch.float64)  # no zero among them


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(x: Tensor) -> Tensor:
    """Two logits whose margin falls fastest along the signs of WEIGHT."""
    margin = x.flatten(1) @ WEIGHT.to(x)
    return torch.stack((-margin, margin), dim=1)


def uphill(y: Tensor) -> Tensor:
    """Where the loss of :func:`linear` grows for these labels, (B, 3, 2, 2)."""
    return (1 - 2 * y.double()).view(-1, 1, 1, 1) * WEIGHT.sign().view(1, 3, 2, 2)


def batch(count: int = 16, *, low: float = 0, high: float = 1) -> tuple[Tensor, Tensor]:
    """Images with pixels between low and high, in float64, and labels 0 and 1 in turn."""
    x = torch.rand(count, 3, 2, 2, generator=seeded(1), dtype=torch.float64)
    return low + (high - low) * x, torch.arange(count) % 2


def counting(model: Model, sizes: list[int]) -> Model:
    """The model, noting how many images each call brings."""

    def counted(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return model(x)

    return counted


def certain(x: Tensor) -> Tensor:
    """Class 1 whatever the image, though the gradient pretends otherwise."""
    return torch.tensor([0.0, 50.0]).to(x) + linear(x) / 1000


def grey(levels: list[int], labels: list[int], side: int = 1) -> Images:
    """One image of one colour for each level from 0 to 255."""
    pixels = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Images.of(pixels.repeat(1, 1, side, side), torch.tensor(labels))


class Masked(nn.Module):
    """See :func:`masked`."""

    def __init__(self, leads: Surrogate, elsewhere: int) -> None:
        super().__init__()
        self.leads, self.elsewhere = leads, elsewhere

    def forward(self, x: Tensor, surrogate: Surrogate = Surrogate.STE) -> Tensor:
        """Images to logits (B, 2)."""
        brightness = x.flatten(1).mean(1)
        slope = 1 if surrogate is self.leads else self.elsewhere
        margin = 0.7 - brightness.detach() - slope * (brightness - brightness.detach())
        return torch.stack((margin, -margin), dim=1)


def masked(leads: Surrogate, elsewhere: int = -1) -> nn.Module:
    """Class 0 below a brightness of 0.7; only one surrogate leads there.

    The others lead away from there, or nowhere if ``elsewhere`` is 0.
    """
    return Masked(leads, elsewhere).eval()
