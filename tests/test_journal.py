"""A journal that survives being cut off anywhere."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbnas.errors import DataError
from mbnas.journal import Journal

RECORDS = [{"id": "one", "bops": 1}, {"id": "zwei\n", "loss": None}, {"id": "三", "natural": 0.1}]
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Three records, one of them with a line break and one beyond ASCII."""
    journal = Journal(tmp_path / "trials.jsonl")
    for record in RECORDS:
        journal.append(record)
    return journal


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


def test_a_line_is_on_disk_before_the_next_step_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, synchronised = Journal(tmp_path / "trials.jsonl"), []
    monkeypatch.setattr(os, "fsync", lambda handle: synchronised.append(os.fstat(handle)))
    for count, record in enumerate(RECORDS, start=1):
        journal.append(record)
        assert len(synchronised) == count
        written = journal.path.stat()
        assert (synchronised[-1].st_ino, synchronised[-1].st_size) == (
            written.st_ino,
            written.st_size,
        )


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
    with pytest.raises(DataError, match=r"trials\.jsonl' is corrupt; restore it, or delete it"):
        journal.read()


@pytest.mark.parametrize("line", ["[1]", "3", "{}", '{"id": "four"}'])
def test_a_line_that_is_no_record_of_the_kind_is_refused(journal: Journal, line: str) -> None:
    journal.path.write_text(f'{{"id": "one", "result": 1}}\n{line}\n')
    with pytest.raises(DataError, match=r"trials\.jsonl' is corrupt; restore it, or delete it"):
        journal.read("id", "result")


def test_bytes_that_are_no_text_are_refused(journal: Journal) -> None:
    journal.path.write_bytes(b"\xff\xfe\n" + journal.path.read_bytes())
    with pytest.raises(DataError, match=r"trials\.jsonl' is corrupt; restore it, or delete it"):
        journal.read()


def test_a_journal_is_plain_json_line_by_line(journal: Journal) -> None:
    assert list(map(json.loads, journal.path.read_text().splitlines())) == RECORDS
