"""Losses of attacks: definitions, and what no scale of the logits can take from them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mbnas.losses import (
    Loss,
    cross_entropy,
    logit_ratio,
    margin,
    rescaled_cross_entropy,
    targeted_logit_ratio,
)

SEEDS = st.integers(0, 2**32)


def drawn(seed: int, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(7, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (7,), generator=generator)


@given(seed=SEEDS, classes=st.integers(3, 6))
def test_the_definitions_term_by_term(seed: int, classes: int) -> None:
    logits, y = drawn(seed, classes)
    for row, label, *found in zip(
        logits, y, cross_entropy(logits, y), margin(logits, y), logit_ratio(logits, y), strict=True
    ):
        rival = max(float(z) for i, z in enumerate(row) if i != label)
        first, _, third, *_ = row.sort(descending=True).values.tolist()
        expected = [
            -row.log_softmax(0)[label].item(),
            rival - row[label].item(),
            -(row[label].item() - rival) / (first - third),
        ]
        assert [each.item() for each in found] == pytest.approx(expected)


@given(seed=SEEDS, scale=st.floats(1e-3, 1e4), shift=st.floats(-100, 100))
@pytest.mark.parametrize("loss", [logit_ratio, rescaled_cross_entropy])
def test_scale_and_shift_of_the_logits_change_nothing(
    loss: Loss, seed: int, scale: float, shift: float
) -> None:
    logits, y = drawn(seed)
    torch.testing.assert_close(loss(scale * logits + shift, y), loss(logits, y))


@pytest.mark.parametrize("loss", [margin, logit_ratio, rescaled_cross_entropy])
def test_a_gradient_is_left_where_softmax_saturates(loss: Loss) -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    y = torch.tensor([0])

    def slope(of: Loss) -> float:
        (gradient,) = torch.autograd.grad(of(logits, y).sum(), logits)
        return float(gradient.abs().max()) * 1e4

    assert slope(cross_entropy) == 0
    assert slope(loss) > 0.1


@given(seed=SEEDS)
def test_the_margin_is_positive_exactly_where_the_image_is_lost(seed: int) -> None:
    logits, y = drawn(seed)
    for loss in (margin, logit_ratio):
        assert torch.equal(loss(logits, y) > 0, logits.argmax(1) != y)


def test_two_classes_and_equal_logits_have_finite_losses() -> None:
    y = torch.tensor([0, 1])
    for logits in (torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.zeros(2, 2)):
        for loss in (cross_entropy, margin, logit_ratio, rescaled_cross_entropy):
            assert loss(logits, y).isfinite().all()


@given(
    seed=SEEDS,
    classes=st.integers(4, 6),
    scale=st.floats(1e-3, 1e4),
    shift=st.floats(-100, 100),
)
def test_the_targeted_ratio_is_its_definition(
    seed: int, classes: int, scale: float, shift: float
) -> None:
    logits, y = drawn(seed, classes)
    target = (y + 1) % classes
    pair = torch.stack((y, target), dim=1)
    for row, (label, aim), found in zip(
        logits, pair.tolist(), targeted_logit_ratio(logits, pair), strict=True
    ):
        first, _, third, fourth, *_ = row.sort(descending=True).values
        expected = -(row[label] - row[aim]) / (first - (third + fourth) / 2)
        torch.testing.assert_close(found, expected)
    moved = targeted_logit_ratio(scale * logits + shift, pair)
    torch.testing.assert_close(moved, targeted_logit_ratio(logits, pair))


@given(seed=SEEDS)
def test_of_two_classes_the_ratio_is_the_margin_whose_gradient_does_not_vanish(seed: int) -> None:
    """z_y - z_i over z_(1) - z_(2) would be 1 wherever the image is right."""
    logits, y = drawn(seed, 2)
    assert torch.equal(logit_ratio(logits, y), margin(logits, y))


@pytest.mark.parametrize("classes", [2, 3])
@given(seed=SEEDS)
def test_of_few_classes_the_gradient_of_the_targeted_ratio_does_not_vanish(
    seed: int, classes: int
) -> None:
    """Of three, z_y - z_t over z_(1) - z_(3) is 1 where z_y is the first and z_t the third."""
    logits, y = drawn(seed, classes)
    logits.requires_grad_()
    target = (y + 1) % classes
    ratio = targeted_logit_ratio(logits, torch.stack((y, target), dim=1))
    (gradient,) = torch.autograd.grad(ratio.sum(), logits)
    expected = torch.eye(classes)[target] - torch.eye(classes)[y]
    torch.testing.assert_close(gradient, expected.to(gradient))


@given(seed=SEEDS)
def test_gradients_are_those_of_the_definitions(seed: int) -> None:
    logits, y = drawn(seed)
    pair = torch.stack((y, (y + 1) % 5), dim=1)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: margin(z, y), logits)
    assert torch.autograd.gradcheck(lambda z: logit_ratio(z, y), logits)
    assert torch.autograd.gradcheck(lambda z: targeted_logit_ratio(z, pair), logits)
