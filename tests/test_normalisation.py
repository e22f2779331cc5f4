"""Standardisation against torch's batch-norm and against statistics written out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mbnas import kernels
from mbnas.normalisation import Standard, of_batch, of_weight

FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def batch(seed: int, dtype: torch.dtype, *, far: float = 0.0) -> Tensor:
    """(6, 5, 4, 3), each channel with a mean and a spread of its own."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 5, 4, 3, generator=generator, dtype=torch.float64)
    spread, mean = torch.rand(2, 5, 1, 1, generator=generator, dtype=torch.float64)
    return (x * (0.1 + spread) + mean + far).to(dtype)


def norm(dtype: torch.dtype, momentum: float = 0.1) -> nn.BatchNorm2d:
    """Batch-norm with parameters at random."""
    made = nn.BatchNorm2d(5, momentum=momentum).to(dtype)
    nn.init.uniform_(made.weight, 0.5, 2)
    nn.init.normal_(made.bias)
    return made


def applied(standard: Standard, x: Tensor) -> Tensor:
    return standard.gain * (x - standard.mean) / standard.deviation + standard.offset


@FORMATS
@pytest.mark.parametrize("momentum", [0.1, 0.0, 1.0])
def test_a_batch_is_standardised_and_followed_as_torch_does(
    dtype: torch.dtype, momentum: float
) -> None:
    ours = norm(dtype, momentum)
    theirs = nn.BatchNorm2d(5, momentum=momentum).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    for seed in range(3):
        x = batch(seed, dtype)
        torch.testing.assert_close(applied(of_batch(ours, x), x), theirs(x))
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)
    x = batch(3, dtype)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(applied(of_batch(ours, x), x), theirs(x))
    assert of_batch(ours, x).freedom is None
    assert int(ours.num_batches_tracked) == 3


@pytest.mark.parametrize("far", [0.0, 1e3, -1e5])
def test_compiled_moments_are_exact_however_far_from_zero(far: float) -> None:
    x = batch(0, torch.float32, far=far)
    mean, variance = kernels.moments(x)
    exact_variance, exact_mean = torch.var_mean(x.double(), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(variance.double(), exact_variance, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(128, 16, 32, 32), (3, 700, 5, 5), (2, 1, 300, 300)], ids=str)
def test_compiled_moments_of_any_number_of_rows_and_blocks(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact_variance, exact_mean = torch.var_mean(x.double(), dim=(0, 2, 3), correction=0)
    for laid_out in (x, x.contiguous(memory_format=torch.channels_last)):
        mean, variance = kernels.moments(laid_out)
        torch.testing.assert_close(mean.double(), exact_mean, rtol=0, atol=1e-6)
        torch.testing.assert_close(variance.double(), exact_variance, rtol=1e-5, atol=0)


@given(seed=st.integers(0, 2**32), shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_standardising_a_weight_forgets_shift_and_scale(
    seed: int, shift: float, scale: float
) -> None:
    weight = batch(seed, torch.float64)
    standard = applied(of_weight(weight), weight)
    assert standard.mean().item() == pytest.approx(0, abs=1e-12)
    assert standard.std().item() == pytest.approx(1)
    moved = scale * weight + shift
    torch.testing.assert_close(applied(of_weight(moved), moved), standard)
