"""Write the tables of README.md and scripts/README.md from scripts/results/, between markers.

    python scripts/readme_tables.py

Tests fail while a page shows anything else than this script writes.
"""

import json
import math
import re
import shlex
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

from mbnas import Assignment
from mbnas.report import short

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "scripts" / "results"
PAGES = (ROOT / "README.md", ROOT / "scripts" / "README.md")
MARKED = re.compile(r"(<!-- (\w+): ([\w.*-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Result = dict[str, Any]


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def tau(one: list[float], other: list[float]) -> float:
    """Kendall's, by which two orders agree."""
    return float(kendalltau(one, other).statistic)


def spread(value: dict[str, float]) -> str:
    return f"{percent(value['mean'])} ± {percent(value['std'])}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(result: Result) -> str:
    """Where and with what something was measured."""
    hardware, versions = result["hardware"], result["versions"]
    device = hardware["gpu"] or f"{hardware['processor']}, {hardware['cores']} cores"
    software = f"torch {versions['torch']}, Python {versions['python']}"
    return f"{device}; {software}, commit {result['commit']}"


def search(result: Result) -> str:
    """The Pareto set on the supernet, and its retrained members on test images."""
    layers, threat = result["layers"], result["threat"]
    test = result["retrained"][0]["test"]
    described = (
        f"`{result['command']}`: {result['minutes']:.0f} minutes ({machine(result)}). Seed "
        f"{result['seed']}, one run; eps {threat['eps']:.3g}, step {threat['step']:.3g}, "
        f"{threat['steps']} steps; {result['evaluations']} candidates, scored on "
        f"{result['scored on']} validation images each. Natural test accuracy on {test['images']} "
        f"images, attacks on {test['attacked']}: mean ± standard deviation of {test['runs']} runs."
    )
    retrained = [
        [
            short(Assignment.parse(each["assignment"], layers)),
            f"{each['bops'] / 1e6:.2f}",
            percent(each["test"]["natural"]),
            spread(each["test"]["pgd"]),
            spread(each["test"]["attacks"]["ste_last"]),
            worst(each["audit"]),
        ]
        for each in result["retrained"]
    ]
    front = [
        [
            short(Assignment.parse(each["assignment"], layers)),
            f"{each['bops'] / 1e6:.2f}",
            percent(each["natural"]),
            percent(each["robust"]),
            percent(each["pgd_ste_last"]),
            percent(each["worst_case"]),
        ]
        for each in result["pareto"]
    ]
    columns = ["MBOPS", "natural %", "PGD-20 %", "PGD-20, STE, last iterate %", "worst case %"]
    return "\n\n".join(
        (
            described,
            table(["retrained, test images", *columns], retrained),
            *further_audits(result),
            table(["Pareto set, supernet, validation images", *columns], front),
            ranks(result["pareto"], same_images=not result.get("judged by others", False)),
        )
    )


def further_audits(result: Result) -> list[str]:
    """What other audits leave of the same networks, and AutoAttack of that; nothing without any."""
    networks = [(each, each.get("further audits", {})) for each in result["retrained"]]
    efforts = list(dict.fromkeys(effort for _, audits in networks for effort in audits))
    if not efforts:
        return []
    rows = [
        [
            short(Assignment.parse(each["assignment"], result["layers"])),
            worst(each["audit"]),
            *(worst(audits[effort]) if effort in audits else "–" for effort in efforts),
            by_autoattack(audits.get(efforts[-1])),
        ]
        for each, audits in networks
    ]
    header = ["worst case %, other audits of these", "as above", *efforts, "AutoAttack"]
    return [table(header, rows)]


def by_autoattack(audit: dict[str, Any] | None) -> str:
    """How many images AutoAttack breaks of those that the attacks before it left, if it ran."""
    if audit is None or "AutoAttack" not in audit["standing_after"]:
        return "–"
    names, left = list(audit["standing_after"]), list(audit["standing_after"].values())
    last = names.index("AutoAttack")
    before, after = (round(each * audit["images"]) for each in left[last - 1 : last + 1])
    return f"breaks {before - after} of {before}"


def ranks(front: list[dict[str, Any]], *, same_images: bool) -> str:
    """How far the Pareto set is in the order of the worst case by what may be looked at."""
    worst_cases = [each["worst_case"] for each in front]
    ways = {
        "PGD-20": "robust",
        "PGD-20 through STE, every": "pgd_ste_every",
        "the same, last": "pgd_ste_last",
        "BOPS": "bops",
    }
    taus = (
        f"{tau([each[key] for each in front], worst_cases):.2f} of {way}"
        for way, key in ways.items()
    )
    costs, scores = ([each[key] for each in front] for key in ("bops", "robust"))
    return (
        f"Kendall's tau with the worst case over this Pareto set: {', '.join(taus)}; of PGD-20 "
        f"with BOPS {tau(costs, scores):.2f}. The first two attacks are part of "
        f"the worst case{', which is of the same images' * same_images}."
    )


def worst(audit: dict[str, Any]) -> str:
    """Per-image worst case of an audit with its 95 % interval, and its verdict."""
    low, high = audit["worst_case"]["interval"]
    accuracy = percent(audit["worst_case"]["accuracy"])
    return f"{accuracy} ({percent(low)}–{percent(high)}) {audit['verdict']}"


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
        f"`{result['command']}` ({machine(result)}). Seed {first['seed']}; percent of "
        f"{first['images']} test images, with the 95 % interval of the worst case."
    )
    return f"{described}\n\n{table(header, rows)}"


