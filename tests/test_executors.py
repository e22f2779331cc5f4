"""Who scores the candidates, and how many at a time, changes nothing."""

import errno
import signal
import socket
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal
from unittest import mock

import pytest
import ray
import torch
from helpers import same, tiny

from mbnas import data as datasets
from mbnas import threads
from mbnas.assignment import Assignment
from mbnas.bops import bops
from mbnas.errors import MbnasError, SettingsError
from mbnas.evaluation import Scores, recalibrate, scoring_stages
from mbnas.images import Images
from mbnas.networks import freeze
from mbnas.randomness import seeded
from mbnas.runs import RunFolder
from mbnas.search.engines import engine
from mbnas.search.executors import Executor, default_workers
from mbnas.search.loop import searched
from mbnas.search.problem import Problem, Trial
from mbnas.search.session import Session
from mbnas.settings import Robustness
from mbnas.supernet import Supernet

CPU = torch.device("cpu")
EVALUATIONS = 10  # generations of four: the last one is cut
Journal = list[dict[str, object]]


@pytest.fixture(scope="module")
def problem() -> Problem:
    """An untrained supernet of digits."""
    settings = tiny()
    data = datasets.load(settings.data, seed=0)
    with seeded(0):
        supernet = Supernet(settings.table, settings.space).eval()
    return Problem(
        supernet,
        calibration=data.train.first(32).dense(),
        validation=data.validation.first(20).dense(),
        threat=settings.threat,
        objective=Robustness.PGD,
        seed=0,
    )


def test_an_executor_needs_a_known_kind_and_somebody_who_works() -> None:
    with pytest.raises(SettingsError, match="no executor 'foo'; give 'ray' or 'inprocess'"):
        Executor("foo")
    with pytest.raises(SettingsError, match="0 workers score nothing; give at least 1"):
        Executor("inprocess", 0)


def test_a_candidate_has_statistics_of_its_own(problem: Problem) -> None:
    assignment = problem.space.smallest
    plain, found = freeze(problem.source.network(assignment)), problem.candidate(assignment)
    assert not same(found, plain)
    recalibrate(plain, problem.calibration)
    assert same(found, plain)


