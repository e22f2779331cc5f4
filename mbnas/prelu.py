"""PReLU, y = max(x, 0) + a min(x, 0) with a learned slope for each channel, and its gradient

    dL/dx = dL/dy (1 if x > 0 else a),    dL/da = sum dL/dy min(x, 0)

(He et al. 2015, Eq. 1-3), each as one pass over memory on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mbnas import kernels, loops


class PReLU(nn.PReLU):
    """:class:`torch.nn.PReLU` of (B, C, H, W) -> same shape; its slopes are ``weight``, (C,)."""

    def forward(self, x: Tensor) -> Tensor:
        """What the module's docstring says, in the precision of ``x`` whatever autocast says."""
        if loops.suits(x) and x.dim() == 4:
            return cast(Callable[..., Tensor], _Bend.apply)(x, self.weight)
        with torch.autocast(x.device.type, enabled=False):
            return F.prelu(x, self.weight)


class _Bend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slopes: Tensor) -> Tensor:  # noqa: ANN401 (torch's own type)
        ctx.save_for_backward(x, slopes)
        return kernels.bend(x, slopes)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: ANN401
        x, slopes = ctx.saved_tensors
        (gradient,) = upstream
        dx, by_slope = kernels.unbend(x, gradient, slopes)
        return dx, by_slope if ctx.needs_input_grad[1] else None
