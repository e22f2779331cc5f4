"""The compiled staircase against the plain one: values bit for bit, gradients within rounding."""

import logging
import math
import runpy
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from helpers import unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbnas import kernels, loops
from mbnas.quantizers import plain_backward, plain_forward, plain_tilt, staircase
from mbnas.settings import Surrogate

KINDS = ("one height a step", "one height a row", "batch-norm")
CASES = given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 8),
    shape=st.sampled_from(
        [(2, 3, 5, 4), (4, 16, 32, 32), (3, 1, 1, 1), (1, 2, 100, 331), (2, 600, 3, 9)]
    ),
    kind=st.sampled_from(KINDS),
    channels_last=st.booleans(),
)


class Case(NamedTuple):
    """The arguments of the kernels, in their order."""

    x: Tensor
    mean: Tensor
    scale: Tensor
    offset: Tensor
    thresholds: Tensor
    heights: Tensor

    def double(self) -> "Case":
        return Case(*(each.double() for each in self))


def drawn(
    seed: int, steps: int, shape: tuple[int, ...], kind: str, channels_last: bool
) -> tuple[Case, Tensor]:
    """Arguments, and an upstream gradient; z often meets a threshold exactly.

    All numbers that z + t is made of are multiples of 2^-10 and small, so that it is exact in
    float32 as in float64.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-12, 13, shape, generator=generator) / 4
    x += (torch.rand(shape, generator=generator) < 0.5) * torch.randn(shape, generator=generator)
    x = (x * 2**10).round() / 2**10
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    thresholds = torch.randint(-8, 9, (steps,), generator=generator) / 4
    heights = torch.randn(
        (steps, *((shape[0], 1, 1, 1) if kind == "one height a row" else ())), generator=generator
    )
    channels = (shape[1], 1, 1) if kind == "batch-norm" else ()
    mean, offset = torch.randint(-4, 5, (2, *channels), generator=generator) / 4
    scale = 2.0 ** torch.randint(-2, 3, channels, generator=generator)
    upstream = torch.randn(shape, generator=generator)
    return Case(x, mean, scale, offset, thresholds, heights), upstream


@CASES
def test_the_values_are_those_of_the_plain_version_bit_for_bit(
    seed: int, steps: int, shape: tuple[int, ...], kind: str, channels_last: bool
) -> None:
    case, _ = drawn(seed, steps, shape, kind, channels_last)
    case = case._replace(scale=case.scale * 1.1)  # so that z is rounded
    assert kernels.applies(case.x, case.mean, case.heights)
    q = kernels.forward(*case)
    assert torch.equal(q, plain_forward(*case))
    if kind != "batch-norm":
        assert q.stride() == case.x.stride()


@settings(max_examples=50)
@CASES
@pytest.mark.parametrize("surrogate", list(Surrogate))
def test_the_gradients_are_those_of_the_plain_version_in_float64(
    surrogate: Surrogate,
    seed: int,
    steps: int,
    shape: tuple[int, ...],
    kind: str,
    channels_last: bool,
) -> None:
    case, upstream = drawn(seed, steps, shape, kind, channels_last)
    found = kernels.backward(case.x, upstream, *case[1:], surrogate, sums=True, moments=True)
    exact = plain_backward(
        case.x.double(), upstream.double(), *case.double()[1:], surrogate, sums=True, moments=True
    )
    noise = 1e-5 * math.sqrt(case.x.numel()) * steps
    for got, want in zip(found, exact, strict=True):
        assert got.shape == want.shape
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=noise)


@given(seed=st.integers(0, 2**32), per_channel=st.booleans())
def test_tilting_is_that_of_the_plain_version(seed: int, per_channel: bool) -> None:
    (x, mean, scale, offset, *_), slope = drawn(
        seed, 1, (4, 16, 32, 32), KINDS[2 if per_channel else 0], channels_last=True
    )
    slope = torch.empty_like(x).copy_(slope)
    expected = slope.double()
    plain_tilt(expected, x.double(), mean.double(), scale.double(), offset.double())
    kernels.tilt(slope, x, mean, scale, offset)
    torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_does_not_depend_on_the_number_of_threads(kind: str) -> None:
    case, upstream = drawn(0, 3, (16, 64, 32, 32), kind, channels_last=False)

    def run(threads: int) -> tuple[Tensor, ...]:
        with mock.patch("torch.get_num_threads", return_value=threads):
            found = kernels.backward(
                case.x, upstream, *case[1:], Surrogate.TANH, sums=True, moments=True
            )
            return kernels.forward(*case), *kernels.moments(case.x), *found

    for alone, shared in zip(run(1), run(5), strict=True):
        assert torch.equal(alone, shared)


@pytest.mark.parametrize("backward", [kernels.backward, plain_backward])
def test_what_is_not_wanted_is_zero_and_all_else_the_same(
    backward: Callable[..., tuple[Tensor, ...]],
) -> None:
    case, upstream = drawn(0, 3, (4, 16, 32, 32), "batch-norm", False)
    full = backward(case.x, upstream, *case[1:], Surrogate.TANH, sums=True, moments=True)
    for sums, moments in product((False, True), repeat=2):
        wanted = (True, moments, moments, sums, sums)
        found = backward(case.x, upstream, *case[1:], Surrogate.TANH, sums=sums, moments=moments)
        for got, whole, want in zip(found, full, wanted, strict=True):
            torch.testing.assert_close(got, whole if want else torch.zeros_like(whole))


def test_an_upstream_gradient_may_be_expanded_or_laid_out_otherwise() -> None:
    case, _ = drawn(0, 3, (4, 8, 6, 6), KINDS[0], channels_last=True)
    x = case.x.requires_grad_()
    staircase(x, case.thresholds, case.heights, Surrogate.STE, unchanged()).sum().backward()
    assert x.grad is not None
    ones, zero = torch.ones(x.shape), torch.zeros(())
    expected = plain_backward(
        x.detach(), ones, zero, zero + 1, zero, *case[4:], Surrogate.STE, sums=False, moments=False
    )
    torch.testing.assert_close(x.grad, expected[0])


@pytest.mark.parametrize("kind", KINDS)
def test_gaps_in_memory_are_closed_first(kind: str) -> None:
    case, _ = drawn(0, 2, (4, 8, 6, 6), kind, channels_last=False)
    gaps = torch.stack((case.x, case.x), dim=3)[:, :, :, 0]
    assert torch.equal(kernels.forward(gaps, *case[1:]), plain_forward(*case))


@pytest.mark.parametrize(
    ("x", "mean", "heights"),
    [
        (torch.zeros(4, 3, 1, 1, dtype=torch.float64), (), torch.ones(2, dtype=torch.float64)),
        (torch.zeros(4, 3, 1, 1, device="meta"), (), torch.ones(2, device="meta")),
        (torch.zeros(4, 3), (), torch.ones(2, 1, 3)),
        (torch.zeros(4, 3), (), torch.ones(2, 4, 3)),
        (torch.zeros(4, 3), (3,), torch.ones(2)),
        (torch.zeros(4, 3, 1, 1), (3, 1, 1), torch.ones(2, 4, 1, 1, 1)),
    ],
    ids=[
        "float64",
        "another device",
        "heights along the second axis",
        "heights everywhere",
        "channels of no image",
        "heights by row and means by channel",
    ],
)
def test_everything_else_is_left_to_the_plain_version(
    x: Tensor, mean: tuple[int, ...], heights: Tensor
) -> None:
    assert not kernels.applies(x, torch.zeros(mean), heights)


def test_without_a_compiler_the_plain_version_runs_and_one_message_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    case, _ = drawn(0, 3, (4, 8, 6, 6), KINDS[0], False)
    x, thresholds, heights = case.x, case.thresholds, case.heights
    loops.available.cache_clear()
    with mock.patch.object(loops, "numba", None), caplog.at_level(logging.INFO, logger="mbnas"):
        first = staircase(x, thresholds, heights, Surrogate.TANH, unchanged())
        second = staircase(x, thresholds, heights, Surrogate.TANH, unchanged())
    loops.available.cache_clear()
    zero = torch.zeros(())
    assert torch.equal(first, plain_forward(x, zero, zero + 1, zero, thresholds, heights))
    assert torch.equal(first, second)
    assert [record.message for record in caplog.records if "numba" in record.message] == [
        "numba is not installed: quantizers, batch-norm and PReLU take several times as long "
        "(pip install numba)"
    ]


@pytest.mark.skipif(loops.numba is None, reason="no numba here")
def test_versions_of_a_loop_are_kept_apart(tmp_path: Path) -> None:
    """Whoever is stopped while one takes the place of another leaves no mixture of both."""
    file, kept = tmp_path / "loop.py", []
    for number in (1, 2, 1):
        file.write_text(
            f"from mbnas.loops import compiled\n@compiled\ndef f(x): return x + {number}"
        )
        assert runpy.run_path(str(file))["f"](1) == 1 + number
        kept.append({each.name for each in tmp_path.rglob("*.nb?")})
    first, both, again = kept
    assert len(first) == 2  # an index and the code
    assert len(both) == 4 and first < both
    assert again == both
