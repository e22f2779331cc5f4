"""No candidate over budget and none twice: proposals are mended before they are evaluated."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from mbnas.assignment import Assignment, Space

ATTEMPTS = 1000


@dataclass
class Gate:
    """Lets every affordable assignment through once, a new one near it instead of others."""

    space: Space
    affordable: Callable[[Assignment], bool]
    rng: random.Random
    seen: set[Assignment] = field(default_factory=set)

    def admit(self, proposal: Assignment) -> Assignment | None:
        """The proposal, or a new affordable assignment near it; None where none was found."""
        candidate = self._within_budget(proposal)
        for _ in range(ATTEMPTS):
            if candidate not in self.seen:
                self.seen.add(candidate)
                return candidate
            candidate = self._within_budget(self._neighbour(candidate))
        return None

    def first_population(self, size: int) -> list[Assignment]:
        """The affordable uniform assignments, filled up to ``size`` with random ones."""
        uniforms = [each for each in self.space.uniforms if self.affordable(each)]
        fill = (self.space.sample(self.rng) for _ in range(size - len(uniforms)))
        admitted = [self.admit(proposal) for proposal in (*uniforms, *fill)]
        return [each for each in admitted if each is not None]

    def _within_budget(self, assignment: Assignment) -> Assignment:
        """Take bases from random layers until the rest is affordable."""
        positions = list(self.space.encode(assignment))
        while not self.affordable(self.space.decode(positions)):
            reducible = [i for i, position in enumerate(positions) if position > 0]
            positions[self.rng.choice(reducible)] -= 1
        return self.space.decode(positions)

    def _neighbour(self, assignment: Assignment) -> Assignment:
        """Draw one random variable anew."""
        positions = list(self.space.encode(assignment))
        index = self.rng.randrange(len(positions))
        positions[index] = self.rng.randrange(len(self.space.variables[index]))
        return self.space.decode(positions)
