"""Folders of images, one for each class: listed, decoded once, kept as one NumPy file."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from mbnas.errors import DataError
from mbnas.files import alone_in, at_home, write_atomically
from mbnas.images import Images
from mbnas.progress import bar, log

Shape = tuple[int, int, int]
"""Channels, height and width."""

SUFFIXES = {
    *(".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
}


def is_image_folder(root: Path) -> bool:
    """Whether there are classes below a folder of images for training or test."""
    return any(subfolders(root / split) for split in ("train", "test", "val"))


def subfolders(folder: Path) -> list[str]:
    """Their names in order, without hidden ones; none if there is no ``folder``."""
    with _readable():
        try:
            entries = (each for each in folder.iterdir() if not each.name.startswith("."))
            return sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []


@contextmanager
def _readable() -> Iterator[None]:
    """Inside, a folder that may not be read is a mistake of the user's."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename!r}: {error.strerror}; mend that, or name another folder "
            "with --data DIR"
        ) from None


def read(root: Path, image: Shape, *, train: bool) -> Images:
    """Training or test images, scaled to squares of ``image``'s size, grey or in colour.

    Training images are of use only where there are test images of the same classes.

    Raises:
        DataError: if a folder or an image is missing, corrupt, or beside the classes.
    """
    there = subfolders(root)
    test = "test" if subfolders(root / "test") or "val" not in there else "val"
    for split in ("train", test) if train else (test,):
        if split not in there:
            raise DataError(
                f"no folder {str(root / split)!r}; images are looked for in train/<class>/ and "
                "test/<class>/ (or val/<class>/) below it: name the right folder with --data DIR"
            )
        _require_none_beside_classes(root / split)  # before hours go into decoding the first
    odd = sorted(set(subfolders(root / "train")) ^ set(subfolders(root / test)))
    if train and odd:
        raise DataError(
            f"{str(root)!r}: train and {test} have different classes ({', '.join(odd[:5])}); "
            "each class needs a folder in both"
        )
    if not train and test == "test" and "val" in there:
        log.info("%s: left out, there are test images", root / "val")
    return _image_tree(root / ("train" if train else test), image)


def _image_tree(folder: Path, image: Shape) -> Images:
    """Images below ``folder/<class>`` as (N, *image), decoded on the first read only."""
    classes = subfolders(folder)
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
    cached = _cache_folder() / _listing_key(folder, paths, image) / "pixels.npy"
    if not cached.exists():
        try:
            _decode_once(paths, image, cached)
        except OSError as error:
            raise DataError(
                f"cannot write decoded images to {str(cached)!r}: {error.strerror}; {_ELSEWHERE}"
            ) from None
    pixels = _mapped(cached)
    log.info("%s: %d images of %d classes", folder, len(listing), len(classes))
    present = [*(path for _, path in found), *_beside_classes(folder)]
    others = Counter(path.suffix for path in present if path.suffix.lower() not in SUFFIXES)
    if others:
        named = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in others.items())
        log.info("%s: files left out: %s", folder, named)
    return Images.of(pixels, labels)


def _mapped(cached: Path) -> Tensor:
    """Decoded images where they lie on disk; nobody may write to them.

    Pages that may be written privately count as memory: Linux refuses more of them than it has.
    """
    try:
        pixels = np.load(cached, mmap_mode="r")
    except (ValueError, EOFError):
        raise DataError(f"the cached copy {str(cached)!r} is corrupt; delete it") from None
    except OSError as error:
        raise DataError(
            f"cannot read decoded images from {str(cached)!r}: {error.strerror}; {_ELSEWHERE}"
        ) from None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(pixels)


def _files(folder: Path) -> list[Path]:
    """All below, in links to folders, too; hidden ones, which systems leave behind, are none."""
    paths: list[Path] = []
    with _readable():
        for place, inner, names in os.walk(folder, onerror=_stop, followlinks=True):
            inner[:] = (name for name in inner if not name.startswith("."))
            paths += (Path(place) / name for name in names if not name.startswith("."))
    return sorted(paths)


def _stop(error: OSError) -> NoReturn:
    """Rather than go on without a folder that cannot be read."""
    raise error


