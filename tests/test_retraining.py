"""Retraining: where it starts, what it leaves behind, and that test images decide nothing."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers import noise, same, scrambled, tiny

from mbnas import final, retraining
from mbnas.assignment import Assignment
from mbnas.bops import bops
from mbnas.checkpoints import NETWORK_FILE, load_network
from mbnas.data import Data
from mbnas.environment import environment
from mbnas.errors import DataError, SettingsError
from mbnas.evaluation import Scores, guard_stages
from mbnas.files import read_json
from mbnas.final import final_scores
from mbnas.formats import Format
from mbnas.images import Images
from mbnas.networks import freeze
from mbnas.precision import computed_in
from mbnas.retraining import finished, require_named_networks, retrain
from mbnas.supernet import Supernet, extract
from mbnas.training import Epoch, Trained

CPU = torch.device("cpu")
SETTINGS = tiny("retraining.epochs=3")
TABLE, SPACE = SETTINGS.table, SETTINGS.space
MIXED = Assignment.parse("2x1,1x2,1x1,2x2,1x1,2x1", SPACE.layers)
DATA = Data(*(noise(40, TABLE.image, TABLE.classes, seed) for seed in range(3)), held_out=())


def supernet() -> Supernet:
    return scrambled(lambda: Supernet(TABLE, SPACE))


def from_supernet(folder: Path, data: Data = DATA) -> dict[str, object]:
    return retrain(SETTINGS, Format.multibit(MIXED), data, folder, source=supernet(), device=CPU)


def from_scratch(folder: Path, seed: int = 0, assignment: Assignment = MIXED) -> dict[str, object]:
    settings, format_ = SETTINGS.model_copy(update={"seed": seed}), Format.multibit(assignment)
    return retrain(settings, format_, DATA, folder, source=None, device=CPU)


Retrain = Callable[[Path], dict[str, object]]
both_starts = pytest.mark.parametrize("start", [from_supernet, from_scratch])


def weights(folder: Path) -> bytes:
    return (folder / NETWORK_FILE).read_bytes()


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[Images]:
    """Save what training would have started from; the images it would have learned from."""
    seen: list[Images] = []
    epoch = Epoch(1, 2.0, 0.6, 0.5, "float32")

    def fit(*_: object, train: Images, checkpoint: Path, **__: object) -> Trained:
        seen.append(train)
        checkpoint.touch()
        return Trained((epoch,), epoch)

    monkeypatch.setattr(retraining, "fit", fit)
    return seen


def test_it_learns_from_nothing_that_is_held_out(tmp_path: Path, untrained: list[Images]) -> None:
    from_scratch(tmp_path)
    assert untrained == [DATA.train]


@pytest.mark.usefixtures("untrained")
def test_it_starts_from_the_supernets_weights_bit_for_bit(tmp_path: Path) -> None:
    from_supernet(tmp_path)
    assert same(load_network(tmp_path)[0], extract(supernet(), MIXED))


@pytest.mark.usefixtures("untrained")
def test_from_scratch_it_starts_from_the_seed_and_the_statistics_of_the_images(
    tmp_path: Path,
) -> None:
    started = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        from_scratch(tmp_path / name, seed)
        torch.rand(1)  # torch's own numbers have no say
        started[name] = load_network(tmp_path / name)[0]
    assert same(started["one"], started["again"])
    from_scratch(tmp_path / "smallest", assignment=SPACE.smallest)
    started["smallest"] = load_network(tmp_path / "smallest")[0]
    for each in ("other", "smallest"):
        assert not torch.equal(started["one"].stem.weight, started[each].stem.weight)
    mean, std = DATA.statistics()
    assert torch.equal(started["one"].mean.flatten(), mean)
    assert torch.equal(started["one"].std.flatten(), std)


@pytest.mark.usefixtures("untrained")
def test_it_starts_from_the_network_that_the_settings_name(tmp_path: Path) -> None:
    from_supernet(tmp_path / "first")
    named = tiny("retraining.epochs=3", f"retraining.start={tmp_path / 'first'}")
    format_ = Format.multibit(MIXED)
    metrics = retrain(named, format_, DATA, tmp_path / "next", source=None, device=CPU)
    assert metrics["start"] == "network"
    assert same(load_network(tmp_path / "next")[0], load_network(tmp_path / "first")[0])


def test_epochs_are_judged_by_the_guard_on_validation_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def measure(_: object, images: Images, __: object, ___: object, stages: object) -> Scores:
        seen.append((images, stages))
        return Scores(0.5, 0.5, 1)

    monkeypatch.setattr(retraining, "measure", measure)
    from_scratch(tmp_path)
    assert len(seen) == SETTINGS.retraining.epochs
    for images, stages in seen:
        assert torch.equal(images.pixels[images.positions], DATA.validation.pixels[:20])
        assert stages == guard_stages(SETTINGS.threat, SETTINGS.retraining.guard_steps)


@pytest.mark.parametrize("role", ["start", "teacher"])
def test_no_network_of_other_images_takes_part(tmp_path: Path, role: str) -> None:
    """Test images may be among those that it learned from."""
    from_supernet(tmp_path / "first")
    named = tiny(f"retraining.{role}={tmp_path / 'first'}")
    other = replace(DATA, test=noise(40, TABLE.image, TABLE.classes, 9))
    require_named_networks(named, DATA)
    with pytest.raises(DataError, match="these test images are not those"):
        require_named_networks(named, other)
    with pytest.raises(DataError, match="these test images are not those"):
        retrain(named, Format.multibit(MIXED), other, tmp_path / "next", source=None, device=CPU)


def test_it_starts_from_no_network_of_another_split_or_other_convolutions(tmp_path: Path) -> None:
    """What is held out here may be among those that it learned from."""
    from_supernet(tmp_path / "first")
    for change in ("seed=1", "data.validation=21"):
        split = tiny(change, f"retraining.start={tmp_path / 'first'}")
        with pytest.raises(SettingsError, match="on images that are held out here"):
            require_named_networks(split, DATA)
    named = tiny(f"retraining.start={tmp_path / 'first'}")
    require_named_networks(named, DATA)
    grown = replace(DATA, validation=DATA.train.first(20))
    with pytest.raises(DataError, match="may have been trained on images that are held out here"):
        require_named_networks(named, grown)
    wide = tiny("backbone.width=4", f"retraining.start={tmp_path / 'first'}")
    with pytest.raises(SettingsError, match="of width 2, where a resnet8 of width 4"):
        retrain(wide, Format.multibit(MIXED), DATA, tmp_path / "wide", source=None, device=CPU)


def test_the_supernet_is_left_alone(tmp_path: Path) -> None:
    start = supernet()
    retrain(SETTINGS, Format.multibit(MIXED), DATA, tmp_path, source=start, device=CPU)
    assert same(start, supernet())
    assert not same(load_network(tmp_path)[0], extract(start, MIXED))


@both_starts
def test_the_folder_holds_the_network_that_was_measured(tmp_path: Path, start: Retrain) -> None:
    metrics = start(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {NETWORK_FILE, "assignment.txt", "metrics.json"}
    assert read_json(tmp_path / "metrics.json") == metrics
    network, format_, settings = load_network(tmp_path)
    text = (tmp_path / "assignment.txt").read_text()
    assert (format_, settings) == (Format.multibit(MIXED), SETTINGS)
    assert Assignment.parse(text.strip(), SPACE.layers) == MIXED
    scores = final_scores(freeze(network), DATA.test, SETTINGS)
    assert metrics["test"] == asdict(scores)
    assert metrics["id"] == MIXED.id
    assert metrics["assignment"] == str(MIXED)
    assert metrics["format"] == f"mbn{MIXED}"
    assert metrics["bops"] == bops(TABLE, MIXED)
    assert metrics["start"] == start.__name__.removeprefix("from_")
    assert metrics["precision"] == computed_in(SETTINGS.retraining, CPU)
    assert [epoch["number"] for epoch in metrics["training"]] == [1, 2, 3]
    assert metrics["kept"] in (1, 2, 3)
    assert metrics["environment"] == environment()


def test_metrics_name_the_precision_of_every_machine_that_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("mbnas.training.computed_in", lambda *_: "bfloat16")
        interrupt(patched, "measure", 3)
        from_scratch(tmp_path)
    assert from_scratch(tmp_path)["precision"] == "bfloat16 and float32"


def test_the_test_images_decide_nothing(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    first = from_supernet(one)
    second = from_supernet(other, replace(DATA, test=DATA.test.first(7)))
    assert first["test"] != second["test"]
    assert first["training"] == second["training"]
    assert same(load_network(one)[0], load_network(other)[0])


def test_metrics_are_of_what_a_network_learned_from(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    from_scratch(teacher)
    taught = SETTINGS.retraining.model_copy(update={"teacher": teacher})
    settings = SETTINGS.model_copy(update={"retraining": taught})
    chosen, pupil = Format.multibit(MIXED), tmp_path / "pupil"
    assert finished(pupil, settings, chosen, DATA) is None
    metrics = retrain(settings, chosen, DATA, pupil, source=None, device=CPU)
    assert finished(pupil, settings, chosen, DATA) == metrics
    with pytest.raises(DataError, match="these test images are not those"):
        finished(pupil, settings, chosen, replace(DATA, test=DATA.train.first(7)))
    more = replace(DATA, train=noise(48, TABLE.image, TABLE.classes, 0))
    with pytest.raises(DataError, match="since then training images changed; restore"):
        finished(pupil, settings, chosen, more)
    shutil.rmtree(teacher)
    with pytest.raises(DataError, match=r"no checkpoint '.*teacher'"):
        finished(pupil, settings, chosen, DATA)
    from_supernet(teacher)
    with pytest.raises(DataError, match="since then teacher changed; restore"):
        finished(pupil, settings, chosen, DATA)


@both_starts
@pytest.mark.parametrize(
    ("step", "call"), [("measure", 1), ("measure", 3), ("save_network", 1), ("final_scores", 1)]
)
def test_wherever_it_stops_it_goes_on_as_if_it_had_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Retrain, step: str, call: int
) -> None:
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    metrics = start(undisturbed)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt(patched, step, call)
        start(stopped)
    assert not (stopped / "metrics.json").exists()
    assert start(stopped) == metrics
    assert weights(stopped) == weights(undisturbed)


def interrupt(patch: pytest.MonkeyPatch, step: str, call: int, of: ModuleType = retraining) -> None:
    """Let a step of retraining break off when it is called for the ``call``-th time."""
    original, calls = getattr(of, step), iter(range(1, call))

    def interrupted(*args: object) -> object:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(*args)

    patch.setattr(of, step, interrupted)


def test_no_attack_of_the_final_test_is_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    metrics = from_scratch(undisturbed)
    total = 2 * SETTINGS.test.runs  # through two surrogates
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt(patched, "at_last_and_every", total, final)
        from_scratch(stopped)
    with monkeypatch.context() as patched:
        interrupt(patched, "at_last_and_every", 2, final)  # only one is left
        assert from_scratch(stopped) == metrics
    assert {each.name for each in stopped.iterdir()} == {
        each.name for each in undisturbed.iterdir()
    }


def test_no_final_test_goes_on_with_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(DATA, test=noise(40, TABLE.image, TABLE.classes, 7))
    expected = from_supernet(tmp_path / "other", other)
    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt(patched, "at_last_and_every", 2, final)
        from_supernet(stopped)
    assert from_supernet(stopped, other) == expected


def test_no_final_test_goes_on_with_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, stopped = from_scratch(tmp_path / "undisturbed", seed=1), tmp_path / "stopped"
    total = 2 * SETTINGS.test.runs  # attacks, through two surrogates

    def stop_in_the_last_attack(seed: int) -> None:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            interrupt(patched, "at_last_and_every", total, final)
            from_scratch(stopped, seed)

    stop_in_the_last_attack(seed=0)
    with pytest.raises(SettingsError, match="or delete it to train from the start"):
        from_scratch(stopped, seed=1)
    (stopped / "training-scratch.pt").unlink()
    stop_in_the_last_attack(seed=1)  # it comes to as many, knowing none
    assert from_scratch(stopped, seed=1) == expected


def test_what_the_other_start_left_unfinished_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    metrics = from_scratch(undisturbed)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt(patched, "measure", 3)
        from_supernet(stopped)
    assert from_scratch(stopped) == metrics
    assert weights(stopped) == weights(undisturbed)
    assert not list(stopped.glob("*.pt"))  # nobody goes on with either


def test_a_half_that_a_kill_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".training-scratch.pt.0123.partial").touch()
    from_scratch(tmp_path)
    assert not list(tmp_path.glob("*.partial"))


def test_what_was_begun_of_another_network_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        interrupt(patched, "measure", 3)
        from_supernet(tmp_path)
    other = Format.multibit(SPACE.largest)
    named = rf"\(network: training {MIXED.id} -> training {SPACE.largest.id}\)"
    with pytest.raises(SettingsError, match=f"begun with other settings {named}"):
        retrain(SETTINGS, other, DATA, tmp_path, source=supernet(), device=CPU)
