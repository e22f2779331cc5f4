"""The README shows what scripts/results/ holds, and its commands are those that CI runs."""

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import helpers
import pytest
from helpers import ROOT, TINY

import mbnas

README = helpers.README.read_text()


def test_the_tables_are_the_ones_the_script_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = runpy.run_path(str(ROOT / "scripts" / "readme_tables.py"))
    pages = [page.read_text() for page in script["PAGES"]]
    assert "<!-- search: digits -->" in README and README in pages
    assert [script["written"](page) for page in pages] == pages


def test_every_result_is_shown_and_every_script_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    together = runpy.run_path(str(ROOT / "scripts" / "readme_tables.py"))["TOGETHER"]
    page = (ROOT / "scripts" / "README.md").read_text()
    results = ROOT / "scripts" / "results"
    shown = {
        each.stem
        for kind, name in re.findall(r"<!-- (\w+): (\S+) -->", README + page)
        for each in results.glob(f"{together.get(kind, (kind,))[0]}-{name}.json")
    }
    assert shown == {each.stem for each in results.glob("*.json")}
    helpers = {"bench.py", "study.py"}
    scripts = {each.name for each in (ROOT / "scripts").glob("*.py")} - helpers
    assert scripts <= set(re.findall(r"`(\w+\.py)`", page))


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "scripts" / "README.md"):
        for path, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", page.read_text()):
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name} links to {path}"
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else []
            anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
            assert not anchor or anchor in anchors, f"{page.name} links to #{anchor}"


def test_the_pictures_are_the_ones_the_script_draws() -> None:
    drawn: dict[Path, str] = runpy.run_path(str(ROOT / "scripts" / "readme_picture.py"))["drawn"]()
    assert set(drawn) == set((ROOT / "scripts" / "results").glob("*.svg"))
    for picture, content in drawn.items():
        assert f"({picture.relative_to(ROOT)})" in README
        assert content == picture.read_text()


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    example = re.search(r"### From Python\n\n```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    small = [("search.budget=6e6", '", "'.join(("search.budget=6e6", *TINY)))]
    small += [('"runs/mine"', f'"{tmp_path}/run"'), ("runs/mine/audit", f"{tmp_path}/audit")]
    small += [("first(100)", "first(8)")]
    code = example[1]
    for written, tried in small:
        assert code.count(written) == 1
        code = code.replace(written, tried)
    (tmp_path / "example.py").write_text(code)
    names = runpy.run_path(str(tmp_path / "example.py"))
    assert names["logits"].shape == (8, 10)
    assert names["found"].evidence.worst.shape == (8,)
    assert (tmp_path / "run" / "pareto.json").exists()


def test_the_settings_for_images_of_ones_own_are_valid() -> None:
    command = re.search(r"^mbnas search  --space (\S+)([^`]*)```", README, re.MULTILINE)
    assert command is not None
    changes = re.findall(r"--set (\S+)", command[2])
    assert "data.classes=K" in changes
    settings = mbnas.load(ROOT / command[1], [each.replace("=K", "=3") for each in changes])
    assert settings.data.name == "folder"
    assert settings.search.images <= settings.data.validation


def test_ci_runs_the_test_command() -> None:
    assert 'pip install -e ".[test]" && pytest\n' in README
    assert 'pip install -e ".[test]" && pytest\n' in (ROOT / ".ci" / "run").read_text()


def order() -> dict[str, int]:
    """Position of each module, or package, in the README's table."""
    table = README[README.index("| module | what it does |") :]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`(\w+(?:\.py|/))`", cell)]
    return {
        name.removesuffix(".py").removesuffix("/"): position for position, name in enumerate(names)
    }


def test_every_module_is_named() -> None:
    modules = {each.stem for each in (ROOT / "mbnas").glob("*.py")} - {"__init__"}
    packages = {each.parent.name for each in (ROOT / "mbnas").glob("*/__init__.py")}
    assert order().keys() == modules | packages


def test_a_module_imports_only_from_those_above_it() -> None:
    positions = order()
    for name, position in positions.items():
        path = ROOT / "mbnas" / name
        for file in path.glob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
            below = {each for each in imports(file) if positions.get(each, -1) > position}
            assert below == set(), f"{file.name} imports {below}"


def imports(file: Path) -> Iterator[str]:
    """Modules and packages of mbnas, wherever in the file they are imported."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mbnas"):
            _, *inside = (node.module or "").split(".")
            yield from inside[:1] or (each.name for each in node.names)
