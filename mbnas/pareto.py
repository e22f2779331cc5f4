"""Multi-objective bookkeeping: non-domination, hypervolume, and which members are most useful."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

Matrix = NDArray[np.float64]


class Scored(Protocol):
    """Anything with the three objectives."""

    @property
    def natural(self) -> float: ...  # noqa: D102
    @property
    def robust(self) -> float: ...  # noqa: D102
    @property
    def bops(self) -> int: ...  # noqa: D102


T = TypeVar("T", bound=Scored)


def objectives(scored: Sequence[Scored]) -> Matrix:
    """(n, 3), every column to be minimised: natural error, robust error, BOPS."""
    return np.array(
        [(1 - each.natural, 1 - each.robust, each.bops) for each in scored], dtype=float
    )


def non_dominated(scored: Sequence[T]) -> list[T]:
    """The members no other one dominates, cheapest first; equals are all kept."""
    if not scored:
        return []
    front = NonDominatedSorting().do(objectives(scored), only_non_dominated_front=True)
    return sorted((scored[i] for i in front), key=lambda each: each.bops)


def hypervolume(points: Matrix, reference: Matrix) -> float:
    """Volume that ``points`` (n, k) dominate below ``reference`` (k,), all minimised."""
    return float(HV(ref_point=reference)(points))


def most_useful(front: Sequence[T], count: int) -> list[T]:
    """``count`` members to look at closely: the most robust, then those that dominate most with it.

    Of equally robust ones the most accurate, then the cheapest. The others by greedy maximisation
    of the hypervolume of the objectives: each next one adds most to those chosen (Guerreiro et al.
    2016). BOPS are scaled to their extent over the front, both accuracies to the larger of theirs,
    so that a point of one counts as much as a point of the other.
    """
    if not front or not count:
        return []
    points = objectives(front)
    extent = np.ptp(points, axis=0)
    # Where all are as accurate but for noise, its extent would make noise count like robustness.
    extent[:2] = extent[:2].max()
    scaled = (points - points.min(axis=0)) / np.where(extent > 0, extent, 1)
    reference = np.full(points.shape[1], 1.1)
    ranks = [(each.robust, each.natural, -each.bops) for each in front]
    chosen = [max(range(len(front)), key=lambda i: ranks[i])]
    while len(chosen) < min(count, len(front)):
        rest = [i for i in range(len(front)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: hypervolume(scaled[[*chosen, i]], reference)))
    return [front[i] for i in chosen]
