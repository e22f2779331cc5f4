"""Tables of what searches find, and of what their finds keep."""

import math
import statistics
from typing import Any

from mbnas import Assignment
from mbnas.report import short
from tables.cells import (
    Result,
    averaged,
    folded,
    machine,
    over_seeds,
    percent,
    spread,
    table,
    tau,
    worst,
)


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
            folded(
                f"The {len(front)} candidates of the Pareto set, on the supernet",
                table(["validation images", *columns], front),
            ),
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
    if len(ways) == 1:
        described += (
            " Beside a uniform network: by how much the find that withstands most when searched, "
            "of those that cost no more, keeps more than it, and in how many searches there is one."
        )
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
            *([beaten(networks, assignment)] if len(ways) == 1 else []),
        ]
        for (cost, assignment), by_way in sorted(kept.items())
    ]
    header = ["uniform, worst case", "MBOPS", *(way or "as the space says" for way in ways)]
    if len(ways) == 1:
        header.append("a find in its place keeps more")
    return "\n\n".join((described, found, by_kind, table(header, rows), *told_apart(networks)))


def beaten(networks: list[dict[str, Any]], assignment: str) -> str:
    """By how much finds keep more than a uniform network, and in how many searches.

    Of each search the one that withstands most when searched, of those that cost no more.
    """
    more: list[float] = []
    for uniform in networks:
        if uniform["uniform"] and uniform["assignment"] == assignment:
            within = [
                each
                for each in networks
                if each["find"]
                and each["seed"] == uniform["seed"]
                and each["bops"] <= uniform["bops"]
            ]
            if within:
                more.append(max(within, key=withstands)["worst case"] - uniform["worst case"])
    return f"{over_seeds(more)} ({len(more)})" if more else "–"


def withstands(find: dict[str, Any]) -> float:
    """On validation images, in the supernet."""
    return float(find["member"]["worst_case"])


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
