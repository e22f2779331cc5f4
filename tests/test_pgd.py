"""PGD, FGSM and restarts against models whose worst case is known."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from victims import batch, certain, counting, linear, seeded, uphill

from mbnas import backbones, losses
from mbnas.assignment import Assignment
from mbnas.attacks import (
    apgd,
    fgsm,
    n_fgsm,
    pgd,
    square,
    uniform_start,
)
from mbnas.errors import DataError, SettingsError
from mbnas.networks import freeze, multibit
from mbnas.objectives import perturbed
from mbnas.settings import Recipe, Surrogate, Training


@given(
    seed=st.integers(0, 2**32),
    eps=st.floats(1e-3, 1),
    step=st.floats(1e-4, 1),
    steps=st.integers(0, 5),
    stop=st.booleans(),
    annealed=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_pgd_stays_in_the_ball_and_in_the_box(
    *,
    seed: int,
    eps: float,
    step: float,
    steps: int,
    stop: bool,
    annealed: bool,
    dtype: torch.dtype,
) -> None:
    x = torch.rand(4, 3, 2, 2, generator=seeded(seed)).round(decimals=1).to(dtype)
    y = torch.randint(2, (4,), generator=seeded(seed))
    before = x.clone()
    options = {"stop_when_broken": stop, "annealed": annealed}
    adversarial = pgd(
        linear, x, y, eps=eps, step=step, steps=steps, generator=seeded(seed), **options
    )
    assert adversarial.dtype == dtype
    assert not adversarial.requires_grad
    assert (adversarial >= (x - eps).clamp(min=0)).all()
    assert (adversarial <= (x + eps).clamp(max=1)).all()
    assert torch.equal(x, before)


@pytest.mark.parametrize("eps", [8, 0, -0.1])
def test_an_eps_of_the_wrong_scale_is_refused_by_every_attack(eps: float) -> None:
    x, y = batch()
    for attack in (
        partial(pgd, step=0.1, steps=1),
        partial(fgsm, step=0.1),
        partial(n_fgsm, step=0.1),
        partial(apgd, steps=1),
        partial(square, queries=2),
    ):
        with pytest.raises(SettingsError, match=r"scale of images in \[0, 1\]; 8 of 255 .* 8/255"):
            attack(linear, x, y, eps=eps, generator=seeded())


def test_a_step_of_the_wrong_scale_is_refused() -> None:
    x, y = batch()
    for attack in (fgsm, n_fgsm):
        with pytest.raises(SettingsError, match=r"step 8 is not in the scale of images"):
            attack(linear, x, y, eps=0.1, step=8, generator=seeded())
    with pytest.raises(SettingsError, match=r"step 2 is not in the scale of images"):
        pgd(linear, x, y, eps=0.1, step=2, steps=1, generator=seeded())


@pytest.mark.parametrize("spoilt", [lambda x: 255 * x, lambda x: 2 * x - 1, lambda x: x / 0])
def test_images_outside_the_box_are_refused(spoilt: Callable[[Tensor], Tensor]) -> None:
    x, y = batch()
    for attack in (
        partial(pgd, step=0.1, steps=1),
        partial(apgd, steps=1),
        partial(square, queries=2),
    ):
        with pytest.raises(DataError, match=r"images run from .*; attacks need them in \[0, 1\]"):
            attack(linear, spoilt(x), y, eps=0.1, generator=seeded())


def test_start_is_uniform_in_the_ball() -> None:
    start = uniform_start(torch.full((50_000,), 0.5), 0.1, seeded())
    assert start.min() >= 0.4
    assert start.max() <= 0.6
    assert start.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert start.std().item() == pytest.approx(0.1 / 3**0.5, rel=1e-2)


def test_pgd_reaches_the_optimum_of_a_linear_model_inside_the_box() -> None:
    x, y = batch(low=0.2, high=0.8)
    eps = 0.1
    adversarial = pgd(
        linear, x, y, eps=eps, step=eps / 4, steps=10, generator=seeded(), stop_when_broken=False
    )
    assert torch.equal(adversarial, x + eps * uphill(y))


def test_pgd_reaches_the_optimum_of_a_linear_model_at_the_box() -> None:
    x, y = batch()
    eps = 0.4
    adversarial = pgd(
        linear, x, y, eps=eps, step=eps / 4, steps=10, generator=seeded(), stop_when_broken=False
    )
    assert torch.equal(adversarial, (x + eps * uphill(y)).clamp(0, 1))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_annealed_steps_fall_to_nothing_and_are_half_as_long_in_all(steps: int) -> None:
    """sum_i (1 + cos(pi i / n)) / 2 = (n + 1) / 2 over i < n, the first of them 1."""
    x, y = batch(low=0.4, high=0.6)
    start, options = uniform_start(x, 0.3, seeded()), {"eps": 0.3, "step": 1e-3, "steps": steps}
    adversarial = pgd(
        linear, x, y, generator=seeded(), stop_when_broken=False, annealed=True, **options
    )
    moved = (start + 1e-3 * (steps + 1) / 2 * uphill(y)).clamp(x - 0.3, x + 0.3)
    torch.testing.assert_close(adversarial, moved, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "attack",
    [
        partial(fgsm, step=0.05),
        partial(pgd, step=0.05, steps=4),
        partial(pgd, step=0.05, steps=4, annealed=True),
        partial(apgd, steps=4, loss=losses.margin),
    ],
    ids=["fgsm", "pgd", "annealed", "apgd"],
)
def test_a_pixel_without_a_gradient_stays_where_it_started(attack: Callable[..., Tensor]) -> None:
    def half_blind(z: Tensor) -> Tensor:
        return certain(torch.cat((z[:, :, :1], 0 * z[:, :, 1:]), dim=2))

    x, y = batch()[0], torch.ones(16, dtype=torch.long)
    start = uniform_start(x, 0.1, seeded())
    moved = attack(half_blind, x, y, eps=0.1, generator=seeded()) != start
    assert moved[:, :, :1].any()
    assert not moved[:, :, 1:].any()


def test_pgd_breaks_what_the_optimum_breaks() -> None:
    x, y = batch(64)
    optimum = (x + 0.02 * uphill(y)).clamp(0, 1)
    breakable = linear(optimum).argmax(1) != y
    adversarial = pgd(linear, x, y, eps=0.02, step=0.01, steps=6, generator=seeded())
    natural = linear(x).argmax(1) != y
    assert 0 < natural.sum() < breakable.sum() < 64
    assert torch.equal(linear(adversarial).argmax(1) != y, breakable)


def test_fgsm_is_one_clipped_step_from_the_start() -> None:
    x, y = batch()
    start = uniform_start(x, 0.1, seeded())
    expected = (start + 0.12 * uphill(y)).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    assert torch.equal(fgsm(linear, x, y, eps=0.1, step=0.12, generator=seeded()), expected)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_fgsm_is_pgd_of_one_step(seed: int) -> None:
    x, y = batch()
    one, other = (
        attack(linear, x, y, eps=0.1, step=0.12, generator=seeded(seed), **options)
        for attack, options in ((fgsm, {}), (pgd, {"steps": 1, "stop_when_broken": False}))
    )
    assert torch.equal(one, other)


def test_n_fgsm_steps_from_stronger_noise_and_is_not_projected() -> None:
    """x + noise + step * uphill, noise uniform in +-2 eps; nothing here touches the box."""
    eps, step = 0.05, 0.06
    x, y = batch(low=0.2, high=0.8)
    adversarial = n_fgsm(linear, x, y, eps=eps, step=step, generator=seeded())
    noise = adversarial - x - step * uphill(y)
    assert noise.abs().max() <= 2 * eps + 1e-6
    assert noise.abs().max() > 1.5 * eps
    assert not adversarial.requires_grad


def test_n_fgsm_takes_its_gradient_at_an_image() -> None:
    """As de Jorge et al. do: noise beyond black or white is cut before the step, not behind it."""
    x, y = batch(low=0, high=1)
    seen: list[Tensor] = []

    def watched(z: Tensor) -> Tensor:
        seen.append(z.detach().clone())
        return linear(z)

    adversarial = n_fgsm(watched, x, y, eps=0.5, step=0.1, generator=seeded())
    (noisy,) = seen
    assert (noisy.min(), noisy.max()) == (0, 1)
    assert torch.equal(adversarial, (noisy + 0.1 * uphill(y)).clamp(0, 1))


def test_single_steps_by_hand_where_the_gradient_turns() -> None:
    """It points away from 1/2, on either side: noise and step have the same sign everywhere."""

    def hill(z: Tensor) -> Tensor:
        return torch.stack(
            (-((z - 0.5) ** 2).flatten(1).sum(1), torch.zeros_like(z[:, 0, 0, 0])), 1
        )

    x, y = torch.full((64, 1, 2, 2), 0.5, dtype=torch.float64), torch.zeros(64, dtype=torch.long)
    noise = 2 * torch.rand(x.shape, generator=seeded()).double() - 1
    for training, radius, default in ((Training.FASTAT, 0.1, 0.125), (Training.N_FGSM, 0.2, 0.1)):
        for step in (None, 0.03):
            moved = radius * noise + (step or default) * noise.sign()
            if training is Training.FASTAT:  # back into the ball
                moved = moved.clamp(-0.1, 0.1)
            recipe = Recipe(epochs=1, training=training, step=step)
            found = perturbed(hill, x, y, 0.1, recipe, seeded())
            torch.testing.assert_close(found, x + moved, atol=1e-6, rtol=0)


def test_the_generator_decides_everything() -> None:
    x, y = batch()
    first, again, other = (
        pgd(linear, x, y, eps=0.1, step=0.01, steps=3, generator=seeded(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_attacks_leave_torchs_own_generator_alone() -> None:
    before = torch.get_rng_state()
    pgd(linear, *batch(), eps=0.1, step=0.01, steps=3, generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("labels", "stop", "expected"),
    [
        ([0, 1, 0, 0, 1, 0], True, [6, 2, 2, 2]),
        ([0, 0, 0, 0, 0, 0], True, [6]),
        ([1, 1, 1, 1, 1, 1], True, [6, 6, 6, 6]),
        ([0, 1, 0, 0, 1, 0], False, [6, 6, 6, 6]),
    ],
)
def test_broken_images_leave_the_batch(labels: list[int], stop: bool, expected: list[int]) -> None:
    x, y = batch(6)[0], torch.tensor(labels)
    sizes: list[int] = []
    adversarial = pgd(
        counting(certain, sizes),
        x,
        y,
        eps=0.1,
        step=0.02,
        steps=4,
        generator=seeded(),
        stop_when_broken=stop,
    )
    assert sizes == expected
    if stop:
        start = uniform_start(x, 0.1, seeded())
        stayed = (adversarial == start).flatten(1).all(1)
        assert stayed.tolist() == [label == 0 for label in labels]


def valley(x: Tensor) -> Tensor:
    """Class 1 for brightness between 0.7 and 0.8 only; the gradient always says: brighter."""
    brightness = x.flatten(1).mean(1)
    margin = torch.where((brightness > 0.7) & (brightness < 0.8), -1.0, 1.0)
    margin = margin - (brightness - brightness.detach())
    return torch.stack((margin, torch.zeros_like(margin)), dim=1)


def through_the_valley(*, stop: bool) -> tuple[Tensor, Tensor]:
    """Starts between 0.1 and 0.9 and what PGD makes of them, stepping to 0.9 and staying there."""
    x = torch.full((32, 1, 1, 1), 0.5, dtype=torch.float64)
    y = torch.zeros(32, dtype=torch.long)
    adversarial = pgd(
        valley, x, y, eps=0.4, step=0.03, steps=40, generator=seeded(), stop_when_broken=stop
    )
    return uniform_start(x, 0.4, seeded()), adversarial


def test_an_image_broken_at_any_iterate_is_returned_broken() -> None:
    start, adversarial = through_the_valley(stop=True)
    passes = start.flatten() < 0.8
    assert 0 < passes.sum() < len(passes)
    assert torch.equal(valley(adversarial).argmax(1) == 1, passes)
    first = start + 0.03 * ((0.7 - start) / 0.03).ceil().clamp(min=0)
    torch.testing.assert_close(adversarial[passes], first[passes])


def test_the_last_iterate_is_returned_when_asked_for() -> None:
    _, adversarial = through_the_valley(stop=False)
    assert torch.equal(adversarial, torch.full_like(adversarial, 0.9))
    assert (valley(adversarial).argmax(1) == 0).all()


def test_the_surrogate_of_a_network_steers_the_attack() -> None:
    table = backbones.build("resnet8", width=4, image=(3, 16, 16), classes=5)
    network = freeze(multibit(table, Assignment.uniform(2, 2, len(table.searchable))))
    x, y = torch.rand(4, 3, 16, 16), torch.arange(4)
    assert torch.equal(network(x, Surrogate.STE), network(x, Surrogate.TANH))
    ste, tanh = (
        fgsm(
            lambda images, chosen=surrogate: network(images, chosen),
            x,
            y,
            eps=0.1,
            step=0.1,
            generator=seeded(),
        )
        for surrogate in (Surrogate.STE, Surrogate.TANH)
    )
    assert not torch.equal(ste, tanh)


def test_pgd_drives_up_the_loss_it_is_given() -> None:
    x, y = batch(low=0.2, high=0.8)
    options = {"eps": 0.1, "step": 0.025, "steps": 10, "stop_when_broken": False}
    for loss in (losses.cross_entropy, losses.margin, losses.rescaled_cross_entropy):
        adversarial = pgd(linear, x, y, generator=seeded(), loss=loss, **options)
        assert torch.equal(adversarial, x + 0.1 * uphill(y))
