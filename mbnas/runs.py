"""The run folder: settings, manifest and the journal from which an interrupted search goes on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mbnas import config
from mbnas.config import Settings
from mbnas.errors import DataError, SettingsError
from mbnas.files import write_json, write_text

PACKAGES = ("mbnas", "torch", "torchvision", "optuna", "ray", "numpy", "pandas", "pymoo")


@dataclass(frozen=True)
class RunFolder:
    """Where everything of one search lies; the names are stable, scripts may rely on them."""

    path: Path

    @property
    def settings_file(self) -> Path:
        """The resolved settings; readable as a space."""
        return self.path / "settings.yaml"

    @property
    def manifest_file(self) -> Path:
        """Versions, hardware, seed and data of the run."""
        return self.path / "manifest.json"

    @property
    def split_file(self) -> Path:
        """Positions of the validation images in the training set."""
        return self.path / "split.json"

    @property
    def supernet_file(self) -> Path:
        """Weights of the trained supernet."""
        return self.path / "supernet.safetensors"

    @property
    def trials(self) -> Journal:
        """Every evaluated candidate, in the order they were proposed."""
        return Journal(self.path / "trials.jsonl")

    @property
    def early_trials(self) -> Journal:
        """Candidates that finished before their turn; empty once they are in :attr:`trials`."""
        return Journal(self.path / "trials.early.jsonl")

    @property
    def rescored(self) -> Journal:
        """Pareto members under PGD through every surrogate, both counts."""
        return Journal(self.path / "rescored.jsonl")

    @property
    def pareto_file(self) -> Path:
        """The Pareto set; beside it stand ``pareto.csv`` and ``pareto.html``."""
        return self.path / "pareto.json"

    def candidate(self, identity: str) -> Path:
        """Folder of one retrained candidate."""
        return self.path / "candidates" / identity

    @property
    def supernet_training(self) -> Path:
        """Where its unfinished training keeps the last epoch."""
        return self.path / "supernet.training.pt"

    def settings(self) -> Settings:
        """The settings the run was started with."""
        return config.load(self.settings_file)


def require_new(path: Path) -> None:
    """Check that a new run may go into ``path``: it is missing or empty.

    Raises:
        SettingsError: if something is there already.
    """
    if RunFolder(path).settings_file.exists():
        raise SettingsError(
            f"run folder {str(path)!r} exists; go on with `mbnas search --resume {path}` "
            "or choose another --out"
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SettingsError(f"{str(path)!r} is there already and not empty; choose another --out")


def create(path: Path, settings: Settings) -> RunFolder:
    """A new run folder.

    Raises:
        SettingsError: if something is there already or nothing can be written.
    """
    require_new(path)
    folder = RunFolder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_text(folder.settings_file, config.dump(settings))
    except OSError as error:
        raise SettingsError(
            f"cannot write to {str(path)!r}: {error.strerror}; choose another --out"
        ) from None
    return folder


def reopen(path: Path) -> RunFolder:
    """An existing run folder.

    Raises:
        DataError: if it is none.
    """
    folder = RunFolder(path)
    if not folder.settings_file.is_file():
        raise DataError(
            f"{str(path)!r} is no run folder, it has no settings.yaml; give the folder that "
            "`mbnas search` named when it started"
        )
    return folder


def record_data(
    folder: RunFolder, settings: Settings, fingerprint: str, held_out: Sequence[int]
) -> None:
    """Write manifest and split, or check a resumed run against them.

    Raises:
        DataError: if the run was started on other images.
    """
    if folder.manifest_file.exists():
        known = read_json(folder.manifest_file)["data"]["fingerprint"]
        if known != fingerprint:
            raise DataError(
                f"the images in {str(settings.data.root)!r} are not those of run "
                f"{str(folder.path)!r}; give the original folder with --data, or start a new run"
            )
        return
    write_json(folder.split_file, {"seed": settings.seed, "validation": list(held_out)})
    write_json(folder.manifest_file, manifest(settings, fingerprint))


def manifest(settings: Settings, data_fingerprint: str) -> dict[str, Any]:
    """What someone needs to judge or repeat the run."""
    return {
        "seed": settings.seed,
        **environment(),
        "data": {"name": settings.data.name, "fingerprint": data_fingerprint},
    }


def environment() -> dict[str, Any]:
    """Versions and hardware; they belong beside every number that is measured here."""
    cuda = torch.cuda.is_available()
    return {
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if cuda else None,
        },
    }


def _version(package: str) -> str | None:
    """None where it is not installed; only Ray may be missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def read_json(path: Path) -> Any:  # noqa: ANN401 (whatever JSON can hold)
    """The content of a JSON file.

    Raises:
        DataError: if it is missing or corrupt.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {str(path)!r}: {error}") from None


@dataclass(frozen=True)
class Journal:
    """An append-only file of JSON lines; a line is on disk before the next step starts."""

    path: Path

    def append(self, record: dict[str, Any]) -> None:
        """Add one line."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[dict[str, Any]]:
        """All records; a last line that was cut off while being written is removed.

        Raises:
            DataError: if any other line is corrupt.
        """
        if not self.path.exists():
            return []
        text = self.path.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            write_text(self.path, whole)
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError:
            raise DataError(
                f"journal {str(self.path)!r} is corrupt; restore it or start a new run"
            ) from None

    def remove(self) -> None:
        """Delete the file if it is there."""
        self.path.unlink(missing_ok=True)
