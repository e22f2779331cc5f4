"""What the studies share: CIFAR-10 made small, a folder of finished work, networks to the end."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import bench
import torch

from mbnas import data as datasets
from mbnas.data import Data
from mbnas.errors import SettingsError
from mbnas.evaluation import Scores
from mbnas.files import read_json, write_json
from mbnas.formats import Format
from mbnas.networks import Network, build_network
from mbnas.objectives import Objective
from mbnas.randomness import seeded
from mbnas.sameness import identity, require_same
from mbnas.settings import Settings
from mbnas.training import fit

SPACE = Path("search_spaces/resnet8-cifar10.yaml")
Options = dict[str, object]


def parser(
    description: str | None, *, epochs: int, formats: Sequence[str]
) -> argparse.ArgumentParser:
    """With the options of every study."""
    made = bench.parser(description)
    made.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10")
    made.add_argument("--work", type=Path, required=True, help="where what is finished is kept")
    made.add_argument("--formats", nargs="+", default=formats)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--image-size", type=bench.positive, default=16)
    made.add_argument("--train-images", type=bench.positive, default=10_000)
    made.add_argument("--epochs", type=bench.positive, default=epochs)
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    made.add_argument("--threads", type=bench.positive, default=torch.get_num_threads())
    return made


def begun(
    arguments: argparse.Namespace,
    *own: str,
    possible: Callable[[Settings, Data], object],
    defaults: Sequence[str] = (),
    **more: object,
) -> tuple[Settings, Data, Options]:
    """Settings and images of the study, and the options that decide its results.

    Makes the folder of finished work, once all options are seen to be valid; one begun with others
    is refused.

    Args:
        own: changes of the space that the study makes; defaults: those that a user may undo.
        possible: raises SettingsError if the study cannot be made with these.
        more: options beside those of :func:`parser`.
    """
    torch.set_num_threads(arguments.threads)
    small = (
        *bench.images_in(arguments.data),
        f"data.image_size={arguments.image_size}",
        f"data.shift={arguments.image_size // 8}",
        f"data.train_images={arguments.train_images}",
        f"retraining.epochs={arguments.epochs}",
        "retraining.precision=float32",  # whatever the processor
    )
    settings = bench.settled(SPACE, (*small, *own), (*defaults, *arguments.set))
    for format_ in arguments.formats:
        Format.parse(format_, settings.space.layers)
    options: Options = {
        "image size": arguments.image_size,
        "train images": arguments.train_images,
        "epochs": arguments.epochs,
        "changes": arguments.set,
        **more,
    }
    data = datasets.load(settings.data, seed=0)
    if len(data.train) < arguments.train_images:
        raise SettingsError(f"--train-images {arguments.train_images}: there are {len(data.train)}")
    possible(settings, data)
    asked = {**more, "fingerprint": data.fingerprint(), **identity(settings)}
    arguments.work.mkdir(parents=True, exist_ok=True)
    note = arguments.work / "options.json"
    if not note.exists():
        write_json(note, asked)
    work = f"{str(arguments.work)!r} was begun"
    require_same(read_json(note), asked, work, "give another --work")
    return settings, data, options


def untrained(settings: Settings, format_: str) -> Network:
    """A network of one format, initialised from torch's generator."""
    return build_network(settings.table, Format.parse(format_, settings.space.layers))


def fresh(settings: Settings, data: Data, format_: str, seed: int) -> Network:
    """A network that has seen nothing but the mean and deviation of its images."""
    with seeded(seed, "initial weights"):
        network = untrained(settings, format_)
    network.standardise_by(*data.statistics())
    return network


def train_to_the_end(
    network: Network, objective: Objective, settings: Settings, data: Data, seed: int, target: Path
) -> None:
    """Train in place by the recipe of retraining; interrupted, the file ``target`` lets it go on.

    That is to be removed once what comes of the network is on disk.

    The network is that of the last epoch: choosing the best would hide a collapse.
    """
    fit(
        network,
        objective,
        guard=lambda: Scores(0, 0, 0),  # no epoch is better than the last
        train=data.train,
        settings=settings,
        recipe=settings.retraining,
        learned_from={},
        title=target.stem,
        seed=seed,
        checkpoint=target,
    )
