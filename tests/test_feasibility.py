"""What the gate lets through is affordable, in the space, and new."""

import random
from itertools import product

import pytest
from helpers import size
from hypothesis import given, settings
from hypothesis import strategies as st

from mbnas.assignment import Assignment, Space
from mbnas.search.feasibility import Gate

CHOICES = st.sets(st.integers(1, 8), min_size=1, max_size=4).map(lambda each: tuple(sorted(each)))
SPACES = st.builds(Space, CHOICES, CHOICES, st.integers(1, 6))


def gate(space: Space, budget: float, seed: int = 0) -> Gate:
    return Gate(space, lambda assignment: size(assignment) <= budget, random.Random(seed))


def between(space: Space, fraction: float) -> float:
    """A budget that at least the smallest network meets."""
    low, high = size(space.smallest), size(space.largest)
    return low + fraction * (high - low)


def affordable(space: Space, budget: float) -> set[Assignment]:
    everything = product(*map(range, map(len, space.variables)))
    return {each for each in map(space.decode, everything) if size(each) <= budget}


@given(space=SPACES, fraction=st.floats(0, 1), seed=st.integers(0, 2**32))
@settings(max_examples=40)
def test_everything_admitted_is_affordable_in_the_space_and_new(
    space: Space, fraction: float, seed: int
) -> None:
    budget, rng = between(space, fraction), random.Random(seed)
    one = gate(space, budget, seed)
    passed: list[Assignment] = []
    while len(passed) < 20 and (admitted := one.admit(space.sample(rng))) is not None:
        passed.append(admitted)
    assert passed
    assert all(each in space and size(each) <= budget for each in passed)
    assert len(set(passed)) == len(passed)
    assert one.seen == set(passed)


@given(space=SPACES, fraction=st.floats(0, 1), seed=st.integers(0, 2**32))
@settings(max_examples=40)
def test_an_affordable_new_proposal_passes_unchanged(
    space: Space, fraction: float, seed: int
) -> None:
    budget, rng = between(space, fraction), random.Random(seed)
    one = gate(space, budget, seed)
    for _ in range(20):
        proposal = space.sample(rng)
        welcome = size(proposal) <= budget and proposal not in one.seen
        admitted = one.admit(proposal)
        assert (admitted == proposal) == welcome
        if admitted is None:  # the space is exhausted, and that takes long to find out
            break


@given(space=SPACES, fraction=st.floats(0, 1), seed=st.integers(0, 2**32))
@settings(max_examples=40)
def test_a_proposal_over_budget_only_loses_bases(space: Space, fraction: float, seed: int) -> None:
    proposal = space.sample(random.Random(seed))
    admitted = gate(space, between(space, fraction), seed).admit(proposal)
    assert admitted is not None
    mended, asked = space.encode(admitted), space.encode(proposal)
    assert all(after <= before for after, before in zip(mended, asked, strict=True))


@pytest.mark.parametrize("fraction", [0, 0.1, 0.5, 1])
@pytest.mark.parametrize(
    "space", [Space((1, 2, 3), (1, 2), 2), Space((1, 3, 5), (2,), 3), Space((1,), (1,), 4)]
)
def test_every_affordable_assignment_passes_once_before_the_space_is_exhausted(
    space: Space, fraction: float
) -> None:
    budget = between(space, fraction)
    one, everything = gate(space, budget), affordable(space, budget)
    admitted = [one.admit(space.largest) for _ in everything]
    assert set(admitted) == everything
    assert one.admit(space.largest) is None


@given(
    space=SPACES,
    fraction=st.floats(0, 1),
    count=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=40)
def test_the_first_population_starts_with_the_affordable_uniforms(
    space: Space, fraction: float, count: int, seed: int
) -> None:
    budget = between(space, fraction)
    first = gate(space, budget, seed).first_population(count)
    uniforms = [each for each in space.uniforms if size(each) <= budget]
    assert first[: len(uniforms)] == uniforms
    assert len(first) <= max(count, len(uniforms))
    assert len(set(first)) == len(first)
    assert all(each in space and size(each) <= budget for each in first)


def test_the_first_population_is_filled_up() -> None:
    space = Space((1, 2, 3), (1, 2, 3), 6)
    assert len(gate(space, between(space, 0.3)).first_population(20)) == 20
