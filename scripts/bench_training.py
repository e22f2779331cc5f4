"""How fast multi-bit networks run and train, against the float network in the same rounds.

    python scripts/bench_training.py --backbone resnet20 --batch 128 --rounds 7

For each MxN: the merged convolution with compiled quantizers (what mbnas runs), the same with
plain tensor operations, and, where asked for, the expanded form with M x N convolutions, and the
convolutions of training steps in bfloat16 (attacks and evaluation never use it). Cases
take turns within a round, and each figure is the ratio to the float network of the same round.
Also: peak memory of a training step, and where the time of one goes.
"""

import argparse
import statistics
from collections.abc import Callable

import bench
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from mbnas import backbones, fgsm, pgd
from mbnas.evaluation import through
from mbnas.formats import Format
from mbnas.networks import Network, build_network, freeze
from mbnas.objectives import without_gradients
from mbnas.precision import autocast, has_bfloat16
from mbnas.progress import log
from mbnas.settings import Precision, Recipe, Surrogate

EPS, FASTAT_STEP, PGD_STEP = 8 / 255, 10 / 255, 2 / 255
IMAGES = {"resnet20": (3, 32, 32), "resnet18": (3, 224, 224)}
WIDTHS = {"resnet20": 16, "resnet18": 64}


def phases(
    network: Network, x: torch.Tensor, y: torch.Tensor, precision: Precision
) -> dict[str, Callable[[], object]]:
    """One call each of what a run spends its time on; what it measures is frozen."""
    optimizer = torch.optim.Adam(network.parameters())
    recipe = Recipe(epochs=1, precision=precision)
    frozen, rng = freeze(network), torch.Generator()
    for layer in frozen.convolutions.values():
        if isinstance(layer, bench.ExpandedConv2d):
            layer.freeze()

    def learn(images: torch.Tensor) -> None:
        optimizer.zero_grad()
        with autocast(recipe, x.device):
            logits = network(images)
        torch.autograd.backward(F.cross_entropy(logits, y))
        optimizer.step()

    def forward() -> None:
        with torch.no_grad():
            frozen(x)

    def train() -> None:
        learn(x)

    def fastat() -> None:
        with without_gradients(network):
            perturbed = fgsm(
                through(network, Surrogate.POLYNOMIAL),
                x,
                y,
                eps=EPS,
                step=FASTAT_STEP,
                generator=rng,
            )
        learn(perturbed)

    def attack() -> None:
        pgd(
            through(frozen, Surrogate.POLYNOMIAL),
            x,
            y,
            eps=EPS,
            step=PGD_STEP,
            steps=1,
            generator=rng,
            stop_when_broken=False,
        )

    return {"forward": forward, "training step": train, "FastAT step": fastat, "PGD step": attack}


