"""One search from the first candidate to the last: engine, journal, executor, progress."""

from __future__ import annotations

import torch

from mbnas.journal import Journal
from mbnas.progress import bar
from mbnas.search.engines import engine
from mbnas.search.executors import Executor
from mbnas.search.problem import Problem, Trial
from mbnas.search.session import Session
from mbnas.settings import SearchSettings


def searched(
    problem: Problem,
    settings: SearchSettings,
    *,
    budget: float,
    evaluations: int,
    seed: int,
    journal: Journal,
    early: Journal,
    executor: Executor,
    device: torch.device,
    title: str,
) -> list[Trial]:
    """Every candidate, scored now or found in the journal, in the order proposed.

    Args:
        budget: most BOPS a candidate may cost.
        evaluations: candidates in all; fewer if the space holds no more within the budget.
        journal, early: see :class:`mbnas.search.session.Session`.
    """
    space = problem.space
    proposer = engine(settings, space, lambda each: problem.cost(each) <= budget, seed)
    with bar(title, evaluations, done=len(journal.read()) + len(early.read())) as advance:
        session = Session(
            proposer,
            space.layers,
            evaluations,
            journal=journal,
            early=early,
            on_trial=lambda trial: advance(
                f"natural {trial.natural:.1%} robust {trial.robust:.1%}"
            ),
        )
        executor.run(problem, session, device)
    return session.trials
