"""The run folder: a journal that survives being cut off, and guards against mixing runs up."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from mbnas import runs
from mbnas.errors import DataError, SettingsError
from mbnas.runs import PACKAGES, Journal, RunFolder, manifest, read_json, record_data, reopen

RECORDS = [{"id": "one", "bops": 1}, {"id": "zwei\n", "loss": None}, {"id": "三", "natural": 0.1}]
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Three records, one of them with a line break and one beyond ASCII."""
    journal = Journal(tmp_path / "trials.jsonl")
    for record in RECORDS:
        journal.append(record)
    return journal


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return runs.create(tmp_path / "run", tiny("seed=5"))


@given(records=st.lists(st.dictionaries(st.text(max_size=5), PLAIN, max_size=4), max_size=4))
@settings(max_examples=25)
def test_the_journal_reads_back(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]]
) -> None:
    journal = Journal(tmp_path_factory.getbasetemp() / "journal.jsonl")
    journal.remove()
    for count, record in enumerate(records):
        assert journal.read() == records[:count]
        journal.append(record)
    assert journal.read() == records


def test_a_missing_journal_is_empty(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trials.jsonl")
    journal.remove()
    assert journal.read() == []
    assert not journal.path.exists()


def test_reading_changes_no_whole_journal(journal: Journal) -> None:
    before = journal.path.read_bytes()
    journal.read()
    assert journal.path.read_bytes() == before


def test_wherever_the_last_line_was_cut_off_the_journal_goes_on(journal: Journal) -> None:
    whole = journal.path.read_bytes()
    for length in range(len(whole)):
        cut = whole[:length]
        journal.path.write_bytes(cut)
        left = RECORDS[: cut.count(b"\n")]
        assert journal.read() == left
        assert journal.path.read_bytes() == cut[: cut.rfind(b"\n") + 1]
        journal.append({"id": "next"})
        assert journal.read() == [*left, {"id": "next"}]


@pytest.mark.parametrize("line", [0, 1, 2])
def test_any_other_corrupt_line_is_refused(journal: Journal, line: int) -> None:
    lines = journal.path.read_text().splitlines()
    lines[line] = lines[line][:-3]
    journal.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"trials\.jsonl' is corrupt; restore it"):
        journal.read()


def test_a_run_keeps_its_settings(folder: RunFolder) -> None:
    assert folder.settings() == tiny("seed=5")
    assert reopen(folder.path) == folder


def test_a_run_is_not_overwritten(folder: RunFolder) -> None:
    before = folder.settings_file.read_text()
    with pytest.raises(SettingsError, match=f"exists; go on with .*--resume {folder.path}"):
        runs.create(folder.path, tiny("seed=6"))
    assert folder.settings_file.read_text() == before


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    assert runs.create(tmp_path, tiny()).settings() == tiny()


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    assert runs.create(tmp_path / "a" / "b", tiny()).settings_file.is_file()


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SettingsError, match="not empty; choose another --out"):
        runs.create(tmp_path, tiny())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_place_for_a_run(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    for out in (file, file / "below"):
        with pytest.raises(SettingsError, match="choose another --out"):
            runs.create(out, tiny())
    assert file.read_text() == "content"


def test_only_a_run_can_be_reopened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=r"is no run folder, it has no settings\.yaml"):
            reopen(path)


def test_the_manifest_says_what_made_the_run(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_data(folder, folder.settings(), "f00d", [3, 1, 2])
    written = read_json(folder.manifest_file)
    assert written == manifest(folder.settings(), "f00d")
    assert written["seed"] == 5
    assert written["data"] == {"name": "digits", "fingerprint": "f00d"}
    assert written["versions"].keys() == {"python", *PACKAGES}
    assert all(written["versions"].values())
    monkeypatch.setattr(runs, "PACKAGES", ("no-such-package",))
    assert manifest(folder.settings(), "f00d")["versions"]["no-such-package"] is None
    assert written["hardware"]["cores"] >= 1
    assert written["hardware"]["processor"]
    assert read_json(folder.split_file) == {"seed": 5, "validation": [3, 1, 2]}


def test_a_run_goes_on_with_its_own_images_only(folder: RunFolder) -> None:
    record_data(folder, folder.settings(), "f00d", [1])
    before = [path.read_bytes() for path in (folder.manifest_file, folder.split_file)]
    record_data(folder, folder.settings(), "f00d", [1])
    with pytest.raises(DataError, match=r"are not those of run .* give the original folder"):
        record_data(folder, folder.settings(), "beef", [1])
    assert [path.read_bytes() for path in (folder.manifest_file, folder.split_file)] == before


@pytest.mark.parametrize("content", ["", "{", '{"data": {"finger', b"\xff\xfe"])
def test_a_corrupt_manifest_is_named(folder: RunFolder, content: str | bytes) -> None:
    folder.manifest_file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=r"cannot read .*manifest\.json"):
        record_data(folder, folder.settings(), "f00d", [])


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*metrics\.json"):
        read_json(tmp_path / "metrics.json")


def test_every_file_has_a_place_of_its_own_in_the_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    places = [
        folder.settings_file,
        folder.manifest_file,
        folder.split_file,
        folder.supernet_file,
        folder.pareto_file,
        *(journal.path for journal in (folder.trials, folder.early_trials, folder.rescored)),
        *(folder.candidate(identity) for identity in ("0a", "0b")),
        folder.supernet_training,
    ]
    assert len(set(places)) == len(places)
    assert all(path.is_relative_to(tmp_path) for path in places)
    assert replace(folder, path=tmp_path / "moved").settings_file.parent == tmp_path / "moved"


def test_a_journal_is_plain_json_line_by_line(journal: Journal) -> None:
    assert list(map(json.loads, journal.path.read_text().splitlines())) == RECORDS
