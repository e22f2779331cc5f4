"""Scripts are run by hand; these tests see that they still fit the library and do what they say."""

import importlib
import json
import math
import random
import re
import runpy
import shutil
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import permutations, product
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import ray
import torch
from helpers import ROOT, TINY, noise, same, saved, scored, size, tiny
from PIL import Image
from scipy.stats import kendalltau
from victims import grey, masked

import mbnas
from mbnas import auditing
from mbnas import data as datasets
from mbnas.assignment import Assignment, Bases, Space
from mbnas.auditing import Case
from mbnas.bops import bops
from mbnas.checkpoints import NETWORK_FILE
from mbnas.data import Data
from mbnas.errors import SettingsError
from mbnas.evaluation import correct_at_each_iterate
from mbnas.files import read_json, write_json
from mbnas.formats import Family
from mbnas.images import Images
from mbnas.layers import WeightQuantizer, convolution
from mbnas.networks import Network, multibit
from mbnas.runs import RunFolder
from mbnas.search.problem import Problem, Trial
from mbnas.settings import Surrogate, Threat
from mbnas.supernet import Supernet

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))

pytestmark = pytest.mark.usefixtures("brief_audits")

WITHOUT_MAIN = ("bench", "study", "readme_tables", "readme_picture")


def audited_by_another_version(audit: Path) -> None:
    """Alter its record so."""
    write_json(audit, read_json(audit) | {"attacks": "0123456789ab"})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_finds_all_that_it_imports(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(script.parent)
    loaded = runpy.run_path(str(script))
    assert "main" in loaded or script.stem in WITHOUT_MAIN


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """A script as a module, in the root of the checkout."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(SCRIPTS[0].parent)
    return importlib.import_module(request.param)


def test_a_network_that_is_kept_is_the_one_its_result_tells_of() -> None:
    kept = list((ROOT / "scripts" / "results").glob("*.safetensors"))
    assert kept
    for path in kept:
        (row,) = read_json(path.with_suffix(".json"))["measured"]
        _, format_, settings = mbnas.load_network(path)
        told = (row["format"], row["training"], row["seed"], row["epochs"])
        recipe = settings.retraining
        assert (str(format_), recipe.training, settings.seed, recipe.epochs) == told


@pytest.mark.parametrize("script", ["reproduce_tables"], indirect=True)
def test_rows_stand_beside_what_the_paper_says_of_them(script: ModuleType) -> None:
    space = Namespace(model="resnet20", dataset="cifar10", space="search_spaces/resnet20.yaml")
    asked = Namespace(of="resnet20", trainings=["natural"], seeds=[0, 1], **vars(space))
    rows = script.wanted(Namespace(formats=["mbn3x1", "pact4", "wprune", "mbn7x7"], **vars(asked)))
    assert [(each["format"], each["seed"], each["paper"]["top1"]) for each in rows] == [
        *(("mbn3x1", seed, "87.19") for seed in (0, 1)),
        *(("pact4x4", seed, "92.21") for seed in (0, 1)),
        *(("wprune", seed, "88.71") for seed in (0, 1)),
        *(("mbn7x7", seed, "") for seed in (0, 1)),  # the paper has none
    ]
    every = script.wanted(Namespace(formats=None, **vars(asked)))
    assert {each["training"] for each in every} == {"natural"}
    assert {"float", "pact2x2", "xnor", "cprune"} <= {each["format"] for each in every}


@pytest.mark.parametrize("script", ["reproduce_tables"], indirect=True)
def test_a_table_is_made_once_and_goes_on_where_it_stopped(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.bench, "RESULTS", tmp_path)
    options = ["--work", str(tmp_path / "work")]
    options += ["--space", "search_spaces/digits.yaml", "--model", "resnet8", "--dataset", "digits"]
    options += ["--trainings", "natural", "--formats", "mbn1x1", "pact2x2", "--name", "tiny"]
    changes = [each for each in TINY if each != "threat.steps=2"]  # those are the paper's
    options += [part for change in changes for part in ("--set", change)]
    monkeypatch.setattr(sys, "argv", ["reproduce_tables.py", *options])
    result = tmp_path / "paper-tiny.json"
    stopped = mock.patch("mbnas.retraining.final_scores", side_effect=KeyboardInterrupt)
    with stopped, pytest.raises(KeyboardInterrupt):
        script.main()
    assert not result.exists()
    script.main()
    found = json.loads(result.read_text())["measured"]
    assert [each["format"] for each in found] == ["mbn1x1", "pact2x2"]
    for each in found:
        assert each["pgd20 every"]["mean"] <= each["pgd20 last"]["mean"]
        assert each["worst case"]["accuracy"] <= each["audited pgd20 last"]
        assert each["loss"] > 0 < each["training loss"]
    with mock.patch.object(mbnas.Network, "forward", side_effect=AssertionError):
        script.main()
    assert json.loads(result.read_text())["measured"] == found


@pytest.mark.parametrize(("training", "levels"), [("natural", 2), ("fastat", 8)])
@pytest.mark.parametrize("script", ["reproduce_tables"], indirect=True)
def test_a_row_takes_each_figure_from_where_it_belongs(
    script: ModuleType,
    training: str,
    levels: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def attacks(steps: int) -> dict[str, str]:
        through = product(("ste", "polynomial"), ("last", "every"))
        return {f"{each}_{count}": f"{steps} {each} {count}" for each, count in through}

    test = {"natural": 1, "loss": 2, "images": 3, "attacked": 4, "runs": 5, "attacks": attacks(20)}
    answers = {
        "train_network": {
            "bops": 6,
            "test": test,
            "training": [{"loss": 8}, {"loss": 9}],
            "precision": "float32",
        },
        "evaluate_checkpoint": {"test": {"attacks": attacks(50)}},
        "audit_checkpoint": {
            "paper": {"PGD-20": {"last iterate": {"mean": 10}}},
            "worst_case": 11,
            "images": 12,
            "verdict": "PASS",
            "attacks": auditing.version(),
        },
    }
    calls = {name: mock.Mock(return_value=answer) for name, answer in answers.items()}
    for name, call in calls.items():
        monkeypatch.setattr(mbnas, name, call)
    asked = {"training": training, "format": "mbn1x1", "seed": 3}
    arguments = Namespace(
        data=None,
        work=tmp_path,
        model="resnet8",
        dataset="digits",
        space="search_spaces/digits.yaml",
        set=[],
        effort=mbnas.Effort.STANDARD,
    )
    folder = script.folder_of(asked, "mbn1x1", arguments)
    folder.mkdir()
    row = script.measure(asked, arguments)
    settings = calls["train_network"].call_args.args[0]
    assert (settings.seed, settings.retraining.training) == (3, training)
    threat = (settings.threat.eps, settings.threat.step, settings.threat.steps)
    assert threat == pytest.approx((levels / 255, levels / 4 / 255, 20))
    assert calls["evaluate_checkpoint"].call_args.args == (folder, ["threat.steps=50"])
    assert calls["audit_checkpoint"].call_args.args[:2] == (folder, row["effort"])
    assert row["effort"] == "standard"
    for steps, count in product((20, 50), ("last", "every")):
        assert row[f"pgd{steps} {count}"] == f"{steps} ste {count}"
    of_test = ("natural", "loss", "images", "attacked", "runs", "bops", "training loss", "epochs")
    assert [row[each] for each in of_test] == [1, 2, 3, 4, 5, 6, 9, 2]
    assert [row[each] for each in ("audited pgd20 last", "worst case", "audited")] == [10, 11, 12]
    answers["audit_checkpoint"]["attacks"] = "0123456789ab"
    with pytest.raises(SettingsError, match="by another version of the attacks; move its audit-s"):
        script.measure(asked, arguments)


@pytest.mark.parametrize("script", ["reproduce_tables"], indirect=True)
def test_a_mistake_in_the_last_row_is_told_before_the_first_is_trained(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data", str(tmp_path), "--work", str(tmp_path), "--formats", "float", "mbn9x9"]
    monkeypatch.setattr(sys, "argv", ["reproduce_tables.py", *options])
    with pytest.raises(SystemExit, match=r"'mbn9x9'.* from 1 to 8"):
        script.bench.run(script.main)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change", ["retraining.training=natural", "seed=1", "backbone={}", "threat.steps=3"]
)
@pytest.mark.parametrize("script", ["reproduce_tables"], indirect=True)
def test_no_change_contradicts_the_label_of_a_row(
    script: ModuleType, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data", str(tmp_path), "--work", str(tmp_path), "--formats", "float"]
    changed = change.format("{name: resnet32}")
    monkeypatch.setattr(sys, "argv", ["reproduce_tables.py", *options, "--set", changed])
    with pytest.raises(SystemExit, match=r"a change by --set .* contradicts backbone\.name="):
        script.bench.run(script.main)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", ["0", "-1", "two"])
@pytest.mark.parametrize("script", ["reproduce_tables", "gradient_gap"], indirect=True)
def test_counts_begin_with_1(
    script: ModuleType,
    count: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {"reproduce_tables": ["--work", ".", "--workers"], "gradient_gap": ["--trials"]}
    monkeypatch.setattr(sys, "argv", ["script", *options[script.__name__], count])
    with pytest.raises(SystemExit):
        script.bench.run(script.main)
    assert f"{count!r} is not a whole number from 1 on" in capsys.readouterr().err


@pytest.mark.parametrize("length", ["0", "-1", "nan", "inf", "two"])
@pytest.mark.parametrize("script", ["gradient_gap"], indirect=True)
def test_lengths_are_above_zero(
    script: ModuleType,
    length: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--h", length])
    with pytest.raises(SystemExit):
        script.bench.run(script.main)
    assert f"{length!r} is not a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["reproduce_tables"], indirect=True)
def test_a_file_in_the_place_of_a_folder_is_named(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "file"
    work.touch()
    options = ["--work", str(work), "--formats", "float", "--trainings", "natural"]
    options += ["--space", "search_spaces/digits.yaml", "--model", "resnet8", "--dataset", "digits"]
    monkeypatch.setattr(sys, "argv", ["reproduce_tables.py", *options])
    with pytest.raises(SystemExit, match=rf"cannot write {re.escape(str(work))}.*another folder"):
        script.bench.run(script.main)


@pytest.mark.parametrize("script", ["threat_sweep"], indirect=True)
def test_a_sweep_goes_on_where_it_stopped(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[object] = []
    monkeypatch.setattr(script.bench, "keep", lambda *told: kept.append(told))
    network = saved(tmp_path / "one", "mbn2x2")
    short = ["--iterations", "3", "--runs", "2", "--images", "8", "--steps", "1", "2"]

    def sweep(out: Path, breaks_off_at: int | None = None) -> int:
        measure = mock.Mock(wraps=correct_at_each_iterate)
        calls = iter(range(1, breaks_off_at or 100))

        def measured(*given: object) -> torch.Tensor:
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return measure(*given)

        monkeypatch.setattr(script, "correct_at_each_iterate", measured)
        words = ["threat_sweep.py", str(network), "--out", str(out), *short]
        monkeypatch.setattr(sys, "argv", words)
        script.main()
        return measure.call_count

    assert sweep(tmp_path / "whole") == 4
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "stopped", breaks_off_at=4)
    assert sweep(tmp_path / "stopped") == 1
    assert kept[0] == kept[1]
    whole, stopped = (tmp_path / each / "threat-sweep-one.csv" for each in ("whole", "stopped"))
    assert whole.read_text() == stopped.read_text()
    assert {each.suffix for each in whole.parent.iterdir()} == {".csv", ".html"}


@pytest.mark.parametrize("script", ["threat_sweep"], indirect=True)
def test_a_network_is_called_like_its_folder_or_its_file(
    script: ModuleType, tmp_path: Path
) -> None:
    in_folder = tmp_path / "mbn1x1" / "network.safetensors"
    in_folder.parent.mkdir()
    in_folder.touch()
    named = [in_folder.parent, in_folder, tmp_path / "kept.safetensors", tmp_path / "missing"]
    assert list(map(script.bench.name_of, named)) == ["mbn1x1", "mbn1x1", "kept", "missing"]


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("study_surrogates", ("--data", "{}/none", "--work", "{}/work")),
        ("study_recipe", ("--data", "{}/none", "--work", "{}/work")),
        ("study_ranking", ("{}/none", "--work", "{}/work")),
        ("threat_sweep", ("{}/none", "--out", "{}")),
        ("check_attacks", ("{}/none", "--work", "{}/work")),
        ("study_restarts", ("{}/none", "--work", "{}/work")),
        ("audit_kept", ("{}/none", "--work", "{}/work")),
        ("collect_run", ("{}/none", "--command", "mbnas search", "--commit", "0")),
    ],
    indirect=["script"],
)
def test_a_mistake_is_answered_in_one_line(
    script: ModuleType, options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [each.replace("{}", str(tmp_path)) for each in options]
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *given])
    with pytest.raises(SystemExit) as stopped:
        script.bench.run(script.main)
    assert str(tmp_path) in str(stopped.value)
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    ("script", "mistake"),
    [
        ("study_recipe", ("--set", "retraining.epoch=3")),
        ("study_recipe", ("--set", "retraining.epochs=3")),
        ("study_surrogates", ("--formats", "mbn1x1", "mbn9x9")),
        ("study_surrogates", ("--set", "retraining.training=n-fgsm")),
    ],
    indirect=["script"],
)
def test_a_study_that_cannot_be_begun_leaves_nothing(
    script: ModuleType, mistake: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data", str(tmp_path), "--work", str(tmp_path / "work"), *mistake]
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *options])
    with pytest.raises(SystemExit, match=r"retraining\.epoch\b|contradicts .*, retraining|mbn9x9"):
        script.bench.run(script.main)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variants", "format_", "mistake"),
    [
        (["today", "scales per layer"], "float", "has no weight bases"),
        (["PReLU, tanh, averaged shortcuts, Muon 0.02, thresholds fixed"], "xnor", "--variants"),
        (["two stages"], "mbn1x1", "give 2 or more"),
    ],
)
@pytest.mark.parametrize("script", ["study_recipe"], indirect=True)
def test_a_variant_that_cannot_be_trained_is_told_before_any_is(
    script: ModuleType, variants: Sequence[str], format_: str, mistake: str
) -> None:
    settings = tiny("retraining.epochs=1")
    script.require_possible(["today"], [format_], settings)
    with pytest.raises(SettingsError, match=mistake):
        script.require_possible(variants, ["mbn1x1", format_], settings)


@pytest.mark.parametrize("script", ["study"], indirect=True)
def test_a_study_goes_on_with_its_own_images_and_space(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = mbnas.load(ROOT / "search_spaces" / "digits.yaml", ["data.train_images=20"]).data
    whole = datasets.load(digits, seed=0)

    def begun(data: Data, *changes: str) -> object:
        monkeypatch.setattr(script.datasets, "load", lambda *_, **__: data)
        options = ["--data", str(tmp_path), "--work", str(tmp_path / "work")]
        options += ["--train-images", "20", *(part for each in changes for part in ("--set", each))]
        parsed = script.parser(None, epochs=1, formats=["float"]).parse_args(options)
        return script.begun(parsed, possible=lambda *_: None)

    begun(whole)
    begun(whole)
    with pytest.raises(SettingsError, match=r"fingerprint: .*; give another --work"):
        begun(replace(whole, test=whole.test.first(9)))
    with pytest.raises(SettingsError, match=r"\(threat\.steps: 20 -> 3\); give another --work"):
        begun(whole, "threat.steps=3")


NOISE = Data(*(noise(40, (3, 8, 8), 10, seed) for seed in range(3)), held_out=())


@pytest.fixture
def study_of_noise(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., object]:
    """What a study keeps of the smallest networks there are, trained on noise."""
    monkeypatch.setattr(script.study.datasets, "load", lambda *_, **__: NOISE)
    monkeypatch.setattr(script.bench, "RESULTS", tmp_path)
    words = (
        f"--data {tmp_path} --work {tmp_path}/work --name noise --threads 1 --seeds 0 --epochs 2"
    )
    words += (
        " --image-size 8 --train-images 40 --set backbone.width=2 --set retraining.batch_size=20"
    )

    def main(*more: str) -> object:
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *words.split(), *more])
        script.main()
        (kept,) = tmp_path.glob("*-noise.json")
        return json.loads(kept.read_text())["measured"]

    return main


@pytest.mark.parametrize("script", ["study_recipe"], indirect=True)
def test_variants_are_trained_once_as_they_say_and_test_images_choose_nothing(
    script: ModuleType, study_of_noise: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Network] = []
    measure = script.accuracy

    def accuracy(network: Network, images: Images) -> float:
        assert images is NOISE.validation
        judged.append(network)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return measure(network, images)

    monkeypatch.setattr(script, "accuracy", accuracy)
    options = [
        "--variants",
        "today",
        "PReLU behind convolutions",
        "two stages",
        "distilled from float",
    ]
    with pytest.raises(KeyboardInterrupt):
        study_of_noise(*options)
    measured = study_of_noise(*options)
    today, bent, stopped, staged, taught = judged
    assert [bent.backbone.prelu, today.backbone.prelu] == [True, False]
    assert same(stopped, staged)
    assert all(
        isinstance(layer.weights, WeightQuantizer) for _, layer in script.convolutions(staged)
    )
    assert not same(taught, today)  # which differ in nothing but what is learned
    assert set(measured["accuracy"]) == set(options[1:])
    assert measured["accuracy"]["today"] == {"mbn1x1": [measure(today, NOISE.validation)]}
    with mock.patch.object(Network, "forward", side_effect=AssertionError):
        assert study_of_noise(*options) == measured


@pytest.mark.parametrize("script", ["study_recipe"], indirect=True)
def test_a_variant_that_alters_code_trains_another_network(
    script: ModuleType, study_of_noise: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = script.VARIANTS
    altered = [name for name, each in variants.items() if each.altered is not nullcontext]
    assert len(altered) == 6
    for name in altered:
        monkeypatch.setitem(variants, f"not {name}", replace(variants[name], altered=nullcontext))
    trained: list[Network] = []

    def accuracy(network: Network, images: Images) -> float:
        trained.append(network)
        return 0

    monkeypatch.setattr(script, "accuracy", accuracy)
    study_of_noise("--variants", *(each for name in altered for each in (name, f"not {name}")))
    for name, one, other in zip(altered, trained[::2], trained[1::2], strict=True):
        assert not same(one, other), name


@pytest.mark.parametrize("script", ["study_surrogates"], indirect=True)
def test_networks_are_attacked_once_within_what_they_were_trained_for(
    script: ModuleType, study_of_noise: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked: list[Case] = []
    measure = script.attack

    def attack(case: Case, queries: int) -> dict[str, float]:
        attacked.append(case)
        if len(attacked) == 2:
            raise KeyboardInterrupt
        return measure(case, queries)

    monkeypatch.setattr(script, "attack", attack)
    options = "--trainings natural ste polynomial --formats mbn1x1 float --images 20 --queries 3"
    with pytest.raises(KeyboardInterrupt):
        study_of_noise(*options.split())
    measured = study_of_noise(*options.split())
    assert list(measured["networks"]) == [
        *("natural mbn1x1", "natural float", "ste mbn1x1", "ste float", "polynomial mbn1x1")
    ]
    found = [case for number, case in enumerate(attacked) if number != 1]
    assert [round(255 * case.threat.eps) for case in found] == [2, 2, 8, 8, 8]
    assert all(torch.equal(case.images.labels, NOISE.test.first(20).labels) for case in found)
    assert len({case.network.stem.weight.sum().item() for case in found}) == 5
    for (natural, _), (worst, _) in (
        (each["natural"], each["worst"]) for each in measured["networks"].values()
    ):
        assert 0 <= worst <= natural <= 100
    with mock.patch.object(Network, "forward", side_effect=AssertionError):
        assert study_of_noise(*options.split()) == measured


@pytest.mark.parametrize(
    ("script", "mistake", "mended"),
    [
        ("study_surrogates", ("--images", "41"), ("--images", "1")),
        ("study_recipe", ("--epochs", "1"), ("--epochs", "2")),
    ],
    indirect=["script"],
)
def test_a_study_that_cannot_be_made_is_not_begun(
    script: ModuleType,
    mistake: tuple[str, ...],
    mended: tuple[str, ...],
    study_of_noise: Callable[..., object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SettingsError, match=r"there are 40|no first half"):
        study_of_noise(*mistake)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(script.study, "fit", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        study_of_noise(*mended)


@pytest.mark.parametrize("script", ["bench"], indirect=True)
def test_a_copy_of_a_run_is_of_no_other(script: ModuleType, run: RunFolder, tmp_path: Path) -> None:
    for _ in range(2):
        copy = script.copied(run, tmp_path / "copy", without="candidates")
    assert copy.supernet_file.read_bytes() == run.supernet_file.read_bytes()
    assert not (copy.path / "candidates").exists()
    copy.supernet_file.write_bytes(b"another")
    with pytest.raises(SettingsError, match="is a copy of another run"):
        script.copied(run, tmp_path / "copy", without="candidates")


@pytest.mark.parametrize("script", ["study_ranking"], indirect=True)
def test_tau_is_1_for_equal_orders_and_its_error_that_of_leaving_one_out(
    script: ModuleType,
) -> None:
    def among(values: list[int]) -> Callable[[Sequence[int]], float]:
        return lambda kept: kendalltau([values[i] for i in kept], [10 * i for i in kept]).statistic

    assert script.jackknife(among([1, 2, 3, 4]), 4) == (1, 0)
    assert script.jackknife(among([4, 3, 2, 1]), 4) == (-1, 0)
    # Of (1, 3, 2): 1/3, and -1, 1, 1 without the first, second or third.
    value, error = script.jackknife(among([1, 3, 2]), 3)
    assert value == pytest.approx(1 / 3)
    assert error == pytest.approx((2 / 3 * ((-4 / 3) ** 2 + 2 * (2 / 3) ** 2)) ** 0.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished search."""
    target = tmp_path_factory.mktemp("search") / "run"
    executor = mbnas.Executor("inprocess", workers=1)
    mild = ("search.budget=6e6", "threat.eps=0.05", "threat.step=0.02")
    settings = tiny(*mild, "retraining.candidates=2")
    return mbnas.run_search(settings, target, executor).folder


@pytest.mark.parametrize("script", ["audit_kept"], indirect=True)
def test_kept_networks_are_audited_once_each_on_its_own(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.bench, "RESULTS", tmp_path)
    files = [
        (saved(tmp_path / text, text) / NETWORK_FILE).rename(tmp_path / f"paper-{text}.safetensors")
        for text in ("mbn2x1", "float")
    ]
    options = [*map(str, files), "--work", str(tmp_path / "work"), "--name", "two"]
    monkeypatch.setattr(sys, "argv", ["audit_kept.py", *options])
    script.main()
    result = read_json(tmp_path / "audits-two.json")
    rows = result["measured"]["networks"]
    assert [row["network"] for row in rows] == ["mbn2x1", "float"]
    shown = importlib.import_module("readme_tables").audits(result)
    for row in rows:
        audit = read_json(tmp_path / "work" / f"paper-{row['network']}" / "audit-quick.json")
        assert audit["sources"] == {}
        assert row["worst_case"] == audit["worst_case"]
        natural = f"{100 * audit['natural']['accuracy']:.1f}"
        assert f"| {row['network']} | {natural} | " in shown
    with mock.patch.object(mbnas.Network, "forward", side_effect=AssertionError):
        script.main()
    assert read_json(tmp_path / "audits-two.json") == result
    audit = tmp_path / "work" / "paper-mbn2x1" / "audit-quick.json"
    audited_by_another_version(audit)
    with pytest.raises(SettingsError, match="by another version of the attacks; move its audit-q"):
        script.main()
    write_json(audit, {key: each for key, each in read_json(audit).items() if key != "attacks"})
    with pytest.raises(SettingsError, match="by another version of the attacks; move its audit-q"):
        script.main()


@pytest.mark.parametrize("script", ["study_restarts"], indirect=True)
def test_attacks_of_equal_passes_begin_with_the_same_images_and_are_made_once(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = saved(tmp_path / "one", "mbn2x1")
    monkeypatch.setattr(script.bench, "RESULTS", tmp_path)
    words = ["study_restarts.py", str(network), "--work", str(tmp_path / "work"), "--images", "40"]
    monkeypatch.setattr(sys, "argv", [*words, "--seeds", "0", "1", "--name", "two"])
    passes: list[int] = []
    standing = script.Case.standing

    def counted(
        case: object, attack: partial[torch.Tensor], model: object, before: torch.Tensor
    ) -> torch.Tensor:
        passes.append(attack.keywords["steps"] + (attack.func is mbnas.apgd))
        return torch.as_tensor(standing(case, attack, model, before))

    monkeypatch.setattr(script.Case, "standing", counted)
    script.main()
    kept = read_json(tmp_path / "restarts-two.json")
    found = kept["measured"]["networks"]["one"]
    assert all(0 <= value <= found["at first"] for row in found["left"].values() for value in row)
    assert {len(row) for row in found["left"].values()} == {2}
    own = mbnas.load_network(network)[2].threat.steps
    assert sum(passes) == 3 * own + 2 * len(found["left"]) * script.PASSES
    shown = importlib.import_module("readme_tables").restarts(kept)
    assert f"| at first | {100 * found['at first']:.1f} |" in shown
    passes.clear()
    script.main()
    assert passes == []
    assert read_json(tmp_path / "restarts-two.json") == kept


@pytest.mark.parametrize("script", ["collect_run"], indirect=True)
def test_a_finished_run_becomes_a_table(
    script: ModuleType, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.bench, "RESULTS", tmp_path)
    command = "mbnas search --space search_spaces/digits.yaml"
    options = [str(run.path), "--command", command, "--commit", "0123456"]
    monkeypatch.setattr(sys, "argv", ["collect_run.py", *options])
    script.main()
    found = json.loads((tmp_path / "search-digits.json").read_text())
    shown = importlib.import_module("readme_tables").search(found)
    assert shown.startswith(f"`{command}`: ")
    front = read_json(run.pareto_file)
    rows = re.findall(r"^\| \d", shown, re.MULTILINE)  # assignments begin with a number
    assert len(rows) == len(front) + len(list(run.path.glob("candidates/*")))
    for member in front:
        assert f"| {member['bops'] / 1e6:.2f} | {100 * member['natural']:.1f} |" in shown


@pytest.fixture
def copy(run: RunFolder, tmp_path: Path) -> Path:
    """The same search, to be changed."""
    return shutil.copytree(run.path, tmp_path / "run")


@pytest.mark.parametrize("script", ["collect_run"], indirect=True)
def test_other_audits_of_the_same_networks_are_shown_beside(script: ModuleType, copy: Path) -> None:
    first, second = sorted(copy.glob("candidates/*"))
    longer = {"images": 200, "worst_case": {"accuracy": 0.3, "interval": [0.25, 0.35]}}
    for candidate, effort, left in (
        (first, "standard", {"Square": 0.3}),
        (second, "standard", {"Square": 0.3}),
        (second, "full", {"Square": 0.32, "AutoAttack": 0.305, "transfer from others": 0.3}),
    ):
        audit = read_json(candidate / "audit-quick.json") | longer | {"standing_after": left}
        (candidate / f"audit-{effort}.json").write_text(json.dumps(audit))
    found = script.collected(mbnas.runs.reopen(copy), "mbnas search", "0123456")
    shown = importlib.import_module("readme_tables").search(found)
    assert "| worst case %, other audits of these | as above | standard | full | Auto" in shown
    audited = r"30\.0 \(25\.0–35\.0\) [A-Z]+"
    rows = re.findall(rf"\) [A-Z]+ \| {audited} \| (.+)\|$", shown, re.MULTILINE)
    assert {re.sub(audited, "30.0", each) for each in rows} == {"– | – ", "30.0 | breaks 3 of 64 "}
    write_json(candidate / "audit-full.json", audit | {"attacks": "0123456789ab"})
    with pytest.raises(SettingsError, match="was audited by several versions of the attacks"):
        script.collected(mbnas.runs.reopen(copy), "mbnas search", "0123456")


@pytest.mark.parametrize("script", ["collect_run"], indirect=True)
def test_a_result_tells_no_place_of_the_machine(script: ModuleType) -> None:
    left = {
        "Square": 0.5,
        f"transfer from {Path.cwd()}/runs/float": 0.4,
        "transfer from /else": 0.3,
    }
    audit = {"worst_case": {}, "verdict": "PASS", "images": 9, "standing_after": left}
    names = ["Square", "transfer from runs/float", "transfer from /else"]
    assert list(script.shown(audit)["standing_after"]) == names


@pytest.mark.parametrize("script", ["collect_run"], indirect=True)
def test_what_was_retrained_by_hand_is_no_find(script: ModuleType, copy: Path) -> None:
    first, second = sorted(copy.glob("candidates/*"))
    (first / "audit-quick.json").unlink()
    (found,) = script.collected(mbnas.runs.reopen(copy), "mbnas search", "0123456")["retrained"]
    assert found["id"] == second.name
    (second / "audit-quick.json").unlink()
    with pytest.raises(SettingsError, match="has retrained nothing that could be shown"):
        script.collected(mbnas.runs.reopen(copy), "mbnas search", "0123456")


@pytest.mark.parametrize("script", ["study_ranking"], indirect=True)
def test_assignments_of_a_run_are_trained_alone_and_ranked(
    script: ModuleType, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.bench, "RESULTS", tmp_path)
    options = [str(run.path), "--work", str(tmp_path / "work"), "--count", "6"]
    options += ["--set", "test.images=null"]  # all, as natural accuracy does
    monkeypatch.setattr(sys, "argv", ["study_ranking.py", *options, "--seeds", "0", "1"])
    script.main()
    found = json.loads((tmp_path / "ranking-digits.json").read_text())["measured"]
    retrained = [each["id"] for each in found["assignments"] if each["retrained"]]
    assert sorted(retrained) == sorted(each.name for each in run.path.glob("candidates/*"))
    drawn = found["assignments"][: found["ranked"]]
    assert len(drawn) == 6
    assert {each["id"] for each in found["assignments"][6:]} <= set(retrained)
    assert {each["assignment"] for each in drawn} >= {
        str(each) for each in run.settings().space.uniforms
    }
    assert all(len(each["alone"]) == 2 for each in found["assignments"])
    assert set(found["tau"]) == {"natural", "robust", "worst case"}
    rows = [row for each in found["assignments"] for row in each["alone"]]
    assert all(max(row["worst case"], row["robust"]) <= row["natural"] for row in rows)
    audited_by_another_version(next((tmp_path / "work").glob("*/audit-quick.json")))
    with pytest.raises(SettingsError, match="by another version of the attacks"):
        script.main()


@pytest.mark.parametrize("script", ["study_engines"], indirect=True)
def test_layers_one_by_one_find_the_best_of_all_where_their_effects_add_up(
    script: ModuleType,
) -> None:
    space = Space(weights=(1, 2, 3), activations=(1, 2), layers=3)
    effects = {each: random.Random(str(each)).random() for each in product((1, 2, 3), (1, 2))}

    def worth(assignment: Assignment) -> float:
        return sum((layer + 1) * effects[each] for layer, each in enumerate(assignment)) / 12

    def score(assignments: Sequence[Assignment]) -> list[Trial]:
        return [
            replace(scored(each), natural=0.5, robust=worth(each), bops=size(each))
            for each in assignments
        ]

    budget = size(space.largest) - 4
    engine = script.Sensitivity(space, size, budget, evaluations=40)
    found = script.searched(engine, 40, score)
    assert len({trial.assignment for trial in found}) == len(found) <= 40
    assert max(trial.bops for trial in found) <= budget
    every = [space.decode(each) for each in product(*map(range, map(len, space.variables)))]
    affordable = [each for each in every if size(each) <= budget]
    best = max(map(worth, affordable))
    assert max(trial.robust for trial in found) == pytest.approx(best)
    fewer = script.searched(script.Sensitivity(space, size, budget, evaluations=23), 23, score)
    cheapest, *_, costliest = (trial.bops for trial in found[20:])
    assert [fewer[20].bops, fewer[-1].bops] == [cheapest, costliest]  # all limits have their share
    with pytest.raises(SettingsError, match=r"evaluations .*there are 20; give more"):
        script.Sensitivity(space, size, budget, evaluations=20)
    with pytest.raises(SettingsError, match="2x2 everywhere, which costs more than"):
        script.Sensitivity(space, size, 11, evaluations=40)


@pytest.mark.parametrize("script", ["study_engines"], indirect=True)
def test_engines_search_one_supernet_from_one_journal(
    script: ModuleType, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.bench, "RESULTS", tmp_path)
    options = [str(run.path), "--work", str(tmp_path / "work"), "--seeds", "3", "4"]
    monkeypatch.setattr(sys, "argv", ["study_engines.py", *options, "--evaluations", "61"])
    script.main()
    result = tmp_path / "engines-digits.json"
    measured = json.loads(result.read_text())["measured"]
    (found,) = measured["found"]
    counts = {"uniform": 1, "sensitivity": 1, "pymoo": 2, "optuna": 2, "random": 2}
    shares = found["hypervolume"]
    assert {name: len(each) for name, each in shares.items()} == counts
    (least,) = shares["uniform"]
    assert all(least <= share <= 1 for each in shares.values() for share in each)
    # Populations of four: the last one is cut, which no engine need hear of.
    assert all(found["scores"][name] == [61, 61] for name in ("pymoo", "optuna", "random"))
    assert all(found["robust"]["uniform"] <= each for each in found["robust"].values())
    shown = importlib.import_module("readme_tables").engines(json.loads(result.read_text()))
    (uniforms,) = found["scores"]["uniform"]
    assert f"| uniform | 1 | {uniforms} | {100 * least:.1f} | " in shown
    assert re.search(r"\| random \| 2 \| 61 ± 0 \| \S+ ± \S+ \| 0\.0 ± ", shown)  # than itself
    with mock.patch.object(mbnas.Network, "forward", side_effect=AssertionError):
        script.main()
    assert json.loads(result.read_text())["measured"] == measured


@pytest.mark.parametrize("script", ["study_retraining"], indirect=True)
def test_finds_are_retrained_once_in_every_way(
    script: ModuleType, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.bench, "RESULTS", tmp_path)
    before = sorted(run.path.rglob("*"))
    options = [str(run.path), "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["study_retraining.py", *options])
    script.main()
    found = json.loads((tmp_path / "retraining-digits.json").read_text())
    rows = found["measured"]["networks"]
    finds = [each.name for each in run.path.glob("candidates/*")]
    assert len(finds) == 2
    ways = [("supernet", "supernet"), ("supernet", "null"), ("scratch", "supernet")]
    ways += [("scratch", "null")]
    assert [(each["start"], each["teacher"]) for each in rows[:: len(finds)]] == ways
    for row, (start, teacher) in zip(rows[:: len(finds)], ways, strict=True):
        folder = tmp_path / "work" / f"{start}-{teacher}" / "candidates"
        cheapest = Assignment.parse(row["assignment"], 6).id
        written = read_json(folder / cheapest / "metrics.json")
        assert written["test"]["natural"] == row["natural"]
        for one, other in permutations(finds, 2):  # each meets all others, whichever came first
            audit = (folder / one / "audit-quick.json").read_text()
            assert f"transfer from {other}" in audit
    assert sorted(run.path.rglob("*")) == before
    assert "| scratch | labels | mean |" in importlib.import_module("readme_tables").retraining(
        found
    )
    with mock.patch.object(mbnas.Network, "forward", side_effect=AssertionError):
        script.main()
    assert json.loads((tmp_path / "retraining-digits.json").read_text()) == found
    audited_by_another_version(folder / cheapest / "audit-quick.json")
    with pytest.raises(SettingsError, match="by another version of the attacks"):
        script.main()


@pytest.mark.parametrize("script", ["study_search"], indirect=True)
def test_searches_of_several_seeds_are_made_once_beside_the_uniform_networks(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.bench, "RESULTS", tmp_path)
    options = ["--space", "search_spaces/digits.yaml", "--work", str(tmp_path / "work")]
    options += ["--budget", "1.1e5", "--seeds", "1", "--pareto"]
    options += ["--vary", "supernet.epochs=1 search.engine=optuna"]
    options += [part for change in TINY for part in ("--set", change)]
    monkeypatch.setattr(sys, "argv", ["study_search.py", *options])
    script.main()
    result = tmp_path / "fronts-digits.json"
    found = json.loads(result.read_text())
    rows = found["measured"]["networks"]
    for change in ("", "supernet.epochs=1 search.engine=optuna"):
        run = RunFolder(tmp_path / "work" / "-".join((*change.split(), "seed1")))
        settings = run.settings()
        assert (settings.seed, settings.supernet.epochs) == (1, 1 if change else 2)
        of_run = [each for each in rows if each["change"] == change]
        (trained,) = run.path.glob("candidates/*/metrics.json")
        (find,) = (each for each in of_run if each["find"])
        assert find["assignment"] == read_json(trained)["assignment"]
        assert find["natural"] == read_json(trained)["test"]["natural"]
        members = [each["member"] for each in of_run if each["member"]]
        assert sorted(each["id"] for each in members) == sorted(
            each["id"] for each in read_json(run.pareto_file)
        )
        assert all(each["scored"]["assignment"] == each["assignment"] for each in of_run)
        uniform = {each["assignment"] for each in of_run if each["uniform"]}
        affordable = [
            each for each in settings.space.uniforms if bops(settings.table, each) <= 1.1e5
        ]
        assert uniform == {str(each) for each in affordable}
        assert 1 < len(uniform) < len(settings.space.uniforms)
    with mock.patch.object(mbnas.Network, "forward", side_effect=AssertionError):
        script.main()
    assert json.loads(result.read_text()) == found


@pytest.mark.parametrize("script", ["tables.papers"], indirect=True)
def test_claims_of_the_paper_come_with_their_standard_errors(script: ModuleType) -> None:
    assert script.Share([50.0], 100).error == pytest.approx(5)  # of 100 images one seed attacked
    assert script.Share([1.0, 3.0, 5.0], 100).error == pytest.approx(2 / math.sqrt(3))
    shown = script.claim("resnet20", "natural", "mbn3x1", "mbn1x3")
    paper = "| paper, resnet20 |  | 87.2 - 87.5 = -0.4 | 14.3 - 9.1 = +5.2 | – |  | 1.0 times |"
    assert paper in shown
    assert "32x32" not in shown  # there FastAT was studied
    deepest = script.read("audits-resnet20-standard-taught-cpu")["measured"]
    kept = {each["network"]: each for each in deepest["networks"]}
    audits = [kept[f"resnet20-{each}-taught-cpu"] for each in ("mbn3x1", "mbn1x3")]
    one, other = (100 * each["worst_case"]["accuracy"] for each in audits)
    error = math.sqrt((one * (100 - one) + other * (100 - other)) / audits[0]["images"])
    lead = f"| {one:.1f} - {other:.1f} = {one - other:+.1f} ({error:.1f}) | standard audits |"
    assert lead in shown
    rows = read_json(script.RESULTS / "study-surrogates-32.json")["measured"]["by seed"]
    a, b = ([row["worst"] for row in rows[f"polynomial {each}"]] for each in ("mbn3x3", "float"))
    error = math.hypot(statistics.stdev(a), statistics.stdev(b)) / math.sqrt(3)
    lead = f"{statistics.fmean(a) - statistics.fmean(b):+.1f} ({error:.1f}) | a study | – |"
    assert lead in script.claim("resnet56", "fastat", "mbn3x3", "float")


@pytest.mark.parametrize("script", ["tables.papers"], indirect=True)
def test_costs_that_differ_by_seed_are_averaged(script: ModuleType) -> None:
    result = script.read("paper-pruned")
    costs = [each["bops"] / 1e8 for each in result["measured"] if each["format"] == "wprune"]
    assert len(set(costs)) > 1
    mean, deviation = statistics.fmean(costs), statistics.stdev(costs)
    assert f"| wprune | {mean:.3f} ± {deviation:.3f} |" in script.paper(result)
    assert "| float | 1.959 |" in script.paper(result)


@pytest.mark.parametrize(("kind", "names"), [("paper", "resnet20-*1x1*cpu"), ("study", "fastat-*")])
@pytest.mark.parametrize("script", ["readme_tables"], indirect=True)
def test_results_in_one_table_each_tell_how_they_were_made(
    script: ModuleType, kind: str, names: str
) -> None:
    results = [read_json(each) for each in script.RESULTS.glob(f"{kind}-{names}.json")]
    together = {of: marker for marker, (of, _) in script.TOGETHER.items()}[kind]
    shown = script.written(f"<!-- {together}: {names} -->\n<!-- end -->")
    table, _, folded = shown.partition("<details>")
    assert len(results) > 5
    for result in results:
        assert folded.count(f"`{result['command']}` (") == 1
    measured = [each["measured"] for each in results]
    rows = [each if kind == "paper" else each["networks"] for each in measured]
    assert table.count("\n|") == 2 + sum(map(len, rows))  # and the header


@pytest.mark.parametrize("script", ["tables.searches"], indirect=True)
def test_the_find_of_a_search_is_told_by_validation_images_not_by_what_it_keeps(
    script: ModuleType,
) -> None:
    def find(validation: float, test: float) -> dict[str, Any]:
        row = {"uniform": False, "seed": 0, "assignment": "1x2,1x1", "bops": 2e6}
        return row | {"worst case": test, "member": {"worst_case": validation}}

    uniform = [{"seed": 0, "assignment": "1x1,1x1", "bops": 1e6, "worst case": 0.25}]
    first, *_ = script.apart([[find(0.3, 0.6), find(0.4, 0.5)]], uniform)
    assert first == ["the one that withstands most when searched", "1", "2.00", "50.0", "–"]


@pytest.mark.parametrize("script", ["tables.searches"], indirect=True)
def test_a_find_is_compared_with_the_uniform_network_that_is_best_on_other_seeds(
    script: ModuleType,
) -> None:
    kept = {
        ("1x1", 1): (0.3, 0.5, 0.5),  # assignment and cost: in the worst case, by seed
        ("1x2", 2): (0.4, 0.1, 0.2),
        ("3x3", 9): (0.9, 0.9, 0.9),  # costs more than the find
    }
    find = {"uniform": False, "find": True, "assignment": "1x1,1x2", "bops": 2}
    networks = [
        {"uniform": True, "find": False, "seed": seed}
        | {"assignment": name, "bops": cost, "worst case": value}
        for (name, cost), values in kept.items()
        for seed, value in enumerate(values)
    ]
    assert script.lead(find | {"seed": 0, "worst case": 0.45}, networks) == pytest.approx(
        (0.45 - 0.35, 0.45 - 0.3)
    )
    alone = [each for each in networks if each["seed"] == 0]
    than_all, than_best = script.lead(find | {"seed": 0, "worst case": 0.45}, alone)
    assert than_all == pytest.approx(0.45 - 0.35)
    assert script.over_seeds([than_best]) == "–"
    for seed, value in enumerate((0.45, 0.5, 0.55)):
        networks.append(find | {"seed": seed, "worst case": value})
    told = [each | {"change": "", "natural": 0.9, "robust": 0.6} for each in networks]
    for each in told:
        scores = {
            "natural": each["bops"],
            "robust": each["worst case"],
            "worst_case": -each["worst case"],
        }
        each["member"] = scores | {"bops": each["bops"]} if each["bops"] < 9 else None
    result = read_json(ROOT / "scripts" / "results" / "recipe-muon.json")
    result["measured"] = {"seeds": [0, 1, 2], "layers": 2, "networks": told}
    shown = script.finds(result)
    # by seed 0.10, 0.20 and 0.20 more than in the mean, 0.15, 0.00 and 0.05 more than 1x1
    row = "| as the space says | 0.00 ± 0.00 | 90.0 ± 0.0 | 60.0 ± 0.0 | 50.0 ± 5.0 "
    assert f"{row}| 16.7 ± 5.8 | 6.7 ± 7.6 |" in shown
    # "1x1,1x2" costs as much as 1x2, so that it has two rivals on each of the three seeds
    assert "| the one that withstands most when searched | 3 | 0.00 ± 0.00 | 50.0 ± 5.0 |" in shown
    assert "| all others | 3 | 0.00 ± 0.00 | 50.0 ± 5.0 | 6.7 ± 7.6 |" in shown
    assert "uniform themselves" not in shown
    cheap = [{**each, "bops": 1} if each["find"] else each for each in told]
    result["measured"]["networks"] = cheap
    alone = "| others as cheap as one uniform network only | 3 | 0.00 ± 0.00 | 50.0 ± 5.0 |"
    assert alone in script.finds(result)
    assert "| 1x2*2 | 0.00 | 23.3 ± 15.3 | 26.7 ± 18.9 (3) |" in shown
    assert re.search(r"\| 1x1\*2 \| 0\.00 \| 43\.3 ± 11\.5 \| – \|", shown)
    elsewhere = [each | {"change": "fewer"} for each in told if each["assignment"] == "1x1"]
    finding = [each | {"change": "fewer"} for each in told if each["find"]]
    result["measured"]["networks"] = [*elsewhere, *finding, *told]
    assert "| 1x2*2 | 0.00 |  | 23.3 ± 15.3 |" in script.finds(result)
    result["measured"]["networks"] = told
    for each in told:
        each["natural"], each["robust"] = -each["worst case"], each["worst case"]
    shown = script.fronts(result)
    assert "| PGD-20 | -1.00 ± 0.00 | 1.00 ± 0.00 | 1.00 ± 0.00 |" in shown
    assert "| worst case | 1.00 ± 0.00 | -1.00 ± 0.00 | -1.00 ± 0.00 |" in shown
    assert "The 3 members that are not uniform keep 16.7 ± 5.8 points more" in shown
    assert "the 0 that are as cheap as one uniform network only keep – more" in shown
    assert "the 3 others 6.7 ± 7.6 (means over searches)" in shown
    assert "they have in the mean 1.0, 1.0 weight and 1.0, 2.0 activation bases" in shown


@pytest.mark.parametrize("script", ["study_supernet"], indirect=True)
def test_supernets_of_both_rules_are_trained_once_and_ranked(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.bench, "RESULTS", tmp_path)
    known = [
        {
            "assignment": ",".join([bases] * 6),
            "alone": [{"natural": 1 - share, "robust": share, "worst case": share / 2}],
        }
        for bases, share in (("1x1", 0.1), ("2x1", 0.2), ("2x2", 0.3))
    ]
    ranking = {"measured": {"ranked": 3, "assignments": known}}
    write_json(tmp_path / "ranking-digits.json", ranking)
    options = ["--space", "search_spaces/digits.yaml", "--work", str(tmp_path / "work")]
    options += ["--seeds", "0", "1", "--trained", "3", "--vary", "supernet.epochs=1"]
    brief = [change for change in TINY if not change.startswith("supernet.sampled")]
    options += [part for change in brief for part in ("--set", change)]
    monkeypatch.setattr(sys, "argv", ["study_supernet.py", *options])

    def scores(problem: Problem, assignment: Assignment) -> Trial:
        cost = problem.cost(assignment)
        return Trial(assignment, cost, cost / 1e9, 1 - cost / 1e9, cost / 1e9, 0)

    stopped = mock.patch.object(Problem, "score", side_effect=KeyboardInterrupt)
    with stopped, pytest.raises(KeyboardInterrupt):
        script.main()
    with mock.patch.object(Problem, "score", scores):
        script.main()
    found = json.loads((tmp_path / "rules-digits.json").read_text())
    for ways in found["measured"]["tau"].values():
        assert ways["BOPS"] == {"natural": [-1, -1], "robust": [1, 1], "worst case": [1, 1]}
        assert ways["supernet"] == {key: [-1, -1] for key in ways["BOPS"]}
    shown = importlib.import_module("readme_tables").rules(found)
    assert "| BOPS | -1.00 | 1.00 | 1.00 |  |  |" in shown
    for trained in ("sandwich", "sandwich, supernet.epochs=1"):
        assert f"| supernet, rule {trained} | -1.00 | -1.00 | -1.00 |" in shown
    epochs = {
        folder.name: RunFolder(folder).settings().supernet.epochs
        for folder in (tmp_path / "work").glob("sandwich*seed1")
    }
    assert epochs == {"sandwich-seed1": 2, "sandwich-supernet.epochs=1-seed1": 1}
    with mock.patch.object(Supernet, "forward", side_effect=AssertionError):
        script.main()
    assert json.loads((tmp_path / "rules-digits.json").read_text()) == found
    write_json(
        tmp_path / "ranking-digits.json", {"measured": {"ranked": 3, "assignments": known[::-1]}}
    )
    script.main()  # scores find their networks in any order
    again = json.loads((tmp_path / "rules-digits.json").read_text())
    assert again["measured"]["tau"] == found["measured"]["tau"]


@pytest.mark.parametrize("script", ["study_ranking"], indirect=True)
def test_a_supernet_that_scores_what_networks_reach_ranks_them_perfectly(
    script: ModuleType,
) -> None:
    accuracies = [0.3, 0.1, 0.5, 0.2, 0.4]
    scores = [
        Trial(each, 5 - i, natural=accuracy, robust=0.5 - accuracy, loss=-accuracy, seconds=0)
        for i, (each, accuracy) in enumerate(
            zip(Space((1, 2, 3), (1, 2), 3).uniforms, accuracies, strict=False)
        )
    ]
    networks = [[{"natural": each}, {"natural": 1 - each}] for each in accuracies]
    with_one_seed = [[rows[0]] for rows in networks]
    found = script.agreement(scores, with_one_seed, "natural")
    assert found["supernet"][0] == pytest.approx(1) == found["supernet, natural loss"][0]
    assert found["BOPS"][0] == pytest.approx(-0.2)
    ranks = [3 + 5, 1 + 4, 5 + 3, 2 + 2, 4 + 1]
    together = kendalltau(ranks, accuracies).statistic
    assert found["supernet and BOPS"][0] == pytest.approx(together)
    assert found["what the supernet adds to BOPS"][0] == pytest.approx(together + 0.2)
    assert "one seed with the others" not in found
    both = script.agreement(scores, networks, "natural")
    assert both["one seed with the others"] == pytest.approx((-1, 0))


@pytest.mark.parametrize("script", ["gradient_gap"], indirect=True)
def test_the_gap_is_0_where_the_function_is_linear_and_1_where_the_gradient_is_0(
    script: ModuleType,
) -> None:
    float_ = convolution(script.ROW, Family.FLOAT, Bases(8, 8)).double()
    binary = convolution(script.ROW, Family.MBN, Bases(1, 1)).double()
    assert script.error(float_, "weights", 0.5, Surrogate.STE, 4) == pytest.approx(0, abs=1e-12)
    assert 0.1 < script.error(binary, "input", 0.5, Surrogate.STE, 4) < 1
    with mock.patch("mbnas.quantizers.derivative", lambda _, z: z * 0):
        assert script.error(binary, "input", 0.5, Surrogate.STE, 4) == 1


@pytest.mark.parametrize("script", ["bench_pipeline"], indirect=True)
def test_the_stages_that_are_timed_are_those_of_a_run(script: ModuleType) -> None:
    seconds = script.once(tiny("search.budget=110000"))
    total = seconds.pop("total")
    assert seconds.keys() == script.STAGES.keys()
    assert 0 < sum(seconds.values()) < total


@pytest.mark.parametrize("script", ["bench"], indirect=True)
def test_nothing_is_compiled_where_plain_operations_are_asked_for(script: ModuleType) -> None:
    table = replace(tiny().table, prelu=True)
    network = multibit(table, Assignment.uniform(1, 2, len(table.searchable)))
    x = torch.rand(4, *table.image)
    kernels = ("moments", "forward", "backward", "tilt", "bend", "unbend")
    compiled = {name: mock.Mock(side_effect=AssertionError(name)) for name in kernels}
    with mock.patch.multiple("mbnas.kernels", **compiled):
        with script.plain():
            network(x).sum().backward()
        with script.compiled(), pytest.raises(AssertionError):
            network(x)


@pytest.mark.parametrize("script", ["bench"], indirect=True)
def test_the_expanded_peer_computes_the_same_function(script: ModuleType) -> None:
    table = tiny().table
    assignment = Assignment.parse("1x1,3x1,1x3,2x2,3x2,3x3", len(table.searchable))
    network, peer = multibit(table, assignment), multibit(table, assignment)
    peer.load_state_dict(network.state_dict())
    x = torch.rand(4, *table.image)
    found = script.expanded(peer)(x)
    torch.testing.assert_close(found, network(x))
    assert {type(each) for each in peer.convolutions.values()} == {script.ExpandedConv2d}
    for layer in peer.convolutions.values():
        layer.freeze()
    with mock.patch.object(script.ExpandedConv2d, "bases", side_effect=AssertionError):
        torch.testing.assert_close(peer(x), found)


@pytest.mark.parametrize("script", ["bench"], indirect=True)
def test_a_result_gives_way_to_the_same_command_only(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "RESULTS", tmp_path)

    def kept(measured: int, *options: str) -> Path:
        monkeypatch.setattr(sys, "argv", ["study.py", *options])
        return script.keep("study", measured)

    whole = kept(1, "--seeds", "0", "1")
    assert kept(2, "--seeds", "0", "1") == whole
    assert kept(3, "--seeds", "0") == tmp_path / "study.new.json"
    found = [read_json(each)["measured"] for each in (whole, tmp_path / "study.new.json")]
    assert found == [2, 3]


@pytest.mark.parametrize("script", ["reproduce_tables"], indirect=True)
def test_rows_side_by_side_come_in_the_order_asked_for(script: ModuleType) -> None:
    def row(number: int) -> dict[str, int]:
        time.sleep(0.2 * (3 - number))  # the last is done first
        return {"row": number}

    todo = [partial(row, number) for number in range(3)]
    try:
        assert script.side_by_side(todo, 2) == script.side_by_side(todo, 1)
    finally:
        ray.shutdown()


@pytest.mark.parametrize("script", ["reproduce_tables"], indirect=True)
def test_a_mistake_is_told_before_longer_rows_are_done(script: ModuleType, tmp_path: Path) -> None:
    done = tmp_path / "done"

    def long() -> None:
        time.sleep(300)  # ended by the mistake; workers start late on a busy machine
        done.touch()

    def wrong() -> None:
        raise SettingsError("a mistake")

    try:
        with pytest.raises(SettingsError, match="a mistake"):
            script.side_by_side([long, wrong], 2)
        assert not done.exists()
    finally:
        ray.shutdown()


@pytest.mark.parametrize("script", ["jpeg_again"], indirect=True)
def test_images_lose_anew_off_the_grid_of_their_first_coding_only(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = {}
    for shift in (0, script.OFF_GRID):
        images, target = tmp_path / f"images{shift}", tmp_path / f"again{shift}"
        (images / "test" / "cat").mkdir(parents=True)
        smooth = np.random.default_rng(0).integers(64, 192, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(smooth).resize((32, 32), Image.Resampling.BICUBIC)
        picture.save(images / "test" / "cat" / "1.jpg", quality=script.QUALITY)
        monkeypatch.setattr(script, "OFF_GRID", shift)
        monkeypatch.setattr(sys, "argv", ["jpeg_again.py", str(images), str(target)])
        script.bench.run(script.main)
        before, after = (
            np.asarray(Image.open(folder / "test" / "cat" / name)).astype(float)
            for folder, name in ((images, "1.jpg"), (target, "1.jpg.png"))
        )
        assert before.shape == after.shape
        lost[shift] = np.sqrt(np.square(before - after).mean())
    assert lost[script.OFF_GRID] > 3 * lost[0]


@pytest.mark.parametrize("kept", [0, 8, 900], ids=["empty", "no header", "cut off"])
@pytest.mark.parametrize("script", ["jpeg_again"], indirect=True)
def test_a_damaged_image_is_named(
    script: ModuleType, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "1.jpg")
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:kept])
    monkeypatch.setattr(sys, "argv", ["jpeg_again.py", str(tmp_path), str(tmp_path / "again")])
    with pytest.raises(SystemExit, match=r"cannot read image .*1\.jpg"):
        script.bench.run(script.main)


@pytest.mark.parametrize("script", ["study_surrogates"], indirect=True)
def test_the_study_counts_what_stands_under_each_attack_and_under_all(script: ModuleType) -> None:
    threat = Threat(eps=0.25, step=0.1, steps=10, surrogate=Surrogate.TANH)
    images = grey([115] * 8, [0] * 8, side=16)

    def lost(leads: Surrogate) -> set[str]:
        left = script.attack(Case(masked(leads), images, threat, 0), 1)
        assert set(left.values()) == {0, 100}
        return {name for name, share in left.items() if share == 0}

    assert lost(Surrogate.TANH) == {"PGD-20, tanh", "margin, tanh", "worst"}
    assert lost(Surrogate.STE) == {"PGD-20, ste, last", "PGD-20, ste, every", "worst"}
    assert script.summary([{"a": 1.0}, {"a": 3.0}]) == {"a": (2, pytest.approx(2**0.5))}


@pytest.mark.parametrize("script", ["study_ranking"], indirect=True)
def test_assignments_are_ranked_with_the_mean_over_seeds(script: ModuleType) -> None:
    uniforms = Space((1, 2, 3), (1, 2), 3).uniforms[:4]
    scores = [
        Trial(each, cost, natural=cost, robust=0, loss=0, seconds=0)
        for cost, each in enumerate(uniforms, 1)
    ]
    reached = [(4, 0), (3, 3), (2, 6), (1, 9)]  # by the first seed the other way round
    networks = [[{"natural": each} for each in row] for row in reached]
    assert script.agreement(scores, networks, "natural")["supernet"] == pytest.approx((1, 0))
