"""What helps a multi-bit network to learn: the recipe, with one thing changed at a time.

    python scripts/study_recipe.py --data CIFAR_FOLDER --work FOLDER

Trains ResNet-8 on 16x16 CIFAR-10 naturally, once for each variant, format and seed, and measures
the network of the last epoch on the 5,000 validation images; test images choose nothing. ``today``
is what ``mbnas train`` does in float32. Interrupted, it goes on where it stopped; ``--seeds`` and
``--variants`` may be given to several processes.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from unittest import mock

import bench
import study
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mbnas import freeze
from mbnas.data import Data
from mbnas.errors import SettingsError
from mbnas.files import write_atomically, write_json
from mbnas.images import Images
from mbnas.layers import QuantizedConv2d, Rectifier, Unquantized, WeightQuantizer
from mbnas.networks import Network
from mbnas.normalisation import Standard, unchanged
from mbnas.precision import autocast
from mbnas.randomness import derive
from mbnas.settings import Optimizer, Precision, Settings, Surrogate, Training

Teach = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Variant:
    """How a training differs from today's.

    Attributes:
        recipe: values of :class:`mbnas.settings.Recipe`.
        surrogate: derivative of sign that activations are trained through.
        altered: inside, code of mbnas behaves otherwise.
        backbone: values of :class:`mbnas.settings.BackboneSettings`.
        rebuild: changes a fresh network.
        teacher: the variant by which a float network is trained whose logits are learned instead of
            labels.
        staged: the first half of the epochs trains with full-precision weights.
    """

    recipe: Mapping[str, object] = field(default_factory=dict)
    surrogate: Surrogate = Surrogate.STE
    altered: Callable[[], AbstractContextManager[object]] = nullcontext
    backbone: Mapping[str, object] = field(default_factory=dict)
    rebuild: Callable[[Network], object] = id
    teacher: str | None = None
    staged: bool = False


def convolutions(network: Network) -> list[tuple[str, QuantizedConv2d]]:
    """By name."""
    return [
        (k, each) for k, each in network.convolutions.items() if isinstance(each, QuantizedConv2d)
    ]


def weight_bases(network: Network) -> Iterator[WeightQuantizer]:
    """Of each convolution of a multi-bit network.

    Raises:
        SettingsError: if it is of another format.
    """
    for name, layer in convolutions(network):
        if not isinstance(layer.weights, WeightQuantizer):
            raise SettingsError(
                f"{name} has no weight bases, whose scales or thresholds a variant changes; give "
                "--formats mbnMxN only, or --variants without that"
            )
        yield layer.weights


def scales_of_layers(network: Network) -> None:
    """One alpha per base instead of one per base and output channel."""
    for weights in weight_bases(network):
        weights.alpha = nn.Parameter(weights.alpha.detach()[:, :1].clone())


def with_fixed_thresholds(network: Network) -> None:
    """Weights on the grid that they begin with."""
    for weights in weight_bases(network):
        weights.u.requires_grad_(False)


def with_unlimited_weight_bases(network: Network) -> None:
    """Weights in full precision, activations as they are."""
    for _, layer in convolutions(network):
        layer.weights = Unquantized()


def with_unlimited_activation_bases(network: Network) -> None:
    """Activations in full precision, weights as they are."""
    for _, layer in convolutions(network):
        layer.activations = Rectifier()


def cosine(progress: float, peak: float, warmup: float) -> float:
    """Learning rate that falls from its peak along half a period."""
    return peak * (1 + math.cos(math.pi * progress)) / 2


def with_cosine() -> AbstractContextManager[object]:
    return mock.patch("mbnas.training.triangular", cosine)


@contextmanager
def with_sgd() -> Iterator[None]:
    sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
    with mock.patch("torch.optim.Adam", sgd), with_cosine():
        yield


def with_weight_decay() -> AbstractContextManager[object]:
    return mock.patch("torch.optim.Adam", partial(torch.optim.Adam, weight_decay=1e-5))


def with_latent_weights_as_they_are() -> AbstractContextManager[object]:
    return mock.patch("mbnas.layers.of_weight", unchanged)


def of_channel(weight: Tensor) -> Standard:
    """By mean and sample deviation over each output channel (Libra-PB; Qin et al. 2020)."""
    with torch.no_grad():
        deviation, mean = torch.std_mean(weight, dim=(1, 2, 3), keepdim=True)
    one, zero = torch.ones_like(mean), torch.zeros_like(mean)
    return Standard(mean, deviation, one, zero, weight[0].numel() - 1)


def with_each_channel_standardised() -> AbstractContextManager[object]:
    return mock.patch("mbnas.layers.of_weight", of_channel)


def improved(*, teacher: str | None = None, **recipe: object) -> Variant:
    """Learning rate 0.02, PReLU, weights through ``tanh``, averaged shortcuts, and what is said."""
    return Variant(
        {"learning_rate": 2e-2, "weight_surrogate": Surrogate.TANH, **recipe},
        teacher=teacher,
        backbone={"prelu": True, "averaged_shortcuts": True},
    )


by_muon = partial(improved, optimizer=Optimizer.MUON)


VARIANTS = {
    "today": Variant(),
    **{
        f"learning rate {rate:g}": Variant({"learning_rate": rate})
        for rate in (1e-3, 1e-2, 2e-2, 4e-2)
    },
    "cosine schedule": Variant(altered=with_cosine),
    "no gradient clip": Variant({"gradient_clip": 1e9}),
    "batches of 64": Variant({"batch_size": 64}),
    "SGD 0.1, cosine": Variant({"learning_rate": 0.1, "gradient_clip": 1e9}, altered=with_sgd),
    "weight decay 1e-5": Variant(altered=with_weight_decay),
    "activations through polynomial": Variant(surrogate=Surrogate.POLYNOMIAL),
    "activations through tanh": Variant(surrogate=Surrogate.TANH),
    **{
        f"weights through {surrogate}": Variant({"weight_surrogate": surrogate})
        for surrogate in Surrogate
        if surrogate is not Surrogate.STE
    },
    "latent weights not standardised": Variant(altered=with_latent_weights_as_they_are),
    "scales per layer": Variant(rebuild=scales_of_layers),
    "shortcuts around two convolutions": Variant(backbone={"block_shortcuts": True}),
    "PReLU behind convolutions": Variant(backbone={"prelu": True}),
    "two stages": Variant(staged=True),
    "distilled from float": Variant(teacher="today"),
    "bfloat16": Variant({"precision": Precision.BFLOAT16}),
    "learning rate 0.02, distilled": Variant({"learning_rate": 0.02}, teacher="today"),
    "learning rate 0.02, distilled, PReLU": Variant(
        {"learning_rate": 0.02}, teacher="today", backbone={"prelu": True}
    ),
    "learning rate 0.02, distilled, PReLU, weights through tanh": Variant(
        {"learning_rate": 0.02, "weight_surrogate": Surrogate.TANH},
        teacher="today",
        backbone={"prelu": True},
    ),
    "PReLU, tanh, averaged shortcuts": improved(),
    "PReLU, tanh, averaged shortcuts, distilled": improved(teacher="today"),
    "PReLU, tanh, averaged shortcuts, 0.04": improved(learning_rate=4e-2),
    "PReLU, tanh, averaged shortcuts, batches of 64": improved(batch_size=64),
    **{
        f"PReLU, tanh, averaged shortcuts, Muon {rate:g}": by_muon(learning_rate=rate)
        for rate in (2e-2, 4e-2, 8e-2)
    },
    "PReLU, tanh, averaged shortcuts, Muon 0.04, batches of 64": by_muon(
        learning_rate=4e-2, batch_size=64
    ),
    "PReLU, tanh, averaged shortcuts, Muon 0.04, batches of 64, distilled": by_muon(
        learning_rate=4e-2, batch_size=64, teacher="today"
    ),
    "PReLU, tanh, averaged shortcuts, Muon 0.02, distilled from float by Muon": by_muon(
        teacher="Muon 0.02"
    ),
    **{
        f"Muon {rate:g}": Variant({"optimizer": Optimizer.MUON, "learning_rate": rate})
        for rate in (5e-3, 2e-2)
    },
    **{
        f"Muon 0.02, weight decay {decay:g}": Variant(
            {"optimizer": Optimizer.MUON, "learning_rate": 2e-2, "weight_decay": decay}
        )
        for decay in (1e-2, 1e-1)
    },
    "PReLU, tanh, averaged shortcuts, Muon 0.02, weight decay 0.1": by_muon(weight_decay=1e-1),
    "scales at 0.1": Variant({"scale_speed": 0.1}),
    **{
        f"PReLU, tanh, averaged shortcuts, Muon 0.02, scales at {speed:g}": by_muon(
            scale_speed=speed
        )
        for speed in (0.1, 0.3)
    },
    **{
        f"PReLU, {surrogate}, averaged shortcuts, Muon 0.02": by_muon(weight_surrogate=surrogate)
        for surrogate in (Surrogate.STE, Surrogate.WIDE, Surrogate.IDENTITY)
    },
    **{
        f"PReLU, tanh, averaged shortcuts, Muon 0.02, {what} in full precision": replace(
            by_muon(), rebuild=rebuild
        )
        for what, rebuild in (
            ("weights", with_unlimited_weight_bases),
            ("activations", with_unlimited_activation_bases),
        )
    },
    "PReLU, tanh, averaged shortcuts, Muon 0.02, thresholds fixed": replace(
        by_muon(), rebuild=with_fixed_thresholds
    ),
    "PReLU, tanh, averaged shortcuts, Muon 0.02, channels standardised": replace(
        by_muon(),
        altered=with_each_channel_standardised,
    ),
    "PReLU, tanh, averaged shortcuts, Muon 0.02, scales at 0.1, channels standardised": replace(
        by_muon(scale_speed=0.1),
        altered=with_each_channel_standardised,
    ),
}


def learn(
    network: Network,
    variant: Variant,
    settings: Settings,
    data: Data,
    teach: Teach | None,
    seed: int,
    target: Path,
) -> None:
    """Train in place, to the last epoch."""
    recipe = settings.retraining

    def accumulate(x: Tensor, y: Tensor, _: torch.Generator) -> Tensor:
        with autocast(recipe, x.device):
            logits = network(x, variant.surrogate, recipe.weight_surrogate)
        loss = F.cross_entropy(logits, teach(x) if teach else y)
        torch.autograd.backward(loss)
        return loss.detach()

    study.train_to_the_end(network, lambda _: accumulate, settings, data, seed, target)


@torch.no_grad()
def accuracy(network: Network, images: Images) -> float:
    """Percent."""
    right = sum(int((network(x).argmax(1) == y).sum()) for x, y in images.batches(500))
    return 100 * right / len(images)


def changed(settings: Settings, variant: Variant) -> Settings:
    """With the variant's values."""
    recipe = settings.retraining.model_copy(update=variant.recipe)
    backbone = settings.backbone.model_copy(update=variant.backbone)
    return settings.model_copy(update={"retraining": recipe, "backbone": backbone})


