"""From which weights, and on whose logits, are the finds of a search best retrained?

    python scripts/study_retraining.py RUN --work FOLDER

Retrains the networks that a finished run of ``mbnas search`` has retrained, or the uniform ones
within its budget, once for each start and each teacher, measures them on test images and audits
them. Interrupted, it goes on where it stopped; ``--starts`` and ``--teachers`` may be given to
several processes.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import Any

import bench

import mbnas
from mbnas import runs
from mbnas.assignment import Assignment
from mbnas.report import short
from mbnas.runs import RunFolder
from mbnas.search.problem import Trial

Row = dict[str, Any]
COLUMNS = ("natural", "robust", "worst case")


def measured(
    run: RunFolder, chosen: list[str], start: str, teacher: str, arguments: argparse.Namespace
) -> list[Row]:
    """What the chosen candidates reach; a copy of the run, without its networks, takes theirs."""
    copy = bench.copied(run, arguments.work / f"{start}-{teacher}", without="candidates")
    images = bench.images_in(arguments.data)
    changes = (f"retraining.start={start}", f"retraining.teacher={teacher}", *arguments.set)
    settings = mbnas.load(run.settings_file, [*changes, *images])
    reached = bench.retrained_together(copy, chosen, settings, images)
    return [{"start": start, "teacher": teacher, **each} for each in reached]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
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
    trials = [Trial.from_record(each, layers) for each in run.trials.read()]
    retrained = {each.name for each in bench.retrained(run)}
    chosen = [
        trial.id
        for trial in sorted(trials, key=lambda each: each.bops)
        if (trial.assignment.is_uniform if arguments.uniform else trial.id in retrained)
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
