"""The reference implementation of AutoAttack, behind our signature, against a known optimum."""

import pytest
import torch
from torch import Tensor
from victims import seeded

from mbnas.auditing import autoattack

pytest.importorskip("pyautoattack", reason='needs pip install "mbnas[autoattack]"')
EPS = 0.08


def withstand(directions: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(w_y - w_k) . x > eps |w_y - w_k|_1 for all k != y, far from the walls of the box; (B,)."""
    apart = directions[y][:, None] - directions[None]
    reserve = (apart * x.flatten(1)[:, None]).sum(-1) - EPS * apart.abs().sum(-1)
    return (reserve > 0).sum(dim=1) == len(directions) - 1


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_it_breaks_exactly_what_can_be_broken(classes: int) -> None:
    directions = torch.randn(classes, 12, generator=seeded(3))

    def linear(x: Tensor) -> Tensor:
        """(B, 3, 2, 2) -> (B, classes)."""
        return x.flatten(1) @ directions.T

    x = 0.1 + 0.8 * torch.rand(24, 3, 2, 2, generator=seeded(1))
    y = linear(x).argmax(dim=1)
    state = torch.random.get_rng_state()
    adversarial = autoattack.standard(linear, x, y, eps=EPS, seed=0)
    assert torch.equal(linear(adversarial).argmax(dim=1) == y, withstand(directions, x, y))
    assert 0 < int(withstand(directions, x, y).sum()) < len(x)
    assert (adversarial - x).abs().max() <= EPS + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert torch.equal(torch.random.get_rng_state(), state)
