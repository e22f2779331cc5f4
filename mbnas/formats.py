"""Number formats: what the searchable layers of a network compute in, as a value and as text.

As text a format is one of

    float       full precision, counted as 8x8 bit
    pact2x4     fixed point, 2-bit weights and 4-bit activations; pact4 means pact4x4
    xnor        XNOR-Net, one bit each
    mbn3x1      multi-bit, 3 weight bases and 1 activation base; mbn3x1,1x1,... layer by layer
    wprune4     full precision, 4 of 8 weights kept, the largest; wprune4,6,... layer by layer
    cprune4     likewise, 4 of 8 input channels kept
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
    WEIGHT_PRUNED = "wprune"
    CHANNEL_PRUNED = "cprune"
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
        if family not in set(Family) or family in _FIXED or not widths:
            raise SettingsError(
                f"unknown format {text!r}; known: float, pactK or pactKxL (K-bit weights, L-bit "
                "activations), xnor, mbnMxN or mbnMxN,MxN,... layer by layer, wpruneK and cpruneK "
                "(K of 8 weights or channels kept)"
            )
        if family != Family.MBN:  # whose M alone says nothing of its N
            second = r"\1" if family == Family.PACT else "8"
            widths = re.sub(r"(?<![0-9x*])([0-9]+)(?![0-9x])", rf"\1x{second}", widths)
        try:
            found = cls(Family(family), Assignment.parse(widths, layers))
        except SettingsError as mistake:
            raise SettingsError(f"format {text!r}: {mistake}") from None
        if found.family in PRUNED and any(each.activations != 8 for each in found.widths):
            raise SettingsError(
                f"format {text!r}: activations of pruned layers have 8 bits; "
                f"write {found.family}{found.widths.layers[0].weights}"
            )
        return found

    @property
    def id(self) -> str:
        """Short and fit for a file name; of a multi-bit network that of its assignment."""
        if self.family is Family.MBN:
            return self.widths.id
        return str(self) if self.widths.is_uniform else f"{self.family}-{self.widths.id}"

    def __str__(self) -> str:
        if self.family in _FIXED:
            return str(self.family)
        return f"{self.family}{self.widths.layers[0] if self.widths.is_uniform else self.widths}"


PRUNED = (Family.WEIGHT_PRUNED, Family.CHANNEL_PRUNED)
_FIXED = {Family.FLOAT: (8, 8), Family.XNOR: (1, 1)}
