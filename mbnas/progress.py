"""What a person sees while waiting: messages and bars on stderr, bars only on a terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

CONSOLE = Console(stderr=True)
log = logging.getLogger("mbnas")


class _AboveBars(logging.Handler):
    """Prints messages so that a bar stays below them."""

    def emit(self, record: logging.LogRecord) -> None:
        CONSOLE.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def show_messages() -> None:
    """Print the messages of this package; a library user may configure logging instead."""
    if not log.handlers:
        log.addHandler(_AboveBars())
    log.setLevel(logging.INFO)


@contextmanager
def bar(description: str, total: int, done: int = 0) -> Iterator[Callable[[str], None]]:
    """A bar with time left; call what it yields after each unit, with a note to show behind."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=CONSOLE,
        disable=not CONSOLE.is_terminal,
    ) as progress:
        task = progress.add_task(description, total=total, completed=done, note="")
        yield lambda note: progress.update(task, advance=1, note=note)
