"""Does NSGA-II find more than random search, or than layer-wise sensitivity, for as many scores?

    python scripts/study_engines.py RUN ... --work FOLDER

Searches the supernet of each run once more, by its budget and as many evaluations, with each engine
and from several seeds, all from the affordable uniform assignments; ``uniform`` stops at these.
``random`` draws every M and N alike. ``sensitivity`` knows no chance: it scores every change of one
layer from the middle of the space, adds up what they bring, and scores the assignments that should
be best at evenly spaced costs, by integer programming. What a search has found is the hypervolume
of its candidates by what the supernet scores on validation images. Interrupted, it goes on where it
stopped.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from random import Random

import bench
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from mbnas import data as datasets
from mbnas import runs
from mbnas.assignment import Assignment, Bases, Space
from mbnas.checkpoints import digest, load_supernet
from mbnas.devices import pick_device
from mbnas.errors import SettingsError
from mbnas.journal import Journal
from mbnas.pareto import Matrix, hypervolume, non_dominated, objectives
from mbnas.randomness import derive
from mbnas.runs import RunFolder
from mbnas.sameness import identity, require_same
from mbnas.search.engines import Engine, engine
from mbnas.search.feasibility import Gate
from mbnas.search.problem import Problem, Trial
from mbnas.search.session import recorded
from mbnas.settings import SearchSettings, Settings
from mbnas.threads import one_thread_each

Score = Callable[[Sequence[Assignment]], list[Trial]]
Cost = Callable[[Assignment], int]
Measured = dict[str, Mapping[str, Sequence[float]]]  # by measure and engine, one for each search
BY_CHANCE = ("pymoo", "optuna", "random")


@dataclass
class RandomSearch:
    """New affordable assignments whose M and N are drawn uniformly; needs no scores."""

    gate: Gate
    population: int
    asked: bool = False

    def ask(self) -> list[Assignment]:
        """One generation, the first with the uniform assignments."""
        if not self.asked:
            self.asked = True
            return self.gate.first_population(self.population)
        drawn = (self.gate.space.sample(self.gate.rng) for _ in range(self.population))
        return [each for each in map(self.gate.admit, drawn) if each is not None]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Nothing is learned."""


@dataclass
class Sensitivity:
    """Layers one by one, then what is best if their effects add up (natural + robust accuracy).

    Raises:
        SettingsError: if the middle is not affordable, or no evaluations are left for the latter.
    """

    space: Space
    cost: Cost
    budget: float
    evaluations: int
    known: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.cost(self.middle) > self.budget:
            raise SettingsError(
                f"layers are changed one by one in {self.middle.layers[0]} everywhere, which costs "
                f"more than the budget of {self.budget:g}; give a run of a larger one"
            )
        if self.evaluations <= len(self._first()):
            raise SettingsError(
                f"layer by layer it takes {len(self._first())} evaluations to see what changes "
                f"bring, there are {self.evaluations}; give more by --evaluations"
            )

    def ask(self) -> list[Assignment]:
        """The uniform and single changes of the middle; then the best by their sum."""
        if not self.known:
            return self._first()
        room = self.evaluations - len(self.known)
        seen = {trial.assignment for trial in self.known}
        least, most = self.cost(self.space.smallest), self.budget
        # Neighbouring limits often share their optimum, hence more limits than are wanted.
        limits, effects = np.linspace(least, most, 4 * room), self._effects()
        best = dict.fromkeys(self._best_within(limit, *effects) for limit in limits)
        return evenly([each for each in best if each not in seen], room)

    def tell(self, trials: Sequence[Trial]) -> None:
        """Remember."""
        self.known += trials

    def _first(self) -> list[Assignment]:
        changes = (
            changed(self.middle, layer, bases)
            for layer in range(self.space.layers)
            for bases in self._choices()
        )
        every = dict.fromkeys((*self.space.uniforms, self.middle, *changes))
        return [each for each in every if self.cost(each) <= self.budget]

    @property
    def middle(self) -> Assignment:
        """Where single layers are changed."""
        weights, activations = self.space.weights, self.space.activations
        return Assignment.uniform(
            weights[len(weights) // 2], activations[len(activations) // 2], self.space.layers
        )

    def _choices(self) -> list[Bases]:
        return [Bases(*each) for each in product(self.space.weights, self.space.activations)]

    def _effects(self) -> tuple[Matrix, Matrix]:
        """What each choice for each layer adds to the worth and to the cost of the middle."""
        worth = {trial.assignment: trial.natural + trial.robust for trial in self.known}
        # Of what is not affordable: effects are within 2, and no choice elsewhere makes up for it.
        least = -4.0 * self.space.layers
        singles = [
            [changed(self.middle, layer, bases) for bases in self._choices()]
            for layer in range(self.space.layers)
        ]
        base, cost = worth[self.middle], self.cost(self.middle)
        gains = [[worth[e] - base if e in worth else least for e in row] for row in singles]
        costs = [[self.cost(each) - cost for each in row] for row in singles]
        return np.array(gains), np.array(costs, dtype=float)

    def _best_within(self, limit: float, gains: Matrix, costs: Matrix) -> Assignment:
        """Of largest sum of effects at this cost at most: one of the choices for every layer."""
        one_each = np.kron(np.eye(len(gains)), np.ones(len(gains[0])))
        scale = self.cost(self.middle)
        found = milp(
            -gains.ravel(),
            integrality=np.ones(gains.size),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(costs.ravel() / scale, ub=(limit - scale) / scale),
            ],
        )
        chosen = found.x.reshape(gains.shape).argmax(axis=1)
        return Assignment(tuple(self._choices()[each] for each in chosen))


