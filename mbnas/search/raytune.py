"""Scoring under Ray Tune, on this machine or on a cluster."""

from __future__ import annotations

import logging
import math
import os
import signal
import tempfile
from typing import Any

import torch

# Ctrl-C belongs to the command line, results to the journal, and nothing is reported to anyone.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune
from ray.tune.search import Searcher

from mbnas.assignment import Assignment
from mbnas.devices import pick_device
from mbnas.errors import MbnasError, SettingsError
from mbnas.progress import log
from mbnas.search.problem import Problem, Trial
from mbnas.search.session import Session


class Scorer(tune.Trainable):
    """Scores one candidate after another; the problem is fetched once per worker."""

    def setup(  # type: ignore[override]  # Ray Tune adds the parameters bound by with_parameters
        self, config: dict[str, Any], problem: Problem, device: torch.device
    ) -> None:
        """Called once per worker."""
        torch.set_num_threads(1)
        self.problem = problem.to(pick_device(device.type))  # a worker sees its own GPU alone
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next candidate without a new process."""
        self.assignment = Assignment.parse(new_config["assignment"], self.problem.space.layers)
        return True

    def step(self) -> dict[str, Any]:
        """The whole evaluation."""
        return {**self.problem.score(self.assignment).record(), "done": True}


class SessionSearcher(Searcher):
    """Lets Ray Tune draw candidates from a session and hand back their scores."""

    def __init__(self, session: Session, layers: int) -> None:
        super().__init__()
        self.session = session
        self.layers = layers
        self.failed = False
        self.mistake: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune saves its searcher; the journal is the state, so there is nothing to save."""
        return {}

    def set_search_properties(self, *_: object, **__: object) -> bool:
        """The session knows its objectives."""
        return True

    def suggest(  # type: ignore[override]  # FINISHED, which Ray Tune documents, is a string
        self, trial_id: str
    ) -> dict[str, str] | str | None:
        """The next candidate, None to wait for others, or the end."""
        if self.failed or self.mistake or self.session.finished:
            return str(Searcher.FINISHED)
        assignment = self.session.next()
        return None if assignment is None else {"assignment": str(assignment)}

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,
    ) -> None:
        """Record the scores; behind one that could not be written, no more are."""
        if error or result is None:
            self.failed = True
        elif self.mistake is None:
            try:
                self.session.record(Trial.from_record(result, self.layers))
            except Exception as mistake:  # Ray would take it for one of the worker
                self.mistake = mistake

    def save(self, checkpoint_path: str) -> None:
        """Nothing to keep: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the journal is the state."""


def run(
    problem: Problem, session: Session, workers: int, address: str | None, device: torch.device
) -> None:
    """Score candidates with Ray Tune until the session is finished.

    Raises:
        SettingsError: if Ray does not start here, or there is no cluster at the address, or none
            with a GPU where one is asked.
        MbnasError: if a worker fails.
    """
    on_cpu = problem.to(torch.device("cpu"))  # from where it is sent to the workers
    ours = not ray.is_initialized()
    if ours:
        _connect(address, workers)
    searcher = SessionSearcher(session, problem.space.layers)
    try:
        gpus = gpu_share(workers) if device.type == "cuda" else 0.0
        if device.type == "cuda" and not gpus:
            raise SettingsError(
                "the Ray cluster has no GPU where this process has one; start it on machines that "
                "have, or score on processors with --set device=cpu"
            )
        trainable = tune.with_parameters(Scorer, problem=on_cpu, device=device)
        with tempfile.TemporaryDirectory(prefix="mbnas-ray-") as storage:
            results = tune.Tuner(
                tune.with_resources(trainable, {"cpu": 1, "gpu": gpus}),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    max_concurrent_trials=workers,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    storage_path=storage,
                    verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
    finally:
        problem.to(device)  # its source was moved in place
        if ours:
            ray.shutdown()
    if searcher.mistake is not None:
        raise searcher.mistake
    if searcher.failed:
        whole = str(next(iter(results.errors), "no reason given")).strip()
        *_, told = whole.rpartition("\n")
        log.error("%s", whole)
        raise MbnasError(
            f"a Ray worker failed ({told}); what was finished is safe: go on "
            "with --resume, with fewer --workers if memory ran out"
        )


def gpu_share(workers: int) -> float:
    """How much of a GPU each of so many workers has in the connected cluster; 0 without GPUs.

    A worker is on one GPU, however many there are.
    """
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = resources.get("GPU", 0)
    return 1 / math.ceil(workers / gpus) if gpus else 0.0


def require_cluster(address: str) -> None:
    """Check that there is a cluster to work with.

    Raises:
        SettingsError: if there is none, or it is of another version.
    """
    if not ray.is_initialized():
        _connect(address, 0)
        ray.shutdown()


def _connect(address: str | None, workers: int) -> None:
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            num_cpus=None if address else workers,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())  # other versions of Ray and Python take many lines
        if address is None:
            raise SettingsError(
                f"Ray does not start on this machine ({told}); do without it: --executor inprocess"
            ) from None
        raise SettingsError(
            f"no Ray cluster to work with at --address {address!r} ({told}); start one with "
            "`ray start --head` in this environment, set RAY_AUTH_MODE=token if it asks for the "
            "token in ~/.ray/auth_token, or leave --address out to run on this machine"
        ) from None
    if signal.getsignal(signal.SIGTERM) is not on_termination:  # Ray would end without a word
        signal.signal(signal.SIGTERM, on_termination)
