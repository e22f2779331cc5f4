"""The compiled staircase against the plain one: values bit for bit, gradients within rounding."""

import logging
import math
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbnas import kernels
from mbnas.config import Surrogate
from mbnas.quantizers import plain_backward, plain_forward, staircase

CASES = given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 8),
    shape=st.sampled_from([(2, 3, 5, 4), (4, 16, 32, 32), (3, 1, 1, 1), (5, 7), (1, 2, 100, 331)]),
    per_channel=st.booleans(),
    channels_last=st.booleans(),
)


def drawn(
    seed: int, steps: int, shape: tuple[int, ...], per_channel: bool, channels_last: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, upstream gradient, thresholds and heights; z often meets a threshold exactly."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(-12, 13, shape, generator=generator) / 4
    z += (torch.rand(shape, generator=generator) < 0.5) * torch.randn(shape, generator=generator)
    if channels_last and len(shape) == 4:
        z = z.contiguous(memory_format=torch.channels_last)
    thresholds = torch.randint(-8, 9, (steps,), generator=generator) / 4
    per_step = (shape[0], *(1 for _ in shape[1:])) if per_channel else ()
    heights = torch.randn((steps, *per_step), generator=generator)
    return z, torch.randn(shape, generator=generator), thresholds, heights


@CASES
def test_the_values_are_those_of_the_plain_version_bit_for_bit(
    seed: int, steps: int, shape: tuple[int, ...], per_channel: bool, channels_last: bool
) -> None:
    z, _, thresholds, heights = drawn(seed, steps, shape, per_channel, channels_last)
    assert kernels.applies(z, heights)
    q = kernels.forward(z, thresholds, heights)
    assert torch.equal(q, plain_forward(z, thresholds, heights))
    assert q.stride() == z.stride()


@settings(max_examples=50)
@CASES
@pytest.mark.parametrize("surrogate", list(Surrogate))
def test_the_gradients_are_those_of_the_plain_version_in_float64(
    surrogate: Surrogate,
    seed: int,
    steps: int,
    shape: tuple[int, ...],
    per_channel: bool,
    channels_last: bool,
) -> None:
    z, upstream, thresholds, heights = drawn(seed, steps, shape, per_channel, channels_last)
    z = (z * 2**10).round() / 2**10  # so that z + t is exact in float32 and in float64
    found = kernels.backward(z, upstream, thresholds, heights, surrogate, sums=True)
    exact = plain_backward(
        z.double(), upstream.double(), thresholds.double(), heights.double(), surrogate, sums=True
    )
    noise = 1e-6 * math.sqrt(z.numel()) * steps
    for got, want in zip(found, exact, strict=True):
        assert got.shape == want.shape
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=noise)


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_result_does_not_depend_on_the_number_of_threads(per_channel: bool) -> None:
    case = drawn(0, 3, (16, 64, 32, 32), per_channel, channels_last=False)
    z, upstream, thresholds, heights = case

    def run(threads: int) -> tuple[Tensor, ...]:
        with mock.patch("torch.get_num_threads", return_value=threads):
            q = kernels.forward(z, thresholds, heights)
            return q, *kernels.backward(z, upstream, thresholds, heights, Surrogate.TANH, sums=True)

    for alone, shared in zip(run(1), run(5), strict=True):
        assert torch.equal(alone, shared)


def test_without_sums_only_the_gradient_of_z_is_computed() -> None:
    z, upstream, thresholds, heights = drawn(0, 3, (4, 16, 32, 32), False, False)
    full = kernels.backward(z, upstream, thresholds, heights, Surrogate.TANH, sums=True)
    slope, by_threshold, by_height = kernels.backward(
        z, upstream, thresholds, heights, Surrogate.TANH, sums=False
    )
    assert torch.equal(slope, full[0])
    assert not by_threshold.any()
    assert not by_height.any()


def test_an_upstream_gradient_may_be_expanded_or_laid_out_otherwise() -> None:
    z, _, thresholds, heights = drawn(0, 3, (4, 8, 6, 6), False, channels_last=True)
    z.requires_grad_()
    staircase(z, thresholds, heights, Surrogate.STE).sum().backward()
    assert z.grad is not None
    ones = torch.ones(z.shape)
    expected = plain_backward(z.detach(), ones, thresholds, heights, Surrogate.STE, sums=False)[0]
    torch.testing.assert_close(z.grad, expected)


def test_gaps_in_memory_are_closed_first() -> None:
    z, _, thresholds, heights = drawn(0, 2, (4, 8, 6, 6), False, channels_last=False)
    view = z[:, ::2, 1:5]
    q = kernels.forward(view, thresholds, heights)
    assert torch.equal(q, plain_forward(view.contiguous(), thresholds, heights))


@pytest.mark.parametrize(
    ("z", "heights"),
    [
        (torch.zeros(4, 3, dtype=torch.float64), torch.ones(2, dtype=torch.float64)),
        (torch.zeros(4, 3, device="meta"), torch.ones(2, device="meta")),
        (torch.zeros(4, 3), torch.ones(2, 1, 3)),
        (torch.zeros(4, 3), torch.ones(2, 4, 3)),
    ],
    ids=["float64", "another device", "heights along the second axis", "heights everywhere"],
)
def test_everything_else_is_left_to_the_plain_version(z: Tensor, heights: Tensor) -> None:
    assert not kernels.applies(z, heights)


def test_without_a_compiler_the_plain_version_runs_and_one_message_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    z, _, thresholds, heights = drawn(0, 3, (4, 8, 6, 6), False, False)
    kernels.available.cache_clear()
    with mock.patch.object(kernels, "numba", None), caplog.at_level(logging.INFO, logger="mbnas"):
        first = staircase(z, thresholds, heights, Surrogate.TANH)
        second = staircase(z, thresholds, heights, Surrogate.TANH)
    kernels.available.cache_clear()
    assert torch.equal(first, plain_forward(z, thresholds, heights))
    assert torch.equal(first, second)
    assert [record.message for record in caplog.records if "numba" in record.message] == [
        "numba is not installed: quantizers take several times as long (pip install numba)"
    ]
