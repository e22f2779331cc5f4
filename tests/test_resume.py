"""A run that was killed or interrupted at any moment ends as if it had never been."""

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import pytest
from helpers import DIGITS, SEVERAL, TINY

from mbnas import cli
from mbnas.runs import RunFolder

SPACE = [
    *("--space", str(DIGITS), "--budget", "110000"),
    *(word for each in (*TINY, *SEVERAL) for word in ("--set", each)),
]
INPROCESS = ["--executor", "inprocess", "--workers", "2"]

pytestmark = pytest.mark.usefixtures("brief_audits")

# Each command runs in a child of a process that has loaded all, what is imported late too, and
# computed nothing: torch does not promise to work in the child of one that has. A child gets a
# signal just before it touches a file of the run folder for the so many-th time; 0 is never. What
# is written as a whole is touched four times: twice written, then moved, then cleared up.
LIVES = """
import faulthandler, json, os, signal as signals, sys, traceback
import sklearn.datasets, torch, torch._dynamo
from helpers import BRIEF
from mbnas import cli, pipeline
from mbnas.auditing import PLANS
from mbnas.settings import Effort
PLANS[Effort.QUICK] = BRIEF
signals.signal(signals.SIGINT, signals.default_int_handler)  # whatever this was started by
torch.set_num_threads(1)

def live(folder, file, time, signal, command):
    def count(event, arguments):
        nonlocal time
        if event in ("open", "os.remove", "os.rename") and folder in str(arguments[0]):
            name = os.path.basename(arguments[0])
            if name == file or name.startswith(f".{file}."):
                time -= 1
                if time == 0:
                    os.kill(os.getpid(), signal)
    os.dup2(os.open(f"{folder}.stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    faulthandler.enable()  # should it crash, it tells where
    if time:
        sys.addaudithook(count)
    sys.argv = ["mbnas", *command]
    cli.main()

for life in json.loads(sys.argv[1]):
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    code = 1
    try:
        live(*life)
        code = 0
    except SystemExit as exit:
        code = exit.code
    except BaseException:
        traceback.print_exc()
    os._exit(code)
"""
Moment = tuple[str, int]
KILLS: dict[str, list[Moment]] = {
    "killed in the supernet, before the Pareto set and in the audit": [
        *(("supernet.training.pt", 6), ("pareto.json", 3), ("audit-quick.jsonl", 5)),
    ],
    "killed in the search and between two retrained networks": [
        *(("trials.jsonl", 5), ("pareto.csv", 9)),
    ],
    "killed in re-scoring and at the end of the second audit": [
        *(("rescored.jsonl", 2), ("audit-quick.html", 5)),
    ],
    "killed again and again": [
        *(("split.json", 3), ("supernet.training.pt", 5), ("supernet.safetensors", 2)),
        *(("trials.jsonl", 4), ("rescored.jsonl", 3)),
        *(("metrics.json", 2), ("training-supernet.pt", 4)),  # of the second one
    ],
}
INTERRUPTS: dict[str, tuple[signal.Signals, list[Moment]]] = {
    "interrupted in the supernet and in the search": (
        signal.SIGINT,
        [("supernet.training.pt", 5), ("trials.jsonl", 9)],
    ),
    "terminated in the supernet and in re-scoring": (
        signal.SIGTERM,
        [("supernet.training.pt", 6), ("rescored.jsonl", 2)],
    ),
}
STORIES: dict[str, list[tuple[Moment, signal.Signals]]] = {
    "uninterrupted": [],
    **{name: [(each, signal.SIGKILL) for each in moments] for name, moments in KILLS.items()},
    **{name: [(each, how) for each in moments] for name, (how, moments) in INTERRUPTS.items()},
}
every_story = pytest.mark.parametrize("name", STORIES)


