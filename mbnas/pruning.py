"""Pruned baselines: how much of each layer of a float network to keep, searched under a budget.

The same engines choose k of 8 weights, or input channels, for every layer within half the BOPS of
the float network (the paper's AMC rows; He et al. 2018 let an agent choose the ratios), scored as
candidates are everywhere: on validation images, batch-norm re-estimated. The best is fine-tuned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mbnas import data as datasets
from mbnas import parallel, runs
from mbnas.assignment import Assignment, Space
from mbnas.backbones import Backbone
from mbnas.checkpoints import digest, load_network, require_held_out, require_images_of
from mbnas.devices import pick_device
from mbnas.errors import SettingsError
from mbnas.files import read_json, write_json
from mbnas.formats import Family, Format
from mbnas.journal import Journal
from mbnas.networks import Network, build_network
from mbnas.randomness import derive
from mbnas.retraining import Metrics, finished, require_named_networks, retrain
from mbnas.sameness import identity, require_same
from mbnas.search.executors import Executor
from mbnas.search.loop import searched
from mbnas.search.problem import Problem, Trial
from mbnas.settings import Settings
from mbnas.threads import suited_to
from mbnas.training import worth

Pruned = Literal[Family.WEIGHT_PRUNED, Family.CHANNEL_PRUNED]
ORIGIN_FILE = "origin.json"


@dataclass(frozen=True)
class Dense:
    """A float network, all prunings of which are candidates."""

    dense: Network
    family: Pruned
    kind = "dense"

    @property
    def backbone(self) -> Backbone:
        """Its table."""
        return self.dense.backbone

    @property
    def space(self) -> Space:
        """1 to 8 of 8 kept, activations of 8 bits."""
        return Space(tuple(range(1, 9)), (8,), len(self.backbone.searchable))

    def network(self, assignment: Assignment) -> Network:
        """The network with what ``assignment`` keeps."""
        with torch.device("meta"):
            pruned = build_network(self.backbone, Format(self.family, assignment))
        shared = self.dense.state_dict()
        pruned.load_state_dict({key: each.clone() for key, each in shared.items()}, assign=True)
        return pruned

    def to(self, device: torch.device) -> Dense:
        """The same on a device, moved there, not copied."""
        return Dense(self.dense.to(device), self.family)


def prune_network(
    settings: Settings, family: Pruned, trained: Path, path: Path, executor: Executor
) -> Metrics:
    """Search how much of each layer to keep, fine-tune the best, measure it on test images.

    Args:
        trained: folder or file of the float network.
        path: new folder, or one in which the same pruning goes on.

    Returns:
        What the metrics file holds.

    Raises:
        SettingsError: if ``trained`` holds no float network, one of another backbone, or one that
            learned from what is held out here, or if ``path`` holds another pruning or something
            else.
        DataError: if a file is missing or corrupt, ``trained`` was tested on other images, or
            another process works in ``path``.
    """
    executor.check()
    dense, format_, before = load_network(trained)
    if format_.family is not Family.FLOAT:
        raise SettingsError(f"{str(trained)!r} holds {format_}; only float networks are pruned")
    what = f"{str(trained)!r} was trained"
    require_same(_inherited(before), _inherited(settings), what, "prune it with those")
    device, source = pick_device(settings.device), Dense(dense, family)
    data = datasets.load(settings.data, settings.seed)
    require_images_of(trained, data.test)
    require_held_out(trained, data.validation)
    require_named_networks(settings, data)
    data.train.batch_size(settings.retraining.batch_size, parallel.count())
    parallel.led(lambda: _require_place(path))
    with parallel.alone_in(path), suited_to(settings.table, settings.retraining):
        parallel.led(lambda: _require_same_pruning(path, settings, family, trained, data))
        done = finished(path, settings, family, data)
        if done is not None:
            return done
        problem = Problem.of(source, data, settings)
        trials = parallel.led(lambda: _searched(settings, problem, path, executor, device))
        training = settings.retraining.training
        best = max(trials, key=lambda each: worth(each.natural, each.robust, training))
        chosen = Format(family, best.assignment)
        start = source.to(device)
        return retrain(settings, chosen, data.to(device), path, source=start, device=device)


def _inherited(settings: Settings) -> dict[str, Any]:
    """What a pruned network has from the dense one: its layers, and which images it knows."""
    inherited: dict[str, Any] = settings.model_dump(
        mode="json", include={"seed": True, "backbone": True, "data": {"validation"}}
    )
    return inherited


def _require_place(path: Path) -> None:
    """Check that a pruning was begun in ``path``, or make it a new folder."""
    if not (path / ORIGIN_FILE).exists():
        runs.require_new(path)
    path.mkdir(parents=True, exist_ok=True)


def _require_same_pruning(
    path: Path, settings: Settings, family: Pruned, trained: Path, data: datasets.Data
) -> None:
    """Check that what was begun in ``path`` is what is asked for; its journal tells only scores."""
    of = {"network": digest(trained), "images": data.fingerprint()}
    asked = {"format": str(family), **of, **identity(settings)}
    begun = path / ORIGIN_FILE
    if not begun.exists():
        write_json(begun, asked)
    do = "go on with those, or move the folder away to prune anew"
    require_same(read_json(begun), asked, f"{str(path)!r} was begun", do)


def _searched(
    settings: Settings, problem: Problem, path: Path, executor: Executor, device: torch.device
) -> list[Trial]:
    """Candidates within half of the BOPS of the dense network."""
    space = problem.space
    budget = problem.cost(space.largest) / 2
    if problem.cost(space.smallest) > budget:
        raise SettingsError(
            "stem and classifier alone take half the BOPS, nothing can be pruned to that; "
            "choose a wider or deeper backbone"
        )
    return searched(
        problem,
        settings.search,
        budget=budget,
        evaluations=settings.search.evaluations,
        seed=derive(problem.seed, "pruning"),
        journal=Journal(path / "trials.jsonl"),
        early=Journal(path / "trials.early.jsonl"),
        executor=executor,
        device=device,
        title="pruning",
    )
