"""Networks: shapes, shortcuts, standardisation, gradients everywhere, and frozen copies."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import same, scrambled
from torch import Tensor, nn

from mbnas import backbones
from mbnas.assignment import Assignment
from mbnas.backbones import Backbone, Row
from mbnas.errors import DataError
from mbnas.formats import Format
from mbnas.networks import Network, build_network, freeze, multibit, take_over
from mbnas.randomness import seeded
from mbnas.settings import Surrogate

RESNET8 = backbones.build("resnet8", width=4, image=(3, 16, 16), classes=5)
RESNET18 = backbones.build("resnet18", width=2, image=(3, 64, 64), classes=7)
RESNET20 = backbones.build("resnet20", width=4, image=(3, 32, 32), classes=10)
BENT = replace(RESNET8, name="resnet8 with PReLU", prelu=True)
TABLES = pytest.mark.parametrize(
    "table", [RESNET8, RESNET18, RESNET20, BENT], ids=lambda table: table.name
)
MIXED = Assignment.parse("3x1,1x3,2x2,1x1,1x2,5x1", 6)


def images(table: Backbone, count: int = 4) -> Tensor:
    return torch.rand(count, *table.image)


@TABLES
def test_images_become_one_logit_per_class(table: Backbone) -> None:
    network = multibit(table, Assignment.uniform(2, 1, len(table.searchable)))
    assert network(images(table)).shape == (4, table.classes)


@pytest.mark.parametrize(
    "wrong",
    [torch.rand(4, 1, 8, 8), torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.rand(3, 8, 8)],
    ids=["grey", "bytes", "one image"],
)
def test_images_of_another_kind_are_refused(wrong: Tensor) -> None:
    """Standardisation would repeat a single channel three times, and take 255 for white."""
    network = multibit(RESNET8, Assignment.uniform(1, 1, 6))
    with pytest.raises(DataError, match=r"do not fit; give \(B, 3, H, W\) as floats in \[0, 1\]"):
        network(wrong)


@TABLES
def test_every_row_computes_an_image_of_its_size(table: Backbone) -> None:
    network = multibit(table, Assignment.uniform(1, 1, len(table.searchable)))
    seen = {}
    for row in table.searchable:
        network.convolutions[row.name].register_forward_hook(
            lambda _layer, _inputs, out, name=row.name: seen.update({name: tuple(out.shape[1:])})
        )
    network(images(table))
    assert seen == {row.name: (row.out_channels, row.size, row.size) for row in table.searchable}


def test_a_prelu_bends_what_a_convolution_adds_to_the_shortcut() -> None:
    """With slope 1 it is not there; with slope 0 nothing negative is added any more."""
    layers = Assignment.uniform(2, 2, len(RESNET8.searchable))
    with seeded(0):
        straight = multibit(RESNET8, layers).eval()
    bent = multibit(replace(RESNET8, prelu=True), layers).eval()
    missing, unexpected = bent.load_state_dict(straight.state_dict(), strict=False)
    assert missing == [f"bends.{row.name}.weight" for row in RESNET8.main]
    assert unexpected == []
    x = images(RESNET8)

    def with_slope(slope: float) -> Tensor:
        for bend in bent.bends.values():
            nn.init.constant_(bend.weight, slope)
        return bent(x)

    assert torch.equal(with_slope(1), straight(x))
    first = RESNET8.main[0].name
    added = straight.convolutions[first](straight.stem(x), straight.norms[first])
    grown: list[Tensor] = []
    second = RESNET8.main[1].name
    bent.convolutions[second].register_forward_pre_hook(lambda _, inputs: grown.append(inputs[0]))
    with_slope(0)
    torch.testing.assert_close(grown[0], straight.stem(x) + added.relu())


def test_each_layer_has_its_assigned_bases() -> None:
    layers = multibit(RESNET8, MIXED).convolutions.values()
    assert [(len(each.weights.u), len(each.activations.v)) for each in layers] == list(MIXED)


def test_an_assignment_of_another_depth_makes_no_network() -> None:
    with pytest.raises(ValueError, match="zip"):
        multibit(RESNET8, Assignment.uniform(1, 1, 5))


@TABLES
@pytest.mark.parametrize("surrogate", list(Surrogate))
def test_every_parameter_receives_a_gradient(table: Backbone, surrogate: Surrogate) -> None:
    network = multibit(table, Assignment.uniform(2, 3, len(table.searchable)))
    labels = torch.randint(table.classes, (8,))
    F.cross_entropy(network(images(table, 8), surrogate), labels).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_the_surrogate_changes_the_gradient_but_not_the_logits() -> None:
    network, x = multibit(RESNET8, MIXED).eval(), images(RESNET8).requires_grad_()
    default, ste, tanh = (
        network(x, *chosen) for chosen in ((), (Surrogate.STE,), (Surrogate.TANH,))
    )
    assert torch.equal(default, ste)
    assert torch.equal(ste, tanh)
    gradients = [torch.autograd.grad(logits.sum(), x)[0] for logits in (default, ste, tanh)]
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[1], gradients[2])


def test_standardising_is_part_of_the_network() -> None:
    network, x = multibit(RESNET8, MIXED).eval(), images(RESNET8)
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.5, 2.0])
    beforehand = network((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    network.standardise_by(mean, std)
    assert torch.equal(network(x), beforehand)
    assert {"mean", "std"} <= network.state_dict().keys()


def test_silent_convolutions_leave_parameter_free_shortcuts() -> None:
    """Every second pixel twice over, and new channels of zeros on both sides."""
    network, x = scrambled(lambda: multibit(RESNET8, MIXED)).eval(), images(RESNET8)
    for layer in network.convolutions.values():
        layer.activations.beta.data.zero_()
    kept = torch.zeros(4, 16, 4, 4)
    kept[:, 6:10] = network.stem(x)[:, :, ::4, ::4]
    expected = network.classifier(F.relu(network.head(kept)).mean((2, 3)))
    torch.testing.assert_close(network(x), expected)


def test_averaged_shortcuts_lose_no_pixel_and_no_channel() -> None:
    """Each stage but the first averages 2x2 pixels and doubles the channels by repeating them."""
    table = replace(RESNET8, averaged_shortcuts=True)
    network, x = scrambled(lambda: multibit(table, MIXED)).eval(), images(RESNET8)
    for layer in network.convolutions.values():
        layer.activations.beta.data.zero_()
    averaged = network.stem(x).unflatten(2, (4, 4)).unflatten(4, (4, 4)).mean((3, 5))
    expected = network.classifier(F.relu(network.head(averaged.repeat(1, 4, 1, 1))).mean((2, 3)))
    torch.testing.assert_close(network(x), expected)


def test_images_may_be_of_any_precision() -> None:
    network, x = scrambled(lambda: multibit(RESNET8, MIXED)).eval(), images(RESNET8)
    torch.testing.assert_close(network(x.double()), network(x))
    torch.testing.assert_close(network.double()(x), network(x.double()))


@pytest.mark.parametrize("size", [7, 8])
def test_averaged_shortcuts_fit_odd_images(size: int) -> None:
    table = backbones.build("resnet8", width=4, image=(1, size, size), classes=3)
    layers = Assignment.uniform(1, 1, len(table.searchable))
    network = multibit(replace(table, averaged_shortcuts=True), layers)
    assert network(torch.rand(2, 1, size, size)).shape == (2, 3)


@pytest.mark.parametrize("table", [RESNET8, RESNET18, BENT], ids=lambda table: table.name)
def test_a_block_shortcut_spans_both_convolutions(table: Backbone) -> None:
    """x + conv2(conv1(x)) of each block, where x shrinks as the first convolution does."""
    layers = Assignment.uniform(2, 1, len(table.searchable))
    network = scrambled(lambda: multibit(replace(table, block_shortcuts=True), layers)).eval()
    x = images(table)

    def convolve(row: Row, z: Tensor) -> Tensor:
        z = network.convolutions[row.name](z, network.norms[row.name])
        return F.prelu(z, network.bends[row.name].weight) if row.name in network.bends else z

    z = network.stem(x)
    if table.stem_pool:
        z = F.max_pool2d(z, kernel_size=3, stride=2, padding=1)
    for first, second, *projection in table.blocks:
        shortcut = z[:, :, :: first.stride, :: first.stride]
        if projection:
            shortcut = convolve(projection[0], z)
        elif first.in_channels != first.out_channels:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, first.in_channels // 2, first.in_channels // 2))
        z = shortcut + convolve(second, convolve(first, z))
    expected = network.classifier(F.relu(network.head(z)).mean((2, 3)))
    torch.testing.assert_close(network(x), expected)
    each = multibit(table, layers).eval()
    each.load_state_dict(network.state_dict())
    assert not torch.allclose(each(x), expected)


def test_batch_norm_comes_before_the_sign() -> None:
    """Statistics so far off that no sign changes any more silence the images altogether."""
    network = multibit(RESNET8, MIXED).eval()
    first = RESNET8.searchable[0].name
    seen = []
    network.convolutions[first].register_forward_hook(lambda _layer, _inputs, out: seen.append(out))
    network(images(RESNET8, 2))
    assert not torch.equal(*seen.pop())
    network.norms[first].running_mean.fill_(1e6)
    network(images(RESNET8, 2))
    assert torch.equal(*seen.pop())


@pytest.mark.parametrize("format_", ["mbn3x1", "mbn1x3", "pact2x2", "float", "xnor"])
def test_a_network_takes_over_all_that_fits_of_another_format(format_: str) -> None:
    """Quantizers of another shape stay; with the same format it is the same network."""
    layers = len(RESNET8.searchable)

    def random(text: str, seed: int) -> Network:
        return scrambled(lambda: build_network(RESNET8, Format.parse(text, layers)), seed)

    trained, network, before = random("mbn1x1", 0), random(format_, 1), random(format_, 1)
    take_over(network, trained)
    given, kept, found = (each.state_dict() for each in (trained, before, network))
    for key, value in found.items():
        quantizer = ".weights." in key or ".activations." in key
        fits = key in given and given[key].shape == value.shape
        assert fits or quantizer
        assert torch.equal(value, (given if fits else kept)[key])
    own = random("mbn1x1", 2)
    take_over(own, trained)
    assert same(own, trained)


@TABLES
@pytest.mark.parametrize("bases", [(1, 1), (3, 2), (8, 8)])
def test_frozen_network_gives_the_same_bits(table: Backbone, bases: tuple[int, int]) -> None:
    network = scrambled(lambda: multibit(table, Assignment.uniform(*bases, len(table.searchable))))
    x = images(table)
    frozen = freeze(network)
    assert torch.equal(frozen(x), network.eval()(x))


@pytest.mark.parametrize("surrogate", list(Surrogate))
def test_frozen_network_shows_attacks_the_same_gradient(surrogate: Surrogate) -> None:
    network, x = (
        scrambled(lambda: multibit(RESNET8, MIXED)).eval(),
        images(RESNET8).requires_grad_(),
    )
    frozen, live = (
        torch.autograd.grad(each(x, surrogate).square().sum(), x)[0]
        for each in (freeze(network), network)
    )
    assert live.any()
    assert torch.equal(frozen, live)


def test_frozen_network_is_fixed() -> None:
    frozen = freeze(multibit(RESNET8, MIXED).train())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    frozen(images(RESNET8))
    assert not frozen.training
    assert all(torch.equal(before[name], after) for name, after in frozen.state_dict().items())


def test_what_is_frozen_is_frozen_as_it_is() -> None:
    frozen, x = freeze(multibit(RESNET8, MIXED)), images(RESNET8)
    assert torch.equal(freeze(frozen)(x), frozen(x))


def test_freezing_leaves_the_original_alone() -> None:
    network = scrambled(lambda: multibit(RESNET8, MIXED)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    frozen = freeze(network)
    with torch.no_grad():
        for tensor in (*frozen.parameters(), *frozen.buffers()):
            tensor.zero_()
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())


@TABLES
def test_the_float_twin_has_the_same_shapes_and_no_bases(table: Backbone) -> None:
    twin = build_network(table, Format.parse("float", len(table.searchable)))
    pair = multibit(table, Assignment.uniform(1, 1, len(table.searchable)))
    x = images(table).requires_grad_()
    twin(x).sum().backward()
    assert x.grad is not None
    scales = {
        name for name, _ in pair.named_parameters() if name.endswith(("u", "alpha", "v", "beta"))
    }
    shapes = {name: each.shape for name, each in pair.named_parameters() if name not in scales}
    assert {name: each.shape for name, each in twin.named_parameters()} == shapes
    z = torch.randn(2, table.searchable[0].in_channels, 5, 5)
    layer, norm = twin.convolutions[table.searchable[0].name], nn.BatchNorm2d(z.shape[1]).eval()
    assert torch.equal(layer(z, norm), layer(z.relu(), norm))
