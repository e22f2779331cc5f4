"""What a candidate costs and scores."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from mbnas.assignment import Assignment, Space
from mbnas.bops import bops
from mbnas.config import Objective, Threat
from mbnas.evaluation import measure, recalibrate, scoring_stages
from mbnas.images import Images
from mbnas.networks import Network, Source, freeze
from mbnas.randomness import generator


@dataclass(frozen=True)
class Trial:
    """An evaluated candidate; accuracies are fractions of validation images."""

    assignment: Assignment
    bops: int
    natural: float
    robust: float
    loss: float | None
    seconds: float

    @property
    def id(self) -> str:
        """The identity of its assignment."""
        return self.assignment.id

    def record(self) -> dict[str, Any]:
        """Its line in the journal; ``seconds`` is the only value that time decides."""
        return {**self.row(), "seconds": round(self.seconds, 3)}

    def row(self) -> dict[str, Any]:
        """Its row in the Pareto table."""
        return {
            "id": self.id,
            "assignment": str(self.assignment),
            "bops": self.bops,
            "natural": self.natural,
            "robust": self.robust,
            "loss": self.loss,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any], layers: int) -> Trial:
        """The trial a line of the journal speaks of."""
        return cls(
            assignment=Assignment.parse(record["assignment"], layers),
            bops=record["bops"],
            natural=record["natural"],
            robust=record["robust"],
            loss=record["loss"],
            seconds=record["seconds"],
        )


@dataclass(frozen=True)
class Problem:
    """Scores what is taken from one source; every random number comes from (seed, assignment)."""

    source: Source
    calibration: Images
    validation: Images
    threat: Threat
    objective: Objective
    seed: int

    @property
    def space(self) -> Space:
        """Where candidates come from."""
        return self.source.space

    def to(self, device: torch.device) -> Problem:
        """The same problem on a device."""
        return Problem(
            self.source.to(device),
            self.calibration.to(device),
            self.validation.to(device),
            self.threat,
            self.objective,
            self.seed,
        )

    def cost(self, assignment: Assignment) -> int:
        """BOPS for one image."""
        return bops(self.source.backbone, assignment)

    def candidate(self, assignment: Assignment) -> Network:
        """The frozen network, with batch-norm statistics re-estimated for it."""
        network = freeze(self.source.network(assignment))
        recalibrate(network, self.calibration)
        return network

    def score(self, assignment: Assignment) -> Trial:
        """Evaluate one candidate on the validation images."""
        started = time.perf_counter()
        rng = generator(self.seed, "score", assignment)
        stages = scoring_stages(self.objective, self.threat)
        scores = measure(self.candidate(assignment), self.validation, self.threat, rng, stages)
        return Trial(
            assignment=assignment,
            bops=self.cost(assignment),
            natural=scores.natural,
            robust=scores.robust,
            loss=scores.loss,
            seconds=time.perf_counter() - started,
        )
