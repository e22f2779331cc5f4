"""The run folder: where everything of one search lies, and guards against mixing runs up."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbnas import config
from mbnas.environment import differences, environment
from mbnas.errors import DataError, SettingsError
from mbnas.files import read_json, write_json, write_text
from mbnas.journal import Journal
from mbnas.progress import log
from mbnas.settings import Settings


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
    def supernet_history(self) -> Path:
        """The epochs of its training, and which of them it is."""
        return self.path / "supernet.json"

    @property
    def trials(self) -> Journal:
        """Every evaluated candidate, in the order they were proposed."""
        return Journal(self.path / "trials.jsonl")

    @property
    def early_trials(self) -> Journal:
        """Candidates that finished before their turn; gone once they are in :attr:`trials`."""
        return Journal(self.path / "trials.early.jsonl")

    @property
    def rescored(self) -> Journal:
        """Pareto members under PGD through both reported surrogates, and in the worst case."""
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

    def settings(self, overrides: Sequence[str] = ()) -> Settings:
        """The settings the run was started with, and ``key.path=value`` changes to them.

        Raises:
            DataError: if their file is damaged.
            SettingsError: if the changes make no sense.
        """
        try:
            started = config.load(self.settings_file)
        except SettingsError as mistake:
            reason = str(mistake).partition(";")[0]  # without what to do in a space
            raise DataError(
                f"{str(self.settings_file)!r} is damaged or of another version of mbnas "
                f"({reason}); restore it, or start a new run"
            ) from None
        return config.validate(started.model_dump(mode="json"), overrides)


def require_new(path: Path) -> None:
    """Check that a new run may go into ``path``: it is missing or empty.

    Raises:
        SettingsError: if something is there already.
    """
    if RunFolder(path).settings_file.exists():
        raise SettingsError(
            f"run folder {str(path)!r} exists; go on with `mbnas search --resume "
            f"{shlex.quote(str(path))}` "
            "or choose another --out"
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SettingsError(f"{str(path)!r} is there already and not empty; choose another --out")


def create(
    path: Path, settings: Settings, begin: Callable[[RunFolder], object] = lambda _: None
) -> RunFolder:
    """A new run folder.

    Args:
        begin: puts into it what it has from the start; it is a run as soon as that is there.

    Raises:
        SettingsError: if something is there already.
        DataError: if nothing can be written.
    """
    require_new(path)
    folder = RunFolder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        try:
            begin(folder)
            write_text(folder.settings_file, config.dump(settings))
        except BaseException:  # for the same command to begin anew
            for file in (folder.supernet_history, folder.supernet_file):
                file.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(
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
        anew = "delete it if the images are those that the run was started on"
        require_data(folder, settings, fingerprint, anew)
        changed = differences(
            read_json(folder.manifest_file, "versions", "hardware"), environment()
        )
        if changed:
            log.warning(
                "goes on elsewhere than it began, where figures may be rounded differently: %s",
                "; ".join(changed),
            )
        return
    write_json(folder.split_file, {"seed": settings.seed, "validation": list(held_out)})
    write_json(folder.manifest_file, manifest(settings, fingerprint))


def require_data(folder: RunFolder, settings: Settings, fingerprint: str, anew: str) -> None:
    """Check that a run was started on these images.

    Args:
        anew: what to do if its manifest cannot be restored, for the message.

    Raises:
        DataError: if it was not, or its manifest is missing or corrupt.
    """
    advice = f"restore it, or {anew}"
    known = read_json(folder.manifest_file, "data", advice=advice)["data"]
    if known != manifest(settings, fingerprint)["data"]:
        raise DataError(
            f"the images are not those that {str(folder.manifest_file)!r} tells of; give the "
            "original folder with --data, or start a new run"
        )


def record_supernet(folder: RunFolder, digest: str) -> None:
    """Note whose sub-networks are scored from now on, or check that what is there is of it.

    Args:
        digest: of the file of the supernet.

    Raises:
        DataError: if scores or retrained networks are of another.
    """
    known = read_json(folder.manifest_file)
    if known.get("supernet") == digest:
        return
    journals = (folder.trials, folder.early_trials, folder.rescored)
    of_it = (*(each.path for each in journals), folder.path / "candidates")
    there = [each for each in of_it if each.exists()]
    if "supernet" in known and there:
        raise DataError(
            f"{str(there[0])!r} is of another supernet than "
            f"{str(folder.supernet_file)!r}, which was replaced or trained anew since; restore "
            f"the former, or search this one with `mbnas search --supernet "
            f"{shlex.quote(str(folder.path))} --out {shlex.quote(f'{folder.path}-again')}`"
        )
    write_json(folder.manifest_file, {**known, "supernet": digest})


def require_supernet(folder: RunFolder) -> None:
    """Check that a run came so far that it has its supernet.

    Raises:
        DataError: if it did not.
    """
    if not folder.supernet_file.exists():
        raise DataError(
            f"run {str(folder.path)!r} has no trained supernet; go on with "
            f"`mbnas search --resume {shlex.quote(str(folder.path))}`"
        )


def manifest(settings: Settings, data_fingerprint: str) -> dict[str, Any]:
    """What someone needs to judge or repeat the run."""
    return {
        "seed": settings.seed,
        **environment(),
        "data": {"name": settings.data.name, "fingerprint": data_fingerprint},
    }
