"""51 training steps on digits: loss curves that must not change, with either form of quantizers.

After a change that is meant to alter the curves, ``python tests/test_golden.py`` writes them anew.
"""

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from mbnas import backbones
from mbnas.assignment import Assignment
from mbnas.data import load
from mbnas.networks import Network, multibit
from mbnas.objectives import network_objective
from mbnas.randomness import generator, seeded
from mbnas.settings import DataSettings, Precision, Recipe, Surrogate, Threat

GOLDEN = Path(__file__).parent / "golden"
CASES = {"1x1": "1x1", "3x3": "3x3", "mixed": "3x1,1x3,2x2,1x1,1x2,3x3"}
NAMES = pytest.mark.parametrize("name", CASES)
THREAT = Threat(eps=0.1, step=0.025, surrogate=Surrogate.TANH)
RECIPE = Recipe(epochs=1, precision=Precision.FLOAT32)


def steps(name: str) -> Iterator[tuple[Network, Tensor, Tensor]]:
    """51 times a network, and a batch of 64; Adam moves the network in between."""
    data = load(DataSettings(name="digits", validation=300), seed=0)
    table = backbones.build("resnet8", width=8, image=(1, 8, 8), classes=10)
    with seeded(0):
        network = multibit(table, Assignment.parse(CASES[name], len(table.searchable)))
    network.standardise_by(*data.statistics())
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    rng = generator(0, "golden")
    for _ in range(3):  # epochs of 17 batches
        for x, y in data.train.shuffled(64, shift=1, flip=False, rng=rng):
            optimizer.zero_grad()
            yield network, x, y
            optimizer.step()


def loss(network: Network, x: Tensor, y: Tensor) -> Tensor:
    """Of one step, whose gradients are then in the network."""
    return network_objective(network, THREAT, RECIPE)(1)(x, y, torch.Generator())


def curve(name: str) -> list[float]:
    return [loss(*step).item() for step in steps(name)]


@NAMES
def test_the_loss_curve_is_the_recorded_one(name: str) -> None:
    golden = [float(line) for line in (GOLDEN / f"{name}.txt").read_text().split()]
    found = curve(name)
    assert golden[-1] < 0.7 * golden[0]
    # A rounding error flips the sign of a weight sooner or later, which a curve survives, but not
    # to the digit: processors differ in the third one.
    assert found[:3] == pytest.approx(golden[:3], rel=1e-5)
    assert found == pytest.approx(golden, abs=0.3)
    assert sum(found) == pytest.approx(sum(golden), rel=0.02)


@NAMES
def test_plain_quantizers_have_the_same_losses_and_gradients_at_every_step(name: str) -> None:
    for network, x, y in steps(name):
        with mock.patch("mbnas.loops.suits", new=lambda *_: False):
            plain_loss = loss(network, x, y)
        plain = [each.grad.clone() for each in network.parameters()]
        network.zero_grad()
        assert loss(network, x, y).item() == pytest.approx(plain_loss.item(), rel=1e-4)
        for each, gradient in zip(network.parameters(), plain, strict=True):
            assert (each.grad - gradient).norm() <= 1e-2 * gradient.norm() + 1e-6


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in CASES:
        text = "".join(f"{each:.6f}\n" for each in curve(name))
        (GOLDEN / f"{name}.txt").write_text(text)
