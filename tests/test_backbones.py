"""Tables: the architectures of the literature, and sizes that torch's own arithmetic confirms."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbnas import backbones
from mbnas.backbones import CIFAR_DEPTHS, NAMES, Backbone, Row
from mbnas.errors import SettingsError


def cifar(depth: int, width: int = 16) -> Backbone:
    return backbones.build(f"resnet{depth}", width=width, image=(3, 32, 32), classes=10)


def imagenet(width: int = 64) -> Backbone:
    return backbones.build("resnet18", width=width, image=(3, 224, 224), classes=1000)


@pytest.mark.parametrize("depth", CIFAR_DEPTHS)
def test_cifar_resnets_have_their_depth(depth: int) -> None:
    table = cifar(depth)
    assert len(table.rows) == depth
    assert len(table.searchable) == depth - 2
    assert len(table.blocks) == (depth - 2) // 2


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_cifar_resnets_have_the_published_parameters(depth: int, millions: float) -> None:
    """He et al. 2016, Table 6."""
    weights = sum(row.kernel**2 * row.in_channels * row.out_channels for row in cifar(depth).rows)
    assert round(weights / 1e6, 2) == millions


def test_resnet18_has_three_searchable_3x3_shortcuts() -> None:
    table = imagenet()
    shortcuts = [row for row in table.rows if row.role == "shortcut"]
    assert len(table.rows) == 18 + 3
    assert len(table.searchable) == 16 + 3
    assert [(row.kernel, row.stride) for row in shortcuts] == [(3, 2)] * 3
    assert all(row.searchable for row in shortcuts)


def test_stages_double_channels_and_halve_images() -> None:
    shapes = dict.fromkeys((row.out_channels, row.size) for row in imagenet().searchable)
    assert list(shapes) == [(64, 56), (128, 28), (256, 14), (512, 7)]
    shapes = dict.fromkeys((row.out_channels, row.size) for row in cifar(20).searchable)
    assert list(shapes) == [(16, 32), (32, 16), (64, 8)]


def test_only_stem_and_classifier_keep_full_precision() -> None:
    for table in (cifar(20), imagenet()):
        assert [row.searchable for row in table.rows] == [
            row not in (table.stem, table.classifier) for row in table.rows
        ]


@given(
    name=st.sampled_from([name for name in NAMES if name != "resnet110"]),
    width=st.integers(1, 4),
    side=st.integers(1, 65),
)
@settings(max_examples=30)
def test_sizes_are_what_padded_convolutions_leave(name: str, width: int, side: int) -> None:
    table = backbones.build(name, width=width, image=(3, side, side), classes=5)
    x = convolve(torch.zeros(3, side, side), table.stem)
    if table.stem_pool:
        x = F.max_pool2d(x, 3, stride=2, padding=1)
    for block in table.blocks:
        start = x
        for row in block:
            x = convolve(start if row.role == "shortcut" else x, row)
    assert x.shape[0] == table.classifier.in_channels


def convolve(x: Tensor, row: Row) -> Tensor:
    """Zeros pushed through the row; its channels and size must be what torch says."""
    weight = torch.zeros(row.out_channels, row.in_channels, row.kernel, row.kernel)
    out = F.conv2d(x[None], weight, stride=row.stride, padding=row.kernel // 2)[0]
    assert out.shape == (row.out_channels, row.size, row.size)
    return out


@pytest.mark.parametrize("name", NAMES)
def test_names_are_unique_and_listed(name: str) -> None:
    table = backbones.build(name, width=2, image=(1, 8, 8), classes=3)
    assert table.name == name
    assert len({row.name for row in table.rows}) == len(table.rows)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet200", "did you mean 'resnet20'"), ("vgg", "known: resnet8, .*resnet18")],
)
def test_unknown_backbone_is_explained(name: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown backbone '{name}'; .*{hint}"):
        backbones.build(name, width=16, image=(3, 32, 32), classes=10)
