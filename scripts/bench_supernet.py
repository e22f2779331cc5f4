"""What a sub-network costs within the supernet, against the plain network of its assignment.

    python scripts/bench_supernet.py --space search_spaces/resnet20.yaml --rounds 7

One training step (forward, backward, Adam) of each, in turns within a round. Adam moves every
parameter of the supernet that has a gradient, so the steps do the same work.
"""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bench
import torch
import torch.nn.functional as F

from mbnas import Supernet, extract, load
from mbnas.randomness import seeded


def step(
    module: torch.nn.Module,
    logits: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
) -> Callable[[], None]:
    optimizer = torch.optim.Adam(module.parameters())

    def run() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(logits(x), y))
        optimizer.step()

    return run


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--space", type=Path, default=Path("search_spaces/resnet20.yaml"))
    parser.add_argument("--batch", type=bench.positive, default=128)
    parser.add_argument("--rounds", type=bench.positive, default=7)
    parser.add_argument("--threads", type=bench.positive, default=torch.get_num_threads())
    parser.add_argument("--drawn", type=int, default=3, help="random assignments")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = load(arguments.space)
    space, rng = settings.space, random.Random(0)
    assignments = {"smallest": space.smallest, "largest": space.largest}
    for number in range(arguments.drawn):
        assignments[f"drawn {number + 1}"] = space.decode(
            [rng.randrange(len(choices)) for choices in space.variables]
        )
    with seeded(0):
        supernet = Supernet(settings.table, space).to(arguments.device).train()
        x = torch.rand(arguments.batch, *settings.table.image, device=arguments.device)
        y = torch.randint(settings.table.classes, (arguments.batch,), device=arguments.device)

    cases = {}
    for name, assignment in assignments.items():
        plain = extract(supernet, assignment)
        cases[f"{name} in the supernet"] = step(
            supernet, partial(supernet, assignment=assignment), x, y
        )
        cases[f"{name} alone"] = step(plain, plain, x, y)
    seconds = bench.paired(cases, arguments.rounds)
    measured = {
        name: {
            "cost of the plain network": bench.ratio(
                seconds[f"{name} in the supernet"], seconds[f"{name} alone"]
            ),
            "cost of the smallest": bench.ratio(
                seconds[f"{name} in the supernet"], seconds["smallest in the supernet"]
            ),
        }
        for name in assignments
    }
    bench.show(
        f"{settings.name}: a training step in the supernet, median (least to most)",
        ["sub-network", "times the plain network", "times the smallest"],
        [
            [name, *("{:.2f} ({:.2f}-{:.2f})".format(*each) for each in row.values())]
            for name, row in measured.items()
        ],
    )
    print(bench.keep(f"supernet-{settings.name}-{x.device.type}", measured))


if __name__ == "__main__":
    bench.run(main)
