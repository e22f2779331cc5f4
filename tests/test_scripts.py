"""Scripts are run by hand; these tests see that they still fit the library."""

import importlib
import runpy
from pathlib import Path

import pytest

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
