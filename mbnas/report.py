"""What a search found: the Pareto table as CSV and JSON, for the terminal, and as a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from rich.table import Table

from mbnas.assignment import Assignment
from mbnas.bops import DEFINITION, LayerCost, bops
from mbnas.files import write_json, write_text
from mbnas.formats import Family, Format
from mbnas.retraining import Metrics
from mbnas.runs import RunFolder
from mbnas.search.problem import Trial
from mbnas.settings import Settings

COLUMNS = ["id", "assignment", "bops", "natural", "robust", "loss", "worst_case"]
WorstCases = Mapping[str, float]
"""Fraction of validation images that a Pareto member, by id, withstands under stronger attacks."""


def write_pareto(
    folder: RunFolder,
    settings: Settings,
    trials: Sequence[Trial],
    front: Sequence[Trial],
    worst_cases: WorstCases,
    retrained: Sequence[Metrics],
) -> None:
    """Write ``pareto.csv``, ``pareto.json`` and ``pareto.html``."""
    rows = [{**trial.row(), "worst_case": worst_cases.get(trial.id)} for trial in front]
    write_json(folder.pareto_file, rows)
    csv = io.StringIO()
    pd.DataFrame(rows, columns=COLUMNS).to_csv(csv, index=False)
    write_text(folder.pareto_file.with_suffix(".csv"), csv.getvalue())
    figure = pareto_figure(settings, trials, front, worst_cases, retrained)
    if worst_cases:
        figure.update_layout(title_subtitle_text=ranking(front, worst_cases))
    page = figure.to_html(include_plotlyjs=True)
    write_text(folder.pareto_file.with_suffix(".html"), page)


def agreement(scores: Sequence[float], worst_cases: Sequence[float]) -> float | None:
    """Kendall's tau between the two; None where there is nothing to rank."""
    from scipy.stats import kendalltau  # noqa: PLC0415 (takes a second to import)

    if len(scores) < 2:
        return None
    tau = kendalltau(scores, worst_cases).statistic
    return None if math.isnan(tau) else float(tau)


def ranking(front: Sequence[Trial], worst_cases: WorstCases) -> str:
    """How far stronger attacks rank the members as the search did, and as cost does, a sentence."""
    reached = [worst_cases[trial.id] for trial in front]
    tau = agreement([trial.robust for trial in front], reached)
    of_cost = agreement([trial.bops for trial in front], reached)
    if tau is None or of_cost is None:
        return "robust accuracy and worst case leave nothing to rank"
    return f"Kendall's tau with the worst case: {tau:.2f} of robust accuracy, {of_cost:.2f} of BOPS"


def short(assignment: Assignment) -> str:
    """Runs of equal layers counted: ``3x1 1x1*4 2x2``."""
    runs = ((bases, len(list(equal))) for bases, equal in groupby(assignment))
    return " ".join(f"{bases}*{count}" if count > 1 else str(bases) for bases, count in runs)


