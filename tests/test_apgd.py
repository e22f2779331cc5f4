"""APGD against models whose worst case is known, and against the published schedule."""

import sys
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from victims import batch, certain, counting, linear, seeded, uphill

from mbnas import losses
from mbnas.attacks import Model, apgd, apgd_targeted, broken, pgd, uniform_start
from mbnas.attacks.apgd import _Ascent, _record, _review, checkpoints


@given(
    seed=st.integers(0, 2**32),
    eps=st.floats(1e-3, 1),
    steps=st.integers(0, 12),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_it_stays_in_the_ball_and_in_the_box(
    seed: int, eps: float, steps: int, dtype: torch.dtype
) -> None:
    x = torch.rand(4, 3, 2, 2, generator=seeded(seed)).round(decimals=1).to(dtype)
    y = torch.randint(2, (4,), generator=seeded(seed))
    before = x.clone()
    adversarial = apgd(linear, x, y, eps=eps, steps=steps, generator=seeded(seed))
    assert adversarial.dtype == dtype
    assert not adversarial.requires_grad
    assert (adversarial >= (x - eps).clamp(min=0)).all()
    assert (adversarial <= (x + eps).clamp(max=1)).all()
    assert torch.equal(x, before)


def test_the_step_size_is_reviewed_when_the_paper_says() -> None:
    """Croce & Hein 2020, Sec. 3.1: p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)."""
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(50) == [0, 11, 21, 29, 35, 40, 44, 47, 50]


def test_each_review_knows_how_many_steps_it_judges() -> None:
    periods: list[int] = []

    def review(ascent: _Ascent, period: int) -> _Ascent:
        periods.append(period)
        return ascent

    x, y = batch()[0], torch.ones(16, dtype=torch.long)
    with mock.patch.object(sys.modules["mbnas.attacks.apgd"], "_review", review):
        apgd(certain, x, y, eps=0.1, steps=50, generator=seeded())
    assert periods == [11, 10, 8, 6, 5, 4, 3, 3]
    assert checkpoints(1) == [0, 1]


@pytest.mark.parametrize("eps", [0.1, 0.4], ids=["inside the box", "at the box"])
def test_it_reaches_the_optimum_of_a_linear_model(eps: float) -> None:
    x, y = batch(low=0.2, high=0.8)

    def stubborn(z: Tensor) -> Tensor:
        return linear(z) + 99 * torch.eye(2, dtype=z.dtype)[y]

    adversarial = apgd(stubborn, x, y, eps=eps, steps=40, generator=seeded(), loss=losses.margin)
    torch.testing.assert_close(adversarial, (x + eps * uphill(y)).clamp(0, 1))


def test_it_breaks_what_the_optimum_breaks() -> None:
    x, y = batch(64)
    optimum = (x + 0.02 * uphill(y)).clamp(0, 1)
    breakable = broken(linear, optimum, y)
    adversarial = apgd(linear, x, y, eps=0.02, steps=30, generator=seeded())
    assert 0 < broken(linear, x, y).sum() < breakable.sum() < 64
    assert torch.equal(broken(linear, adversarial, y), breakable)


def hole(x: Tensor) -> Tensor:
    """Class 1 within 0.005 of 0.53 only; the gradient points there from everywhere."""
    distance = (x.flatten(1).mean(1) - 0.53).abs()
    return torch.stack((distance - 0.005, torch.zeros_like(distance)), dim=1)


def test_it_finds_a_hole_that_a_fixed_step_jumps_over() -> None:
    x, y = torch.full((32, 1, 1, 1), 0.5, dtype=torch.float64), torch.zeros(32, dtype=torch.long)
    options = {"eps": 0.1, "steps": 60, "loss": losses.margin}
    jumped = pgd(hole, x, y, step=0.04, generator=seeded(), **options)
    annealed = pgd(hole, x, y, step=0.04, generator=seeded(), annealed=True, **options)
    found = apgd(hole, x, y, generator=seeded(), **options)
    assert not broken(hole, jumped, y).all()
    assert broken(hole, annealed, y).all()
    assert broken(hole, found, y).all()


def test_an_image_that_still_stands_is_at_its_worst() -> None:
    """Where nothing breaks, no iterate may have had a larger loss than what is returned."""
    x, y = torch.full((8, 1, 1, 1), 0.5, dtype=torch.float64), torch.zeros(8, dtype=torch.long)
    seen = []

    def wavy(z: Tensor) -> Tensor:
        height = (40 * z.flatten(1).mean(1)).sin()
        seen.append(height.detach())
        return torch.stack((9 - height, torch.zeros_like(height)), dim=1)

    adversarial = apgd(wavy, x, y, eps=0.4, steps=25, generator=seeded(), loss=losses.margin)
    highest = torch.stack(seen).max(dim=0).values
    torch.testing.assert_close((40 * adversarial.flatten()).sin(), highest)


def test_broken_images_leave_the_batch() -> None:
    x, y = batch(6)[0], torch.tensor([0, 1, 0, 0, 1, 0])
    sizes: list[int] = []
    adversarial = apgd(counting(certain, sizes), x, y, eps=0.1, steps=4, generator=seeded())
    assert sizes == [6, 2, 2, 2, 2]
    stayed = (adversarial == uniform_start(x, 0.1, seeded())).flatten(1).all(1)
    assert stayed[y == 0].all()


def test_the_generator_decides_everything() -> None:
    x, y = torch.rand(8, 3, 2, 2, generator=seeded(3), dtype=torch.float64), torch.zeros(8).long()
    first, again, other = (
        apgd(certain, x, 1 - y, eps=0.1, steps=1, generator=seeded(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def five(x: Tensor) -> Tensor:
    """Five linear classes."""
    weights = torch.randn(5, 12, generator=seeded(2), dtype=torch.float64)
    return x.flatten(1) @ weights.T.to(x)


def test_the_targeted_attack_breaks_all_that_any_class_can() -> None:
    """A linear model falls to class t where the margin y - t is below eps |w_y - w_t|_1."""
    x = torch.rand(200, 3, 2, 2, generator=seeded(1), dtype=torch.float64) * 0.6 + 0.2
    y = five(x).argmax(1)
    eps = 0.1
    slopes = five(torch.eye(12, dtype=torch.float64)).T
    reach = eps * (slopes[:, None] - slopes[None]).abs().sum(2)
    margins = five(x).gather(1, y[:, None]) - five(x)
    breakable = ((margins < reach[y]) & (margins > 0)).any(1)
    adversarial = apgd_targeted(five, x, y, eps=eps, steps=40, generator=seeded(), targets=4)
    assert 20 < breakable.sum() < 190
    assert torch.equal(broken(five, adversarial, y), breakable)


def test_the_targeted_attack_leaves_alone_what_is_broken() -> None:
    x = torch.rand(50, 3, 2, 2, generator=seeded(1), dtype=torch.float64)
    y = five(x).argmax(1)
    sizes: list[int] = []
    apgd_targeted(counting(five, sizes), x, y, eps=1, steps=5, generator=seeded(), targets=4)
    assert sizes[:2] == [50, 50]
    assert sum(sizes) < 50 * 10


def test_moves_are_those_of_the_paper() -> None:
    """Croce & Hein 2020, Alg. 1: momentum 3/4; after 22 of 100 steps half of it, from the best."""
    eps = 0.4
    x, y = torch.full((8, 1, 1, 1), 0.5, dtype=torch.float64), torch.zeros(8, dtype=torch.long)
    seen: list[Tensor] = []

    def wavy(z: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        height = (40 * z.flatten(1).mean(1)).sin()
        return torch.stack((9 - height, torch.zeros_like(height)), dim=1)

    apgd(wavy, x, y, eps=eps, steps=100, generator=seeded(), loss=losses.margin)
    whole = seen[0] + 2 * eps * (40 * seen[0]).cos().sign()  # the first has no momentum
    torch.testing.assert_close(seen[1], whole.clamp(0.5 - eps, 0.5 + eps))
    past = torch.stack(seen[:23])
    best = past.gather(0, (40 * past).sin().argmax(0, keepdim=True))[0]
    for k, (before, at, after) in enumerate(zip(seen, seen[1:], seen[2:24], strict=False), 1):
        here, step = (best, eps) if k == 22 else (at, 2 * eps)
        z = (here + step * (40 * here).cos().sign()).clamp(0.5 - eps, 0.5 + eps)
        moved = here + 0.75 * (z - here) + 0.25 * (here - before)
        torch.testing.assert_close(after, moved.clamp(0.5 - eps, 0.5 + eps))


def test_a_rise_is_one_over_the_iterate_before_not_over_the_best() -> None:
    here, one = torch.zeros(1, 1, 1, 1), torch.ones(1)
    before = _Ascent(here, here, here, one, here, here, 5 * one, here, 0 * one, one, one > 2)
    after = _record(before, 2 * one, here)
    assert (after.rises.item(), after.best_value.item()) == (1, 5)


@pytest.mark.parametrize(("targets", "classes"), [(3, (3, 4, 0)), (9, (3, 4, 0, 2))])
def test_the_likeliest_wrong_classes_are_gone_for_in_turn_by_the_targeted_ratio(
    targets: int, classes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    aims = []

    def stubborn(
        _: Model, x: Tensor, __: Tensor, *, loss: losses.Loss, target: Tensor, **___: object
    ) -> Tensor:
        aims.append((loss, target.tolist()))
        return x

    monkeypatch.setattr(sys.modules["mbnas.attacks.apgd"], "apgd", stubborn)
    logits, x = torch.tensor([[3.0, 9, 1, 5, 4]]), torch.rand(1, 1, 2, 2)
    apgd_targeted(
        lambda z: logits.expand(len(z), 5),
        x,
        torch.tensor([1]),
        eps=0.1,
        steps=1,
        generator=seeded(),
        targets=targets,
    )
    assert aims == [(losses.targeted_logit_ratio, [[1, each]]) for each in classes]


@pytest.mark.parametrize(
    ("rises", "grown", "halved", "kept"),
    [
        (6, True, False, True),
        (6, True, True, True),
        (5, True, False, False),
        (5, True, True, False),
        (6, False, False, False),
        (6, False, True, True),
        (5, False, True, False),
    ],
)
def test_the_step_is_halved_when_the_paper_says(
    rises: int, grown: bool, halved: bool, kept: bool
) -> None:
    """Croce & Hein 2020, Sec. 3.1: 1. fewer than 3/4 of 8 rises; 2. neither step nor best moved.

    One row of a batch whose other row always keeps its step.
    """

    def column(*values: float) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).view(2, 1, 1, 1)

    before = _Ascent(
        place=column(0.3, 0.4),
        before=column(0.2, 0.5),
        gradient=column(-1, 2),
        value=torch.tensor([1.0, 2.0]),
        best=column(0.6, 0.7),
        best_gradient=column(3, -4),
        best_value=torch.tensor([5.0, 6.0]),
        step=column(0.8, 0.8),
        rises=torch.tensor([float(rises), 8]),
        mark=torch.tensor([4.0 if grown else 5.0, 4.0]),
        halved=torch.tensor([halved, False]),
    )
    after = _review(before, 8)
    unmoved = ("before", "best", "best_gradient", "best_value")
    assert all(torch.equal(getattr(after, name), getattr(before, name)) for name in unmoved)
    assert torch.equal(after.place, before.place if kept else column(0.6, 0.4))
    assert torch.equal(after.gradient, before.gradient if kept else column(3, 2))
    assert after.value.tolist() == [1 if kept else 5, 2]
    assert torch.equal(after.step, before.step if kept else column(0.4, 0.8))
    assert after.halved.tolist() == [not kept, False]
    assert after.mark.tolist() == [5, 6]
    assert after.rises.tolist() == [0, 0]