def changed(assignment: Assignment, layer: int, bases: Bases) -> Assignment:
    """With other bases in one layer."""
    before = assignment.layers
    return Assignment((*before[:layer], bases, *before[layer + 1 :]))


def evenly(ordered: Sequence[Assignment], count: int) -> list[Assignment]:
    """``count`` of them from the first to the last, or all if there are fewer."""
    places = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[place] for place in places]


def searched(proposer: Engine, evaluations: int, score: Score) -> list[Trial]:
    """What an engine has scored, generation by generation; the last one may be cut."""
    trials: list[Trial] = []
    while len(trials) < evaluations and (generation := proposer.ask()):
        found = score(generation[: evaluations - len(trials)])
        trials += found
        if len(trials) < evaluations:  # engines can be told whole generations only
            proposer.tell(found)
    return trials


def proposer(
    name: str, settings: SearchSettings, space: Space, cost: Cost, budget: float, seed: int
) -> Engine:
    """An engine by its name in the tables."""

    def affordable(assignment: Assignment) -> bool:
        return cost(assignment) <= budget

    if name == "sensitivity":
        return Sensitivity(space, cost, budget, settings.evaluations)
    if name == "random":
        return RandomSearch(Gate(space, affordable, Random(seed)), settings.population)
    return engine(settings.model_copy(update={"engine": name}), space, affordable, seed)


def scaled(trials: Sequence[Trial], among: Matrix) -> Matrix:
    """Objectives of ``trials``, each from 0 to 1 over the Pareto set ``among`` (k, 3)."""
    lowest, highest = among.min(axis=0), among.max(axis=0)
    of_all: Matrix = (objectives(trials) - lowest) / np.where(highest > lowest, highest - lowest, 1)
    return of_all


def shares(searches: dict[str, list[list[Trial]]]) -> dict[str, list[float]]:
    """Hypervolume of each search, of that of all of them together."""
    everything = [trial for each in searches.values() for trials in each for trial in trials]
    among, reference = objectives(non_dominated(everything)), np.full(3, 1.1)
    whole = hypervolume(scaled(everything, among), reference)
    return {
        name: [hypervolume(scaled(trials, among), reference) / whole for trials in each]
        for name, each in searches.items()
    }


