"""Square against models that gradients do not help against, and against its published schedule."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from victims import WEIGHT, batch, certain, counting, linear, seeded, uphill

from mbnas.attacks import broken, pgd, square
from mbnas.attacks.square import _side


@given(
    seed=st.integers(0, 2**32),
    eps=st.floats(1e-3, 1),
    queries=st.integers(1, 12),
    shape=st.sampled_from([(3, 2, 2), (1, 8, 8), (3, 5, 9), (1, 1, 1)]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_every_pixel_is_at_the_edge_of_the_ball_or_of_the_box(
    seed: int, eps: float, queries: int, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    x = torch.rand(4, *shape, generator=seeded(seed)).round(decimals=1).to(dtype)
    y = torch.randint(2, (4,), generator=seeded(seed))
    before = x.clone()

    def model(z: Tensor) -> Tensor:
        return torch.stack((z.flatten(1).mean(1), torch.full((len(z),), 0.5, dtype=dtype)), dim=1)

    adversarial = square(model, x, y, eps=eps, queries=queries, generator=seeded(seed))
    assert adversarial.dtype == dtype
    edges = (adversarial == (x - eps).clamp(min=0)) | (adversarial == (x + eps).clamp(max=1))
    assert edges.all()
    assert torch.equal(x, before)


def test_the_area_of_the_square_is_halved_when_the_paper_says() -> None:
    """Of 10,000 queries after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 (Sec. 4)."""
    last = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000, 9999)  # of each size
    first = (0, *(query + 1 for query in last[:-1]))
    for halvings, queries in enumerate(zip(first, last, strict=True)):
        expected = round(math.sqrt(0.8 / 2**halvings * (1 << 20)))
        assert {_side(query / 10_000, 1 << 20) for query in queries} == {expected}
    assert _side(0.99, 4) == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_square_covers_most_and_smaller_ones_follow(channels: int) -> None:
    """On a model that finds all alike, each query differs from the stripes in one square."""
    seen: list[Tensor] = []

    def model(z: Tensor) -> Tensor:
        seen.append(z)
        return torch.tensor([[1.0, 0.0]]).expand(len(z), 2)

    x, y = torch.full((1, channels, 20, 20), 0.5), torch.zeros(1, dtype=torch.long)
    square(model, x, y, eps=0.1, queries=101, generator=seeded())
    stripes, *tried = seen
    sides = [int((each != stripes).any(dim=(1, 3)).sum()) for each in tried]
    assert sides[0] == round(math.sqrt(0.8 * 400)) == 18
    assert sides == [_side(query / 101, 400) for query in range(100)]


def test_queries_are_what_the_model_sees_of_an_image() -> None:
    x, y = batch(6)[0], torch.tensor([0, 1, 0, 0, 1, 0])
    sizes: list[int] = []
    square(counting(certain, sizes), x, y, eps=0.1, queries=7, generator=seeded())
    assert sizes == [6, *[2] * 6]


def test_it_finds_the_optimum_of_a_linear_model() -> None:
    """12 numbers with two values each: a few hundred queries see the best of them."""
    x, y = batch(low=0.2, high=0.8)

    def stubborn(z: Tensor) -> Tensor:
        return linear(z) + 99 * torch.eye(2, dtype=z.dtype)[y]

    adversarial = square(stubborn, x, y, eps=0.1, queries=600, generator=seeded())
    assert torch.equal(adversarial, torch.where(uphill(y) > 0, x + 0.1, x - 0.1))
    assert (WEIGHT != 0).all()


def test_it_does_not_break_what_cannot_be_broken() -> None:
    x, y = batch(64)
    optimum = (x + 0.02 * uphill(y)).clamp(0, 1)
    adversarial = square(linear, x, y, eps=0.02, queries=50, generator=seeded())
    assert not (broken(linear, adversarial, y) & ~broken(linear, optimum, y)).any()


@pytest.mark.parametrize("scale", [0.0, -1.0], ids=["no gradient", "a gradient that misleads"])
def test_a_masked_gradient_does_not_help(scale: float) -> None:
    """The values are those of the linear model, the gradient is not."""

    def masked(z: Tensor) -> Tensor:
        honest = linear(z)
        return honest.detach() + scale * (honest - honest.detach())

    x, y = batch(32, low=0.4, high=0.6)
    y = linear(x).argmax(1)
    by_gradient = pgd(masked, x, y, eps=0.3, step=0.05, steps=20, generator=seeded())
    by_search = square(masked, x, y, eps=0.3, queries=300, generator=seeded())
    assert broken(linear, by_search, y).all()
    assert not broken(linear, by_gradient, y).all()


def test_it_begins_with_vertical_stripes_that_differ_between_channels() -> None:
    """Andriushchenko et al. 2020, Sec. 3.2."""
    seen: list[Tensor] = []

    def model(z: Tensor) -> Tensor:
        seen.append(z)
        return torch.tensor([[1.0, 0.0]]).expand(len(z), 2)

    x, y = torch.full((1, 3, 20, 20), 0.5), torch.zeros(1, dtype=torch.long)
    square(model, x, y, eps=0.1, queries=1, generator=seeded())
    (stripes,) = seen
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert not torch.equal(stripes[:, 0], stripes[:, 1])


def test_its_generator_decides_everything() -> None:
    def model(z: Tensor) -> Tensor:
        return torch.stack((9 - z.flatten(1).sum(1) / 100, 0 * z[:, 0, 0, 0]), dim=1)

    x, y = torch.full((4, 3, 8, 8), 0.5), torch.zeros(4, dtype=torch.long)
    before = torch.get_rng_state()
    one, again, other = (
        square(model, x, y, eps=0.1, queries=9, generator=seeded(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