def training(result: Result) -> str:
    """Speed as a multiple of the float network's, and what a step does with its time."""
    phases = ["forward", "training step", "FastAT step", "PGD step"]
    speed = result["measured"]["speed"]
    base = speed["float"]["peak MiB"][0]
    rows = [
        [
            name,
            *("{:.2f} ({:.2f}–{:.2f})".format(*each[phase]) for phase in phases),
            f"{each['peak MiB'][0] / base:.2f}",
        ]
        for name, each in speed.items()
    ]
    images = speed["float"]["training step: images/s"][0]
    described = (
        f"`{result['command']}` ({machine(result)}, {result['threads']} threads): images a second "
        f"as a multiple of the float network's in the same rounds ({images:.0f} in its training "
        "step), median (least–most), and peak memory of a training step likewise."
    )
    parts = [described, table(["", *phases, "memory"], rows)]
    if "shares of a training step" in result["measured"]:
        parts.append(profile(result["measured"]["shares of a training step"], least=0.04))
    return "\n\n".join(parts)


def profile(shares: dict[str, dict[str, float]], least: float) -> str:
    """Percent of a step's time by operation; what is under ``least`` everywhere is summed up."""
    longest = {
        operation: max(each.get(operation, 0) for each in shares.values())
        for operation in {operation for each in shares.values() for operation in each}
    }
    shown = sorted(
        (operation for operation, share in longest.items() if share >= least),
        key=lambda operation: -longest[operation],
    )
    rows = [
        [f"`{operation}`", *(percent(each.get(operation, 0)) for each in shares.values())]
        for operation in shown
    ]
    others = (1 - sum(each.get(operation, 0) for operation in shown) for each in shares.values())
    header = ["% of the time of a training step", *shares]
    return table(header, [*rows, ["all others", *map(percent, others)]])


def supernet(result: Result) -> str:
    """What a step costs in the supernet."""
    rows = [
        [name, *("{:.2f} ({:.2f}–{:.2f})".format(*each) for each in row.values())]
        for name, row in result["measured"].items()
    ]
    described = (
        f"`{result['command']}` ({machine(result)}, {result['threads']} threads): time of a "
        "training step in the supernet, median (least–most)."
    )
    header = ["sub-network", "times the plain network's", "times the smallest's"]
    return f"{described}\n\n{table(header, rows)}"


