"""Number formats: what the searchable layers of a network compute in, as a value and as text.

float       full precision, counted as 8x8 bit
pact2x4     fixed point, 2-bit weights and 4-bit activations; pact4 means pact4x4
xnor        XNOR-Net, one bit each
mbn3x1      multi-bit, 3 weight bases and 1 activation base; mbn3x1,1x1,... layer by layer
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from mbnas.assignment import Assignment
from mbnas.errors import SettingsError


class Family(StrEnum):
    """How the widths of a format are to be read; see :mod:`mbnas.layers`."""

    FLOAT = "float"
    PACT = "pact"
    XNOR = "xnor"
    MBN = "mbn"


@dataclass(frozen=True)
class Format:
    """A family and, for every searchable layer, its bits or bases.

    Attributes:
        widths: of weights and activations; what BOPS are counted by (paper, Table 2).
    """

    family: Family
    widths: Assignment

    @classmethod
    def multibit(cls, assignment: Assignment) -> Format:
        """M weight bases and N activation bases a layer."""
        return cls(Family.MBN, assignment)

    @classmethod
    def parse(cls, text: str, layers: int) -> Format:
        """Read the text form, see the module's first lines.

        Raises:
            SettingsError: if there is no such format, or its widths are out of range.
        """
        match = re.fullmatch(r"\s*([a-z]+)(.*?)\s*", text)
        family, widths = match.groups() if match else ("", "")
        if family in _FIXED and not widths:
            return cls(Family(family), Assignment.uniform(*_FIXED[Family(family)], layers))
        if family == Family.PACT and widths.isdigit():
            widths = f"{widths}x{widths}"
        if family not in (Family.PACT, Family.MBN) or not widths:
            raise SettingsError(
                f"unknown format {text!r}; known: float, pactK or pactKxL (K-bit weights, L-bit "
                "activations), xnor, mbnMxN or mbnMxN,MxN,... layer by layer"
            )
        return cls(Family(family), Assignment.parse(widths, layers))

    @property
    def id(self) -> str:
        """Short and fit for a file name: that of the assignment where there is one."""
        return self.widths.id if self.family is Family.MBN else str(self)

    def __str__(self) -> str:
        if self.family in _FIXED:
            return str(self.family)
        return f"{self.family}{self.widths.layers[0] if self.widths.is_uniform else self.widths}"


_FIXED = {Family.FLOAT: (8, 8), Family.XNOR: (1, 1)}
