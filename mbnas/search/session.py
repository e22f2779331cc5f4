"""Drives an engine generation by generation, with a journal that makes every result count once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mbnas.assignment import Assignment
from mbnas.errors import SettingsError
from mbnas.journal import Journal
from mbnas.search.engines import Engine
from mbnas.search.problem import Trial


class Session:
    """Hands out candidates, takes their scores in any order, writes them in the order asked.

    A generation is told to the engine when all of it is scored, so what is proposed depends on
    neither the number of workers nor their speed. Resuming replays the journal: candidates found
    there are not handed out again.

    Args:
        evaluations: candidates in all.
        journal: finished trials in the order asked; early: those that finished before their turn.
        on_trial: called for each newly scored trial.
    """

    def __init__(
        self,
        engine: Engine,
        layers: int,
        evaluations: int,
        *,
        journal: Journal,
        early: Journal,
        on_trial: Callable[[Trial], None] = lambda _: None,
    ) -> None:
        self._engine = engine
        self._evaluations = evaluations
        self._journal, self._early = journal, early
        self._on_trial = on_trial
        written, parked = recorded(journal, layers), recorded(early, layers)
        self._known = {trial.assignment: trial for trial in (*written, *parked)}
        self._written = [trial.assignment for trial in written]
        self._asked: list[Assignment] = []
        self._generation: list[Assignment] = []
        self._queue: deque[Assignment] = deque()
        self.finished = False
        self._advance()

    @property
    def trials(self) -> list[Trial]:
        """All scored trials, in the order asked."""
        return [self._known[each] for each in self._asked if each in self._known]

    def next(self) -> Assignment | None:
        """A candidate to score now; None while others of its generation are being scored."""
        return self._queue.popleft() if self._queue else None

    def record(self, trial: Trial) -> None:
        """Take the score of a candidate that :meth:`next` handed out."""
        self._known[trial.assignment] = trial
        if trial.assignment != self._asked[len(self._written)]:
            self._early.append(trial.record())
        self._on_trial(trial)
        self._advance()

    def _advance(self) -> None:
        self._write()
        while not self.finished and all(each in self._known for each in self._generation):
            if len(self._asked) == self._evaluations:
                self.finished = True  # the last generation may be cut short: it is never told
                return
            if self._generation:
                self._engine.tell([self._known[each] for each in self._generation])
            self._ask()
            self._write()

    def _ask(self) -> None:
        room = self._evaluations - len(self._asked)
        self._generation = self._engine.ask()[:room]
        self.finished = not self._generation
        self._asked += self._generation
        self._queue.extend(each for each in self._generation if each not in self._known)
        self._check_replay()

    def _check_replay(self) -> None:
        common = min(len(self._asked), len(self._written))
        if self._asked[:common] != self._written[:common]:
            raise self._journal.damaged(
                "holds other candidates than are proposed here: it is damaged, or was written by "
                "another version of the search engine"
            )

    def _write(self) -> None:
        for assignment in self._asked[len(self._written) :]:
            if assignment not in self._known:
                return
            self._journal.append(self._known[assignment].record())
            self._written.append(assignment)
        if len(self._written) == len(self._known):
            self._early.remove()


def recorded(journal: Journal, layers: int) -> list[Trial]:
    """The trials that a journal holds.

    Raises:
        DataError: if it holds something else, or trials of other networks.
    """
    try:
        return [Trial.from_record(record, layers) for record in journal.read()]
    except (KeyError, TypeError, AttributeError, SettingsError):
        raise journal.damaged("holds a line that is no trial of this run") from None
