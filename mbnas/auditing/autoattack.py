"""AutoAttack by its reference implementation (Croce & Hein 2020), where it is installed."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor, nn

from mbnas.attacks import Model


def available() -> bool:
    """Whether ``pip install "mbnas[autoattack]"`` was done."""
    return importlib.util.find_spec("pyautoattack") is not None


def standard(model: Model, x: Tensor, y: Tensor, *, eps: float, seed: int) -> Tensor:
    """APGD-CE, APGD-T, FAB-T and Square, 100 iterations and 5,000 queries; L-infinity.

    With fewer than four classes without APGD-T, whose loss needs the fourth largest logit.
    """
    from pyautoattack import AutoAttack  # noqa: PLC0415 (optional)

    with torch.random.fork_rng([x.device] if x.is_cuda else []):  # it seeds torch itself
        attack = AutoAttack(_Module(model), eps=eps, seed=seed, device=x.device)
        with torch.no_grad():
            classes = model(x[:1]).shape[1]
        if classes < 4:
            attack.attacks_to_run.remove("apgd-t")
        targets = min(9, classes - 1)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        adversarial: Tensor = attack.run_standard_evaluation(x, y, batch_size=len(x))[0]
    return adversarial


class _Module(nn.Module):
    """Which is what it wants."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes)."""
        return self.model(x)
