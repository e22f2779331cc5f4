"""What is left of trained networks when all are audited by the same code?

    python scripts/audit_kept.py scripts/results/paper-resnet20-mbn3x1-taught-cpu.safetensors \\
        --data CIFAR_FOLDER --work FOLDER

Worst cases of results that were measured at different commits compare but roughly, since audits
grow better. Each network is a file of weights, such as those kept beside results; audits and their
pages are kept in the work folder; those by another version of the attacks are refused. Interrupted,
it goes on where it stopped.
"""

import shutil
from pathlib import Path
from typing import Any

import bench

from mbnas import Effort
from mbnas.checkpoints import NETWORK_FILE, load_network

ROW = ("threat", "images", "natural", "paper", "worst_case", "standing_after", "verdict")


def audited(weights: Path, folder: Path, effort: Effort, data: Path | None) -> dict[str, Any]:
    """One row; accuracies are fractions of test images."""
    _, _, settings = load_network(weights)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, folder / NETWORK_FILE)
    found = bench.audited(folder, effort, bench.images_in(data))
    return {
        "network": weights.stem.removeprefix("paper-"),
        "training": settings.retraining.training,
        "seed": settings.seed,
        **{key: found[key] for key in ROW},
    }


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, help="where the images are, if not at the usual place")
    parser.add_argument("--work", type=Path, required=True, help="where audits are kept")
    bench.add_effort(parser)
    parser.add_argument("--name", default="kept", help="of the result")
    arguments = parser.parse_args()
    stems = [each.stem for each in arguments.weights]
    if len(set(stems)) < len(stems):
        parser.error(f"audits are kept by the names of files, which are not all different: {stems}")
    effort, data = arguments.effort, arguments.data
    rows = [audited(each, arguments.work / each.stem, effort, data) for each in arguments.weights]
    bench.show(
        f"{effort} audits, percent of test images",
        ["network", "natural", "worst case", "verdict"],
        [
            [
                row["network"],
                *(f"{100 * row[key]['accuracy']:.1f}" for key in ("natural", "worst_case")),
                row["verdict"],
            ]
            for row in rows
        ],
    )
    print(bench.keep(f"audits-{arguments.name}", {"effort": effort, "networks": rows}))


if __name__ == "__main__":
    bench.run(main)
