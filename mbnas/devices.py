"""Where torch computes."""

from __future__ import annotations

import torch

from mbnas.errors import SettingsError


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU if there is one.

    Raises:
        SettingsError: if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):
        raise SettingsError(f"no device {name!r} here; use auto, cpu or cuda") from None