def pipeline(result: Result) -> str:
    """Seconds by stage."""
    measured = result["measured"]
    ways = {way: measured[way] for way in ("compiled", "plain")}

    def seconds(way: str, stage: str) -> list[float]:
        return [each[stage] for each in ways[way]]

    def faster(stage: str) -> str:
        compiled, plain = (sum(seconds(way, stage)) for way in ways)
        return f"{plain / compiled:.1f}" if compiled > 5 else ""

    rows = [
        [
            stage,
            *(" / ".join(f"{each:.0f}" for each in seconds(way, stage)) for way in ways),
            faster(stage),
        ]
        for stage in ways["compiled"][0]
    ]
    described = (
        f"`{result['command']}` ({machine(result)}, {result['threads']} threads): seconds in each "
        f"stage, round by round; the process held at most "
        f"{measured['peak MiB of the process']:.0f} MiB."
    )
    header = ["stage", "compiled quantizers", "plain ones", "times as fast"]
    return f"{described}\n\n{table(header, rows)}"


def attacks(result: Result) -> str:
    """Images a second of everyone's PGD-20."""
    some = next(iter(result["measured"].values()))["cases"]["mbnas"]
    runs = some["robust"]["runs"]
    parts = [
        f"`{result['command']}` ({machine(result)}, {result['threads']} threads): PGD-20, robust "
        f"accuracy as mean ± standard deviation over {runs} rounds with new random starts, "
        "images a second in the fastest round, and how many times as many mbnas attacks, median "
        "(least–most)."
    ]
    for name, network in result["measured"].items():
        rows = [
            [
                case,
                spread(each["robust"]),
                f"{each['images/s']:.1f}",
                "{:.2f} ({:.2f}–{:.2f})".format(*each["mbnas is times as fast"]),
            ]
            for case, each in network["cases"].items()
        ]
        title = f"{name} ResNet-20, natural {percent(network['natural'])} %"
        parts[0] += (
            f" A quick audit of the {name} network on 500 test images took "
            f"{network['seconds of a quick audit']:.0f} s."
        )
        parts.append(table([title, "robust %", "images/s", "mbnas is times as fast"], rows))
    return "\n\n".join(parts)


def paper(result: Result) -> str:
    """Rows of the paper's tables, the published figures beside; mean and deviation over seeds."""
    measured = result["measured"]
    first, seeds = measured[0], sorted({each["seed"] for each in measured})
    several = len(seeds) > 1
    described = (
        f"`{result['command']}` ({machine(result)}). Seed{'s' * several} "
        f"{', '.join(map(str, seeds))}; natural accuracy on {first['images']} test images, PGD "
        f"through the straight-through estimator on the first {first['attacked']}, mean of "
        f"{first['runs']} runs; the quick audit's worst case and its one run of PGD-20 on the "
        f"first {first['audited']}; ± is the standard deviation over "
        f"{'seeds' if several else 'runs'}. 1e8 BOPS; from `paper:` on, what the paper says."
    )
    parts = [described]
    for training in dict.fromkeys(each["training"] for each in measured):
        rows = []
        of_training = [each for each in measured if each["training"] == training]
        for format_ in dict.fromkeys(each["format"] for each in of_training):
            equal = [each for each in of_training if each["format"] == format_]
            rows.append(
                [
                    format_,
                    f"{equal[0]['bops'] / 1e8:.3f}",
                    over_seeds([each["natural"] for each in equal]),
                    *(
                        over_seeds([each[attack]["mean"] for each in equal])
                        if several
                        else spread(equal[0][attack])
                        for attack in ("pgd20 last", "pgd20 every", "pgd50 last", "pgd50 every")
                    ),
                    over_seeds([each["audited pgd20 last"] for each in equal]),
                    over_seeds([each["worst case"]["accuracy"] for each in equal]),
                    *(
                        equal[0]["paper"][figure] or "–"
                        for figure in ("bops_1e8", "top1", "pgd20", "pgd50")
                    ),
                ]
            )
        columns = ["BOPS", "natural", "PGD-20 last", "every", "PGD-50 last", "every"]
        columns += ["audit: PGD-20 last", "worst case"]
        columns += ["paper: BOPS", "natural", "PGD-20", "PGD-50"]
        parts.append(table([training, *columns], rows))
    return "\n\n".join(parts)


