"""Images in memory: selections, batches, epochs and augmentation."""

import re
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mbnas.errors import DataError, SettingsError
from mbnas.images import Images, augment
from mbnas.randomness import generator

SEEDS = st.integers(0, 2**32)
COUNTS = st.integers(1, 20)
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


def images(count: int) -> Images:
    """Image number i is labelled i, and every one of its pixels holds i."""
    labels = torch.arange(count)
    return Images.of(labels.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 2, 3, 3), labels)


def belong(x: Tensor, y: Tensor) -> bool:
    """Whether these are the floats in [0, 1] of the images with these labels."""
    return torch.equal(x, (y / 255).view(-1, 1, 1, 1).expand(len(y), 2, 3, 3))


@given(count=st.integers(1, 256), size=st.integers(1, 300))
def test_batches_hold_every_image_once_in_order(count: int, size: int) -> None:
    batches = list(images(count).batches(size))
    assert torch.equal(torch.cat([y for _, y in batches]), torch.arange(count))
    assert all(len(y) == size for _, y in batches[:-1])
    assert all(belong(x, y) for x, y in batches)


@given(count=COUNTS, size=st.integers(1, 25), seed=SEEDS)
def test_an_epoch_visits_images_once_and_leaves_out_an_incomplete_batch(
    count: int, size: int, seed: int
) -> None:
    selection = images(count)
    epoch = list(selection.shuffled(size, shift=0, flip=False, rng=generator(seed)))
    visited = torch.cat([y for _, y in epoch]).tolist()
    assert len(visited) == len(set(visited)) == (count // size * size or count)
    assert {len(y) for _, y in epoch} == {min(size, count)}
    assert all(belong(x, y) for x, y in epoch)


def test_floats_are_kept_as_they_are() -> None:
    stored = images(10)
    x, y = stored.gather(slice(None))
    same_x, same_y = Images.of(x, y).gather(torch.arange(10))
    assert torch.equal(x, same_x)
    assert torch.equal(y, same_y)


@pytest.mark.parametrize(
    ("pixels", "labels"), [((4, 1, 2, 2), 3), ((4, 1, 2, 2), 5), ((4, 2, 2), 4), ((4,), 4)]
)
def test_images_need_one_label_each(pixels: tuple[int, ...], labels: int) -> None:
    message = re.escape(f"images {pixels} and labels ({labels},) do not fit; give (n, C, H, W)")
    with pytest.raises(DataError, match=message):
        Images.of(torch.zeros(pixels), torch.arange(labels))


def test_labels_are_whole_numbers() -> None:
    with pytest.raises(DataError, match=r"labels are torch\.float32; give whole numbers"):
        Images.of(torch.zeros(4, 1, 2, 2), torch.zeros(4))


def test_the_generator_decides_order_and_augmentation() -> None:
    def epoch(seed: int) -> Tensor:
        batches = images(200).shuffled(64, shift=1, flip=True, rng=generator(seed))
        return torch.cat([x for x, _ in batches])

    torch.manual_seed(1)
    first = epoch(0)
    torch.manual_seed(2)
    assert torch.equal(epoch(0), first)
    assert not torch.equal(epoch(1), first)


@given(data=st.data(), count=COUNTS)
def test_selections_compose(data: st.DataObject, count: int) -> None:
    def indices(length: int) -> Tensor:
        return torch.tensor(data.draw(st.lists(st.integers(0, length - 1), min_size=1)))

    outer = indices(count)
    inner = indices(len(outer))
    x, y = images(count).take(outer).take(inner).gather(slice(None))
    assert torch.equal(y, outer[inner])
    assert belong(x, y)


@given(chosen=st.permutations(range(6)), count=st.none() | st.integers(1, 8))
def test_a_dense_selection_is_the_same_selection(chosen: list[int], count: int | None) -> None:
    selection = images(6).take(torch.tensor(chosen)).first(count)
    dense = selection.dense()
    x, y = dense.gather(slice(None))
    assert y.tolist() == selection.labels.tolist() == chosen[:count]
    assert len(dense) == len(dense.pixels) == len(selection)
    assert belong(x, y)


def test_only_a_selection_that_lies_elsewhere_is_copied() -> None:
    selection, elsewhere = images(6).take(torch.tensor([4, 2])), torch.device("meta")
    assert selection.to(torch.device("cpu")) is selection
    moved = selection.to(elsewhere)
    assert moved.pixels.device == moved.labels.device == elsewhere
    assert len(moved) == len(moved.pixels) == 2


@pytest.mark.parametrize(("more", "fits"), [(0, True), (-1, False)])
def test_a_selection_is_stored_on_a_device_if_it_fills_half_its_room_at_most(
    more: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, selection = images(64), images(64).take(torch.arange(10))
    room = 2 * 10 * stored.pixels[0].nbytes + more
    monkeypatch.setattr("mbnas.images._room", lambda _device: room)
    moved = selection.to(torch.device("meta"))
    assert len(moved.pixels) == (10 if fits else 64)  # or all stay where they are


def test_a_selection_that_is_moved_in_slices_arrives_in_order() -> None:
    chosen = torch.randperm(10_000, generator=generator(0))[:9_000]
    stored = Images.of(torch.arange(10_000).view(-1, 1, 1, 1).float(), torch.arange(10_000))
    moved = stored.take(chosen).to(torch.device("cpu", 0))  # not equal to where they lie
    assert torch.equal(moved.pixels.flatten(), chosen.float())
    assert torch.equal(moved.labels, chosen)


def variants(image: Tensor, shift: int, flip: bool) -> set[tuple[float, ...]]:
    """All crops of the padded image (C, H, W), and with ``flip`` their mirror images."""
    _, height, width = image.shape
    padded = F.pad(image, (shift,) * 4)
    crops = [
        padded[:, top : top + height, left : left + width]
        for top, left in product(range(2 * shift + 1), repeat=2)
    ]
    mirrored = [crop.flip(-1) for crop in crops] if flip else []
    return {tuple(each.flatten().tolist()) for each in (*crops, *mirrored)}


@given(shape=SHAPES, shift=st.integers(0, 3), flip=st.booleans(), seed=SEEDS)
def test_an_augmented_image_is_a_crop_of_the_padded_one_or_its_mirror(
    *, shape: tuple[int, int, int, int], shift: int, flip: bool, seed: int
) -> None:
    x = torch.rand(shape, generator=generator(seed))
    augmented = augment(x, shift=shift, flip=flip, rng=generator(seed))
    for before, after in zip(x, augmented, strict=True):
        assert tuple(after.flatten().tolist()) in variants(before, shift, flip)


@pytest.mark.parametrize(("shift", "flip", "count"), [(1, False, 9), (0, True, 2), (2, True, 50)])
def test_every_crop_and_mirror_occurs_equally_often(shift: int, flip: bool, count: int) -> None:
    image = torch.arange(1.0, 10).view(1, 3, 3)
    many = image.repeat(400 * count, 1, 1, 1)
    _, occurrences = (
        augment(many, shift=shift, flip=flip, rng=generator(0))
        .flatten(1)
        .unique(dim=0, return_counts=True)
    )
    assert len(occurrences) == len(variants(image, shift, flip)) == count
    assert occurrences.min() > 300
    assert occurrences.max() < 500


def test_fewer_images_than_none_are_refused() -> None:
    assert len(images(6).first(0)) == 0
    with pytest.raises(SettingsError, match="the first -1 images are none; give 0 or more"):
        images(6).first(-1)


@pytest.mark.parametrize("size", [1, 3, 64, 100])
def test_images_that_do_not_fit_the_device_arrive_there_all_the_same(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbnas.images._room", lambda _device: 100.0)
    elsewhere = torch.device("cpu", 0)  # not equal to the device the images are on
    stored = images(64)
    streamed = stored.to(elsewhere)
    assert streamed.device == elsewhere
    assert streamed.pixels is stored.pixels
    assert streamed.first(2).to(elsewhere).device == elsewhere

    def epoch(selection: Images) -> list[tuple[Tensor, Tensor]]:
        rng = generator(7)
        shuffled = selection.shuffled(size, shift=1, flip=True, rng=rng)
        return [*shuffled, *selection.batches(size)]

    for (x, y), (expected_x, expected_y) in zip(epoch(streamed), epoch(stored), strict=True):
        assert torch.equal(x, expected_x)
        assert torch.equal(y, expected_y)
