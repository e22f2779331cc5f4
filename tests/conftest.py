"""What holds for every test."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # the tensors are tiny
settings.register_profile("mbnas", deadline=None)  # the first call of anything in torch is slow
settings.load_profile("mbnas")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Whichever tests run before: what fails once fails again."""
    torch.manual_seed(0)
