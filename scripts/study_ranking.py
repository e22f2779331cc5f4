"""Does a supernet rank assignments as training each of them on its own would?

    python scripts/study_ranking.py --data CIFAR_FOLDER --work FOLDER

Trains one supernet of ResNet-8 on 16x16 CIFAR-10 by FastAT and scores all uniform and some
fair-sampled assignments on it as a search does; then trains each of them from scratch, once for
each seed, and measures it on validation images that no score has seen. What a search can rely on is
Kendall's tau between the two, beside the tau that bit-operations alone would get, and that of one
seed's networks against the others', which nothing that is scored once can be expected to exceed.
Interrupted, it goes on where it stopped; ``--seeds`` may be given to several processes.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice, product
from statistics import fmean

import bench
import study
import torch
from scipy.stats import kendalltau

from mbnas import data as datasets
from mbnas import freeze
from mbnas.assignment import Assignment, Space
from mbnas.data import Data
from mbnas.evaluation import measure
from mbnas.files import write_json
from mbnas.formats import Format
from mbnas.images import Images
from mbnas.objectives import fair_assignments, network_objective
from mbnas.pretraining import pretrained
from mbnas.randomness import derive, generator
from mbnas.runs import RunFolder
from mbnas.search.problem import Problem, Trial
from mbnas.settings import Settings

MEASURES = ("natural", "robust")
Row = dict[str, float]


def sample(space: Space, mixed: int, seed: int) -> list[Assignment]:
    """All uniform assignments and so many in which every choice is equally frequent."""
    return [*space.uniforms, *islice(fair_assignments(space, derive(seed, "ranking")), mixed)]


def alone(
    assignment: Assignment,
    settings: Settings,
    data: Data,
    judges: Images,
    seed: int,
    work: RunFolder,
) -> Row:
    """What it reaches, trained from scratch."""
    file = work.path / f"{assignment.id}-seed{seed}.json"
    if not file.exists():
        purpose = derive(seed, "alone", assignment)
        network = study.fresh(settings, data, str(Format.multibit(assignment)), purpose)
        objective = network_objective(network, settings.threat, settings.retraining)
        target = file.with_suffix(".pt")
        study.train_to_the_end(network, objective, settings, data, purpose, target)
        rng = generator(purpose, "judged")
        write_json(file, asdict(measure(freeze(network), judges, settings.threat, rng)))
    row: Row = json.loads(file.read_text())
    print(file.stem, row, flush=True)
    return row


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
    scores: Sequence[Trial], networks: Sequence[Sequence[Row]], measure: str
) -> dict[str, tuple[float, float]]:
    """Tau of each way to rank assignments with their networks' mean over seeds.

    Args:
        networks: for each assignment, its networks' rows, in the order of seeds.
    """
    reached = [fmean(row[measure] for row in rows) for rows in networks]
    found = {
        "supernet": tau([getattr(each, measure) for each in scores], reached),
        "supernet, loss": tau(
            [-math.inf if each.loss is None else -each.loss for each in scores], reached
        ),
        "BOPS": tau([each.bops for each in scores], reached),
    }
    if len(networks[0]) > 1:
        first = [rows[0][measure] for rows in networks]
        others = [fmean(row[measure] for row in rows[1:]) for rows in networks]
        found["first seed against others"] = tau(first, others)
    return found


def main() -> None:
    parser = study.parser(__doc__, epochs=10)
    parser.add_argument("--mixed", type=int, default=15, help="assignments beside uniform ones")
    parser.add_argument("--supernet-epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=1000, help="validation images of a score")
    parser.add_argument("--judges", type=int, default=2000, help="other validation images")
    parser.add_argument("--name", default="resnet8", help="of the result")
    arguments = parser.parse_args()
    settings, options = study.begun(
        arguments,
        "retraining.learning_rate=0.01",
        f"supernet.epochs={arguments.supernet_epochs}",
        f"search.images={arguments.images}",
        **{"supernet epochs": arguments.supernet_epochs, "images": arguments.images},
        judges=arguments.judges,
    )
    data = datasets.load(settings.data, seed=0)
    judges = data.validation.take(torch.arange(arguments.images, len(data.validation)))
    judges = judges.first(arguments.judges)
    folder = RunFolder(arguments.work)
    problem = Problem.of(pretrained(folder, settings, data, torch.device("cpu")), data, settings)
    assignments = sample(settings.space, arguments.mixed, settings.seed)
    rows: dict[tuple[Assignment, int], Row] = {
        (each, seed): alone(each, settings, data, judges, seed, folder)
        for seed, each in product(arguments.seeds, assignments)
    }
    scores = [problem.score(each) for each in assignments]
    networks = [[rows[each, seed] for seed in arguments.seeds] for each in assignments]
    taus = {each: agreement(scores, networks, each) for each in MEASURES}
    bench.show(
        f"Kendall's tau over {len(assignments)} assignments, ± standard error",
        ["with the networks trained on their own", *MEASURES],
        [
            [way, *(f"{taus[each][way][0]:.2f} ± {taus[each][way][1]:.2f}" for each in MEASURES)]
            for way in taus["natural"]
        ],
    )
    table = [
        {**trial.row(), "alone": alone_rows}
        for trial, alone_rows in zip(scores, networks, strict=True)
    ]
    measured = {"seeds": arguments.seeds, **options, "tau": taus, "assignments": table}
    print(bench.keep(f"ranking-{arguments.name}", measured))


if __name__ == "__main__":
    bench.run(main)
