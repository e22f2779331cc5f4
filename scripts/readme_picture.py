"""Draw the README's pictures from scripts/results/.

    python scripts/readme_picture.py

What finds and uniform networks keep in the worst case at their cost, and how much of PGD-20
accuracy survives stronger attacks. Tests fail while a picture shows anything else than this script
draws.
"""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

RESULTS = Path(__file__).parent / "results"
GREY, RED, BLUE = "#8c8c8c", "#d62728", "#1f77b4"
SHOWN = {  # what is measured: its name in the legend, colour
    "worst": ("worst case", RED),
    "PGD-20, ste, last": ("PGD-20 as in the paper", BLUE),
    "natural": ("natural", GREY),
}
LEFT, TOP = 150, 58  # pixels
ROW, PERCENT, MOST = 22, 10, 50  # pixels a network and a percent, percent
EDGE, WIDTH, HEIGHT = 30, 110, 8  # pixels a million bit-operations and a percent
COSTS, ACCURACIES = range(1, 7), range(10, 61, 10)


def text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = GREY) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {where}>{escape(words)}</text>"


def dot(x: float, y: float, colour: str, *, hollow: bool = False) -> str:
    paint = f'fill="none" stroke="{colour}" stroke-width="1.5"' if hollow else f'fill="{colour}"'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" {paint}/>'


def line(x: float, y: float, to_x: float, to_y: float, width: float, colour: str = GREY) -> str:
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-opacity="0.5" stroke-width="{width:g}"/>'


def legend(left: float, entries: list[tuple[str, str]], *, hollow: str = "") -> list[str]:
    """Names and colours from left to right."""
    return [
        part
        for index, (name, colour) in enumerate(entries)
        for x in [left + 190 * index]
        for part in (
            dot(x, 34, colour, hollow=name == hollow),
            text(x + 10, 38, name, colour=colour),
        )
    ]


def page(parts: list[str], width: float, height: float) -> str:
    size = f'width="{width:g}" height="{height:g}"'
    style = 'font-family="sans-serif" font-size="12"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{body}\n</svg>\n'


def survival(measured: dict[str, Any]) -> str:
    """One row a network: means over seeds from the worst case to natural accuracy."""

    def at(percent: float) -> float:
        return LEFT + PERCENT * percent

    networks, seeds = measured["networks"], len(measured["seeds"])
    bottom = TOP + ROW * len(networks)
    parts = [
        text(0, 16, f"Percent of test images that are classified correctly, mean of {seeds} seeds"),
        *legend(LEFT, list(SHOWN.values())),
    ]
    for tick in range(0, MOST + 1, 10):
        parts += [
            line(at(tick), TOP - 8, at(tick), bottom, 0.5),
            text(at(tick), bottom + 16, str(tick), anchor="middle"),
        ]
    for index, (name, of_network) in enumerate(networks.items()):
        y = TOP + ROW * (index + 0.5)
        places = {of: at(of_network[of][0]) for of in SHOWN}
        parts.append(text(LEFT - 14, y + 4, name, anchor="end"))
        parts.append(line(min(places.values()), y, max(places.values()), y, 2))
        parts += [dot(places[of], y, colour) for of, (_, colour) in SHOWN.items()]
    return page(parts, at(MOST) + 20, bottom + 24)


def worth(measured: dict[str, Any]) -> str:
    """Worst case over cost: every find of several searches, uniform networks in their mean."""

    def at(mbops: float, percent: float) -> tuple[float, float]:
        return EDGE + WIDTH * (mbops - COSTS[0]), TOP + HEIGHT * (ACCURACIES[-1] - percent)

    networks, seeds, find = measured["networks"], len(measured["seeds"]), "find of a search"
    (left, bottom), (right, top) = at(COSTS[0], ACCURACIES[0]), at(COSTS[-1], ACCURACIES[-1])
    parts = [
        text(0, 16, f"Percent of test images right in the worst case, {seeds} searches of digits"),
        *legend(EDGE, [(find, RED), ("uniform, mean ± standard deviation", BLUE)], hollow=find),
        text(right, bottom + 34, "million bit-operations", anchor="end"),
    ]
    for percent in ACCURACIES:
        _, y = at(COSTS[0], percent)
        parts += [line(left, y, right, y, 0.5), text(left - 10, y + 4, str(percent), anchor="end")]
    for mbops in COSTS:
        x, _ = at(mbops, ACCURACIES[0])
        parts += [line(x, top, x, bottom, 0.5), text(x, bottom + 16, str(mbops), anchor="middle")]
    uniform: dict[tuple[int, str], list[float]] = {}
    for each in networks:
        if each["uniform"]:
            name = each["assignment"].split(",")[0]
            uniform.setdefault((each["bops"], name), []).append(100 * each["worst case"])

    def label(x: float, y: float, name: str) -> str:
        """MxN at the left where M is larger: NxM costs as much and is drawn above or below."""
        weights, activations = name.split("x")
        if weights > activations:
            return text(x - 8, y + 4, name, anchor="end", colour=BLUE)
        return text(x + 8, y + 4, name, colour=BLUE)

    for (bops, name), kept in uniform.items():
        mean, deviation = statistics.fmean(kept), statistics.stdev(kept)
        x, y = at(bops / 1e6, mean)
        parts += [
            line(x, y - HEIGHT * deviation, x, y + HEIGHT * deviation, 2, BLUE),
            dot(x, y, BLUE),
            label(x, y, name),
        ]
    parts += [
        dot(*at(each["bops"] / 1e6, 100 * each["worst case"]), RED, hollow=True)
        for each in networks
        if each["find"]
    ]
    return page(parts, right + 20, bottom + 42)


PICTURES: dict[str, Callable[[dict[str, Any]], str]] = {
    "finds-digits-standard-all": worth,
    "study-surrogates-32": survival,
}


def drawn() -> dict[Path, str]:
    """What belongs into each file."""
    return {
        RESULTS / f"{name}.svg": draw(
            json.loads((RESULTS / f"{name}.json").read_text())["measured"]
        )
        for name, draw in PICTURES.items()
    }


if __name__ == "__main__":
    for file, picture in drawn().items():
        file.write_text(picture)
