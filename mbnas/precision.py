"""Where convolutions may run in bfloat16: in training steps, on processors that multiply it."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from mbnas.progress import log
from mbnas.settings import Precision, Recipe


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The context for the forward passes of a training step, a teacher's among them.

    Inside, convolutions and the classifier run in bfloat16 if the recipe computes in it and the
    device is built for it, and hand on what is rounded to that. Quantizers, batch-norm and the loss
    stay in float32, as attacks and measurements do altogether.
    """
    low = computed_in(recipe, device) is Precision.BFLOAT16
    if recipe.precision is Precision.BFLOAT16 and not low:
        _say_float32()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=low)


def computed_in(recipe: Recipe, device: torch.device) -> Precision:
    """What the recipe comes to on a device."""
    low = recipe.computes_in is Precision.BFLOAT16 and has_bfloat16(device)
    return Precision.BFLOAT16 if low else Precision.FLOAT32


@cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is a native type of the device."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    abilities = torch.cpu.get_capabilities()
    return any(abilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


@cache
def _say_float32() -> None:
    """Once, to those who asked for bfloat16."""
    log.info("this processor does not multiply bfloat16: training in float32")


def of_convolutions(x: Tensor) -> torch.dtype:
    """The type in which a convolution of ``x`` runs here."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
