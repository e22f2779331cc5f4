"""The merged convolution against Eq. 2-3 of Frickenstein et al. 2023 written out term by term."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import quarters
from torch import Tensor, nn

from mbnas.assignment import Bases, Space
from mbnas.backbones import Row
from mbnas.fixed_point import clip_for_normal
from mbnas.formats import Family
from mbnas.layers import (
    ActivationQuantizer,
    ElasticMultiBitConv2d,
    FrozenConv2d,
    QuantizedConv2d,
    convolution,
    initial_spread,
    latent_weight,
)
from mbnas.randomness import seeded
from mbnas.settings import Surrogate

CASES = pytest.mark.parametrize(
    ("bases", "stride"),
    [
        (Bases(1, 1), 1),
        (Bases(3, 1), 2),
        (Bases(1, 3), 1),
        (Bases(2, 4), 2),
        (Bases(5, 3), 1),
    ],
    ids=str,
)
SURROGATES = pytest.mark.parametrize("surrogate", list(Surrogate))
WEIGHT_SURROGATES = pytest.mark.parametrize("weight_surrogate", list(Surrogate))

# Functions that have the surrogate as their derivative.
PRIMITIVES: dict[Surrogate, Callable[[Tensor], Tensor]] = {
    Surrogate.STE: lambda a: a.clamp(-1, 1),
    Surrogate.WIDE: lambda a: a.clamp(-3, 3),
    Surrogate.IDENTITY: lambda a: a,
    Surrogate.POLYNOMIAL: lambda a: (2 * a - a * a.abs()).where(a.abs() < 1, a.sign()),
    Surrogate.TANH: torch.tanh,
}


def row(stride: int = 1) -> Row:
    return Row("layer", "main", 1, 3, 4, kernel=3, stride=stride, size=6 // stride)


def neutral(channels: int = 3) -> nn.BatchNorm2d:
    """Batch-norm that changes nothing."""
    return nn.BatchNorm2d(channels, eps=0).eval()


def scrambled(layer: nn.Module) -> nn.Module:
    """The layer in float64 with thresholds and scales like nothing at initialisation."""
    for name, parameter in layer.double().named_parameters():
        with torch.no_grad():
            if name.endswith((".u", ".v")):
                parameter.copy_(quarters(len(parameter)) / 2)
            else:
                parameter.copy_(torch.randn_like(parameter))
    return layer


def signed(a: Tensor, surrogate: Surrogate) -> Tensor:
    """sign(a) with sign(0) = +1 and, behind it, the surrogate's derivative (Eq. 3)."""
    primitive = PRIMITIVES[surrogate](a)
    return primitive + (torch.where(a >= 0, 1.0, -1.0) - primitive).detach()


def expanded(
    layer: QuantizedConv2d,
    x: Tensor,
    norm: nn.BatchNorm2d,
    surrogate: Surrogate,
    weight_surrogate: Surrogate = Surrogate.STE,
) -> Tensor:
    """sum_m sum_n alpha_m beta_n conv(B_m, A_n), one convolution a term (Eq. 2)."""
    x = norm(x)
    W = (layer.weight - layer.weight.mean()) / layer.weight.std()
    u, alpha = layer.weights.u, layer.weights.alpha.squeeze(-1)
    v, beta = layer.activations.v, layer.activations.beta
    stride, padding = layer.row.stride, layer.row.kernel // 2
    return sum(
        alpha[m]
        * beta[n]
        * F.conv2d(
            signed(x + v[n], surrogate),
            signed(W + u[m], weight_surrogate),
            stride=stride,
            padding=padding,
        )
        for m in range(len(u))
        for n in range(len(v))
    )


