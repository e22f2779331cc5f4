"""Which attack finds most of what short ones leave, if all may take equally many passes?

    python scripts/study_restarts.py NETWORK [NETWORK ...] --data CIFAR_FOLDER --work FOLDER

A NETWORK is a folder of ``mbnas train``, candidates/<id> of a run, or a file of weights. PGD with
the threat's iterations goes first, on three losses, the same for all. Then each attack on its own
may pass forward and backward 160 times through each image that stands, from other random starts for
each seed. Steps of PGD are those of the threat, all along or annealed; of several losses each start
takes the next one. Interrupted, it goes on where it stopped.
"""

from functools import partial
from pathlib import Path
from typing import Any

import bench
import torch
from torch import Tensor

from mbnas import Surrogate, apgd, freeze, load_network
from mbnas.attacks import Attack
from mbnas.auditing import Case
from mbnas.auditing.case import LOSSES
from mbnas.evaluation import another
from mbnas.journal import Journal
from mbnas.ledger import Ledger

PASSES = 160
CE, MARGIN, RATIO = "cross-entropy", "margin", "logit ratio"
STARTS = {
    CE: [CE],
    MARGIN: [MARGIN],
    "both": [MARGIN, CE],
    "both, two starts each": [MARGIN, CE, MARGIN, CE],
}
ADAPTIVE = {CE: [CE], RATIO: [RATIO], "both": [CE, RATIO]}


def begun(case: Case) -> Tensor:
    """Which images stand what goes first."""
    own, left = case.threat.surrogate, case.natural()
    pairs = ((MARGIN, own), ("rescaled cross-entropy", another(own)), (CE, Surrogate.STE))
    for loss, surrogate in pairs:
        attack = case.pgd(loss, surrogate, case.threat.steps)
        left = case.standing(attack, case.through(surrogate), left)
    return left


def attacks(case: Case, seed: int) -> dict[str, list[Attack]]:
    """What is compared, each a few starts one after another."""

    def started(losses: list[str]) -> list[tuple[str, int, torch.Generator]]:
        steps = PASSES // len(losses)
        return [
            (loss, steps, case.rng("restarts", seed, start)) for start, loss in enumerate(losses)
        ]

    def pgd(losses: list[str], *, annealed: bool) -> list[Attack]:
        return [
            partial(case.pgd(loss, case.threat.surrogate, steps), generator=rng, annealed=annealed)
            for loss, steps, rng in started(losses)
        ]

    def adaptive(losses: list[str]) -> list[Attack]:
        return [
            partial(apgd, eps=case.threat.eps, steps=steps - 1, generator=rng, loss=LOSSES[loss])
            for loss, steps, rng in started(losses)
        ]

    return {
        **{f"PGD, {name}": pgd(losses, annealed=False) for name, losses in STARTS.items()},
        **{f"annealed, {name}": pgd(losses, annealed=True) for name, losses in STARTS.items()},
        **{f"APGD, {name}": adaptive(losses) for name, losses in ADAPTIVE.items()},
    }


def compared(case: Case, seeds: list[int], ledger: Ledger) -> dict[str, Any]:
    """Fractions of the images that stand: at first, and under each attack, one for each seed."""
    first = ledger.mask("at first", partial(begun, case))
    model = case.through(case.threat.surrogate)

    def left(attempts: list[Attack]) -> float:
        standing = first
        for attack in attempts:
            standing = case.standing(attack, model, standing)
        return float(standing.double().mean())

    found: dict[str, list[float]] = {}
    for seed in seeds:
        for name, attempts in attacks(case, seed).items():
            value = ledger.number(f"{name}, seed {seed}", partial(left, attempts))
            found.setdefault(name, []).append(value)
    return {"at first": float(first.double().mean()), "left": found}


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("networks", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, help="where the images are, if not at the usual place")
    parser.add_argument("--work", type=Path, required=True, help="where counts are kept")
    parser.add_argument("--images", type=bench.positive, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--name", default="kept", help="of the result")
    arguments = parser.parse_args()
    if len(arguments.seeds) < 2:
        parser.error("a spread takes two seeds at least")
    names = bench.names_of(arguments.networks, parser)
    arguments.work.mkdir(parents=True, exist_ok=True)
    measured: dict[str, Any] = {}
    for name, path in zip(names, arguments.networks, strict=True):
        network, _, settings = load_network(path)
        images = bench.test_images(path, settings, arguments.data, arguments.images)
        case = Case(freeze(network), images, settings.threat, seed=0)
        decided = {"images": arguments.images, "passes": PASSES}
        journal = Journal(arguments.work / f"{name}.jsonl")
        total = 1 + len(arguments.seeds) * len(attacks(case, 0))
        with bench.ledger(journal, path, decided, total) as ledger:
            measured[name] = compared(case, arguments.seeds, ledger)
    rows = [
        [f"{name}: {attack}", *(f"{100 * value:.1f}" for value in values)]
        for name, each in measured.items()
        for attack, values in each["left"].items()
    ]
    header = ["", *(f"seed {seed}" for seed in arguments.seeds)]
    bench.show("percent of images that stand", header, rows)
    found = {"images": arguments.images, "passes": PASSES, "networks": measured}
    print(bench.keep(f"restarts-{arguments.name}", found))


if __name__ == "__main__":
    bench.run(main)
