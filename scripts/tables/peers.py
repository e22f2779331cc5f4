"""Tables of mbnas beside its peers: how fast, and whether the same comes out."""

import math
import statistics

from tables.cells import Result, machine, over_seeds, percent, spread, table


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
