"""Tables of the paper's formats: its rows, how they were trained, its claims."""

import csv
import math
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tables.cells import (
    RESULTS,
    Result,
    averaged,
    error_of_mean,
    folded,
    machine,
    over_seeds,
    percent,
    read,
    spread,
    table,
    worst,
)


def audits(result: Result) -> str:
    """What audits by the same code leave of several networks."""
    measured = result["measured"]
    first = measured["networks"][0]
    header = ["network", "natural", "PGD-20, STE, last iterate", "every", "worst case"]
    rows = []
    for each in measured["networks"]:
        paper = each["paper"]["PGD-20"]
        attacked = (paper[way]["mean"] for way in ("last iterate", "every iterate"))
        natural = percent(each["natural"]["accuracy"])
        rows.append([each["network"], natural, *map(percent, attacked), worst(each)])
    described = (
        f"`{result['command']}` ({machine(result)}). Seed {first['seed']}, {measured['effort']} "
        f"audits; percent of {first['images']} test images, with the 95 % interval of the worst "
        "case."
    )
    return f"{described}\n\n{table(header, rows)}"


def effort(rows: list[dict[str, Any]]) -> str:
    """Of the audits of rows of one result; older ones do not tell, they were all quick."""
    return str(rows[0].get("effort", "quick"))


def paper(result: Result) -> str:
    """Rows of the paper's tables, the published figures beside; mean and deviation over seeds."""
    measured = result["measured"]
    described = f"`{result['command']}` ({machine(result)}). {how(measured)}"
    return "\n\n".join((described, *by_training(measured)))


def formats(results: dict[str, Result]) -> str:
    """The same of several results whose rows were measured alike, the costliest format first."""
    measured = [each for result in results.values() for each in result["measured"]]
    measured.sort(key=lambda each: (each["training"] != "natural", -each["bops"], each["format"]))
    commands = (f"- `{each['command']}` ({machine(each)})" for each in results.values())
    summary = "The commands, hardware, versions and commits"
    return "\n\n".join(
        (how(measured), *by_training(measured), folded(summary, "\n".join(commands)))
    )


def how(measured: list[dict[str, Any]]) -> str:
    """How rows of the paper's tables were measured, which is alike for all of them."""
    first, seeds = measured[0], sorted({each["seed"] for each in measured})
    several = len(seeds) > 1
    return (
        f"Seed{'s' * several} {', '.join(map(str, seeds))}; natural accuracy on "
        f"{first['images']} test images, PGD through the straight-through estimator on the first "
        f"{first['attacked']}, mean of {first['runs']} runs; the {effort(measured)} audit's worst "
        f"case and its one run of PGD-20 on the first {first['audited']}; ± is the standard "
        f"deviation over {'seeds' if several else 'runs'}. 1e8 BOPS; from `paper:` on, what the "
        "paper says."
    )


def by_training(measured: list[dict[str, Any]]) -> list[str]:
    """A table for each training."""
    parts = []
    for training in dict.fromkeys(each["training"] for each in measured):
        rows = []
        of_training = [each for each in measured if each["training"] == training]
        for format_ in dict.fromkeys(each["format"] for each in of_training):
            equal = [each for each in of_training if each["format"] == format_]
            costs = [each["bops"] / 1e8 for each in equal]  # of pruned networks by seed
            rows.append(
                [
                    format_,
                    averaged(costs if len(set(costs)) > 1 else costs[:1], 3),
                    over_seeds([each["natural"] for each in equal]),
                    *attacked(equal),
                    over_seeds([each["worst case"]["accuracy"] for each in equal]),
                    *(
                        equal[0]["paper"][figure] or "–"
                        for figure in ("bops_1e8", "top1", "pgd20", "pgd50")
                    ),
                ]
            )
        columns = ["BOPS", "natural", *ATTACKED, "worst case"]
        columns += ["paper: BOPS", "natural", "PGD-20", "PGD-50"]
        parts.append(table([training, *columns], rows))
    return parts


ATTACKED = ("PGD-20 last", "every", "PGD-50 last", "every", "audit: PGD-20 last")


def attacked(equal: list[dict[str, Any]]) -> list[str]:
    """Cells of PGD through the straight-through estimator; deviation over seeds or over runs."""
    by_run = [
        over_seeds([each[attack]["mean"] for each in equal])
        if len(equal) > 1
        else spread(equal[0][attack])
        for attack in ("pgd20 last", "pgd20 every", "pgd50 last", "pgd50 every")
    ]
    return [*by_run, over_seeds([each["audited pgd20 last"] for each in equal])]


