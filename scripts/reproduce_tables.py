"""Rows of the paper's Tables 2 and 3: trained, measured, audited, the published figures beside.

    python scripts/reproduce_tables.py --data CIFAR_FOLDER --work FOLDER --model resnet20

Any selection of rows, at full scale or scaled down by --set (see mbnas search --help for the form
of changes). Natural training is attacked with eps 2/255 and steps of 0.5/255, FastAT with 8/255 and
2/255, as in the paper: PGD-20 and PGD-50 through the straight-through estimator, ``test.runs``
times (five, unless the space says otherwise), counted at the last iterate and at every one; then an
audit. FastAT makes its perturbations through the surrogate of the space. Interrupted, it goes on
where it stopped, in PGD-50 from its start.
``--workers`` rows run side by side through Ray, each with its share of the cores and GPUs.
"""

import argparse
import csv
import functools
import os
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import bench

import mbnas
from mbnas.files import read_json, write_json
from mbnas.formats import Family, Format
from mbnas.pruning import Pruned, prune_network

PAPER = Path(__file__).parent / "paper.csv"
THREATS = {
    "natural": ("threat.eps=2/255", "threat.step=0.5/255", "threat.steps=20"),
    "fastat": ("threat.eps=8/255", "threat.step=2/255", "threat.steps=20"),
}
PRUNED: dict[str, Pruned] = {
    "amc-weight-pruning": Family.WEIGHT_PRUNED,
    "amc-channel-pruning": Family.CHANNEL_PRUNED,
}
PUBLISHED = ("bops_1e8", "top1", "pgd20", "pgd50")
Row = dict[str, Any]


def settings_of(row: Row, arguments: argparse.Namespace) -> mbnas.Settings:
    """What a row is trained and measured by."""
    own = (
        f"backbone.name={arguments.model}",
        f"data.name={arguments.dataset}",
        *bench.images_in(arguments.data),
        f"seed={row['seed']}",
        f"retraining.training={row['training']}",
        *THREATS[row["training"]],
    )
    return bench.settled(arguments.space, own, arguments.set)


def folder_of(row: Row, format_: str, arguments: argparse.Namespace) -> Path:
    """Where a network of the row's training and seed is kept."""
    work: Path = arguments.work
    return work / f"{arguments.model}-{row['training']}-{format_}-seed{row['seed']}"


def measure(row: Row, arguments: argparse.Namespace) -> Row:
    """One row, from its settings to its figures."""
    settings, format_ = settings_of(row, arguments), row["format"]
    folder, dense = (folder_of(row, each, arguments) for each in (format_, "float"))
    family = next((each for each in PRUNED.values() if each == format_), None)
    if family is None:
        metrics = mbnas.train_network(settings, format_, folder)
    else:
        executor = mbnas.Executor("inprocess", workers=1)
        metrics = prune_network(settings, family, dense, folder, executor)
    images = bench.images_in(arguments.data)
    longer = folder / "pgd50.json"
    if not longer.exists():
        write_json(longer, mbnas.evaluate_checkpoint(folder, ["threat.steps=50", *images]))
    pgd20, pgd50 = (each["test"]["attacks"] for each in (metrics, read_json(longer)))
    audit = bench.audited(folder, arguments.effort, images)
    return {
        **row,
        "bops": metrics["bops"],
        "natural": metrics["test"]["natural"],
        "loss": metrics["test"]["loss"],  # with labels
        "training loss": metrics["training"][-1]["loss"],  # of the last epoch, with what it learned
        "images": metrics["test"]["images"],
        "attacked": metrics["test"]["attacked"],
        "runs": metrics["test"]["runs"],
        "pgd20 last": pgd20["ste_last"],
        "pgd20 every": pgd20["ste_every"],
        "pgd50 last": pgd50["ste_last"],
        "pgd50 every": pgd50["ste_every"],
        "audited pgd20 last": audit["paper"]["PGD-20"]["last iterate"]["mean"],
        "worst case": audit["worst_case"],
        "audited": audit["images"],
        "effort": arguments.effort,
        "verdict": audit["verdict"],
        "epochs": len(metrics["training"]),
        "precision": metrics["precision"],
    }


