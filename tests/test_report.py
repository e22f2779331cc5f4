"""What is reported is what was found: in files, on a terminal of 80 columns, and offline."""

import csv
import io
import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import SPACES, sources, tiny
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from mbnas import config
from mbnas.assignment import Assignment, Bases
from mbnas.bops import bops, itemise
from mbnas.report import (
    Metrics,
    attack_table,
    cost_table,
    pareto_figure,
    pareto_table,
    ranking,
    retrained_table,
    short,
    space_table,
    write_pareto,
)
from mbnas.runs import RunFolder
from mbnas.search.problem import Trial
from mbnas.settings import Settings, Surrogate

SETTINGS = tiny("search.budget=1e6")
EVERY_SPACE = pytest.mark.parametrize("file", sorted(SPACES.glob("*.yaml")), ids=lambda f: f.stem)
BASES = st.builds(Bases, st.integers(1, 3), st.integers(1, 2))


def trials(settings: Settings, count: int = 6) -> list[Trial]:
    """Different candidates with made-up scores; one of them has no loss."""
    rng = random.Random(0)
    assignments = [settings.space.smallest, *(settings.space.sample(rng) for _ in range(count - 1))]
    return [
        Trial(each, bops(settings.table, each), rng.random(), rng.random(), loss, 0.1)
        for each, loss in zip(assignments, (None, 1234.5678, *[0.5] * count), strict=False)
    ]


def metrics(settings: Settings, trial: Trial) -> Metrics:
    """What retraining says of a candidate, as wide as it gets."""
    widest = {"mean": 1.0, "std": 0.999}
    names = [f"{surrogate}_{count}" for surrogate in Surrogate for count in ("every", "last")]
    return {
        "id": trial.id,
        "assignment": str(trial.assignment),
        "format": f"mbn{trial.assignment}",
        "bops": trial.bops,
        "threat": settings.threat.model_dump(mode="json"),
        "test": {
            "natural": 1.0,
            "pgd": widest,
            "attacks": dict.fromkeys(names, widest),
            "images": 10_000,
            "attacked": 10_000,
            "runs": 5,
        },
    }


def worst_cases(front: list[Trial]) -> dict[str, float]:
    """Half of what the search saw."""
    return {trial.id: trial.robust / 2 for trial in front}


