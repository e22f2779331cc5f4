"""The supernet of a run: what it starts from, and what its epochs are judged by."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import noise, same, tiny

from mbnas import pretraining
from mbnas.data import Data
from mbnas.environment import environment
from mbnas.errors import SettingsError
from mbnas.evaluation import Scores, Stage, guard_stages, recalibrate
from mbnas.files import read_json
from mbnas.images import Images
from mbnas.networks import Network, freeze
from mbnas.pretraining import pretrained
from mbnas.runs import RunFolder
from mbnas.settings import Settings, Threat
from mbnas.supernet import Supernet, extract
from mbnas.training import Epoch, Trained

CPU = torch.device("cpu")
SETTINGS = tiny()
TABLE, SPACE = SETTINGS.table, SETTINGS.space
DATA = Data(*(noise(40, TABLE.image, TABLE.classes, seed) for seed in range(3)), held_out=())
EPOCHS = (Epoch(1, 2.0, 0.6, 0.5, "bfloat16"), Epoch(2, 1.0, 0.4, 0.3, "float32"))
TRAINED = Trained(EPOCHS, kept=EPOCHS[0])
Judged = tuple[Network, Images, Threat, tuple[Stage, ...]]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Judged]:
    """What is measured where an untrained supernet passes for a trained one."""
    seen: list[Judged] = []

    def measure(
        network: Network,
        images: Images,
        threat: Threat,
        _: torch.Generator,
        stages: tuple[Stage, ...],
    ) -> Scores:
        seen.append((network, images, threat, stages))
        return Scores(0.5, 0.5, 1)

    def fit(
        *_: object, train: Images, guard: Callable[[], Scores], checkpoint: Path, **__: object
    ) -> Trained:
        assert train is DATA.train  # nothing that is held out
        guard()
        checkpoint.touch()
        return TRAINED

    monkeypatch.setattr(pretraining, "measure", measure)
    monkeypatch.setattr(pretraining, "fit", fit)
    return seen


def untrained(folder: Path, settings: Settings = SETTINGS) -> Supernet:
    folder.mkdir(exist_ok=True)
    return pretrained(RunFolder(folder), settings, DATA, CPU)


def test_epochs_are_judged_by_the_guard_on_validation_images(
    tmp_path: Path, judged: list[Judged]
) -> None:
    untrained(tmp_path)
    ((_, images, threat, stages),) = judged
    assert torch.equal(images.pixels[images.positions], DATA.validation.pixels[:20])
    assert threat == SETTINGS.threat
    assert stages == guard_stages(SETTINGS.threat, SETTINGS.supernet.guard_steps)


def test_epochs_are_judged_by_the_largest_sub_network_with_statistics_of_its_own(
    tmp_path: Path, judged: list[Judged]
) -> None:
    largest = freeze(extract(untrained(tmp_path), SPACE.largest))
    recalibrate(largest, DATA.train.first(SETTINGS.search.recalibration_images))
    ((network, *_),) = judged
    assert same(network, largest)


@pytest.mark.usefixtures("judged")
def test_each_seed_begins_with_weights_of_its_own(tmp_path: Path) -> None:
    one, again = untrained(tmp_path / "one"), untrained(tmp_path / "again")
    other = untrained(tmp_path / "other", tiny("seed=1"))
    assert torch.equal(one.stem.weight, again.stem.weight)
    assert not torch.equal(one.stem.weight, other.stem.weight)


@pytest.mark.usefixtures("judged")
def test_a_supernet_of_another_training_is_not_taken_for_that_of_the_run(tmp_path: Path) -> None:
    untrained(tmp_path)
    with pytest.raises(SettingsError, match=r"supernet\.epochs: 2 -> 3\); restore that of this"):
        untrained(tmp_path, tiny("supernet.epochs=3"))
    untrained(tmp_path, tiny("threat.steps=9", "search.evaluations=9"))  # which it is not of


@pytest.mark.usefixtures("judged")
def test_it_starts_with_the_statistics_of_the_training_images(tmp_path: Path) -> None:
    supernet = untrained(tmp_path)
    mean, std = DATA.statistics()
    assert torch.equal(supernet.mean.flatten(), mean)
    assert torch.equal(supernet.std.flatten(), std)


@pytest.mark.usefixtures("judged")
def test_what_is_on_disk_is_trained_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".supernet.training.pt.0123.partial").touch()  # left by a kill
    supernet = untrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"supernet.safetensors", "supernet.json"}
    monkeypatch.setattr(pretraining, "fit", None)
    assert same(untrained(tmp_path), supernet)


@pytest.mark.usefixtures("judged")
def test_what_happened_to_it_is_written_beside_it(tmp_path: Path) -> None:
    untrained(tmp_path)
    first = {"number": 1, "loss": 2.0, "natural": 0.6, "robust": 0.5, "precision": "bfloat16"}
    second = {"number": 2, "loss": 1.0, "natural": 0.4, "robust": 0.3, "precision": "float32"}
    assert read_json(RunFolder(tmp_path).supernet_history) == {
        "precision": "bfloat16 and float32",
        "training": [first, second],
        "kept": 1,
        "environment": environment(),
    }
