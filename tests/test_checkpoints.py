"""Weights on disk come back bit for bit, and nothing else is taken for them."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import noise, same, scrambled, tiny
from safetensors import safe_open
from safetensors.torch import save_file

from mbnas.assignment import Assignment
from mbnas.checkpoints import (
    NETWORK_FILE,
    load_network,
    load_supernet,
    require_images_of,
    save_network,
    save_supernet,
)
from mbnas.errors import DataError
from mbnas.formats import Format
from mbnas.networks import Network, multibit
from mbnas.supernet import Supernet, extract

SETTINGS = tiny()
TABLE, SPACE = SETTINGS.table, SETTINGS.space
MIXED = Assignment.parse("2x1,1x2,1x1,2x2,1x1,2x1", SPACE.layers)
FORMAT = Format.multibit(MIXED)
IMAGES = noise(8, TABLE.image, TABLE.classes)


def random_supernet() -> Supernet:
    supernet = scrambled(lambda: Supernet(TABLE, SPACE))
    supernet.standardise_by(torch.tensor([0.3]), torch.tensor([0.4]))
    return supernet


def random_network() -> Network:
    return extract(random_supernet(), MIXED)


@pytest.fixture
def network_file(tmp_path: Path) -> Path:
    path = tmp_path / NETWORK_FILE
    save_network(path, random_network(), FORMAT, SETTINGS, IMAGES, IMAGES)
    return path


@pytest.fixture
def supernet_file(tmp_path: Path) -> Path:
    path = tmp_path / "supernet.safetensors"
    save_supernet(path, random_supernet(), SETTINGS)
    return path


def complaint(load: Callable[[Path], object], path: Path) -> str:
    """The line a user sees."""
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(str(path)) in message
    return message


def test_a_network_comes_back_bit_for_bit(network_file: Path) -> None:
    saved, (loaded, format_, settings) = random_network(), load_network(network_file)
    assert same(loaded, saved)
    assert {"mean", "head.running_var", "head.num_batches_tracked"} <= loaded.state_dict().keys()
    assert (format_, settings) == (FORMAT, SETTINGS)
    require_images_of(network_file, IMAGES)
    with pytest.raises(DataError, match="are not those that"):
        require_images_of(network_file, noise(8, TABLE.image, TABLE.classes, seed=1))
    x = torch.rand(4, *TABLE.image)
    assert torch.equal(loaded(x), saved.eval()(x))


def test_a_supernet_comes_back_bit_for_bit(supernet_file: Path) -> None:
    saved, loaded = random_supernet(), load_supernet(supernet_file)
    assert same(loaded, saved)
    assert loaded.space == SPACE
    x = torch.rand(4, *TABLE.image)
    assert torch.equal(loaded(x, MIXED), saved.eval()(x, MIXED))


def test_what_was_loaded_is_for_evaluation_but_may_be_trained(
    network_file: Path, supernet_file: Path
) -> None:
    for loaded in (load_network(network_file)[0], load_supernet(supernet_file)):
        assert not any(module.training for module in loaded.modules())
        assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_loading_draws_no_random_numbers(network_file: Path, supernet_file: Path) -> None:
    before = torch.get_rng_state()
    load_network(network_file), load_supernet(supernet_file)
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_leaves_the_module_alone(tmp_path: Path) -> None:
    network = random_network().train()
    save_network(tmp_path / "file", network, FORMAT, SETTINGS, IMAGES, IMAGES)
    assert network.training
    assert same(network, random_network())


def test_a_folder_stands_for_the_network_in_it(network_file: Path) -> None:
    assert same(load_network(network_file.parent)[0], load_network(network_file)[0])


def test_the_home_folder_may_be_written_short(
    network_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(network_file.parent))
    assert same(load_network(Path("~"))[0], load_network(network_file)[0])
    assert "no home folder for '~nobody-of-that-name'" in complaint(
        load_network, Path("~nobody-of-that-name")
    )


@pytest.mark.parametrize("load", [load_network, load_supernet])
def test_a_missing_file_is_explained(load: Callable[[Path], object], tmp_path: Path) -> None:
    assert "no checkpoint" in complaint(load, tmp_path / NETWORK_FILE)


@pytest.mark.parametrize("load", [load_network, load_supernet])
def test_a_file_that_cannot_be_opened_is_not_called_missing(
    load: Callable[[Path], object], tmp_path: Path
) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    message = complaint(load, circle)
    assert message == f"cannot read checkpoint {str(circle)!r}: {os.strerror(errno.ELOOP)}"


def test_a_folder_without_a_network_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"no checkpoint .*{NETWORK_FILE}.* candidates/<id>"):
        load_network(tmp_path)


@pytest.mark.parametrize("fraction", [0, 0.001, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(
    network_file: Path, supernet_file: Path, fraction: float
) -> None:
    for load, path in ((load_network, network_file), (load_supernet, supernet_file)):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(fraction * len(whole))])
        assert "truncated or was not written by this version of mbnas" in complaint(load, path)


def test_a_setting_that_is_unknown_here_speaks_of_another_version(network_file: Path) -> None:
    with safe_open(network_file, framework="pt") as file:
        described = json.loads(file.metadata()["mbnas"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    described["settings"]["search"]["patience"] = 3
    save_file(tensors, network_file, {"mbnas": json.dumps(described)})
    told = complaint(load_network, network_file)
    assert "another version of mbnas (unknown key 'search.patience'" in told


@pytest.mark.parametrize("load", [load_network, load_supernet])
def test_random_bytes_are_no_checkpoint(load: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / NETWORK_FILE
    for seed in range(20):
        noise = torch.randint(256, (400,), generator=torch.Generator().manual_seed(seed))
        path.write_bytes(bytes(noise.tolist()))
        assert "was not written by this version of mbnas" in complaint(load, path)


@pytest.mark.parametrize("load", [load_network, load_supernet])
@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"mbnas": "no JSON"}, {"mbnas": "{}"}]
)
def test_weights_of_other_programs_are_refused(
    load: Callable[[Path], object], metadata: dict[str, str] | None, tmp_path: Path
) -> None:
    path = tmp_path / NETWORK_FILE
    save_file({"weight": torch.zeros(3)}, path, metadata)
    assert "was not written by this version of mbnas" in complaint(load, path)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    network = random_network()
    with torch.no_grad():
        next(iter(network.convolutions.values())).weight[0, 0, 0, 0] = torch.nan
    save_network(tmp_path / NETWORK_FILE, network, FORMAT, SETTINGS, IMAGES, IMAGES)
    assert "not finite" in complaint(load_network, tmp_path / NETWORK_FILE)


@pytest.mark.parametrize("bases", ["1x1", "2x2"])
def test_weights_that_do_not_fit_their_description_are_refused(tmp_path: Path, bases: str) -> None:
    other = Assignment.parse(bases, SPACE.layers)
    save_network(tmp_path / NETWORK_FILE, multibit(TABLE, other), FORMAT, SETTINGS, IMAGES, IMAGES)
    assert "was not written by this version of mbnas" in complaint(
        load_network, tmp_path / NETWORK_FILE
    )


def test_a_supernet_is_no_network(supernet_file: Path) -> None:
    message = complaint(load_network, supernet_file)
    assert "holds a supernet, not a network" in message
    assert "mbnas retrain" in message


def test_a_network_is_no_supernet(network_file: Path) -> None:
    advice = "; give supernet.safetensors of a run"
    assert f"holds a network, not a supernet{advice}" in complaint(load_supernet, network_file)
    assert complaint(load_supernet, network_file.parent).endswith(advice)
