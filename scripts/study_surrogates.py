"""Does FastAT collapse on multi-bit networks, and does a smooth surrogate cure it?

    python scripts/study_surrogates.py --data CIFAR_FOLDER --work FOLDER

Trains ResNet-8 on 16x16 CIFAR-10, naturally and by FastAT, whose perturbations are made through the
straight-through estimator (``ste``) or another surrogate, for several formats and seeds; then
attacks each network with the paper's PGD-20, with stronger attacks, and with Square, which needs no
gradient. Each network is that of the last epoch: choosing the best would hide a collapse.
Interrupted, it goes on where it stopped; ``--seeds`` may be given to several processes.
"""

import json
import statistics
from itertools import product
from pathlib import Path

import bench
import study
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from mbnas import freeze, square
from mbnas.auditing import Case
from mbnas.data import Data
from mbnas.files import write_atomically, write_json
from mbnas.networks import Network
from mbnas.objectives import network_objective
from mbnas.randomness import derive
from mbnas.settings import Settings, Surrogate, Threat, Training

FORMATS = ("mbn1x1", "mbn3x1", "mbn1x3", "mbn3x3", "float")
TRAININGS = ("ste", "tanh", "natural")
PAPER_NATURAL = Threat(eps=2 / 255, step=0.5 / 255)  # paper, Sec. 4
Row = dict[str, float]


def train(
    settings: Settings, data: Data, format_: str, training: str, seed: int, target: Path
) -> None:
    """Train one network and write its last state to ``target``."""
    natural = training == "natural"
    surrogate = Surrogate.TANH if natural else Surrogate(training)
    threat = settings.threat.model_copy(update={"surrogate": surrogate})
    recipe = settings.retraining.model_copy(
        update={"training": Training.NATURAL if natural else Training.FASTAT}
    )
    settings = settings.model_copy(update={"threat": threat, "retraining": recipe})
    purpose = derive(seed, format_, training)
    network = study.fresh(settings, data, format_, purpose)
    objective = network_objective(network, threat, recipe)
    unfinished = target.with_suffix(".pt")
    study.train_to_the_end(network, objective, settings, data, purpose, unfinished)
    write_atomically(target, lambda path: path.write_bytes(save(network.state_dict())))
    unfinished.unlink()


def attack(case: Case, queries: int) -> Row:
    """Percent of images that stand, attack by attack; ``worst`` stands under all of them."""
    natural = case.natural()
    last, every = case.by_the_paper(20, 0)

    def alone(loss: str, surrogate: Surrogate) -> Tensor:
        return case.standing(case.pgd(loss, surrogate, 20), case.through(surrogate), natural)

    rng = case.rng("square")

    def search(model: object, x: Tensor, y: Tensor) -> Tensor:
        return square(
            case.through(Surrogate.STE), x, y, eps=case.threat.eps, queries=queries, generator=rng
        )

    masks = {
        "natural": natural,
        "PGD-20, ste, last": last,
        "PGD-20, ste, every": every,
        "PGD-20, tanh": alone("cross-entropy", Surrogate.TANH),
        "PGD-20, polynomial": alone("cross-entropy", Surrogate.POLYNOMIAL),
        "margin, tanh": alone("margin", Surrogate.TANH),
        "rescaled, polynomial": alone("rescaled cross-entropy", Surrogate.POLYNOMIAL),
        "Square": case.standing(search, case.through(Surrogate.STE), natural),
    }
    certain = [mask for name, mask in masks.items() if name != "PGD-20, ste, last"]
    masks["worst"] = torch.stack(certain).all(dim=0)
    return {name: 100 * float(mask.float().mean()) for name, mask in masks.items()}


def opened(settings: Settings, format_: str, file: Path) -> Network:
    """A trained network, for attacks."""
    network = study.untrained(settings, format_)
    network.load_state_dict(load_file(file))
    return freeze(network)


def summary(rows: list[Row]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over seeds."""
    return {
        name: (
            statistics.fmean(row[name] for row in rows),
            statistics.stdev(row[name] for row in rows) if len(rows) > 1 else 0.0,
        )
        for name in rows[0]
    }


def main() -> None:
    parser = study.parser(__doc__, epochs=10, formats=FORMATS)
    parser.add_argument(
        "--trainings", nargs="+", default=TRAININGS, choices=["natural", *Surrogate]
    )
    parser.add_argument("--name", default="surrogates", help="of the result")
    parser.add_argument(
        "--images", type=bench.positive, default=500, help="test images under attack"
    )
    parser.add_argument("--queries", type=bench.positive, default=1000, help="of Square")
    arguments = parser.parse_args()
    settings, data, options = study.begun(
        arguments,
        f"retraining.training={Training.FASTAT}",
        f"threat.surrogate={Surrogate.POLYNOMIAL}",
        possible=lambda _, data: bench.first(data.test, arguments.images),
        defaults=["retraining.learning_rate=0.01"],
        images=arguments.images,
        queries=arguments.queries,
    )
    images = bench.first(data.test, arguments.images)
    adversarial = next((each for each in arguments.trainings if each != "natural"), None)
    found: dict[str, list[Row]] = {}
    for seed, training, format_ in product(arguments.seeds, arguments.trainings, arguments.formats):
        if format_ == "float" and training not in ("natural", adversarial):
            continue  # nothing in a float network needs a surrogate: once is enough
        file = arguments.work / f"{training}-{format_}-seed{seed}.safetensors"
        if not file.exists():
            train(settings, data, format_, training, seed, file)
        measured = file.with_suffix(".json")
        if not measured.exists():
            threat = PAPER_NATURAL if training == "natural" else settings.threat
            network = opened(settings, format_, file)
            write_json(measured, attack(Case(network, images, threat, seed), arguments.queries))
        row = json.loads(measured.read_text())
        print(file.stem, {name: round(value, 1) for name, value in row.items()})
        found.setdefault(f"{training} {format_}", []).append(row)
    table = {name: summary(rows) for name, rows in found.items()}
    print(
        bench.keep(
            f"study-{arguments.name}",
            {"seeds": arguments.seeds, **options, "networks": table, "by seed": found},
        )
    )


if __name__ == "__main__":
    bench.run(main)
