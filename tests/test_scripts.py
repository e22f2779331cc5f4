"""Scripts are run by hand; these tests see that they still fit the library and do what they say."""

import importlib
import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
from helpers import TINY

import mbnas
from mbnas.assignment import Bases
from mbnas.formats import Family
from mbnas.layers import convolution
from mbnas.settings import Surrogate

SCRIPTS = sorted((Path(__file__).parent.parent / "scripts").glob("*.py"))

WITHOUT_MAIN = ("bench", "study", "readme_tables", "readme_picture")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_finds_all_that_it_imports(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(script.parent)
    loaded = runpy.run_path(str(script))
    assert "main" in loaded or script.stem in WITHOUT_MAIN


def test_the_stages_that_are_timed_are_those_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SCRIPTS[0].parent
    monkeypatch.syspath_prepend(folder)
    for place in runpy.run_path(str(folder / "bench_pipeline.py"))["STAGES"].values():
        module, _, name = place.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """A script as a module, in the root of the checkout."""
    monkeypatch.chdir(SCRIPTS[0].parent.parent)
    monkeypatch.syspath_prepend(SCRIPTS[0].parent)
    return importlib.import_module(request.param)


@pytest.mark.parametrize("script", ["reproduce_tables"], indirect=True)
def test_rows_stand_beside_what_the_paper_says_of_them(script: ModuleType) -> None:
    asked = Namespace(of="resnet20", dataset="cifar10", trainings=["natural"], seeds=[0, 1])
    rows = script.wanted(Namespace(formats=["mbn3x1", "wprune", "mbn7x7"], **vars(asked)))
    assert [(each["format"], each["seed"], each["paper"]["top1"]) for each in rows] == [
        *(("mbn3x1", seed, "87.19") for seed in (0, 1)),
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
    options = ["--data", str(tmp_path / "none"), "--work", str(tmp_path / "work")]
    options += ["--space", "search_spaces/digits.yaml", "--model", "resnet8", "--dataset", "digits"]
    options += ["--trainings", "natural", "--formats", "mbn1x1", "pact2x2", "--name", "tiny"]
    options += [part for change in TINY for part in ("--set", change)]
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
        assert each["pgd20 any"]["mean"] <= each["pgd20 last"]["mean"]
        assert each["worst case"]["accuracy"] <= each["audited pgd20 last"]
    with mock.patch.object(mbnas.Network, "forward", side_effect=AssertionError):
        script.main()
    assert json.loads(result.read_text())["measured"] == found


@pytest.mark.parametrize("script", ["reproduce_tables"], indirect=True)
def test_a_mistake_in_the_last_row_is_told_before_the_first_is_trained(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--data", str(tmp_path), "--work", str(tmp_path), "--formats", "float", "mbn9x9"]
    monkeypatch.setattr(sys, "argv", ["reproduce_tables.py", *options])
    with pytest.raises(SystemExit, match=r"'mbn9x9'.* from 1 to 8"):
        script.main()
    assert list(tmp_path.iterdir()) == []


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
