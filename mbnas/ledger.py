"""Results by name, each on disk before the next one is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mbnas.errors import DataError
from mbnas.journal import Journal

ORIGIN = "origin"


def origin_of(journal: Journal) -> dict[str, Any]:
    """What the results in it depend on; empty if there are none."""
    records = journal.read("name", "result")
    return next((each["result"] for each in reversed(records) if each["name"] == ORIGIN), {})


@dataclass
class Ledger:
    """What was measured before is looked up.

    Attributes:
        origin: what decides the results. Those of other values are refused; what decides none of
            them may be added.
        found: called with the name of each result that is measured now.

    Raises:
        DataError: if the journal was begun for something else.
    """

    journal: Journal
    origin: dict[str, Any]
    found: Callable[[str], object]
    results: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        records = self.journal.read("name", "result")
        self.results = {record["name"]: record["result"] for record in records}
        known = self.results.get(ORIGIN, {})
        others = [key for key, value in known.items() if self.origin.get(key) != value]
        if others:
            raise DataError(
                f"{str(self.journal.path)!r} was begun with another {' and '.join(others)}; go on "
                "with that, or delete it to begin anew"
            )
        if known != self.origin:
            self.journal.append({"name": ORIGIN, "result": self.origin})
            self.found(ORIGIN)

    def number(self, name: str, measure: Callable[[], float]) -> float:
        """A number."""
        return float(self._once(name, measure))

    def numbers(self, name: str, measure: Callable[[], list[float]]) -> list[float]:
        """A list of numbers."""
        return list(self._once(name, measure))

    def masks(self, name: str, measure: Callable[[], Tensor]) -> Tensor:
        """(k, n) of bool, written down as one digit an image."""
        lines = self._once(
            name, lambda: ["".join(str(int(each)) for each in row) for row in measure().cpu()]
        )
        return torch.tensor([[digit == "1" for digit in line] for line in lines])

    def mask(self, name: str, measure: Callable[[], Tensor]) -> Tensor:
        """(n,) of bool."""
        return self.masks(name, lambda: measure()[None])[0]

    def _once(self, name: str, measure: Callable[[], Any]) -> Any:  # noqa: ANN401 (what JSON holds)
        if name not in self.results:
            self.results[name] = measure()
            self.journal.append({"name": name, "result": self.results[name]})
            self.found(name)
        return self.results[name]
