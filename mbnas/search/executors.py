"""Who scores candidates: this process, or workers of Ray Tune.

Each candidate is scored by one thread, so that scores do not depend on how many run side by side.
"""

from __future__ import annotations

import importlib.util
import socket
from dataclasses import dataclass
from typing import Literal

import torch

from mbnas.errors import SettingsError
from mbnas.search.problem import Problem
from mbnas.search.session import Session
from mbnas.threads import side_by_side


@dataclass(frozen=True)
class Executor:
    """How candidates are scored.

    Attributes:
        kind: ``ray`` for Ray Tune, ``inprocess`` for threads of this process.
        workers: candidates scored side by side.
        address: of a running Ray cluster; None starts Ray on this machine.

    Raises:
        SettingsError: if there is no such kind, or nobody works.
    """

    kind: Literal["ray", "inprocess"] = "ray"
    workers: int = 1
    address: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("ray", "inprocess"):
            raise SettingsError(f"no executor {self.kind!r}; give 'ray' or 'inprocess'")
        if self.workers < 1:
            raise SettingsError(f"{self.workers} workers score nothing; give at least 1")

    def check(self) -> None:
        """Find out before any work is done whether the candidates can be scored.

        Raises:
            SettingsError: if Ray is not installed or there is no cluster to work with at the
                address.
        """
        if self.kind == "inprocess":
            if self.address is not None:
                raise SettingsError(
                    f"--address {self.address} is of a Ray cluster; leave it away, or use "
                    "--executor ray"
                )
            return
        if importlib.util.find_spec("ray") is None:
            raise SettingsError(
                "--executor ray needs Ray: pip install 'ray[tune]', or use --executor inprocess"
            )
        if self.address is None:
            return
        if self.address != "auto":
            _require_answer(self.address)
        from mbnas.search import raytune  # noqa: PLC0415 (heavy, and not needed in process)

        raytune.require_cluster(self.address)

    def run(self, problem: Problem, session: Session, device: torch.device) -> None:
        """Score candidates until the session is finished.

        Raises:
            SettingsError: if there is no cluster at the address.
        """
        if session.finished:
            return
        if self.kind == "inprocess":
            side_by_side(problem.to(device).score, session.next, session.record, self.workers)
            return
        from mbnas.search import raytune  # noqa: PLC0415 (heavy, and not needed in process)

        raytune.run(problem, session, self.workers, self.address, device)


def _require_answer(address: str) -> None:
    """Ask at HOST:PORT first, where Ray itself would wait for long."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "://" in address:
        raise SettingsError(
            f"--address {address!r} is not HOST:PORT of a Ray cluster's head, nor auto for one on "
            "this machine"
        )
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"no Ray cluster at {address!r} ({error}); give the address of a running one, or none "
            "to start Ray on this machine"
        ) from None


def default_workers(kind: Literal["inprocess", "ray"], device: torch.device) -> int:
    """As many as torch has threads, or one for each GPU; in process there is only one of these."""
    if device.type == "cpu":
        return torch.get_num_threads()
    return torch.cuda.device_count() if kind == "ray" else 1
