"""Where torch computes."""

from __future__ import annotations

import torch

from mbnas.errors import SettingsError


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU if there is one; from then on its convolutions are exact and repeatable.

    Raises:
        SettingsError: if there is no such device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise SettingsError(
            f"no device {name!r}; use auto, cpu or cuda (CUDA_VISIBLE_DEVICES says which GPUs)"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise SettingsError(f"no device {name!r} here; use auto or cpu ({reason})") from None
    # By default cuDNN rounds what it convolves to 10 bits, and takes whatever algorithm is fastest.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    return device
