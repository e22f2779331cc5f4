"""What a Pareto member withstands: by which attacks, on which images, and nothing twice."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import noise, scored, tiny
from victims import grey, masked

from mbnas import data as datasets
from mbnas import threads
from mbnas.evaluation import Steered, another
from mbnas.images import Images
from mbnas.journal import Journal
from mbnas.randomness import seeded
from mbnas.search import rescoring
from mbnas.search.problem import Problem
from mbnas.search.rescoring import judges, rescored
from mbnas.settings import Surrogate
from mbnas.supernet import Supernet

SETTINGS = tiny("threat.steps=6")
OWN = SETTINGS.threat.surrogate
DIM = grey([153] * 40, [0] * 40, side=8)  # 0.1 below where the victim errs; eps is 0.15


@pytest.fixture(scope="module")
def problem() -> Problem:
    """An untrained supernet of digits."""
    with seeded(0):
        supernet = Supernet(SETTINGS.table, SETTINGS.space).eval()
    return Problem.of(supernet, datasets.load(SETTINGS.data, seed=0), SETTINGS)


Withstood = Callable[[Steered], dict[str, float]]


@pytest.fixture
def withstood(problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Withstood:
    """What the journal says of one member, if that is the given model."""

    def measured(model: Steered) -> dict[str, float]:
        monkeypatch.setattr(Problem, "candidate", lambda *_: model)
        journal = Journal(tmp_path / "rescored.jsonl")
        member = scored(problem.space.smallest)
        found = rescored(problem, DIM, [member], journal, 1)
        (record,) = journal.read()
        assert found == {member.id: record["worst_case"]}
        return record

    return measured


@pytest.mark.parametrize("leads", [OWN, Surrogate.STE, another(OWN)])
def test_a_network_is_attacked_through_three_surrogates(
    leads: Surrogate, withstood: Withstood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescoring, "QUERIES", 1)  # or Square would break it without any
    record = withstood(masked(leads))
    for surrogate in (OWN, Surrogate.STE):
        assert record[f"pgd_{surrogate}_every"] == (0 if surrogate is leads else 1)
    assert record["worst_case"] == 0


def test_where_no_gradient_leads_random_search_does(withstood: Withstood) -> None:
    assert withstood(masked(Surrogate.WIDE))["worst_case"] < 0.5


def test_a_single_query_is_not_enough(
    withstood: Withstood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescoring, "QUERIES", 1)
    assert withstood(masked(Surrogate.WIDE))["worst_case"] > 0.5


@pytest.mark.parametrize(
    ("held_out", "scoring", "expected"),
    [
        (10, 3, [3, 4, 5]),
        (6, 3, [3, 4, 5]),
        (5, 3, [0, 1, 2]),  # two others are too few
        (3, 3, [0, 1, 2]),
    ],
)
def test_images_that_scored_candidates_judge_them_only_for_want_of_others(
    held_out: int, scoring: int, expected: list[int]
) -> None:
    stored = noise(20, (1, 2, 2), 10)
    validation = stored.take(torch.arange(held_out) * 2)
    assert judges(validation, scoring).positions.tolist() == [2 * each for each in expected]


def test_what_was_finished_or_begun_at_an_interrupt_is_kept(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_all, rng = problem.space, random.Random(0)
    drawn = dict.fromkeys(of_all.sample(rng) for _ in range(12))
    members = [scored(each) for each in drawn]
    attacked: list[str] = []

    def wait(running: set[object], **options: object) -> object:
        if options and len(attacked) > 2:
            raise KeyboardInterrupt
        return original(running, **options)

    def attack(problem: Problem, images: Images, assignment: object) -> dict[str, object]:
        attacked.append(str(assignment))
        return {"id": assignment.id, "worst_case": 0.5}

    original = threads.wait
    monkeypatch.setattr(threads, "wait", wait)
    monkeypatch.setattr(rescoring, "_attacked", attack)
    journal = Journal(tmp_path / "rescored.jsonl")
    with pytest.raises(KeyboardInterrupt):
        rescored(problem, DIM, members, journal, 2)
    assert 2 < len(attacked) == len(journal.read()) < len(members)
    monkeypatch.setattr(threads, "wait", original)
    found = rescored(problem, DIM, members, journal, 2)
    assert found == {each.id: 0.5 for each in members}
    assert sorted(attacked) == sorted(str(each.assignment) for each in members)
