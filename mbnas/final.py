"""What is reported of a network: the final measurement, on test images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from mbnas.errors import SettingsError
from mbnas.evaluation import (
    BATCH,
    NOT_FINITE,
    Spread,
    at_last_and_every,
    classify,
    require_evaluation_mode,
    through,
)
from mbnas.images import Images
from mbnas.journal import Journal
from mbnas.layers import takes_surrogates
from mbnas.networks import Network
from mbnas.progress import bar
from mbnas.randomness import generator
from mbnas.settings import Settings, Surrogate, Threat


@dataclass(frozen=True)
class FinalScores:
    """Measured on test images; accuracies are fractions.

    Attributes:
        natural: over all ``images``; loss: mean cross-entropy, likewise.
        pgd: correct naturally and at every iterate of PGD through the threat model's surrogate;
            like all attacks over the first ``attacked`` images and ``runs`` random starts.
        attacks: through each reported surrogate, ``<surrogate>_every`` as above, and
            ``<surrogate>_last`` where only the last iterate counts, as in the literature; above
            natural accuracy it is a sign of masked gradients.
    """

    natural: float
    loss: float
    pgd: Spread
    attacks: dict[str, Spread]
    images: int
    attacked: int
    runs: int


def final_scores(
    network: Network, images: Images, settings: Settings, done: Journal | None = None
) -> FinalScores:
    """Measure a frozen network.

    Args:
        done: keeps each run of an attack and brings back those that are in it, which must be of
            this network, these images and settings.

    Raises:
        SettingsError: if it is in training mode or its logits are not finite.
    """
    require_evaluation_mode(network)
    threat, attacked = settings.threat, images.first(settings.test.images)
    natural, total = 0, 0.0
    for x, y in images.batches(BATCH):
        right, loss = classify(network, x, y)
        natural, total = natural + int(right.sum()), total + loss
    if not math.isfinite(total):
        raise SettingsError(NOT_FINITE)
    attacks: dict[str, Spread] = {}
    surrogates, runs = reported(threat), settings.test.runs
    different = surrogates if takes_surrogates(network) else surrogates[:1]
    known = done.read("surrogate", "run", "last", "every") if done else []
    found = {(each["surrogate"], each["run"]): each for each in known}
    with bar("testing under attack", len(different) * runs) as advance:
        for surrogate, run in product(different, range(runs)):
            if (surrogate, run) not in found:
                rng, model = generator(settings.seed, "test", run), through(network, surrogate)
                masks = at_last_and_every(model, attacked.batches(BATCH), threat, rng, threat.steps)
                last, every = (float(mask.double().mean()) for mask in masks)
                record = {"surrogate": surrogate, "run": run, "last": last, "every": every}
                found[surrogate, run] = record
                if done:
                    done.append(record)
            advance("")
    for surrogate, count in product(surrogates, ("every", "last")):
        same = surrogate if surrogate in different else different[0]
        of_runs = [found[same, run][count] for run in range(runs)]
        attacks[f"{surrogate}_{count}"] = Spread.over(of_runs)
    return FinalScores(
        natural=natural / len(images),
        loss=total / len(images),
        pgd=attacks[f"{threat.surrogate}_every"],
        attacks=attacks,
        images=len(images),
        attacked=len(attacked),
        runs=runs,
    )


def reported(threat: Threat) -> tuple[Surrogate, ...]:
    """Through which surrogates a network is attacked: that of its threat model, and the paper's."""
    return tuple(dict.fromkeys((threat.surrogate, Surrogate.STE)))