@CASES
@SURROGATES
def test_merged_convolution_equals_the_expanded_sum(
    bases: Bases, stride: int, surrogate: Surrogate
) -> None:
    layer, x = scrambled(convolution(row(stride), Family.MBN, bases)), quarters(2, 3, 6, 6)
    norm = neutral().double()
    merged = layer(x, norm, surrogate)
    assert merged.shape == (2, 4, 6 // stride, 6 // stride)
    torch.testing.assert_close(merged, expanded(layer, x, norm, surrogate))


@CASES
@SURROGATES
@WEIGHT_SURROGATES
@pytest.mark.parametrize("training", [False, True], ids=["frozen norm", "norm of the batch"])
def test_all_gradients_equal_those_of_the_expanded_sum(
    bases: Bases, stride: int, surrogate: Surrogate, weight_surrogate: Surrogate, training: bool
) -> None:
    torch.manual_seed(1)
    layer = scrambled(convolution(row(stride), Family.MBN, bases))
    norm = scrambled(nn.BatchNorm2d(3)) if training else neutral().double()
    x = quarters(2, 3, 6, 6).requires_grad_()
    inputs = {"x": x, **dict(layer.named_parameters())}
    inputs |= {"gain": norm.weight, "offset": norm.bias}
    upstream = torch.randn(2, 4, 6 // stride, 6 // stride, dtype=torch.float64)
    merged, oracle = (
        torch.autograd.grad(
            f(x, norm, surrogate, weight_surrogate), list(inputs.values()), upstream
        )
        for f in (layer, partial(expanded, layer))
    )
    assert set(inputs) == {
        "x",
        "weight",
        "weights.u",
        "weights.alpha",
        "activations.v",
        "activations.beta",
        "gain",
        "offset",
    }
    for name, gradient, expected in zip(inputs, merged, oracle, strict=True):
        assert expected.any(), name
        torch.testing.assert_close(gradient, expected, msg=lambda text, of=name: f"{of}: {text}")


def straight_through(value: Tensor, *slopes: Tensor) -> Tensor:
    """The value, with the gradients of the slopes."""
    return value.detach() + sum((each - each.detach() for each in slopes), torch.zeros(()))


def levels(x: Tensor, low: Tensor, high: Tensor, bits: int, surrogate: Surrogate) -> Tensor:
    """The nearest of 2^bits even levels, dq/dx = s, dq/dhigh = 1[x >= high], dq/dlow = 1[x < low].

    Choi et al. 2018, Eq. 1-3; s as in fixed_point.py.
    """
    start, end = low.detach(), high.detach()
    even = torch.stack([start + (end - start) * k / (2**bits - 1) for k in range(2**bits)])
    nearest = even[(x.detach().unsqueeze(-1) - even).abs().argmin(dim=-1)]
    primitive = PRIMITIVES[surrogate]
    if surrogate is Surrogate.POLYNOMIAL:  # one hat for each threshold, a step wide to either side
        step = (end - start) / (2**bits - 1)
        hats = [primitive((x - start) / step - j + 0.5) / 2 for j in range(1, 2**bits)]
        inner = step * torch.stack(hats).sum(dim=0)
    else:
        inner = primitive(2 * (x - start) / (end - start) - 1) * (end - start) / 2
    outer = torch.where(x >= end, high, torch.where(x < start, low, torch.zeros_like(x)))
    return straight_through(nearest, inner, outer)


def pact(
    layer: QuantizedConv2d, x: Tensor, norm: nn.BatchNorm2d, one: Surrogate, other: Surrogate
) -> Tensor:
    """Activations in [0, clip] and weights in [-clip, clip] (paper, Eq. 4-5)."""
    clip, top = layer.weights.clip, layer.activations.clip
    A = levels(norm(x), x.new_zeros(()), top, layer.activations.bits, one)
    W = levels(layer.weight, -clip, clip, layer.weights.bits, other)
    return F.conv2d(A, W, stride=layer.row.stride, padding=1)


def xnor(
    layer: QuantizedConv2d, x: Tensor, norm: nn.BatchNorm2d, one: Surrogate, other: Surrogate
) -> Tensor:
    """sign(x) and mean|W| sign(W), W centred (Rastegari et al. 2016, Eq. 6)."""
    centred = layer.weight - layer.weight.mean(dim=1, keepdim=True)
    W = centred.abs().mean(dim=(1, 2, 3), keepdim=True) * signed(centred, other)
    return F.conv2d(signed(norm(x), one), W, stride=layer.row.stride, padding=1)


@pytest.mark.parametrize(
    ("family", "bases", "by_hand"),
    [
        (Family.PACT, Bases(2, 4), pact),
        (Family.PACT, Bases(1, 3), pact),
        (Family.XNOR, Bases(1, 1), xnor),
    ],
    ids=["pact2x4", "pact1x3", "xnor"],
)
@SURROGATES
@WEIGHT_SURROGATES
@pytest.mark.parametrize("training", [False, True], ids=["frozen norm", "norm of the batch"])
def test_layers_of_the_other_formats_have_the_gradients_of_their_formulas(
    family: Family,
    bases: Bases,
    by_hand: Callable[..., Tensor],
    surrogate: Surrogate,
    weight_surrogate: Surrogate,
    training: bool,
) -> None:
    torch.manual_seed(1)
    layer = convolution(row(2), family, bases).double()
    norm = nn.BatchNorm2d(3).double() if training else neutral().double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64).requires_grad_()
    with torch.no_grad():
        layer.weight.mul_(3)  # some beyond the range and some beyond the window
        norm.weight.fill_(2)
    inputs = {"x": x, **dict(layer.named_parameters()), "gain": norm.weight, "offset": norm.bias}
    upstream = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    outputs, gradients = [], []
    for f in (layer, partial(by_hand, layer)):
        outputs.append(f(x, norm, surrogate, weight_surrogate))
        gradients.append(torch.autograd.grad(outputs[-1], list(inputs.values()), upstream))
    torch.testing.assert_close(*outputs)
    for name, found, expected in zip(inputs, *gradients, strict=True):
        assert expected.any(), name
        torch.testing.assert_close(found, expected, msg=lambda text, of=name: f"{of}: {text}")


def test_the_default_surrogate_is_the_straight_through_estimator() -> None:
    layer = convolution(row(), Family.MBN, Bases(2, 2))
    x = torch.randn(1, 3, 6, 6, requires_grad=True)
    default, ste, tanh = (
        torch.autograd.grad(layer(x, neutral(), *chosen).sum(), x)[0]
        for chosen in ((), (Surrogate.STE,), (Surrogate.TANH,))
    )
    assert torch.equal(default, ste)
    assert not torch.equal(default, tanh)


@CASES
def test_zero_padding_adds_nothing(bases: Bases, stride: int) -> None:
    """Of an image of one pixel only the centre tap of the kernel sees anything."""
    torch.manual_seed(2)
    layer, x = scrambled(convolution(row(stride), Family.MBN, bases)), quarters(5, 3, 1, 1)
    centre = layer.weights(layer.weight, Surrogate.STE)[:, :, 1, 1]
    norm = neutral().double()
    expected = layer.activations(x, norm, Surrogate.STE)[:, :, 0, 0] @ centre.T
    torch.testing.assert_close(layer(x, norm)[:, :, 0, 0], expected)


@CASES
def test_frozen_layer_gives_the_same_bits(bases: Bases, stride: int) -> None:
    torch.manual_seed(3)
    layer, x = (
        scrambled(convolution(row(stride), Family.MBN, bases)).float(),
        torch.randn(2, 3, 6, 6),
    )
    frozen = FrozenConv2d(layer)
    assert torch.equal(frozen(x, neutral()), layer(x, neutral()))
    assert not frozen.merged.requires_grad


@CASES
@SURROGATES
def test_frozen_layer_gives_the_same_gradient(
    bases: Bases, stride: int, surrogate: Surrogate
) -> None:
    torch.manual_seed(4)
    layer = scrambled(convolution(row(stride), Family.MBN, bases)).float()
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    frozen, live = (
        torch.autograd.grad(each(x, neutral(), surrogate).square().sum(), x)[0]
        for each in (FrozenConv2d(layer), layer)
    )
    assert torch.equal(frozen, live)


def test_elastic_layer_is_each_of_its_layers() -> None:
    torch.manual_seed(5)
    space = Space((1, 3), (1, 2), layers=1)
    elastic, x = scrambled(ElasticMultiBitConv2d(row(), space)), quarters(2, 3, 6, 6)
    for m in space.weights:
        for n in space.activations:
            fixed = convolution(row(), Family.MBN, Bases(m, n)).double()
            fixed.weight = elastic.weight
            fixed.weights = elastic.weights[str(m)]
            fixed.activations = elastic.activations[str(n)]
            norm = neutral().double()
            assert torch.equal(elastic(x, norm, Bases(m, n)), fixed(x, norm))


@pytest.mark.parametrize("bases", [Bases(1, 1), Bases(3, 1), Bases(1, 3), Bases(5, 5)], ids=str)
def test_a_fresh_layer_passes_on_the_variance_its_bases_explain(bases: Bases) -> None:
    """Variances of independent factors multiply; inside the image 64 * 3 * 3 of them are summed."""
    torch.manual_seed(6)
    wide = Row("layer", "main", 1, 64, 64, kernel=3, stride=1, size=16)
    weights, activations = (explained_variance(count) for count in bases)
    with torch.no_grad():
        out = convolution(wide, Family.MBN, bases)(torch.randn(8, 64, 16, 16), neutral(64))[
            :, :, 1:-1, 1:-1
        ]
    assert latent_weight(wide).std().item() == pytest.approx(initial_spread(wide), rel=0.05)
    assert out.var().item() == pytest.approx(weights * activations, rel=0.1)


def explained_variance(bases: int) -> float:
    """Of a standard normal variable, by a fresh staircase of so many steps."""
    with torch.no_grad():
        z = torch.randn(1, 1, 100_000, 1)
        return ActivationQuantizer(bases)(z, neutral(1), Surrogate.STE).var().item()


@pytest.mark.parametrize("family", [Family.FLOAT, Family.PACT, Family.WEIGHT_PRUNED])
def test_a_fresh_rectified_layer_passes_the_variance_on(family: Family) -> None:
    wide = Row("layer", "main", 1, 64, 64, kernel=3, stride=1, size=16)
    norm = nn.BatchNorm2d(64, eps=0).eval()
    with seeded(0), torch.no_grad():
        y = convolution(wide, family, Bases(8, 8))(torch.randn(8, 64, 16, 16), norm)
    assert y[:, :, 1:-1, 1:-1].square().mean().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("bits", [2, 4])
def test_a_fresh_range_fits_the_spread_of_its_weights(bits: int) -> None:
    wide = Row("layer", "main", 1, 64, 64, kernel=3, stride=1, size=16)
    with seeded(0):
        layer = convolution(wide, Family.PACT, Bases(bits, bits))
    best = clip_for_normal(bits, signed=True) * layer.weight.std().item()
    assert layer.weights.clip.item() == pytest.approx(best, rel=0.02)
