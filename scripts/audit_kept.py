"""What is left of trained networks when all are audited by the same code?

    python scripts/audit_kept.py scripts/results/paper-resnet20-mbn3x1-taught-cpu.safetensors \\
        --data CIFAR_FOLDER --work FOLDER

Worst cases of results that were measured at different commits compare but roughly, since audits
grow better. Each network is a file of weights, such as those kept beside results; audits and their
pages are kept in the work folder, which serves one version of mbnas. Interrupted, it goes on where
it stopped.
"""

import shutil
from pathlib import Path
from typing import Any

import bench

from mbnas import Effort
from mbnas.checkpoints import NETWORK_FILE, load_network
from mbnas.errors import SettingsError
from mbnas.files import write_text
from mbnas.inspection import audit_checkpoint

ROW = ("threat", "images", "natural", "paper", "worst_case", "standing_after", "verdict")


def require_own(work: Path) -> None:
    """Check that audits in the folder are by the code that runs: finished ones are only read.

    Raises:
        SettingsError: if they are not.
    """
    file = work / "mbnas.txt"
    work.mkdir(parents=True, exist_ok=True)
    if not any(work.iterdir()):
        write_text(file, bench.LIBRARY)
    began = file.read_text() if file.exists() else "something else"
    if began != bench.LIBRARY:
        raise SettingsError(
            f"{str(work)!r} was begun by {began}, and mbnas was changed last by {bench.LIBRARY}; "
            "choose another --work to audit all by the same code"
        )


def audited(weights: Path, folder: Path, effort: Effort, data: Path | None) -> dict[str, Any]:
    """One row; accuracies are fractions of test images."""
    _, _, settings = load_network(weights)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, folder / NETWORK_FILE)
    found = audit_checkpoint(folder, effort, bench.images_in(data))
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
    parser.add_argument("--effort", type=Effort, choices=list(Effort), default=Effort.QUICK)
    parser.add_argument("--name", default="kept", help="of the result")
    arguments = parser.parse_args()
    stems = [each.stem for each in arguments.weights]
    if len(set(stems)) < len(stems):
        parser.error(f"audits are kept by the names of files, which are not all different: {stems}")
    require_own(arguments.work)
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
