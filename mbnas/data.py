"""Data sets: read once, kept as one tensor file, split by seed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mbnas import parallel
from mbnas.errors import DataError
from mbnas.files import write_atomically
from mbnas.images import Images
from mbnas.progress import bar, log
from mbnas.randomness import generator
from mbnas.settings import DataSettings

SUFFIXES = {
    *(".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
}


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
    with parallel.leader_first():  # it alone decodes images that were never read before
        train, test = _read(settings)
    size = tuple(train.pixels.shape[2:])
    if size != settings.image[1:]:
        raise DataError(
            f"the images of {settings.name!r} have {size[0]}x{size[1]} pixels, data.image_size "
            f"says {settings.image_size}; only folders of images are scaled to it"
        )
    found = int(max(train.targets.max(), test.targets.max())) + 1
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
    order = torch.randperm(len(train), generator=generator(seed, "split"))
    # A folder lists its classes one after another; the first n test images must be a fair sample,
    # and the same one whatever the seed.
    test = test.take(torch.randperm(len(test), generator=generator(0, "test order")))
    held_out, rest = order[: settings.validation], order[settings.validation :]
    return Data(
        train=train.take(rest[: settings.train_images]),
        validation=train.take(held_out),
        test=test,
        held_out=tuple(held_out.tolist()),
    )


def _read(settings: DataSettings) -> tuple[Images, Images]:
    if settings.name == "digits":
        if settings.root is not None:
            raise DataError(
                f"digits come with scikit-learn, not from {str(settings.root)!r}; leave away "
                "--data, or say what lies there by --set data.name=folder"
            )
        return _digits()
    if settings.root is None:
        raise DataError(f"data {settings.name!r} needs a folder; give --data DIR")
    try:
        root = settings.root.expanduser()
    except RuntimeError:
        raise DataError(f"no home folder for {str(settings.root)!r}; give --data DIR") from None
    if settings.name in ("cifar10", "cifar100") and not _is_image_folder(root):
        return _cifar(settings.name, root)
    if settings.name == "imagenet" and len({"train", "val", "test"} & {*_folders_in(root)}) < 2:
        _unpack_imagenet(root)
    return _image_folder(settings, root)


def _digits() -> tuple[Images, Images]:
    """Handwritten digits of scikit-learn (UCI), 8x8 pixels; a fifth, always the same, for test."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 (takes a second to import)

    digits = load_digits()
    pixels = torch.from_numpy(digits.images / 16 * 255).round().to(torch.uint8)[:, None]
    images = Images.of(pixels, torch.from_numpy(digits.target).long())
    order = torch.randperm(len(images), generator=generator(0, "digits test split"))
    fifth = len(images) // 5
    return images.take(order[fifth:]), images.take(order[:fifth])


