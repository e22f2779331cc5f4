"""Do our attacks find what two independent libraries find, with the same budget?

    pip install torchattacks pyautoattack
    python scripts/check_attacks.py NETWORK [NETWORK ...] --data CIFAR_FOLDER

Each network is one of ``mbnas train``. PGD-20 (last iterate) is compared with torchattacks, APGD on
cross-entropy, targeted APGD and Square with pyautoattack, all through the polynomial surrogate and
on the same test images. Starts are random everywhere, hence several runs; Square is random to the
end, hence more of them. The library's squares never lie at the last place where they fit, its upper
bound being exclusive; it is asked a second time with that mended.
"""

import statistics
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import bench
import torch
from torch import Tensor, nn

from mbnas import Surrogate, Threat, apgd, freeze, load_network, pgd, square
from mbnas.attacks import apgd_targeted, broken
from mbnas.randomness import generator

Perturb = Callable[[Tensor, Tensor, int], Tensor]
"""Images, labels and a seed to adversarial images."""
RESTARTS, STEPS, QUERIES, TARGETS = 1, 50, 500, 2


class Pair(NamedTuple):
    """Two implementations of one attack, and from how many seeds each is tried."""

    ours: Perturb
    theirs: Perturb
    runs: int


def pairs(model: nn.Module, threat: Threat, runs: int, square_runs: int) -> dict[str, Pair]:
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
    our_square = ours(partial(square, queries=QUERIES))
    return {
        f"PGD-{steps}": Pair(
            ours(partial(pgd, step=step, steps=steps, stop_when_broken=False)),
            theirs(torchattacks.PGD(model, eps=eps, alpha=step, steps=steps)),
            runs,
        ),
        f"APGD-{STEPS}, cross-entropy": Pair(
            ours(partial(apgd, steps=STEPS)),
            seeded(APGDAttack, n_iter=STEPS, norm="Linf", loss="ce"),
            runs,
        ),
        f"APGD-{STEPS}, {TARGETS} targets": Pair(
            ours(partial(apgd_targeted, steps=STEPS, targets=TARGETS)),
            seeded(APGDAttack_targeted, n_iter=STEPS, norm="Linf", n_target_classes=TARGETS),
            runs,
        ),
        f"Square-{QUERIES}": Pair(
            our_square,
            seeded(SquareAttack, n_queries=QUERIES, norm="Linf"),
            square_runs,
        ),
        f"Square-{QUERIES}, squares everywhere": Pair(
            our_square,
            seeded(Everywhere, n_queries=QUERIES, norm="Linf"),
            square_runs,
        ),
    }


def robust(model: nn.Module, x: Tensor, y: Tensor, perturb: Perturb, seed: int) -> float:
    """Percent of images that stand."""
    standing = ~broken(model, x, y)
    for part in torch.split(standing.nonzero()[:, 0], 250):
        standing[part] = ~broken(model, perturb(x[part], y[part], seed), y[part])
    return 100 * standing.float().mean().item()


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("networks", type=Path, nargs="+")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=bench.positive, default=1000)
    parser.add_argument("--runs", type=bench.positive, default=3)
    parser.add_argument("--square-runs", type=bench.positive, default=16)
    parser.add_argument("--threads", type=bench.positive, default=torch.get_num_threads())
    parser.add_argument("--name", default="resnet8", help="of the result")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if min(arguments.runs, arguments.square_runs) < 2:
        parser.error("a spread takes two runs at least")
    measured: dict[str, object] = {"images": arguments.images}
    rows = []
    loaded = [load_network(path) for path in arguments.networks]
    formats = [str(format_) for _, format_, _ in loaded]
    if len(set(formats)) < len(formats):
        parser.error(f"results are named by format, and these are not all different: {formats}")
    for path, (network, format_, settings) in zip(arguments.networks, loaded, strict=True):
        images = bench.test_images(path, settings, arguments.data, arguments.images)
        x, y = images.gather(slice(None))
        model = bench.SeenThrough(freeze(network), Surrogate.POLYNOMIAL).eval()
        tried = cache(partial(robust, model, x, y))  # our Square is compared twice
        compared = pairs(model, settings.threat, arguments.runs, arguments.square_runs)
        for name, pair in compared.items():
            mine, others = (
                [tried(perturb, seed) for seed in range(pair.runs)]
                for perturb in (pair.ours, pair.theirs)
            )
            apart = statistics.fmean(mine) - statistics.fmean(others)
            measured[f"{format_}, {name}"] = {"mbnas": mine, "library": others, "apart": apart}
            shown = (
                f"{statistics.fmean(runs):.2f} ± {statistics.stdev(runs):.2f}"
                for runs in (mine, others)
            )
            rows.append([f"{format_}, {name}", *shown, f"{apart:+.2f}"])
            print(*rows[-1], sep="  ", flush=True)
    bench.show("percent robust", ["", "mbnas", "library", "apart"], rows)
    print(bench.keep(f"agreement-{arguments.name}", measured))


if __name__ == "__main__":
    bench.run(main)