@dataclass(frozen=True)
class Ending:
    """A run that was started, hit by the signals of its story, and resumed to the end."""

    folder: Path
    codes: list[int]

    @cached_property
    def found(self) -> dict[str, object]:
        """What the run came to, timings aside."""
        run = RunFolder(self.folder)
        return {
            **{
                str(path.relative_to(self.folder)): path.read_bytes()
                for path in self.folder.rglob("*")
                if path.suffix in (".csv", ".json", ".safetensors", ".txt", ".yaml")
            },
            "trials.jsonl": [{**record, "seconds": None} for record in run.trials.read()],
            "rescored.jsonl": sorted(run.rescored.read(), key=lambda each: each["id"]),
        }

    @property
    def stderr(self) -> str:
        return Path(f"{self.folder}.stderr").read_text()


@pytest.fixture(scope="module")
def endings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ending]:
    """All stories, told by a single process."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {name: folder / f"run {number}" for number, name in enumerate(STORIES)}
    lives = [
        (str(runs[name]), *moment, number, command(runs[name], life > 0))
        for name, signals in STORIES.items()
        for life, (moment, number) in enumerate([*signals, (("", 0), 0)])
    ]
    told = subprocess.run(
        [sys.executable, "-c", LIVES, json.dumps(lives)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=1800,
    )
    codes = map(int, told.stdout.split())
    return {
        name: Ending(runs[name], list(islice(codes, len(signals) + 1)))
        for name, signals in STORIES.items()
    }


def command(folder: Path, again: bool) -> list[str]:
    where = ["--resume" if again else "--out", str(folder)]
    return ["search", *([] if again else SPACE), *where, *INPROCESS]


@every_story
def test_a_run_ends_as_if_it_had_never_been_stopped(endings: dict[str, Ending], name: str) -> None:
    ending = endings[name]
    codes = [*(-9 if how is signal.SIGKILL else 130 for _, how in STORIES[name]), 0]
    assert ending.codes == codes, ending.stderr
    assert "Traceback" not in ending.stderr
    assert ending.found == endings["uninterrupted"].found
    assert len(ending.found) == 17
    if signal.SIGKILL not in (how for _, how in STORIES[name]):
        assert not list(ending.folder.rglob("*.partial"))


@pytest.mark.parametrize("name", INTERRUPTS)
def test_an_interrupted_run_tells_how_to_go_on(endings: dict[str, Ending], name: str) -> None:
    lines = endings[name].stderr.splitlines()
    told = [line for line in lines if line.startswith("mbnas:")]
    assert len(told) == len(INTERRUPTS[name][1])
    for line in told:
        message, _, advice = line.partition(" with: ")
        assert message == "mbnas: interrupted; go on"
        assert shlex.split(advice) == [
            *("mbnas", "search", "--resume", str(endings[name].folder)),
            *INPROCESS,
        ]


def run(*arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mbnas", *arguments])
        cli.main()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (("--seed", "1"), "seed: 0 -> 1"),
        (("--budget", "1e6"), "search.budget: 110000.0 -> 1000000.0"),
        (("--evaluations", "13"), "search.evaluations: 12 -> 13"),
        (("--retrain", "1"), "retraining.candidates: 2 -> 1"),
        (("--set", "threat.steps=3"), "threat.steps: 2 -> 3"),
        (("--space", str(DIGITS)), "backbone.width: 2 -> 16"),
    ],
)
def test_a_run_does_not_go_on_with_other_settings(
    endings: dict[str, Ending],
    capsys: pytest.CaptureFixture[str],
    changes: tuple[str, ...],
    named: str,
) -> None:
    folder = endings["uninterrupted"].folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as end:
        run("search", "--resume", str(folder), *INPROCESS, *changes)
    output = capsys.readouterr()
    assert end.value.code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert named in output.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_goes_on_when_its_settings_are_said_again(
    endings: dict[str, Ending], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = endings["uninterrupted"].folder
    before = endings["uninterrupted"].found
    run("search", *SPACE, "--seed", "0", "--resume", str(folder), *INPROCESS, "--json")
    assert json.loads(capsys.readouterr().out)["run"] == str(folder)
    assert Ending(folder, []).found == before
