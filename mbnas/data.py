"""Data sets, split by seed."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from mbnas import folders, parallel
from mbnas.errors import DataError
from mbnas.files import at_home
from mbnas.images import Images
from mbnas.progress import log
from mbnas.randomness import generator
from mbnas.settings import DataSettings


@dataclass(frozen=True)
class Data:
    """The three splits; ``held_out`` are the validation images' positions in the training set."""

    train: Images
    validation: Images
    test: Images
    held_out: tuple[int, ...]

    def to(self, device: torch.device) -> Data:
        """The same data on a device."""
        return replace(
            self,
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation per channel, (C,) each, of 10,000 training images.

        Of fewer where those would fill more than a gigabyte. The deviation of a channel that never
        varies is given as 1, so that one can divide by it.
        """
        numbers = self.train.pixels[0].numel()
        x, _ = self.train.gather(slice(min(10_000, 2**28 // numbers)))
        deviation = x.std(dim=(0, 2, 3))
        return x.mean(dim=(0, 2, 3)), deviation.where(deviation > 0, 1)

    def fingerprint(self) -> str:
        """Of all three splits."""
        return fingerprint(self.train, self.validation, self.test)


def fingerprint(*splits: Images) -> str:
    """SHA-256 over all labels and at least 1,024 evenly spaced images, or all, of each split."""
    digest = hashlib.sha256()
    for split in splits:
        stride = max(1, len(split) // 1024)
        sample = split.pixels[split.positions[::stride]]
        digest.update(f"{len(split)} {tuple(sample.shape)}".encode())
        digest.update(split.labels.cpu().numpy().tobytes())
        digest.update(sample.cpu().numpy().tobytes())
    return digest.hexdigest()


def load(settings: DataSettings, seed: int) -> Data:
    """Read a data set and hold validation images out of its training set, chosen by ``seed``.

    Raises:
        DataError: if it is missing, corrupt, or not what the settings say.
    """
    train, test = _read(settings, train=True), load_test(settings)
    shape = tuple(train.pixels.shape[1:])
    if shape != settings.image:
        there, asked = ("x".join(map(str, each)) for each in (shape, settings.image))
        raise DataError(
            f"the images of {settings.name!r} are {there} (channels, height, width), data.channels "
            f"and data.image_size say {asked}; only folders of images are brought to that"
        )
    found = int(max(train.targets.max(), test.targets.max())) + 1
    if found < 2:
        raise DataError(
            f"data {settings.name!r} has a single class; give two or more to tell apart"
        )
    if found != settings.classes:
        raise DataError(
            f"data {settings.name!r} has {found} classes, the space says "
            f"{settings.classes}; set data.classes={found}"
        )
    if settings.validation >= len(train):
        raise DataError(
            f"data.validation={settings.validation} leaves none of the {len(train)} training "
            "images to train on; choose fewer"
        )
    shared, looked_at = _shared(train, test.first(1000))
    if 100 * shared > looked_at:  # CIFAR-100 has a few
        log.warning(
            "%d of %d test images are training images, too; accuracy on them tells little",
            *(shared, looked_at),
        )
    order = torch.randperm(len(train), generator=generator(seed, "split"))
    held_out, rest = order[: settings.validation], order[settings.validation :]
    used = rest[: settings.train_images]
    if settings.name == "folder" and len(used) < len(rest):  # a space for other data may say so
        log.info("data.train_images leaves out %d of %d images", len(rest) - len(used), len(rest))
    return Data(
        train=train.take(used),
        validation=train.take(held_out),
        test=test,
        held_out=tuple(held_out.tolist()),
    )


def _shared(train: Images, test: Images) -> tuple[int, int]:
    """How many test images are training images bit for bit, and of how many; large data: of 0."""
    if len(train) * train.pixels[0].nbytes > 2**30:  # minutes to read
        return 0, 0
    known = {hash(train.pixels[i].numpy().tobytes()) for i in train.positions}
    seen = (hash(test.pixels[i].numpy().tobytes()) for i in test.positions)
    return sum(each in known for each in seen), len(test)


def load_test(settings: DataSettings) -> Images:
    """The test images alone, those of :func:`load`; those for training need not be there.

    Raises:
        DataError: if they are missing or corrupt.
    """
    test = _read(settings, train=False)
    # A folder lists its classes one after another; the first n test images must be a fair sample,
    # and the same one whatever the seed.
    return test.take(torch.randperm(len(test), generator=generator(0, "test order")))


def _read(settings: DataSettings, *, train: bool) -> Images:
    """The images for training, or for test."""
    with parallel.leader_first():  # it alone decodes images that were never read before
        return _split(settings, train=train)


def _split(settings: DataSettings, *, train: bool) -> Images:
    if settings.name == "digits":
        if settings.root is not None:
            raise DataError(
                f"digits come with scikit-learn, not from {str(settings.root)!r}; leave away "
                "--data, or say what lies there by --set data.name=folder"
            )
        return _digits(train=train)
    if settings.root is None:
        raise DataError(f"data {settings.name!r} needs a folder; give --data DIR")
    root = at_home(settings.root, "give --data DIR")
    if settings.name in ("cifar10", "cifar100") and not folders.is_image_folder(root):
        return _cifar(settings.name, root, train=train)
    splits = {"train", "val", "test"} & {*folders.subfolders(root)}
    if settings.name == "imagenet" and ((train and "train" not in splits) or splits <= {"train"}):
        _unpack_imagenet(root, ("train", "val") if train else ("val",))
    return folders.read(root, settings.image, train=train)


def _digits(*, train: bool) -> Images:
    """Handwritten digits of scikit-learn (UCI), 8x8 pixels; a fifth, always the same, for test."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 (takes a second to import)

    digits = load_digits()
    pixels = torch.from_numpy(digits.images / 16 * 255).round().to(torch.uint8)[:, None]
    images = Images.of(pixels, torch.from_numpy(digits.target).long())
    order = torch.randperm(len(images), generator=generator(0, "digits test split"))
    fifth = len(images) // 5
    return images.take(order[fifth:] if train else order[:fifth])


def _cifar(name: Literal["cifar10", "cifar100"], root: Path, *, train: bool) -> Images:
    datasets = _torchvision_datasets()
    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        found = dataset(root, train=train, download=True)
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(
            f"{name} is neither in {str(root)!r} nor can it be downloaded ({error}); put "
            "torchvision's files there, or a folder with train/<class>/ and test/<class>/, "
            "or name another with --data DIR"
        ) from None
    pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2)
    return Images.of(pixels, torch.tensor(found.targets))


def _unpack_imagenet(root: Path, splits: tuple[str, ...]) -> None:
    """Let torchvision unpack the archives of ILSVRC 2012 into ``train/`` or ``val/``."""
    datasets = _torchvision_datasets()
    try:
        for split in splits:
            datasets.ImageNet(root, split=split)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"no ImageNet in {str(root)!r} ({reason}); put the ILSVRC 2012 archives or "
            "train/<class>/ and val/<class>/ there, or name another folder with --data DIR"
        ) from None


def _torchvision_datasets() -> ModuleType:
    """``torchvision.datasets``, importable beside a torch whose build differs.

    The compiled operators of the published torchvision do not load beside a CPU-only torch, and
    its import then fails over operators nobody calls here; declaring their schemas is enough.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.submodule_search_locations is None:
        raise DataError("torchvision is not installed; pip install torchvision")
    for library in Path(spec.submodule_search_locations[0]).glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError:
            for operator in ("nms", "qnms"):
                if not hasattr(torch.ops.torchvision, operator):
                    torch.library.define(
                        f"torchvision::{operator}",
                        "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                    )
    return importlib.import_module("torchvision.datasets")
