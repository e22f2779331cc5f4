"""A file is written as a whole or not at all."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbnas.errors import DataError, SettingsError
from mbnas.files import alone_in, at_home, write_atomically, write_json, write_text

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
JSON = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.text(max_size=5), PLAIN, max_size=3)


def test_text_is_utf_8_wherever_it_is_written(tmp_path: Path) -> None:
    code = "import pathlib, mbnas.files; mbnas.files.write_text(pathlib.Path('text'), '\\u4e2d')"
    strange = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # ASCII
    environment = {**os.environ, **strange}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert (tmp_path / "text").read_bytes() == "\u4e2d".encode()


def halfway(temporary: Path) -> None:
    temporary.write_text("ne")
    raise KeyboardInterrupt


def test_a_failure_midway_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, halfway)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_midway_leaves_no_new_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", halfway)
    assert list(tmp_path.iterdir()) == []


def test_the_old_content_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("new")
        assert path.read_text() == "old"

    write_atomically(path, write)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file_that_was_written(tmp_path: Path) -> None:
    def write(_: Path) -> None:
        raise OSError(errno.ENOSPC, "full")  # as a write does it

    with pytest.raises(OSError, match="full") as caught:
        write_atomically(tmp_path / "file", write)
    assert caught.value.filename == str(tmp_path / "file")


def test_a_home_folder_is_read_wherever_it_stands_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert (at_home("~"), at_home("~/a")) == (Path("/somewhere"), Path("/somewhere/a"))
    assert (at_home("a/~"), at_home(Path("a"))) == (Path("a/~"), Path("a"))


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("", SettingsError, "an empty path; give a folder"),
        (os.fsdecode(b"a/\xff"), DataError, r"the path 'a/\\udcff' is not UTF-8; rename it"),
        ("~nobody-of-that-name/a", DataError, "no home folder for '~nobody-.*/a'; do something"),
    ],
)
def test_a_path_that_nothing_can_name_is_explained(
    path: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        at_home(path, "do something")


def test_a_shorter_text_replaces_the_whole_of_a_longer_one(tmp_path: Path) -> None:
    for text in ("something long", "short"):
        write_text(tmp_path / "file", text)
    assert (tmp_path / "file").read_text() == "short"


@given(value=JSON)
@settings(max_examples=30)
def test_json_reads_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert json.loads(path.read_text()) == value


def test_content_is_on_disk_before_it_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synchronised = tmp_path / "file", []

    def fsync(handle: int) -> None:
        synchronised.append((os.fstat(handle).st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(path, "new")
    assert synchronised == [(3, False)]


def test_two_cannot_be_in_one_folder_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="only POSIX systems lock folders")
    (tmp_path / "other").mkdir()
    refused = pytest.raises(DataError, match="another process works in")
    with alone_in(tmp_path), alone_in(tmp_path / "other"), refused, alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass
