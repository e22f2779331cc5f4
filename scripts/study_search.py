"""Do the finds of a search keep more than the uniform networks within its budget?

    python scripts/study_search.py --space search_spaces/digits.yaml --budget 6e6 --work FOLDER

Runs the search once for each seed, with ``--vary`` also with each of these changes. Fine-tunes the
uniform networks within the budget as that search did its finds, from the same supernet, with
``--pareto`` also all members of its Pareto set, and audits all of them together, by ``--effort``.
Interrupted, it goes on where it stopped; ``--seeds`` may be given to several processes.
"""

import argparse
import statistics
from itertools import product
from pathlib import Path
from typing import Any

import bench

import mbnas
from mbnas import pipeline
from mbnas.files import read_json

Row = dict[str, Any]
MEASURES = ("natural", "robust", "worst case")
ONE_BY_ONE = mbnas.Executor("inprocess", workers=1)


def searched(folder: Path, settings: mbnas.Settings) -> pipeline.Outcome:
    """The run of these settings, to its end."""
    if folder.exists():
        return pipeline.resume_search(folder, settings, ONE_BY_ONE)
    return mbnas.run_search(settings, folder, ONE_BY_ONE)


def measured(change: str, seed: int, arguments: argparse.Namespace) -> list[Row]:
    """The finds of one search and the uniform networks within its budget, on test images."""
    changes = change.split()
    images = bench.images_in(arguments.data)
    own = [f"seed={seed}", f"search.budget={arguments.budget}", *images]
    settings = bench.settled(arguments.space, own, [*arguments.set, *changes])
    name = "-".join((*changes, f"seed{seed}"))
    outcome = searched(arguments.work / name, settings)
    finds = {each["id"] for each in outcome.retrained}
    front = {each["id"]: each for each in read_json(outcome.folder.pareto_file)}
    wanted = finds | (front.keys() if arguments.pareto else set())
    chosen = [e for e in outcome.trials if e.id in wanted or e.assignment.is_uniform]
    # Finds keep their networks and lose their audits: all are to be attacked by the same sources.
    copy = bench.copied(outcome.folder, arguments.work / f"{name}-uniform", without="audit-*")
    ids = [each.id for each in chosen]
    reached = bench.retrained_together(copy, ids, settings, images, arguments.effort)
    return [
        {
            "change": change,
            "seed": seed,
            **each,
            "find": trial.id in finds,
            "uniform": trial.assignment.is_uniform,
            "scored": trial.row(),
            "member": front.get(trial.id),
        }
        for trial, each in zip(chosen, reached, strict=True)
    ]


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--space", type=Path, required=True)
    parser.add_argument("--budget", required=True, help="of the search, in BOPS")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--data", type=Path, help="where the images are, if not at the usual place")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--vary", nargs="+", default=[], metavar='"KEY=VALUE ..."')
    parser.add_argument("--pareto", action="store_true", help="retrain the whole Pareto set, too")
    bench.add_effort(parser)
    parser.add_argument("--name", help="of the result (default: the space's)")
    arguments = parser.parse_args()
    space = mbnas.load(arguments.space, arguments.set)
    ways = ["", *arguments.vary]
    rows = [
        row
        for change, seed in product(ways, arguments.seeds)
        for row in measured(change, seed, arguments)
    ]
    bench.show(
        f"mean of {len(arguments.seeds)} searches, percent of test images",
        ["networks", *MEASURES],
        [
            [
                f"{change or 'as the space says'}: {kind}",
                *(f"{100 * statistics.fmean(each[m] for each in of_kind):.1f}" for m in MEASURES),
            ]
            for change, kind in product(ways, ("find", "uniform"))
            for of_kind in [[each for each in rows if each["change"] == change and each[kind]]]
        ],
    )
    result = {"seeds": arguments.seeds, "layers": space.space.layers, "networks": rows}
    kind = "fronts" if arguments.pareto else "finds"
    print(bench.keep(f"{kind}-{arguments.name or space.name}", result))


if __name__ == "__main__":
    bench.run(main)
