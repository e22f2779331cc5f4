"""Adam, and Muon beside it, against torch's own and against the singular values of a step."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lessons import IMAGES, NATURAL, THREAT, network
from torch import Tensor, nn

from mbnas.objectives import network_objective
from mbnas.optimizers import Optimizers
from mbnas.settings import Optimizer, Recipe

MUON = Recipe(epochs=1, optimizer=Optimizer.MUON)
RATE = 0.01


def pulled(module: nn.Module, seed: int) -> nn.Module:
    """The same with random gradients."""
    rng = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=rng)
    return module


def state(module: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in module.parameters()]


@pytest.mark.parametrize("optimizer", Optimizer)
def test_steps_are_those_of_torch(optimizer: Optimizer) -> None:
    module, expected = (pulled(nn.Linear(3, 2), 0) for _ in range(2))
    expected.load_state_dict(module.state_dict())
    ours = Optimizers(module, Recipe(epochs=1, optimizer=optimizer))
    theirs = torch.optim.Adam(expected.parameters())  # a classifier is Adam's in both
    for step in range(3):
        rate = RATE / (step + 1)
        theirs.param_groups[0]["lr"] = rate
        ours.step(rate)
        theirs.step()
        for each in (module, expected):
            pulled(each, step)
    torch.testing.assert_close(state(module), state(expected), rtol=0, atol=0)


def test_convolutions_go_the_way_of_muon_and_all_else_that_of_adam() -> None:
    module = network()
    expected = copy.deepcopy(module)
    kernels = [each for each in expected.parameters() if each.dim() == 4]
    others = [each for each in expected.parameters() if each.dim() != 4]
    matrices = [nn.Parameter(each.detach().flatten(1).clone()) for each in kernels]
    muon = torch.optim.Muon(matrices, RATE, weight_decay=0, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.Adam(others, RATE)
    ours = Optimizers(module, MUON)
    for step in range(3):
        pulled(module, step)
        pulled(expected, step)
        for kernel, matrix in zip(kernels, matrices, strict=True):
            assert kernel.grad is not None
            matrix.grad = kernel.grad.flatten(1)
        ours.step(RATE)
        muon.step()
        adam.step()
    for kernel, matrix in zip(kernels, matrices, strict=True):
        kernel.data = matrix.detach().view_as(kernel)
    assert len(kernels) == len(module.convolutions) + 1  # the stem's is one, too
    torch.testing.assert_close(state(module), state(expected), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", Optimizer)
def test_weights_of_convolutions_decay_and_nothing_else(optimizer: Optimizer) -> None:
    one, other = (pulled(network(), 0) for _ in range(2))
    other.load_state_dict(one.state_dict())
    before = state(one)
    Optimizers(one, Recipe(epochs=1, optimizer=optimizer)).step(RATE)
    Optimizers(other, Recipe(epochs=1, optimizer=optimizer, weight_decay=3)).step(RATE)
    for was, plain, decayed in zip(before, state(one), state(other), strict=True):
        taken = RATE * 3 * was if was.dim() == 4 else torch.zeros_like(was)
        torch.testing.assert_close(plain - decayed, taken, rtol=0, atol=1e-6)


@pytest.mark.parametrize("optimizer", Optimizer)
def test_scales_move_in_proportion_to_what_they_were(optimizer: Optimizer) -> None:
    """A first step of Adam is as long as the learning rate, whatever the gradient."""
    module = pulled(network(), 0)
    before = state(module)
    Optimizers(module, Recipe(epochs=1, optimizer=optimizer, scale_speed=0.5)).step(RATE)
    scales = [(was, now) for was, now in zip(before, state(module), strict=True) if was.dim() == 5]
    assert len(scales) == len(module.convolutions)
    for was, now in scales:
        size = was.square().mean().sqrt().item()
        expected = torch.full_like(was, 0.5 * RATE * size)
        torch.testing.assert_close((now - was).abs(), expected, rtol=1e-3, atol=0)


def test_scales_keep_their_speed_where_a_checkpoint_goes_on() -> None:
    recipe = Recipe(epochs=1, scale_speed=0.5)
    module = pulled(network(), 0)
    whole = Optimizers(module, recipe)
    whole.step(RATE)
    resumed = pulled(copy.deepcopy(module), 0)
    halves = Optimizers(resumed, recipe)
    halves.load_state_dict(copy.deepcopy(whole.state_dict()))
    whole.step(RATE)
    halves.step(RATE)
    torch.testing.assert_close(state(resumed), state(module), rtol=0, atol=0)


@given(seed=st.integers(0, 99), shape=st.sampled_from([(8, 4), (4, 4), (2, 16), (32, 2)]))
def test_a_step_of_muon_goes_about_equally_far_along_all_directions(
    seed: int, shape: tuple[int, int]
) -> None:
    """And as far as one of Adam's in the root mean square: 0.2 (Liu et al. 2025)."""
    rows, columns = shape
    layer = nn.Conv2d(columns, rows, 3)
    before = layer.weight.detach().clone()
    pulled(layer, seed)
    Optimizers(layer, MUON).step(RATE)
    moved = (before - layer.weight.detach()).flatten(1)
    lengths = torch.linalg.svdvals(moved) / (RATE * 0.2 * max(moved.shape) ** 0.5)
    assert lengths.min() > 0.5  # the iteration stops at 1 give or take
    assert lengths.max() < 1.3


def test_what_is_measured_without_gradients_does_not_move() -> None:
    layer = nn.Conv2d(2, 2, 3)
    before = state(layer)
    Optimizers(layer, MUON).step(RATE)
    torch.testing.assert_close(state(layer), before, rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", Optimizer)
def test_gradients_are_forgotten(optimizer: Optimizer) -> None:
    module = pulled(network(), 0)
    optimizers = Optimizers(module, Recipe(epochs=1, optimizer=optimizer))
    optimizers.step(RATE)
    optimizers.zero_grad()
    assert all(each.grad is None for each in module.parameters())


def test_muon_learns() -> None:
    module = network()
    optimizers = Optimizers(module, MUON)
    accumulate = network_objective(module, THREAT, NATURAL)(1)
    x, y = IMAGES.gather(slice(None))
    losses = []
    for _ in range(30):
        optimizers.zero_grad()
        losses.append(accumulate(x, y, torch.Generator()).item())
        optimizers.step(RATE)
    assert losses[-1] < 0.7 * losses[0]
