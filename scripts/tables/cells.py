"""What cells and captions of all tables are made of."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

RESULTS = Path(__file__).parents[1] / "results"
Result = dict[str, Any]


def read(name: str) -> Result:
    result: Result = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


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


def spread(value: dict[str, float]) -> str:
    return f"{percent(value['mean'])} ± {percent(value['std'])}"


def worst(audit: dict[str, Any]) -> str:
    """Per-image worst case of an audit with its 95 % interval, and its verdict."""
    low, high = audit["worst_case"]["interval"]
    accuracy = percent(audit["worst_case"]["accuracy"])
    return f"{accuracy} ({percent(low)}–{percent(high)}) {audit['verdict']}"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def folded(summary: str, *parts: str) -> str:
    """What a page shows once its reader asks for it."""
    return "\n\n".join((f"<details>\n<summary>{summary}</summary>", *parts, "</details>"))


def machine(result: Result) -> str:
    """Where and with what something was measured."""
    hardware, versions = result["hardware"], result["versions"]
    device = hardware["gpu"] or f"{hardware['processor']}, {hardware['cores']} cores"
    software = f"torch {versions['torch']}, Python {versions['python']}"
    return f"{device}; {software}, commit {result['commit']}"


def tau(one: list[float], other: list[float]) -> float:
    """Kendall's, by which two orders agree."""
    return float(kendalltau(one, other).statistic)


def difference(of: list[float], to: list[float]) -> str:
    """Of the means of two independent samples, with its standard error."""
    error = math.hypot(error_of_mean(of), error_of_mean(to))
    return f"{statistics.fmean(of) - statistics.fmean(to):+.1f} ({error:.1f})"


def error_of_mean(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))
