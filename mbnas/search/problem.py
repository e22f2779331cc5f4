"""What a candidate costs and scores."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from mbnas.assignment import Assignment, Space
from mbnas.bops import bops
from mbnas.data import Data
from mbnas.evaluation import measure, recalibrate, scoring_stages
from mbnas.images import Images
from mbnas.networks import Network, Source, freeze
from mbnas.randomness import generator
from mbnas.settings import Robustness, Settings, Threat


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
    objective: Robustness
    seed: int

    @classmethod
    def of(cls, source: Source, data: Data, settings: Settings) -> Problem:
        """The problem that settings speak of."""
        recipe = settings.search
        return cls(
            source,
            calibration=data.train.first(recipe.recalibration_images).dense(),
            validation=data.validation.first(recipe.images).dense(),
            threat=settings.threat,
            objective=recipe.objective,
            seed=settings.seed,
        )

    @property
    def space(self) -> Space:
        """Where candidates come from."""
        return self.source.space

    def to(self, device: torch.device) -> Problem:
        """The same problem on a device; its source is moved there, not copied."""
        return replace(
            self,
            source=self.source.to(device),
            calibration=self.calibration.to(device),
            validation=self.validation.to(device),
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
