"""The final measurement: the loss that it reports."""

from math import exp, log1p

import pytest
import torch
from helpers import tiny
from victims import grey, masked

from mbnas.evaluation import Spread
from mbnas.final import final_scores
from mbnas.settings import Surrogate


def test_the_loss_is_the_mean_over_all_images_however_few_are_attacked() -> None:
    images = grey([0] * 8 + [255] * 4, [0] * 12)  # logits of 0.7 and -0.3, twice that apart
    scores = final_scores(masked(Surrogate.STE), images, tiny("test.images=3"))
    assert (scores.images, scores.attacked) == (12, 3)
    assert scores.loss == pytest.approx((8 * log1p(exp(-1.4)) + 4 * log1p(exp(0.6))) / 12)


def test_the_last_iterate_is_told_from_every_one(monkeypatch: pytest.MonkeyPatch) -> None:
    found = torch.tensor([[True] * 3 + [False], [True] + [False] * 3])
    monkeypatch.setattr("mbnas.final.at_last_and_every", lambda *_: found)
    images = grey([0] * 4, [0] * 4)
    scores = final_scores(masked(Surrogate.STE), images, tiny("test.images=4"))
    assert scores.attacks["ste_last"] == Spread(0.75, 0)
    assert scores.attacks["ste_every"] == scores.pgd == Spread(0.25, 0)
