"""The supernet is each of its networks, bit for bit, and remembers none of them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers import scrambled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbnas import backbones, kernels
from mbnas.assignment import Assignment, Bases, Space
from mbnas.backbones import Backbone
from mbnas.errors import SettingsError
from mbnas.objectives import fair_assignments
from mbnas.settings import Surrogate
from mbnas.supernet import Supernet, extract

TABLE = backbones.build("resnet8", width=4, image=(3, 16, 16), classes=5)
SPACE = Space((1, 2, 5), (1, 3), len(TABLE.searchable))
ASSIGNMENTS = st.lists(
    st.builds(Bases, st.sampled_from(SPACE.weights), st.sampled_from(SPACE.activations)),
    min_size=SPACE.layers,
    max_size=SPACE.layers,
).map(lambda layers: Assignment(tuple(layers)))
MIXED = Assignment.parse("5x1,1x3,2x3,1x1,5x3,2x1", SPACE.layers)


def random_supernet(seed: int, table: Backbone = TABLE) -> Supernet:
    """Every parameter, batch-norm statistic and standardisation is unlike its initial value."""
    supernet = scrambled(lambda: Supernet(table, SPACE).eval(), seed)
    supernet.standardise_by(torch.rand(3), torch.rand(3) + 0.5)
    return supernet


def images(count: int = 4) -> Tensor:
    return torch.rand(count, *TABLE.image)


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@given(
    assignment=ASSIGNMENTS, seed=st.integers(0, 2**32), training=st.booleans(), prelu=st.booleans()
)
@settings(max_examples=30)
def test_supernet_equals_the_extracted_network(
    assignment: Assignment, seed: int, training: bool, prelu: bool
) -> None:
    supernet = random_supernet(seed, replace(TABLE, prelu=prelu)).train(training)
    x = images()
    network = extract(supernet, assignment)
    assert torch.equal(supernet(x, assignment), network(x))


@pytest.mark.parametrize("surrogate", list(Surrogate))
def test_supernet_and_extracted_network_show_attacks_one_gradient(surrogate: Surrogate) -> None:
    supernet, x = random_supernet(0), images().requires_grad_()
    network = extract(supernet, MIXED)
    shared, plain = (
        torch.autograd.grad(logits.square().sum(), x)[0]
        for logits in (supernet(x, MIXED, surrogate), network(x, surrogate))
    )
    assert plain.any()
    assert torch.equal(shared, plain)


@given(first=ASSIGNMENTS, second=ASSIGNMENTS)
@settings(max_examples=20)
def test_no_assignment_leaves_a_trace(first: Assignment, second: Assignment) -> None:
    supernet, x = random_supernet(0), images()
    fresh, before = supernet(x, first), copied(supernet.state_dict())
    supernet(x, second)
    assert torch.equal(supernet(x, first), fresh)
    assert same(supernet.state_dict(), before)


def test_each_layer_answers_to_its_own_bases() -> None:
    supernet, x = random_supernet(0), images()
    base = supernet(x, SPACE.smallest)
    for layer in range(SPACE.layers):
        for bases in (Bases(5, 1), Bases(1, 3)):
            layers = list(SPACE.smallest)
            layers[layer] = bases
            assert not torch.equal(supernet(x, Assignment(tuple(layers))), base)


@pytest.mark.parametrize("training", [True, False])
def test_extracted_network_keeps_the_mode_and_learns(training: bool) -> None:
    network = extract(random_supernet(0).train(training), MIXED)
    assert network.training is training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(parameter.is_leaf for parameter in network.parameters())


def test_extracted_network_is_independent() -> None:
    supernet, x = random_supernet(0), images()
    before, logits = copied(supernet.state_dict()), supernet(x, MIXED)
    network = extract(supernet, MIXED)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.fill_(2)
    assert same(supernet.state_dict(), before)
    assert torch.equal(supernet(x, MIXED), logits)


def test_the_supernet_does_not_reach_what_was_extracted() -> None:
    supernet = random_supernet(0)
    network = extract(supernet, MIXED)
    before = copied(network.state_dict())
    with torch.no_grad():
        for tensor in (*supernet.parameters(), *supernet.buffers()):
            tensor.fill_(2)
    assert same(network.state_dict(), before)


def test_extracting_draws_no_random_numbers() -> None:
    supernet = random_supernet(0)
    before = torch.get_rng_state()
    extract(supernet, MIXED)
    assert torch.equal(torch.get_rng_state(), before)


@given(assignment=ASSIGNMENTS)
@settings(max_examples=20)
def test_gradients_reach_the_chosen_quantizers_only(assignment: Assignment) -> None:
    supernet = random_supernet(0).train()
    F.cross_entropy(supernet(images(8), assignment), torch.randint(5, (8,))).backward()
    for row, bases in zip(TABLE.searchable, assignment, strict=True):
        layer = supernet.convolutions[row.name]
        assert layer.weight.grad.any()
        for quantizers, chosen in zip((layer.weights, layer.activations), bases, strict=True):
            for count, quantizer in quantizers.items():
                reached = {parameter.grad is not None for parameter in quantizer.parameters()}
                assert reached == {int(count) == chosen}


@pytest.mark.parametrize(
    "other", [Assignment.uniform(1, 1, SPACE.layers - 1), Assignment.uniform(7, 1, SPACE.layers)]
)
def test_an_assignment_out_of_the_space_is_no_sub_network(other: Assignment) -> None:
    supernet, answer = random_supernet(0), f"{other}' is not in the space, whose {SPACE.layers}"
    with pytest.raises(SettingsError, match=answer):
        supernet(images(), other)
    with pytest.raises(SettingsError, match=answer):
        extract(supernet, other)


def test_nothing_is_compiled_anew_for_another_assignment() -> None:
    supernet, x = random_supernet(0).train(), images()

    def train(assignment: Assignment) -> None:
        supernet(x, assignment).square().sum().backward()

    train(SPACE.smallest)
    train(SPACE.largest)
    kept = [len(each.signatures) for each in (kernels._climb, kernels._descend)]
    for seed in range(5):
        train(next(fair_assignments(SPACE, seed)))
    assert [len(each.signatures) for each in (kernels._climb, kernels._descend)] == kept
