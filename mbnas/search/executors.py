"""Who scores candidates: this process, or workers of Ray Tune.

Each candidate is scored by one thread, so that scores do not depend on how many run side by side.
"""

from __future__ import annotations

import importlib.util
import socket
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Literal

import torch

from mbnas.errors import SettingsError
from mbnas.search.problem import Problem, Trial
from mbnas.search.session import Session
from mbnas.threads import one_thread_each


@dataclass(frozen=True)
class Executor:
    """How candidates are scored.

    Attributes:
        kind: ``ray`` for Ray Tune, ``inprocess`` for threads of this process.
        workers: candidates scored side by side.
        address: of a running Ray cluster; None starts Ray on this machine.
    """

    kind: Literal["ray", "inprocess"] = "ray"
    workers: int = 1
    address: str | None = None

    def check(self) -> None:
        """Find out before any work is done whether the candidates can be scored.

        Raises:
            SettingsError: if Ray is not installed or there is no cluster at the address.
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
        if self.address in (None, "auto"):  # left to Ray
            return
        host, _, port = self.address.removeprefix("ray://").rpartition(":")
        if not port.isdecimal():
            raise SettingsError(
                f"--address {self.address!r} names no port; give HOST:PORT, ray://HOST:PORT or auto"
            )
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise SettingsError(
                f"no Ray cluster at {self.address!r} ({error}); give the address of a running "
                "one, or none to start Ray on this machine"
            ) from None

    def run(self, problem: Problem, session: Session, device: torch.device) -> None:
        """Score candidates until the session is finished.

        Raises:
            SettingsError: if there is no cluster at the address.
        """
        if session.finished:
            return
        if self.kind == "inprocess":
            run_in_process(problem.to(device), session, self.workers)
            return
        from mbnas.search import raytune  # noqa: PLC0415 (heavy, and not needed in process)

        raytune.run(problem, session, self.workers, self.address, device)


def default_workers(kind: Literal["inprocess", "ray"], device: torch.device) -> int:
    """As many as torch has threads, or one for each GPU; in process there is only one of these."""
    if device.type == "cpu":
        return torch.get_num_threads()
    return torch.cuda.device_count() if kind == "ray" else 1


def run_in_process(problem: Problem, session: Session, workers: int) -> None:
    """Score in ``workers`` threads of this process."""
    running: set[Future[Trial]] = set()
    with one_thread_each(workers) as pool:
        while not session.finished:
            while len(running) < workers and (assignment := session.next()) is not None:
                running.add(pool.submit(problem.score, assignment))
            try:
                done, running = wait(running, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:  # the pool lets go only when these are scored, too
                for future in wait(running).done:
                    session.record(future.result())
                raise
            for future in done:
                session.record(future.result())
