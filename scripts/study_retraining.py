"""From which weights, and on whose logits, are the finds of a search best retrained?

    python scripts/study_retraining.py RUN --work FOLDER

Retrains the Pareto members that a finished run of ``mbnas search`` has retrained, or the uniform
networks within its budget, once for each start and each teacher, measures them on test images and
audits them. Interrupted, it goes on where it stopped; ``--starts`` and ``--teachers`` may be given
to several processes.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import bench

from mbnas import runs
from mbnas.assignment import Assignment
from mbnas.report import short
from mbnas.runs import RunFolder
from mbnas.search.session import recorded

Row = dict[str, Any]
COLUMNS = ("natural", "robust", "worst case")


def measured(
    run: RunFolder, chosen: list[str], start: str, teacher: str, arguments: argparse.Namespace
) -> list[Row]:
    """What the chosen candidates reach; a copy of the run, without its networks, takes theirs."""
    name = f"{start}-{teacher}".replace("/", "-")
    copy = bench.copied(run, arguments.work / name, without="candidates")
    images = bench.images_in(arguments.data)
    own = [f"retraining.start={start}", f"retraining.teacher={teacher}", *images]
    settings = bench.settled(run.settings_file, own, arguments.set)
    reached = bench.retrained_together(copy, chosen, settings, images)
    return [{"start": start, "teacher": teacher, **each} for each in reached]


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="where networks are kept")
    parser.add_argument("--data", type=Path, help="where the run's images are, if elsewhere now")
    parser.add_argument("--uniform", action="store_true", help="uniform networks, not the finds")
    parser.add_argument("--starts", nargs="+", default=["supernet", "scratch"])
    parser.add_argument("--teachers", nargs="+", default=["supernet", "null"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", help="of the result (default: the run's space)")
    arguments = parser.parse_args()
    run = runs.reopen(arguments.run)
    settings = run.settings()
    layers = settings.space.layers
    trials = recorded(run.trials, layers)
    finds = set() if arguments.uniform else {each.name for each in bench.finds(run)}
    chosen = [
        trial.id
        for trial in sorted(trials, key=lambda each: each.bops)
        if (trial.assignment.is_uniform if arguments.uniform else trial.id in finds)
    ]
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = [
        row
        for start, teacher in product(arguments.starts, arguments.teachers)
        for row in measured(run, chosen, start, teacher, arguments)
    ]
    bench.show(
        "test images",
        ["start, teacher, assignment", "MBOPS", *COLUMNS],
        [
            [
                f"{each['start']}, {each['teacher']}, "
                f"{short(Assignment.parse(each['assignment'], layers))}",
                f"{each['bops'] / 1e6:.2f}",
                *(f"{100 * each[column]:.1f}" for column in COLUMNS),
            ]
            for each in rows
        ],
    )
    found = {"seed": settings.seed, "layers": layers, "networks": rows}
    print(bench.keep(f"retraining-{arguments.name or settings.name}", found))


if __name__ == "__main__":
    bench.run(main)
