"""The final measurement: the loss that it reports."""

from math import exp, log1p

import pytest
from helpers import tiny
from victims import grey, masked

from mbnas.final import final_scores
from mbnas.settings import Surrogate


def test_the_loss_is_the_mean_over_all_images_however_few_are_attacked() -> None:
    images = grey([0] * 8 + [255] * 4, [0] * 12)  # logits of 0.7 and -0.3, twice that apart
    scores = final_scores(masked(Surrogate.STE), images, tiny("test.images=3"))
    assert (scores.images, scores.attacked) == (12, 3)
    assert scores.loss == pytest.approx((8 * log1p(exp(-1.4)) + 4 * log1p(exp(0.6))) / 12)
