"""By which rule parameters follow their gradients: Adam, or Muon for the weights of convolutions.

Muon (Jordan et al. 2024) turns the averaged gradient of a matrix into the nearest orthogonal one,
by Newton-Schulz iterations in bfloat16, so that a step goes equally far along all its singular
directions. A convolution's weight is taken as (C_out, C_in k k); all else is Adam's (Kingma & Ba
2015). Steps are scaled to the root mean square of Adam's (Liu et al. 2025, Eq. 4): both learn at
the same rate. Whichever moves them, weights of convolutions decay (Loshchilov & Hutter 2019).
Scales alpha, which start at a few hundredths, may take steps in proportion to that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mbnas.settings import Optimizer, Recipe


class Optimizers:
    """Those of a recipe, as one."""

    def __init__(self, module: nn.Module, recipe: Recipe) -> None:
        parameters = list(module.parameters())
        self._decay = recipe.weight_decay
        self._kernels = [each for each in parameters if each.dim() == 4]
        muon = self._kernels if recipe.optimizer is Optimizer.MUON else []
        taken = set(map(id, muon))
        # A view takes its steps in the memory of the weight itself.
        self._by_muon = [(each, nn.Parameter(each.detach().view(len(each), -1))) for each in muon]
        rest = [each for each in parameters if id(each) not in taken]
        self._all: list[torch.optim.Optimizer] = [
            torch.optim.Adam(_with_speeds(rest, recipe.scale_speed))
        ]
        if self._by_muon:
            matrices = [matrix for _, matrix in self._by_muon]
            self._all.append(
                torch.optim.Muon(matrices, weight_decay=0, adjust_lr_fn="match_rms_adamw")
            )

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._kernels:
            parameter.grad = None
        for optimizer in self._all:
            optimizer.zero_grad()

    def step(self, learning_rate: float) -> None:
        """Move all parameters that have a gradient."""
        if self._decay:
            for kernel in self._kernels:
                if kernel.grad is not None:
                    kernel.detach().mul_(1 - learning_rate * self._decay)
        for kernel, matrix in self._by_muon:
            matrix.grad = None if kernel.grad is None else kernel.grad.reshape(matrix.shape)
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group.get("speed", 1)
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps."""
        return [optimizer.state_dict() for optimizer in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on where a checkpoint was written."""
        for optimizer, state in zip(self._all, states, strict=True):
            optimizer.load_state_dict(state)


def _with_speeds(parameters: list[nn.Parameter], scales: float | None) -> list[dict[str, Any]]:
    """In groups of one speed; Adam keeps what it does not know of a group, in a checkpoint, too."""
    if scales is None:
        return [{"params": parameters}]
    alphas = [each for each in parameters if each.dim() == 5]  # (M, C_out, 1, 1, 1)
    return [
        {"params": [each for each in parameters if each.dim() != 5]},
        *({"params": [each], "speed": scales * _root_mean_square(each)} for each in alphas),
    ]


def _root_mean_square(tensor: Tensor) -> float:
    return tensor.detach().square().mean().sqrt().item()
