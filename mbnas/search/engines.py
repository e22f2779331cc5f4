"""NSGA-II (Deb et al. 2002) of two libraries behind one interface: ask for candidates, tell scores.

Both see M and N of each layer as integer variables of their own and start from the affordable
uniform assignments, so that the result cannot be worse than those.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import TrialState
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.core.problem import Problem as PymooProblem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.ux import UX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.problems.static import StaticProblem

from mbnas.assignment import Assignment, Space
from mbnas.pareto import objectives
from mbnas.search.feasibility import Gate
from mbnas.search.problem import Trial
from mbnas.settings import SearchSettings


class Engine(Protocol):
    """Proposes one generation after another."""

    def ask(self) -> list[Assignment]:
        """New affordable assignments, at least one; none when no more are found."""

    def tell(self, trials: Sequence[Trial]) -> None:
        """The scores of all of the last generation, in the order they were asked."""


def engine(
    settings: SearchSettings, space: Space, affordable: Callable[[Assignment], bool], seed: int
) -> Engine:
    """The engine that the settings name."""
    gate = Gate(space, affordable, random.Random(seed))
    match settings.engine:
        case "optuna":
            return OptunaNSGA2(gate, settings.population, seed)
        case "pymoo":
            return PymooNSGA2(gate, settings.population, seed)


class OptunaNSGA2:
    """NSGA-II as Optuna implements it."""

    def __init__(self, gate: Gate, population: int, seed: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._gate = gate
        self._population = population
        self._sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed % 2**32)
        self._study = optuna.create_study(directions=["minimize"] * 3, sampler=self._sampler)
        self._distributions: dict[str, BaseDistribution] = {
            f"{kind}{layer}": IntDistribution(0, len(choices) - 1)
            for layer in range(gate.space.layers)
            for kind, choices in (("m", gate.space.weights), ("n", gate.space.activations))
        }
        self._asked: list[optuna.Trial] = []

    def ask(self) -> list[Assignment]:
        """One generation; an over-budget or repeated proposal fails and its mend is enqueued."""
        if not self._study.trials:
            generation = self._gate.first_population(self._population)
            self._asked = [self._begin(assignment) for assignment in generation]
            return generation
        self._asked, generation = [], []
        while len(generation) < self._population:
            trial = self._study.ask(self._distributions)
            proposal = self._gate.space.decode([trial.params[name] for name in self._distributions])
            admitted = self._gate.admit(proposal)
            if admitted != proposal:
                self._study.tell(trial, state=TrialState.FAIL)
            if admitted is None:
                break
            self._asked.append(trial if admitted == proposal else self._begin(admitted))
            generation.append(admitted)
        return generation

    def tell(self, trials: Sequence[Trial]) -> None:
        """Complete the generation."""
        for asked, values in zip(self._asked, objectives(trials), strict=True):
            self._study.tell(asked, values.tolist())

    def _begin(self, assignment: Assignment) -> optuna.Trial:
        positions = self._gate.space.encode(assignment)
        self._study.enqueue_trial(dict(zip(self._distributions, positions, strict=True)))
        trial = self._study.ask(self._distributions)
        # The sampler has not been asked for what is fixed, and only whom it puts into a generation
        # can become a parent.
        self._sampler.get_trial_generation(
            self._study, self._study.get_trials(deepcopy=False)[trial.number]
        )
        return trial


class PymooNSGA2:
    """NSGA-II as pymoo implements it, with uniform crossover and polynomial mutation.

    Mutation adds next to nothing: with few choices most of its steps are rounded away.
    """

    def __init__(self, gate: Gate, population: int, seed: int) -> None:
        self._gate = gate
        self._population = population
        last = [len(choices) - 1 for choices in gate.space.variables]
        self._problem = PymooProblem(n_var=len(last), n_obj=3, xl=0, xu=np.array(last), vtype=int)
        first = gate.first_population(population)
        self._algorithm = NSGA2(
            pop_size=population,
            sampling=np.array([gate.space.encode(each) for each in first]),
            crossover=UX(),
            mutation=PM(vtype=float, repair=RoundingRepair()),
        )
        self._algorithm.setup(self._problem, seed=seed % 2**32, termination=NoTermination())
        self._first: list[Assignment] = first
        self._asked: Any = None

    def ask(self) -> list[Assignment]:
        """One generation; over-budget and repeated proposals are replaced by their mends.

        Few parents that are much alike may have fewer new children: random ones join them.
        """
        proposals = self._algorithm.ask()
        if self._first:
            generation, self._first = self._first, []
            self._asked = proposals
            return generation
        space = self._gate.space
        bred = [] if proposals is None else [space.decode(each) for each in proposals.get("X")]
        others = [space.sample(self._gate.rng) for _ in range(self._population - len(bred))]
        admitted = map(self._gate.admit, (*bred, *others))
        generation = [each for each in admitted if each is not None]
        self._asked = Population.new(X=np.array([space.encode(each) for each in generation]))
        return generation

    def tell(self, trials: Sequence[Trial]) -> None:
        """Let the generation compete with its parents."""
        scores = objectives(trials)
        Evaluator().eval(StaticProblem(self._problem, F=scores), self._asked)
        self._algorithm.tell(infills=self._asked)
