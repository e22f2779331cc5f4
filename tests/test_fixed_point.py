"""Fixed point against its closed form in float64, and the best clip against published levels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import BatchNorm2d

from mbnas import backbones
from mbnas.assignment import Bases
from mbnas.fixed_point import clip_for_normal, fixed_point
from mbnas.formats import Family
from mbnas.layers import convolution
from mbnas.quantizers import derivative
from mbnas.settings import Surrogate

ROW = backbones.build("resnet8", width=3, image=(3, 8, 8), classes=2).searchable[0]


def operands(signed: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = 2 * torch.randn(400, dtype=torch.float64)
    high = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    low = torch.tensor(-1.3 if signed else 0.0, dtype=torch.float64, requires_grad=True)
    x[:2] = torch.stack((low, high)).detach()  # the edges
    return x.requires_grad_(), low, high, torch.randn(400, dtype=torch.float64)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_levels_are_even_and_the_nearest_is_taken(bits: int, signed: bool) -> None:
    x, low, high, _ = operands(signed)
    levels = torch.linspace(low.item(), high.item(), 2**bits, dtype=torch.float64)
    nearest = levels[(x[:, None] - levels).abs().argmin(dim=1)]
    assert torch.allclose(fixed_point(x, low, high, bits, Surrogate.STE), nearest, atol=1e-12)


def slope(surrogate: Surrogate, x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """dq/dx in closed form, threshold by threshold for the polynomial."""
    if surrogate is not Surrogate.POLYNOMIAL:
        return derivative(surrogate, 2 * (x - low) / (high - low) - 1)
    step = (high - low) / (2**bits - 1)
    thresholds = [low + (j - 0.5) * step for j in range(1, 2**bits)]
    return sum(
        (derivative(surrogate, (x - each) / step) / 2 for each in thresholds), torch.zeros_like(x)
    )


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("surrogate", list(Surrogate))
@pytest.mark.parametrize("signed", [False, True])
def test_gradients_are_those_of_the_closed_form(
    surrogate: Surrogate, signed: bool, bits: int
) -> None:
    """dq/dx = s, dq/dhigh = 1[x >= high], dq/dlow = 1[x < low] (Choi et al. 2018, Eq. 3)."""
    x, low, high, upstream = operands(signed)
    q = fixed_point(x, low, high, bits, surrogate)
    dx, dlow, dhigh = torch.autograd.grad((q * upstream).sum(), (x, low, high))
    with torch.no_grad():
        assert torch.allclose(dx, upstream * slope(surrogate, x, low, high, bits), atol=1e-12)
        assert torch.allclose(dlow, upstream[x < low].sum())
        assert torch.allclose(dhigh, upstream[x >= high].sum())


@given(bits=st.integers(1, 8), clip=st.floats(0.1, 10))
def test_quantizing_twice_changes_nothing(bits: int, clip: float) -> None:
    x = torch.linspace(-12, 12, 97, dtype=torch.float64)
    low, high = torch.zeros((), dtype=torch.float64), torch.tensor(clip, dtype=torch.float64)
    once = fixed_point(x, low, high, bits, Surrogate.STE)
    assert torch.allclose(fixed_point(once, low, high, bits, Surrogate.STE), once, atol=1e-12)
    assert len(once.unique()) <= 2**bits


@pytest.mark.parametrize(("bits", "step"), [(1, 1.596), (2, 0.9957), (3, 0.5860), (4, 0.3352)])
def test_the_clip_is_that_of_the_best_uniform_quantizer(bits: int, step: float) -> None:
    """Max 1960, Table II: the step for which a uniform quantizer of a normal errs least."""
    assert clip_for_normal(bits, signed=True) == pytest.approx(step * (2**bits - 1) / 2, abs=0.06)


def test_the_clip_of_rectified_values_grows_with_the_bits() -> None:
    clips = [clip_for_normal(bits, signed=False) for bits in (1, 2, 3, 4)]
    assert clips == sorted(clips)
    assert 0.5 < clips[0] < clips[-1] < 4


def test_a_layer_keeps_its_levels_in_the_learned_range() -> None:
    layer = convolution(ROW, Family.PACT, Bases(2, 4))
    weights = layer.weights(layer.weight, Surrogate.STE)
    activations = layer.activations(torch.randn(80, 3, 6, 6), BatchNorm2d(3), Surrogate.STE)
    assert len(weights.detach().unique()) == 4
    assert weights.abs().max() == layer.weights.clip
    assert len(activations.detach().unique()) == 16
    assert (activations.min(), activations.max()) == (0, layer.activations.clip)


def test_a_clip_that_stepped_beyond_zero_is_a_range_all_the_same() -> None:
    layer, norm = convolution(ROW, Family.PACT, Bases(2, 4)), BatchNorm2d(3)
    x, found = torch.randn(8, 3, 6, 6), []
    for sign in (1, -1):
        for quantizer in (layer.weights, layer.activations):
            quantizer.clip.data.abs_().mul_(sign)
        y = layer(x, norm)
        layer.zero_grad()
        y.square().sum().backward()
        found.append((y, sign * layer.weights.clip.grad, sign * layer.activations.clip.grad))
    for mine, yours in zip(*found, strict=True):
        assert torch.equal(mine, yours)
        assert mine.count_nonzero()
