"""Do our attacks find what two independent libraries find, with the same budget?

    pip install torchattacks pyautoattack
    python scripts/check_attacks.py NETWORK [NETWORK ...] --data CIFAR_FOLDER --work FOLDER

Each network is one of ``mbnas train``. PGD-20 (last iterate) is compared with torchattacks, APGD on
cross-entropy, targeted APGD and Square with pyautoattack, all through the polynomial surrogate and
on the same test images. Starts are random everywhere, hence several runs; Square is random to the
end, hence more of them. The library's squares never lie at the last place where they fit, its upper
bound being exclusive; it is asked a second time with that mended. Interrupted, it goes on where it
stopped.
"""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import bench
import torch
from torch import Tensor, nn

from mbnas import Surrogate, Threat, apgd, freeze, load_network, pgd, square
from mbnas.attacks import apgd_targeted, broken
from mbnas.images import Images
from mbnas.journal import Journal
from mbnas.ledger import Ledger
from mbnas.randomness import generator

Perturb = Callable[[Tensor, Tensor, int], Tensor]
"""Images, labels and a seed to adversarial images."""
RESTARTS, STEPS, QUERIES, TARGETS = 1, 50, 500, 2


class Compared(NamedTuple):
    """Implementations of one attack, and from how many seeds each is tried."""

    ours: Perturb
    theirs: dict[str, Perturb]
    """As the library does it, then changed as the name says."""
    runs: int


def attacks(model: nn.Module, threat: Threat, runs: int, square_runs: int) -> dict[str, Compared]:
    """All that is compared."""
    bench.repair_torchvision()
    import torchattacks  # noqa: PLC0415 (needs torchvision as repaired above)
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted  # noqa: PLC0415
    from pyautoattack.square import SquareAttack  # noqa: PLC0415

    class Everywhere(SquareAttack):  # type: ignore[misc]  # untyped
        def random_int(self, low: int = 0, high: int = 1, shape: tuple[int, ...] = (1,)) -> Tensor:
            places: Tensor = super().random_int(low, high + 1, shape)
            return places

    eps = threat.eps

    def ours(attack: Callable[..., Tensor]) -> Perturb:
        return lambda x, y, seed: attack(model, x, y, eps=eps, generator=generator(seed))

    def theirs(attack: Callable[..., Tensor]) -> Perturb:
        def perturb(x: Tensor, y: Tensor, seed: int) -> Tensor:
            torch.manual_seed(seed)
            return attack(x, y)

        return perturb

    def seeded(kind: Callable[..., Any], **options: object) -> Perturb:
        def perturb(x: Tensor, y: Tensor, seed: int) -> Tensor:
            attack = kind(
                model, eps=eps, n_restarts=RESTARTS, seed=seed, device=x.device, **options
            )
            found: Tensor = attack.perturb(x, y)
            return found

        return perturb

    step, steps = threat.step, threat.steps
    return {
        f"PGD-{steps}": Compared(
            ours(partial(pgd, step=step, steps=steps, stop_when_broken=False)),
            {"": theirs(torchattacks.PGD(model, eps=eps, alpha=step, steps=steps))},
            runs,
        ),
        f"APGD-{STEPS}, cross-entropy": Compared(
            ours(partial(apgd, steps=STEPS)),
            {"": seeded(APGDAttack, n_iter=STEPS, norm="Linf", loss="ce")},
            runs,
        ),
        f"APGD-{STEPS}, {TARGETS} targets": Compared(
            ours(partial(apgd_targeted, steps=STEPS, targets=TARGETS)),
            {"": seeded(APGDAttack_targeted, n_iter=STEPS, norm="Linf", n_target_classes=TARGETS)},
            runs,
        ),
        f"Square-{QUERIES}": Compared(
            ours(partial(square, queries=QUERIES)),
            {
                "": seeded(SquareAttack, n_queries=QUERIES, norm="Linf"),
                ", squares everywhere": seeded(Everywhere, n_queries=QUERIES, norm="Linf"),
            },
            square_runs,
        ),
    }


def robust(model: nn.Module, x: Tensor, y: Tensor, perturb: Perturb, seed: int) -> float:
    """Percent of images that stand."""
    standing = ~broken(model, x, y)
    for part in torch.split(standing.nonzero()[:, 0], 250):
        standing[part] = ~broken(model, perturb(x[part], y[part], seed), y[part])
    return 100 * standing.float().mean().item()


def agreement(
    compared: dict[str, Compared], model: nn.Module, images: Images, ledger: Ledger
) -> dict[str, Any]:
    """Percent of images that stand, by ours and by each other implementation, one for each seed."""
    x, y = images.gather(slice(None))

    def standing(attempt: str, perturb: Perturb, runs: int) -> list[float]:
        return [
            ledger.number(f"{attempt}, seed {seed}", partial(robust, model, x, y, perturb, seed))
            for seed in range(runs)
        ]

    found = {}
    for name, (ours, others, runs) in compared.items():
        mine = standing(f"mbnas, {name}", ours, runs)
        for change, other in others.items():
            theirs = standing(f"library, {name}{change}", other, runs)
            apart = statistics.fmean(mine) - statistics.fmean(theirs)
            found[name + change] = {"mbnas": mine, "library": theirs, "apart": apart}
    return found


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("networks", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, help="where the images are, if not at the usual place")
    parser.add_argument("--work", type=Path, required=True, help="where counts are kept")
    parser.add_argument("--images", type=bench.positive, default=1000)
    parser.add_argument("--runs", type=bench.positive, default=3)
    parser.add_argument("--square-runs", type=bench.positive, default=16)
    parser.add_argument("--threads", type=bench.positive, default=torch.get_num_threads())
    parser.add_argument("--name", default="resnet8", help="of the result")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if min(arguments.runs, arguments.square_runs) < 2:
        parser.error("a spread takes two runs at least")
    loaded = [load_network(path) for path in arguments.networks]
    formats = [str(format_) for _, format_, _ in loaded]
    if len(set(formats)) < len(formats):
        parser.error(f"results are named by format, and these are not all different: {formats}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    measured: dict[str, Any] = {}
    for path, (network, format_, settings) in zip(arguments.networks, loaded, strict=True):
        images = bench.test_images(path, settings, arguments.data, arguments.images)
        model = bench.SeenThrough(freeze(network), Surrogate.POLYNOMIAL).eval()
        compared = attacks(model, settings.threat, arguments.runs, arguments.square_runs)
        decided = {"images": arguments.images}
        journal = Journal(arguments.work / f"{format_}.jsonl")
        total = sum(each.runs * (1 + len(each.theirs)) for each in compared.values())
        with bench.ledger(journal, path, decided, total) as ledger:
            found = agreement(compared, model, images, ledger)
        measured |= {f"{format_}, {name}": each for name, each in found.items()}
    rows = [
        [
            name,
            *(
                f"{statistics.fmean(each[who]):.2f} ± {statistics.stdev(each[who]):.2f}"
                for who in ("mbnas", "library")
            ),
            f"{each['apart']:+.2f}",
        ]
        for name, each in measured.items()
    ]
    bench.show("percent robust", ["", "mbnas", "library", "apart"], rows)
    found = {"images": arguments.images, **measured}
    print(bench.keep(f"agreement-{arguments.name}", found))


if __name__ == "__main__":
    bench.run(main)
