"""The run folder, and guards against mixing runs up."""

from dataclasses import replace
from errno import ENOSPC
from pathlib import Path

import pytest
import torch
from helpers import tiny

from mbnas import environment, runs
from mbnas.environment import PACKAGES
from mbnas.errors import DataError, SettingsError
from mbnas.files import read_json, write_json
from mbnas.runs import RunFolder, manifest, record_data, record_supernet, reopen


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return runs.create(tmp_path / "run", tiny("seed=5"))


def test_a_run_keeps_its_settings(folder: RunFolder) -> None:
    assert folder.settings() == tiny("seed=5")
    assert reopen(folder.path) == folder


def test_settings_of_a_run_may_be_changed(folder: RunFolder) -> None:
    assert folder.settings(["retraining.epochs=7"]) == tiny("seed=5", "retraining.epochs=7")
    with pytest.raises(SettingsError, match=r"^retraining\.epochs: "):
        folder.settings(["retraining.epochs=0"])


def test_damaged_settings_of_a_run_are_named(folder: RunFolder) -> None:
    text = folder.settings_file.read_text()
    folder.settings_file.write_text(text[: text.index("threat:")])
    message = rf"{folder.settings_file}' is damaged .*\(missing key 'threat'\); restore it"
    with pytest.raises(DataError, match=message):
        folder.settings()


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
    for out, mistake in ((file, SettingsError), (file / "below", DataError)):
        with pytest.raises(mistake, match="choose another --out"):
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
    monkeypatch.setattr(environment, "PACKAGES", ("no-such-package",))
    assert manifest(folder.settings(), "f00d")["versions"]["no-such-package"] is None
    assert written["hardware"]["cores"] >= 1
    assert written["hardware"]["processor"]
    assert written["hardware"]["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert read_json(folder.split_file) == {"seed": 5, "validation": [3, 1, 2]}


def test_a_run_that_goes_on_elsewhere_says_so(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    record_data(folder, folder.settings(), "f00d", [1])
    record_data(folder, folder.settings(), "f00d", [1])
    assert not caplog.messages
    begun = read_json(folder.manifest_file)
    begun["versions"]["torch"], begun["hardware"]["cores"], begun["threads"] = "1.0", 900, 901
    del begun["processes"]  # as in runs of earlier versions
    write_json(folder.manifest_file, begun)
    record_data(folder, folder.settings(), "f00d", [1])
    (told,) = caplog.messages
    for before in ("torch 1.0, now ", "cores 900, now ", "threads 901, now "):
        assert before in told
    assert "processes" not in told
    assert read_json(folder.manifest_file) == begun


def test_a_run_goes_on_with_its_own_images_only(folder: RunFolder) -> None:
    record_data(folder, folder.settings(), "f00d", [1])
    before = [path.read_bytes() for path in (folder.manifest_file, folder.split_file)]
    record_data(folder, folder.settings(), "f00d", [1])
    with pytest.raises(DataError, match=r"are not those that .*manifest\.json' tells of; give"):
        record_data(folder, folder.settings(), "beef", [1])
    assert [path.read_bytes() for path in (folder.manifest_file, folder.split_file)] == before


def test_scores_are_of_one_supernet(folder: RunFolder) -> None:
    record_data(folder, folder.settings(), "f00d", [1])
    record_supernet(folder, "a")
    record_supernet(folder, "b")  # nothing was scored by the former
    assert read_json(folder.manifest_file) == {
        **manifest(folder.settings(), "f00d"),
        "supernet": "b",
    }
    record_data(folder, folder.settings(), "f00d", [1])


@pytest.mark.parametrize("name", ["trials.jsonl", "rescored.jsonl", "candidates"])
def test_what_was_made_of_a_supernet_is_not_taken_for_that_of_another(
    folder: RunFolder, name: str
) -> None:
    record_data(folder, folder.settings(), "f00d", [1])
    record_supernet(folder, "b")
    (folder.path / name).mkdir()
    record_supernet(folder, "b")
    with pytest.raises(
        DataError, match=rf"{name}' is of another supernet than .* `mbnas search --supernet"
    ):
        record_supernet(folder, "a")


@pytest.mark.parametrize(
    ("stop", "told"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(ENOSPC, "full"), DataError)],
    ids=["interrupted", "disk full"],
)
def test_a_run_that_was_stopped_before_it_began_can_be_begun_again(
    stop: BaseException, told: type[BaseException], tmp_path: Path
) -> None:
    def begin(folder: RunFolder) -> None:
        folder.supernet_file.write_text("a supernet")
        raise stop

    with pytest.raises(told):
        runs.create(tmp_path, tiny(), begin)
    runs.create(tmp_path, tiny())


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
