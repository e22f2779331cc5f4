"""Data sets: splits by seed, folders and their cache, fingerprints, and what is refused."""

import errno
import logging
import os
import pickle
import re
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from mbnas import folders
from mbnas.data import Data, _torchvision_datasets, load, load_test
from mbnas.errors import DataError
from mbnas.images import Images
from mbnas.settings import DataSettings

SIZE = 4


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Decoded images go here and nowhere else."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def noise(count: int, side: int = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), np.uint8)


CENTRE, GREY = noise(1)[0], np.full((3, SIZE, SIZE), 77)


def draw(pixels: np.ndarray, path: Path) -> None:
    """Write (3, H, W) or (1, H, W) as a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels.astype(np.uint8)
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes with three training and two test images each, pixels as of :func:`noise`."""
    pixels = iter(noise(10))
    for split, count in (("train", 3), ("test", 2)):
        for name, number in product(("cat", "dog"), range(count)):
            draw(next(pixels), tmp_path / "images" / split / name / f"{number}.png")
    return tmp_path / "images"


def digits(seed: int = 0, train_images: int | None = None) -> Data:
    return load(DataSettings(name="digits", validation=300, train_images=train_images), seed)


def folder(root: Path, /, **changes: object) -> Data:
    known = {"name": "folder", "image_size": SIZE, "classes": 2, "validation": 2}
    return load(DataSettings.model_validate(known | {"root": root} | changes), seed=0)


