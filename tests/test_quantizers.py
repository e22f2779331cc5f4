"""Staircases of signs: values, closed-form gradients, the height that fits a normal variable."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from helpers import quarters, unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbnas.quantizers import (
    derivative,
    height_for_normal,
    staircase,
    threshold_grid,
)
from mbnas.settings import Surrogate

SLOPES: dict[Surrogate, Callable[[Tensor], Tensor]] = {
    Surrogate.STE: lambda a: (a.abs() <= 1).double(),
    Surrogate.WIDE: lambda a: (a.abs() <= 3).double(),
    Surrogate.IDENTITY: torch.ones_like,
    Surrogate.POLYNOMIAL: lambda a: 2 * (1 - a.abs()) * (a.abs() < 1),
    Surrogate.TANH: lambda a: 1 / a.cosh() ** 2,
}
SURROGATES = pytest.mark.parametrize("surrogate", list(Surrogate))
STAIRCASES = given(seed=st.integers(0, 2**32), steps=st.integers(1, 8), per_channel=st.booleans())
SHAPE = (3, 2, 3, 3)
RAW = unchanged()


def random_staircase(seed: int, steps: int, per_channel: bool) -> tuple[Tensor, Tensor, Tensor]:
    """z, thresholds and heights, in float64 and waiting for gradients."""
    generator = torch.Generator().manual_seed(seed)
    z, thresholds = quarters(*SHAPE, generator=generator), quarters(steps, generator=generator)
    shape = (steps, SHAPE[0], 1, 1, 1) if per_channel else (steps,)
    heights = torch.randn(shape, generator=generator, dtype=torch.float64)
    return z.requires_grad_(), thresholds.requires_grad_(), heights.requires_grad_()


def broadcast(values: Tensor) -> Tensor:
    """(K,) -> (K, 1, 1, 1, 1), so that step k meets every element of z."""
    return values.view(-1, 1, 1, 1, 1) if values.dim() == 1 else values


def plus_or_minus(a: Tensor) -> Tensor:
    return 2 * (a >= 0).double() - 1


def test_sign_of_zero_is_plus_one() -> None:
    z = torch.tensor([-2.0, -1e-45, -0.0, 0.0, 1e-45, 2.0])
    expected = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0, 1.0])
    assert torch.equal(staircase(z, torch.zeros(1), torch.ones(1), Surrogate.STE, RAW), expected)


@SURROGATES
def test_a_surrogate_has_its_closed_form(surrogate: Surrogate) -> None:
    a = torch.linspace(-3, 3, 25, dtype=torch.float64)  # holds -1, 0 and 1 exactly
    torch.testing.assert_close(derivative(surrogate, a), SLOPES[surrogate](a))


@SURROGATES
@STAIRCASES
def test_staircase_is_the_sum_of_its_steps(
    surrogate: Surrogate, seed: int, steps: int, per_channel: bool
) -> None:
    z, thresholds, heights = random_staircase(seed, steps, per_channel)
    expected = (broadcast(heights) * plus_or_minus(z + broadcast(thresholds))).sum(0)
    torch.testing.assert_close(staircase(z, thresholds, heights, surrogate, RAW), expected)


@SURROGATES
@STAIRCASES
def test_gradients_are_the_closed_forms(
    surrogate: Surrogate, seed: int, steps: int, per_channel: bool
) -> None:
    z, thresholds, heights = random_staircase(seed, steps, per_channel)
    upstream = torch.randn(SHAPE, dtype=torch.float64)
    shifted = (z + broadcast(thresholds)).detach()
    slopes = broadcast(heights).detach() * SLOPES[surrogate](shifted)
    signs = upstream * plus_or_minus(shifted)

    staircase(z, thresholds, heights, surrogate, RAW).backward(upstream)

    torch.testing.assert_close(z.grad, upstream * slopes.sum(0))
    torch.testing.assert_close(thresholds.grad, (upstream * slopes).sum((1, 2, 3, 4)))
    torch.testing.assert_close(
        heights.grad, signs.sum((2, 3, 4), keepdim=True) if per_channel else signs.sum((1, 2, 3, 4))
    )


@SURROGATES
@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_each_gradient_is_the_same_without_the_others(surrogate: Surrogate, wanted: int) -> None:
    together = random_staircase(0, steps=3, per_channel=True)
    staircase(*together, surrogate, RAW).square().sum().backward()
    alone = [tensor.detach().clone() for tensor in together]
    alone[wanted].requires_grad_()
    staircase(*alone, surrogate, RAW).square().sum().backward()
    for index, (one, other) in enumerate(zip(alone, together, strict=True)):
        assert (one.grad is not None) == (index == wanted)
        assert one.grad is None or torch.equal(one.grad, other.grad)


@given(seed=st.integers(0, 2**32), steps=st.integers(1, 8))
def test_the_surrogate_never_changes_the_value(seed: int, steps: int) -> None:
    first, *others = (staircase(*random_staircase(seed, steps, True), s, RAW) for s in Surrogate)
    assert all(torch.equal(first, other) for other in others)


def test_each_channel_has_its_own_heights() -> None:
    heights = torch.tensor([[1.0, 10.0], [2.0, 20.0]]).view(2, 2, 1, 1, 1)
    z = torch.ones(2, 1, 1, 1)
    assert staircase(z, torch.zeros(2), heights, Surrogate.STE, RAW).flatten().tolist() == [
        3.0,
        30.0,
    ]
    assert staircase(
        -z, torch.tensor([0.0, 1.0]), heights, Surrogate.STE, RAW
    ).flatten().tolist() == [
        1.0,
        10.0,
    ]


@given(st.integers(1, 8))
def test_thresholds_are_an_even_symmetric_grid(bases: int) -> None:
    grid = threshold_grid(bases)
    assert len(grid) == bases
    assert grid == pytest.approx([-t for t in reversed(grid)])
    if bases > 1:
        assert (grid[0], grid[-1]) == (-1, 1)
        steps = [b - a for a, b in pairwise(grid)]
        assert steps == pytest.approx([2 / (bases - 1)] * (bases - 1))


def test_height_of_one_sign_is_the_mean_magnitude() -> None:
    """XNOR-Net (Rastegari et al. 2016): the best scale is E|z|, which is sqrt(2/pi)."""
    assert height_for_normal([0.0]) == pytest.approx(math.sqrt(2 / math.pi))


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=8))
@settings(max_examples=50)
def test_height_minimises_the_error_of_a_normal_variable(thresholds: list[float]) -> None:
    """The squared error is a parabola in the height, integrated here by the rectangle rule."""
    z = torch.linspace(-8, 8, 16_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2)
    steps = plus_or_minus(z + torch.tensor(thresholds, dtype=torch.float64)[:, None]).sum(0)
    best = (density * z * steps).sum() / (density * steps**2).sum()
    assert height_for_normal(thresholds) == pytest.approx(best.item(), rel=5e-3)
