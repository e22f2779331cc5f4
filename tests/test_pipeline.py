"""What must hold of a whole run, whatever it finds."""

import errno
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
import torch
from helpers import README, SEVERAL, same, tiny
from torch import Tensor

from mbnas import config, inspection, pipeline, pretraining, runs
from mbnas import data as datasets
from mbnas.assignment import Assignment
from mbnas.auditing import PLANS
from mbnas.checkpoints import load_network, load_supernet, save_supernet
from mbnas.data import Data
from mbnas.errors import BudgetError, DataError, SettingsError
from mbnas.files import alone_in, read_json, write_json
from mbnas.images import Images
from mbnas.pareto import most_useful
from mbnas.pipeline import Outcome
from mbnas.report import COLUMNS
from mbnas.runs import RunFolder
from mbnas.search.executors import Executor
from mbnas.search.problem import Problem, Trial
from mbnas.settings import DataSettings, Effort, Robustness, Surrogate

BUDGET = 110_000  # 2x2 everywhere is beyond it
CHANGES = (f"search.budget={BUDGET}", *SEVERAL)
SETTINGS = tiny(*CHANGES)
INPROCESS = Executor("inprocess", 2)

pytestmark = pytest.mark.usefixtures("brief_audits")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    found = pipeline.run_search(SETTINGS, tmp_path_factory.mktemp("search") / "run", INPROCESS)
    assert len({(each.natural, each.robust) for each in found.front}) >= 3  # what else is compared?
    assert len(found.retrained) == 2
    return found


@pytest.fixture
def copied(outcome: Outcome, tmp_path: Path) -> RunFolder:
    """The finished run, to be changed."""
    return RunFolder(shutil.copytree(outcome.folder.path, tmp_path / "copy"))


def journal(folder: RunFolder) -> list[dict[str, object]]:
    return [{**record, "seconds": None} for record in folder.trials.read()]


def contents(folder: RunFolder) -> dict[str, bytes]:
    """Every file that time does not decide; the picture draws a random name for its frame."""
    decided = {
        str(path.relative_to(folder.path)): path.read_bytes()
        for path in sorted(folder.path.rglob("*"))
        if path.is_file() and path.name not in ("trials.jsonl", "pareto.html")
    }
    rescored = folder.rescored.path.name  # whoever is through first comes first
    return decided | {rescored: b"".join(sorted(decided[rescored].splitlines(keepends=True)))}


def records(folder: RunFolder) -> dict[str, bytes]:
    """Every file of these but pages, which draw random names."""
    return {name: each for name, each in contents(folder).items() if not name.endswith(".html")}


def cost(assignment: Assignment) -> int:
    """BOPS of ResNet-8 of width 2 on 8x8 pixels, by hand."""
    macs = [
        *(8 * 8 * 9 * 2 * 2, 8 * 8 * 9 * 2 * 2),
        *(4 * 4 * 9 * 2 * 4, 4 * 4 * 9 * 4 * 4),
        *(2 * 2 * 9 * 4 * 8, 2 * 2 * 9 * 8 * 8),
    ]
    stem, classifier = 8 * 8 * 9 * 1 * 2, 8 * 10
    layers = zip(macs, assignment, strict=True)
    return 64 * (stem + classifier) + sum(each * m * n for each, (m, n) in layers)


def dominates(one: Trial, other: Trial) -> bool:
    pairs = [
        (one.natural, other.natural),
        (one.robust, other.robust),
        (other.bops, one.bops),
    ]
    return all(mine >= yours for mine, yours in pairs) and any(
        mine > yours for mine, yours in pairs
    )


def test_the_run_folder_holds_what_the_readme_lists_and_nothing_else(outcome: Outcome) -> None:
    path = outcome.folder.path
    _, section = README.read_text().split("### The run folder\n")
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", section.split("\n##")[0], re.MULTILINE)
    listed = {name: row for cell, row in rows for name in re.findall(r"`(.*?)`", cell)}
    of_candidates = re.findall(r"`(.*?)`", listed.pop("candidates/<id>/"))
    finished = {name for name in listed if "*" not in name}
    assert {each.name for each in path.iterdir()} == finished | {"candidates"}
    assert {each.name for each in (path / "candidates").iterdir()} == {
        metrics["id"] for metrics in outcome.retrained
    }
    quick = {"audit-<effort>.json": "audit-quick.json", ".html": "audit-quick.html"}
    for folder in (path / "candidates").iterdir():
        assert {each.name for each in folder.iterdir()} == {
            quick.get(name, name) for name in of_candidates
        }


