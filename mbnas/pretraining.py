"""The supernet of a run: trained once, on disk from then on."""

from __future__ import annotations

from typing import Any

import torch

from mbnas import parallel, runs
from mbnas.checkpoints import load_supernet, save_supernet
from mbnas.data import Data
from mbnas.evaluation import Scores, guard_stages, measure, recalibrate
from mbnas.networks import freeze
from mbnas.objectives import supernet_objective
from mbnas.randomness import derive, generator, seeded
from mbnas.runs import RunFolder
from mbnas.sameness import identity, require_same
from mbnas.settings import Settings
from mbnas.supernet import Supernet, extract
from mbnas.training import fit


def trained_before(run: RunFolder, settings: Settings, data: Data) -> Supernet:
    """The supernet of another run, which ``settings`` would only train again.

    Raises:
        SettingsError: if it was trained with other settings.
        DataError: if it is missing or corrupt, or was trained on other images.
    """
    runs.require_supernet(run)
    what = f"the supernet of {str(run.path)!r} was trained"
    do = "search it with those, or leave --supernet away to train another"
    require_same(_deciding(run.settings()), _deciding(settings), what, do)
    runs.require_data(run, settings, data.fingerprint())
    return load_supernet(run.supernet_file)


def _deciding(settings: Settings) -> dict[str, Any]:
    """The settings that a supernet depends on."""
    all_, parts = identity(settings), ("seed", "backbone", "choices", "data", "threat", "supernet")
    recalibration = {"recalibration_images": all_["search"]["recalibration_images"]}
    return {**{part: all_[part] for part in parts}, "search": recalibration}


def pretrained(folder: RunFolder, settings: Settings, data: Data, device: torch.device) -> Supernet:
    """The trained supernet, from ``folder`` where it is there already.

    After each epoch its largest sub-network is measured on held-out images; see
    :func:`mbnas.training.kept` for the epoch that remains.
    """
    if folder.supernet_file.exists():
        folder.supernet_training.unlink(missing_ok=True)  # if killed before that
        return load_supernet(folder.supernet_file).to(device)
    recipe, seed = settings.supernet, derive(settings.seed, "supernet")
    with seeded(seed, "initial weights"):
        supernet = Supernet(settings.table, settings.space)
    supernet.standardise_by(*data.statistics())
    supernet.to(device)
    calibration = data.train.first(settings.search.recalibration_images)
    guard_images = data.validation.first(recipe.guard_images)
    guarding = guard_stages(settings.threat, recipe.guard_steps)

    def guard() -> Scores:
        network = freeze(extract(supernet, settings.space.largest))
        recalibrate(network, calibration)
        rng = generator(seed, "guard")
        return measure(network, guard_images, settings.threat, rng, guarding)

    checkpoint = folder.supernet_training
    fit(
        supernet,
        supernet_objective(supernet, settings.threat, recipe, seed),
        guard=guard,
        train=data.train,
        settings=settings,
        recipe=recipe,
        learned_from={},
        title="supernet",
        seed=seed,
        checkpoint=checkpoint,
    )

    def save() -> None:
        save_supernet(folder.supernet_file, supernet, settings)
        checkpoint.unlink()

    parallel.led(save)
    return supernet
