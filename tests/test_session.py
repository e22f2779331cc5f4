"""A session makes every result count once, whatever the order, the crash, or the restart."""

import json
import random
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from helpers import scored, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from mbnas.assignment import Assignment, Space
from mbnas.errors import DataError
from mbnas.runs import RunFolder
from mbnas.search.engines import Engine, engine
from mbnas.search.problem import Trial
from mbnas.search.session import Session

SPACE = Space((1, 2, 3), (1, 2, 3), 3)
EVALUATIONS = 21  # the last generation is cut
WORKERS = st.integers(1, 6)
SEEDS = st.integers(0, 2**32)
FEW = settings(max_examples=15)
GENERATION = [SPACE.sample(random.Random(seed)) for seed in range(12)]


def session(
    path: Path,
    proposer: Engine | None = None,
    evaluations: int = EVALUATIONS,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> Session:
    """What a process that starts or restarts on this folder builds."""
    if proposer is None:
        proposer = engine(tiny("search.population=6").search, SPACE, lambda _: True, seed=0)
    return Session(
        proposer,
        SPACE.layers,
        evaluations,
        journal=RunFolder(path).trials,
        early=RunFolder(path).early_trials,
        on_trial=on_trial,
    )


def scripted(*generations: Sequence[Assignment]) -> tuple[Engine, list[Sequence[Trial]]]:
    """An engine that asks for these, and what it is told."""
    script, told = iter(generations), list[Sequence[Trial]]()
    double = SimpleNamespace(ask=lambda: list(next(script, ())), tell=told.append)
    return cast(Engine, double), told


def work(
    one: Session, workers: int, rng: random.Random, results: int | None = None
) -> list[Assignment]:
    """Workers that finish in any order, until the end or a crash after some results.

    Returns:
        What was finished; what the workers hold at a crash is lost.
    """
    running: list[Assignment] = []
    finished: list[Assignment] = []
    while not one.finished and len(finished) != results:
        while len(running) < workers and (assignment := one.next()) is not None:
            running.append(assignment)
        done = running.pop(rng.randrange(len(running)))
        one.record(scored(done))
        finished.append(done)
    return finished


def written(path: Path) -> list[str]:
    journal = RunFolder(path).trials.path
    return journal.read_text().splitlines() if journal.exists() else []


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The journal of one worker that nobody interrupts."""
    path = tmp_path_factory.mktemp("reference")
    work(session(path), 1, random.Random(0))
    lines = written(path)
    assert len(lines) == EVALUATIONS
    return lines


def test_the_journal_holds_what_was_scored(reference: list[str]) -> None:
    for line in reference:
        record = json.loads(line)
        assert record == scored(Assignment.parse(record["assignment"], SPACE.layers)).record()


@given(workers=WORKERS, seed=SEEDS)
@FEW
def test_the_order_of_arrival_does_not_reach_the_journal(
    reference: list[str], tmp_path_factory: pytest.TempPathFactory, workers: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("session")
    finished = work(session(path), workers, random.Random(seed))
    assert len(finished) == len(set(finished)) == EVALUATIONS
    assert written(path) == reference


@given(workers=WORKERS, seed=SEEDS, lives=st.lists(st.integers(0, 5), max_size=10))
@FEW
def test_nothing_finished_is_lost_or_scored_again_however_often_it_crashes(
    reference: list[str],
    tmp_path_factory: pytest.TempPathFactory,
    workers: int,
    seed: int,
    lives: list[int],
) -> None:
    path, rng = tmp_path_factory.mktemp("session"), random.Random(seed)
    finished: list[Assignment] = []
    for results in (*lives, None):
        before = written(path)
        finished += work(session(path), workers, rng, results)
        assert written(path)[: len(before)] == before
    assert len(finished) == len(set(finished)) == EVALUATIONS
    assert written(path) == reference


@pytest.mark.parametrize("workers", [1, 3])
def test_a_crash_after_every_single_result_loses_none(
    reference: list[str], tmp_path: Path, workers: int
) -> None:
    rng = random.Random(0)
    finished = [
        each for _ in range(EVALUATIONS) for each in work(session(tmp_path), workers, rng, 1)
    ]
    assert len(set(finished)) == EVALUATIONS
    assert session(tmp_path).finished
    assert written(tmp_path) == reference


@given(kept=st.integers(0, 2000))
@FEW
def test_a_journal_cut_anywhere_grows_into_the_same_one(
    reference: list[str], tmp_path_factory: pytest.TempPathFactory, kept: int
) -> None:
    path = tmp_path_factory.mktemp("session")
    text = "".join(f"{line}\n" for line in reference)[:kept]
    RunFolder(path).trials.path.write_text(text)
    finished = work(session(path), 2, random.Random(0))
    assert len(finished) == EVALUATIONS - text.count("\n")
    assert written(path) == reference


def test_early_results_outlive_a_crash_and_leave_no_file_behind(tmp_path: Path) -> None:
    first = session(tmp_path)
    one, two = first.next(), first.next()
    assert one is not None
    assert two is not None
    first.record(scored(two))
    again = session(tmp_path)
    assert again.next() == one
    assert again.next() not in (one, two)
    again.record(scored(one))
    assert [json.loads(line)["id"] for line in written(tmp_path)] == [one.id, two.id]
    work(session(tmp_path), 1, random.Random(0))
    assert not RunFolder(tmp_path).early_trials.path.exists()


@given(workers=WORKERS, seed=SEEDS)
@FEW
def test_the_engine_is_told_complete_generations_in_the_order_asked(
    tmp_path_factory: pytest.TempPathFactory, workers: int, seed: int
) -> None:
    rng = random.Random(seed)
    generations = [GENERATION[:4], GENERATION[4:5], GENERATION[5:9]]
    proposer, told = scripted(*generations)
    one = session(tmp_path_factory.mktemp("session"), proposer)
    work(one, workers, rng)
    assert [[trial.assignment for trial in each] for each in told] == generations
    assert [trial.assignment for trial in one.trials] == list(chain(*generations))


def test_the_engine_hears_nothing_before_a_generation_is_complete(tmp_path: Path) -> None:
    proposer, told = scripted(GENERATION[:3], GENERATION[3:5])
    one = session(tmp_path, proposer)
    for _ in range(3):
        assert told == []
        handed_out = one.next()
        assert handed_out is not None
        one.record(scored(handed_out))
    assert len(told) == 1


def test_nothing_is_handed_out_while_a_generation_is_being_scored(tmp_path: Path) -> None:
    proposer, _ = scripted(GENERATION[:2], GENERATION[2:4])
    one = session(tmp_path, proposer)
    assert [one.next(), one.next(), one.next()] == [*GENERATION[:2], None]
    one.record(scored(GENERATION[1]))
    assert one.next() is None
    assert not one.finished
    one.record(scored(GENERATION[0]))
    assert one.next() == GENERATION[2]


@pytest.mark.parametrize("evaluations", [1, 3, 4, 5, 9])
def test_no_more_is_scored_than_was_ordered(tmp_path: Path, evaluations: int) -> None:
    proposer, _ = scripted(GENERATION[:4], GENERATION[4:8], GENERATION[8:12])
    one = session(tmp_path, proposer, evaluations)
    work(one, 3, random.Random(0))
    assert [trial.assignment for trial in one.trials] == GENERATION[:evaluations]
    assert one.next() is None


def test_an_exhausted_space_ends_the_session(tmp_path: Path) -> None:
    proposer, _ = scripted(GENERATION)
    one = session(tmp_path, proposer, evaluations=100)
    assert set(work(one, 2, random.Random(0))) == {*GENERATION}
    assert one.finished


def test_more_evaluations_continue_a_finished_journal(reference: list[str], tmp_path: Path) -> None:
    work(session(tmp_path, evaluations=9), 2, random.Random(0))
    assert written(tmp_path) == reference[:9]
    work(session(tmp_path), 2, random.Random(0))
    assert written(tmp_path) == reference


def test_each_new_result_is_announced_once(tmp_path: Path) -> None:
    announced: list[Trial] = []
    finished = work(session(tmp_path, on_trial=announced.append), 3, random.Random(0), 10)
    assert [trial.assignment for trial in announced] == finished
    finished += work(session(tmp_path, on_trial=announced.append), 3, random.Random(1))
    assert [trial.assignment for trial in announced] == finished


def test_a_journal_of_another_search_is_refused(tmp_path: Path) -> None:
    other = engine(tiny("search.population=6").search, SPACE, lambda _: True, seed=1)
    work(session(tmp_path, other), 1, random.Random(0))
    with pytest.raises(DataError, match="holds other candidates than are proposed here"):
        session(tmp_path)


def test_a_journal_out_of_order_is_refused(reference: list[str], tmp_path: Path) -> None:
    swapped = [reference[1], reference[0], *reference[2:]]
    RunFolder(tmp_path).trials.path.write_text("\n".join(swapped) + "\n")
    with pytest.raises(DataError, match="it is damaged, or was written by another version"):
        session(tmp_path)


def test_a_shorter_search_leaves_a_longer_journal_alone(
    reference: list[str], tmp_path: Path
) -> None:
    RunFolder(tmp_path).trials.path.write_text("\n".join(reference) + "\n")
    one = session(tmp_path, evaluations=9)
    assert one.finished
    assert len(one.trials) == 9
    assert written(tmp_path) == reference


@pytest.mark.parametrize("line", ["{}", "3", '{"assignment": "1x1"}', '{"assignment": 7}'])
def test_a_line_that_is_no_trial_is_refused(tmp_path: Path, line: str) -> None:
    RunFolder(tmp_path).trials.path.write_text(f"{line}\n")
    with pytest.raises(DataError, match="journal"):
        session(tmp_path)