def compared(run: RunFolder, settings: Settings, arguments: argparse.Namespace) -> Measured:
    """What each engine's searches have found on the supernet of one run."""
    search, budget = settings.search, settings.search.budget
    assert budget is not None  # every run has one
    data = datasets.load(settings.data, settings.seed)
    runs.record_data(run, settings, data.fingerprint(), data.held_out)
    problem = Problem.of(load_supernet(run.supernet_file), data, settings)
    problem, space = problem.to(pick_device(settings.device)), problem.space
    arguments.work.mkdir(parents=True, exist_ok=True)
    journal = Journal(arguments.work / f"scores-{digest(run.supernet_file)[:8]}.jsonl")
    known = {trial.assignment: trial for trial in recorded(journal, space.layers)}
    with one_thread_each(arguments.workers) as pool:

        def score(assignments: Sequence[Assignment]) -> list[Trial]:
            """A candidate has one score, whoever proposes it."""
            new = [each for each in assignments if each not in known]
            for trial in pool.map(problem.score, new):
                journal.append(trial.record())
                known[trial.assignment] = trial
            return [known[each] for each in assignments]

        uniforms = [each for each in space.uniforms if problem.cost(each) <= budget]
        searches = {"uniform": [score(uniforms)]}
        for name in ("sensitivity", *BY_CHANCE):
            for seed in arguments.seeds if name in BY_CHANCE else arguments.seeds[:1]:
                chance = derive(settings.seed, "engines", seed)
                each = proposer(name, search, space, problem.cost, budget, chance)
                found = searched(each, search.evaluations, score)
                searches.setdefault(name, []).append(found)
                print(f"{run.path.name}: {name}, seed {seed}: {len(found)} scores", flush=True)
    robust = {
        name: [max(trial.robust for trial in trials) for trials in each]
        for name, each in searches.items()
    }
    scores = {name: [len(trials) for trials in each] for name, each in searches.items()}
    return {"hypervolume": shares(searches), "robust": robust, "scores": scores}


def alike(arguments: argparse.Namespace) -> list[tuple[RunFolder, Settings]]:
    """The runs with their settings, which may differ by seed alone.

    Raises:
        SettingsError: if they differ otherwise; DataError: if one is no run with a supernet.
    """
    own = bench.images_in(arguments.data)
    if arguments.evaluations:
        own.append(f"search.evaluations={arguments.evaluations}")
    found = []
    for path in arguments.runs:
        run = runs.reopen(path)
        runs.require_supernet(run)
        found.append((run, bench.settled(run.settings_file, own, [])))
    first = found[0][1]
    for run, settings in found[1:]:
        given, others = (identity(each) | {"seed": None} for each in (first, settings))
        require_same(given, others, f"{str(arguments.runs[0])!r} was made", f"leave {run.path} out")
    return found


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="of several seeds")
    parser.add_argument("--work", type=Path, required=True, help="where scores are kept")
    parser.add_argument("--data", type=Path, help="where the runs' images are, if elsewhere now")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)), help="of searches")
    parser.add_argument("--evaluations", type=bench.positive, help="(default: the runs')")
    parser.add_argument("--workers", type=bench.positive, default=2, help="scored side by side")
    parser.add_argument("--name", help="of the result (default: the runs' space)")
    arguments = parser.parse_args()
    several = alike(arguments)
    found = [compared(run, settings, arguments) for run, settings in several]
    settings = several[0][1]

    def mean(what: str, name: str) -> float:
        return statistics.fmean(statistics.fmean(each[what][name]) for each in found)

    bench.show(
        f"{settings.search.evaluations} evaluations, mean over supernets ({len(found)}), percent",
        ["engine", "hypervolume", "highest PGD-20"],
        [
            [name, *(f"{100 * mean(what, name):.1f}" for what in ("hypervolume", "robust"))]
            for name in found[0]["robust"]
        ],
    )
    measured = {
        "budget": settings.search.budget,
        "evaluations": settings.search.evaluations,
        "population": settings.search.population,
        "scored on": settings.search.images,
        "seeds": arguments.seeds,
        "supernets": [each.seed for _, each in several],
        "found": found,
    }
    print(bench.keep(f"engines-{arguments.name or settings.name}", measured))


if __name__ == "__main__":
    bench.run(main)