def trainings(results: dict[str, Result]) -> str:
    """Rows of several results, most accurate first, and by which recipe; results by name."""
    header = ["result", "epochs", "in all", "start", "teacher", "by, learning rate", "in", "decay"]
    header += ["natural %", "worst case %", "loss, test", "training"]
    rows = []
    for name, result in results.items():
        changes = changed(result)
        optimizer = changes.get("retraining.optimizer", "adam").capitalize()
        for each in result["measured"]:
            before = begun(result, results)
            told = [
                str(each["epochs"]),
                "" if before is None else str(before + each["epochs"]),
                *(network_of(changes, role) for role in ("start", "teacher")),
                f"{optimizer} {changes.get('retraining.learning_rate', '')}",
                each.get("precision", ""),
                changes.get("retraining.weight_decay", ""),
            ]
            reached = [percent(each["natural"]), percent(each["worst case"]["accuracy"])]
            losses = (each.get(loss) for loss in ("loss", "training loss"))
            reached += ["" if loss is None else f"{loss:.2f}" for loss in losses]
            label = name if len(result["measured"]) == 1 else f"{name}, {each['format']}"
            rows.append((each["format"], -each["natural"], [label, *told, *reached]))
    return table(header, [row for _, _, row in sorted(rows)])


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


def averaged(values: list[float], digits: int = 1) -> str:
    """The value, or mean and deviation of several; a dash for what is not known."""
    if any(map(math.isnan, values)):
        return "–"
    if len(values) == 1:
        return f"{values[0]:z.{digits}f}"
    return f"{statistics.fmean(values):z.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def over_seeds(fractions: list[float]) -> str:
    """The same in percent."""
    return averaged([100 * each for each in fractions])


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
    several = len(measured["seeds"]) > 1
    attacks = list(next(iter(networks.values())))
    rows = [
        [
            name,
            *(
                f"{mean:.1f} ± {std:.1f}" if several else f"{mean:.1f}"
                for mean, std in (each[attack] for attack in attacks)
            ),
            *([f"{sum(map(collapsed, by_seed[name]))} of {len(by_seed[name])}"] if by_seed else []),
        ]
        for name, each in networks.items()
    ]
    header = ["", *attacks, *(["collapsed"] if by_seed else [])]
    return "\n\n".join((described, table(header, rows), *gains(by_seed)))


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


def difference(of: list[float], to: list[float]) -> str:
    """Of the means of two independent samples, with its standard error."""
    error = math.hypot(*(statistics.stdev(each) / math.sqrt(len(each)) for each in (of, to)))
    return f"{statistics.fmean(of) - statistics.fmean(to):+.1f} ({error:.1f})"


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


def agreement(result: Result) -> str:
    """Percent of images that stand, by either implementation."""
    measured = dict(result["measured"])
    described = (
        f"`{result['command']}` ({machine(result)}): percent of {measured.pop('images')} test "
        "images that stand, mean ± standard deviation of runs; in brackets the standard error of "
        "the difference."
    )
    rows = []
    for name, each in measured.items():
        deviations = [statistics.stdev(each[who]) for who in ("mbnas", "library")]
        runs = len(each["mbnas"])
        error = math.hypot(*deviations) / math.sqrt(runs)
        rows.append(
            [
                name,
                str(runs),
                *(over_seeds([value / 100 for value in each[who]]) for who in ("mbnas", "library")),
                f"{each['apart']:+.2f} ({error:.2f})",
            ]
        )
    return f"{described}\n\n{table(['', 'runs', 'mbnas', 'library', 'apart'], rows)}"


