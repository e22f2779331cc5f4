"""Tables of how well scores on a supernet, engines and rules tell candidates apart."""

import statistics

from mbnas import Assignment
from mbnas.report import short
from tables.cells import Result, averaged, machine, over_seeds, table


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
