"""How torch's threads wait; small batches are not shared, and what was set before is set again."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from helpers import SPACES, tiny

from mbnas import config
from mbnas.threads import one_thread_each, side_by_side, suited_to


@pytest.fixture(autouse=True)
def _three_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_digits_are_trained_by_one_thread_and_cifar_by_all() -> None:
    digits, cifar = tiny(), config.load(SPACES / "resnet20.yaml")
    with suited_to(digits.table, digits.supernet):
        assert torch.get_num_threads() == 1
    with suited_to(cifar.table, cifar.supernet):
        assert torch.get_num_threads() == 3


def test_many_small_images_are_worth_sharing() -> None:
    one = tiny("backbone.width=16")
    for size, threads in ((64, 1), (1024, 3)):
        with suited_to(one.table, one.retraining.model_copy(update={"batch_size": size})):
            assert torch.get_num_threads() == threads


def test_a_failure_inside_leaves_the_number_as_it_was() -> None:
    with pytest.raises(KeyError), suited_to(tiny().table, tiny().supernet):
        raise KeyError


def test_workers_compute_with_one_thread_each() -> None:
    with one_thread_each(2) as pool:
        assert list(pool.map(lambda _: torch.get_num_threads(), range(4))) == [1] * 4


def test_a_failure_loses_none_of_the_others_that_were_begun() -> None:
    todo, kept, failed = iter("abc"), list[str](), threading.Event()

    def work(name: str) -> str:
        if name == "b":
            failed.set()
            raise ZeroDivisionError
        failed.wait()
        return name

    with pytest.raises(ZeroDivisionError):
        side_by_side(work, lambda: next(todo, None), kept.append, 3)
    assert sorted(kept) == ["a", "c"]


@pytest.mark.parametrize(
    ("given", "waiting"),
    [
        ({}, ["PASSIVE", "1000"]),
        ({"GOMP_SPINCOUNT": "7"}, ["PASSIVE", "7"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", "None"]),
    ],
)
def test_torchs_threads_spin_shortly_unless_a_user_says_otherwise(
    given: dict[str, str], waiting: list[str]
) -> None:
    """Settled before torch is loaded, hence in a process of its own."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    program = f"import os, mbnas; print(*map(os.environ.get, {names}))"
    printed = subprocess.check_output(
        [sys.executable, "-c", program], env=inherited | given, text=True
    )
    assert printed.split() == waiting