def trainings(results: dict[str, Result]) -> str:
    """Rows of several results, most accurate first, by which recipe and command; results by name.

    What is folded: PGD on each, then how each was made.
    """
    networks = [(name, each) for name, result in results.items() for each in result["measured"]]
    networks.sort(key=lambda each: (each[1]["format"], -each[1]["natural"]))
    header = ["result", "epochs", "in all", "start", "teacher", "by, learning rate", "in", "decay"]
    header += ["natural %", "worst case %", "loss, test", "training"]
    overview, under_attack = [], []
    for name, each in networks:
        label = name if len(results[name]["measured"]) == 1 else f"{name}, {each['format']}"
        losses = (each.get(loss) for loss in ("loss", "training loss"))
        reached = [percent(each["natural"]), percent(each["worst case"]["accuracy"])]
        reached += ["" if loss is None else f"{loss:.2f}" for loss in losses]
        overview.append([label, *recipe(name, each, results), *reached])
        published = [each["paper"][figure] for figure in ("top1", "pgd20", "pgd50")]
        under_attack.append([label, *attacked([each]), *published])
    attacks = table(["result", *ATTACKED, "paper: natural", "PGD-20", "PGD-50"], under_attack)
    commands = (made(name, results[name]) for name in dict.fromkeys(name for name, _ in networks))
    return "\n\n".join(
        (
            table(header, overview),
            folded("PGD on each of these, the paper's figures beside", attacks),
            folded("The command, hardware, versions and commit of each", "\n".join(commands)),
        )
    )


def recipe(name: str, network: dict[str, Any], results: dict[str, Result]) -> list[str]:
    """How long a network was trained, begun with which, taught by which, and by what."""
    changes, before = changed(results[name]), begun(results[name], results)
    optimizer = changes.get("retraining.optimizer", "adam").capitalize()
    return [
        str(network["epochs"]),
        "" if before is None else str(before + network["epochs"]),
        *(network_of(changes, role) for role in ("start", "teacher")),
        f"{optimizer} {changes.get('retraining.learning_rate', '')}",
        network.get("precision", ""),
        changes.get("retraining.weight_decay", ""),
    ]


def made(name: str, result: Result) -> str:
    """How a result was, and where its network is if its weights are kept."""
    weights = f"results/paper-{name}.safetensors"
    kept = f" [Its weights]({weights})." if (RESULTS.parent / weights).exists() else ""
    first = result["measured"][0]
    images = (
        f"{first['images']} test images, PGD on the first {first['attacked']}, {first['runs']} runs"
    )
    return f"- {name}: `{result['command']}` ({machine(result)}); {images}.{kept}"


def changed(result: Result) -> dict[str, str]:
    """What a command changed in the settings."""
    return dict(word.split("=", 1) for word in shlex.split(result["command"]) if "=" in word)


def network_of(changes: dict[str, str], role: str) -> str:
    """The name of the result that a training began with or learned from; empty for none."""
    return Path(changes.get(f"retraining.{role}", "")).stem.removeprefix("paper-")


def begun(result: Result, results: dict[str, Result]) -> int | None:
    """How many epochs a training's start had, and the start of that; None where one is not kept."""
    start = network_of(changed(result), "start")
    if not start:
        return 0
    if start not in results:
        return None
    (network,) = results[start]["measured"]
    before = begun(results[start], results)
    return None if before is None else before + int(network["epochs"])


@dataclass(frozen=True)
class Share:
    """Percent of so many test images, one value for each seed."""

    values: list[float]
    images: int

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values)

    @property
    def error(self) -> float:
        """Of the mean: by the seeds, or by the images where there is but one seed."""
        if len(self.values) > 1:
            return error_of_mean(self.values)
        return math.sqrt(self.mean * (100 - self.mean) / self.images)


@dataclass(frozen=True)
class Alike:
    """Networks of one format that were trained alike.

    ``shares`` are natural accuracy, PGD-20 through STE at its last iterate, and the worst case.
    """

    shares: tuple[Share, Share, Share]
    attacked_by: str
    bops: int | None


PAPER = RESULTS.parent / "paper.csv"


@dataclass(frozen=True)
class Place:
    """Where several formats were trained alike.

    Attributes:
        results: that hold them, the first that does counts.
        audits: by one version of the attacks of all that are compared, where those of
            ``results`` are by several or less deep.
    """

    results: tuple[str, ...]
    audits: str | None = None