def ranking(result: Result) -> str:
    """Kendall's tau of each way to rank assignments with what their networks reach."""
    measured = result["measured"]
    taus, assignments = measured["tau"], measured["assignments"]
    several = len(measured["seeds"]) > 1
    described = (
        f"`{result['command']}` ({machine(result)}). Kendall's tau ± standard error (jackknife) "
        f"over {measured['ranked']} assignments drawn from that run, scored on "
        f"{measured['scored on']} validation images, with their networks trained from scratch, "
        f"{'mean of seeds' if several else 'seed'} {', '.join(map(str, measured['seeds']))}, on "
        "test images."
    )
    rows = [
        [way, *(f"{taus[each][way][0]:.2f} ± {taus[each][way][1]:.2f}" for each in taus)]
        for way in taus["natural"]
    ]
    reached = [
        [
            short(assignment),
            "by the search" if each["retrained"] else "uniform",
            f"{each['bops'] / 1e6:.2f}",
            *(over_seeds([row[measure] for row in each["alone"]]) for measure in taus),
        ]
        for each in sorted(assignments, key=lambda each: each["bops"])
        for assignment in [Assignment.parse(each["assignment"], measured["layers"])]
        if each["retrained"] or assignment.is_uniform
    ]
    names = {"natural": "natural", "robust": "PGD", "worst case": "worst case"}
    ranked = table(["ranked by", *(names[each] for each in taus)], rows)
    header = ["trained from scratch", "chosen", "MBOPS", *(f"{names[each]} %" for each in taus)]
    return f"{described}\n\n{ranked}\n\n{table(header, reached)}"


def rules(result: Result) -> str:
    """Kendall's tau of supernets trained in several ways with what networks reach on their own."""
    measured = result["measured"]
    described = (
        f"`{result['command']}` ({machine(result)}). Kendall's tau, mean ± standard deviation over "
        f"supernets of seeds {', '.join(map(str, measured['seeds']))}, with the networks of "
        f"{measured['ranked']} assignments trained from scratch; {measured['trained']} "
        "sub-networks trained per step. Behind it the mean score of these assignments, percent of "
        "validation images."
    )

    def cell(taus: list[float]) -> str:
        return averaged(taus if len(set(taus)) > 1 else taus[:1], digits=2)

    rows = {}
    for trained, ways in measured["tau"].items():
        scores = [over_seeds(each) for each in measured["mean scores"][trained].values()]
        for way, taus in ways.items():
            name = way if way == "BOPS" else f"{way}, rule {trained}"
            means = scores if way == "supernet" else ["", ""]
            rows[name] = [name, *(cell(taus[measure]) for measure in taus), *means]
    header = ["ranked by", "natural", "PGD", "worst case", "scores: natural", "PGD"]
    return f"{described}\n\n{table(header, list(rows.values()))}"


def engines(result: Result) -> str:
    """What searches of the same supernets find, by engine."""
    measured = result["measured"]
    found = measured["found"]
    described = (
        f"`{result['command']}` ({machine(result)}). Supernets of seeds "
        f"{', '.join(map(str, measured['supernets']))}, at most {measured['evaluations']} scores "
        f"within {measured['budget'] / 1e6:g} MBOPS on {measured['scored on']} validation images; "
        "mean ± standard deviation over searches. The hypervolume is a share of what all searches "
        "of a supernet dominate together."
    )
    rows = [
        [
            name,
            str(sum(len(each["robust"][name]) for each in found)),
            averaged([value for each in found for value in each["scores"][name]], 0),
            over_seeds([value for each in found for value in each["hypervolume"][name]]),
            over_seeds(
                [
                    value - statistics.fmean(each["hypervolume"]["random"])
                    for each in found
                    for value in each["hypervolume"][name]
                ]
            ),
            over_seeds([value for each in found for value in each["robust"][name]]),
        ]
        for name in found[0]["robust"]
    ]
    columns = ["searches", "scores", "hypervolume %", "more than random", "highest PGD-20 %"]
    return f"{described}\n\n{table(['engine', *columns], rows)}"