def taught_by_float(
    variant: Variant, settings: Settings, data: Data, seed: int, target: Path
) -> Teach:
    """The soft labels of a float network trained by a variant."""
    settings = changed(settings, variant)
    network = study.fresh(settings, data, "float", seed)
    if target.exists():
        network.load_state_dict(torch.load(target, weights_only=True))
    else:
        unfinished = target.with_suffix(".float")
        learn(network, variant, settings, data, None, seed, unfinished)
        write_atomically(target, lambda path: torch.save(network.state_dict(), path))
        unfinished.unlink(missing_ok=True)  # another process may have trained the same
    frozen = freeze(network)

    @torch.no_grad()
    def teach(x: Tensor) -> Tensor:
        logits: Tensor = frozen(x)
        return logits.softmax(dim=1)

    return teach


def shortened(settings: Settings, epochs: int) -> Settings:
    """The same recipe over so many epochs."""
    retraining = settings.retraining.model_copy(update={"epochs": epochs})
    return settings.model_copy(update={"retraining": retraining})


def trained(
    variant: Variant, settings: Settings, data: Data, format_: str, seed: int, target: Path
) -> float:
    """Validation accuracy in percent."""
    purpose = derive(seed, "recipe", format_)
    teach = None
    if variant.teacher:
        file = target.parent / f"float-{variant.teacher.replace(' ', '-')}-{format_}-seed{seed}.pt"
        teach = taught_by_float(VARIANTS[variant.teacher], settings, data, purpose, file)
    settings = changed(settings, variant)
    network = study.fresh(settings, data, format_, purpose)
    variant.rebuild(network)
    with variant.altered():
        if variant.staged:
            half = settings.retraining.epochs // 2
            quantizers = {name: layer.weights for name, layer in convolutions(network)}
            with_unlimited_weight_bases(network)
            first = target.with_suffix(".first")
            learn(network, variant, shortened(settings, half), data, None, purpose, first)
            for name, layer in convolutions(network):
                layer.weights = quantizers[name]
            settings = shortened(settings, settings.retraining.epochs - half)
        learn(network, variant, settings, data, teach, purpose, target)
        return accuracy(network, data.validation)


