"""Bit-operations of a table under an assignment, itemised per layer.

    BOPS = sum over layers of MACs * (weight bases or bits) * (activation bases or bits)

The first convolution and the classifier count as 8x8 bit; a float network counts as 8x8
throughout, fixed point of k-bit weights and l-bit activations as kxl. This reproduces the tables in
Frickenstein et al. 2023, but for one entry in which two digits are swapped.
"""

from __future__ import annotations

from dataclasses import dataclass

from mbnas.assignment import Assignment, Bases
from mbnas.backbones import Backbone
from mbnas.errors import SettingsError

DEFINITION = "BOPS = sum of MACs x M x N; first convolution and classifier count as 8x8"
FULL_PRECISION = Bases(8, 8)


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer for one image; ``bases`` are bits where the layer is not multi-bit."""

    name: str
    macs: int
    bases: Bases

    @property
    def bops(self) -> int:
        """MACs times weight bases times activation bases."""
        return self.macs * self.bases.weights * self.bases.activations


def itemise(backbone: Backbone, assignment: Assignment) -> tuple[LayerCost, ...]:
    """The cost of every layer of ``backbone``, in the order of its rows.

    Raises:
        SettingsError: if the assignment is of another number of layers.
    """
    if len(assignment.layers) != len(backbone.searchable):
        raise SettingsError(
            f"the assignment has {len(assignment.layers)} layers, the backbone "
            f"{len(backbone.searchable)} that are searched; give one MxN for each of these"
        )
    bases = dict(zip((row.name for row in backbone.searchable), assignment, strict=True))
    return tuple(
        LayerCost(row.name, row.macs, bases.get(row.name, FULL_PRECISION)) for row in backbone.rows
    )


def bops(backbone: Backbone, assignment: Assignment) -> int:
    """Bit-operations for one image."""
    return sum(layer.bops for layer in itemise(backbone, assignment))
