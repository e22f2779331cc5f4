"""Members of a Pareto set, attacked by more than they were chosen by before they are reported."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mbnas.assignment import Assignment
from mbnas.attacks import square
from mbnas.auditing import Case
from mbnas.evaluation import BATCH, another, at_last_and_every, through
from mbnas.final import reported
from mbnas.images import Images
from mbnas.journal import Journal
from mbnas.progress import bar
from mbnas.randomness import derive, generator
from mbnas.search.problem import Problem, Trial
from mbnas.threads import side_by_side

QUERIES = 100  # of Square


def judges(validation: Images, scoring: int) -> Images:
    """As many images as the first that score candidates, others where they are enough.

    Who leads by luck on images that chose it must not lead on the same ones once more.
    """
    device = validation.positions.device
    others = validation.take(torch.arange(scoring, len(validation), device=device))
    return (others if len(others) >= scoring else validation).first(scoring)


def rescored(
    problem: Problem, images: Images, front: Sequence[Trial], journal: Journal, threads: int
) -> dict[str, float]:
    """Fraction of the images that each member, by id, withstands in the worst case.

    Args:
        journal: where accuracies under each attack are kept, both counts; who is in it already is
            not attacked again.
    """
    done = {record["id"] for record in journal.read("id", "worst_case")}
    todo = (trial.assignment for trial in front if trial.id not in done)
    with bar("re-scoring", len(front), len(done)) as advance:

        def keep(record: dict[str, Any]) -> None:
            journal.append(record)
            advance("")

        side_by_side(partial(_attacked, problem, images), lambda: next(todo, None), keep, threads)
    return {record["id"]: record["worst_case"] for record in journal.read()}


def withstanding(case: Case, queries: int, before: Tensor) -> Tensor:
    """Which images (n,) a short worst case leaves of those that stood ``before``.

    Two attacks that share nothing, then Square.

    The margin through the threat model's surrogate, rescaled cross-entropy through another one,
    each with the iterations of the threat model, and ``queries`` of the gradient-free Square.
    """
    own, steps = case.threat.surrogate, case.threat.steps
    left = before
    for loss, surrogate in (("margin", own), ("rescaled cross-entropy", another(own))):
        left = case.standing(case.pgd(loss, surrogate, steps), case.through(surrogate), left)
    search = partial(square, eps=case.threat.eps, queries=queries, generator=case.rng("square"))
    return case.standing(search, case.through(own), left)


def _attacked(problem: Problem, images: Images, assignment: Assignment) -> dict[str, Any]:
    """By PGD through each reported surrogate, then what stands by a short worst case."""
    network, threat = problem.candidate(assignment), problem.threat
    record: dict[str, Any] = {"id": assignment.id, "assignment": str(assignment)}
    left = torch.ones(len(images), dtype=torch.bool, device=images.device)
    for surrogate in reported(threat):
        rng = generator(problem.seed, "rescore", assignment)
        batches, model = images.batches(BATCH), through(network, surrogate)
        last, every = at_last_and_every(model, batches, threat, rng, threat.steps)
        record[f"pgd_{surrogate}_every"] = float(every.double().mean())
        record[f"pgd_{surrogate}_last"] = float(last.double().mean())
        left &= every
    seed = derive(problem.seed, "worst case", assignment)
    case = Case(network, images, threat, seed)
    record["worst_case"] = float(withstanding(case, QUERIES, left).double().mean())
    return record
