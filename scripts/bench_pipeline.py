"""Where the time of a whole search goes, with compiled quantizers and with plain ones.

    python scripts/bench_pipeline.py --space search_spaces/digits.yaml --budget 6e6

Runs the same search in both ways, in this process, in turns; by default on the recipe of the
space. Both evaluate the same candidates in the first generation; later ones may differ, because
sums are rounded differently.
"""

import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import bench
import torch

from mbnas import Executor, Settings, load, run_search
from mbnas.devices import pick_device
from mbnas.search.executors import default_workers

STAGES = {
    "data": "mbnas.data.load",
    "supernet": "mbnas.pipeline.pretrained",
    "search": "mbnas.pipeline._trials",
    "re-scoring": "mbnas.pipeline.rescored",
    "retraining and test": "mbnas.pipeline._retrained",
    "audits": "mbnas.pipeline._audited",
}


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Inside, the seconds that each stage of a run takes add up in what this yields."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: object, **named: object) -> object:
            started = time.perf_counter()
            result = function(*arguments, **named)
            seconds[stage] += time.perf_counter() - started
            return result

        return run

    with ExitStack() as patches:
        for stage, place in STAGES.items():
            module, _, name = place.rpartition(".")
            function = getattr(sys.modules[module], name)
            patches.enter_context(mock.patch(place, timed(stage, function)))
        yield seconds


def once(settings: Settings) -> dict[str, float]:
    """Seconds by stage of one search."""
    executor = Executor("inprocess", default_workers("inprocess", pick_device(settings.device)))
    with tempfile.TemporaryDirectory() as folder, stopwatch() as seconds:
        started = time.perf_counter()
        run_search(settings, Path(folder) / "run", executor)
        return {**seconds, "total": time.perf_counter() - started}


def main() -> None:
    parser = bench.parser(__doc__)
    parser.add_argument("--space", type=Path, default=Path("search_spaces/digits.yaml"))
    parser.add_argument("--budget", default="6e6")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=bench.positive, default=1)
    parser.add_argument("--threads", type=bench.positive, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = load(arguments.space, [f"search.budget={arguments.budget}", *arguments.set])

    with bench.compiled():  # what is loaded and compiled once belongs to no round
        once(settings)
    measured: dict[str, list[dict[str, float]]] = {"compiled": [], "plain": []}
    for _ in range(arguments.rounds):
        with bench.compiled():
            measured["compiled"].append(once(settings))
        with bench.plain():
            measured["plain"].append(once(settings))

    def mean(way: str, stage: str) -> float:
        return fmean(each.get(stage, 0) for each in measured[way])

    rows = [
        [
            stage,
            *(
                f"{mean(way, stage):.0f} s ({100 * mean(way, stage) / mean(way, 'total'):.0f} %)"
                for way in measured
            ),
            f"{mean('plain', stage) / mean('compiled', stage):.1f}",
        ]
        for stage in measured["compiled"][0]
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    bench.show(
        f"{settings.name}: where a search spends its time; the process held at most {peak:.0f} MiB",
        ["stage", *measured, "times as fast"],
        rows,
    )
    kept = {"peak MiB of the process": peak, **measured}
    print(bench.keep(f"pipeline-{settings.name}", kept))


if __name__ == "__main__":
    bench.run(main)
