"""Did a search's supernet rank assignments as training them on their own does?

    python scripts/study_ranking.py RUN --work FOLDER

Takes the uniform assignments that a finished run of ``mbnas search`` has scored, others drawn at
random up to ``--count``, and those that the run has retrained; trains each from scratch by the
run's recipe of retraining, once for each seed, and measures and audits it on test images, which no
score has seen. What such a search can rely on is Kendall's tau between the two, over those drawn,
for good scores have brought the retrained ones into the sample. Two yardsticks: the tau that
bit-operations alone would get, and that of one seed's networks with the others'. Scores are worth
their while only if together with bit-operations, by the sum of both ranks, they do better than
these alone. Beside the networks of their cost, those that were retrained show what the search was
good for. Interrupted, it goes on where it stopped; ``--seeds`` may be given to several processes.
"""

import argparse
import math
import random
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean

import bench
import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau, rankdata

import mbnas
from mbnas import runs
from mbnas.formats import Format
from mbnas.randomness import derive
from mbnas.search.problem import Trial
from mbnas.search.session import recorded

SCORES = {"natural": "natural", "robust": "robust", "worst case": "robust"}  # of a trial
Row = dict[str, float]
Indices = Sequence[int]  # of the assignments that are looked at
Array = npt.NDArray[np.float64]


def sample(trials: Sequence[Trial], count: int, seed: int) -> list[Trial]:
    """All uniform assignments, and others drawn at random up to ``count``."""
    uniform = [trial for trial in trials if trial.assignment.is_uniform]
    mixed = [trial for trial in trials if not trial.assignment.is_uniform]
    wanted = min(len(mixed), max(0, count - len(uniform)))
    return [*uniform, *random.Random(derive(seed, "ranking")).sample(mixed, wanted)]


def alone(trial: Trial, seed: int, run: runs.RunFolder, arguments: argparse.Namespace) -> Row:
    """What its assignment reaches on test images, trained from scratch."""
    images = bench.images_in(arguments.data)
    settings = bench.settled(run.settings_file, [f"seed={seed}", *images], arguments.set)
    target = arguments.work / f"{trial.id}-seed{seed}"
    test = mbnas.train_network(settings, str(Format.multibit(trial.assignment)), target)["test"]
    audit = bench.audited(target, mbnas.Effort.QUICK, images)
    return bench.reached(test, audit)


def jackknife(statistic: Callable[[Indices], float], count: int) -> tuple[float, float]:
    """A statistic of ``count`` assignments, and its standard error by leaving each out in turn."""
    without = [statistic([j for j in range(count) if j != i]) for i in range(count)]
    variance = (count - 1) * fmean((each - fmean(without)) ** 2 for each in without)
    return statistic(range(count)), math.sqrt(variance)


def agreement(
    trials: Sequence[Trial], networks: Sequence[Sequence[Row]], measure: str
) -> dict[str, tuple[float, float]]:
    """Tau of each way to rank assignments with their networks' mean over seeds.

    Args:
        networks: for each trial its networks' rows, in the order of seeds.

    Returns:
        Each with its standard error, and what scores add to the tau that cost alone has.
    """
    reached = np.array([[row[measure] for row in rows] for rows in networks])  # (trial, seed)
    scores = np.array([getattr(trial, SCORES[measure]) for trial in trials])
    losses = np.array([math.inf if trial.loss is None else trial.loss for trial in trials])
    costs = np.array([trial.bops for trial in trials])

    def tau(ranking: Array, kept: Indices) -> float:
        return float(kendalltau(ranking, reached[kept].mean(axis=1)).statistic)

    def together(kept: Indices) -> float:
        return tau(rankdata(scores[kept]) + rankdata(costs[kept]), kept)

    def between_seeds(kept: Indices) -> float:
        seeds = range(reached.shape[1])
        return fmean(
            kendalltau(reached[kept, seed], np.delete(reached[kept], seed, axis=1).mean(axis=1))[0]
            for seed in seeds
        )

    ways: dict[str, Callable[[Indices], float]] = {
        "supernet": lambda kept: tau(scores[kept], kept),
        "supernet, natural loss": lambda kept: tau(-losses[kept], kept),
        "BOPS": lambda kept: tau(costs[kept], kept),
        "supernet and BOPS": together,
        "what the supernet adds to BOPS": lambda kept: together(kept) - tau(costs[kept], kept),
        **({"one seed with the others": between_seeds} if reached.shape[1] > 1 else {}),
    }
    return {way: jackknife(statistic, len(trials)) for way, statistic in ways.items()}


def show(taus: dict[str, dict[str, tuple[float, float]]], assignments: int) -> None:
    """Tau and its standard error in the terminal."""
    bench.show(
        f"Kendall's tau over {assignments} assignments, ± standard error",
        ["with the networks trained on their own", *SCORES],
        [
            [way, *(f"{taus[each][way][0]:.2f} ± {taus[each][way][1]:.2f}" for each in SCORES)]
            for way in taus["natural"]
        ],
    )


def parsed() -> argparse.Namespace:
    parser = bench.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="where networks are kept")
    parser.add_argument("--data", type=Path, help="where the run's images are, if elsewhere now")
    parser.add_argument("--count", type=bench.positive, default=24, help="assignments")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", help="of the result (default: the run's space)")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    run = runs.reopen(arguments.run)
    settings = run.settings()
    layers = settings.space.layers
    scored = recorded(run.trials, layers)
    retrained = {each.name for each in bench.finds(run)}
    drawn = sample(scored, arguments.count, settings.seed)
    trials = [*drawn, *(each for each in scored if each.id in retrained and each not in drawn)]
    rows = {
        (seed, trial.id): alone(trial, seed, run, arguments)
        for seed, trial in product(arguments.seeds, trials)
    }
    networks = [[rows[seed, trial.id] for seed in arguments.seeds] for trial in trials]
    taus = {each: agreement(drawn, networks[: len(drawn)], each) for each in SCORES}
    show(taus, len(drawn))
    measured = {
        "space": settings.name,
        "layers": layers,
        "budget": settings.search.budget,
        "scored on": settings.search.images,
        "seeds": arguments.seeds,
        "ranked": len(drawn),
        "tau": taus,
        "assignments": [
            {**trial.row(), "retrained": trial.id in retrained, "alone": reached}
            for trial, reached in zip(trials, networks, strict=True)
        ],
    }
    print(bench.keep(f"ranking-{arguments.name or settings.name}", measured))


if __name__ == "__main__":
    bench.run(main)
