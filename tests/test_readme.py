"""The README shows what scripts/results/ holds, and its commands are those that CI runs."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_tables_are_the_ones_the_script_writes() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "readme_tables.py"))
    assert "<!-- search: digits -->" in README
    assert script["written"](README) == README


def test_ci_runs_the_test_command() -> None:
    assert 'pip install -e ".[test]" && pytest\n' in README
    assert 'pip install -e ".[test]" && pytest\n' in (ROOT / ".ci" / "run").read_text()


def test_every_module_is_named() -> None:
    modules = {each.name for each in (ROOT / "mbnas").glob("*.py")} - {"__init__.py"}
    assert {each for each in modules if f"`{each}`" not in README} == set()
