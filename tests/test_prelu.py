"""PReLU in one pass against torch's own."""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mbnas import loops
from mbnas.prelu import PReLU

SHAPES = [(2, 3, 5, 4), (4, 16, 32, 32), (3, 1, 7, 7), (1, 600, 3, 9), (8, 64, 20, 20)]


def drawn(seed: int, shape: tuple[int, ...], channels_last: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Images some of whose numbers are 0, slopes of either sign, and an upstream gradient."""
    generator = torch.Generator().manual_seed(seed)
    x, upstream = torch.randn((2, *shape), generator=generator)
    x *= torch.rand(shape, generator=generator) > 0.1
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x, torch.randn(shape[1], generator=generator), upstream


def gradients(y: Tensor, upstream: Tensor, x: Tensor, slopes: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, (x, slopes), upstream)


@given(
    seed=st.integers(0, 2**32),
    shape=st.sampled_from(SHAPES),
    channels_last=st.booleans(),
)
def test_values_and_gradients_are_those_of_torch(
    seed: int, shape: tuple[int, ...], channels_last: bool
) -> None:
    x, slopes, upstream = drawn(seed, shape, channels_last)
    bend = PReLU(shape[1])
    with torch.no_grad():
        bend.weight.copy_(slopes)
    assert loops.suits(x)
    y = bend(x.requires_grad_())
    assert torch.equal(y, F.prelu(x, slopes))
    found = gradients(y, upstream, x, bend.weight)
    X, A = (each.detach().double().requires_grad_() for each in (x, slopes))
    exact = gradients(F.prelu(X, A), upstream.double(), X, A)
    torch.testing.assert_close(found[0].double(), exact[0])
    torch.testing.assert_close(found[1].double(), exact[1], rtol=1e-5, atol=1e-3)


def test_double_precision_is_left_to_torch() -> None:
    bend = PReLU(3).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.equal(bend(x), F.prelu(x, bend.weight))
    assert torch.autograd.gradcheck(bend, x)


def test_without_loops_autocast_does_not_round_it_either() -> None:
    bend, x = PReLU(3), torch.randn(2, 3, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compiled = bend(x)
        with mock.patch("mbnas.loops.suits", return_value=False):
            plain = bend(x)
    assert compiled.dtype == plain.dtype == torch.float32
    assert torch.equal(compiled, plain)


def test_numbers_without_an_image_are_left_to_torch() -> None:
    bend, x = PReLU(3), torch.randn(5, 3)
    assert torch.equal(bend(x), F.prelu(x, bend.weight))


def test_an_attack_needs_no_gradient_of_the_slopes() -> None:
    bend = PReLU(3).requires_grad_(False)
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    bend(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(x > 0, 1.0, 0.25))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_result_does_not_depend_on_the_number_of_threads(shape: tuple[int, ...]) -> None:
    x, slopes, upstream = drawn(0, (32, *shape[1:]), channels_last=True)
    bend = PReLU(shape[1])
    with torch.no_grad():
        bend.weight.copy_(slopes)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            y = bend(x.requires_grad_())
            found.append((y, *gradients(y, upstream, x, bend.weight)))
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*found, strict=True):
        assert torch.equal(one, three)
