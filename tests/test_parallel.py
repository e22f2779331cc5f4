"""Two processes that train together, on CPUs: the mean of their gradients, one common result."""

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers import DIGITS, TINY, noise, scrambled, tiny

from mbnas import backbones, parallel
from mbnas.assignment import Assignment
from mbnas.errors import DataError, SettingsError
from mbnas.evaluation import Scores
from mbnas.images import Batch, Images
from mbnas.networks import Network, multibit
from mbnas.objectives import network_objective
from mbnas.pipeline import run_search
from mbnas.randomness import generator
from mbnas.search.executors import Executor
from mbnas.settings import Recipe, Surrogate, Threat, Training
from mbnas.training import fit, triangular

TABLE = backbones.build("resnet8", width=2, image=(1, 8, 8), classes=3)
IMAGES = noise(16, TABLE.image, TABLE.classes)
RECIPE = Recipe(epochs=2, batch_size=8, learning_rate=0.01, training=Training.FASTAT, step=0.125)
THREAT = Threat(eps=0.1, step=0.02, surrogate=Surrogate.TANH)
SETTINGS = tiny("data.shift=0", "data.flip=false")


def network() -> Network:
    return scrambled(lambda: multibit(TABLE, Assignment.uniform(2, 2, len(TABLE.searchable))))


def trained(folder: Path) -> Network:
    module = network()
    with torch.no_grad():  # machines that draw other weights must begin with the leading one's
        for each in module.parameters():
            each.add_(parallel.rank())
    fit(
        module,
        network_objective(module, THREAT, RECIPE),
        guard=lambda: Scores(0, 0, 1),
        train=IMAGES,
        settings=SETTINGS,
        recipe=RECIPE,
        learned_from={},
        title="",
        seed=5,
        checkpoint=folder / "training.pt",
    )
    return module


def pair(folder: Path) -> None:
    """What each of two processes runs; what it comes to is left in files of its own."""
    with parallel.together():
        assert parallel.launcher() == ["torchrun", "--nproc-per-node", "2", "--no-python"]
        rank = parallel.rank()
        torch.save(trained(folder).state_dict(), folder / f"{rank}.pt")
        blunder(folder / f"led-{rank}.txt")
        misplace(folder / f"in turn-{rank}.txt")
        part(folder / f"machine-{rank}")
    left = [each.read_text().strip() for each in Path("/proc/self/task").glob("*/comm")]
    (folder / f"threads-{rank}.txt").write_text(" ".join(left))


def blunder(told: Path) -> None:
    """A mistake of the leader alone."""

    def mistaken() -> None:
        raise SettingsError(f"made by {parallel.rank()}")

    try:
        parallel.led(mistaken)
    except SettingsError as mistake:
        told.write_text(str(mistake))


def misplace(told: Path) -> None:
    """The same mistake of all."""
    try:
        with parallel.leader_first():
            raise SettingsError("made by all")
    except SettingsError as mistake:
        told.write_text(str(mistake))


def part(mine: Path) -> None:
    """A training, and the same again, as if on two machines that share no folder."""
    mine.mkdir()
    trained(mine)
    with pytest.raises(DataError, match="not every process finds the training checkpoint"):
        trained(mine)


def queue(folder: Path) -> None:
    """What each of three processes runs, the last two as if on a second machine."""
    os.environ["LOCAL_RANK"] = {"0": "0", "1": "0", "2": "1"}[os.environ["RANK"]]
    with parallel.together(), parallel.leader_first(), (folder / "queue.txt").open("a") as passed:
        passed.write(f"{parallel.rank()} in\n")
        passed.flush()
        time.sleep(0.2)
        passed.write(f"{parallel.rank()} out\n")


