"""PGD-20 against three libraries: same network, images, eps, step, steps and threads, in turns.

    pip install torchattacks foolbox "setuptools<81" && pip install --no-build-isolation adv-lib
    python scripts/bench_attacks.py --data CIFAR_FOLDER

Trains a float ResNet-20 and its 3x3 multi-bit twin by FastAT for a few epochs, freezes both, and
attacks both with everyone's PGD-20, from a new random start each round: robust accuracy is a mean
over all rounds. What makes the difference is taken away one by one.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import bench
import torch
from torch import Tensor

from mbnas import Effort, audit, freeze, load, measure, pgd, recalibrate
from mbnas import data as datasets
from mbnas.attacks import right
from mbnas.auditing import PLANS
from mbnas.data import Data
from mbnas.evaluation import guard_stages
from mbnas.formats import Format
from mbnas.images import Images
from mbnas.journal import Journal
from mbnas.networks import Network, build_network
from mbnas.objectives import network_objective
from mbnas.randomness import generator, seeded
from mbnas.settings import Recipe, Settings
from mbnas.training import fit

SPACE = Path("search_spaces/resnet20.yaml")
Robust = Callable[[], float]


def trained(network: Network, settings: Settings, data: Data, recipe: Recipe) -> Network:
    """By FastAT, in the state of the epoch that training keeps."""
    network.standardise_by(*data.statistics())
    held_out = data.validation.first(recipe.guard_images)
    guarding = guard_stages(settings.threat, 5)
    with tempfile.TemporaryDirectory() as folder:
        fit(
            network,
            network_objective(network, settings.threat, recipe),
            guard=lambda: measure(
                network.eval(), held_out, settings.threat, generator(0, "guard"), guarding
            ),
            train=data.train,
            settings=settings,
            recipe=recipe,
            learned_from={},
            title="training",
            seed=0,
            checkpoint=Path(folder) / "training.pt",
        )
    return network


def contenders(network: Network, images: Images, settings: Settings) -> dict[str, Robust]:
    """Robust accuracy of a frozen network by each implementation, with new starts in each call.

    None is given images that are misclassified as they are: they count as lost everywhere.
    """
    bench.repair_torchvision()
    import foolbox  # noqa: PLC0415 (needs torchvision as repaired above)
    import torchattacks  # noqa: PLC0415
    from adv_lib.attacks import pgd_linf  # noqa: PLC0415

    threat = settings.threat
    module = bench.SeenThrough(network, threat.surrogate).eval()
    eps, step, steps = threat.eps, threat.step, threat.steps
    batches = list(images.batches(128))
    ours, undropped = torch.Generator(), torch.Generator()

    @torch.no_grad()
    def stands(x: Tensor, y: Tensor) -> Tensor:
        return right(module(x), y)

    def by(attack: Callable[[Tensor, Tensor], Tensor]) -> Robust:
        def robust() -> float:
            count = 0
            for x, y in batches:
                intact = stands(x, y)
                count += int(stands(attack(x[intact], y[intact]), y[intact]).sum())
            return count / len(images)

        return robust

    fool = foolbox.PyTorchModel(module, bounds=(0, 1))
    linf = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=steps)
    return {
        "mbnas": lambda: measure(network, images, threat, ours).robust,
        "mbnas, dropping none on the way": by(
            lambda x, y: pgd(
                module,
                x,
                y,
                eps=eps,
                step=step,
                steps=steps,
                generator=undropped,
                stop_when_broken=False,
            )
        ),
        "torchattacks": by(torchattacks.PGD(module, eps=eps, alpha=step, steps=steps)),
        "foolbox": by(lambda x, y: linf(fool, x, y, epsilons=eps)[1]),
        "adversarial-library": by(
            lambda x, y: pgd_linf(
                module, x, y, ε=eps, steps=steps, absolute_step_size=step, random_init=True
            )
        ),
    }


def plainly(robust: Robust) -> Robust:
    """The same without compiled quantizers, batch-norm on its own."""

    def run() -> float:
        with bench.plain():
            return robust()

    return run


def note(robust: Robust, found: list[float]) -> None:
    """Append what one call finds."""
    found.append(robust())


def audit_seconds(network: Network, data: Data, settings: Settings) -> float:
    """How long ``mbnas audit --effort quick`` attacks a frozen network."""
    plan = PLANS[Effort.QUICK]
    images = data.test.first(plan.images)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal")
        audit(network, images, settings.threat, plan, seed=0, journal=journal)
    return time.perf_counter() - started


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train-images", type=bench.positive, default=10_000)
    parser.add_argument("--epochs", type=bench.positive, default=6)
    parser.add_argument("--images", type=bench.positive, default=256)
    parser.add_argument("--rounds", type=bench.positive, default=7)
    parser.add_argument("--threads", type=bench.positive, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    changes = [
        *bench.images_in(arguments.data),
        f"data.train_images={arguments.train_images}",
    ]
    settings = load(SPACE, changes)
    data = datasets.load(settings.data, seed=0)
    recipe = settings.retraining.model_copy(
        update={"epochs": arguments.epochs, "guard_images": 128}
    )
    images = bench.first(data.validation, arguments.images)
    measured: dict[str, Any] = {}
    with seeded(0):
        twins = {
            name: build_network(settings.table, Format.parse(name, settings.space.layers))
            for name in ("float", "mbn3x3")
        }
    for name, network in twins.items():
        trained(network, settings, data, recipe)
        recalibrate(network, data.train.first(512))
        frozen = freeze(network)
        cases = contenders(frozen, images, settings)
        if name != "float":
            merging = contenders(network.eval().requires_grad_(False), images, settings)
            cases["mbnas, merging weights in every pass"] = merging["mbnas"]
            cases["mbnas, quantizers as tensor operations"] = plainly(cases["mbnas"])
        found: dict[str, list[float]] = {case: [] for case in cases}
        seconds = bench.paired(
            {case: partial(note, run, found[case]) for case, run in cases.items()},
            arguments.rounds,
        )
        natural = measure(frozen, images, settings.threat, torch.Generator()).natural
        measured[name] = {
            "natural": natural,
            "seconds of a quick audit": audit_seconds(frozen, data, settings),
            "cases": {
                case: {
                    "robust": {
                        "mean": statistics.fmean(found[case]),
                        "std": statistics.stdev(found[case]),
                        "runs": len(found[case]),
                    },
                    "images/s": arguments.images / min(seconds[case]),
                    "mbnas is times as fast": bench.ratio(seconds[case], seconds["mbnas"]),
                }
                for case in cases
            },
        }
        bench.show(
            f"PGD-20 on a {name} ResNet-20 with {natural:.1%} natural accuracy",
            ["", "robust %", "images/s", "mbnas is times as fast"],
            [
                [
                    case,
                    "{:.1f} ± {:.1f}".format(*(100 * each["robust"][k] for k in ("mean", "std"))),
                    f"{each['images/s']:.1f}",
                    "{:.2f} ({:.2f}-{:.2f})".format(*each["mbnas is times as fast"]),
                ]
                for case, each in measured[name]["cases"].items()
            ],
        )
    print(bench.keep("attacks-resnet20-cpu", measured))


if __name__ == "__main__":
    bench.run(main)
