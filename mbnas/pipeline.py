"""The whole of a run, stage by stage; each stage finds what is already on disk and goes on from it.

data -> supernet -> search -> Pareto set, re-scored -> retraining -> audits -> report
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mbnas import data as datasets
from mbnas import parallel, runs
from mbnas.assignment import Assignment
from mbnas.bops import bops
from mbnas.checkpoints import digest, load_network, load_supernet, save_supernet
from mbnas.data import Data
from mbnas.devices import pick_device
from mbnas.errors import BudgetError, SettingsError
from mbnas.files import at_home, read_json, write_json
from mbnas.formats import Format
from mbnas.inspection import audited
from mbnas.networks import Network, freeze
from mbnas.pareto import most_useful, non_dominated
from mbnas.pretraining import pretrained, require_trained_so, trained_before
from mbnas.progress import log
from mbnas.randomness import derive
from mbnas.report import WorstCases, ranking, write_pareto
from mbnas.retraining import Metrics, finished, require_named_networks, retrain
from mbnas.runs import RunFolder
from mbnas.sameness import identity, require_same, require_same_networks
from mbnas.search.executors import Executor, default_workers
from mbnas.search.loop import searched
from mbnas.search.problem import Problem, Trial
from mbnas.search.rescoring import judges, rescored
from mbnas.search.session import recorded
from mbnas.settings import Settings
from mbnas.supernet import Supernet
from mbnas.threads import suited_to


@dataclass(frozen=True)
class Outcome:
    """What a finished run found."""

    folder: RunFolder
    trials: tuple[Trial, ...]
    front: tuple[Trial, ...]
    worst_cases: WorstCases
    retrained: tuple[Metrics, ...]


@dataclass(frozen=True)
class _Run:
    """What every stage needs."""

    folder: RunFolder
    settings: Settings
    data: Data
    device: torch.device


def run_search(
    settings: Settings,
    out: str | Path,
    executor: Executor,
    supernet_of: str | Path | None = None,
) -> Outcome:
    """Run the whole search in a new folder.

    Args:
        supernet_of: a run whose supernet is searched again, instead of training the same once more.

    Raises:
        SettingsError: if the budget is missing, the folder exists, a setting does not work, or the
            supernet of the other run was trained with other settings.
        BudgetError: if not even the smallest network meets the budget.
        DataError: if the images, a network that the settings name, or the supernet of the other run
            are missing or corrupt.
    """
    out = at_home(out)
    require_searchable(settings, supernet_of)
    executor.check()
    runs.require_new(out)
    data = datasets.load(settings.data, settings.seed)
    require_named_networks(settings, data)
    _require_equal_parts(settings, data)
    other = None if supernet_of is None else runs.reopen(at_home(supernet_of))
    known = None if other is None else trained_before(other, settings, data)

    def begin(folder: RunFolder) -> None:
        if other is None or known is None:
            return
        if other.supernet_history.exists():  # runs of earlier versions have none
            write_json(folder.supernet_history, read_json(other.supernet_history))
        save_supernet(folder.supernet_file, known, settings)

    folder = parallel.led(lambda: runs.create(out, settings, begin))
    with parallel.alone_in(out):
        return _all_stages(folder, settings, data, executor)


def resume_search(path: str | Path, settings: Settings, executor: Executor) -> Outcome:
    """Go on with an interrupted search; nothing finished is computed again.

    Args:
        settings: those of the folder; ``data.root`` may differ if the images are the same.

    Raises:
        SettingsError: if the run was started with other settings.
        DataError: if the folder is no run, was started on other images, or another process works
            in it, or a network that the settings name is missing or corrupt.
    """
    path = at_home(path)
    executor.check()
    folder = runs.reopen(path)
    require_same(
        identity(folder.settings()),
        identity(settings),
        f"run {str(path)!r} was started",
        "leave them away to go on with it, retrain more of its candidates by `mbnas retrain`, or "
        "start a new run with --out",
    )
    data = datasets.load(settings.data, settings.seed)
    require_named_networks(settings, data)
    _require_equal_parts(settings, data)
    with parallel.alone_in(path):
        return _all_stages(folder, settings, data, executor)


def retrain_candidate(path: str | Path, candidate: str, settings: Settings) -> Metrics:
    """Retrain one evaluated candidate of a run, Pareto member or not.

    Raises:
        SettingsError: if the run has no such candidate, or retrained it with other settings, or
            had others for its data, supernet or search.
        DataError: if the folder is no run, was started on other images, or its supernet is not
            trained yet.
    """
    path = at_home(path)
    folder = runs.reopen(path)
    before, what = folder.settings(), f"run {str(path)!r} was started"
    require_same_networks(before, settings, what)
    decided = {"seed", "data", "supernet", "search"}
    started, asked = (
        {key: value for key, value in identity(each).items() if key in decided}
        for each in (before, settings)
    )
    require_same(started, asked, what, "leave them away: what they decide is over")
    runs.require_supernet(folder)
    device = pick_device(settings.device)
    data = datasets.load(settings.data, settings.seed)
    fingerprint = data.fingerprint()
    with parallel.alone_in(path):
        assignment = parallel.led(lambda: _find(folder, settings, candidate))
        parallel.led(lambda: runs.record_data(folder, settings, fingerprint, data.held_out))
        supernet = load_supernet(folder.supernet_file)
        parallel.led(lambda: runs.record_supernet(folder, digest(folder.supernet_file)))
        return _retrained(_Run(folder, settings, data.to(device), device), supernet, assignment)


def train_network(settings: Settings, text: str, path: str | Path) -> Metrics:
    """Train one network on its own and measure it on test images.

    It starts from scratch, or from the network that ``retraining.start`` is the folder of.

    Args:
        text: its number format, see :mod:`mbnas.formats`.
        path: where an unfinished training of the same network goes on.

    Raises:
        SettingsError: if there is no such format, or ``path`` holds a network trained otherwise
            or something else.
        DataError: if the images are missing or corrupt.
    """
    path, format_ = at_home(path), Format.parse(text, settings.space.layers)
    device = pick_device(settings.device)
    data = datasets.load(settings.data, settings.seed)
    done = finished(path, settings, format_, data)
    if done is not None:
        return done
    if not any(path.glob("*training-*.pt*")):  # begun before
        runs.require_new(path)
    require_named_networks(settings, data)
    path.mkdir(parents=True, exist_ok=True)
    with parallel.alone_in(path), suited_to(settings.table, settings.retraining):
        return retrain(settings, format_, data.to(device), path, source=None, device=device)


def require_searchable(settings: Settings, supernet_of: str | Path | None) -> None:
    """Check what can be told of a search before its images are read.

    Raises:
        SettingsError: if the budget is missing, or the supernet of the other run was trained with
            other settings.
        BudgetError: if not even the smallest network meets the budget.
        DataError: if the supernet of the other run is missing or corrupt.
    """
    if supernet_of is not None:  # of another backbone, a budget means something else
        require_trained_so(runs.reopen(at_home(supernet_of)), settings)
    check_budget(settings)


def check_budget(settings: Settings) -> float:
    """The budget in BOPS.

    Raises:
        SettingsError: if there is none.
        BudgetError: if nothing meets it.
    """
    budget, smallest = settings.search.budget, settings.space.smallest
    cost = bops(settings.table, smallest)
    if budget is None:
        raise SettingsError(f"no budget; give --budget BOPS, at least {cost}")
    if cost > budget:
        raise BudgetError(
            f"budget {budget:g} cannot be met: the smallest network of the space "
            f"({smallest.layers[0]} everywhere) costs {cost} BOPS; give at least --budget {cost}"
        )
    return budget


def _require_equal_parts(settings: Settings, data: Data) -> None:
    """Of batches, for processes that train together, before hours are spent on the first stage."""
    for recipe in (settings.supernet, settings.retraining):
        data.train.batch_size(recipe.batch_size, parallel.count())


def _all_stages(folder: RunFolder, settings: Settings, data: Data, executor: Executor) -> Outcome:
    log.info("run folder: %s", folder.path)
    fingerprint = data.fingerprint()
    parallel.led(lambda: runs.record_data(folder, settings, fingerprint, data.held_out))
    device = pick_device(settings.device)
    run = _Run(folder, settings, data.to(device), device)
    with suited_to(settings.table, settings.supernet):
        supernet = pretrained(folder, settings, run.data, device)
    parallel.led(lambda: runs.record_supernet(folder, digest(folder.supernet_file)))
    torch.cuda.empty_cache()  # workers need what no process here does any more
    trials, front, worst_cases = parallel.led(lambda: _searched(run, supernet, executor))
    retrained: list[Metrics] = []
    withstanding = [replace(each, robust=worst_cases[each.id]) for each in front]
    for trial in most_useful(withstanding, settings.retraining.candidates):
        retrained.append(_retrained(run, supernet, trial.assignment))
        parallel.led(lambda: write_pareto(folder, settings, trials, front, worst_cases, retrained))
    retrained = parallel.led(lambda: _audited(run, retrained))
    parallel.led(lambda: write_pareto(folder, settings, trials, front, worst_cases, retrained))
    return Outcome(folder, tuple(trials), tuple(front), worst_cases, tuple(retrained))


def _searched(
    run: _Run, supernet: Supernet, executor: Executor
) -> tuple[list[Trial], list[Trial], WorstCases]:
    """All candidates, the Pareto set among them, and what its members withstand; written."""
    problem = Problem.of(supernet, run.data, run.settings)
    trials = _trials(run, problem, executor)
    front = non_dominated(trials)
    if not run.folder.pareto_file.exists():  # or it may know worst cases and retrained networks
        write_pareto(run.folder, run.settings, trials, front, {}, [])
    on_device = problem.to(run.device)
    images = judges(run.data.validation, run.settings.search.images).dense()
    threads = min(executor.workers, default_workers("inprocess", run.device))
    worst_cases = rescored(on_device, images, front, run.folder.rescored, threads)
    write_pareto(run.folder, run.settings, trials, front, worst_cases, [])
    log.info(ranking(front, worst_cases))
    return trials, front, worst_cases


def _trials(run: _Run, problem: Problem, executor: Executor) -> list[Trial]:
    """Every candidate of the search, scored now or found in the journal."""
    folder, settings, space = run.folder, run.settings.search, run.settings.space
    budget = check_budget(run.settings)
    uniforms = sum(problem.cost(each) <= budget for each in space.uniforms)
    evaluations = max(settings.evaluations, uniforms)
    if evaluations > settings.evaluations:
        log.info("evaluating %d candidates, all uniform assignments among them", evaluations)
    trials = searched(
        problem,
        settings,
        budget=budget,
        evaluations=evaluations,
        seed=derive(run.settings.seed, "search"),
        journal=folder.trials,
        early=folder.early_trials,
        executor=executor,
        device=run.device,
        title="search",
    )
    if len(trials) < evaluations:
        log.info("no more candidates were found within the budget")
    log.info("search: %d candidates evaluated", len(trials))
    return trials


def _teacher(run: _Run, supernet: Supernet) -> Network | None:
    """The largest sub-network, where the settings let it teach what is retrained."""
    if run.settings.retraining.teacher != "supernet":
        return None
    problem = Problem.of(supernet, run.data, run.settings).to(run.device)
    return problem.candidate(run.settings.space.largest)


def _retrained(run: _Run, supernet: Supernet, assignment: Assignment) -> Metrics:
    """What retraining measured, from disk where it is there already."""
    target, chosen = run.folder.candidate(assignment.id), Format.multibit(assignment)
    done = finished(target, run.settings, chosen, run.data)
    if done is not None:
        return done
    start = supernet if run.settings.retraining.start == "supernet" else None
    with suited_to(run.settings.table, run.settings.retraining):
        return retrain(
            run.settings,
            chosen,
            run.data,
            target,
            source=start,
            device=run.device,
            teacher=_teacher(run, supernet),
        )


def _audited(run: _Run, retrained: Sequence[Metrics]) -> list[Metrics]:
    """The metrics of each retrained network with its audit, the others as sources."""
    folders = {each["id"]: run.folder.candidate(each["id"]) for each in retrained}

    def record(name: str) -> dict[str, Any]:
        others = {each: folders[each] for each in folders if each != name}
        network = freeze(load_network(folders[name])[0].to(run.device))
        settings, images = run.settings, run.data.test
        return audited(network, name, settings, images, folders[name], settings.test.audit, others)

    return [{**each, "audit": record(each["id"])} for each in retrained]


def _find(folder: RunFolder, settings: Settings, candidate: str) -> Assignment:
    trials = recorded(folder.trials, settings.space.layers)
    for trial in trials:
        if trial.id == candidate:
            return trial.assignment
    raise SettingsError(
        f"run {str(folder.path)!r} has no candidate {candidate!r} among {len(trials)}; "
        f"their ids are in {folder.trials.path}"
    )
