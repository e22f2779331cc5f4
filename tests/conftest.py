"""What holds for every test."""

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from helpers import BRIEF
from hypothesis import settings

from mbnas.auditing import PLANS
from mbnas.settings import Effort

torch.set_num_threads(1)  # the tensors are tiny
settings.register_profile("mbnas", deadline=None)  # the first call of anything in torch is slow
settings.load_profile("mbnas")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Whichever tests run before: what fails once fails again."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def brief_audits() -> Iterator[None]:
    """Quick audits make each of their attacks, and none of them for long."""
    with mock.patch.dict(PLANS, {Effort.QUICK: BRIEF}):
        yield
