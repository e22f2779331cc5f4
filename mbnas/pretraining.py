"""The supernet of a run: trained once, on disk from then on."""

from __future__ import annotations

import shlex
from typing import Any

import torch

from mbnas import parallel, runs
from mbnas.checkpoints import load_supernet, save_supernet, supernet_settings
from mbnas.data import Data
from mbnas.environment import environment
from mbnas.evaluation import Scores, guard_stages, measure, recalibrate
from mbnas.files import write_json
from mbnas.networks import freeze
from mbnas.objectives import supernet_objective
from mbnas.randomness import derive, generator, seeded
from mbnas.runs import RunFolder
from mbnas.sameness import require_same
from mbnas.settings import DataSettings, Settings
from mbnas.supernet import Supernet, extract
from mbnas.training import fit


def trained_before(run: RunFolder, settings: Settings, data: Data) -> Supernet:
    """The supernet of another run, which ``settings`` would only train again.

    Args:
        settings: that :func:`require_trained_so` has checked.

    Raises:
        DataError: if it is missing or corrupt, or was trained on other images.
    """
    supernet = load_supernet(run.supernet_file)
    anew = f"delete it and let `mbnas search --resume {shlex.quote(str(run.path))}` write it anew"
    runs.require_data(run, settings, data.fingerprint(), anew)
    return supernet


def require_trained_so(
    run: RunFolder,
    settings: Settings,
    do: str = "search it with those, or leave --supernet away",
) -> None:
    """Check that the supernet of a run was trained with these settings, as its file says.

    Args:
        do: what to do if it was not, for the message.

    Raises:
        SettingsError: if it was trained with other settings.
        DataError: if it is missing or corrupt.
    """
    runs.require_supernet(run)
    trained = supernet_settings(run.supernet_file)
    what = f"the supernet {str(run.supernet_file)!r} was trained"
    require_same(_deciding(trained), _deciding(settings), what, do)


def _deciding(settings: Settings) -> dict[str, Any]:
    """The settings that a supernet depends on."""
    decisive: dict[str, Any] = {
        **dict.fromkeys(("seed", "backbone", "choices", "supernet"), True),
        "data": set(DataSettings.model_fields) - {"root"},
        "threat": {"eps", "step", "surrogate"},  # in FastAT and in the guard
        "search": {"recalibration_images"},
    }
    deciding: dict[str, Any] = settings.model_dump(mode="json", include=decisive)
    return deciding


def pretrained(folder: RunFolder, settings: Settings, data: Data, device: torch.device) -> Supernet:
    """The trained supernet, from ``folder`` where it is there already.

    After each epoch its largest sub-network is measured on held-out images; see
    :func:`mbnas.training.kept` for the epoch that remains.
    """
    if folder.supernet_file.exists():
        _clear(folder)  # if killed before that
        do = "restore that of this run, or move it away to train it anew"
        require_trained_so(folder, settings, do)
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
    trained = fit(
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
        write_json(folder.supernet_history, {**trained.record(), "environment": environment()})
        save_supernet(folder.supernet_file, supernet, settings)
        _clear(folder)

    parallel.led(save)
    return supernet


def _clear(folder: RunFolder) -> None:
    """Remove the unfinished training, and halves of its files."""
    for unfinished in (folder.supernet_training, *folder.path.glob(".supernet.*.partial")):
        unfinished.unlink(missing_ok=True)
