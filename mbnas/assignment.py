"""Which bases each layer uses: the assignment, and the space it is chosen from."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from mbnas.errors import SettingsError

MAX_BASES = 8  # eight bases cost as much as the 8-bit layers of a float network


class Bases(NamedTuple):
    """M weight bases and N activation bases of one layer, written ``MxN``."""

    weights: int
    activations: int

    def __str__(self) -> str:
        return f"{self.weights}x{self.activations}"


@dataclass(frozen=True)
class Assignment:
    """The bases of every searchable layer, first layer first; as text ``3x1,1x1,1x1,...``.

    Read, not written, is also ``3x1 1x1*2 ...``, as tables show it.
    """

    layers: tuple[Bases, ...]

    @classmethod
    def uniform(cls, weights: int, activations: int, layers: int) -> Assignment:
        """The same MxN in each of ``layers`` layers, as in the literature."""
        return cls((Bases(weights, activations),) * layers)

    @classmethod
    def parse(cls, text: str, layers: int) -> Assignment:
        """Read the text form; a single ``MxN`` means every layer.

        Raises:
            SettingsError: if the text is malformed, out of range, or of another length.
        """
        runs = [_parse_bases(part, text) for part in re.split(r"\s*,\s*|\s+", text.strip())]
        if len(runs) == 1 and "*" not in text:
            runs = [(runs[0][0], layers)]
        count = sum(times for _, times in runs)
        if count != layers:
            raise SettingsError(
                f"assignment {text!r} names {count} layers, the network has {layers} "
                f"searchable ones; give {layers} or a single MxN for all of them"
            )
        return cls(tuple(bases for bases, times in runs for _ in range(times)))

    @property
    def id(self) -> str:
        """Eight hexadecimal digits that depend on nothing but the assignment itself."""
        return hashlib.sha256(str(self).encode()).hexdigest()[:8]

    @property
    def is_uniform(self) -> bool:
        """Whether every layer uses the same bases."""
        return len(set(self.layers)) == 1

    def __str__(self) -> str:
        return ",".join(map(str, self.layers))

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Bases]:
        return iter(self.layers)


def _parse_bases(part: str, text: str) -> tuple[Bases, int]:
    """The bases, and how many layers in a row have them."""
    match = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})(?:\*([0-9]{1,4}))?", part)
    if match is None:
        raise SettingsError(
            f"assignment {text!r}: {part!r} is not of the form MxN; write 3x1 or 3x1,1x1,1x1*2,..."
        )
    bases = Bases(int(match[1]), int(match[2]))
    if not all(1 <= count <= MAX_BASES for count in bases):
        raise SettingsError(
            f"assignment {text!r}: {bases} is out of range; both numbers go from 1 to {MAX_BASES}"
        )
    return bases, int(match[3] or 1)


@dataclass(frozen=True)
class Space:
    """Every assignment of ``layers`` layers with M and N from the given choices, in order."""

    weights: tuple[int, ...]
    activations: tuple[int, ...]
    layers: int

    def __contains__(self, assignment: Assignment) -> bool:
        return len(assignment) == self.layers and all(
            bases.weights in self.weights and bases.activations in self.activations
            for bases in assignment
        )

    def require(self, assignment: Assignment) -> None:
        """Check that an assignment is one of these.

        Raises:
            SettingsError: if it is not.
        """
        if assignment not in self:
            raise SettingsError(
                f"assignment {str(assignment)!r} is not in the space, whose {self.layers} layers "
                f"have M from {self.weights} and N from {self.activations}"
            )

    @property
    def size(self) -> int:
        """How many assignments there are."""
        return int((len(self.weights) * len(self.activations)) ** self.layers)

    @property
    def smallest(self) -> Assignment:
        """The fewest bases everywhere."""
        return Assignment.uniform(min(self.weights), min(self.activations), self.layers)

    @property
    def largest(self) -> Assignment:
        """The most bases everywhere."""
        return Assignment.uniform(max(self.weights), max(self.activations), self.layers)

    @property
    def uniforms(self) -> tuple[Assignment, ...]:
        """The assignments of the literature: one MxN for the whole network."""
        return tuple(
            Assignment.uniform(m, n, self.layers)
            for m, n in product(self.weights, self.activations)
        )

    # Search engines see one integer variable per M and one per N: positions in the sorted choices.

    @property
    def variables(self) -> tuple[tuple[int, ...], ...]:
        """The choices of each variable in the order M1, N1, M2, N2, ..."""
        return (self.weights, self.activations) * self.layers

    def encode(self, assignment: Assignment) -> tuple[int, ...]:
        """Position of each variable's value among its choices."""
        values = (count for bases in assignment for count in bases)
        return tuple(
            choices.index(value) for choices, value in zip(self.variables, values, strict=True)
        )

    def decode(self, positions: Sequence[int]) -> Assignment:
        """The assignment at these positions; inverse of :meth:`encode`."""
        values = [
            choices[int(position)]
            for choices, position in zip(self.variables, positions, strict=True)
        ]
        return Assignment(tuple(map(Bases, values[0::2], values[1::2])))

    def sample(self, rng: random.Random) -> Assignment:
        """An assignment drawn uniformly."""
        return self.decode([rng.randrange(len(choices)) for choices in self.variables])
