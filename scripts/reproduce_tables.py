"""Rows of the paper's Tables 2 and 3: trained, measured, audited, the published figures beside.

    python scripts/reproduce_tables.py --data CIFAR_FOLDER --work FOLDER --model resnet20

Any selection of rows, at full scale or scaled down by --set (see mbnas search --help for the form
of changes). Natural training is attacked with eps 2/255 and steps of 0.5/255, FastAT with 8/255 and
2/255, as in the paper: PGD-20 and PGD-50 through the straight-through estimator, five runs, counted
by the last and by any iterate; then a quick audit. FastAT makes its perturbations through the
surrogate of the space. Interrupted, it goes on where it stopped.
``--workers`` rows run side by side through Ray.
"""

import argparse
import csv
import functools
import json
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import bench

import mbnas
from mbnas.files import read_json, write_json
from mbnas.formats import Family
from mbnas.inspection import audit_file, audit_of
from mbnas.pruning import prune_network

PAPER = Path(__file__).parent / "paper.csv"
THREATS = {
    "natural": ("threat.eps=2/255", "threat.step=0.5/255"),
    "fastat": ("threat.eps=8/255", "threat.step=2/255"),
}
PRUNED = {"amc-weight-pruning": "wprune", "amc-channel-pruning": "cprune"}
PUBLISHED = ("bops_1e8", "top1", "pgd20", "pgd50")
Row = dict[str, Any]


def measure(row: Row, arguments: argparse.Namespace) -> Row:
    """One row, from its settings to its figures."""
    training, format_, seed = row["training"], row["format"], row["seed"]
    changes = (
        f"backbone.name={arguments.model}",
        f"data.name={arguments.dataset}",
        f"data.root={json.dumps(str(arguments.data))}",
        f"seed={seed}",
        f"retraining.training={training}",
        *THREATS[training],
        *arguments.set,
    )
    settings = mbnas.load(arguments.space, changes)
    begun = f"{arguments.model}-{training}"
    folder = arguments.work / f"{begun}-{format_}-seed{seed}"
    if format_ in PRUNED.values():
        dense = arguments.work / f"{begun}-float-seed{seed}"
        mbnas.train_network(settings, "float", dense)
        executor = mbnas.Executor("inprocess", workers=1)
        metrics = prune_network(settings, Family(format_), dense, folder, executor)
    else:
        metrics = mbnas.train_network(settings, format_, folder)
    longer = folder / "pgd50.json"
    if not longer.exists():
        write_json(longer, mbnas.evaluate_checkpoint(folder, ["threat.steps=50"]))
    if audit_of(folder, mbnas.Effort.QUICK, settings) is None:
        mbnas.audit_checkpoint(folder, mbnas.Effort.QUICK)
    pgd20, pgd50 = (each["test"]["attacks"] for each in (metrics, read_json(longer)))
    audit = read_json(audit_file(folder, mbnas.Effort.QUICK))
    return {
        **row,
        "bops": metrics["bops"],
        "natural": metrics["test"]["natural"],
        "images": metrics["test"]["images"],
        "attacked": metrics["test"]["attacked"],
        "runs": metrics["test"]["runs"],
        "pgd20 last": pgd20["ste_last"],
        "pgd20 any": pgd20["ste_any"],
        "pgd50 last": pgd50["ste_last"],
        "pgd50 any": pgd50["ste_any"],
        "audited pgd20 last": audit["paper"]["PGD-20"]["last iterate"]["mean"],
        "worst case": audit["worst_case"],
        "audited": audit["images"],
        "verdict": audit["verdict"],
        "epochs": len(metrics["training"]),
    }


def wanted(arguments: argparse.Namespace) -> list[Row]:
    """The rows that were asked for, each with what the paper says of it, if anything."""
    with PAPER.open() as file:
        published = {
            (row["training"], row["format"] or PRUNED[row["method"]]): {
                key: row[key] for key in PUBLISHED
            }
            for row in csv.DictReader(file)
            if (row["model"], row["dataset"]) == (arguments.of, arguments.dataset)
        }
    nothing = dict.fromkeys(PUBLISHED, "")
    asked = product(arguments.trainings, arguments.formats) if arguments.formats else published
    return [
        {"training": training, "format": format_, "seed": seed, "paper": paper}
        for (training, format_), seed in product(asked, arguments.seeds)
        if training in arguments.trainings
        for paper in [published.get((training, format_), nothing)]
    ]


def side_by_side(todo: list[Callable[[], Row]], workers: int) -> list[Row]:
    """All results, in order."""
    if workers == 1:
        return [each() for each in todo]
    import ray  # noqa: PLC0415 (heavy, and not needed for one at a time)

    cores = max(1, (os.cpu_count() or 1) // workers)
    ray.init(include_dashboard=False, num_cpus=workers * cores, ignore_reinit_error=True)
    run = ray.remote(num_cpus=cores)(lambda each: each())
    return [ray.get(each) for each in [run.remote(each) for each in todo]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where networks are kept")
    parser.add_argument("--space", default="search_spaces/resnet20.yaml", help="whose recipe")
    parser.add_argument("--model", default="resnet20", help="backbone that is trained")
    parser.add_argument("--of", help="backbone of the paper's rows, if another")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--trainings", nargs="+", default=list(THREATS), choices=THREATS)
    parser.add_argument("--formats", nargs="+", help="such as mbn3x1 (default: the paper's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", help="of the result")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    arguments.of = arguments.of or arguments.model
    rows = wanted(arguments)
    if not rows:
        parser.error(
            f"the paper has no such rows; {PAPER} lists its own, --formats asks for others"
        )
    rows.sort(key=lambda row: row["format"] in PRUNED.values())  # these start from float ones
    todo = [functools.partial(measure, row, arguments) for row in rows]
    first = sum(row["format"] not in PRUNED.values() for row in rows)
    found = [
        each
        for wave in (todo[:first], todo[first:])
        for each in side_by_side(wave, arguments.workers)
    ]
    bench.show(
        f"{arguments.model}, in brackets the paper's {arguments.of}",
        ["", "natural", "PGD-20 last", "worst case"],
        [
            [
                f"{row['training']} {row['format']} seed {row['seed']}",
                f"{100 * row['natural']:.1f} ({row['paper']['top1']})",
                f"{100 * row['pgd20 last']['mean']:.1f} ({row['paper']['pgd20']})",
                f"{100 * row['worst case']['accuracy']:.1f}",
            ]
            for row in found
        ],
    )
    print(bench.keep(f"paper-{arguments.name or arguments.model}", found))


if __name__ == "__main__":
    main()
