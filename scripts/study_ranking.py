"""Did a search's supernet rank assignments as training them on their own does?

    python scripts/study_ranking.py RUN --work FOLDER

Takes the uniform assignments that a finished run of ``mbnas search`` has scored, others drawn at
random up to ``--count``, and those that the run has retrained; trains each from scratch by the
run's recipe of retraining, once for each seed, and measures and audits it on test images, which no
score has seen. What such a search can rely on is Kendall's tau between the two. Two yardsticks: the
tau that bit-operations alone would get, and that of one seed's networks with the others'. Scores
are worth their while only if together with bit-operations, by the sum of both ranks, they do better
than these alone. Beside the uniform networks of their cost, those that were retrained show what the
search was good for. Interrupted, it goes on where it stopped; ``--seeds`` may be given to several
processes.
"""

import argparse
import math
import random
from collections.abc import Collection, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean

import bench
from scipy.stats import kendalltau, rankdata

import mbnas
from mbnas import runs
from mbnas.formats import Format
from mbnas.randomness import derive
from mbnas.search.problem import Trial

SCORES = {"natural": "natural", "robust": "robust", "worst case": "robust"}  # of a trial
Row = dict[str, float]


def sample(
    trials: Sequence[Trial], retrained: Collection[str], count: int, seed: int
) -> list[Trial]:
    """All uniform assignments, others up to ``count``, then the retrained ones not among them."""
    uniform = [trial for trial in trials if trial.assignment.is_uniform]
    mixed = [trial for trial in trials if not trial.assignment.is_uniform]
    wanted = min(len(mixed), max(0, count - len(uniform)))
    drawn = random.Random(derive(seed, "ranking")).sample(mixed, wanted)
    return [*uniform, *drawn, *(t for t in mixed if t.id in retrained and t not in drawn)]


def alone(trial: Trial, seed: int, run: runs.RunFolder, arguments: argparse.Namespace) -> Row:
    """What its assignment reaches on test images, trained from scratch."""
    images = bench.images_in(arguments.data)
    settings = mbnas.load(run.settings_file, [f"seed={seed}", *arguments.set, *images])
    target = arguments.work / f"{trial.id}-seed{seed}"
    test = mbnas.train_network(settings, str(Format.multibit(trial.assignment)), target)["test"]
    return {
        "natural": test["natural"],
        "robust": test["pgd"]["mean"],
        "worst case": bench.quick_audit(target, settings, images)["worst_case"]["accuracy"],
    }


def tau(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau and its standard error over assignments (jackknife)."""
    count = len(one)
    without = [
        kendalltau([*one[:i], *one[i + 1 :]], [*other[:i], *other[i + 1 :]]).statistic
        for i in range(count)
    ]
    variance = (count - 1) * fmean((each - fmean(without)) ** 2 for each in without)
    return float(kendalltau(one, other).statistic), math.sqrt(variance)


def agreement(
    trials: Sequence[Trial], networks: Sequence[Sequence[Row]], measure: str
) -> dict[str, tuple[float, float]]:
    """Tau of each way to rank assignments with their networks' mean over seeds.

    Args:
        networks: for each trial its networks' rows, in the order of seeds.
    """
    reached = [fmean(row[measure] for row in rows) for rows in networks]
    losses = [math.inf if trial.loss is None else trial.loss for trial in trials]
    scores = [getattr(trial, SCORES[measure]) for trial in trials]
    costs = [trial.bops for trial in trials]
    found = {
        "supernet": tau(scores, reached),
        "supernet, natural loss": tau([-loss for loss in losses], reached),
        "BOPS": tau(costs, reached),
        "supernet and BOPS": tau(list(rankdata(scores) + rankdata(costs)), reached),
    }
    if len(networks[0]) > 1:
        first = [rows[0][measure] for rows in networks]
        others = [fmean(row[measure] for row in rows[1:]) for rows in networks]
        found["first seed with others"] = tau(first, others)
    return found


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="where networks are kept")
    parser.add_argument("--data", type=Path, help="where the run's images are, if elsewhere now")
    parser.add_argument("--count", type=int, default=24, help="assignments")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", help="of the result (default: the run's space)")
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    run = runs.reopen(arguments.run)
    settings = run.settings()
    layers = settings.space.layers
    retrained = {each.parent.name for each in run.path.glob("candidates/*/metrics.json")}
    trials = sample(
        [Trial.from_record(each, layers) for each in run.trials.read()],
        retrained,
        arguments.count,
        settings.seed,
    )
    rows = {
        (seed, trial.id): alone(trial, seed, run, arguments)
        for seed, trial in product(arguments.seeds, trials)
    }
    networks = [[rows[seed, trial.id] for seed in arguments.seeds] for trial in trials]
    taus = {each: agreement(trials, networks, each) for each in SCORES}
    show(taus, len(trials))
    measured = {
        "space": settings.name,
        "layers": layers,
        "budget": settings.search.budget,
        "scored on": settings.search.images,
        "seeds": arguments.seeds,
        "tau": taus,
        "assignments": [
            {**trial.row(), "retrained": trial.id in retrained, "alone": reached}
            for trial, reached in zip(trials, networks, strict=True)
        ],
    }
    print(bench.keep(f"ranking-{arguments.name or settings.name}", measured))


if __name__ == "__main__":
    bench.run(main)
