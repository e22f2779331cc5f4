"""Several processes that train one network together, each on its share of every batch.

Started by torch's own launcher, one process a GPU:

    torchrun --nproc-per-node 8 --no-python mbnas search --space search_spaces/resnet18.yaml ...

Every process runs the same program. Gradients are averaged over all of them; what is written,
searched or measured is the work of the leading process alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn

from mbnas import files
from mbnas.errors import MbnasError, SettingsError
from mbnas.progress import CONSOLE

Value = TypeVar("Value")


@contextmanager
def together() -> Iterator[None]:
    """Inside, the processes that torchrun started know each other; else there is only this one.

    Raises:
        SettingsError: if a machine has more of them than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    # Its functions take the group of the moment as a default. Loaded later, by the first step of an
    # optimizer, they would keep that group and its threads alive, which may abort at the exit.
    import_module("torch.distributed.nn.functional")
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        if int(os.environ["LOCAL_RANK"]) >= gpus:
            raise SettingsError(
                f"{os.environ['LOCAL_WORLD_SIZE']} processes were started on a machine with {gpus} "
                f"GPUs; give --nproc-per-node {gpus} at most, or hide them to train on processors "
                "(CUDA_VISIBLE_DEVICES=)"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(days=7))  # a search may take that long
    try:
        if rank() != 0:
            CONSOLE.quiet = True  # one process is enough to tell people what all of them do
            with redirect_stdout(None):
                yield
        else:
            yield
        dist.barrier()  # who leaves first would tear the connections of the others
    finally:
        dist.destroy_process_group()


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launcher() -> list[str]:
    """The words before a command that start as many processes on one machine; none for one."""
    if count() == 1:
        return []
    return ["torchrun", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], "--no-python"]


def rank() -> int:
    """The number of this process; 0 leads."""
    return dist.get_rank() if dist.is_initialized() else 0


def led(compute: Callable[[], Value]) -> Value:
    """What ``compute`` returns to the leading process, the only one to run it, for all of them.

    A user's mistake that ends it there ends all of them.
    """
    if count() == 1:
        return compute()
    box: list[Value | MbnasError | None] = [None]
    if rank() == 0:
        try:
            box = [compute()]
        except MbnasError as mistake:
            box = [mistake]
    dist.broadcast_object_list(box)
    if isinstance(box[0], MbnasError):
        raise box[0]
    return cast(Value, box[0])


def agreed(value: object) -> bool:
    """Whether all processes have come to the same value."""
    if count() == 1:
        return True
    values: list[object] = [None] * count()
    dist.all_gather_object(values, value)
    return all(each == value for each in values)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside, nobody but these processes works in ``folder``.

    Raises:
        DataError: if somebody does.
    """
    with ExitStack() as held:
        led(lambda: held.enter_context(files.alone_in(folder)))
        yield


@contextmanager
def leader_first() -> Iterator[None]:
    """Through the block goes the leading process, then one of each machine, then all others."""
    if count() == 1:
        yield
        return
    turn = 0 if rank() == 0 else 1 if os.environ["LOCAL_RANK"] == "0" else 2
    _meet(turn)
    try:
        yield
    except MbnasError:  # the others, who make the same mistake, must not wait in vain to tell it
        _meet(2 - turn)
        raise
    _meet(2 - turn)


def _meet(times: int) -> None:
    for _ in range(times):
        dist.barrier()


def average_gradients(module: nn.Module) -> None:
    """Give every process the mean of their gradients; a parameter has one in all or in none."""
    if count() == 1:
        return
    gradients = [each.grad for each in module.parameters() if each.grad is not None]
    joined = torch.cat([each.flatten() for each in gradients])
    dist.all_reduce(joined)
    parts = torch.split(joined.div_(count()), [each.numel() for each in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def share(module: nn.Module) -> None:
    """Give every process the leading one's parameters and batch-norm statistics.

    Each steps an optimizer of its own; machines that round differently would drift apart.
    """
    if count() > 1:
        for each in (*module.parameters(), *module.buffers()):
            dist.broadcast(each.detach(), 0)
