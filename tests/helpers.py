"""What several tests share: the smallest run there is, networks and images at random, scores."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from mbnas import config
from mbnas import data as datasets
from mbnas.assignment import Assignment
from mbnas.auditing import PLANS
from mbnas.checkpoints import NETWORK_FILE, save_network
from mbnas.formats import Format
from mbnas.images import Images
from mbnas.networks import build_network
from mbnas.normalisation import Standard
from mbnas.randomness import generator, seeded
from mbnas.search.problem import Trial
from mbnas.settings import Effort, Settings

Module = TypeVar("Module", bound=nn.Module)

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SPACES = ROOT / "search_spaces"
DIGITS = SPACES / "digits.yaml"
TINY = (  # a whole run in seconds
    "backbone.width=2",
    "choices.weight_bases=[1, 2]",
    "choices.activation_bases=[1, 2]",
    "data.validation=20",
    "data.train_images=64",
    "threat.steps=2",
    "supernet.epochs=2",
    "supernet.batch_size=32",
    "supernet.sampled=1",
    "supernet.guard_images=20",
    "supernet.guard_steps=1",
    "search.evaluations=12",
    "search.population=4",
    "search.images=20",
    "search.recalibration_images=32",
    "retraining.epochs=1",
    "retraining.batch_size=32",
    "retraining.guard_images=20",
    "retraining.guard_steps=1",
    "retraining.candidates=1",
    "test.images=20",
    "test.runs=1",
)
SEVERAL = (  # networks of different scores in the Pareto set, and more than one of them retrained
    "threat.eps=0.1",
    "retraining.candidates=2",
)
BRIEF = replace(PLANS[Effort.QUICK], sweep=3, apgd=2, queries=10, curve_images=8)


@cache
def tiny(*overrides: str) -> Settings:
    """Digits, with everything as small as it gets."""
    return config.load(DIGITS, [*TINY, *overrides])


def unchanged() -> Standard:
    """The standardisation that changes nothing."""
    zero, one = torch.zeros(()), torch.ones(())
    return Standard(zero, one, one, zero, None)


def size(assignment: Assignment) -> int:
    """A cost that needs no backbone: the products M * N of all layers."""
    return sum(weights * activations for weights, activations in assignment)


def scored(assignment: Assignment) -> Trial:
    """Made-up scores: many weight bases please one objective, many activation bases another."""
    layers = len(assignment)
    return Trial(
        assignment=assignment,
        bops=size(assignment),
        natural=sum(weights > 1 for weights, _ in assignment) / layers,
        robust=sum(activations > 1 for _, activations in assignment) / layers,
        loss=0.5,
        seconds=0.0,
    )


def noise(count: int, image: tuple[int, int, int], classes: int, seed: int = 0) -> Images:
    """Images without any structure; all classes in turn."""
    pixels = torch.randint(256, (count, *image), generator=generator(seed), dtype=torch.uint8)
    return Images.of(pixels, torch.arange(count) % classes)


def scrambled(build: Callable[[], Module], seed: int = 0) -> Module:
    """What ``build`` makes, with every parameter and batch-norm statistic moved at random."""
    with seeded(seed), torch.no_grad():
        module = build()
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    return module


def quarters(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    """Random multiples of 1/4, which often meet a threshold or the edge of the window exactly."""
    return torch.randint(-8, 9, shape, generator=generator).double() / 4


def sources(page: str) -> list[str]:
    """What an HTML page would fetch from elsewhere."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(f"{tag} {key}" for key, _ in attrs if key in ("src", "href", "srcset"))

    Reader().feed(page)
    return found


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules hold the same tensors, bit for bit."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def saved(folder: Path, text: str, images: Images | None = None) -> Path:
    """A candidate's folder with random weights, for digits unless other images are given."""
    settings = tiny()
    folder.mkdir(parents=True)
    format_ = Format.parse(text, settings.space.layers)
    network = scrambled(lambda: build_network(settings.table, format_))
    digits = datasets.load(settings.data, settings.seed)
    tested = images or digits.test
    save_network(folder / NETWORK_FILE, network, format_, settings, tested, digits.validation)
    return folder
