"""The final measurement: the loss that it reports, and what its attacks go through."""

from math import exp, log1p
from unittest import mock

import pytest
import torch
from helpers import tiny
from victims import grey, masked

from mbnas import data
from mbnas.evaluation import Spread, at_last_and_every, through
from mbnas.final import final_scores, reported
from mbnas.formats import Format
from mbnas.networks import build_network, freeze
from mbnas.randomness import generator
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


@pytest.mark.parametrize(("format_", "attacks"), [("float", 2), ("pact4", 4), ("mbn1x1", 4)])
def test_no_attack_is_made_twice_where_it_takes_no_surrogate(format_: str, attacks: int) -> None:
    settings = tiny("test.images=20", "test.runs=2")
    threat, table = settings.threat, settings.table
    assert threat.surrogate is not Surrogate.STE
    network = freeze(build_network(table, Format.parse(format_, len(table.searchable))))
    images = data.load(settings.data, settings.seed).test.first(20)
    with mock.patch("mbnas.final.at_last_and_every", wraps=at_last_and_every) as made:
        scores = final_scores(network, images, settings)
    assert made.call_count == attacks
    for surrogate in reported(threat):
        model, last = through(network, surrogate), []
        for run in range(2):
            rng = generator(settings.seed, "test", run)
            at_last, _ = at_last_and_every(model, images.batches(20), threat, rng, threat.steps)
            last.append(float(at_last.double().mean()))
        assert scores.attacks[f"{surrogate}_last"] == Spread.over(last)
