"""Reported networks: trained on their own, measured on test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mbnas import parallel
from mbnas.bops import bops
from mbnas.checkpoints import (
    NETWORK_FILE,
    digest,
    load_network,
    network_file,
    require_held_out,
    require_images_of,
    save_network,
)
from mbnas.data import Data, fingerprint
from mbnas.environment import environment
from mbnas.errors import DataError, SettingsError
from mbnas.evaluation import Scores, guard_stages, measure
from mbnas.files import read_json, write_json, write_text
from mbnas.final import final_scores
from mbnas.formats import Family, Format
from mbnas.images import Images
from mbnas.journal import Journal
from mbnas.networks import Network, Source, build_network, freeze, take_over
from mbnas.objectives import network_objective
from mbnas.progress import log
from mbnas.randomness import derive, generator, seeded
from mbnas.sameness import identity, require_same
from mbnas.settings import RetrainingRecipe, Settings
from mbnas.training import fit

Metrics = dict[str, Any]
METRICS_FILE = "metrics.json"


def finished(
    folder: Path, settings: Settings, expected: Format | Family, data: Data
) -> Metrics | None:
    """What the metrics of a training say that came to its end in ``folder``; None if none did.

    Args:
        data: that it must have been trained and tested on.

    Raises:
        SettingsError: if what was trained there is not what is asked for.
        DataError: if it learned from or was tested on other images, learned from another teacher or
            began with another network, or the file holds something else.
    """
    if not (folder / METRICS_FILE).exists():
        return None
    anew = "to train anew, move the folder away"
    if not (folder / NETWORK_FILE).exists():
        raise DataError(
            f"{str(folder)!r} has {METRICS_FILE} without its {NETWORK_FILE}; restore that; {anew}"
        )
    _, there, trained = load_network(folder)
    same = expected in (there, there.family)
    require_same(
        {"format": str(there), **identity(trained)},
        {"format": str(there if same else expected), **identity(settings)},
        f"{str(folder)!r} was trained",
        f"give those to see its metrics; {anew}, or let `mbnas train` name another by --out",
    )
    require_images_of(folder, data.test)
    metrics: Metrics = read_json(
        folder / METRICS_FILE, "id", "bops", "test", "learned_from", advice=f"restore it; {anew}"
    )
    known, now = metrics["learned_from"], _learned_from(data, _named(settings.retraining))
    others = [each for each in now if known.get(each) != now[each]]
    if others:
        raise DataError(
            f"{str(folder)!r} was trained before and since then {' and '.join(others)} changed; "
            f"restore what it learned from to see its metrics; {anew}"
        )
    _clear(folder)  # what a kill may have left
    log.info("%s was trained before; these are its metrics", folder)
    return metrics


def retrain(
    settings: Settings,
    format_: Format,
    data: Data,
    folder: Path,
    *,
    source: Source | None,
    device: torch.device,
    teacher: Network | None = None,
) -> Metrics:
    """Train one network, test it, and fill ``folder`` with weights, assignment and metrics.

    Args:
        source: whose weights it starts from; None trains from scratch or from the network that
            the settings name.
        teacher: whose logits it learns; a network that the settings name takes its place.
        folder: where an unfinished training of the same network from the same start goes on.

    Returns:
        What the metrics file holds.

    Raises:
        DataError: if a network that is named is missing or corrupt, or was trained on other images.
        SettingsError: if the network to start from has other convolutions or validation images.
    """
    seed = derive(settings.seed, "retraining", format_)
    recipe = settings.retraining
    if isinstance(recipe.teacher, Path):
        teacher = frozen_network(recipe.teacher, data.test)
    network = _start(settings, format_, data, source, seed).to(device)
    guard_images = data.validation.first(recipe.guard_images)
    guarding = guard_stages(settings.threat, recipe.guard_steps)

    def guard() -> Scores:
        rng = generator(seed, "guard")
        return measure(freeze(network), guard_images, settings.threat, rng, guarding)

    start, named = _kind(settings, source), _named(recipe)
    checkpoint = folder / f"training-{start}.pt"
    testing = Journal(folder / f"testing-{start}-{fingerprint(data.test)[:8]}.jsonl")
    if not checkpoint.exists():  # with which nothing but the same network goes on
        testing.remove()
    folder.mkdir(parents=True, exist_ok=True)
    trained = fit(
        network,
        network_objective(network, settings.threat, recipe, teacher),
        guard=guard,
        train=data.train,
        settings=settings,
        recipe=recipe,
        learned_from=named,
        title=f"training {format_.id}",
        seed=seed,
        checkpoint=checkpoint,
    )

    def tested() -> Metrics:
        write_text(folder / "assignment.txt", f"{format_.widths}\n")
        file = folder / NETWORK_FILE
        save_network(file, network, format_, settings, data.test, data.validation)
        metrics = {
            **described(settings, format_),
            "start": start,
            "learned_from": _learned_from(data, named),
            "test": asdict(final_scores(freeze(network), data.test, settings, testing)),
            **trained.record(),
        }
        write_json(folder / METRICS_FILE, metrics)
        _clear(folder)
        return metrics

    return parallel.led(tested)


def _clear(folder: Path) -> None:
    """Remove unfinished trainings and tests, from this start or another, and halves of them."""
    for pattern in ("training-*.pt", ".training-*.partial", "testing-*.jsonl"):
        for unfinished in folder.glob(pattern):
            unfinished.unlink(missing_ok=True)


def _learned_from(data: Data, named: Mapping[str, str]) -> dict[str, str]:
    """The digests of what decides a network beside its settings: images and ``named`` networks."""
    return {"training images": fingerprint(data.train), **named}


def _named(recipe: RetrainingRecipe) -> dict[str, str]:
    """The digests of the networks in folders that a recipe names."""
    named = {"teacher": recipe.teacher, "start": recipe.start}
    return {use: digest(path) for use, path in named.items() if isinstance(path, Path)}


def _start(
    settings: Settings, format_: Format, data: Data, source: Source | None, seed: int
) -> Network:
    if source is not None:
        return source.network(format_.widths)
    with seeded(seed, "initial weights"):
        network = build_network(settings.table, format_)
    network.standardise_by(*data.statistics())
    start = settings.retraining.start
    if isinstance(start, Path):
        take_over(network, _forerunner(start, settings, data))
    return network


def _kind(settings: Settings, source: Source | None) -> str:
    """What metrics call the start."""
    if source is not None:
        return source.kind
    return "network" if isinstance(settings.retraining.start, Path) else "scratch"


def require_named_networks(settings: Settings, data: Data) -> None:
    """Check the networks that are to teach or to be started from before anything is trained.

    Args:
        data: its test images must be theirs, so that they learned from none of them, and of the
            one to start from the validation images.

    Raises:
        DataError: if one is missing, corrupt, or was trained on other images.
        SettingsError: if the one to start from has other convolutions or validation images.
    """
    recipe = settings.retraining
    for role, path, words in (
        ("start", recipe.start, "supernet or scratch"),
        ("teacher", recipe.teacher, "supernet or null"),
    ):
        if isinstance(path, Path) and not network_file(path).is_file():
            raise DataError(
                f"retraining.{role}: no checkpoint {str(path)!r}; give the folder of a trained "
                f"network, or {words}"
            )
    if isinstance(recipe.teacher, Path):
        frozen_network(recipe.teacher, data.test)
    if isinstance(recipe.start, Path):
        _forerunner(recipe.start, settings, data)


def frozen_network(path: Path, images: Images) -> Network:
    """A saved network on the device of the test images, which must be its own.

    Raises:
        DataError: if it is missing or corrupt, or was tested on other images.
    """
    network, _, _ = load_network(path)
    require_images_of(path, images)
    return freeze(network.to(images.device))


def _forerunner(path: Path, settings: Settings, data: Data) -> Network:
    """The network to start from: of our convolutions, and taught none of our validation images."""
    network, _, trained = load_network(path)
    require_images_of(path, data.test)
    if (trained.seed, trained.data.validation) != (settings.seed, settings.data.validation):
        raise SettingsError(
            f"{str(path)!r} was trained with seed={trained.seed} and "
            f"data.validation={trained.data.validation}, thus on images that are held out here; "
            "go on with those values"
        )
    require_held_out(path, data.validation)
    if network.backbone.rows != settings.table.rows:
        there, here = trained.backbone, settings.backbone
        raise SettingsError(
            f"{str(path)!r} is a {there.name} of width {there.width}, where a {here.name} of width "
            f"{here.width} cannot start; give a network of the same backbone"
        )
    return network


def described(settings: Settings, format_: Format) -> dict[str, Any]:
    """What identifies a network, what attacks it and what measures it, wherever it is reported."""
    return {
        "id": format_.id,
        "format": str(format_),
        "assignment": str(format_.widths),
        "bops": bops(settings.table, format_.widths),
        "threat": settings.threat.model_dump(mode="json"),
        "environment": environment(),
    }
