"""Which supernet ranks assignments as training them on their own does?

    python scripts/study_supernet.py --space search_spaces/digits.yaml --work FOLDER

Takes assignments, and what networks of them reached on test images, from a result of
``study_ranking.py``; trains supernets by each rule, as many sub-networks per step by either, once
for each seed, and scores the assignments as a search does. With ``--vary`` they are trained with
each of these changes, too. Interrupted, it goes on where it stopped; ``--rules`` and ``--seeds``
may be given to several processes.
"""

import argparse
import statistics
from itertools import product
from pathlib import Path

import bench
import study_ranking
from study_ranking import SCORES

import mbnas
from mbnas import data as datasets
from mbnas import runs
from mbnas.assignment import Assignment
from mbnas.devices import pick_device
from mbnas.files import read_json
from mbnas.pretraining import pretrained
from mbnas.sameness import identity, require_same
from mbnas.search.problem import Problem, Trial
from mbnas.search.session import recorded
from mbnas.settings import Rule
from mbnas.threads import one_thread_each, suited_to

WAYS = ("supernet", "supernet and BOPS", "BOPS")


def scored(
    way: tuple[str, ...], seed: int, assignments: list[str], arguments: argparse.Namespace
) -> list[Trial]:
    """Every assignment by a supernet of its own, trained by a rule and perhaps with a change."""
    rule, *change = way
    sampled = arguments.trained - (2 if rule == Rule.SANDWICH else 0)
    own = [f"seed={seed}", f"supernet.rule={rule}", f"supernet.sampled={sampled}"]
    own += bench.images_in(arguments.data)
    settings = bench.settled(arguments.space, own, [*arguments.set, *change])
    folder = arguments.work / "-".join((*way, f"seed{seed}"))
    run = runs.reopen(folder) if folder.exists() else runs.create(folder, settings)
    begun, asked = identity(run.settings()), identity(settings)
    require_same(begun, asked, f"{str(folder)!r} was begun", "give another --work")
    device, layers = pick_device(settings.device), settings.space.layers
    data = datasets.load(settings.data, seed)
    runs.record_data(run, settings, data.fingerprint(), data.held_out)
    data = data.to(device)
    with suited_to(settings.table, settings.supernet):
        supernet = pretrained(run, settings, data, device).eval()
    problem = Problem.of(supernet, data, settings)
    wanted = [Assignment.parse(each, layers) for each in assignments]
    known = {trial.assignment: trial for trial in recorded(run.trials, layers)}
    with one_thread_each(1) as pool:
        for trial in pool.map(problem.score, (each for each in wanted if each not in known)):
            run.trials.append(trial.record())
            known[trial.assignment] = trial
    return [known[each] for each in wanted]


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--space", type=Path, required=True, help="whose recipe of the supernet")
    parser.add_argument("--work", type=Path, required=True, help="where supernets are kept")
    parser.add_argument("--data", type=Path, help="where the images are, if not at the usual place")
    parser.add_argument("--rules", type=Rule, nargs="+", default=list(Rule))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--trained", type=bench.positive, default=4, help="sub-networks per step")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--vary", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", help="of the result (default: the space's)")
    arguments = parser.parse_args()
    name = mbnas.load(arguments.space).name
    ranking = read_json(bench.RESULTS / f"ranking-{name}.json")["measured"]
    known = ranking["assignments"][: ranking["ranked"]]
    assignments = [each["assignment"] for each in known]
    networks = [each["alone"] for each in known]
    taus: dict[str, dict[str, dict[str, list[float]]]] = {}
    scores: dict[str, dict[str, list[float]]] = {}
    changes = [(), *((each,) for each in arguments.vary)]
    for change, rule, seed in product(changes, arguments.rules, arguments.seeds):
        way = (str(rule), *change)
        trained = ", ".join(way)
        trials = scored(way, seed, assignments, arguments)
        means = scores.setdefault(trained, {"natural": [], "robust": []})
        means["natural"].append(statistics.fmean(trial.natural for trial in trials))
        means["robust"].append(statistics.fmean(trial.robust for trial in trials))
        for measure in SCORES:
            found = study_ranking.agreement(trials, networks, measure)
            for ranked_by in WAYS:
                by_way = taus.setdefault(trained, {}).setdefault(ranked_by, {})
                by_way.setdefault(measure, []).append(found[ranked_by][0])
    bench.show(
        f"Kendall's tau over {len(known)} assignments, mean of {len(arguments.seeds)} supernets",
        ["rule, ranked by", *SCORES],
        [
            [f"{trained}, {ranked_by}", *(f"{statistics.fmean(each[m]):.2f}" for m in SCORES)]
            for trained, by_way in taus.items()
            for ranked_by, each in by_way.items()
        ],
    )
    measured = {
        "seeds": arguments.seeds,
        "trained": arguments.trained,
        "ranked": len(known),
        "tau": taus,
        "mean scores": scores,
    }
    print(bench.keep(f"rules-{arguments.name or name}", measured))


if __name__ == "__main__":
    bench.run(main)
