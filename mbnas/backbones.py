"""A backbone is a table: one row per convolution, from which cost, space and network are read.

Adding a backbone is adding a function that returns its rows, and its name to ``NAMES`` and
``build``.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from mbnas.errors import SettingsError

Role = Literal["stem", "main", "shortcut", "classifier"]
CIFAR_DEPTHS = (8, 14, 20, 32, 44, 56, 110)
NAMES = (*(f"resnet{depth}" for depth in CIFAR_DEPTHS), "resnet18")


@dataclass(frozen=True)
class Row:
    """One convolution; the classifier is the 1x1 convolution of a 1x1 image.

    Attributes:
        name: unique in its table, also the name of the layer in weight files.
        role: ``stem`` and ``classifier`` keep full precision; ``main`` convolutions form the
            residual branches; ``shortcut`` convolutions replace a parameter-free shortcut.
        block: main and shortcut rows of one number form one residual block.
        size: side of the (square) output in pixels.
    """

    name: str
    role: Role
    block: int
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    size: int

    @property
    def searchable(self) -> bool:
        """Whether the layer is multi-bit; the others are full precision."""
        return self.role in ("main", "shortcut")

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one image."""
        return self.size**2 * self.kernel**2 * self.in_channels * self.out_channels


@dataclass(frozen=True)
class Backbone:
    """The table of a network.

    Attributes:
        image: channels, height and width of an input image.
        stem_pool: whether a 3x3 max-pooling of stride 2 follows the stem.
        prelu: whether a PReLU follows each main convolution, before the shortcut is added.
        averaged_shortcuts: whether parameter-free shortcuts that shrink the image average pixels
            and repeat channels, instead of leaving pixels out and padding channels with zeros.
        block_shortcuts: whether a shortcut spans all main convolutions of a block, instead of each.
    """

    name: str
    image: tuple[int, int, int]
    classes: int
    stem_pool: bool
    rows: tuple[Row, ...]
    prelu: bool = False
    averaged_shortcuts: bool = False
    block_shortcuts: bool = False

    @property
    def searchable(self) -> tuple[Row, ...]:
        """The rows an assignment speaks of, in its order."""
        return tuple(row for row in self.rows if row.searchable)

    @property
    def main(self) -> tuple[Row, ...]:
        """The rows of the residual branches."""
        return tuple(row for row in self.rows if row.role == "main")

    @property
    def stem(self) -> Row:
        """The first convolution."""
        return self.rows[0]

    @property
    def classifier(self) -> Row:
        """The last layer."""
        return self.rows[-1]

    @property
    def blocks(self) -> tuple[tuple[Row, ...], ...]:
        """The searchable rows, grouped by residual block."""
        numbers = sorted({row.block for row in self.searchable})
        return tuple(
            tuple(row for row in self.searchable if row.block == number) for number in numbers
        )


def require_known(name: str) -> None:
    """Check the name of a backbone.

    Raises:
        SettingsError: if there is none.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SettingsError(f"unknown backbone {name!r}; {hint}known: {', '.join(NAMES)}")


def build(name: str, *, width: int, image: tuple[int, int, int], classes: int) -> Backbone:
    """The table called ``name`` with ``width`` channels in its first stage.

    Raises:
        SettingsError: if there is no such backbone.
    """
    require_known(name)
    if name == "resnet18":
        return _imagenet_resnet18(width=width, image=image, classes=classes)
    depth = int(name.removeprefix("resnet"))
    return _cifar_resnet(depth, width=width, image=image, classes=classes)


def _cifar_resnet(depth: int, *, width: int, image: tuple[int, int, int], classes: int) -> Backbone:
    """ResNet of depth 6n+2 in three stages, parameter-free shortcuts (He et al. 2016, Sec. 4.2)."""
    stem = Row("stem", "stem", 0, image[0], width, kernel=3, stride=1, size=image[1])
    stages = _stages(stem, count=3, blocks=(depth - 2) // 6, size=image[1], projected=False)
    classifier = Row("classifier", "classifier", 0, 4 * width, classes, 1, 1, 1)
    return Backbone(f"resnet{depth}", image, classes, False, (stem, *stages, classifier))


def _imagenet_resnet18(*, width: int, image: tuple[int, int, int], classes: int) -> Backbone:
    """ResNet-18 as the starting paper counts it: 3x3 down-sampling shortcuts, searchable."""
    stem = Row("stem", "stem", 0, image[0], width, kernel=7, stride=2, size=_halved(image[1]))
    stages = _stages(stem, count=4, blocks=2, size=_halved(stem.size), projected=True)
    classifier = Row("classifier", "classifier", 0, 8 * width, classes, 1, 1, 1)
    return Backbone("resnet18", image, classes, True, (stem, *stages, classifier))


def _stages(stem: Row, *, count: int, blocks: int, size: int, projected: bool) -> tuple[Row, ...]:
    """``count`` stages of ``blocks`` two-convolution blocks; each later stage halves the image."""
    rows: list[Row] = []
    widths = [stem.out_channels] + [stem.out_channels * 2**stage for stage in range(count)]
    for stage, (before, channels) in enumerate(pairwise(widths), start=1):
        size = size if stage == 1 else _halved(size)
        for block in range(1, blocks + 1):
            number = (stage - 1) * blocks + block
            name = f"stage{stage}_block{block}"
            shrinks = stage > 1 and block == 1
            stride, inputs = (2, before) if shrinks else (1, channels)
            rows.append(Row(f"{name}_conv1", "main", number, inputs, channels, 3, stride, size))
            rows.append(Row(f"{name}_conv2", "main", number, channels, channels, 3, 1, size))
            if shrinks and projected:
                rows.append(
                    Row(f"{name}_shortcut", "shortcut", number, inputs, channels, 3, stride, size)
                )
    return tuple(rows)


def _halved(size: int) -> int:
    return (size + 1) // 2  # what a padded stride of 2 leaves