def complaint(root: Path, /, **changes: object) -> str:
    """The line a user sees."""
    with pytest.raises(DataError) as caught:
        folder(root, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def positions(*splits: Images) -> list[int]:
    return torch.cat([split.positions for split in splits]).tolist()


# Splits


def test_splits_are_disjoint_and_cover_everything() -> None:
    data = digits()
    assert sorted(positions(data.train, data.validation, data.test)) == list(range(1797))
    assert (len(data.validation), len(data.test)) == (300, 1797 // 5)
    for split in (data.train, data.validation, data.test):
        x, y = split.gather(slice(None))
        assert (*x.shape[1:], x.min(), x.max()) == (1, 8, 8, 0, 1)
        assert set(y.tolist()) == set(range(10))


def test_splits_depend_on_the_seed_only() -> None:
    torch.manual_seed(1)
    first = digits(seed=7)
    torch.manual_seed(2)
    again, other = digits(seed=7), digits(seed=8)
    assert positions(first.train) == positions(again.train)
    assert first.held_out == again.held_out
    assert set(first.held_out) != set(other.held_out)
    assert positions(first.test) == positions(other.test)


def test_fewer_training_images_leave_the_other_splits_alone() -> None:
    everything, some = digits(), digits(train_images=100)
    assert positions(some.train) == positions(everything.train)[:100]
    assert positions(some.validation, some.test) == positions(
        everything.validation, everything.test
    )


def test_the_first_test_images_are_a_fair_sample_and_always_the_same(tmp_path: Path) -> None:
    pixels = iter(noise(124))
    for split, count in (("train", 2), ("test", 60)):
        for name, number in product(("cat", "dog"), range(count)):
            draw(next(pixels), tmp_path / split / name / f"{number}.png")
    settings = DataSettings(name="folder", root=tmp_path, image_size=4, classes=2, validation=2)
    first, again = (load(settings, seed).test.first(30) for seed in (0, 1))
    assert 5 <= int(first.labels.sum()) <= 25
    assert torch.equal(first.gather(slice(None))[0], again.gather(slice(None))[0])


def test_statistics_are_those_of_the_training_images(root: Path) -> None:
    data = folder(root)
    x = data.train.pixels[data.train.positions].numpy() / 255
    mean, std = data.statistics()
    assert mean.tolist() == pytest.approx(x.mean((0, 2, 3)), rel=1e-5)
    assert std.tolist() == pytest.approx(x.std((0, 2, 3), ddof=1), rel=1e-5)


# Folders of images


def test_a_channel_that_never_varies_can_be_standardised(root: Path) -> None:
    for path in root.rglob("*.png"):
        pixels = np.array(Image.open(path))
        pixels[..., 0] = 0
        Image.fromarray(pixels).save(path)
    mean, deviation = folder(root).statistics()
    assert (mean[0], deviation[0]) == (0, 1)
    assert (deviation[1:] < 1).all()


def test_a_folder_gives_its_pixels_and_the_labels_of_its_classes(root: Path) -> None:
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / "README").write_text("no class")
    data, pixels = folder(root), torch.from_numpy(noise(10))
    assert positions(data.validation) == list(data.held_out)
    assert sorted(positions(data.train, data.validation)) == list(range(6))
    assert torch.equal(data.train.pixels, pixels[:6])
    assert data.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(data.test.pixels, pixels[6:])
    assert data.test.targets.tolist() == [0, 0, 1, 1]


def test_images_lie_below_links_and_what_is_left_out_is_said(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, cat = folder(root).fingerprint(), root / "train" / "cat"
    (root / "elsewhere").mkdir()
    (cat / "0.png").rename(root / "elsewhere" / "0.png")
    (cat / "0").symlink_to(root / "elsewhere")
    for name in ("._0.png", "notes.txt", "1.HEIC", "2.HEIC"):
        (cat / name).write_text("no image")
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "readme.txt").write_text("beside the classes")
    caplog.clear()
    with caplog.at_level(logging.INFO, "mbnas"):
        assert folder(root).fingerprint() == before
    told = "\n".join(caplog.messages)
    assert f"{root / 'train'}: 6 images of 2 classes" in told
    assert re.search(r"train: files left out: .*2 \.HEIC", told)
    assert re.search(r"train: files left out: .*2 \.txt", told)
    assert f"{root / 'test'}: files left out" not in told


def test_hidden_folders_below_a_class_hold_no_images(root: Path) -> None:
    before, cat = folder(root).fingerprint(), root / "train" / "cat"
    draw(noise(1)[0], cat / ".ipynb_checkpoints" / "0-checkpoint.png")
    draw(noise(1)[0], cat / "0" / ".thumbnails" / "0.png")
    assert folder(root).fingerprint() == before


def test_a_folder_that_cannot_be_read_is_not_left_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, scandir = root / "train" / "cat" / "more", os.scandir
    draw(noise(1)[0], inner / "0.png")

    def guarded(place: str) -> object:
        if Path(place) == inner:
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", guarded)  # root may read everything
    assert complaint(root).startswith(f"cannot read '{inner}': Permission denied; mend that")


def test_a_folder_may_be_read_as_grey(root: Path) -> None:
    colour, grey = folder(root), folder(root, channels=1)
    assert grey.test.pixels.shape == (4, 1, SIZE, SIZE)
    weights = torch.tensor([0.299, 0.587, 0.114])  # ITU-R 601-2, as Pillow converts
    luma = (colour.test.pixels * weights[:, None, None]).sum(dim=1, keepdim=True)
    assert (luma - grey.test.pixels).abs().max() <= 1
    assert torch.equal(folder(root).test.pixels, colour.test.pixels)  # each has its own cache


def test_test_images_that_are_training_images_are_told(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder(root)
    assert "training images, too" not in caplog.text
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")
    folder(root)
    assert "6 of 6 test images are training images, too" in caplog.text


def test_validation_images_beside_test_images_are_left_out_and_it_is_said(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = f"{root / 'val'}: left out, there are test images"
    with caplog.at_level(logging.INFO, "mbnas"):
        before = folder(root).fingerprint()
        assert said not in caplog.messages
        shutil.copytree(root / "test", root / "val")
        assert folder(root).fingerprint() == before
    assert caplog.messages.count(said) == 1


def test_decoded_images_are_their_owners_alone(root: Path, cache: Path) -> None:
    folder(root)
    kept = [path.parent for path in cache.rglob("*.npy")]
    assert kept
    assert all(path.stat().st_mode & 0o077 == 0 for path in kept)


def test_test_images_without_classes_give_way_to_validation_images(root: Path) -> None:
    """As of ImageNet, whose test images have no labels."""
    before = folder(root).fingerprint()
    (root / "test").rename(root / "val")
    draw(noise(1)[0], root / "test" / "ILSVRC2012_test_00000001.png")
    assert folder(root).fingerprint() == before


def test_training_images_that_a_space_leaves_out_are_counted(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "mbnas"):
        assert len(folder(root, validation=1, train_images=3).train) == 3
    assert "data.train_images leaves out 2 of 5 images" in caplog.messages


def test_a_palette_with_transparency_is_a_picture_like_others(root: Path) -> None:
    file = root / "train" / "cat" / "0.png"
    Image.open(file).quantize(256).save(file, transparency=bytes(range(16)))
    assert torch.equal(folder(root).train.pixels, torch.from_numpy(noise(10)[:6]))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet"])
def test_a_folder_of_images_is_read_as_such_under_every_name(root: Path, name: str) -> None:
    assert folder(root, name=name).fingerprint() == folder(root).fingerprint()


def test_test_images_may_lie_in_val(root: Path) -> None:
    before = folder(root).fingerprint()
    (root / "test").rename(root / "val")
    assert folder(root).fingerprint() == before


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (np.pad(CENTRE, ((0, 0), (0, 0), (4, 4))), CENTRE),
        (np.pad(CENTRE, ((0, 0), (4, 4), (0, 0))), CENTRE),
        (CENTRE[:1], CENTRE[[0, 0, 0]]),
        *((np.full((3, *shape), 77), GREY) for shape in ((2, 2), (16, 16), (7, 5), (1, 9))),
    ],
    ids=["wide", "high", "one channel", "smaller", "larger", "oblong", "thin"],
)
def test_pictures_are_fitted_by_their_centre(
    root: Path, picture: np.ndarray, expected: np.ndarray
) -> None:
    draw(picture, root / "test" / "cat" / "0.png")
    assert folder(root).test.pixels[0].tolist() == expected.tolist()


# Their cache


def test_the_second_read_decodes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = folder(root).fingerprint()
    monkeypatch.delattr(Image, "open")
    assert folder(root).fingerprint() == first


def test_changed_and_new_files_are_read(root: Path) -> None:
    folder(root)
    path, pixels = root / "test" / "dog" / "1.png", noise(1, seed=1)[0]
    before = path.stat().st_mtime_ns
    draw(pixels, path)
    os.utime(path, ns=(before + 1, before + 1))
    assert torch.equal(folder(root).test.pixels[3], torch.from_numpy(pixels))
    draw(pixels, path.with_name("2.png"))
    assert folder(root).test.targets.tolist() == [0, 0, 1, 1, 1]


def test_a_folder_is_decoded_once_however_it_is_written(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    assert folder(root).fingerprint() == folder(Path(root.name)).fingerprint()
    assert len(list(cache.rglob("*.npy"))) == 2  # of training and of test images


def test_halves_that_a_kill_left_are_cleared(root: Path, cache: Path) -> None:
    folder(root)
    for file in cache.rglob("*.npy"):
        file.rename(file.with_name(f".{file.name}.0123.partial"))
    folder(root)
    assert {file.name for file in cache.rglob("*") if file.is_file()} == {"pixels.npy"}


def test_who_comes_while_a_folder_is_decoded_waits_for_that(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl", reason="only POSIX systems lock folders")
    first, opened = threading.Event(), Mock(wraps=Image.open)

    def slowly(path: Path) -> Image.Image:
        first.set()
        time.sleep(0.01)
        return opened(path)

    monkeypatch.setattr(Image, "open", slowly)
    with ThreadPoolExecutor() as pool:
        one = pool.submit(folder, root)
        first.wait(timeout=60)
        assert folder(root).fingerprint() == one.result().fingerprint()
    assert opened.call_count == 10


def test_names_need_not_be_utf_8(root: Path) -> None:
    path = root / "test" / "dog" / "1.png"
    try:
        path.rename(os.fsdecode(os.fsencode(path.parent) + b"/caf\xe9.png"))
    except OSError:
        pytest.skip("this file system has no such names")
    assert len(folder(root).test) == 4


def test_a_cache_that_cannot_be_kept_names_the_way_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "train" / "cat" / "0.png"))
    assert re.search("Not a directory; name a folder .* XDG_CACHE_HOME", complaint(root))
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # as if it were not set
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # nobody's home
    assert re.search("no home folder .*; name a folder .* XDG_CACHE_HOME", complaint(root))


def test_a_name_that_changes_the_order_is_noticed_though_no_file_was_written(
    tmp_path: Path,
) -> None:
    for split, name, number in product(("train", "test"), ("cat", "dog"), range(2)):
        path = tmp_path / split / name / f"{number}.bmp"  # all of one size
        draw(np.full((3, SIZE, SIZE), 100 * number + 50), path)
        os.utime(path, (0, 0))
    first, cat = folder(tmp_path, validation=1), tmp_path / "test" / "cat"
    (cat / "0.bmp").rename(cat / "2.bmp")
    again = folder(tmp_path, validation=1)
    assert sorted(first.test.pixels[:2, 0, 0, 0].tolist()) == [50, 150]
    assert torch.equal(again.test.pixels[:2], first.test.pixels[:2].flip(0))


def test_each_size_has_a_cache_of_its_own(root: Path) -> None:
    assert [folder(root, image_size=size).test.pixels.shape[-1] for size in (4, 2, 4)] == [4, 2, 4]


def test_decoded_images_may_be_larger_than_memory(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shape = (1 << 20, 2 * memory // (1 << 20))
    cached = tmp_path / "pixels.npy"
    with cached.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        file.truncate(file.tell() + shape[0] * shape[1])  # takes no room on the disk
    pixels = folders._mapped(cached)
    assert tuple(pixels.shape) == shape
    assert pixels[-1].sum() == 0


def test_a_cache_that_cannot_be_read_is_not_called_corrupt(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read decoded images .*No such file.*XDG_CACHE"):
        folders._mapped(tmp_path / "pixels.npy")


@pytest.mark.parametrize(
    "spoil", [lambda whole: whole[:-1], lambda _: b"neither this nor that", lambda _: b""]
)
def test_a_corrupt_cache_is_named_and_may_be_deleted(
    root: Path, cache: Path, spoil: Callable[[bytes], bytes]
) -> None:
    first = folder(root).fingerprint()
    for file in cache.rglob("*.npy"):
        file.write_bytes(spoil(file.read_bytes()))
    message = complaint(root)
    assert "corrupt; delete it" in message
    assert any(repr(str(file)) in message for file in cache.rglob("*.npy"))
    shutil.rmtree(cache)
    assert folder(root).fingerprint() == first


def test_a_folder_that_links_to_itself_is_explained(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert "Too many levels of symbolic links" in complaint(tmp_path / "loop")


# The fingerprint


def fingerprint(labels: list[int], pixels: np.ndarray, count: int | None = None) -> str:
    split = Images.of(torch.from_numpy(pixels), torch.tensor(labels)).first(count)
    return Data(split, split, split, ()).fingerprint()


@pytest.mark.parametrize("position", range(3))
def test_every_label_and_image_changes_the_fingerprint(position: int) -> None:
    labels, pixels = [0, 1, 2], noise(3)
    relabelled, repainted = labels.copy(), pixels.copy()
    relabelled[position] += 1
    repainted[position, 0, 0, 0] ^= 1
    known = fingerprint(labels, pixels)
    assert known == fingerprint(labels.copy(), pixels.copy())
    assert known != fingerprint(relabelled, pixels)
    assert known != fingerprint(labels, repainted)
    assert known != fingerprint(labels, pixels, count=2)


def test_neither_place_nor_storage_changes_the_fingerprint(root: Path) -> None:
    data, other = folder(root), folder(root.rename(root.with_name("elsewhere")))
    dense = Data(data.train.dense(), data.validation.dense(), data.test.dense(), data.held_out)
    assert data.fingerprint() == other.fingerprint() == dense.fingerprint()


def test_another_split_has_another_fingerprint() -> None:
    assert digits(seed=0).fingerprint() != digits(seed=1).fingerprint()


# What is refused


def remove(*names: str) -> Callable[[Path], None]:
    return lambda root: shutil.rmtree(root.joinpath(*names))


def keep(root: Path) -> None:
    """Spoil nothing."""


def empty(root: Path) -> None:
    for path in (root / "train").rglob("*.png"):
        path.unlink()


def foreign(root: Path) -> None:
    for path in (root / "train" / "cat").iterdir():
        path.rename(path.with_suffix(".heic"))


def dangle(root: Path) -> None:
    (root / "train" / "cat" / "9.png").symlink_to("nowhere")


def deepen(root: Path) -> None:
    deep = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) * 999
    Image.fromarray(deep).save(root / "train" / "cat" / "0.png")


def loosen(root: Path) -> None:
    (root / "test" / "cat" / "0.png").rename(root / "test" / "0.png")


def unpack(root: Path) -> None:
    (root / "test" / "cat.tar").touch()


def scatter(root: Path) -> None:
    (root / "test" / "cat" / "0.png").rename(root / "test" / "ILSVRC2012_val_00000001.JPEG")


def single(root: Path) -> None:
    for split in ("train", "test"):
        shutil.rmtree(root / split / "cat")


def rename(root: Path) -> None:
    (root / "test" / "cat").rename(root / "test" / "lynx")


@pytest.mark.parametrize(
    ("spoil", "changes", "expected"),
    [
        (remove(), {}, "no folder '{root}/train'; images are looked for in train/<class>/ and"),
        (remove("train"), {}, "no folder '{root}/train'; images are looked for in train/<class>/"),
        (remove("test"), {}, "test/<class>/ (or val/<class>/) below it: name the right folder"),
        (empty, {}, "no images in '{root}/train'; expected train/<class>"),
        (
            foreign,
            {},
            "no images in '{root}/train/cat'; each class needs some, in files that end in",
        ),
        (dangle, {}, "cannot read image '{root}/train/cat/9.png': No such file"),
        (deepen, {}, "image '{root}/train/cat/0.png' has more than 8 bits a channel"),
        (loosen, {}, "'{root}/test/0.png' lies beside the classes; move it into the folder of one"),
        (unpack, {}, "'{root}/test/cat.tar' lies beside the classes; move it into the folder"),
        (scatter, {}, "broke off and its archive is still there, delete '{root}/test'"),
        (single, {}, "data 'folder' has a single class; give two or more to tell apart"),
        (rename, {}, "'{root}': train and test have different classes (cat, lynx)"),
        (keep, {"root": None}, "needs a folder; give --data DIR"),
        (keep, {"classes": 3}, "has 2 classes, the space says 3; set data.classes=2"),
        (keep, {"validation": 6}, "data.validation=6 leaves none of the 6 training images"),
        (keep, {"validation": 7}, "data.validation=7 leaves none of the 6 training images"),
        (remove(), {"name": "imagenet"}, "no ImageNet in '{root}'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    root: Path, spoil: Callable[[Path], None], changes: dict[str, object], expected: str
) -> None:
    spoil(root)
    assert expected.format(root=root) in complaint(root, **changes)


@pytest.mark.parametrize("spoil", [lambda whole: whole[: len(whole) // 2], lambda _: b""])
def test_a_corrupt_image_is_named_and_leaves_no_cache(
    root: Path, cache: Path, spoil: Callable[[bytes], bytes]
) -> None:
    path = root / "train" / "dog" / "1.png"
    path.write_bytes(spoil(path.read_bytes()))
    assert f"{str(path)!r}; it is corrupt" in complaint(root)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_corrupt_images_are_named_together(root: Path) -> None:
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"")
    message = complaint(root)
    named = [part for part in message.split("; ") if part.startswith("cannot read image ")]
    assert len(set(named)) == 5
    assert message.endswith("; and 1 others")


def test_of_imagenet_no_more_is_unpacked_than_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[str] = []

    def unpack(root: Path, split: str) -> None:
        unpacked.append(split)
        for name, pixels in zip(("cat", "dog"), noise(2), strict=True):
            draw(pixels, root / split / name / "0.png")

    monkeypatch.setattr(_torchvision_datasets(), "ImageNet", unpack)
    known = {"name": "imagenet", "image_size": SIZE, "classes": 2, "validation": 1}
    alone = DataSettings.model_validate(known | {"root": tmp_path / "alone"})
    assert len(load_test(alone)) == 2
    assert unpacked == ["val"]
    assert len(folder(tmp_path / "all", name="imagenet", validation=1).test) == 2
    assert unpacked == ["val", "train", "val"]


def test_only_folders_are_scaled() -> None:
    with pytest.raises(DataError, match=r"are 1x8x8 .* say 1x4x4; only folders"):
        load(DataSettings(name="digits", image_size=4, validation=300), seed=0)
    with pytest.raises(DataError, match=r"data\.channels and .* say 3x8x8; only"):
        load(DataSettings(name="digits", channels=3, validation=300), seed=0)


# Torchvision's own files


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision read files whose checksums are not CIFAR-10's, and download nothing."""
    dataset = _torchvision_datasets().CIFAR10

    def download(self: object) -> None:
        if not dataset._check_integrity(self):
            raise URLError("no network")

    monkeypatch.setattr(dataset, "train_list", [["data_batch_1", None], ["data_batch_2", None]])
    monkeypatch.setattr(dataset, "test_list", [["test_batch", None]])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": None})
    monkeypatch.setattr(dataset, "download", download)


@pytest.mark.usefixtures("unchecked")
def test_torchvisions_own_files_are_read(tmp_path: Path) -> None:
    pixels, labels = noise(30, side=32), list(range(10)) * 3
    files = tmp_path / "cifar-10-batches-py"
    contents: dict[str, object] = {"batches.meta": {"label_names": list("abcdefghij")}}
    for number, name in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        part = slice(10 * number, 10 * number + 10)
        contents[name] = {"data": pixels[part].reshape(10, -1), "labels": labels[part]}
    files.mkdir()
    for name, content in contents.items():
        (files / name).write_bytes(pickle.dumps(content))
    data = folder(tmp_path, name="cifar10", image_size=32, classes=10)
    assert torch.equal(data.train.pixels, torch.from_numpy(pixels[:20]))
    assert torch.equal(data.test.pixels, torch.from_numpy(pixels[20:]))
    assert data.train.targets.tolist() + data.test.targets.tolist() == labels


@pytest.mark.parametrize("name", ["folder", "cifar10", "imagenet"])
def test_test_images_can_be_read_alone(root: Path, name: str) -> None:
    asked = {"name": name, "image_size": SIZE, "classes": 2, "validation": 2, "root": root}
    settings = DataSettings.model_validate(asked)
    known = load(settings, seed=0).test
    shutil.rmtree(root / "train")
    alone = load_test(settings)
    for found, expected in zip(alone.gather(slice(None)), known.gather(slice(None)), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.usefixtures("unchecked")
def test_cifar_that_is_neither_here_nor_to_be_had_is_explained(tmp_path: Path) -> None:
    message = complaint(tmp_path, name="cifar10", image_size=32, classes=10)
    assert f"cifar10 is neither in {str(tmp_path)!r} nor can it be downloaded" in message
    assert "no network" in message
