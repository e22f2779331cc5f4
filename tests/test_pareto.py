"""Pareto bookkeeping against the definitions, by brute force."""

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbnas.pareto import hypervolume, most_useful, non_dominated, objectives


@dataclass(frozen=True, eq=False)
class Member:
    """Scores in tenths; equal scores do not make two members one."""

    natural: float
    robust: float
    bops: int


TENTHS = st.integers(0, 10).map(lambda tenths: tenths / 10)
MEMBERS = st.lists(st.builds(Member, TENTHS, TENTHS, st.integers(1, 6)), max_size=12)
FRONTS = MEMBERS.map(non_dominated)
POINTS = st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=6)


def dominates(one: Member, other: Member) -> bool:
    """No worse in anything and better in something."""
    left, right = ((-each.natural, -each.robust, each.bops) for each in (one, other))
    return left != right and all(a <= b for a, b in zip(left, right, strict=True))


def volume(points: np.ndarray, reference: np.ndarray) -> float:
    """Hypervolume as the sum of the dominated cells of the grid through all coordinates."""
    edges = [
        sorted({*column[column < limit], limit})
        for column, limit in zip(points.T, reference, strict=True)
    ]
    return sum(
        np.prod([high - low for low, high in cell])
        for cell in product(*map(pairwise, edges))
        if (points <= [low for low, _ in cell]).all(axis=1).any()
    )


def scaled(front: list[Member]) -> np.ndarray:
    """From 0, the best, to 1, the worst: in BOPS, and in the accuracy that spreads more."""
    points = objectives(front)
    natural, robust, bops = points.max(axis=0) - points.min(axis=0)
    extent = np.array([max(natural, robust), max(natural, robust), bops])
    extent[extent == 0] = 1
    return (points - points.min(axis=0)) / extent


def test_objectives_are_errors_and_cost() -> None:
    assert objectives([Member(0.75, 0.5, 7)]).tolist() == [[0.25, 0.5, 7]]


@given(members=MEMBERS)
def test_the_front_is_what_nothing_dominates(members: list[Member]) -> None:
    expected = {one for one in members if not any(dominates(other, one) for other in members)}
    front = non_dominated(members)
    assert len(front) == len(expected)
    assert set(front) == expected


@given(members=MEMBERS)
def test_the_front_is_sorted_by_cost(members: list[Member]) -> None:
    costs = [member.bops for member in non_dominated(members)]
    assert costs == sorted(costs)


@given(members=MEMBERS.filter(bool))
def test_equals_are_all_kept(members: list[Member]) -> None:
    front = non_dominated(members)
    twin = Member(front[0].natural, front[0].robust, front[0].bops)
    assert set(non_dominated([*members, twin])) == {*front, twin}


@pytest.mark.parametrize(
    ("points", "reference", "expected"),
    [
        ([(0, 0)], (1, 1), 1),
        ([(1, 1, 1)], (2, 3, 4), 6),
        ([(1, 3), (2, 2), (3, 1)], (4, 4), 6),
        ([(1, 3), (2, 2), (3, 1), (3, 3), (2, 2)], (4, 4), 6),
        ([(0, 0, 1), (1, 0, 0)], (2, 1, 2), 3),
        ([(1, 1)], (1, 2), 0),
        ([(5, 0)], (4, 4), 0),
    ],
)
def test_hypervolume_of_known_boxes(
    points: list[tuple[int, ...]], reference: tuple[int, ...], expected: float
) -> None:
    assert hypervolume(np.array(points, float), np.array(reference, float)) == expected


@given(points=POINTS)
@settings(max_examples=50)
def test_hypervolume_is_the_volume_of_the_dominated_cells(
    points: list[tuple[int, int, int]],
) -> None:
    matrix, reference = np.array(points, float), np.full(3, 4.0)
    assert hypervolume(matrix, reference) == pytest.approx(volume(matrix, reference))


@given(front=FRONTS, count=st.integers(0, 15))
def test_useful_members_are_distinct_and_as_many_as_asked_for(
    front: list[Member], count: int
) -> None:
    chosen = most_useful(front, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(front))
    assert set(chosen) <= set(front)


@given(front=FRONTS, count=st.integers(0, 5))
def test_asking_for_more_changes_none_of_the_first(front: list[Member], count: int) -> None:
    assert most_useful(front, count + 1)[:count] == most_useful(front, count)


@given(front=FRONTS)
@settings(max_examples=50)
def test_the_most_robust_comes_first_and_each_next_adds_most(front: list[Member]) -> None:
    points, reference, chosen = scaled(front) if front else [], np.full(3, 1.1), []
    for member in most_useful(front, 3):
        rest = [i for i in range(len(front)) if i not in chosen]
        volumes = {i: volume(points[[*chosen, i]], reference) for i in rest}
        position = front.index(member)
        if chosen:
            assert volumes[position] == pytest.approx(max(volumes.values()))
        else:
            assert member.robust == max(each.robust for each in front)
        chosen.append(position)


@given(front=FRONTS, power=st.integers(1, 30))
def test_the_unit_of_cost_does_not_matter(front: list[Member], power: int) -> None:
    dearer = [Member(each.natural, each.robust, each.bops * 2**power) for each in front]
    positions, others = (
        [members.index(each) for each in most_useful(members, 3)] for members in (front, dearer)
    )
    assert positions == others


def test_the_knee_comes_right_behind_the_most_robust() -> None:
    cheapest, knee, most_robust = Member(0.0, 0.0, 1), Member(0.8, 0.8, 2), Member(1.0, 1.0, 10)
    assert most_useful([cheapest, knee, most_robust], 2) == [most_robust, knee]


def test_noise_in_natural_accuracy_decides_nothing_where_robustness_differs() -> None:
    most_robust, lucky, knee = Member(0.95, 0.6, 9), Member(0.96, 0.45, 5), Member(0.94, 0.55, 4)
    assert most_useful([knee, lucky, most_robust], 2) == [most_robust, knee]


def test_of_equally_robust_members_the_more_accurate_is_first_then_the_cheaper() -> None:
    front = [Member(0.7, 0.5, 1), Member(0.8, 0.5, 3), Member(0.8, 0.5, 2), Member(0.9, 0.4, 4)]
    assert most_useful(front, 1) == [front[2]]