def finds(result: Result) -> str:
    """What finds of several searches keep, and what uniform networks of the same supernets."""
    measured = result["measured"]
    seeds, networks = measured["seeds"], measured["networks"]
    described = (
        f"`{result['command']}` ({machine(result)}). Percent of test images, mean ± standard "
        f"deviation over searches of seeds {', '.join(map(str, seeds))}. Behind it by how much "
        "finds keep more in the worst case than uniform networks that cost no more: than these in "
        "the mean, and than the one of them that keeps most in the mean of the other seeds; then "
        "apart, over networks."
    )
    ways = dict.fromkeys(each["change"] for each in networks)
    chosen: list[list[str]] = []
    kinds: list[list[str]] = []
    kept: dict[tuple[int, str], dict[str, list[float]]] = {}
    for way in ways:
        of_way = [each for each in networks if each["change"] == way]
        runs = [[each for each in of_way if each["find"] and each["seed"] == s] for s in seeds]
        uniform = [each for each in of_way if each["uniform"]]
        leads = [[lead(each, uniform) for each in run] for run in runs]
        chosen.append(
            [
                way or "as the space says",
                averaged([statistics.fmean(e["bops"] for e in run) / 1e6 for run in runs], 2),
                *(
                    over_seeds([statistics.fmean(each[column] for each in run) for run in runs])
                    for column in ("natural", "robust", "worst case")
                ),
                *(
                    over_seeds([statistics.fmean(each[than] for each in run) for run in leads])
                    for than in (0, 1)
                ),
            ]
        )
        kinds += [[f"{name}, {way}" if way else name, *row] for name, *row in apart(runs, uniform)]
        for each in uniform:
            by_way = kept.setdefault((each["bops"], each["assignment"]), {})
            by_way.setdefault(way, []).append(each["worst case"])
    columns = ["MBOPS", "natural", "PGD-20", "worst case", "more than uniform", "than the best"]
    found = table(["finds", *columns], chosen)
    by_kind = table(["finds apart", "number", "MBOPS", "worst case", "than the best"], kinds)
    rows = [
        [
            short(Assignment.parse(assignment, measured["layers"])),
            f"{cost / 1e6:.2f}",
            *(over_seeds(by_way[way]) if way in by_way else "" for way in ways),
        ]
        for (cost, assignment), by_way in sorted(kept.items())
    ]
    header = ["uniform, worst case", "MBOPS", *(way or "as the space says" for way in ways)]
    return "\n\n".join((described, found, by_kind, table(header, rows), *told_apart(networks)))


def told_apart(networks: list[dict[str, Any]]) -> list[str]:
    """How scores rank the uniform networks of each search; nothing where they were not kept."""
    searches: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for each in networks:
        if each["uniform"] and "scored" in each:
            searches.setdefault((each["change"], each["seed"]), []).append(each)
    if not searches:
        return []

    def ranked_by(score: str) -> str:
        taus = [
            tau(
                [each["scored"][score] for each in uniform],
                [each["worst case"] for each in uniform],
            )
            for uniform in searches.values()
        ]
        return averaged(taus, 2)

    return [
        "Kendall's tau over the uniform networks of a search with what they keep in the worst "
        f"case: {ranked_by('robust')} of PGD-20 in the supernet, on validation images, "
        f"{ranked_by('bops')} of BOPS."
    ]