def pareto_table(front: Sequence[Trial], worst_cases: WorstCases) -> Table:
    """The Pareto set, cheapest first, accuracies on validation images."""
    caption = f"{DEFINITION}; {ranking(front, worst_cases)}"
    table = Table(title="Pareto set (validation images)", caption=caption)
    for name in ("id", "BOPS", "natural", "robust", "worst case"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("assignment, first layer first", overflow="fold")
    for trial in front:
        table.add_row(
            trial.id,
            f"{trial.bops:.3e}",
            f"{trial.natural:.1%}",
            f"{trial.robust:.1%}",
            f"{worst_cases[trial.id]:.1%}",
            short(trial.assignment),
        )
    return table


def retrained_table(retrained: Sequence[Metrics], layers: int) -> Table:
    """Networks that were trained on their own, measured on test images, and audited if all were."""
    audited = all("audit" in metrics for metrics in retrained)
    counts = sorted({(each["test"]["images"], each["test"]["attacked"]) for each in retrained})
    seen = " or ".join(f"natural on {images}, PGD on {attacked}" for images, attacked in counts)
    if audited:
        images = " or ".join(map(str, sorted({each["audit"]["images"] for each in retrained})))
        seen += f", worst case on {images} images; a PASS says that the paper's PGD can be believed"
    else:
        seen += " images"
    table = Table(title="Trained on their own (test images)", caption=seen)
    for name in ("id", "BOPS", "natural", "PGD", *(["worst case"] if audited else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("assignment, first layer first", overflow="fold")
    for metrics in retrained:
        test = metrics["test"]
        table.add_row(
            metrics["id"],
            f"{metrics['bops']:.3e}",
            f"{test['natural']:.1%}",
            _mean(test["pgd"], test["runs"]),
            *([_worst_case(metrics["audit"])] if audited else []),
            _named(Format.parse(metrics["format"], layers)),
        )
    return table


def _mean(spread: Mapping[str, float], runs: int) -> str:
    """One run has no spread."""
    return f"{spread['mean']:.1%}" + (f" ± {spread['std']:.1%}" if runs > 1 else "")


def _worst_case(audit: Mapping[str, Any]) -> str:
    return f"{audit['worst_case']['accuracy']:.1%} {audit['verdict']}"


def _named(format_: Format) -> str:
    return short(format_.widths) if format_.family is Family.MBN else str(format_)


def cost_table(layers: Sequence[LayerCost]) -> Table:
    """Itemised BOPS of one assignment."""
    total = sum(layer.bops for layer in layers)
    table = Table(title="Cost of one image", caption=DEFINITION, show_footer=True)
    table.add_column("layer", footer="total")
    table.add_column("MACs", f"{sum(layer.macs for layer in layers):,}", justify="right")
    table.add_column("MxN", justify="right")
    table.add_column("BOPS", f"{total:,}", justify="right")
    table.add_column("share", justify="right")
    for layer in layers:
        table.add_row(
            layer.name,
            f"{layer.macs:,}",
            str(layer.bases),
            f"{layer.bops:,}",
            f"{layer.bops / total:.1%}",
        )
    return table


def space_table(settings: Settings) -> Table:
    """Size of a space and the cost of its smallest, uniform and largest networks."""
    table = Table(title=f"{settings.name}: {settings.space.size:.3g} networks", caption=DEFINITION)
    table.add_column("network")
    table.add_column("BOPS", justify="right")
    budget = settings.search.budget
    if budget is not None:
        table.add_column(f"within {budget:g}")
    for assignment in sorted(settings.space.uniforms, key=lambda a: bops(settings.table, a)):
        cost = bops(settings.table, assignment)
        verdict = () if budget is None else ("yes" if cost <= budget else "no",)
        extreme = {settings.space.smallest: " (smallest)", settings.space.largest: " (largest)"}
        name = f"uniform {assignment.layers[0]}{extreme.get(assignment, '')}"
        table.add_row(name, f"{cost:.4e}", *verdict)
    return table


def attack_table(metrics: Metrics) -> Table:
    """All that was measured of one network on test images."""
    test, threat = metrics["test"], metrics["threat"]
    table = Table(
        title=f"{metrics['id']} on {test['images']} test images",
        caption=f"attacks: eps {threat['eps']:.3g}, {threat['steps']} steps of "
        f"{threat['step']:.3g}, {test['attacked']} images, {test['runs']} runs; {DEFINITION}",
    )
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_row("BOPS", f"{metrics['bops']:.3e}")
    table.add_row("natural", f"{test['natural']:.1%}")
    for name, spread in test["attacks"].items():
        surrogate, _, count = name.rpartition("_")
        table.add_row(
            f"PGD, {surrogate} gradient, {count} iterate",
            _mean(spread, test["runs"]),
        )
    return table


def pareto_figure(
    settings: Settings,
    trials: Sequence[Trial],
    front: Sequence[Trial],
    worst_cases: WorstCases,
    retrained: Sequence[Metrics],
) -> go.Figure:
    """Accuracy over BOPS, natural and under attack, above the layer-wise bases of the members."""
    figure = make_subplots(
        rows=2,
        cols=2,
        specs=[[{}, {}], [{"colspan": 2}, None]],
        row_heights=[0.6, 0.4],
        vertical_spacing=0.14,
        subplot_titles=("natural accuracy", "robust accuracy", "bases of each layer (M x N)"),
    )
    uniform = [trial for trial in trials if trial.assignment.is_uniform]
    groups = (
        ("evaluated", trials, {"color": "lightgrey", "size": 6}),
        ("Pareto set", front, {"color": "crimson", "size": 9}),
        ("uniform", uniform, {"color": "black", "size": 11, "symbol": "diamond-open"}),
    )
    for column, objective in enumerate(("natural", "robust"), start=1):
        for name, members, marker in groups:
            points = [(t.bops, getattr(t, objective), _called(t)) for t in members]
            _add_points(figure, column, name, points, marker)
        points = [(each["bops"], _tested(each, objective), each["id"]) for each in retrained]
        star = {"color": "royalblue", "size": 13, "symbol": "star"}
        _add_points(figure, column, "retrained, test images", points, star)
    points = [(t.bops, worst_cases[t.id], _called(t)) for t in front if t.id in worst_cases]
    circle = {"color": "crimson", "size": 9, "symbol": "circle-open"}
    _add_points(figure, 2, "Pareto set, worst case", points, circle)
    points = [
        (
            each["bops"],
            each["audit"]["worst_case"]["accuracy"],
            f"{each['id']}<br>{_worst_case(each['audit'])}",
        )
        for each in retrained
        if "audit" in each
    ]
    star = {"color": "royalblue", "size": 13, "symbol": "star-open"}
    _add_points(figure, 2, "retrained, worst case of the audit", points, star)
    figure.add_vline(settings.search.budget, line_dash="dot", annotation_text="budget", row=1)
    _add_bases(figure, settings, front)
    figure.update_xaxes(title="BOPS", row=1)
    figure.update_yaxes(tickformat=".0%", row=1)
    figure.update_layout(
        title=f"{settings.name}: layer-wise multi-bit networks ({DEFINITION})",
        template="plotly_white",
        height=700 + 18 * len(front),
    )
    return figure


def _add_points(
    figure: go.Figure,
    column: int,
    name: str,
    points: Sequence[tuple[int, float, str]],
    marker: Mapping[str, Any],
) -> None:
    """``points`` are BOPS, accuracy and words; the legend tells a name once for both columns."""
    listed = any(trace.name == name for trace in figure.data)
    figure.add_scatter(
        x=[cost for cost, _, _ in points],
        y=[accuracy for _, accuracy, _ in points],
        text=[words for _, _, words in points],
        name=name,
        legendgroup=name,
        showlegend=bool(points) and not listed,
        mode="markers",
        marker=marker,
        row=1,
        col=column,
    )


def _called(trial: Trial) -> str:
    return f"{trial.id}<br>{short(trial.assignment)}"


def _tested(metrics: Metrics, objective: str) -> float:
    test = metrics["test"]
    return float(test["natural"] if objective == "natural" else test["pgd"]["mean"])


def _add_bases(figure: go.Figure, settings: Settings, front: Sequence[Trial]) -> None:
    figure.add_heatmap(
        z=[[m * n for m, n in trial.assignment] for trial in front],
        text=[[str(bases) for bases in trial.assignment] for trial in front],
        texttemplate="%{text}",
        x=[row.name for row in settings.table.searchable],
        y=[f"{trial.id}  {trial.bops:.2e}" for trial in front],
        colorscale="Blues",
        colorbar={"title": "M x N", "len": 0.4, "y": 0.2},
        row=2,
        col=1,
    )