def canonical(format_: str, arguments: argparse.Namespace) -> str:
    """The one way to write a format, by which the paper's rows are found.

    Raises:
        SettingsError: if there is no such format.
    """
    if format_ in PRUNED.values():
        return format_
    changes = (f"backbone.name={arguments.model}", f"data.name={arguments.dataset}")
    return str(Format.parse(format_, mbnas.load(arguments.space, changes).space.layers))


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
    formats = [canonical(each, arguments) for each in arguments.formats or ()]
    asked = product(arguments.trainings, formats) if formats else published
    return [
        {"training": training, "format": format_, "seed": seed, "paper": paper}
        for (training, format_), seed in product(asked, arguments.seeds)
        if training in arguments.trainings
        for paper in [published.get((training, format_), nothing)]
    ]


def side_by_side(todo: Sequence[Callable[[], Row]], workers: int) -> list[Row]:
    """All results, in order; the first mistake ends it."""
    if workers == 1 or not todo:
        return [each() for each in todo]
    # Mistakes of others would come as tracebacks.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    import ray  # noqa: PLC0415 (heavy, and not needed for one at a time)

    from mbnas.search.raytune import gpu_share  # noqa: PLC0415 (likewise)

    cores = max(1, (os.cpu_count() or 1) // workers)
    ray.init(include_dashboard=False, num_cpus=workers * cores, ignore_reinit_error=True)
    run: Any = ray.remote(num_cpus=cores, num_gpus=gpu_share(workers))(lambda each: each())
    begun = [run.remote(each) for each in todo]
    waiting = begun
    try:
        while waiting:
            finished, waiting = ray.wait(waiting)
            ray.get(finished)
        found: list[Row] = ray.get(begun)
        return found
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def show(rows: list[Row], title: str) -> None:
    """The figures in percent, the published ones in brackets."""

    def beside(value: str, published: str) -> str:
        return f"{value} ({published})" if published else value

    def mean(each: Row) -> str:
        return f"{100 * each['mean']:.1f} ± {100 * each['std']:.1f}"

    bench.show(
        title,
        ["", "1e8 BOPS", "natural", "PGD-20 last", "every", "PGD-50 last", "every", "worst"],
        [
            [
                f"{row['training']} {row['format']} {row['seed']}",
                beside(f"{row['bops'] / 1e8:.2f}", row["paper"]["bops_1e8"]),
                beside(f"{100 * row['natural']:.1f}", row["paper"]["top1"]),
                beside(mean(row["pgd20 last"]), row["paper"]["pgd20"]),
                mean(row["pgd20 every"]),
                beside(mean(row["pgd50 last"]), row["paper"]["pgd50"]),
                mean(row["pgd50 every"]),
                f"{100 * row['worst case']['accuracy']:.1f}",
            ]
            for row in rows
        ],
    )


def all_measured(rows: list[Row], arguments: argparse.Namespace) -> list[Row]:
    """Every row; what others are pruned from comes first."""
    pruned = [row for row in rows if row["format"] in PRUNED.values()]
    others = [row for row in rows if row not in pruned]
    dense = {(row["training"], row["seed"]): row for row in pruned}
    starts = [
        functools.partial(
            mbnas.train_network,
            settings_of(row, arguments),
            "float",
            folder_of(row, "float", arguments),
        )
        for row in dense.values()
    ]
    side_by_side(starts, arguments.workers)
    todo = [functools.partial(measure, row, arguments) for row in (*others, *pruned)]
    return side_by_side(todo, arguments.workers)


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--data", type=Path, help="where the images are, if not at the usual place")
    parser.add_argument("--work", type=Path, required=True, help="where networks are kept")
    parser.add_argument("--model", default="resnet20", help="backbone that is trained")
    parser.add_argument("--space", help="whose recipe (default: search_spaces/MODEL.yaml)")
    parser.add_argument("--of", help="backbone of the paper's rows, if another")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--trainings", nargs="+", default=list(THREATS), choices=THREATS)
    parser.add_argument("--formats", nargs="+", help="such as mbn3x1 (default: the paper's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    bench.add_effort(parser)
    parser.add_argument("--name", help="of the result")
    parser.add_argument("--workers", type=bench.positive, default=1)
    arguments = parser.parse_args()
    arguments.of = arguments.of or arguments.model
    arguments.space = arguments.space or f"search_spaces/{arguments.model}.yaml"
    rows = wanted(arguments)
    if not rows:
        parser.error(
            f"the paper has no such rows; {PAPER} lists its own, --formats asks for others"
        )
    for row in rows:  # mistakes come to light before anything is trained
        settings_of(row, arguments)
    found = all_measured(rows, arguments)
    show(found, f"{arguments.model}, in brackets the paper's {arguments.of}; then the seed")
    print(bench.keep(f"paper-{arguments.name or arguments.model}", found))


if __name__ == "__main__":
    bench.run(main)
