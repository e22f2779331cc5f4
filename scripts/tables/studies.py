"""Tables of trainings that differ in one thing: surrogate, recipe, start, teacher."""

import statistics
from collections.abc import Sequence
from typing import Any

from mbnas import Assignment
from mbnas.report import short
from tables.cells import Result, averaged, difference, folded, machine, over_seeds, percent, table


def study(result: Result) -> str:
    """Percent of images that stand, by training and format."""
    measured = result["measured"]
    described = (
        f"`{result['command']}` ({machine(result)}). Mean ± standard deviation over seeds "
        f"{', '.join(map(str, measured['seeds']))}; {measured['train images']} training images, "
        f"{measured['epochs']} epochs, the network of the last one; percent of "
        f"{measured['images']} test images."
    )
    networks, by_seed = measured["networks"], measured.get("by seed", {})
    attacks = list(next(iter(networks.values())))
    header = ["", *attacks, *(["collapsed"] if by_seed else [])]
    return "\n\n".join((described, table(header, standing(measured, attacks)), *gains(by_seed)))


def standing(measured: dict[str, Any], attacks: Sequence[str]) -> list[list[str]]:
    """For each training and format what stands, and how many collapsed if that is known."""
    by_seed = measured.get("by seed", {})
    several = len(measured["seeds"]) > 1
    return [
        [
            name,
            *(
                f"{mean:.1f} ± {std:.1f}" if several else f"{mean:.1f}"
                for mean, std in (each[attack] for attack in attacks)
            ),
            *([f"{sum(map(collapsed, by_seed[name]))} of {len(by_seed[name])}"] if by_seed else []),
        ]
        for name, each in measured["networks"].items()
    ]


def studies(results: dict[str, Result]) -> str:
    """Several of these together, by what each changed in the recipe; how each was made is folded.

    Args:
        results: by name; all of the same attacks.
    """
    first = next(iter(results.values()))["measured"]["networks"]
    attacks = list(next(iter(first.values())))
    header = ["", "epochs", "images", "changed", *attacks, "collapsed"]
    rows = []
    for result in results.values():
        measured = result["measured"]
        changes = ", ".join(each.split(".", 1)[1] for each in measured["changes"])
        trained = (measured["epochs"], measured["train images"])
        rows += [(name, *trained, changes, row) for name, *row in standing(measured, attacks)]
    cells = [
        [name, str(epochs), str(images), changes, *row]
        for name, epochs, images, changes, row in sorted(rows)
    ]
    commands = [
        f"- {name}: `{result['command']}` ({machine(result)})." for name, result in results.items()
    ]
    how = folded("The command, hardware, versions and commit of each", "\n".join(commands))
    return f"{table(header, cells)}\n\n{how}"


def gains(by_seed: dict[str, list[dict[str, float]]]) -> list[str]:
    """What formats keep more by the first training than by another, where both have some seeds."""
    sound = {
        tuple(name.split(" ", 1)): [row["worst"] for row in rows if not collapsed(row)]
        for name, rows in by_seed.items()
    }
    several = {each: kept for each, kept in sound.items() if len(kept) > 1}
    first, *others = dict.fromkeys(training for training, _ in several) or [""]
    return [
        f"More in the worst case by `{first}` than by `{other}`, without networks that collapsed, "
        f"in brackets the standard error: {', '.join(differences)}."
        for other in others
        for differences in [
            [
                f"{format_} {difference(kept, several[other, format_])}"
                for (training, format_), kept in several.items()
                if training == first and (other, format_) in several
            ]
        ]
    ]


def collapsed(row: dict[str, float]) -> bool:
    """A network that PGD seems to mend: its gradients lead away from where it is wrong."""
    return row["PGD-20, ste, last"] > row["natural"]


def recipe(result: Result) -> str:
    """Validation accuracy of every variant, most accurate first, and what it adds to today's."""
    measured = result["measured"]
    formats = list(next(iter(measured["accuracy"].values())))
    seeds = ", ".join(map(str, measured["seeds"]))
    several = len(measured["seeds"]) > 1
    described = (
        f"`{result['command']}` ({machine(result)}): natural accuracy on {measured['images']} "
        f"validation images, {'mean ± standard deviation over seeds' if several else 'seed'} "
        f"{seeds}; {measured['train images']} training images, {measured['epochs']} epochs. In "
        f"brackets the {'mean ' * several}difference to today's recipe{' by seed' * several}."
    )

    def cell(accuracies: list[float], today: list[float]) -> str:
        more = statistics.fmean(each - base for each, base in zip(accuracies, today, strict=True))
        return f"{averaged(accuracies)} ({more:+.1f})"

    today = measured["accuracy"]["today"]
    ranked = sorted(
        measured["accuracy"].items(),
        key=lambda each: -statistics.fmean(each[1][formats[0]]),
    )
    rows = [[name, *(cell(each[f], today[f]) for f in formats)] for name, each in ranked]
    return f"{described}\n\n{table(['', *formats], rows)}"


