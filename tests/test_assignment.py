"""Assignments and spaces: text form, order, and the bijection with search variables."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbnas.assignment import MAX_BASES, Assignment, Bases, Space
from mbnas.errors import SettingsError

COUNTS = st.integers(1, MAX_BASES)
ASSIGNMENTS = st.lists(st.builds(Bases, COUNTS, COUNTS), min_size=1, max_size=20).map(
    lambda layers: Assignment(tuple(layers))
)
CHOICES = st.sets(COUNTS, min_size=1).map(lambda counts: tuple(sorted(counts)))
SPACES = st.builds(Space, CHOICES, CHOICES, st.integers(1, 20))


@given(ASSIGNMENTS)
def test_text_form_round_trips(assignment: Assignment) -> None:
    assert Assignment.parse(str(assignment), len(assignment)) == assignment


@given(COUNTS, COUNTS, st.integers(1, 20))
def test_single_bases_name_every_layer(m: int, n: int, layers: int) -> None:
    parsed = Assignment.parse(f"{m}x{n}", layers)
    assert parsed == Assignment.uniform(m, n, layers)
    assert parsed.is_uniform
    assert list(parsed) == [(m, n)] * layers


def test_weights_are_written_before_activations() -> None:
    assignment = Assignment.parse("3x1, 1x2", 2)
    assert [bases.weights for bases in assignment] == [3, 1]
    assert [bases.activations for bases in assignment] == [1, 2]
    assert str(assignment) == "3x1,1x2"
    assert not assignment.is_uniform


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3x1,1x1", r"'3x1,1x1' names 2 layers, the network has 3 .*give 3 or a single MxN"),
        ("1x1,1x1,1x1,1x1", "names 4 layers, the network has 3"),
        ("", "'' is not of the form MxN"),
        ("3x1,,1x1", "'' is not of the form MxN"),
        ("3x1,3,1x1", "'3' is not of the form MxN; write 3x1"),
        ("-1x1", "'-1x1' is not of the form MxN"),
        (f"{'1' * 5000}x1", "is not of the form MxN"),  # more digits than int() takes
        ("1.5x1", r"'1\.5x1' is not of the form MxN"),
        ("0x1", "0x1 is out of range; both numbers go from 1 to 8"),
        ("3x1,1x9,1x1", "1x9 is out of range; both numbers go from 1 to 8"),
    ],
)
def test_unreadable_text_is_explained(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Assignment.parse(text, 3)


@given(ASSIGNMENTS)
def test_equal_assignments_are_one_key(assignment: Assignment) -> None:
    twin = Assignment.parse(str(assignment), len(assignment))
    assert hash(twin) == hash(assignment)
    assert twin.id == assignment.id
    assert {assignment: "seen"}[twin] == "seen"


@given(st.sets(ASSIGNMENTS, max_size=30))
def test_different_assignments_have_different_ids(assignments: set[Assignment]) -> None:
    assert len({assignment.id for assignment in assignments}) == len(assignments)


def test_assignments_cannot_be_changed() -> None:
    assignment = Assignment.uniform(3, 1, 2)
    with pytest.raises(AttributeError):
        assignment.layers = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        assignment.layers[0].weights = 1  # type: ignore[misc]


@given(SPACES, st.randoms(use_true_random=False))
def test_decode_inverts_encode(space: Space, rng: random.Random) -> None:
    assignment = space.sample(rng)
    positions = space.encode(assignment)
    assert assignment in space
    assert space.decode(positions) == assignment
    assert len(positions) == len(space.variables) == 2 * space.layers
    assert all(0 <= p < len(choices) for p, choices in zip(positions, space.variables, strict=True))


@given(SPACES, st.data())
def test_encode_inverts_decode(space: Space, data: st.DataObject) -> None:
    positions = tuple(data.draw(st.integers(0, len(values) - 1)) for values in space.variables)
    assert space.encode(space.decode(positions)) == positions


def test_sampling_reaches_the_whole_space() -> None:
    space = Space((1, 3), (1, 2, 5), layers=2)
    rng = random.Random(0)
    sampled = {space.sample(rng) for _ in range(1000)}
    assert len(sampled) == space.size == (2 * 3) ** 2


def test_size_is_exact_beyond_machine_integers() -> None:
    space = Space((1, 2, 3), (1, 2, 3), layers=54)
    assert space.size == 9**54


@given(SPACES)
def test_uniforms_are_the_uniform_members(space: Space) -> None:
    assert len(set(space.uniforms)) == len(space.weights) * len(space.activations)
    assert all(each.is_uniform and each in space for each in space.uniforms)
    assert {space.smallest, space.largest} <= set(space.uniforms)


@given(SPACES, st.randoms(use_true_random=False))
def test_smallest_and_largest_bound_every_member(space: Space, rng: random.Random) -> None:
    for low, bases, high in zip(space.smallest, space.sample(rng), space.largest, strict=True):
        assert low.weights <= bases.weights <= high.weights
        assert low.activations <= bases.activations <= high.activations


def test_a_space_knows_what_it_does_not_hold() -> None:
    space = Space((1, 3), (1, 2), layers=2)
    assert Assignment.parse("3x2,1x1", 2) in space
    assert Assignment.parse("2x1,1x1", 2) not in space
    assert Assignment.parse("1x3,1x1", 2) not in space
    assert Assignment.parse("1x1", 3) not in space
