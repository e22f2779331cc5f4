"""By which rule parameters follow their gradients: Adam, or Muon for the weights of convolutions.

Muon (Jordan et al. 2024) turns the averaged gradient of a matrix into the nearest orthogonal one,
by Newton-Schulz iterations in bfloat16, so that a step goes equally far along all its singular
directions. A convolution's weight is taken as (C_out, C_in k k); all else is Adam's (Kingma & Ba
2015). Steps are scaled to the root mean square of Adam's (Liu et al. 2025, Eq. 4): both learn at
the same rate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mbnas.settings import Optimizer, Recipe


class Optimizers:
    """Those of a recipe, as one."""

    def __init__(self, module: nn.Module, recipe: Recipe) -> None:
        parameters = list(module.parameters())
        muon = recipe.optimizer is Optimizer.MUON
        self._kernels = [each for each in parameters if muon and each.dim() == 4]
        taken = set(map(id, self._kernels))
        # A view takes its steps in the memory of the weight itself.
        self._matrices = [nn.Parameter(each.detach().view(len(each), -1)) for each in self._kernels]
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.Adam(each for each in parameters if id(each) not in taken)
        ]
        if self._matrices:
            self._all.append(
                torch.optim.Muon(self._matrices, weight_decay=0, adjust_lr_fn="match_rms_adamw")
            )

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._kernels:
            parameter.grad = None
        for optimizer in self._all:
            optimizer.zero_grad()

    def step(self, learning_rate: float) -> None:
        """Move all parameters that have a gradient."""
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.reshape(matrix.shape)
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps."""
        return [optimizer.state_dict() for optimizer in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on where a checkpoint was written."""
        for optimizer, state in zip(self._all, states, strict=True):
            optimizer.load_state_dict(state)
