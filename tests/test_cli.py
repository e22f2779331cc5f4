"""The command line: what it accepts, what it prints where, and one clear line for each mistake."""

import errno
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import typer
from helpers import DIGITS, SPACES, TINY, tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mbnas import cli, config, runs
from mbnas.assignment import Assignment
from mbnas.bops import bops, itemise
from mbnas.errors import SettingsError
from mbnas.files import read_json
from mbnas.journal import Journal
from mbnas.search.executors import Executor
from mbnas.settings import Effort

SPACE = ("--space", str(DIGITS))
OVERRIDES = tuple(word for each in TINY for word in ("--set", each))
INPROCESS = ("--executor", "inprocess", "--workers", "1")
SEARCH = ("search", *SPACE, *OVERRIDES, *INPROCESS)
BY_FLAGS = ("search.evaluations", "retraining.candidates")
REST = tuple(word for each in TINY if not each.startswith(BY_FLAGS) for word in ("--set", each))
FOLDER = ("--set", "data.name=folder", "--set", "data.image_size=8", "--set", "data.classes=2")
RESNET20 = ("--space", str(SPACES / "resnet20.yaml"))
Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("brief_audits")


def call(*arguments: str) -> int:
    """Run a command in this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mbnas", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            assert isinstance(end.code, int)
            return end.code
    return 0


@pytest.fixture
def mistake(capsys: Capture) -> Callable[..., str]:
    """Runs a command and returns the one line it ends with instead of printing data."""

    def made(*arguments: str, code: int) -> str:
        assert call(*arguments) == code
        output = capsys.readouterr()
        assert output.out == ""
        (line,) = (each for each in output.err.splitlines() if not each.startswith("run folder: "))
        assert line.startswith("mbnas: ")
        return line

    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert call(*SEARCH, "--budget", "110000", "--out", str(folder)) == 0
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    return shutil.copytree(finished, tmp_path / "run")


def candidate(run: Path) -> Path:
    (folder,) = (run / "candidates").iterdir()
    return folder


# What is accepted


def test_the_flags_are_frozen() -> None:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    assert {
        name: " ".join(option for parameter in command.params for option in parameter.opts)
        for name, command in group.commands.items()
    } == {
        "search": "--space --budget --data --out --set --seed --workers --evaluations --executor "
        "--address --retrain --supernet --resume --json",
        "profile": "--space --budget --assignment --set --json",
        "retrain": "run --candidate --start --data --set --json",
        "train": "--format --backbone --training --start --teacher --space --data --out --set "
        "--seed --json",
        "evaluate": "checkpoint --data --set --json",
        "audit": "checkpoint --effort --transfer --data --set --json",
    }


COMMANDS = ["", "search", "profile", "retrain", "train", "evaluate", "audit"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_starts_with_an_example(capsys: Capture, command: str) -> None:
    assert call(*command.split(), "--help") == 0
    usage, text = capsys.readouterr().out.strip().split("\n\n", 1)
    assert usage.startswith(f"Usage: mbnas {command}".strip())
    assert text.strip().startswith(f"Example: mbnas {command or 'search'} ")


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_the_example_of_the_help_is_understood(command: str) -> None:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    example = re.match(rf"Example: mbnas {command} (.*)", group.commands[command].help or "")
    assert example is not None
    group.commands[command].make_context(command, shlex.split(example[1]))  # parses, runs nothing


def test_the_example_of_profile_costs_what_the_paper_says(capsys: Capture) -> None:
    assert call("profile", "--help") == 0
    (example,) = re.findall(r"Example: mbnas (.*)", capsys.readouterr().out)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(SPACES.parent)
        assert call(*example.split(), "--json") == 0
    assert round(json.loads(capsys.readouterr().out)["bops"], -5) == 1.487e8  # as published


def test_profile_prints_what_the_library_counts(capsys: Capture) -> None:
    assert call("profile", *RESNET20, "--assignment", "3x1", "--json") == 0
    output = capsys.readouterr()
    assert output.err == ""
    printed = json.loads(output.out)
    settings = config.load(RESNET20[1])
    assignment = Assignment.uniform(3, 1, settings.space.layers)
    layers = itemise(settings.table, assignment)
    assert printed["layers"] == [
        {**asdict(each), "bases": str(each.bases), "bops": each.bops} for each in layers
    ]
    assert printed["bops"] == sum(each.bops for each in layers) == bops(settings.table, assignment)
    assert printed["assignment"] == str(assignment)
    assert printed["size"] == 16 ** len(assignment)
    assert printed["uniform"]["3x1"] == printed["bops"]
    assert printed["smallest"] == printed["uniform"]["1x1"]
    assert printed["largest"] == printed["uniform"]["5x5"]


@pytest.mark.parametrize(("budget", "code"), [("2e8", 0), ("1e6", 4)])
def test_profile_says_whether_a_budget_can_be_met(capsys: Capture, budget: str, code: int) -> None:
    assert call("profile", *RESNET20, "--budget", budget, "--json") == code
    printed = json.loads(capsys.readouterr().out)
    assert (printed["budget"], printed["feasible"]) == (float(budget), code == 0)


def test_profile_prints_a_table(capsys: Capture) -> None:
    assert call("profile", *SPACE, *OVERRIDES, "--assignment", "1x1") == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert re.search(r"total.* 90,368", output.out)


def test_search_prints_its_result_on_stdout_and_all_else_on_stderr(
    finished: Path, capsys: Capture
) -> None:
    assert call("search", "--resume", str(finished), "--executor", "inprocess", "--json") == 0
    output = capsys.readouterr()
    printed = json.loads(output.out)
    assert printed["run"] == str(finished)
    assert printed["pareto"] == read_json(finished / "pareto.json")
    metrics = read_json(candidate(finished) / "metrics.json")
    audit = read_json(candidate(finished) / "audit-quick.json")
    assert printed["retrained"] == [{**metrics, "audit": audit}]
    assert f"run folder: {finished}" in output.err


def test_flags_are_short_for_settings(run: Path, capsys: Capture) -> None:
    chosen = ("--seed", "3", "--evaluations", "4", "--retrain", "0", "--budget", "1.2e5")
    out = run.parent / "other"
    assert call("search", *SPACE, *REST, *INPROCESS, *chosen, "--out", str(out), "--json") == 0
    settings = runs.RunFolder(out).settings()
    same = ("seed=3", "search.evaluations=4", "retraining.candidates=0", "search.budget=1.2e5")
    assert settings == tiny(*same)
    assert json.loads(capsys.readouterr().out)["retrained"] == []


def received(function: str, *arguments: str) -> Sequence[Any]:
    """What a command calls a function with that goes no further."""
    with mock.patch(function, side_effect=SettingsError("no further")) as called:
        assert call(*arguments) == 2
    positional: Sequence[Any] = called.call_args.args
    return positional


def test_the_cluster_reaches_the_search() -> None:
    words = ("--budget", "6e6", "--workers", "3", "--address", "there:6379")
    *_, scoring, _ = received("mbnas.pipeline.run_search", "search", *SPACE, *words)
    assert scoring == Executor("ray", 3, "there:6379")


def test_networks_to_begin_with_and_to_learn_from_reach_a_training() -> None:
    words = ("--format", "float", "--start", "a", "--teacher", "b", "--data", "c")
    settings, *_ = received("mbnas.pipeline.train_network", "train", *SPACE, *words)
    chosen = settings.retraining.start, settings.retraining.teacher, settings.data.root
    assert chosen == (Path("a"), Path("b"), Path("c"))


def test_weights_to_begin_with_and_images_reach_a_retraining(finished: Path) -> None:
    words = ("--candidate", "x", "--start", "scratch", "--data", "c")
    *_, settings = received("mbnas.pipeline.retrain_candidate", "retrain", str(finished), *words)
    assert (settings.retraining.start, settings.data.root) == ("scratch", Path("c"))


def test_images_and_sources_reach_an_inspection() -> None:
    data, root = ("--data", "c"), ['data.root="c"']
    evaluated = received("mbnas.inspection.evaluate_checkpoint", "evaluate", "a", *data)
    assert evaluated == (Path("a"), root)
    transfer = ("--transfer", "b", "--transfer", "d")
    audited = received("mbnas.inspection.audit_checkpoint", "audit", "a", *transfer, *data)
    assert audited == (Path("a"), Effort.STANDARD, root, [Path("b"), Path("d")])


def test_a_supernet_is_searched_again_by_the_settings_of_its_run(
    finished: Path, tmp_path: Path, capsys: Capture
) -> None:
    again = ("search", "--supernet", str(finished), "--budget", "100000", *INPROCESS)
    assert call(*again, "--out", str(tmp_path / "run")) == 0
    assert "supernet epoch" not in capsys.readouterr().err
    settings = runs.RunFolder(tmp_path / "run").settings()
    assert settings == tiny("search.budget=100000")


def test_digits_are_in_no_folder(mistake: Callable[..., str]) -> None:
    line = mistake(*SEARCH, "--budget", "1.2e5", "--data", "/x: y", code=3)
    assert "digits come with scikit-learn, not from '/x: y'; leave away --data" in line


def test_the_home_folder_may_be_written_short_wherever_a_path_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(DIGITS, tmp_path / "my.yaml")
    monkeypatch.setattr("mbnas.pipeline.require_searchable", lambda *_: None)  # nothing is there
    words = ("search", "--space=~/my.yaml", "--budget=6e6", "--data=~/a", "--out=~/b")
    settings, out, _, supernet = received("mbnas.pipeline.run_search", *words, "--supernet=~/c")
    places = (settings.data.root, out, supernet)
    assert places == (tmp_path / "a", tmp_path / "b", tmp_path / "c")
    path, *_, sources = received(
        "mbnas.inspection.audit_checkpoint", "audit", "~/a", "--transfer=~/b"
    )
    assert (path, sources) == (tmp_path / "a", [tmp_path / "b"])


def test_a_supernet_of_another_width_is_told_before_a_budget_that_it_cannot_meet(
    mistake: Callable[..., str], finished: Path, tmp_path: Path
) -> None:
    again = ("search", "--supernet", str(finished), "--budget", "1", "--out", str(tmp_path / "new"))
    assert "cannot be met" in mistake(*again, code=4)
    line = mistake(*again, "--set", "backbone.width=3", code=2)
    assert "(backbone.width: 2 -> 3); search it with those" in line


def test_the_run_folder_is_named_after_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--evaluations", "4", "--retrain", "0", "--budget", "1.2e5", "--seed", "3")
    assert call("search", *SPACE, *REST, *INPROCESS, *few) == 0
    assert [each.name for each in (tmp_path / "runs").iterdir()] == ["digits-120000-seed3"]


def test_a_network_of_another_format_is_trained_measured_and_audited(
    tmp_path: Path, capsys: Capture, mistake: Callable[..., str]
) -> None:
    folder = tmp_path / "network"
    train = ("train", *SPACE, *OVERRIDES, "--out", str(folder))
    assert call(*train, "--format", "pact2", "--training", "natural", "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics == read_json(folder / "metrics.json")
    assert (metrics["id"], metrics["start"]) == ("pact2x2", "scratch")
    before = (folder / "network.safetensors").stat().st_mtime_ns
    assert call(*train, "--format", "pact2x2", "--training", "natural", "--json") == 0
    assert json.loads(capsys.readouterr().out) == metrics  # found, not trained again
    assert (folder / "network.safetensors").stat().st_mtime_ns == before
    assert call("evaluate", str(folder), "--json") == 0
    assert json.loads(capsys.readouterr().out)["test"] == metrics["test"]
    further = (*train[:-1], str(tmp_path / "further"), "--start", str(folder))
    assert call(*further, "--format", "pact2", "--training", "natural", "--json") == 0
    assert json.loads(capsys.readouterr().out)["start"] == "network"
    line = mistake(*train, "--format", "xnor", "--training", "fastat", code=2)
    assert "format: pact2x2 -> xnor" in line
    assert "retraining.training: natural -> fastat" in line
    assert call("audit", str(folder), "--effort", "quick", "--json") == 0
    audited = json.loads(capsys.readouterr().out)
    assert audited["worst_case"]["accuracy"] <= audited["natural"]["accuracy"]


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (
            ("--format", "mbn9x1"),
            "format 'mbn9x1': assignment '9x1': 9x1 is out of range",
        ),
        (("--format", "bnn"), "unknown format 'bnn'; known: float, pactK"),
        (("--format", "float", "--backbone", "resnet21"), "unknown backbone 'resnet21'; did you"),
        (("--format", "float", "--training", "madry"), "'madry' is not one of 'natural', 'fastat'"),
        (("--format", "float", "--training", ""), "'--training': '' is not one of 'natural'"),
        ((), "Missing option '--format'; see mbnas train --help"),
        (("--format", "xnor", "--start", "supernet"), "--start supernet is for a search; give"),
        (("--format", "xnor", "--start", "./scratch"), "--start scratch is for a search; give"),
        (("--format", "xnor", "--teacher", "./supernet"), "--teacher supernet is for a search"),
    ],
)
def test_a_network_that_cannot_be_is_explained(
    mistake: Callable[..., str], options: tuple[str, ...], answer: str
) -> None:
    assert answer in mistake("train", *SPACE, *options, code=2)


def test_what_a_run_proposes_is_not_done_yet(run: Path, capsys: Capture) -> None:
    folder = run.rename(run.with_name("a run"))
    assert call("search", "--resume", str(folder), "--executor", "inprocess") == 0
    said = capsys.readouterr().err.splitlines()
    audit, *retrain, profile = (shlex.split(line) for line in said if line.startswith("  mbnas "))
    assert audit == ["mbnas", "audit", str(candidate(folder))]
    assert profile[1:4] == ["profile", "--space", str(folder / "settings.yaml")]
    others = [
        row["id"]
        for row in read_json(folder / "pareto.json")
        if row["id"] != candidate(folder).name
    ]
    assert retrain == [
        ["mbnas", "retrain", str(folder), "--candidate", each] for each in others[:1]
    ]


def test_evaluate_and_retrain_repeat_what_the_run_found(finished: Path, capsys: Capture) -> None:
    folder = candidate(finished)
    metrics = read_json(folder / "metrics.json")
    assert call("retrain", str(finished), "--candidate", folder.name, "--json") == 0
    assert json.loads(capsys.readouterr().out) == metrics
    assert call("evaluate", str(folder), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {key: metrics[key] for key in printed}
    assert call("evaluate", str(folder)) == 0
    assert f"{metrics['test']['natural']:.1%}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change", ["supernet.epochs=99", "search.images=17", "data.train_images=63", "seed=1"]
)
def test_what_is_retrained_stems_from_the_stages_before(
    mistake: Callable[..., str], finished: Path, change: str
) -> None:
    retrained = ("retrain", str(finished), "--candidate", candidate(finished).name)
    line = mistake(*retrained, "--set", change, code=2)
    assert re.search(rf"was started with other settings \({change.partition('=')[0]}: .*over", line)


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing command"),
        (("serch",), "Did you mean 'search'?"),
        (("search",), "no space; give --space FILE"),
        (("search", "--space"), "Option '--space' requires an argument"),
        (("search", "--spaec", "x"), "No such option: --spaec"),
        (("search", *SPACE), "no budget; give --budget BOPS, at least 1368064"),
        (("search", "--space", "missing.yaml"), "cannot read space 'missing.yaml': No such file"),
        (("search", *SPACE, "--executor", "dask"), "'dask' is not one of 'ray', 'inprocess'"),
        (("search", *SPACE, "--workers", "0"), "--workers"),
        (("search", *SPACE, "--seed", "one"), "'--seed': Input should be a valid integer"),
        (("search", *SPACE, "--seed", "-1"), "seed: Input should be greater than or equal to 0"),
        (("search", *SPACE, "--budget", "-2e8"), "search.budget: Input should be greater than 0"),
        (("search", *SPACE, "--budget", "0"), "search.budget: Input should be greater than 0"),
        (("search", *SPACE, "--budget", "big"), "search.budget: give a number such as 0.5 or 2e8"),
        (("search", *SPACE, "--budget", "nan"), "search.budget: Input should be a finite number"),
        (("search", *SPACE, "--budget", "inf"), "search.budget: Input should be a finite number"),
        (("search", *SPACE, "--evaluations", "0"), "search.evaluations: Input should be greater"),
        (
            ("search", *SPACE, "--seed", "1", "--set", "seed = 2"),
            "seed is given by a flag and by --set; leave one of them away",
        ),
        (("search", *SPACE, "--retrain", "-1"), "retraining.candidates: Input should be greater"),
        (("profile", *SPACE, "extra"), "unexpected extra argument"),
        (("profile", *SPACE, "--assignment", "3y1"), "'3y1' is not of the form MxN"),
        (("profile", *SPACE, "--assignment", "9x1"), "9x1 is out of range"),
        (("profile", *SPACE, "--assignment", "1x1,2x2"), "names 2 layers, the network has 6"),
        (("profile", *SPACE, "--assignment", ""), "'' is not of the form MxN"),
        (("retrain", "run"), "Missing option '--candidate'"),
        (("evaluate",), "Missing argument 'checkpoint'"),
    ],
)
def test_wrong_usage_is_explained(
    mistake: Callable[..., str], arguments: tuple[str, ...], message: str
) -> None:
    assert message in mistake(*arguments, code=2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("supernet.epoch=3", "unknown key 'supernet.epoch'; did you mean 'epochs'?"),
        ("serch.images=3", "unknown key 'serch'; did you mean 'search'?"),
        ("supernet.epochs=many", "supernet.epochs: Input should be a valid integer"),
        ("supernet.epochs=0", "supernet.epochs: Input should be greater than 0 (given: 0)"),
        ("choices.weight_bases=[]", "choices.weight_bases: give at least one value"),
        ("choices.activation_bases=[0, 1]", "Input should be greater than or equal to 1"),
        ("backbone.name=resnet19", "unknown backbone 'resnet19'; did you mean 'resnet1"),
        (
            "retraining.start=3",
            "start: Input should be 'supernet' or 'scratch', or give the folder",
        ),
        ("device=cuda:1", "use auto, cpu or cuda (CUDA_VISIBLE_DEVICES says which GPUs)"),
        ("data.name=mnist", "data.name: Input should be 'digits', 'cifar10'"),
        ("device=quantum", "no device 'quantum'; use auto, cpu or cuda"),
        ("device=meta", "no device 'meta'; use auto, cpu or cuda"),
        ("seed", "--set 'seed' is not of the form key.path=value"),
    ],
)
def test_wrong_settings_are_explained(
    mistake: Callable[..., str], override: str, message: str
) -> None:
    assert message in mistake(*SEARCH, "--budget", "1e9", "--set", override, code=2)


def test_a_misspelt_key_in_a_space_is_explained(
    mistake: Callable[..., str], tmp_path: Path
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(DIGITS.read_text().replace("training:", "trainin:"))
    line = mistake("search", "--space", str(space), "--budget", "1e9", code=2)
    assert "unknown key 'supernet.trainin'; did you mean 'training'?" in line


@pytest.mark.parametrize("command", ["search", "profile"])
def test_a_budget_nothing_meets_names_the_smallest_possible(
    mistake: Callable[..., str], capsys: Capture, command: str
) -> None:
    arguments = (*SPACE, *OVERRIDES, "--budget", "90367")
    if command == "search":
        line = mistake("search", *arguments, code=4)
    else:
        assert call("profile", *arguments) == 4
        line = capsys.readouterr().err
    assert "give at least --budget 90368" in line
    assert call("profile", *SPACE, *OVERRIDES, "--budget", "90368") == 0


def test_missing_data_is_explained_and_leaves_no_run(
    mistake: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    line = mistake(
        *(*SEARCH, *FOLDER, "--data", str(tmp_path / "none"), "--budget", "1e9"),
        *("--out", str(out)),
        code=3,
    )
    assert str(tmp_path / "none" / "train") in line
    assert "--data DIR" in line
    assert not out.exists()


def test_corrupt_data_is_explained(
    mistake: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    out = tmp_path / "run"
    line = mistake(
        *(*SEARCH, *FOLDER, "--data", str(tmp_path), "--budget", "1e9", "--out", str(out)), code=3
    )
    assert f"cannot read image {str(tmp_path / 'train' / 'a' / 'image.png')!r}" in line
    assert not out.exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"PK\x03\x04 of another program",
    ],
    ids=["truncated", "empty", "foreign"],
)
def test_spoilt_weights_are_explained(
    mistake: Callable[..., str], run: Path, spoil: Callable[[bytes], bytes]
) -> None:
    network, supernet = candidate(run) / "network.safetensors", run / "supernet.safetensors"
    for path in (network, supernet):
        path.write_bytes(spoil(path.read_bytes()))
    assert repr(str(network)) in mistake("evaluate", str(network), code=3)
    identities = (record["id"] for record in runs.RunFolder(run).trials.read())
    other = next(each for each in identities if each != candidate(run).name)
    assert repr(str(supernet)) in mistake("retrain", str(run), "--candidate", other, code=3)
    line = mistake("search", "--resume", str(run), "--executor", "inprocess", code=3)
    assert repr(str(supernet)) in line


def test_what_is_not_there_is_explained(mistake: Callable[..., str], run: Path) -> None:
    empty = run.parent
    assert "is no run folder" in mistake("search", "--resume", str(empty), code=3)
    assert "is no run folder" in mistake("retrain", str(empty), "--candidate", "x", code=3)
    assert "no checkpoint" in mistake("evaluate", str(empty), code=3)
    assert "holds a supernet" in mistake("evaluate", str(run / "supernet.safetensors"), code=3)
    assert "no candidate 'x' among 12" in mistake("retrain", str(run), "--candidate", "x", code=2)


def test_a_spoilt_journal_is_explained(mistake: Callable[..., str], run: Path) -> None:
    resumed = ("search", "--resume", str(run), "--executor", "inprocess")
    journal = run / "trials.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    for spoilt in (lines[0][:20] + "\n", "{}\n"):
        journal.write_text("".join([*lines[:3], spoilt, *lines[3:]]))
        assert repr(str(journal)) in mistake(*resumed, code=3)
        retrained = ("retrain", str(run), "--candidate", "x")
        assert repr(str(journal)) in mistake(*retrained, code=3)


@pytest.mark.parametrize("content", ["{}", "[]", '{"data": 3, "test": 3}', "{"])
def test_spoilt_records_are_explained(mistake: Callable[..., str], run: Path, content: str) -> None:
    folder = candidate(run)
    for file in (folder / "metrics.json", run / "manifest.json"):
        file.write_text(content)
        line = mistake("retrain", str(run), "--candidate", folder.name, code=3)
        assert repr(str(file)) in line


def test_a_spoilt_audit_may_be_deleted(mistake: Callable[..., str], run: Path) -> None:
    for content in ("[]", "{}", "{"):
        file = candidate(run) / "audit-quick.json"
        file.write_text(content)
        line = mistake("audit", str(candidate(run)), "--effort", "quick", code=3)
        assert f"cannot read {str(file)!r}" in line
        assert "delete it to audit anew" in line


def test_metrics_without_their_network_are_explained(
    mistake: Callable[..., str], run: Path
) -> None:
    folder = candidate(run)
    (folder / "network.safetensors").unlink()
    line = mistake("retrain", str(run), "--candidate", folder.name, code=3)
    assert "has metrics.json without its network.safetensors; restore that; to train" in line


@pytest.mark.parametrize("described", [{"format": 3}, {"format": "mbn9x9"}, {"images": None}])
def test_weights_that_describe_themselves_wrongly_are_explained(
    mistake: Callable[..., str], run: Path, described: dict[str, object]
) -> None:
    file = candidate(run) / "network.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = json.loads(opened.metadata()["mbnas"])
    save_file(load_file(file), file, {"mbnas": json.dumps(metadata | described)})
    assert repr(str(file)) in mistake("evaluate", str(file), code=3)
    del metadata["images"]
    save_file(load_file(file), file, {"mbnas": json.dumps(metadata)})
    assert repr(str(file)) in mistake("evaluate", str(file), code=3)


def test_a_folder_may_have_any_name(
    mistake: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("train", *SPACE, *FOLDER, "--format", "float", "--data")
    assert "'\N{OWL}/train'" in mistake(*command, "\N{OWL}", code=3)
    line = mistake(*command, "~nobody\N{OWL}", code=3)
    assert line == "mbnas: no home folder for '~nobody\N{OWL}'; give its whole path"
    line = mistake(*command[:-1], "--out", os.fsdecode(b"caf\xe9"), code=3)
    assert line == r"mbnas: the path 'caf\udce9' is not UTF-8; rename it"


@pytest.mark.parametrize(
    ("name", "next_time"), [("a[/old]", "'a[/old]'"), ("-dash", "./-dash")], ids=str
)
def test_brackets_in_a_name_are_no_markup_and_a_dash_is_no_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str, next_time: str
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ("--set", "retraining.training=natural", "--out", name)
    assert call("train", *SPACE, *OVERRIDES, *short, "--format", "float") == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"next: mbnas audit {next_time}"
    short_audit = ("--effort", "quick", "--set", "threat.steps=1")
    _, *words = shlex.split(said.removeprefix("next: "))
    assert received("mbnas.inspection.audit_checkpoint", *words, *short_audit)[0] == Path(name)


def test_the_next_command_finds_the_images_where_this_one_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    short = ("--set", "retraining.training=natural", "--out", str(tmp_path / "out"))
    assert call("train", *SPACE, *OVERRIDES, *short, "--format", "float") == 0
    metrics = read_json(tmp_path / "out" / "metrics.json")
    monkeypatch.setattr("mbnas.pipeline.train_network", lambda *_: metrics)
    moved = ("--format", "float", "--out", "there", "--data", "my own")
    assert call("train", *SPACE, *FOLDER, *moved) == 0
    assert "next: mbnas audit there --data 'my own'\n" in capsys.readouterr().err


def test_a_long_format_makes_no_long_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layers = "2x1,1x2,1x1,2x2,1x1,2x1,1x2,2x2,1x1,1x2,2x2,2x1"
    deep = ("--set", "backbone.name=resnet14", "--set", "retraining.training=natural")
    assert call("train", *SPACE, *OVERRIDES, *deep, "--format", f"mbn{layers}") == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == f"digits-{Assignment.parse(layers, 12).id}-natural-seed0"


def test_a_run_is_never_overwritten(mistake: Callable[..., str], run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    line = mistake(*SEARCH, "--budget", "1e9", "--out", str(run), code=2)
    assert f"mbnas search --resume {run}" in line
    line = mistake("search", "--resume", str(run), "--supernet", str(run), code=2)
    assert "leave --supernet away" in line
    line = mistake("search", "--resume", str(run), "--out", str(run.parent / "new"), code=2)
    assert "leave --out away" in line
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


# Disks


def test_a_backbone_is_checked_before_its_space_is_looked_for(mistake: Callable[..., str]) -> None:
    line = mistake("train", "--format", "float", "--backbone", "resnet21", code=2)
    assert "unknown backbone 'resnet21'; did you mean" in line
    line = mistake("train", "--format", "float", "--backbone", "resnet44", code=2)
    assert (
        "no space 'search_spaces/resnet44.yaml' here; say by --space whose recipe and data resnet44"
        in line
    )


def test_a_network_is_trained_among_no_foreign_files(
    mistake: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.txt").touch()
    monkeypatch.chdir(tmp_path)
    empty_variable, there = "an empty path", "is there already and not empty; choose another --out"
    for out, answer in (("", empty_variable), (".", there), (str(tmp_path), there)):
        line = mistake("train", *SPACE, *OVERRIDES, "--format", "xnor", "--out", out, code=2)
        assert answer in line
    assert [each.name for each in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_where_the_folder_should_be_is_explained(
    mistake: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for out, code, answer in (
        ("file", 2, "is there already and not empty; choose another --out"),
        ("file/below", 3, "cannot read or write"),
        ("x" * 300, 3, "File name too long"),
    ):
        command = ("train", *SPACE, *OVERRIDES, "--format", "xnor", "--out", str(tmp_path / out))
        assert answer in mistake(*command, code=code)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        ("pipeline.train_network", ("train", *SPACE, "--format", "float")),
        ("pipeline.retrain_candidate", ("retrain", "runs/one", "--candidate", "0123")),
        ("inspection.evaluate_checkpoint", ("evaluate", "runs/one")),
        ("inspection.audit_checkpoint", ("audit", "runs/one")),
    ],
)
def test_no_interrupted_command_is_taken_for_a_finished_one(
    mistake: Callable[..., str],
    stage: str,
    command: tuple[str, ...],
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"mbnas.{stage}", interrupted)
    given = [str(finished) if each == "runs/one" else each for each in command]
    line = mistake(*given, code=130)
    assert line == "mbnas: interrupted; the same command goes on with what was kept, if anything"


def test_too_little_memory_on_a_gpu_is_answered_in_one_line(
    mistake: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 2 GiB."
        )

    monkeypatch.setattr("mbnas.pipeline.pretrained", full)
    line = mistake(*SEARCH, "--budget", "1e9", "--out", str(tmp_path / "run"), code=2)
    assert line.startswith("mbnas: CUDA out of memory; what was finished is safe: go on with fewer")


def test_processes_that_train_together_are_told_to_go_on_together(
    mistake: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbnas.pipeline.pretrained", interrupted)
    command = (*SEARCH, "--budget", "1e9", "--out")
    alone = mistake(*command, str(tmp_path / "one"), code=130)
    assert "go on with: mbnas search --resume" in alone
    monkeypatch.setattr("mbnas.parallel.launcher", lambda: ["torchrun", "--no-python"])
    together = mistake(*command, str(tmp_path / "two"), "--json", code=130)
    assert "go on with: torchrun --no-python mbnas search --json --resume" in together


def test_an_interruption_before_there_is_a_run_advises_no_resuming(
    mistake: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbnas.pipeline.datasets.load", interrupted)
    line = mistake(*SEARCH, "--budget", "1e9", "--out", str(tmp_path / "run"), code=130)
    assert line == "mbnas: interrupted before the run began; give the same command again"


def test_an_interrupted_resuming_is_gone_on_with_as_it_was_called(
    mistake: Callable[..., str], finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbnas.pipeline.resume_search", interrupted)
    space = ("--space", str(finished / "settings.yaml"))
    for given in ((), space, (*space, "--seed", "0", "--retrain", "1")):
        words = ["search", "--resume", str(finished), *INPROCESS, *given, "--set", "device=cpu"]
        line = mistake(*words, code=130)
        assert line == f"mbnas: interrupted; go on with: mbnas {' '.join(words)}"


def test_images_that_may_not_be_read_are_named(
    mistake: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another user meets them; whoever runs the tests may be one who may do everything."""
    inside = Path.iterdir

    def iterdir(folder: Path) -> object:
        if folder == tmp_path / "train":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return inside(folder)

    for split in ("train", "test"):
        (tmp_path / split / "one").mkdir(parents=True)
    monkeypatch.setattr(Path, "iterdir", iterdir)
    for settings in ((*SPACE, *FOLDER), RESNET20):
        line = mistake("train", *settings, "--data", str(tmp_path), "--format", "xnor", code=3)
        assert f"cannot read {str(tmp_path / 'train')!r}: Permission denied; mend that" in line


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_explained_at_once(
    mistake: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(Path, "write_text", failing(number))
    out = tmp_path / "run"
    line = mistake(*SEARCH, "--budget", "1e9", "--out", str(out), code=3)
    assert f"cannot write to {str(out)!r}: {os.strerror(number)}; choose another --out" in line


@pytest.mark.parametrize(
    ("owner", "name"), [(Path, "write_bytes"), (Journal, "append")], ids=["weights", "journal"]
)
def test_a_run_whose_disk_is_full_goes_on_when_there_is_room(
    finished: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as full:
        full.setattr(owner, name, failing(errno.ENOSPC))
        assert call(*SEARCH, "--budget", "110000", "--out", str(out)) == 3
    output = capsys.readouterr()
    assert output.out == ""
    *_, line = output.err.splitlines()
    assert "No space left on device" in line
    assert "goes on with --resume" in line
    assert call("search", "--resume", str(out), "--executor", "inprocess") == 0
    for file in ("pareto.csv", "supernet.safetensors"):
        assert (out / file).read_bytes() == (finished / file).read_bytes()


def test_a_full_disk_behind_the_output_is_not_blamed_on_the_run(
    mistake: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_print", failing(errno.ENOSPC))
    line = mistake("profile", *SPACE, code=3)
    assert line.startswith("mbnas: cannot read or write what this prints: No space left on device;")


def test_what_is_no_mistake_of_the_user_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config, "load", failing(errno.EIO))
    with pytest.raises(OSError, match=r"Input/output error"):
        call("profile", *SPACE)