def require_possible(variants: Sequence[str], formats: Sequence[str], settings: Settings) -> None:
    """Check each variant with each format before anything is trained.

    Raises:
        SettingsError: if one cannot be trained.
    """
    for name, format_ in product(variants, formats):
        VARIANTS[name].rebuild(study.untrained(settings, format_))
        if VARIANTS[name].staged and settings.retraining.epochs < 2:
            raise SettingsError(f"--epochs 1 has no first half for {name!r}; give 2 or more")


def main() -> None:
    parser = study.parser(__doc__, epochs=15, formats=["mbn1x1"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--name", default="resnet8", help="of the result")
    arguments = parser.parse_args()
    settings, data, options = study.begun(
        arguments,
        f"retraining.training={Training.NATURAL}",
        "retraining.teacher=null",
        possible=lambda settings, _: require_possible(
            arguments.variants, arguments.formats, settings
        ),
    )
    found: dict[str, dict[str, list[float]]] = {}
    for seed, format_, name in product(arguments.seeds, arguments.formats, arguments.variants):
        file = arguments.work / f"{name.replace(' ', '-')}-{format_}-seed{seed}.json"
        if not file.exists():
            target = file.with_suffix(".pt")
            write_json(file, trained(VARIANTS[name], settings, data, format_, seed, target))
            for unfinished in (target, target.with_suffix(".first")):
                unfinished.unlink(missing_ok=True)
        percent = json.loads(file.read_text())
        found.setdefault(name, {}).setdefault(format_, []).append(percent)
        print(f"{file.stem}: {percent:.1f} %", flush=True)
    bench.show(
        "natural accuracy on validation images",
        ["", *arguments.formats],
        [
            [name, *(f"{statistics.fmean(each[f]):.1f}" for f in arguments.formats)]
            for name, each in found.items()
        ],
    )
    measured = {
        "seeds": arguments.seeds,
        **options,
        "images": len(data.validation),
        "accuracy": found,
    }
    print(bench.keep(f"recipe-{arguments.name}", measured))


if __name__ == "__main__":
    bench.run(main)
