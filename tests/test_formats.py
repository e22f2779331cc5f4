"""Number formats as text and as networks: what wrong ones are answered."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mbnas import backbones
from mbnas.assignment import Assignment
from mbnas.errors import SettingsError
from mbnas.formats import Family, Format
from mbnas.networks import build_network, freeze
from mbnas.randomness import seeded
from mbnas.settings import Surrogate

TABLE = backbones.build("resnet8", width=4, image=(3, 16, 16), classes=5)
LAYERS = len(TABLE.searchable)
EVERY = (
    "float",
    "pact4",
    "pact2",
    "pact2x4",
    "xnor",
    "mbn1x1",
    "mbn3x1",
    "mbn3x1,1x1,2x2,1x3,1x1,5x7",
    "wprune4",
    "cprune4,6,2,8,4,1",
)
every_format = pytest.mark.parametrize("text", EVERY)
WIDTHS = st.tuples(st.integers(1, 8), st.integers(1, 8))


@given(
    family=st.sampled_from([Family.PACT, Family.MBN, Family.WEIGHT_PRUNED, Family.CHANNEL_PRUNED]),
    widths=st.lists(WIDTHS, min_size=2, max_size=5),
)
def test_text_reads_back_equal(family: Family, widths: list[tuple[int, int]]) -> None:
    pruned = family in (Family.WEIGHT_PRUNED, Family.CHANNEL_PRUNED)
    text = ",".join(f"{m}x{8 if pruned else n}" for m, n in widths)
    format_ = Format(family, Assignment.parse(text, len(widths)))
    assert Format.parse(str(format_), len(widths)) == format_


@pytest.mark.parametrize(
    ("text", "equal"), [("pact4", "pact4x4"), (" xnor ", "xnor"), ("mbn3x1,3x1", "mbn3x1")]
)
def test_short_forms(text: str, equal: str) -> None:
    assert str(Format.parse(text, 2)) == equal


@pytest.mark.parametrize("text", ["", "bnn", "mbn", "pact", "xnor1x1", "float32", "MBN3x1", "3x1"])
def test_an_unknown_format_names_the_known_ones(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Format.parse(text, 3)
    message = str(caught.value)
    assert repr(text) in message
    assert all(known in message for known in ("float", "pactKxL", "xnor", "mbnMxN"))


@pytest.mark.parametrize("text", ["pact0", "mbn9x1", "mbn0x3", "pact16", "wprune0"])
def test_widths_out_of_range_are_refused_with_the_range(text: str) -> None:
    with pytest.raises(SettingsError, match=f"format '{text}': .* from 1 to 8"):
        Format.parse(text, 3)


def test_one_number_of_fixed_point_stands_for_both() -> None:
    assert Format.parse("pact4,2x4,8*2", 4) == Format.parse("pact4x4,2x4,8x8,8x8", 4)


def test_activations_of_pruned_layers_have_8_bits() -> None:
    assert str(Format.parse("wprune4", 2)) == "wprune4x8"
    assert Format.parse("cprune4, 6*2 8", 4) == Format.parse("cprune4x8,6x8,6x8,8x8", 4)
    with pytest.raises(SettingsError, match="have 8 bits"):
        Format.parse("cprune4x4", 2)


@every_format
def test_a_network_of_any_format_learns(text: str) -> None:
    """Every parameter gets a gradient, and a few steps bring the loss down."""
    with seeded(0):
        network = build_network(TABLE, Format.parse(text, LAYERS))
        x, y = torch.rand(32, *TABLE.image), torch.arange(32) % TABLE.classes
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert all(each.grad is not None and each.grad.any() for each in network.parameters())
    assert losses[-1] < 0.9 * losses[0]


@every_format
@pytest.mark.parametrize("surrogate", [Surrogate.STE, Surrogate.TANH])
def test_frozen_and_live_networks_agree(text: str, surrogate: Surrogate) -> None:
    with seeded(1):
        network = build_network(TABLE, Format.parse(text, LAYERS)).eval()
        x = torch.rand(4, *TABLE.image, requires_grad=True)
    live, frozen = network(x, surrogate), freeze(network)(x, surrogate)
    assert torch.equal(live, frozen)
    of_live, of_frozen = (torch.autograd.grad(each.square().sum(), x)[0] for each in (live, frozen))
    assert torch.equal(of_live, of_frozen)
    assert of_live.any()