@pytest.mark.parametrize("objective", list(Robustness))
def test_candidates_are_scored_by_the_objective_of_the_settings(
    problem: Problem, objective: Robustness, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, seen = tiny(f"search.objective={objective}"), []

    def measure(*arguments: object) -> Scores:
        seen.append(arguments[4])
        return Scores(1, 1, 0)

    monkeypatch.setattr("mbnas.search.problem.measure", measure)
    asked = Problem.of(problem.source, datasets.load(settings.data, 0), settings)
    asked.score(problem.space.smallest)
    assert seen == [scoring_stages(objective, settings.threat)]


def journal(problem: Problem, executor: Executor, path: Path) -> Journal:
    """What a search writes, the timings aside."""
    folder = RunFolder(path)
    session = Session(
        engine(tiny().search, problem.space, lambda _: True, seed=0),
        problem.space.layers,
        EVALUATIONS,
        journal=folder.trials,
        early=folder.early_trials,
    )
    executor.run(problem, session, CPU)
    assert not folder.early_trials.path.exists()
    return [{**record, "seconds": None} for record in folder.trials.read()]


@pytest.fixture(scope="module")
def reference(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Journal:
    return journal(problem, Executor("inprocess", 1), tmp_path_factory.mktemp("reference"))


def test_each_candidate_and_each_seed_is_attacked_from_elsewhere(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = set()

    def measure(*given: object) -> Scores:
        starts.add(float(torch.rand(1, generator=given[3])))
        return Scores(1, 1, 0)

    monkeypatch.setattr("mbnas.search.problem.measure", measure)
    for seed, each in product((0, 1), (problem.space.smallest, problem.space.largest)):
        replace(problem, seed=seed).score(each)
    assert len(starts) == 4


def test_a_network_that_costs_the_whole_budget_is_a_candidate(
    problem: Problem, tmp_path: Path
) -> None:
    folder, smallest = RunFolder(tmp_path), problem.space.smallest
    (trial,) = searched(
        problem,
        tiny().search,
        budget=problem.cost(smallest),
        evaluations=5,
        seed=0,
        journal=folder.trials,
        early=folder.early_trials,
        executor=Executor("inprocess", 1),
        device=CPU,
        title="search",
    )
    assert trial.assignment == smallest


def test_one_worker_scores_every_candidate_once(problem: Problem, reference: Journal) -> None:
    assert len({record["assignment"] for record in reference}) == len(reference) == EVALUATIONS
    for record, assignment in zip(reference, problem.space.uniforms, strict=False):
        assert record["assignment"] == str(assignment)
        assert record["bops"] == bops(tiny().table, assignment)


@pytest.mark.parametrize(
    "executor", [Executor("inprocess", 2), Executor("inprocess", 7), Executor("ray", 2)], ids=str
)
def test_the_journal_is_the_same_whoever_scores(
    problem: Problem, reference: Journal, executor: Executor, tmp_path: Path
) -> None:
    count, on_termination = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    assert journal(problem, executor, tmp_path) == reference
    assert torch.get_num_threads() == count
    assert signal.getsignal(signal.SIGTERM) == on_termination


def test_a_failing_candidate_ends_the_search_instead_of_being_skipped(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Problem, "score", broken)
    with pytest.raises(ZeroDivisionError):
        journal(problem, Executor("inprocess", 2), tmp_path)
    assert RunFolder(tmp_path).trials.read() == []


def test_what_is_being_scored_at_an_interrupt_is_waited_for_and_kept(
    problem: Problem, reference: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(running: set[object], **options: object) -> object:
        if options and len(scored) > 1:
            raise KeyboardInterrupt
        return original(running, **options)

    def score(self: Problem, assignment: Assignment) -> Trial:
        scored.append(assignment)
        return whole(self, assignment)

    scored: list[Assignment] = []
    original, whole = threads.wait, Problem.score
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(threads, "wait", wait)
        patched.setattr(Problem, "score", score)
        journal(problem, Executor("inprocess", 3), tmp_path)
    folder = RunFolder(tmp_path)
    kept = [*folder.trials.read(), *folder.early_trials.read()]
    assert {each["assignment"] for each in kept} == set(map(str, scored))
    assert len(scored) > 1
    assert journal(problem, Executor("inprocess", 1), tmp_path) == reference


@pytest.mark.parametrize("kind", ["inprocess", "ray"])
def test_behind_a_score_that_could_not_be_written_none_is(
    problem: Problem,
    kind: Literal["inprocess", "ray"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    def full(*_: object) -> None:
        tried.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mbnas.journal.Journal.append", full)
    with pytest.raises(OSError, match="No space left"):
        journal(problem, Executor(kind, 2), tmp_path)
    assert len(tried) == 1


def test_a_finished_search_starts_nobody(
    problem: Problem, reference: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert journal(problem, Executor("inprocess", 1), tmp_path) == reference
    monkeypatch.setattr(Problem, "to", None)
    for kind in ("ray", "inprocess"):
        assert journal(problem, Executor(kind, 2), tmp_path) == reference


def test_a_cluster_that_does_not_answer_is_told_before_any_work() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(SettingsError, match=f"no Ray cluster at '{address}'"):
        Executor("ray", 1, address).check()


@pytest.mark.parametrize(
    ("address", "failure", "told"),
    [
        (
            "host:1",
            RuntimeError("Version mismatch: The cluster was started with:\n    Python: 3.11.9\n"),
            r"--address 'host:1' \(Version mismatch: .* Python: 3.11.9\);",
        ),
        (
            None,
            ConnectionError("could not read\nthe session's file"),
            r"on this machine \(could not read the session's file\); .* --executor inprocess",
        ),
    ],
)
def test_a_ray_that_cannot_be_worked_with_is_told_in_one_line(
    address: str | None,
    failure: Exception,
    told: str,
    problem: Problem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(**_: object) -> None:
        raise failure

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr(Executor, "check", lambda _: None)
    with pytest.raises(SettingsError, match=told):
        journal(problem, Executor("ray", 1, address), tmp_path)


@pytest.mark.parametrize(
    ("kind", "address", "message"),
    [
        ("ray", "myhost", "--address 'myhost' is not HOST:PORT"),
        ("ray", "", "--address '' is not HOST:PORT"),
        ("ray", "ray://myhost:10001", "--address 'ray://myhost:10001' is not HOST:PORT"),
        ("inprocess", "auto", "--address auto is of a Ray cluster; leave it away"),
    ],
)
def test_an_address_that_cannot_be_one_is_told_before_any_work(
    kind: Literal["ray", "inprocess"], address: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        Executor(kind, 1, address).check()


@pytest.fixture
def init(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """In place of ``ray.init``, as if Ray had not begun yet."""
    replaced = mock.Mock(is_initialized=mock.Mock(return_value=False))
    for each in ("init", "shutdown", "is_initialized"):
        monkeypatch.setattr(ray, each, getattr(replaced, each))
    begun: mock.Mock = replaced.init
    return begun


def test_a_cluster_is_tried_before_any_work_where_one_is_named(
    init: mock.Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        Executor("ray", 1, address).check()
        server.accept()[0].close()  # somebody knocked
    monkeypatch.setattr(socket, "create_connection", None)  # nobody may, where none is named
    Executor("ray", 1, "auto").check()
    Executor("ray", 1).check()
    assert [each.kwargs["address"] for each in init.call_args_list] == [address, "auto"]
    init.side_effect = ConnectionError("Could not find any running Ray instance.")
    with pytest.raises(SettingsError, match="no Ray cluster to work with at --address 'auto'"):
        Executor("ray", 1, "auto").check()


def test_without_ray_the_other_executor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match="--executor inprocess"):
        Executor("ray", 1).check()
    Executor("inprocess", 1).check()


def test_there_is_a_worker_for_each_thread_or_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [default_workers(kind, cpu) for kind in ("ray", "inprocess")] == [5, 5]
    assert [default_workers(kind, gpu) for kind in ("ray", "inprocess")] == [8, 1]


@pytest.mark.parametrize(
    ("workers", "gpus", "share"), [(1, 0, 0), (2, 2, 1), (5, 2, 1 / 3), (8, 1, 1 / 8), (1, 4, 1)]
)
def test_no_worker_shares_a_gpu_with_more_others_than_it_must(
    monkeypatch: pytest.MonkeyPatch, workers: int, gpus: int, share: float
) -> None:
    from mbnas.search import raytune

    resources = {"CPU": 8.0, **({"GPU": float(gpus)} if gpus else {})}
    monkeypatch.setattr(raytune.ray, "cluster_resources", lambda: resources)
    assert raytune.gpu_share(workers) == share


def test_a_worker_that_fails_ends_the_search_in_a_line_that_says_why(
    problem: Problem, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = problem.validation
    foreign = replace(
        problem, validation=Images.of(images.pixels.expand(-1, 3, -1, -1), images.targets)
    )
    told = r"Ray worker failed \(.*DataError: images .20, 3, 8, 8. .*\); .* --resume"
    with pytest.raises(MbnasError, match=told):
        journal(foreign, Executor("ray", workers=1), tmp_path)
    assert "in classify" in caplog.text  # the whole of it, for who mends it


def test_a_cluster_without_gpus_is_told_where_candidates_need_one(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mbnas.search import raytune

    moved: list[torch.device] = []
    monkeypatch.setattr(Problem, "to", lambda self, device: moved.append(device) or self)
    monkeypatch.setattr(raytune.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(raytune.ray, "cluster_resources", lambda: {"CPU": 8.0})
    gpu, session = torch.device("cuda"), mock.Mock(Session)
    with pytest.raises(SettingsError, match=r"has no GPU .* or score .* --set device=cpu"):
        raytune.run(problem, session, 2, "auto", gpu)
    assert moved == [CPU, gpu]  # and back