def gap(result: Result) -> str:
    """Error of the gradient over the longest step, bases or bits from left to right."""
    measured = result["measured"]
    described = (
        f"`{result['command']}` ({machine(result)}): root mean square over {measured['trials']} "
        f"directions, mean of {measured['seeds']} seeds."
    )
    longest = max(each["h"] for each in measured["error"])
    shown = [each for each in measured["error"] if each["h"] == longest]
    widths = range(1, 1 + max(len(each["error"]) for each in shown))
    rows = [
        [
            f"{each['format']}, along its {each['along']}, {each['surrogate']}",
            *(f"{value:.2f}" for value in each["error"]),
            *[""] * (len(widths) - len(each["error"])),
        ]
        for each in shown
    ]
    header = ["", *(f"k = {k}" for k in widths)]
    return f"{described}\n\n{table(header, rows)}"


def sweep(result: Result) -> str:
    """Accuracy by iterations of PGD, step sizes side by side."""
    measured = result["measured"]
    described = (
        f"`{result['command']}` ({machine(result)}): percent of {measured['images']} test images "
        f"that are right at an iterate of PGD within {measured['eps']:g}/255, in brackets at every "
        f"iterate up to there; mean of {measured['runs']} runs."
    )
    rows, header = [], [""]
    for name, milestones in measured["networks"].items():
        steps = sorted({each["step"] for each in milestones})
        header = ["network, iterations", *(f"step {step:g}/255" for step in steps)]
        for iterate in sorted({each["iterate"] for each in milestones}):
            at = [each for each in milestones if each["iterate"] == iterate]
            values = (f"{percent(e['last'][0])} ({percent(e['every'][0])})" for e in at)
            rows.append([f"{name}, {iterate}", *values])
    return f"{described}\n\n{table(header, rows)}"


def retraining(result: Result) -> str:
    """What finds reach from each start and by each teacher, and on average."""
    measured = result["measured"]
    described = (
        f"`{result['command']}` ({machine(result)}). Seed {measured['seed']}, one network each; "
        "percent of test images."
    )
    columns = ("natural", "robust", "worst case")
    ways = dict.fromkeys((each["start"], each["teacher"]) for each in measured["networks"])
    rows = []
    for start, teacher in ways:
        of_way = [
            each
            for each in measured["networks"]
            if (each["start"], each["teacher"]) == (start, teacher)
        ]
        way = [start, "labels" if teacher == "null" else teacher]
        for each in of_way:
            assignment = short(Assignment.parse(each["assignment"], measured["layers"]))
            cost = f"{each['bops'] / 1e6:.2f}"
            rows.append([*way, assignment, cost, *(percent(each[column]) for column in columns)])
        means = (statistics.fmean(each[column] for each in of_way) for column in columns)
        rows.append([*way, "mean", "", *map(percent, means)])
    header = ["start", "teacher", "assignment", "MBOPS", "natural", "PGD-20", "worst case"]
    return f"{described}\n\n{table(header, rows)}"


def restarts(result: Result) -> str:
    """Percent of images that each attack leaves of what stood at first."""
    measured = result["measured"]
    networks = measured["networks"]
    left = [each["left"] for each in networks.values()]
    first = [percent(each["at first"]) for each in networks.values()]
    rows = [
        [attack, *(over_seeds(each[attack]) for each in left)] for attack in dict.fromkeys(left[0])
    ]
    names = [name.removeprefix("paper-") for name in networks]
    seeds = len(next(iter(left[0].values())))
    described = (
        f"`{result['command']}` ({machine(result)}). Percent of {measured['images']} test images "
        f"that stand, mean ± standard deviation over {seeds} seeds of the attacks, each of "
        f"{measured['passes']} passes in all."
    )
    return f"{described}\n\n{table(['', *names], [['at first', *first], *rows])}"
