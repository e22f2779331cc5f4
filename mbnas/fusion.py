"""On a GPU, the plain functions of quantizers.py as fused kernels, made by torch.compile (Triton).

A function is compiled once for each number of steps, surrogate and rank of its heights, and for
what else torch tells apart (one image or several, sizes that were equal at first, autocast or not,
one thread or several), never for a parameter or for each size of its tensors; torch keeps what it
compiled between runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from mbnas.assignment import MAX_BASES
from mbnas.progress import log
from mbnas.settings import Surrogate

_Function = TypeVar("_Function", bound=Callable[..., Any])


def suits(x: Tensor) -> bool:
    """Whether what works on ``x`` should be fused."""
    return x.is_cuda and x.dtype == torch.float32 and _available()


# Heights of a step or a row, either sums or none; one image or several, autocast, threads.
_VARIANTS = 8 * 8 * MAX_BASES * len(Surrogate)


@cache
def fused(function: _Function) -> _Function:
    """``function``, compiled anew only where its arguments ask for other operations."""
    compiled = torch.compile(
        function, dynamic=True, fullgraph=True, options={"deterministic": True}
    )

    def call(*arguments: object, **flags: bool) -> object:
        # Each thread has a limit of its own, and a GPU's backward passes run in another one.
        config = torch._dynamo.config
        config.recompile_limit = max(_VARIANTS, config.recompile_limit)
        config.accumulated_recompile_limit = max(_VARIANTS, config.accumulated_recompile_limit)
        # Of parameters torch would compile for every shape.
        return compiled(*(x.detach() if isinstance(x, Tensor) else x for x in arguments), **flags)

    return cast(_Function, call)


def _centred(x: Tensor) -> Tensor:
    """As the plain functions, what comes of a sum over ``x`` and of each of its values."""
    return x - x.mean()


@cache
def _available() -> bool:
    """Whether torch can compile for the GPU; one message says so where it cannot."""
    try:
        fused(_centred)(torch.ones(8, device="cuda"))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        log.info("no compiler for the GPU, quantizers take several times as long (%s)", reason)
        return False
    return True