def test_settings_manifest_and_split_are_those_of_the_run(outcome: Outcome) -> None:
    folder, data = outcome.folder, datasets.load(SETTINGS.data, SETTINGS.seed)
    assert config.load(folder.settings_file) == SETTINGS
    assert read_json(folder.manifest_file)["data"]["fingerprint"] == data.fingerprint()
    assert read_json(folder.split_file)["validation"] == list(data.held_out)


def test_the_journal_holds_as_many_different_candidates_as_were_ordered(outcome: Outcome) -> None:
    records = outcome.folder.trials.read()
    assert [trial.record() for trial in outcome.trials] == records
    assert len({record["assignment"] for record in records}) == SETTINGS.search.evaluations
    assert len(records) == SETTINGS.search.evaluations


def test_costs_are_right_and_within_the_budget(outcome: Outcome) -> None:
    for trial in outcome.trials:
        assert trial.bops == cost(trial.assignment) <= BUDGET


def test_all_uniform_networks_within_the_budget_are_evaluated(outcome: Outcome) -> None:
    uniforms = {each for each in SETTINGS.space.uniforms if cost(each) <= BUDGET}
    assert {str(each.layers[0]) for each in uniforms} == {"1x1", "1x2", "2x1"}
    assert uniforms <= {trial.assignment for trial in outcome.trials}


def test_no_candidate_is_better_under_attack_than_without(outcome: Outcome) -> None:
    for trial in outcome.trials:
        assert 0 <= trial.robust <= trial.natural <= 1
    for metrics in outcome.retrained:
        attacks = metrics["test"]["attacks"]
        for surrogate in ("ste", "polynomial"):
            assert attacks[f"{surrogate}_every"]["mean"] <= attacks[f"{surrogate}_last"]["mean"]
        assert metrics["test"]["pgd"] == metrics["test"]["attacks"]["polynomial_every"]


def test_a_score_can_be_computed_again_from_what_is_on_disk(outcome: Outcome) -> None:
    data = datasets.load(SETTINGS.data, SETTINGS.seed)
    problem = Problem(
        load_supernet(outcome.folder.supernet_file),
        calibration=data.train.first(SETTINGS.search.recalibration_images),
        validation=data.validation.first(SETTINGS.search.images),
        threat=SETTINGS.threat,
        objective=Robustness.PGD,
        seed=SETTINGS.seed,
    )
    for trial in outcome.trials[::4]:
        assert replace(problem.score(trial.assignment), seconds=trial.seconds) == trial


def test_the_reported_set_is_exactly_the_non_dominated_one(outcome: Outcome) -> None:
    best = [
        trial
        for trial in outcome.trials
        if not any(dominates(other, trial) for other in outcome.trials)
    ]
    assert set(outcome.front) == set(best)
    assert [each.bops for each in outcome.front] == sorted(each.bops for each in best)


def test_both_tables_hold_the_reported_set(outcome: Outcome) -> None:
    rows = read_json(outcome.folder.pareto_file)
    assert rows == [
        {**trial.row(), "worst_case": outcome.worst_cases[trial.id]} for trial in outcome.front
    ]
    assert all(list(row) == COLUMNS for row in rows)
    assert COLUMNS == ["id", "assignment", "bops", "natural", "robust", "loss", "worst_case"]
    table = pd.read_csv(outcome.folder.pareto_file.with_suffix(".csv"), dtype={"id": str})
    assert table.to_dict("records") == rows


def test_the_picture_names_every_member_and_opens_offline(outcome: Outcome) -> None:
    page = outcome.folder.pareto_file.with_suffix(".html").read_text()
    assert all(trial.id in page for trial in outcome.front)
    assert "<script src=" not in page


def test_every_member_is_attacked_through_both_surrogates(outcome: Outcome) -> None:
    records = {record["id"]: record for record in outcome.folder.rescored.read()}
    assert len(records) == len(outcome.folder.rescored.read()) == len(outcome.front)
    for trial in outcome.front:
        record = records[trial.id]
        for surrogate in (Surrogate.POLYNOMIAL, Surrogate.STE):
            at_every = record[f"pgd_{surrogate}_every"]
            assert at_every <= min(trial.natural, record[f"pgd_{surrogate}_last"])
            assert record["worst_case"] <= at_every
        assert outcome.worst_cases[trial.id] == record["worst_case"] <= trial.natural