def apart(runs: list[list[dict[str, Any]]], uniform: list[dict[str, Any]]) -> list[list[str]]:
    """Finds by kind: how many, their cost, what they keep, and :func:`lead` over the best."""

    def withstands(find: dict[str, Any]) -> float:
        """On validation images, in the supernet."""
        return float(find["member"]["worst_case"])

    finds = [each for run in runs for each in run]
    kinds = {
        "the one that withstands most when searched": [max(run, key=withstands) for run in runs],
        "uniform themselves": [each for each in finds if each["uniform"]],
        "others as cheap as one uniform network only": [
            each for each in finds if not each["uniform"] and rivals(each, uniform) == 1
        ],
        "all others": [each for each in finds if not each["uniform"] and rivals(each, uniform) > 1],
    }
    return [
        [
            name,
            str(len(kind)),
            averaged([each["bops"] / 1e6 for each in kind], 2),
            over_seeds([each["worst case"] for each in kind]),
            over_seeds([lead(each, uniform)[1] for each in kind]),
        ]
        for name, kind in kinds.items()
        if kind
    ]


def fronts(result: Result) -> str:
    """How scores rank what Pareto sets reach when fine-tuned, and by how much it is more."""
    measured = result["measured"]
    seeds = measured["seeds"]
    described = (
        f"`{result['command']}` ({machine(result)}). Kendall's tau within Pareto sets of searches "
        f"of seeds {', '.join(map(str, seeds))}, mean ± standard deviation, of what the supernet "
        "scores on validation images with what members reach on test images once they are "
        "fine-tuned from it."
    )
    ways = dict.fromkeys(each["change"] for each in measured["networks"])
    parts = [
        f"{way}:\n\n{front(each, seeds)}" if way else front(each, seeds)
        for way in ways
        for each in [[each for each in measured["networks"] if each["change"] == way]]
    ]
    return "\n\n".join((described, *parts))


def front(networks: list[dict[str, Any]], seeds: list[int]) -> str:
    """The same of searches that differ by seed alone."""
    members = [each for each in networks if each["member"]]
    by_seed = [[each for each in members if each["seed"] == seed] for seed in seeds]
    scores = {"natural": "natural", "PGD-20": "robust", "worst case": "worst_case", "BOPS": "bops"}
    reached = {"natural": "natural", "PGD-20": "robust", "worst case": "worst case"}
    rows = [
        [
            name,
            *(
                averaged([agreement_of(front, score, column) for front in by_seed], 2)
                for column in reached.values()
            ),
        ]
        for name, score in scores.items()
    ]
    scored = [[each["member"] for each in front] for front in by_seed]
    alike = averaged(
        [tau([e["robust"] for e in front], [e["bops"] for e in front]) for front in scored], 2
    )
    uniform = [each for each in networks if each["uniform"]]
    mixed = [[each for each in front if not each["uniform"]] for front in by_seed]
    cheap = [[each for each in front if rivals(each, uniform) == 1] for front in mixed]
    others = [[each for each in front if rivals(each, uniform) > 1] for front in mixed]

    def led(fronts: list[list[dict[str, Any]]], than: int) -> str:
        leads = [[lead(each, uniform)[than] for each in front] for front in fronts if front]
        return over_seeds([statistics.fmean(each) for each in leads]) if leads else "–"

    assignments = [each["assignment"] for front in mixed for each in front]
    more = (
        f"PGD-20 and BOPS have a tau of {alike} with each other. The {len(assignments)} members "
        f"that are not uniform keep {led(mixed, 0)} points more in the worst case than uniform "
        "networks that cost no more do in the mean. Than that of these which is best on the other "
        f"seeds the {sum(map(len, cheap))} that are as cheap as one uniform network only keep "
        f"{led(cheap, 1)} more, the {sum(map(len, others))} others {led(others, 1)} (means over "
        f"searches). Layer by layer they have in the mean {mean_bases(assignments)}."
    )
    return f"{table(['score', *reached], rows)}\n\n{more}"


