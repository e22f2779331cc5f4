"""Draw how much of PGD-20 accuracy survives stronger attacks, from scripts/results/.

    python scripts/readme_picture.py

Tests fail while the picture shows anything else than this script draws.
"""

import json
from pathlib import Path
from xml.sax.saxutils import escape

RESULTS = Path(__file__).parent / "results"
STUDY, PICTURE = RESULTS / "study-surrogates-32.json", RESULTS / "study-surrogates-32.svg"
SHOWN = {  # what is measured: its name in the legend, colour
    "worst": ("worst case", "#d62728"),
    "PGD-20, ste, last": ("PGD-20 as in the paper", "#1f77b4"),
    "natural": ("natural", "#8c8c8c"),
}
LEFT, TOP, ROW, PERCENT, MOST = 150, 58, 22, 10, 50  # pixels, but for the last: percent


def at(percent: float) -> float:
    """Where a percentage lies from left to right."""
    return LEFT + PERCENT * percent


def text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = "#8c8c8c") -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {where}>{escape(words)}</text>"


def dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'


def line(x: float, y: float, to_x: float, to_y: float, width: float) -> str:
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {ends} stroke="#8c8c8c" stroke-opacity="0.5" stroke-width="{width:g}"/>'


def picture(networks: dict[str, dict[str, tuple[float, float]]], seeds: int) -> str:
    """One row a network: means over seeds from the worst case to natural accuracy."""
    bottom = TOP + ROW * len(networks)
    parts = [
        text(0, 16, f"Percent of test images that are classified correctly, mean of {seeds} seeds")
    ]
    for index, (name, colour) in enumerate(SHOWN.values()):
        x = LEFT + 190 * index
        parts += [dot(x, 34, colour), text(x + 10, 38, name, colour=colour)]
    for tick in range(0, MOST + 1, 10):
        parts += [
            line(at(tick), TOP - 8, at(tick), bottom, 0.5),
            text(at(tick), bottom + 16, str(tick), anchor="middle"),
        ]
    for index, (name, measured) in enumerate(networks.items()):
        y = TOP + ROW * (index + 0.5)
        places = {of: at(measured[of][0]) for of in SHOWN}
        parts.append(text(LEFT - 14, y + 4, name, anchor="end"))
        parts.append(line(min(places.values()), y, max(places.values()), y, 2))
        parts += [dot(places[of], y, colour) for of, (_, colour) in SHOWN.items()]
    size = f'width="{at(MOST) + 20:g}" height="{bottom + 24}"'
    style = 'font-family="sans-serif" font-size="12"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{body}\n</svg>\n'


def drawn() -> str:
    """The picture of the study that the README shows."""
    measured = json.loads(STUDY.read_text())["measured"]
    return picture(measured["networks"], len(measured["seeds"]))


if __name__ == "__main__":
    PICTURE.write_text(drawn())
