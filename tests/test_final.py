"""The final measurement: the loss that it reports."""

from math import exp, log1p

import pytest
import torch
from helpers import tiny
from torch import Tensor

from mbnas.final import final_scores
from mbnas.images import Images
from mbnas.settings import Surrogate


def dark(x: Tensor, _: Surrogate = Surrogate.STE) -> Tensor:
    """Class 0 below a half, by a margin of 2; no gradient leads anywhere."""
    brightness = x.flatten(1).mean(1)
    margin = torch.where(brightness < 0.5, 1.0, -1.0) + 0 * brightness
    return torch.stack((margin, -margin), dim=1)


def test_the_loss_is_the_mean_over_all_images_however_few_are_attacked() -> None:
    grey = (
        torch.tensor([0] * 8 + [255] * 4, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    )
    images = Images.of(grey, torch.zeros(12, dtype=torch.long))
    scores = final_scores(dark, images, tiny("test.images=3"))
    assert (scores.images, scores.attacked) == (12, 3)
    assert scores.loss == pytest.approx((8 * log1p(exp(-2)) + 4 * log1p(exp(2))) / 12)
