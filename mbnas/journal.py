"""A journal: what was finished, line by line, from which an interrupted work goes on."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbnas.errors import DataError
from mbnas.files import about, write_text


@dataclass(frozen=True)
class Journal:
    """An append-only file of JSON lines; a line is on disk before the next step starts."""

    path: Path

    def append(self, record: dict[str, Any]) -> None:
        """Add one line."""
        with about(self.path), self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self, *keys: str) -> list[dict[str, Any]]:
        """All records; a last line that was cut off while being written is removed.

        Args:
            keys: that each record must have.

        Raises:
            DataError: if any other line is corrupt.
        """
        if not self.path.exists():
            return []
        try:
            text = self.path.read_text()
            whole = text[: text.rfind("\n") + 1]
            if whole != text:
                write_text(self.path, whole)
            records: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
            if not all(isinstance(each, dict) and each.keys() >= set(keys) for each in records):
                raise ValueError
            return records
        except ValueError:
            raise self.damaged("is corrupt") from None

    def damaged(self, how: str) -> DataError:
        """What to say of content that is not what was written."""
        return DataError(
            f"journal {str(self.path)!r} {how}; restore it, or delete it and what it held is "
            "measured again"
        )

    def remove(self) -> None:
        """Delete the file if it is there."""
        self.path.unlink(missing_ok=True)