def profiled(step: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Which share of the time of a training step each operation takes, longest first."""
    cuda = device.type == "cuda"
    step()
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as record:
        for _ in range(5):
            step()
    taken = {
        row.key: row.self_device_time_total if cuda else row.self_cpu_time_total
        for row in record.key_averages()
    }
    total = sum(taken.values())
    ranked = sorted(taken.items(), key=lambda each: -each[1])
    return {operation: each / total for operation, each in ranked}


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = bench.parser(__doc__)
    parser.add_argument("--backbone", choices=sorted(IMAGES), default="resnet20")
    parser.add_argument("--batch", type=bench.positive, default=128)
    parser.add_argument("--rounds", type=bench.positive, default=7)
    parser.add_argument("--threads", type=bench.positive, default=torch.get_num_threads())
    parser.add_argument("--bases", nargs="+", default=["1x1", "3x1", "1x3", "3x3", "5x5", "7x7"])
    parser.add_argument(
        "--expanded", nargs="*", default=["3x1", "1x3", "3x3"], help="also in expanded form"
    )
    parser.add_argument("--bfloat16", nargs="*", default=["float", "3x3"], help="also in it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--profile", nargs="*", help="(default: of float, 3x3 and 3x3 plain)")
    arguments = parser.parse_args()
    known = {"float", *arguments.bases, *(f"{each} plain" for each in arguments.bases)}
    if arguments.profile is None:
        arguments.profile = [each for each in ("float", "3x3", "3x3 plain") if each in known]
    if not known.issuperset(arguments.profile):
        parser.error(f"--profile takes some of {', '.join(sorted(known))}")
    return arguments


def main() -> None:
    arguments = options()
    torch.set_num_threads(arguments.threads)
    image, width = IMAGES[arguments.backbone], WIDTHS[arguments.backbone]
    table = backbones.build(arguments.backbone, width=width, image=image, classes=10)
    x = torch.rand(arguments.batch, *image, device=arguments.device)
    y = torch.randint(10, (arguments.batch,), device=arguments.device)

    def fresh(format_: str) -> Network:
        torch.manual_seed(0)
        return build_network(table, Format.parse(format_, len(table.searchable)))

    variants = {"float": (fresh("float"), bench.compiled)}
    for bases in arguments.bases:
        format_ = f"mbn{bases}"
        variants[bases] = (fresh(format_), bench.compiled)
        variants[f"{bases} plain"] = (fresh(format_), bench.plain)
        if bases in arguments.expanded:
            variants[f"{bases} expanded"] = (bench.expanded(fresh(format_)), bench.compiled)
            variants[f"{bases} expanded plain"] = (bench.expanded(fresh(format_)), bench.plain)

    calls = {
        name: phases(network.to(x.device), x, y, Precision.FLOAT32)
        for name, (network, _) in variants.items()
    }
    if arguments.bfloat16 and not has_bfloat16(x.device):
        log.warning("this processor does not multiply bfloat16 natively: nothing is timed in it")
        arguments.bfloat16 = []
    for format_ in arguments.bfloat16:
        name = f"{format_} bfloat16"
        variants[name] = (fresh(format_ if format_ == "float" else f"mbn{format_}"), bench.compiled)
        calls[name] = phases(variants[name][0].to(x.device), x, y, Precision.BFLOAT16)

    measured: dict[str, dict[str, list[float]]] = {name: {} for name in variants}
    for phase in calls["float"]:

        def within(name: str, phase: str = phase) -> Callable[[], None]:
            def run() -> None:
                with variants[name][1]():
                    calls[name][phase]()

            return run

        seconds = bench.paired({name: within(name) for name in variants}, arguments.rounds)
        for name, each in seconds.items():
            measured[name][phase] = list(bench.ratio(seconds["float"], each))
        measured["float"][f"{phase}: images/s"] = [
            arguments.batch / statistics.median(seconds["float"])
        ]
    for name, (_, context) in variants.items():
        with context():
            peak = bench.peak_memory(calls[name]["training step"], x.device)
        measured[name]["peak MiB"] = [peak / 2**20]

    shares: dict[str, dict[str, float]] = {}
    for name in arguments.profile:
        with variants[name][1]():
            shares[name] = profiled(calls[name]["training step"], x.device)

    names = list(calls["float"])
    base = measured["float"]["peak MiB"][0]
    bench.show(
        f"{arguments.backbone}, batch {arguments.batch}: speed as a multiple of the float "
        "network's, median (least to most); peak memory likewise",
        ["", *names, "memory"],
        [
            [
                name,
                *("{:.2f} ({:.2f}-{:.2f})".format(*measured[name][phase]) for phase in names),
                f"{measured[name]['peak MiB'][0] / base:.2f}",
            ]
            for name in variants
        ],
    )
    for name, of_step in shares.items():
        bench.show(
            f"where a training step of {name} spends its time",
            ["operation", "%"],
            [[operation, f"{100 * share:.1f}"] for operation, share in list(of_step.items())[:8]],
        )
    result = {"speed": measured, "shares of a training step": shares}
    print(bench.keep(f"training-{arguments.backbone}-{x.device.type}", result))


if __name__ == "__main__":
    bench.run(main)