PLACES = {
    "ResNet-8 at 16x16": Place(
        ("paper-resnet8-natural-standard-cpu", "paper-resnet8-fastat-standard-seeds-cpu")
    ),
    "ResNet-8 at 32x32": Place(("study-surrogates-32",)),
    "ResNet-20, 17 epochs": Place(
        (
            "paper-resnet20-mbn3x1-taught-cpu",
            "paper-resnet20-mbn1x3-taught-cpu",
            "paper-resnet20-pact2x2-taught-cpu",
        ),
        "audits-resnet20-standard-taught-cpu",
    ),
    "ResNet-20, 5 epochs": Place(("paper-fastat-resnet20-cpu",)),
    "ResNet-20, 10 epochs": Place(
        ("paper-fastat-resnet20-10-cpu",), "audits-resnet20-fastat-10-cpu"
    ),
}


def claim(model: str, training: str, of: str, over: str) -> str:
    """How many more images one format keeps than another by the paper and here."""
    with PAPER.open(newline="") as lines:
        published = {
            row["format"]: row
            for row in csv.DictReader(lines)
            if (row["model"], row["training"], row["dataset"]) == (model, training, "cifar10")
        }
    one, other = published[of], published[over]
    natural, pgd20 = (more(float(one[key]), float(other[key])) for key in ("top1", "pgd20"))
    times = fewer(float(one["bops_1e8"]), float(other["bops_1e8"]))
    rows = [[f"paper, {model}", "", natural, pgd20, "–", "", times]]
    for name, place in PLACES.items():
        a, b = (alike(place, training, each) for each in (of, over))
        if a and b:
            leads = [
                f"{more(x.mean, y.mean)} ({math.hypot(x.error, y.error):.1f})"
                for x, y in zip(a.shares, b.shares, strict=True)
            ]
            times = fewer(a.bops, b.bops) if a.bops and b.bops else "–"
            rows.append([name, str(len(a.shares[0].values)), *leads, a.attacked_by, times])
    header = [f"{of} against {over}", "seeds", "natural", "PGD-20", "worst case", "by"]
    return table([*header, "fewer BOPS"], rows)


def more(one: float, other: float) -> str:
    return f"{one:.1f} - {other:.1f} = {one - other:+.1f}"


def fewer(one: float, other: float) -> str:
    return f"{other / one:.1f} times"


def alike(place: Place, training: str, format_: str) -> Alike | None:
    """What its results hold of a format."""
    for name in place.results:
        found = (studied if name.startswith("study") else tabled)(name, training, format_)
        if found:
            return audited(found, place.audits, format_) if place.audits else found
    return None


def studied(name: str, training: str, format_: str) -> Alike | None:
    """From a study of surrogates, the default one."""
    measured = read(name)["measured"]
    rows = measured["by seed"].get(f"polynomial {format_}")
    if training != "fastat" or rows is None:
        return None
    natural, pgd20, worst = (
        Share([row[key] for row in rows], measured["images"])
        for key in ("natural", "PGD-20, ste, last", "worst")
    )
    return Alike((natural, pgd20, worst), "a study", None)


def tabled(name: str, training: str, format_: str) -> Alike | None:
    """From rows of the paper's tables."""
    of_training = (row for row in read(name)["measured"] if row["training"] == training)
    rows = [row for row in of_training if row["format"] == format_]
    if not rows:
        return None
    kinds = (
        ([row["natural"] for row in rows], rows[0]["images"]),
        ([row["pgd20 last"]["mean"] for row in rows], rows[0]["attacked"]),
        ([row["worst case"]["accuracy"] for row in rows], rows[0]["audited"]),
    )
    natural, pgd20, worst_case = (
        Share([100 * each for each in values], images) for values, images in kinds
    )
    return Alike((natural, pgd20, worst_case), f"{effort(rows)} audits", rows[0]["bops"])


def audited(found: Alike, audits: str, format_: str) -> Alike:
    """With the worst case by these audits, whose network's name has the format as a word."""
    measured = read(audits)["measured"]
    (audit,) = (each for each in measured["networks"] if format_ in each["network"].split("-"))
    natural, pgd20, _ = found.shares
    worst_case = Share([100 * audit["worst_case"]["accuracy"]], audit["images"])
    return Alike((natural, pgd20, worst_case), f"{measured['effort']} audits", found.bops)
