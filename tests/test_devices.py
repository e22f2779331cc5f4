"""Where torch computes, and how."""

import pytest
import torch

from mbnas.devices import pick_device


def test_a_picked_device_convolves_exactly_and_repeatably(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    monkeypatch.setattr(cudnn, "deterministic", False)
    assert pick_device("cpu") == torch.device("cpu")
    assert not cudnn.allow_tf32
    assert cudnn.deterministic
