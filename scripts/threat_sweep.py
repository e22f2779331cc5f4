"""Accuracy over the iterations of PGD for several step sizes (paper, Fig. 2-4), picture and CSV.

    python scripts/threat_sweep.py NETWORK [NETWORK ...] --data CIFAR_FOLDER --out FOLDER

A NETWORK is a folder of ``mbnas train``, candidates/<id> of a run, or a file of weights. Attacks go
through the straight-through estimator, as in the paper; an image counts at an iterate if it is
classified correctly there, and in the dotted lines if it was at every iterate up to there. What an
interrupted sweep has measured is kept in FOLDER; the same command goes on.
"""

import argparse
from dataclasses import astuple
from functools import partial
from itertools import cycle, product
from pathlib import Path
from typing import Any

import bench
import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import torch

from mbnas import Surrogate, freeze, load_network
from mbnas.devices import pick_device
from mbnas.evaluation import Spread, correct_at_each_iterate
from mbnas.files import write_text
from mbnas.journal import Journal
from mbnas.randomness import generator

Milestone = dict[str, Any]
COLOURS = px.colors.qualitative.Plotly


def swept(path: Path, arguments: argparse.Namespace, journal: Journal) -> pd.DataFrame:
    """One row for each step size, run and iterate; the random start is iterate 0."""
    network, _, settings = load_network(path)
    images = bench.test_images(path, settings, arguments.data, arguments.images)
    device = pick_device(settings.device)
    x, y = images.to(device).gather(slice(None))
    frozen = freeze(network.to(device))

    def curves(step: float, run: int) -> list[float]:
        """At each iterate, then at every one up to it."""
        right = correct_at_each_iterate(
            lambda z: frozen(z, Surrogate.STE),
            x,
            y,
            settings.threat.model_copy(update={"eps": arguments.eps / 255, "step": step / 255}),
            generator(run, "sweep", step),
            arguments.iterations,
        )
        masks = torch.cat([right[1:], right.cummin(dim=0).values[1:]])
        found: list[float] = masks.float().mean(dim=1).tolist()
        return found

    asked = {each: getattr(arguments, each) for each in ("eps", "iterations", "images")}
    total, rows = len(arguments.steps) * arguments.runs, []
    with bench.ledger(journal, path, asked, total) as ledger:
        for step, run in product(arguments.steps, range(arguments.runs)):
            both = ledger.numbers(f"step {step:g}, run {run}", partial(curves, step, run))
            at, up_to = both[: len(both) // 2], both[len(both) // 2 :]
            for iterate, (last, every) in enumerate(zip(at, up_to, strict=True)):
                rows.append((step, run, iterate, last, every))
    return pd.DataFrame(rows, columns=["step", "run", "iterate", "last", "every"])


def picture(table: pd.DataFrame, title: str) -> go.Figure:
    """Mean over runs, with the range of runs as a band."""
    figure = go.Figure(layout={"title": title, "template": "plotly_white"})
    for (step, of_step), colour in zip(table.groupby("step"), cycle(COLOURS), strict=False):
        runs = of_step.groupby("iterate")
        mean, low, high = (getattr(runs["last"], each)() for each in ("mean", "min", "max"))
        x = mean.index
        figure.add_scatter(x=x, y=high, line_width=0, showlegend=False, line_color=colour)
        figure.add_scatter(
            x=x, y=low, line_width=0, fill="tonexty", showlegend=False, line_color=colour
        )
        figure.add_scatter(x=x, y=mean, name=f"step {step:g}/255", line_color=colour)
        every = runs["every"].mean()
        figure.add_scatter(
            x=x, y=every, name="at every iterate so far", line_color=colour, line_dash="dot"
        )
    figure.update_xaxes(title="iterations of PGD", type="log")
    figure.update_yaxes(title="accuracy", tickformat=".0%")
    return figure


def milestones(table: pd.DataFrame) -> list[Milestone]:
    """By step size and at 1, 10, 100, ... iterations, mean and deviation over runs."""
    last = int(table["iterate"].max())
    shown = sorted({last, *(10**k for k in range(len(str(last))))})
    reached = table[table["iterate"].isin(shown)].groupby(["step", "iterate"])
    return [
        {
            "step": step,
            "iterate": iterate,
            **{each: list(astuple(Spread.over(of[each].tolist()))) for each in ("last", "every")},
        }
        for (step, iterate), of in reached
    ]


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("networks", type=Path, nargs="+")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--name", default="networks", help="of the result")
    parser.add_argument("--eps", type=bench.above_zero, default=8, help="of 255")
    parser.add_argument(
        "--steps", type=bench.above_zero, nargs="+", default=[0.1, 0.5, 1], help="of 255"
    )
    parser.add_argument("--iterations", type=bench.positive, default=1000)
    parser.add_argument("--runs", type=bench.positive, default=5)
    parser.add_argument("--images", type=bench.positive, default=500)
    parser.add_argument("--threads", type=bench.positive, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = bench.names_of(arguments.networks, parser)
    arguments.out.mkdir(parents=True, exist_ok=True)
    targets = {name: arguments.out / f"threat-sweep-{name}" for name in names}
    journals = {name: Journal(Path(f"{target}.jsonl")) for name, target in targets.items()}
    found: dict[str, list[Milestone]] = {}
    for path, name in zip(arguments.networks, names, strict=True):
        target, table = targets[name], swept(path, arguments, journals[name])
        table.to_csv(f"{target}.csv", index=False, float_format="%.5g")
        page = picture(table, f"{name}, eps {arguments.eps:g}/255").to_html()
        write_text(Path(f"{target}.html"), page)
        print(f"{target}.csv and .html")
        found[name] = milestones(table)
    measured = {
        "eps": arguments.eps,
        "runs": arguments.runs,
        "images": arguments.images,
        "networks": found,
    }
    print(bench.keep(f"sweep-{arguments.name}", measured))
    for journal in journals.values():
        journal.remove()


if __name__ == "__main__":
    bench.run(main)
