"""What torch makes of the plain functions for a GPU; its compiler for the CPU stands in."""

import logging
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from mbnas import fusion
from mbnas.quantizers import plain_backward, plain_forward, plain_tilt, staircase
from mbnas.settings import Surrogate

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch compiles for a CPU by g++, which is not installed"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def operands(channels: int, size: int, steps: int) -> tuple[Tensor, ...]:
    """x, mean, scale, offset, thresholds, heights; multiples of 2^-10, so that z is exact."""
    torch.manual_seed(channels + steps)
    x = torch.randn(4, channels, size, size)
    mean, offset = torch.randn(2, channels, 1, 1)
    scale = 2.0 ** torch.randint(-2, 3, (channels, 1, 1))
    thresholds, heights = torch.randn(2, steps)
    exact = [(each * 2**10).round() / 2**10 for each in (x, mean, offset, thresholds)]
    return exact[0], exact[1], scale, exact[2], exact[3], heights


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fused_functions_are_the_plain_ones_and_no_size_is_compiled_for() -> None:
    compiled = torch._dynamo.utils.counters["stats"]
    x, *others = operands(6, 5, 2)
    gradient, level = torch.randn_like(x), torch.randn(6, 1, 1)
    assert torch.equal(fusion.fused(plain_forward)(x, *others), plain_forward(x, *others))
    for surrogate in (Surrogate.STE, Surrogate.TANH):
        found, expected = (
            each(x, gradient, *others, surrogate, sums=True, moments=True)
            for each in (fusion.fused(plain_backward), plain_backward)
        )
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    one, other = gradient.clone(), gradient.clone()
    fusion.fused(plain_tilt)(one, x, others[0], level, level)
    plain_tilt(other, x, others[0], level, level)
    torch.testing.assert_close(one, other)
    before = compiled["unique_graphs"]
    for channels, size in ((7, 4), (12, 9), (3, 17)):
        x, *others = operands(channels, size, 2)
        assert torch.equal(fusion.fused(plain_forward)(x, *others), plain_forward(x, *others))
    assert compiled["unique_graphs"] == before


def test_variants_are_counted_neither_by_thread_nor_by_parameter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU's backward passes run in a thread of their own; eager stands in for the compiler."""
    options = {"dynamic": True, "fullgraph": True}
    eager = partial(torch.compile, backend="eager", **options)
    monkeypatch.setattr(torch, "compile", lambda function, **_: eager(function))
    fused = fusion.fused.__wrapped__(plain_forward)
    graphs = torch._dynamo.utils.counters["stats"]

    def run(channels: int, steps: int, kind: Callable[[Tensor], Tensor] = torch.Tensor) -> None:
        x, *others, heights = operands(channels, 5, steps)
        assert torch.equal(
            fused(kind(x), *others, kind(heights)), plain_forward(x, *others, heights)
        )

    with ThreadPoolExecutor(1) as pool:
        for steps in range(1, 13):
            pool.submit(run, 6, steps).result()
    run(6, 2)
    before = graphs["unique_graphs"]
    for channels in (7, 12):
        run(channels, 2, nn.Parameter)
    assert graphs["unique_graphs"] == before


def test_without_a_compiler_for_the_gpu_one_message_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Cannot find a working triton installation\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    fusion._available.cache_clear()
    with caplog.at_level(logging.INFO, "mbnas"):
        assert [fusion._available(), fusion._available()] == [False, False]
    fusion._available.cache_clear()
    (message,) = caplog.messages
    assert message.endswith("(Cannot find a working triton installation)")


@needs_gpu
@pytest.mark.parametrize("steps", [1, 3])
def test_on_a_gpu_values_and_gradients_are_those_of_the_cpu(steps: int) -> None:
    from mbnas.normalisation import Standard

    assert fusion._available()

    def run(device: str) -> list[Tensor]:
        x, mean, scale, offset, thresholds, heights = (
            each.to(device) for each in operands(8, 6, steps)
        )
        leaves = [each.requires_grad_() for each in (x, scale, offset, thresholds, heights)]
        standard = Standard(mean, torch.ones_like(mean), leaves[1], leaves[2], x[:, 0].numel())
        y = staircase(leaves[0], leaves[3], leaves[4], Surrogate.TANH, standard)
        weights = torch.linspace(-1, 1, y.numel(), device=device).view_as(y)
        return [each.cpu() for each in (y, *torch.autograd.grad((y * weights).sum(), leaves))]

    for one, other in zip(run("cuda"), run("cpu"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
