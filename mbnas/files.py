"""Files: written so that a reader, or a resumed run, never meets half of one."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from mbnas.errors import DataError, SettingsError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]


UNWRITABLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT),  # of the folder
    *(errno.ENAMETOOLONG, errno.ELOOP),
}
"""Errors of the system that a user can mend, where something was to be written."""


def at_home(path: str | Path, advice: str = "give its whole path") -> Path:
    """A path, in which ``~`` stands for the home folder.

    Args:
        advice: what to do if there is none, for the message.

    Raises:
        SettingsError: if the path is empty.
        DataError: if there is no such home folder, or the path is not UTF-8, so that settings and
            weights cannot name it.
    """
    text = os.fspath(path)
    if not text:
        raise SettingsError("an empty path; give a folder or a file, such as . for this folder")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"the path {text!r} is not UTF-8; rename it") from None
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise DataError(f"no home folder for {text!r}; {advice}") from None


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Inside, errors of the system name this file: those of writing, a full disk, name none."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary neighbour of ``path``, then move it there.

    It is on disk before that: else a power cut might leave the new name without its content.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    with about(path):
        try:
            write(temporary)
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """Inside, no other process is in here with the same folder; yields whether that is certain.

    Args:
        wait: for the other one to leave.

    Raises:
        DataError: if one is and is not waited for.
    """
    if fcntl is None:
        yield False
        return
    certain = True
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise DataError(
                f"another process works in {str(folder)!r}; wait for its end or choose another"
            ) from None
        except OSError:  # this file system locks no folders, NFS among others
            certain = False
        yield certain
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace the whole of a text file, UTF-8 wherever it is written."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 (whatever JSON can hold)
    """Replace the whole of a JSON file."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path, *keys: str, advice: str = "restore it") -> Any:  # noqa: ANN401
    """The content of a JSON file.

    Args:
        keys: that it must have.
        advice: what to do, for the message.

    Raises:
        DataError: if it is missing, corrupt or something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if keys and not (isinstance(content, dict) and content.keys() >= set(keys)):
            raise ValueError(f"it holds no {', '.join(keys)}")
        return content
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {str(path)!r} ({error}); {advice}") from None
