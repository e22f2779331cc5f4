"""Small batches are not shared among threads, and what was set before is set again."""

import pytest
import torch
from helpers import SPACES, tiny

from mbnas import config
from mbnas.threads import one_thread_each, suited_to


@pytest.fixture(autouse=True)
def _three_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_digits_are_trained_by_one_thread_and_cifar_by_all() -> None:
    with suited_to(tiny()):
        assert torch.get_num_threads() == 1
    with suited_to(config.load(SPACES / "resnet20.yaml")):
        assert torch.get_num_threads() == 3


def test_a_failure_inside_leaves_the_number_as_it_was() -> None:
    with pytest.raises(KeyError), suited_to(tiny()):
        raise KeyError


def test_workers_compute_with_one_thread_each() -> None:
    with one_thread_each(2) as pool:
        assert list(pool.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4
