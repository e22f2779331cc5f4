"""Saved networks are audited on the images they belong to, with networks that see the same ones."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from helpers import BRIEF, noise, saved, scrambled, tiny

from mbnas import data as datasets
from mbnas import inspection
from mbnas.assignment import Assignment
from mbnas.checkpoints import NETWORK_FILE, save_network
from mbnas.errors import DataError, SettingsError
from mbnas.files import write_json
from mbnas.formats import Format
from mbnas.images import Images
from mbnas.inspection import (
    audit_checkpoint,
    audit_file,
    evaluate_checkpoint,
    siblings,
)
from mbnas.networks import build_network
from mbnas.settings import Effort

SETTINGS = tiny()

pytestmark = pytest.mark.usefixtures("brief_audits")


def test_an_audit_leaves_its_record_and_page_and_tries_the_siblings(tmp_path: Path) -> None:
    candidates = tmp_path / "candidates"
    one, other = saved(candidates / "one", "mbn1x1"), saved(candidates / "other", "mbn2x2")
    twin = saved(tmp_path / "elsewhere" / "twin", "float")
    saved(twin.parent / "stranger", "xnor")
    assert (siblings(one), siblings(twin)) == ([other], [])
    found = audit_checkpoint(one, Effort.QUICK, transfer=[twin])
    assert {path.name for path in one.iterdir()} == {
        *(NETWORK_FILE, "audit-quick.json", "audit-quick.html"),
    }
    record = json.loads(audit_file(one, Effort.QUICK).read_text())
    assert record == found
    transfers = [each for each in record["standing_after"] if each.startswith("transfer from ")]
    assert transfers == sorted(["transfer from other", f"transfer from {twin}"])


def test_siblings_are_tried_once_wherever_the_audit_is_called_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = tmp_path / "candidates"
    one, other = saved(candidates / "one", "mbn1x1"), saved(candidates / "other", "mbn2x2")
    for place, path, transfer in (
        *((candidates, "one", "other"), (one, ".", "../other")),
        (one, NETWORK_FILE, f"../other/{NETWORK_FILE}"),
    ):
        monkeypatch.chdir(place)
        audit_checkpoint(Path(path), Effort.QUICK, transfer=[Path(transfer)])
        record = json.loads(audit_file(one, Effort.QUICK).read_text())
        transfers = [each for each in record["standing_after"] if each.startswith("transfer ")]
        assert transfers == [f"transfer from {other.name}"]


def test_a_network_called_like_a_sibling_is_tried_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates, others = tmp_path / "candidates", tmp_path / "others"
    one = saved(candidates / "one", "mbn1x1")
    saved(candidates / "other", "mbn2x2")
    saved(others / "other", "float")
    monkeypatch.chdir(others)
    found = audit_checkpoint(one, Effort.QUICK, transfer=[Path("other")])
    assert found["sources"].keys() == {"other", str(others / "other")}


def test_an_audit_goes_on_however_the_other_network_is_spelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (saved(tmp_path / each, text) for each, text in (("a", "mbn1x1"), ("b", "float")))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("mbnas.auditing.case.Case.rise", Mock(side_effect=KeyboardInterrupt))
        audit_checkpoint(one, Effort.QUICK, transfer=[two])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mbnas.auditing.case.Case.natural", None)  # which was measured before
    found = audit_checkpoint(one, Effort.QUICK, transfer=[Path("b")])
    assert found["sources"].keys() == {str(two)}


def test_audits_by_other_attacks_are_told_from_todays_and_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, made = (saved(tmp_path / each, "mbn1x1") for each in ("begun", "made"))
    first = audit_checkpoint(made, Effort.QUICK)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("mbnas.auditing.case.Case.rise", Mock(side_effect=KeyboardInterrupt))
        audit_checkpoint(begun, Effort.QUICK)
    assert audit_checkpoint(made, Effort.QUICK) == first
    assert "another version of the attacks" not in caplog.text
    monkeypatch.setattr("mbnas.inspection.version", lambda: "0123456789ab")
    monkeypatch.setattr("mbnas.auditing.auditor.version", lambda: "0123456789ab")
    assert audit_checkpoint(made, Effort.QUICK) == first
    assert "made by another version of the attacks; move it away" in caplog.text
    with pytest.raises(DataError, match="was begun with another version of the attacks; go on"):
        audit_checkpoint(begun, Effort.QUICK)


def test_what_is_known_takes_nothing_from_an_audit_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (saved(tmp_path / each, text) for each, text in (("a", "mbn1x1"), ("b", "float")))
    first = audit_checkpoint(one, Effort.QUICK)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("mbnas.auditing.case.Case.rise", Mock(side_effect=KeyboardInterrupt))
        audit_checkpoint(one, Effort.QUICK, transfer=[two])
    under_way = (one / "audit-quick.jsonl").read_bytes()
    assert audit_checkpoint(one, Effort.QUICK) == first
    assert (one / "audit-quick.jsonl").read_bytes() == under_way
    monkeypatch.setattr("mbnas.auditing.case.Case.natural", None)  # which was measured before
    audit_checkpoint(one, Effort.QUICK, transfer=[two])
    assert not (one / "audit-quick.jsonl").exists()


def test_a_network_is_not_measured_on_images_of_another_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "one", "mbn1x1")
    x, y = datasets.load_test(SETTINGS.data).gather(slice(None))
    foreign = Images.of((255 * (1 - x)).to(torch.uint8), y)
    monkeypatch.setattr("mbnas.inspection.datasets.load_test", lambda _: foreign)
    for measure in (evaluate_checkpoint, lambda path: audit_checkpoint(path, Effort.QUICK)):
        with pytest.raises(DataError, match=r"are not those that .* belongs to; .* --data DIR"):
            measure(folder)


def test_transfer_needs_networks_for_equal_images(tmp_path: Path) -> None:
    one = saved(tmp_path / "one", "mbn1x1")
    stranger = saved(tmp_path / "elsewhere" / "stranger", "mbn1x1", images=noise(8, (1, 8, 8), 10))
    with pytest.raises(DataError, match=r"are not those that '.*stranger' belongs to"):
        audit_checkpoint(one, Effort.QUICK, transfer=[stranger])
    with pytest.raises(DataError, match=r"no checkpoint '.*nowhere.*'; give"):
        audit_checkpoint(one, Effort.QUICK, transfer=[tmp_path / "nowhere"])


def test_transfer_from_a_network_for_other_sizes_is_told_their_shapes(tmp_path: Path) -> None:
    one = saved(tmp_path / "one", "mbn1x1")
    larger = tmp_path / "larger"
    settings, images = tiny("data.image_size=9"), noise(8, (1, 9, 9), 10)
    format_ = Format.parse("mbn1x1", settings.space.layers)
    larger.mkdir()
    network = build_network(settings.table, format_)
    save_network(larger / NETWORK_FILE, network, format_, settings, images, images)
    with pytest.raises(DataError, match=r"larger' takes images of 1x9x9 .*, these are 1x8x8; give"):
        audit_checkpoint(one, Effort.QUICK, transfer=[larger])


def test_no_network_attacks_itself_and_equal_names_do_not_hide_each_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = (saved(tmp_path / each / "network", "mbn1x1") for each in ("a", "b"))
    audit_checkpoint(one, Effort.QUICK, transfer=[one, one / NETWORK_FILE, two / NETWORK_FILE])
    record = json.loads(audit_file(one, Effort.QUICK).read_text())
    transfers = [each for each in record["standing_after"] if each.startswith("transfer from ")]
    assert transfers == [f"transfer from {two}"]
    assert f"{one} is the network under audit itself" in caplog.text


def test_no_audit_takes_the_place_of_one_that_tells_something_else(tmp_path: Path) -> None:
    formats = {"a": "mbn1x1", "b": "float", "c": "xnor"}
    one, two, three = (saved(tmp_path / each, text) for each, text in formats.items())
    audit_checkpoint(one, Effort.QUICK, transfer=[two])
    file = audit_file(one, Effort.QUICK)
    before = file.read_bytes()
    with pytest.raises(SettingsError, match=rf"images of {two}, too; give --transfer PATH"):
        audit_checkpoint(one, Effort.QUICK, transfer=[three])
    neighbour = one / "other.safetensors"
    neighbour.write_bytes((two / NETWORK_FILE).read_bytes())
    with pytest.raises(DataError, match=r"audit of another network than '.*other\.safetensors'"):
        audit_checkpoint(neighbour, Effort.QUICK, transfer=[two])
    assert file.read_bytes() == before
    file.unlink()
    audit_checkpoint(neighbour, Effort.QUICK)
    with pytest.raises(DataError, match=rf"audit of another network than '{one}'; move it away"):
        audit_checkpoint(one, Effort.QUICK)
    file.unlink()
    audit_checkpoint(one, Effort.QUICK)
    audit_checkpoint(one, Effort.QUICK, transfer=[two])  # more evidence is welcome
    assert file.read_bytes() == before


def test_an_audit_with_autoattack_is_not_made_again_without(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", "mbn1x1")
    audit_checkpoint(folder, Effort.QUICK)
    record = json.loads(audit_file(folder, Effort.QUICK).read_text())
    record["plan"]["autoattack"] = True  # as where it is installed
    write_json(audit_file(folder, Effort.QUICK), record)
    assert audit_checkpoint(folder, Effort.QUICK) == record


def test_an_audit_is_made_once_wherever_the_networks_it_tried_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = {"a": "mbn1x1", "b": "float", "c": "xnor"}
    one, two, three = (saved(tmp_path / each, text) for each, text in formats.items())
    first = audit_checkpoint(one, Effort.QUICK, transfer=[two])
    made = Mock(wraps=inspection.audit)
    monkeypatch.setattr(inspection, "audit", made)
    monkeypatch.chdir(tmp_path)
    left = one / "audit-quick.jsonl"
    left.write_text("")  # killed before it was cleared up
    for transfer in ([two], [Path("b")], []):
        assert audit_checkpoint(one, Effort.QUICK, transfer=transfer) == first
    assert not made.called
    assert not left.exists()
    both = audit_checkpoint(one, Effort.QUICK, transfer=[two, three])
    assert both["sources"].keys() == {str(two), str(three)}
    monkeypatch.setitem(inspection.PLANS, Effort.QUICK, replace(BRIEF, noises=BRIEF.noises + 1))
    audit_checkpoint(one, Effort.QUICK, transfer=[two, three])
    assert made.call_count == 2


def test_measuring_cannot_change_the_shape_of_a_network(tmp_path: Path) -> None:
    one = saved(tmp_path / "one", "mbn1x1")
    changes = ("backbone.width=4", "backbone.name=resnet20", "choices.weight_bases=[1]")
    for change in (*changes, "data.image_size=9", "data.channels=3"):
        with pytest.raises(SettingsError, match=r"networks of another shape, .* need a training"):
            evaluate_checkpoint(one, [change])


@pytest.mark.parametrize(("value", "error"), [(torch.nan, DataError), (3e38, SettingsError)])
def test_a_diverged_network_is_refused(
    tmp_path: Path, value: float, error: type[Exception]
) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    format_ = Format.multibit(Assignment.uniform(1, 1, SETTINGS.space.layers))
    network = scrambled(lambda: build_network(SETTINGS.table, format_))
    with torch.no_grad():
        network.classifier.weight.fill_(value)
    data = datasets.load(SETTINGS.data, SETTINGS.seed)
    save_network(folder / NETWORK_FILE, network, format_, SETTINGS, data.test, data.validation)
    with pytest.raises(error, match="not finite"):
        evaluate_checkpoint(folder)
