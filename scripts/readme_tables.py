"""Print the result tables of the README from finished run folders.

    python scripts/readme_tables.py RUN [RUN ...]

Reads settings.yaml, manifest.json, pareto.json, rescored.jsonl and candidates/*/metrics.json.
"""

import sys
from pathlib import Path
from typing import Any

from mbnas import Assignment, runs
from mbnas.config import Settings
from mbnas.report import short


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def spread(value: dict[str, float]) -> str:
    return f"{percent(value['mean'])} ± {percent(value['std'])}"


def described(settings: Settings, manifest: dict[str, Any]) -> str:
    hardware, versions = manifest["hardware"], manifest["versions"]
    device = hardware["gpu"] or f"{hardware['processor']}, {hardware['cores']} cores"
    return (
        f"{device}; torch {versions['torch']}, python {versions['python']}; "
        f"seed {settings.seed}; budget {settings.search.budget:.3g} BOPS; "
        f"eps {settings.threat.eps:.4g}, step {settings.threat.step:.4g}, "
        f"{settings.threat.steps} steps; scored on {settings.search.images} validation images"
    )


def pareto_rows(folder: runs.RunFolder, layers: int) -> list[list[str]]:
    rescored = {record["id"]: record for record in folder.rescored.read()}
    return [
        [
            row["id"],
            f"{row['bops'] / 1e6:.2f}",
            percent(row["natural"]),
            percent(row["pgd20"]),
            percent(rescored[row["id"]]["pgd20_ste_last"]),
            short(Assignment.parse(row["assignment"], layers)),
        ]
        for row in runs.read_json(folder.pareto_file)
    ]


def retrained_rows(folder: runs.RunFolder) -> list[list[str]]:
    found = [runs.read_json(each) for each in folder.path.glob("candidates/*/metrics.json")]
    return [
        [
            metrics["id"],
            f"{metrics['bops'] / 1e6:.2f}",
            percent(metrics["test"]["natural"]),
            spread(metrics["test"]["attacks"]["tanh_any"]),
            spread(metrics["test"]["attacks"]["ste_last"]),
            "{images} / {attacked} x {runs}".format(**metrics["test"]),
        ]
        for metrics in sorted(found, key=lambda metrics: metrics["bops"])
    ]


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---:"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(paths: list[str]) -> None:
    for path in paths:
        folder = runs.reopen(Path(path))
        settings = folder.settings()
        print(
            f"**{settings.name}** ({described(settings, runs.read_json(folder.manifest_file))})\n"
        )
        print("Pareto set, scored on the supernet, validation images:\n")
        header = ["id", "MBOPS", "natural %", "PGD-20 %", "PGD-20 ste, last %", "assignment"]
        print(table(header, pareto_rows(folder, settings.space.layers)), "\n")
        print("Retrained, test images:\n")
        header = ["id", "MBOPS", "natural %", "PGD-20 %", "PGD-20 ste, last %", "images / attacked"]
        print(table(header, retrained_rows(folder)), "\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