def _cifar(name: Literal["cifar10", "cifar100"], root: Path) -> tuple[Images, Images]:
    datasets = _torchvision_datasets()
    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        both = [dataset(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(
            f"{name} is neither in {str(root)!r} nor can it be downloaded ({error}); put "
            "torchvision's files there, or a folder with train/<class>/ and test/<class>/, "
            "or name another with --data DIR"
        ) from None
    train, test = (
        Images.of(torch.from_numpy(each.data).permute(0, 3, 1, 2), torch.tensor(each.targets))
        for each in both
    )
    return train, test


def _unpack_imagenet(root: Path) -> None:
    """Let torchvision unpack the archives of ILSVRC 2012 into ``train/`` and ``val/``."""
    datasets = _torchvision_datasets()
    try:
        for split in ("train", "val"):
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


def _is_image_folder(root: Path) -> bool:
    return bool(_folders_in(root / "train"))


def _folders_in(folder: Path) -> list[str]:
    """Their names in order, without hidden ones; none if there is no ``folder``."""
    try:
        entries = (each for each in folder.iterdir() if not each.name.startswith("."))
        return sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise DataError(
            f"cannot read {error.filename!r}: {error.strerror}; make it readable, or name another "
            "folder with --data DIR"
        ) from None


def _image_folder(settings: DataSettings, root: Path) -> tuple[Images, Images]:
    there = _folders_in(root)
    test = "test" if "test" in there else "val"
    for split in ("train", test):
        if split not in there:
            raise DataError(
                f"no folder {str(root / split)!r}; images are looked for in train/<class>/ and "
                "test/<class>/ (or val/<class>/) below it: name the right folder with --data DIR"
            )
    size = settings.image[1]
    train_images, train_classes = _image_tree(root / "train", size)
    test_images, test_classes = _image_tree(root / test, size)
    if train_classes != test_classes:
        odd = sorted(set(train_classes) ^ set(test_classes))
        raise DataError(
            f"{str(root)!r}: train and {test} have different classes ({', '.join(odd[:5])}); "
            "each class needs a folder in both"
        )
    return train_images, test_images


def _image_tree(folder: Path, size: int) -> tuple[Images, list[str]]:
    """Images below ``folder/<class>`` as (N, 3, size, size), decoded on the first read only."""
    classes = _folders_in(folder)
    _require_none_beside_classes(folder)
    found = [(label, path) for label, name in enumerate(classes) for path in _files(folder / name)]
    listing = [(label, path) for label, path in found if path.suffix.lower() in SUFFIXES]
    if not listing:
        raise DataError(f"no images in {str(folder)!r}; expected {folder.name}/<class>/*.jpg")
    empty = set(range(len(classes))) - {label for label, _ in listing}
    if empty:
        raise DataError(
            f"no images in {str(folder / classes[min(empty)])!r}; each class needs some, in files "
            f"that end in {', '.join(sorted(SUFFIXES))}"
        )
    labels = torch.tensor([label for label, _ in listing])
    paths = [path for _, path in listing]
    cached = _cache_folder() / f"{_listing_key(folder, paths, size)}.npy"
    if not cached.exists():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(cached, lambda temporary: _decode_all(paths, size, temporary))
        except OSError as error:
            raise DataError(
                f"cannot write decoded images to {str(cached)!r}: {error.strerror}; {_ELSEWHERE}"
            ) from None
    try:
        pixels = np.load(cached, mmap_mode="c")  # private pages: large sets stay on disk
    except (OSError, ValueError, EOFError):
        raise DataError(f"the cached copy {str(cached)!r} is corrupt; delete it") from None
    log.info("%s: %d images of %d classes", folder, len(listing), len(classes))
    others = Counter(path.suffix for _, path in found if path.suffix.lower() not in SUFFIXES)
    if others:
        named = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in others.items())
        log.info("%s: files left out: %s", folder, named)
    return Images.of(torch.from_numpy(pixels), labels), classes


def _files(folder: Path) -> list[Path]:
    """All below, in links to folders, too; hidden ones, which systems leave behind, are none."""
    below = os.walk(folder, followlinks=True)
    paths = (Path(place) / name for place, _, names in below for name in names)
    return sorted(path for path in paths if not path.name.startswith("."))


def _require_none_beside_classes(folder: Path) -> None:
    """Images or archives that lie in ``folder`` itself would be missed."""
    missed = sorted(
        path.name for path in folder.iterdir() if path.suffix.lower() in {*SUFFIXES, ".tar"}
    )
    if missed:
        raise DataError(
            f"{str(folder / missed[0])!r} lies beside the classes; move it into the folder of one, "
            f"or, if an unpacking broke off, delete {str(folder)!r} for it to begin anew"
        )


_ELSEWHERE = "name a folder for them by the environment variable XDG_CACHE_HOME"


def _cache_folder() -> Path:
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:
        raise DataError(f"no home folder to keep decoded images in; {_ELSEWHERE}") from None
    return cache / "mbnas" / "images"


def _listing_key(folder: Path, paths: list[Path], size: int) -> str:
    digest = hashlib.sha256(os.fsencode(folder.resolve()) + f" {size}".encode())
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"cannot read image {str(path)!r}: {error.strerror}") from None
        digest.update(os.fsencode(path.relative_to(folder)))
        digest.update(f" {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _decode_all(paths: list[Path], size: int, target: Path) -> None:
    with target.open("w+b") as file:  # np.memmap would append .npy to the temporary name
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), 3, size, size)}
        np.lib.format.write_array_header_2_0(file, header)
        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,
            bar(f"reading {paths[0].parent.parent}", len(paths)) as advance,
        ):
            for start in range(0, len(paths), 1024):  # or all would wait in memory for the disk
                for pixels in pool.map(lambda path: _decode(path, size), paths[start:][:1024]):
                    file.write(pixels.tobytes())
                    advance("")


def _decode(path: Path, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(3, size, size): the shorter side scaled to ``size``, then the centre."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(
                    f"image {str(path)!r} has more than 8 bits a channel; convert it to 8"
                )
            whole = image.convert("RGBA")  # or Pillow would warn of transparency in a palette
            fitted = ImageOps.fit(whole.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    except (
        *(OSError, UnidentifiedImageError, SyntaxError, ValueError),
        Image.DecompressionBombError,
    ):
        raise DataError(
            f"cannot read image {str(path)!r}; it is corrupt or far too large, replace it"
        ) from None
    return np.asarray(fitted, dtype=np.uint8).transpose(2, 0, 1)