def shown(table: Table) -> str:
    """The text of a table on a terminal of 80 columns."""
    console = Console(width=80, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def cells(table: Table, column: int) -> list[str]:
    return [str(cell) for cell in table.columns[column].cells]


# Files


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """What was written of six candidates, four of them Pareto members, one retrained."""
    folder, found = RunFolder(tmp_path), trials(SETTINGS)
    front = found[:4]
    write_pareto(folder, SETTINGS, found, front, worst_cases(front), [metrics(SETTINGS, found[0])])
    return folder


def test_csv_and_json_hold_the_members_in_order(folder: RunFolder) -> None:
    front = trials(SETTINGS)[:4]
    rows = json.loads(folder.pareto_file.read_text())
    assert rows == [{**trial.row(), "worst_case": trial.robust / 2} for trial in front]
    with folder.pareto_file.with_suffix(".csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [list(row) for row in table] == [list(row) for row in rows]
    read = [
        {
            "id": row["id"],
            "assignment": row["assignment"],
            "bops": int(row["bops"]),
            **{key: float(row[key]) for key in ("natural", "robust")},
            "loss": float(row["loss"]) if row["loss"] else None,
            "worst_case": float(row["worst_case"]),
        }
        for row in table
    ]
    assert read == rows


def test_the_picture_opens_offline_and_holds_every_member(folder: RunFolder) -> None:
    page = folder.pareto_file.with_suffix(".html").read_text()
    assert sources(page) == []
    for trial in trials(SETTINGS)[:4]:
        assert f'"{trial.id}\\u003cbr\\u003e{short(trial.assignment)}"' in page


def test_the_picture_shows_what_was_measured() -> None:
    found = trials(SETTINGS)
    front = found[:4]
    audit = {"worst_case": {"accuracy": 0.25}, "verdict": "FAIL"}
    retrained = [metrics(SETTINGS, found[0]) | {"audit": audit}]
    worst_cases = {trial.id: trial.robust / 2 for trial in front}
    figure = pareto_figure(SETTINGS, found, front, worst_cases, retrained)
    for column, objective in ((1, "natural"), (2, "robust")):
        points = {
            trace.name: [*zip(trace.x, trace.y, strict=True)]
            for trace in figure.select_traces(row=1, col=column)
        }
        expected = [(trial.bops, getattr(trial, objective)) for trial in found]
        withstood = [(trial.bops, trial.robust / 2) for trial in front]
        assert points == {
            "evaluated": expected,
            "Pareto set": expected[:4],
            "uniform": expected[:1],
            "retrained, test images": [(found[0].bops, 1.0)],
            **(
                {
                    "Pareto set, worst case": withstood,
                    "retrained, worst case of the audit": [(found[0].bops, 0.25)],
                }
                if objective == "robust"
                else {}
            ),
        }
    (bases,) = figure.select_traces(row=2)
    assert [list(row) for row in bases.text] == [[*map(str, trial.assignment)] for trial in front]
    assert [list(row) for row in bases.z] == [[m * n for m, n in each.assignment] for each in front]
    assert list(bases.x) == [row.name for row in SETTINGS.table.searchable]


# Tables


@given(layers=st.lists(BASES, min_size=1, max_size=20))
def test_the_short_form_counts_runs_and_loses_nothing(layers: list[Bases]) -> None:
    assert Assignment.parse(short(Assignment(tuple(layers))), len(layers)).layers == tuple(layers)
    runs = [part.partition("*") for part in short(Assignment(tuple(layers))).split(" ")]
    expanded = [bases for bases, _, count in runs for _ in range(int(count or 1))]
    assert expanded == [str(bases) for bases in layers]
    assert all(one != other for (one, *_), (other, *_) in pairwise(runs))


def test_a_single_run_has_no_spread_and_the_images_are_counted() -> None:
    several = metrics(SETTINGS, trials(SETTINGS)[0])
    once = several | {"test": several["test"] | {"runs": 1, "attacked": 500}}
    for measured, spread in ((several, True), (once, False)):
        for table in (retrained_table([measured], SETTINGS.space.layers), attack_table(measured)):
            assert ("±" in shown(table)) == spread
    text = " ".join(shown(retrained_table([once, several], SETTINGS.space.layers)).split())
    assert "natural on 10000, PGD on 500 or natural on 10000, PGD on 10000 images" in text


@EVERY_SPACE
def test_tables_fit_80_columns_and_cut_nothing_off(file: Path) -> None:
    settings = config.load(file, ["search.budget=123456789"])
    found = trials(settings)
    retrained = [metrics(settings, trial) for trial in found]
    tables = (
        pareto_table(found, worst_cases(found)),
        retrained_table(retrained, settings.space.layers),
        cost_table(itemise(settings.table, settings.space.largest)),
        space_table(settings),
        attack_table(retrained[0]),
    )
    for table in tables:
        text = shown(table)
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text
        written = [str(cell) for column in table.columns for cell in column.cells]
        assert all(part in text for cell in written for part in cell.split())


def test_how_far_the_ranking_changed_is_said_with_the_table_and_the_picture(
    folder: RunFolder,
) -> None:
    front = trials(SETTINGS)[:4]
    told = ranking(front, worst_cases(front))
    assert told in " ".join(shown(pareto_table(front, worst_cases(front))).split())
    assert told in folder.pareto_file.with_suffix(".html").read_text().replace("\\u0027", "'")


def test_tables_say_what_was_measured() -> None:
    found = trials(SETTINGS)
    front = pareto_table(found, worst_cases(found))
    worst = [worst_cases(found)[trial.id] for trial in found]
    for column, fractions in (
        (2, [trial.natural for trial in found]),
        (3, [trial.robust for trial in found]),
        (4, worst),
    ):
        assert list(front.columns[column].cells) == [f"{each:.1%}" for each in fractions]
    audit = {"worst_case": {"accuracy": 0.25}, "images": 500, "verdict": "FAIL"}
    audited = {**metrics(SETTINGS, found[0]), "audit": audit}
    table = retrained_table([audited], SETTINGS.space.layers)
    assert list(table.columns[4].cells) == ["25.0% FAIL"]
    plain = retrained_table([metrics(SETTINGS, found[0])], SETTINGS.space.layers)
    assert "worst case" not in [column.header for column in plain.columns]


@EVERY_SPACE
def test_the_cost_table_adds_up(file: Path) -> None:
    settings = config.load(file)
    layers = itemise(settings.table, settings.space.largest)
    table = cost_table(layers)
    _, macs, _, cost, share = (cells(table, column) for column in range(5))
    footers = [str(column.footer) for column in table.columns]
    for column, footer in ((macs, footers[1]), (cost, footers[3])):
        assert sum(int(cell.replace(",", "")) for cell in column) == int(footer.replace(",", ""))
    assert footers[3] == f"{bops(settings.table, settings.space.largest):,}"
    assert sum(float(cell.rstrip("%")) for cell in share) == pytest.approx(
        100, abs=0.05 * len(share)
    )


@EVERY_SPACE
def test_the_space_table_says_which_uniform_networks_are_affordable(file: Path) -> None:
    settings = config.load(file)
    costs = sorted(bops(settings.table, each) for each in settings.space.uniforms)
    budget = costs[len(costs) // 2]
    settings = config.load(file, [f"search.budget={budget}"])
    table = space_table(settings)
    names, cost, verdicts = (cells(table, column) for column in range(3))
    assert cost == [f"{each:.4e}" for each in costs]
    assert verdicts == ["yes" if each <= budget else "no" for each in costs]
    assert names[0].endswith("(smallest)")
    assert names[-1].endswith("(largest)")


def test_the_ranking_is_compared_where_there_is_one() -> None:
    front = sorted(trials(SETTINGS), key=lambda trial: trial.robust)
    rising = {trial.id: place / 10 for place, trial in enumerate(front)}
    swapped = rising | {front[0].id: 0.1, front[1].id: 0.0}
    pairs = len(front) * (len(front) - 1) // 2
    cheapest_last = {trial.id: -trial.bops for trial in front}
    assert ": 1.00 of robust accuracy" in ranking(front, rising)
    assert f": {1 - 2 / pairs:.2f} of robust accuracy" in ranking(front, swapped)
    assert "-1.00 of BOPS" in ranking(front, cheapest_last)
    for nothing in (ranking(front, dict.fromkeys(rising, 0.5)), ranking(front[:1], rising)):
        assert nothing == "robust accuracy and worst case leave nothing to rank"
