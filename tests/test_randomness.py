"""Random numbers answer to their seed and purpose, and to nothing else."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mbnas.randomness import derive, generator, seeded

SEEDS = st.integers(0, 2**63)
PURPOSES = st.lists(st.integers() | st.text("abc", max_size=3), max_size=3)


def drawn(rng: torch.Generator | None = None) -> list[float]:
    return torch.rand(4, generator=rng).tolist()


@given(seed=SEEDS, purpose=PURPOSES)
def test_a_derived_seed_is_fixed_and_fits_every_generator(
    seed: int, purpose: list[int | str]
) -> None:
    assert derive(seed, *purpose) == derive(seed, *purpose)
    assert 0 <= derive(seed, *purpose) < 2**63
    assert drawn(generator(seed, *purpose)) == drawn(generator(seed, *purpose))


@given(seed=SEEDS, first=PURPOSES, second=PURPOSES)
def test_purposes_do_not_share_numbers(
    seed: int, first: list[int | str], second: list[int | str]
) -> None:
    assume(list(map(str, first)) != list(map(str, second)))
    assert derive(seed, *first) != derive(seed, *second)
    assert drawn(generator(seed, *first)) != drawn(generator(seed, *second))


@given(first=SEEDS, second=SEEDS, purpose=PURPOSES)
def test_seeds_do_not_share_numbers(first: int, second: int, purpose: list[int | str]) -> None:
    assume(first != second)
    assert derive(first, *purpose) != derive(second, *purpose)


def test_what_ran_before_changes_nothing() -> None:
    torch.manual_seed(1)
    first = drawn(generator(0, "epoch", 3))
    drawn()
    drawn(generator(0, "epoch", 2))
    assert drawn(generator(0, "epoch", 3)) == first


def test_a_generator_leaves_torchs_own_alone() -> None:
    before = torch.get_rng_state()
    drawn(generator(0, "epoch"))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_decides_torchs_draws_inside_and_restores_them_after() -> None:
    inside = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        before = torch.get_rng_state()
        with seeded(0, "initial weights"):
            inside.append(drawn())
        assert torch.equal(torch.get_rng_state(), before)
    assert inside[0] == inside[1] == drawn(generator(0, "initial weights"))


def test_seeded_restores_after_a_failure() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt), seeded(0):
        raise KeyboardInterrupt
    assert torch.equal(torch.get_rng_state(), before)
