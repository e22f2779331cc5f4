"""The merged convolution against Eq. 2-3 of Frickenstein et al. 2023 written out term by term."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mbnas.assignment import Bases, Space
from mbnas.backbones import Row
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


def quarters(*shape: int) -> Tensor:
    """Random multiples of 1/4, which often meet a threshold or the edge of the window exactly."""
    return torch.randint(-8, 9, shape).double() / 4


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
    torch.manual_seed(0)
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


def test_the_default_surrogate_is_the_straight_through_estimator() -> None:
    torch.manual_seed(0)
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
