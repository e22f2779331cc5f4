"""An audit for reading: a record for machines, a table for the terminal, a page with curves."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from mbnas.auditing.auditor import Audit, version
from mbnas.auditing.checks import Verdict
from mbnas.evaluation import Spread

COLOURS = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


Record = Mapping[str, Any]
"""What ``audit-<effort>.json`` holds."""


def record(audit: Audit) -> dict[str, Any]:
    """An audit in words and numbers; accuracies are fractions of ``images``."""
    evidence = audit.evidence
    return {
        "verdict": audit.verdict,
        "images": len(evidence.natural),
        "threat": audit.threat.model_dump(mode="json"),
        "seed": audit.seed,
        "plan": audit.plan.record(),
        "attacks": version(),
        "natural": _estimate(evidence.natural),
        "worst_case": _estimate(evidence.worst),
        "paper": {
            f"PGD-{steps}": {
                "last iterate": asdict(_spread(evidence.last[steps])),
                "every iterate": asdict(_spread(evidence.every[steps])),
                "per-image worst of all runs": _fraction(evidence.every[steps].all(dim=0)),
            }
            for steps in evidence.last
        },
        "search_attack": _fraction(evidence.scored),
        "noise": _fraction(evidence.noise),
        "sweep": {name: _fraction(mask) for name, mask in evidence.sweep.items()},
        "strongest": evidence.strongest,
        "standing_after": {name: _fraction(mask) for name, mask in evidence.standing.items()},
        "accuracy_over_eps": [[radius, left] for radius, left in evidence.radii.items()],
        "loss_over_iterations": evidence.rises,
        "zero_gradients": evidence.zero_gradients,
        "checks": [asdict(check) for check in audit.checks],
    }


def headline(record: Record) -> str:
    """The worst case with its confidence interval, PGD-20 and the gap beside it."""
    worst = 100 * record["worst_case"]["accuracy"]
    low, high = (100 * each for each in record["worst_case"]["interval"])
    attack, paper = next(iter(record["paper"].items()))
    pgd = 100 * paper["last iterate"]["mean"]
    return (
        f"{worst:.1f} % (95 % interval {low:.1f} to {high:.1f}) of {record['images']} images "
        f"withstand everything at eps {record['threat']['eps']:.4g}; "
        f"natural {100 * record['natural']['accuracy']:.1f} %, {attack} as in the paper "
        f"{pgd:.1f} %, gap {pgd - worst:.1f} pp"
    )


def table(record: Record, name: str) -> Table:
    """The checks, one a line."""
    made = Table(title=escape(f"{name}: {record['verdict']}"), caption=headline(record))
    made.add_column("")
    made.add_column("check")
    made.add_column("measured")
    made.add_column("passes up to")
    for check in record["checks"]:
        verdict = f"[{COLOURS[check['verdict']]}]{check['verdict']}[/]"
        made.add_row(verdict, check["name"], check["figure"], check["threshold"])
    return made


def page(record: Record, name: str) -> str:
    """A page that stands alone: headline, checks with their explanations, curves."""
    rows = "".join(
        f"<tr class={check['verdict']}><td>{check['verdict']}<td>{html.escape(check['name'])}"
        f"<td>{html.escape(check['figure'])}<td>{html.escape(check['threshold'])}"
        f"<td>{html.escape(check['explanation'])}</tr>"
        for check in record["checks"]
    )
    curves = figure(record).to_html(include_plotlyjs=True, full_html=False)
    title = html.escape(f"{name}: {record['verdict']}")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}"
        f"</style><h1>{title}</h1><p>{html.escape(headline(record))}</p><table><tr><th><th>check"
        f"<th>measured<th>passes up to<th>what it means</tr>{rows}</table>{curves}</html>\n"
    )


def figure(record: Record) -> go.Figure:
    """Accuracy under each attack, over eps and over attacks in turn; loss over iterations."""
    sweep, standing = record["sweep"], record["standing_after"]
    radii, left = zip(*record["accuracy_over_eps"], strict=True)
    made = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=(
            "what each attack of the sweep leaves",
            "what stands after each further attack",
            f"over eps, by the strongest attack ({record['strongest']})",
            "mean loss over iterations",
        ),
        vertical_spacing=0.22,
    )
    ordered = sorted(sweep, key=sweep.__getitem__)
    bars = [sweep[name] for name in ordered]
    made.add_bar(y=ordered, x=bars, orientation="h", row=1, col=1)
    lines = {"mode": "lines+markers"}
    made.add_scatter(x=list(standing), y=list(standing.values()), **lines, row=1, col=2)
    made.add_scatter(x=radii, y=left, **lines, row=2, col=1)
    made.add_vline(record["threat"]["eps"], line_dash="dot", annotation_text="eps", row=2, col=1)
    for surrogate, values in record["loss_over_iterations"].items():
        made.add_scatter(y=values, name=f"through {surrogate}", row=2, col=2)
    made.update_xaxes(tickformat=".0%", row=1, col=1)
    made.update_yaxes(tickformat=".0%", row=1, col=2)
    made.update_yaxes(tickformat=".0%", row=2, col=1)
    for trace in made.data[:3]:
        trace.showlegend = False
    made.update_layout(template="plotly_white", height=900)
    return made


def _estimate(mask: Tensor) -> dict[str, Any]:
    """Accuracy with its 95 % interval (Clopper & Pearson 1934)."""
    from scipy.stats import binomtest  # noqa: PLC0415 (takes a second to import)

    interval = binomtest(int(mask.sum()), len(mask)).proportion_ci(confidence_level=0.95)
    return {"accuracy": _fraction(mask), "interval": [float(interval.low), float(interval.high)]}


def _spread(runs: Tensor) -> Spread:
    """Over the rows of (runs, n)."""
    return Spread.over([_fraction(run) for run in runs])


def _fraction(mask: Tensor) -> float:
    return int(mask.sum()) / mask.numel()


_STYLE = """
body { font-family: sans-serif; margin: 2em auto; max-width: 75em; }
table { border-collapse: collapse; } td, th { padding: .3em .6em; text-align: left; }
tr { border-bottom: 1px solid #ddd; } td:first-child { font-weight: bold; }
.PASS td:first-child { color: #197b30; } .WARN td:first-child { color: #b07500; }
.FAIL td:first-child { color: #c0182b; }
"""