def started_together(
    *command: str, folder: Path, processes: int = 2
) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher.append(f"--nproc-per-node={processes}")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.run(
        [*launcher, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,  # a process that waits for the other one would wait for days
    )


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two processes, once they have ended."""
    folder = tmp_path_factory.mktemp("pair")
    done = started_together(__file__, str(folder), "pair", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_train_as_one_that_averages_the_halves_of_each_batch(left: Path) -> None:
    first, second = (torch.load(left / f"{rank}.pt") for rank in (0, 1))

    expected = network()
    optimizer = torch.optim.Adam(expected.parameters())
    accumulate = network_objective(expected, THREAT, RECIPE)(1)
    done_steps = 0
    for epoch in (1, 2):
        rngs = [generator(5, "epoch", epoch) for _ in range(2)]
        halves = [
            IMAGES.shuffled(8, shift=0, flip=False, rng=rng, part=(number, 2))
            for number, rng in enumerate(rngs)
        ]
        expected.train()
        for batch in zip(*halves, strict=True):
            statistics = {name: each.clone() for name, each in expected.named_buffers()}
            gradients = []
            for (x, y), rng in reversed(list(zip(batch, rngs, strict=True))):
                for name, each in expected.named_buffers():
                    each.copy_(statistics[name])  # the first process's remain
                expected.zero_grad()
                accumulate(x, y, rng)
                gradients.append([each.grad.clone() for each in expected.parameters()])
            for each, *both in zip(expected.parameters(), *gradients, strict=True):
                each.grad = sum(both) / 2
            torch.nn.utils.clip_grad_norm_(expected.parameters(), RECIPE.gradient_clip)
            rate = triangular((done_steps + 0.5) / 4, RECIPE.learning_rate, RECIPE.warmup)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            done_steps += 1
    for name, each in expected.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], each, rtol=1e-6, atol=1e-7)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux to list threads")
def test_no_thread_of_the_group_outlives_it(left: Path) -> None:
    """One that is left aborts the process now and then, if it needs Python while that ends."""
    for rank in (0, 1):
        threads = (left / f"threads-{rank}.txt").read_text()
        assert "python" in threads
        assert "gloo" not in threads


def test_parts_of_a_batch_hold_each_image_once_and_are_augmented_apart() -> None:
    def drawn(images: Images, number: int, parts: int) -> list[Batch]:
        rng = generator(3)
        return list(images.shuffled(8, shift=2, flip=True, rng=rng, part=(number, parts)))

    def part(number: int, parts: int) -> list[Batch]:
        return drawn(IMAGES, number, parts)

    for (_, whole), (_, even), (_, odd) in zip(part(0, 1), part(0, 2), part(1, 2), strict=True):
        assert torch.equal(whole[0::2], even)
        assert torch.equal(whole[1::2], odd)

    alike = Images.of(IMAGES.pixels[:1].expand(16, -1, -1, -1), IMAGES.targets)
    first, second = (torch.cat([x for x, _ in drawn(alike, number, 2)]) for number in range(2))
    assert not torch.equal(first, second)  # one picture, shifted otherwise


@pytest.mark.parametrize("size", [2, 8])
def test_every_process_has_equally_many_images_of_a_batch(size: int) -> None:
    """Else the mean of their gradients were not that of the batch."""
    with pytest.raises(SettingsError, match=f"batches of {size} images have no 3 equal parts"):
        next(IMAGES.shuffled(size, shift=0, flip=False, rng=generator(0), part=(2, 3)))


def test_unequal_parts_are_told_before_a_search_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "count", lambda: 3)
    monkeypatch.setattr(parallel, "leader_first", nullcontext)
    settings = tiny("search.budget=1e6", "supernet.batch_size=30", "retraining.batch_size=32")
    with pytest.raises(SettingsError, match="batches of 32 images have no 3 equal parts"):
        run_search(settings, tmp_path / "run", Executor("inprocess", workers=1))
    assert list(tmp_path.iterdir()) == []


def test_more_processes_than_gpus_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "4"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(SettingsError, match=r"4 processes .* 2 GPUs; give --nproc-per-node 2"),
        parallel.together(),
    ):
        pass


def test_a_whole_search_in_two_processes_ends_in_one_run_folder(tmp_path: Path) -> None:
    settings = [part for each in (*TINY, "search.budget=1e6") for part in ("--set", each)]
    done = started_together(
        "--no-python",
        str(Path(sys.executable).with_name("mbnas")),
        *("search", "--space", str(DIGITS), "--executor", "inprocess"),
        *("--out", "run", "--json", *settings),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert len(printed["retrained"]) == 1
    rows = json.loads((tmp_path / "run" / "pareto.json").read_text())
    assert printed["pareto"] == rows
    (metrics,) = printed["retrained"]
    for told in (
        json.loads((tmp_path / "run" / "manifest.json").read_text()),
        metrics["environment"],
    ):
        assert told["processes"] == 2
    done = started_together(
        "--no-python",
        str(Path(sys.executable).with_name("mbnas")),
        *("evaluate", f"run/candidates/{metrics['id']}", "--json"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["test"] == metrics["test"]


def test_a_mistake_that_the_leader_meets_reaches_the_other_process(left: Path) -> None:
    assert [(left / f"led-{rank}.txt").read_text() for rank in (0, 1)] == ["made by 0"] * 2


def test_a_mistake_that_all_make_in_turn_is_told_by_each(left: Path) -> None:
    assert [(left / f"in turn-{rank}.txt").read_text() for rank in (0, 1)] == ["made by all"] * 2


def test_machines_that_share_no_folder_are_told_so_when_training_is_to_go_on(left: Path) -> None:
    written = [(left / f"machine-{rank}" / "training.pt").exists() for rank in (0, 1)]
    assert written == [True, False]


def test_one_process_of_each_machine_prepares_what_the_others_find(tmp_path: Path) -> None:
    done = started_together(__file__, str(tmp_path), "queue", folder=tmp_path, processes=3)
    assert done.returncode == 0, done.stderr
    passed = (tmp_path / "queue.txt").read_text().splitlines()
    assert passed == [f"{rank} {way}" for rank in range(3) for way in ("in", "out")]


if __name__ == "__main__":
    todo = {f.__name__: f for f in (pair, queue)}
    todo[sys.argv[2]](Path(sys.argv[1]))