def _require_none_beside_classes(folder: Path) -> None:
    """Images or archives that lie in ``folder`` itself would be missed."""
    beside = _beside_classes(folder)
    missed = sorted(path.name for path in beside if path.suffix.lower() in {*SUFFIXES, ".tar"})
    if missed:
        unpacked = missed[0].startswith("ILSVRC2012_") or missed[0].endswith(".tar")  # ImageNet
        advice = (
            "move it into the folder of its class, or, if an unpacking broke off and its archive "
            f"is still there, delete {str(folder)!r} for it to begin anew"
            if unpacked
            else "move it into the folder of one"
        )
        raise DataError(f"{str(folder / missed[0])!r} lies beside the classes; {advice}")


def _beside_classes(folder: Path) -> list[Path]:
    """Files in ``folder`` itself, but for hidden ones."""
    with _readable():
        inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
        return [path for path in inside if not path.is_dir()]


_ELSEWHERE = "name a folder for decoded images by the environment variable XDG_CACHE_HOME"


def _cache_folder() -> Path:
    return at_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache", _ELSEWHERE) / "mbnas" / "images"


def _listing_key(folder: Path, paths: list[Path], image: Shape) -> str:
    """Of what decides the pixels: which files, as they are now, and who decodes them how."""
    digest = hashlib.sha256(
        os.fsencode(folder.resolve()) + f" {image} {version('pillow')}".encode()
    )
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"cannot read image {str(path)!r}: {error.strerror}") from None
        digest.update(os.fsencode(path.relative_to(folder)))
        digest.update(f" {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _decode_once(paths: list[Path], image: Shape, cached: Path) -> None:
    """Fill the folder of the cached copy, unless another process does so first.

    It is closed to all but its owner: who can reach the cache need not be who may see the images.
    """
    cached.parent.parent.mkdir(parents=True, exist_ok=True)
    cached.parent.mkdir(mode=0o700, exist_ok=True)
    with alone_in(cached.parent, wait=True) as certain:
        if cached.exists():
            return
        if certain:
            for half in cached.parent.iterdir():  # that a kill left, of as many bytes as the whole
                half.unlink()
        write_atomically(cached, lambda temporary: _decode_all(paths, image, temporary))


def _decode_all(paths: list[Path], image: Shape, target: Path) -> None:
    with target.open("w+b") as file:  # np.memmap would append .npy to the temporary name
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), *image)}
        np.lib.format.write_array_header_2_0(file, header)
        mistakes: list[str] = []

        def decoded(path: Path) -> bytes:
            try:
                return _decode(path, image).tobytes()
            except DataError as mistake:
                mistakes.append(str(mistake))
                return b""

        with (
            ThreadPoolExecutor(os.cpu_count()) as pool,
            bar(f"reading {paths[0].parent.parent}", len(paths)) as advance,
        ):
            for start in range(0, len(paths), 1024):  # or all would wait in memory for the disk
                for pixels in pool.map(decoded, paths[start:][:1024]):
                    file.write(pixels)
                    advance("")
    if mistakes:  # all of them: to decode a large folder anew for each takes long
        shown = sorted(mistakes)[:5]
        others = len(mistakes) - len(shown)
        raise DataError("; ".join(shown) + (f"; and {others} others" if others else ""))


def _decode(path: Path, image: Shape) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """As ``image``, (channels, height, width): the shorter side scaled to it, then the centre."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415

    channels, height, width = image
    try:
        with Image.open(path) as opened:
            if opened.mode.startswith(("I", "F")):
                raise DataError(
                    f"image {str(path)!r} has more than 8 bits a channel; convert it to 8"
                )
            whole: Image.Image = opened
            if "transparency" in opened.info:  # of which Pillow would warn in a palette
                whole = opened.convert("RGBA")
            mode = "L" if channels == 1 else "RGB"
            fitted = ImageOps.fit(whole.convert(mode), (width, height), Image.Resampling.BILINEAR)
    except (
        *(OSError, UnidentifiedImageError, SyntaxError, ValueError),
        Image.DecompressionBombError,
    ):
        raise DataError(
            f"cannot read image {str(path)!r}; it is corrupt or far too large, replace it"
        ) from None
    return np.asarray(fitted, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