def mean_bases(assignments: list[str]) -> str:
    """M and N of each layer, over assignments of as many layers."""
    layers = len(assignments[0].split(","))
    by_layer = list(zip(*(Assignment.parse(each, layers) for each in assignments), strict=True))
    weights, activations = (
        ", ".join(f"{statistics.fmean(bases[kind] for bases in layer):.1f}" for layer in by_layer)
        for kind in (0, 1)
    )
    return f"{weights} weight and {activations} activation bases"


def agreement_of(front: list[dict[str, Any]], score: str, column: str) -> float:
    """Kendall's tau of what the supernet scored with what fine-tuned networks reach."""
    return tau([each["member"][score] for each in front], [each[column] for each in front])


def rivals(network: dict[str, Any], uniform: list[dict[str, Any]]) -> int:
    """How many uniform networks cost no more."""
    return len({each["assignment"] for each in uniform if each["bops"] <= network["bops"]})


def lead(find: dict[str, Any], uniform: list[dict[str, Any]]) -> tuple[float, float]:
    """By how much a find keeps more in the worst case than uniform networks that cost no more.

    Than these in the mean, and than the one that is best on other seeds: the best of its own would
    be chosen by the noise that it is then judged by. The latter is NaN where there is one seed.
    """
    kept: dict[str, float] = {}
    elsewhere: dict[str, list[float]] = {}
    for each in uniform:
        if each["bops"] > find["bops"]:
            continue
        if each["seed"] == find["seed"]:
            kept[each["assignment"]] = each["worst case"]
        else:
            elsewhere.setdefault(each["assignment"], []).append(each["worst case"])
    than_all = find["worst case"] - statistics.fmean(kept.values())
    if not elsewhere:
        return than_all, math.nan
    best = max(kept, key=lambda each: statistics.fmean(elsewhere[each]))
    return than_all, find["worst case"] - kept[best]


def paired(before: Result, after: Result) -> str:
    """By how much the same networks keep less in a later audit of the same searches."""

    def kept(result: Result) -> dict[tuple[int, str], float]:
        networks = result["measured"]["networks"]
        return {(each["seed"], each["assignment"]): each["worst case"] for each in networks}

    earlier, later = kept(before), kept(after)
    both = sorted(earlier.keys() & later.keys())
    less = over_seeds([earlier[each] - later[each] for each in both])
    return f"Of the {len(both)} networks that are in both tables, {less} points less."


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


KINDS: dict[str, Callable[[Result], str]] = {
    "agreement": agreement,
    "attacks": attacks,
    "audits": audits,
    "finds": finds,
    "fronts": fronts,
    "gap": gap,
    "paper": paper,
    "ranking": ranking,
    "recipe": recipe,
    "retraining": retraining,
    "rules": rules,
    "engines": engines,
    "study": study,
    "sweep": sweep,
    "search": search,
    "training": training,
    "supernet": supernet,
    "pipeline": pipeline,
}


def written(page: str) -> str:
    """The page with the tables that its markers ask for.

    ``<!-- search: digits -->`` is one result, ``<!-- all: resnet20-*cpu -->`` rows of the paper,
    ``<!-- paired: digits.digits-square -->`` two of finds.
    """

    def filled(match: re.Match[str]) -> str:
        opening, kind, name, closing = match.groups()
        if kind == "all":
            files = sorted(RESULTS.glob(f"paper-{name}.json"))
            of = {each.stem.removeprefix("paper-"): json.loads(each.read_text()) for each in files}
            return f"{opening}{trainings(of)}\n{closing}"
        if kind == "paired":
            before, after = (
                json.loads((RESULTS / f"finds-{each}.json").read_text()) for each in name.split(".")
            )
            return f"{opening}{paired(before, after)}\n{closing}"
        result = json.loads((RESULTS / f"{kind}-{name}.json").read_text())
        return f"{opening}{KINDS[kind](result)}\n{closing}"

    return MARKED.sub(filled, page)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(written(page.read_text()))
