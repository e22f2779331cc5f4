"""What is trained in the tests of objectives and of the training loop."""

from itertools import islice

from helpers import noise, scrambled, tiny
from torch import Tensor, nn

from mbnas import backbones
from mbnas.assignment import Assignment, Space
from mbnas.networks import Network, multibit
from mbnas.objectives import (
    fair_assignments,
)
from mbnas.randomness import derive
from mbnas.settings import Precision, SupernetRecipe, Threat, Training
from mbnas.supernet import Supernet

TABLE = backbones.build("resnet8", width=2, image=(1, 8, 8), classes=3)
SPACE = Space((1, 2, 3, 4, 5), (1, 2, 3, 4, 5), len(TABLE.searchable))
MIXED = Assignment.parse("2x1,1x2,3x1,1x1,2x2,1x3", SPACE.layers)
IMAGES = noise(16, TABLE.image, TABLE.classes)
X, Y = IMAGES.gather(slice(None))
THREAT = Threat(eps=0.1, step=0.02)
NATURAL = SupernetRecipe(
    epochs=4,
    batch_size=8,
    learning_rate=0.01,
    sampled=2,
    precision=Precision.FLOAT32,  # alike on every processor
)
FASTAT = NATURAL.model_copy(update={"training": Training.FASTAT, "step": 0.125})
SEED = 5
CHANGES = ("data.shift=1", "data.flip=true", "data.validation=256")
SETTINGS = tiny(*CHANGES)
Passes = list[tuple[Tensor, tuple[object, ...]]]


def network() -> Network:
    return scrambled(lambda: multibit(TABLE, MIXED))


def supernet() -> Supernet:
    return scrambled(lambda: Supernet(TABLE, SPACE))


def sampled(count: int, epoch: int = 1) -> list[Assignment]:
    """The first fair-sampled sub-networks of an epoch."""
    return list(islice(fair_assignments(SPACE, derive(SEED, "fair", epoch)), count))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = ((name, parameter.grad) for name, parameter in module.named_parameters())
    return {name: gradient for name, gradient in found if gradient is not None}