def test_the_most_useful_in_the_worst_case_are_retrained_and_kept(outcome: Outcome) -> None:
    withstanding = [replace(each, robust=outcome.worst_cases[each.id]) for each in outcome.front]
    ids = [metrics["id"] for metrics in outcome.retrained]
    assert ids == [trial.id for trial in most_useful(withstanding, 2)]
    assert outcome.worst_cases[ids[0]] == max(outcome.worst_cases.values())
    for metrics in outcome.retrained:
        folder = outcome.folder.candidate(metrics["id"])
        written = read_json(folder / "metrics.json")
        assert metrics == {**written, "audit": read_json(folder / "audit-quick.json")}
        _, format_, settings = load_network(folder)
        assignment = format_.widths
        assert (folder / "assignment.txt").read_text() == f"{assignment}\n"
        assert (str(assignment), assignment.id) == (metrics["assignment"], metrics["id"])
        assert metrics["bops"] == cost(assignment)
        assert settings == SETTINGS


def test_each_retrained_network_is_attacked_by_images_of_the_other(outcome: Outcome) -> None:
    ids = [metrics["id"] for metrics in outcome.retrained]
    for metrics, other in zip(outcome.retrained, reversed(ids), strict=True):
        names = metrics["audit"]["standing_after"]
        transfers = [each for each in names if each.startswith("transfer from ")]
        assert transfers == [f"transfer from {other}"]


def test_a_checkpoint_scores_what_the_run_says(outcome: Outcome) -> None:
    metrics, _ = outcome.retrained
    folder = outcome.folder.candidate(metrics["id"])
    for path in (folder, folder / "network.safetensors"):
        measured = json.loads(json.dumps(inspection.evaluate_checkpoint(path)))
        assert measured == {key: metrics[key] for key in measured}
        assert measured["test"]["images"] == 1797 // 5


def test_other_test_images_change_nothing_but_the_test(
    outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    class Sealed(Images):
        def gather(self, indices: Tensor | slice) -> tuple[Tensor, Tensor]:
            assert list(out.glob("candidates/*/network.safetensors")), "retraining is not finished"
            return super().gather(indices)

    def doctored(settings: DataSettings, seed: int) -> Data:
        data = load(settings, seed)
        blank = torch.zeros_like(data.test.dense().pixels)
        return replace(data, test=Sealed.of(blank, data.test.labels))

    load: Callable[[DataSettings, int], Data] = datasets.load
    monkeypatch.setattr(datasets, "load", doctored)
    other = pipeline.run_search(SETTINGS, out, INPROCESS)

    assert journal(other.folder) == journal(outcome.folder)
    mine, yours = contents(outcome.folder), contents(other.folder)
    assert mine.keys() == yours.keys()
    ids = [metrics["id"] for metrics in outcome.retrained]
    assert {name for name, content in mine.items() if content != yours[name]} == {
        "manifest.json",
        *(
            f"candidates/{each}/{name}"
            for each in ids
            for name in (
                *("metrics.json", "network.safetensors"),
                *("audit-quick.json", "audit-quick.html"),
            )
        ),
    }
    for each in ids:
        one, another = (load_network(run.folder.candidate(each))[0] for run in (outcome, other))
        assert same(one, another)
    trained, again = ([each["training"] for each in run.retrained] for run in (outcome, other))
    assert trained == again


def test_resuming_a_finished_run_computes_and_changes_nothing(
    outcome: Outcome, copied: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, name in ((Problem, "score"), (pretraining, "fit"), (pipeline, "retrain")):
        monkeypatch.setattr(owner, name, None)
    copied.supernet_training.touch()  # as if killed just before it was deleted
    again = pipeline.resume_search(copied.path, SETTINGS, INPROCESS)
    assert contents(copied) == contents(outcome.folder)
    assert copied.trials.read() == outcome.folder.trials.read()
    assert [trial.id for trial in again.front] == [trial.id for trial in outcome.front]
    assert again.retrained == outcome.retrained


def test_a_finished_run_keeps_its_tables_while_it_is_looked_through_again(
    outcome: Outcome, copied: RunFolder
) -> None:
    with (
        mock.patch("mbnas.pipeline.rescored", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        pipeline.resume_search(copied.path, SETTINGS, INPROCESS)
    assert contents(copied) == contents(outcome.folder)


def test_a_run_does_not_go_on_with_other_settings(copied: RunFolder) -> None:
    other = tiny(*CHANGES, "threat.eps=0.01")
    with pytest.raises(SettingsError, match=r"other settings \(threat\.eps: 0\.1 -> 0\.01\)"):
        pipeline.resume_search(copied.path, other, INPROCESS)


def test_what_one_supernet_scored_is_not_taken_for_scores_of_another(
    outcome: Outcome, copied: RunFolder
) -> None:
    supernet = load_supernet(copied.supernet_file)
    torch.nn.init.zeros_(supernet.classifier.weight)
    save_supernet(copied.supernet_file, supernet, SETTINGS)
    before = contents(copied)
    another = r"trials\.jsonl' is of another supernet than"
    with pytest.raises(DataError, match=another):
        pipeline.resume_search(copied.path, SETTINGS, INPROCESS)
    with pytest.raises(DataError, match=another):
        pipeline.retrain_candidate(copied.path, outcome.trials[0].id, SETTINGS)
    assert contents(copied) == before
    copied.supernet_file.unlink()  # on this machine the same is trained anew
    again = pipeline.resume_search(copied.path, SETTINGS, INPROCESS)
    assert again.retrained == outcome.retrained
    assert contents(copied) == contents(outcome.folder)


def test_no_audit_takes_the_place_of_one_under_another_threat(
    outcome: Outcome, copied: RunFolder
) -> None:
    metrics, _ = outcome.retrained
    folder = copied.candidate(metrics["id"])
    before = contents(copied)
    refused = r"audit-quick\.json' was made with other settings \(threat\.eps: {} -> {}\); move it"
    with pytest.raises(SettingsError, match=refused.format("0.1", "0.01")):
        inspection.audit_checkpoint(folder, Effort.QUICK, ["threat.eps=0.01"])
    assert contents(copied) == before
    (folder / "audit-quick.json").unlink()
    inspection.audit_checkpoint(folder, Effort.QUICK, ["threat.eps=0.01"])
    with pytest.raises(SettingsError, match=refused.format("0.01", "0.1")):
        pipeline.resume_search(copied.path, SETTINGS, INPROCESS)
    (folder / "audit-quick.json").unlink()
    assert pipeline.resume_search(copied.path, SETTINGS, INPROCESS).retrained == outcome.retrained


def test_a_finished_run_can_be_audited_more_thoroughly(
    outcome: Outcome, copied: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLANS, Effort.STANDARD, replace(PLANS[Effort.QUICK], images=16))
    thorough = tiny(*CHANGES, "test.audit=standard")
    retrained = pipeline.resume_search(copied.path, thorough, INPROCESS).retrained
    for metrics, before in zip(retrained, outcome.retrained, strict=True):
        assert metrics["audit"]["images"] == 16
        assert (copied.candidate(metrics["id"]) / "audit-standard.json").exists()
        assert {**metrics, "audit": None} == {**before, "audit": None}


def test_any_candidate_can_be_retrained_by_its_id(outcome: Outcome, copied: RunFolder) -> None:
    done = {metrics["id"] for metrics in outcome.retrained}
    other = next(trial for trial in outcome.trials if trial.id not in done)
    found = pipeline.retrain_candidate(copied.path, other.id, SETTINGS)
    assert (found["id"], found["bops"]) == (other.id, cost(other.assignment))
    assert read_json(copied.candidate(other.id) / "metrics.json") == found
    kept = contents(outcome.folder)
    assert {name: contents(copied)[name] for name in kept} == kept


def test_retraining_anew_gives_the_same_networks(outcome: Outcome, copied: RunFolder) -> None:
    shutil.rmtree(copied.path / "candidates")
    for metrics in reversed(outcome.retrained):
        found = pipeline.retrain_candidate(copied.path, metrics["id"], SETTINGS)
        assert found == {key: metrics[key] for key in found}
    kept = {name: each for name, each in contents(outcome.folder).items() if "audit" not in name}
    assert contents(copied) == kept


def test_a_retrained_network_is_not_passed_off_as_one_of_other_settings(
    outcome: Outcome, copied: RunFolder
) -> None:
    metrics, _ = outcome.retrained
    found = pipeline.retrain_candidate(copied.path, metrics["id"], SETTINGS)
    assert found == {key: metrics[key] for key in found}
    scratch = tiny(*CHANGES, "retraining.start=scratch")
    with pytest.raises(SettingsError, match=r"retraining\.start: supernet -> scratch"):
        pipeline.retrain_candidate(copied.path, metrics["id"], scratch)
    shutil.rmtree(copied.candidate(metrics["id"]))
    assert pipeline.retrain_candidate(copied.path, metrics["id"], scratch)["start"] == "scratch"


def test_a_candidate_is_not_retrained_on_images_of_another_split(
    outcome: Outcome, copied: RunFolder
) -> None:
    """Its supernet would know them."""
    metrics, _ = outcome.retrained
    other = tiny(*CHANGES, "seed=1")
    with pytest.raises(SettingsError, match=r"\(seed: 0 -> 1\); leave them away"):
        pipeline.retrain_candidate(copied.path, metrics["id"], other)


def test_a_supernet_is_searched_again_without_being_trained_again(
    outcome: Outcome, tmp_path: Path
) -> None:
    """And gives what the whole run would have given."""
    trained, executor = outcome.folder.path, Executor("inprocess")
    settings = tiny(*CHANGES, f"search.budget={max(each.bops for each in outcome.trials) - 1}")
    with mock.patch("mbnas.pretraining.fit", side_effect=AssertionError("trained again")):
        again = pipeline.run_search(settings, tmp_path / "again", executor, trained)
    whole = pipeline.run_search(settings, tmp_path / "whole", executor)
    assert records(again.folder) == records(whole.folder)
    assert again.trials != outcome.trials


def test_there_is_no_run_before_it_has_the_supernet_it_is_to_search(
    outcome: Outcome, tmp_path: Path
) -> None:
    executor, out = Executor("inprocess"), tmp_path / "run"
    full = OSError(errno.ENOSPC, "full")
    with mock.patch("mbnas.pipeline.save_supernet", side_effect=full), pytest.raises(DataError):
        pipeline.run_search(SETTINGS, out, executor, outcome.folder.path)
    runs.require_new(out)  # the same command may be given again


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "backbone.prelu=true",
        "choices.weight_bases=[1]",
        "data.validation=30",
        "data.shift=2",
        "supernet.epochs=3",
        "supernet.rule=fair",
        "threat.eps=0.2",
        "threat.step=0.03",
        "threat.surrogate=ste",
        "search.recalibration_images=16",
    ],
)
def test_no_supernet_of_other_settings_is_searched(
    outcome: Outcome, tmp_path: Path, change: str
) -> None:
    with pytest.raises(SettingsError, match="search it with those, or leave --supernet away"):
        pipeline.run_search(
            tiny(*CHANGES, change), tmp_path / "new", Executor("inprocess"), outcome.folder.path
        )


def test_no_supernet_of_other_images_is_searched(
    outcome: Outcome, copied: RunFolder, tmp_path: Path
) -> None:
    executor, new = Executor("inprocess"), tmp_path / "new"
    manifest = read_json(copied.manifest_file)
    write_json(copied.manifest_file, {**manifest, "data": {"name": "digits", "fingerprint": "?"}})
    with pytest.raises(DataError, match="the images are not those that"):
        pipeline.run_search(SETTINGS, new, executor, copied.path)
    copied.manifest_file.unlink()
    with pytest.raises(DataError, match=r"let `mbnas search --resume .* write it anew"):
        pipeline.run_search(SETTINGS, new, executor, copied.path)
    copied.supernet_file.unlink()
    with pytest.raises(DataError, match="has no trained supernet"):
        pipeline.run_search(SETTINGS, new, executor, copied.path)
    with pytest.raises(DataError, match="is no run folder"):
        pipeline.run_search(SETTINGS, new, executor, tmp_path)
    assert not new.exists()


def test_a_run_belongs_to_one_process_at_a_time(outcome: Outcome, copied: RunFolder) -> None:
    """Whose journal may end in half a line now, which is not for others to mend."""
    with copied.trials.path.open("a") as file:
        file.write("{")
    before = copied.trials.path.read_bytes()
    with alone_in(copied.path):
        with pytest.raises(DataError, match="another process works in"):
            pipeline.resume_search(copied.path, SETTINGS, Executor("inprocess"))
        with pytest.raises(DataError, match="another process works in"):
            pipeline.retrain_candidate(copied.path, outcome.front[0].id, SETTINGS)
    assert copied.trials.path.read_bytes() == before


def test_a_folder_of_one_network_belongs_to_one_process_at_a_time(
    outcome: Outcome, copied: RunFolder, tmp_path: Path
) -> None:
    audited, trained = copied.candidate(outcome.retrained[0]["id"]), tmp_path / "trained"
    trained.mkdir()
    with alone_in(audited), pytest.raises(DataError, match="another process works in"):
        inspection.audit_checkpoint(audited, Effort.QUICK)
    with alone_in(trained), pytest.raises(DataError, match="another process works in"):
        pipeline.train_network(SETTINGS, "float", trained)
    assert not list(trained.iterdir())


def test_another_seed_is_another_search(tmp_path: Path) -> None:
    seeds = set()
    for seed in (0, 1):
        with (
            mock.patch("mbnas.pipeline.searched", side_effect=KeyboardInterrupt) as search,
            pytest.raises(KeyboardInterrupt),
        ):
            settings = tiny(*CHANGES, f"seed={seed}")
            pipeline.run_search(settings, tmp_path / str(seed), INPROCESS)
        seeds.add(search.call_args.kwargs["seed"])
    assert len(seeds) == 2


def test_members_are_judged_by_images_that_scored_nobody(tmp_path: Path) -> None:
    judges = []

    def rescored(_: Problem, images: Images, *__: object) -> None:
        judges.append(images.dense().pixels)
        raise KeyboardInterrupt

    settings = tiny(*CHANGES, "data.validation=40")
    with mock.patch("mbnas.pipeline.rescored", rescored), pytest.raises(KeyboardInterrupt):
        pipeline.run_search(settings, tmp_path / "run", INPROCESS)
    held_out = datasets.load(settings.data, settings.seed).validation.dense().pixels
    assert torch.equal(judges[0], held_out[settings.search.images :])


@pytest.mark.parametrize("start", ["supernet", "scratch"])
def test_the_largest_sub_network_teaches_unless_nobody_is_to(
    outcome: Outcome, copied: RunFolder, start: str
) -> None:
    supernet = load_supernet(copied.supernet_file)
    data = datasets.load(SETTINGS.data, SETTINGS.seed)
    largest = Problem.of(supernet, data, SETTINGS).candidate(SETTINGS.space.largest)
    seen = []
    done = {metrics["id"] for metrics in outcome.retrained}
    candidate = next(each.id for each in outcome.trials if each.id not in done)
    with mock.patch("mbnas.pipeline.retrain", lambda *_, **named: seen.append(named)):
        for teacher in ("supernet", "null"):
            asked = tiny(*CHANGES, f"retraining.start={start}", f"retraining.teacher={teacher}")
            pipeline.retrain_candidate(copied.path, candidate, asked)
    taught, untaught = seen
    assert same(taught["teacher"], largest)
    assert untaught["teacher"] is None
    assert [each["source"] is None for each in seen] == [start == "scratch"] * 2


def test_a_network_learns_from_a_teacher_that_knows_the_same_images(tmp_path: Path) -> None:
    pipeline.train_network(tiny(), "float", tmp_path / "float")
    taught = tiny(f"retraining.teacher={tmp_path / 'float'}")
    pipeline.train_network(taught, "mbn1x1", tmp_path / "taught")
    pipeline.train_network(tiny(), "mbn1x1", tmp_path / "alone")
    pupil, _, saved = load_network(tmp_path / "taught")
    assert saved == taught
    assert not same(pupil, load_network(tmp_path / "alone")[0])


@pytest.mark.parametrize("role", ["teacher", "start"])
def test_a_training_does_not_go_on_from_another_network_of_the_same_name(
    tmp_path: Path, role: str
) -> None:
    other, pupil = tmp_path / "float", tmp_path / "pupil"
    pipeline.train_network(tiny(), "float", other)
    asked = tiny(f"retraining.{role}={other}")
    with (
        mock.patch("mbnas.retraining.final_scores", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        pipeline.train_network(asked, "mbn1x1", pupil)
    shutil.rmtree(other)
    pipeline.train_network(tiny("retraining.learning_rate=0.02"), "float", other)
    with pytest.raises(SettingsError, match=rf"begun with other settings \(networks\.{role}: "):
        pipeline.train_network(asked, "mbn1x1", pupil)


@pytest.mark.parametrize("role", ["teacher", "start"])
def test_a_network_is_the_same_wherever_it_lies(
    tmp_path: Path, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.train_network(tiny(), "float", tmp_path / "float")
    monkeypatch.chdir(tmp_path)
    named, moved = (
        tiny(f"retraining.{role}={each}") for each in ("float", tmp_path / "moved" / "float")
    )
    (tmp_path / "moved").mkdir()
    with (
        mock.patch("mbnas.retraining.final_scores", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        pipeline.train_network(named, "mbn1x1", tmp_path / "pupil")
    (tmp_path / "float").rename(tmp_path / "moved" / "float")
    with mock.patch("mbnas.training._step", side_effect=AssertionError):  # nothing anew
        metrics = pipeline.train_network(moved, "mbn1x1", tmp_path / "pupil")
        assert pipeline.train_network(moved, "mbn1x1", tmp_path / "pupil") == metrics
    alone = tiny(f"retraining.{role}={'null' if role == 'teacher' else 'scratch'}")
    with pytest.raises(SettingsError, match=rf"retraining\.{role}: a network -> \w+"):
        pipeline.train_network(alone, "mbn1x1", tmp_path / "pupil")


def test_a_mistyped_word_is_told_the_words(tmp_path: Path) -> None:
    for role, words in (("start", "supernet or scratch"), ("teacher", "supernet or null")):
        with pytest.raises(DataError, match=rf"retraining\.{role}: no .*'supernett'; .* {words}"):
            pipeline.train_network(tiny(f"retraining.{role}=supernett"), "float", tmp_path / "a")


@pytest.mark.parametrize("role", ["teacher", "start"])
def test_a_network_that_is_not_there_is_missed_before_anything_is_trained(
    tmp_path: Path, role: str
) -> None:
    missing = tiny(f"search.budget={BUDGET}", f"retraining.{role}={tmp_path / 'nobody'}")
    with pytest.raises(DataError, match=r"no checkpoint .*/nobody"):
        pipeline.train_network(missing, "mbn1x1", tmp_path / "network")
    with pytest.raises(DataError, match=r"no checkpoint .*/nobody"):
        pipeline.run_search(missing, tmp_path / "run", Executor("inprocess"))
    assert list(tmp_path.iterdir()) == []
    begun = runs.create(tmp_path / "run", missing)
    with pytest.raises(DataError, match=r"no checkpoint .*/nobody"):
        pipeline.resume_search(begun.path, missing, Executor("inprocess"))
    assert not begun.supernet_file.exists()


def test_fewer_evaluations_than_uniform_networks_still_cover_them(tmp_path: Path) -> None:
    settings = tiny("search.budget=1e9", "search.evaluations=1", "retraining.candidates=0")
    found = pipeline.run_search(settings, tmp_path / "run", Executor("inprocess"))
    assert [trial.assignment for trial in found.trials] == list(settings.space.uniforms)
    assert found.retrained == ()
    assert not (found.folder.path / "candidates").exists()


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ((), SettingsError, f"no budget; give --budget BOPS, at least {64 * 1232 + 11520}"),
        (("search.budget=90367",), BudgetError, "give at least --budget 90368"),
        (("search.budget=1e9", "data.validation=2000"), DataError, "leaves none"),
    ],
)
def test_what_cannot_be_run_leaves_no_folder(
    tmp_path: Path, overrides: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pipeline.run_search(tiny(*overrides), tmp_path / "run", INPROCESS)
    assert list(tmp_path.iterdir()) == []


def test_only_evaluated_candidates_of_a_run_can_be_retrained(
    copied: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"no candidate '0123' among 12; .*trials\.jsonl"):
        pipeline.retrain_candidate(copied.path, "0123", SETTINGS)
    with pytest.raises(DataError, match="is no run folder"):
        pipeline.retrain_candidate(tmp_path, "0123", SETTINGS)
    identity = copied.trials.read()[-1]["id"]
    copied.supernet_file.unlink()
    with pytest.raises(DataError, match="no trained supernet; go on with `mbnas search --resume"):
        pipeline.retrain_candidate(copied.path, identity, SETTINGS)
