"""What one batch does: samples, perturbations, labels or logits."""

from collections.abc import Callable, Iterable
from itertools import islice
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from lessons import (
    FASTAT,
    NATURAL,
    SEED,
    SPACE,
    TABLE,
    THREAT,
    Passes,
    X,
    Y,
    gradients,
    network,
    sampled,
    supernet,
)
from torch import Tensor, nn

from mbnas.assignment import Assignment, Space
from mbnas.attacks import fgsm
from mbnas.networks import Network
from mbnas.objectives import (
    fair_assignments,
    network_objective,
    perturbed,
    supernet_objective,
    without_gradients,
)
from mbnas.randomness import generator
from mbnas.settings import Precision, Rule, SupernetRecipe, Surrogate, Threat, Training
from mbnas.supernet import Supernet

# Fair samples

CHOICES = st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True).map(tuple)


@given(space=st.builds(Space, CHOICES, CHOICES, st.integers(1, 4)), seed=st.integers(0, 2**32))
def test_every_full_deck_holds_each_choice_once(space: Space, seed: int) -> None:
    drawn = list(islice(fair_assignments(space, seed), 12))
    assert drawn == list(islice(fair_assignments(space, seed), 12))
    for values, choices in zip(
        zip(*map(space.encode, drawn), strict=True), space.variables, strict=True
    ):
        for start in range(0, 12, len(choices)):
            deck = values[start : start + len(choices)]
            assert sorted(deck) == list(range(len(choices)))


def test_the_decks_of_different_variables_are_shuffled_apart() -> None:
    space = Space((1, 2), (1, 2), 2)
    assert len(set(islice(fair_assignments(space, 0), 400))) == space.size


# One batch


def test_without_gradients_restores_what_it_found_even_after_a_failure() -> None:
    module = network()
    module.stem.weight.requires_grad_(False)
    before = [parameter.requires_grad for parameter in module.parameters()]
    with pytest.raises(KeyboardInterrupt), without_gradients(module):
        assert not any(parameter.requires_grad for parameter in module.parameters())
        raise KeyboardInterrupt
    assert [parameter.requires_grad for parameter in module.parameters()] == before


def attack(model: Callable[[Tensor], Tensor], threat: Threat, rng: torch.Generator) -> Tensor:
    assert FASTAT.step is not None
    return fgsm(model, X, Y, eps=threat.eps, step=FASTAT.step, generator=rng)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    """Images and other arguments of every forward pass."""
    seen: Passes = []
    for kind in (Network, Supernet):

        def forward(
            self: nn.Module,
            x: Tensor,
            *others: object,
            weight_surrogate: Surrogate = Surrogate.STE,
            original: Callable[..., Tensor] = kind.forward,
        ) -> Tensor:
            seen.append((x.detach(), others))
            return original(self, x, *others, weight_surrogate=weight_surrogate)

        monkeypatch.setattr(kind, "forward", forward)
    return seen


by_either_rule = pytest.mark.parametrize("rule", list(Rule))


def members(rule: Rule, count: int = NATURAL.sampled) -> list[Assignment]:
    """Whom a step trains, in order."""
    always = [SPACE.largest, SPACE.smallest] if rule is Rule.SANDWICH else []
    return [*always, *sampled(count)]


@pytest.mark.parametrize(
    ("training", "eps", "step", "taken"),
    [
        (Training.FASTAT, 0.1, None, 0.125),
        (Training.FASTAT, 0.9, None, 1.0),  # a longer one would leave the box at once
        (Training.FASTAT, 0.1, 0.05, 0.05),
        (Training.N_FGSM, 0.1, None, 0.1),
        (Training.N_FGSM, 0.1, 0.05, 0.05),
    ],
)
def test_the_step_of_a_perturbation_follows_eps_unless_it_is_given(
    training: Training, eps: float, step: float | None, taken: float
) -> None:
    recipe = NATURAL.model_copy(update={"training": training, "step": step})
    name = "fgsm" if training is Training.FASTAT else "n_fgsm"
    with mock.patch(f"mbnas.objectives.{name}") as called:
        perturbed(network(), X, Y, eps, recipe, generator(0))
    assert (called.call_args.kwargs["eps"], called.call_args.kwargs["step"]) == (eps, taken)


@by_either_rule
def test_a_natural_recipe_makes_no_attack(passes: Passes, rule: Rule) -> None:
    rng, recipe = generator(0), NATURAL.model_copy(update={"rule": rule})
    network_objective(network(), THREAT, recipe)(1)(X, Y, rng)
    supernet_objective(supernet(), THREAT, recipe, SEED)(1)(X, Y, rng)
    assert [others for _, others in passes] == [(), *((each,) for each in members(rule))]
    assert all(torch.equal(x, X) for x, _ in passes)
    assert torch.equal(rng.get_state(), generator(0).get_state())


@by_either_rule
@pytest.mark.parametrize(
    ("training", "dtype"), [(Training.NATURAL, torch.bfloat16), (Training.FASTAT, torch.float32)]
)
def test_only_natural_training_steps_compute_in_bfloat16_by_default(
    training: Training, dtype: torch.dtype, rule: Rule
) -> None:
    """In the network that learns, its teacher and the supernet; attacks are never among them."""
    changes = {"precision": Precision.AUTO, "training": training, "rule": rule}
    recipe = NATURAL.model_copy(update=changes)
    module, teacher, whole = network(), network().eval(), supernet()
    seen: list[torch.dtype] = []
    for each in (module, teacher, whole):
        each.stem.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    with mock.patch("mbnas.precision.has_bfloat16", return_value=True):
        network_objective(module, THREAT, recipe, teacher)(1)(X, Y, generator(0))
        supernet_objective(whole, THREAT, recipe, SEED)(1)(X, Y, generator(0))
    attacks = 0 if training is Training.NATURAL else 1
    passes = 1 + (1 + attacks) + len(members(rule)) * (1 + attacks)
    assert seen == [dtype] * passes


@pytest.mark.parametrize("surrogate", list(Surrogate))
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.5])
def test_a_network_learns_from_fastat_perturbations_made_on_itself(
    surrogate: Surrogate, eps: float, passes: Passes
) -> None:
    threat, one, other = Threat(eps=eps, step=0.1, surrogate=surrogate), network(), network()
    loss = network_objective(one, threat, FASTAT)(1)(X, Y, generator(0))
    perturbed = passes[-1][0]
    assert 0 < (perturbed - X).abs().max() <= eps + 1e-6
    assert torch.equal(perturbed, perturbed.clamp(0, 1))
    other.requires_grad_(False)
    expected = attack(lambda z: other(z, surrogate), threat, generator(0))
    assert torch.equal(perturbed, expected)
    other.requires_grad_(True)
    alone = F.cross_entropy(other(expected), Y)
    torch.autograd.backward(alone)
    assert torch.equal(loss, alone.detach())
    assert gradients(one).keys() == gradients(other).keys()
    for name, gradient in gradients(one).items():  # the attack has left none behind
        assert torch.equal(gradient, gradients(other)[name])


@by_either_rule
@pytest.mark.parametrize("precision", list(Precision))
def test_every_sub_network_learns_from_perturbations_made_on_itself_in_float32(
    precision: Precision, passes: Passes, rule: Rule
) -> None:
    module, rng = supernet(), generator(0)
    recipe = FASTAT.model_copy(update={"precision": precision, "rule": rule})
    supernet_objective(module, THREAT, recipe, SEED)(1)(X, Y, generator(0))
    trained = [(x, *others) for x, others in passes if len(others) == 1]
    assert [each for _, each in trained] == members(rule)
    for attacked, each in trained:
        expected = attack(lambda z, each=each: module(z, each, THREAT.surrogate), THREAT, rng)
        assert torch.equal(attacked, expected)
        assert 0 < (attacked - X).abs().max() <= THREAT.eps + 1e-6


def test_fair_sampled_sub_networks_learn_labels() -> None:
    one, other = supernet(), supernet()
    recipe = NATURAL.model_copy(update={"rule": Rule.FAIR})
    loss = supernet_objective(one, THREAT, recipe, SEED)(1)(X, Y, generator(0))
    alone = [F.cross_entropy(other(X, each), Y) for each in sampled(NATURAL.sampled)]
    torch.autograd.backward(sum(alone))
    torch.testing.assert_close(loss, torch.stack(alone).mean().detach())
    assert gradients(one).keys() == gradients(other).keys()
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(gradient, gradients(other)[name], rtol=1e-4, atol=1e-5)


def test_each_epoch_samples_sub_networks_of_its_own(passes: Passes) -> None:
    recipe = NATURAL.model_copy(update={"rule": Rule.FAIR})
    supernet_objective(supernet(), THREAT, recipe, SEED)(2)(X, Y, generator(0))
    asked = [assignment for _, (assignment, *_) in passes]
    assert asked == sampled(NATURAL.sampled, epoch=2)
    assert asked != sampled(NATURAL.sampled, epoch=1)


def test_in_a_sandwich_small_sub_networks_learn_the_logits_of_the_largest() -> None:
    one, other = supernet(), supernet()
    loss = supernet_objective(one, THREAT, NATURAL, SEED)(1)(X, Y, generator(0))
    logits = other(X, SPACE.largest)
    teacher = logits.detach().softmax(1)
    labels = F.cross_entropy(logits, Y)
    distilled = [
        -(teacher * other(X, each).log_softmax(1)).sum(1).mean()
        for each in (SPACE.smallest, *sampled(2))
    ]
    torch.autograd.backward(labels + sum(distilled))
    assert torch.equal(loss, labels.detach())
    assert gradients(one).keys() == gradients(other).keys()
    for name, gradient in gradients(one).items():
        torch.testing.assert_close(gradient, gradients(other)[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("surrogate", list(Surrogate))
@pytest.mark.parametrize("recipe", [NATURAL, FASTAT], ids=["natural", "FastAT"])
def test_latent_weights_learn_through_the_surrogate_of_the_recipe(
    recipe: SupernetRecipe, surrogate: Surrogate, passes: Passes
) -> None:
    changes = {"weight_surrogate": surrogate, "rule": Rule.FAIR}
    recipe = recipe.model_copy(update=changes)
    one, other = network(), network()
    network_objective(one, THREAT, recipe)(1)(X, Y, generator(0))
    x = passes[-1][0]
    torch.autograd.backward(F.cross_entropy(other(x, weight_surrogate=surrogate), Y))
    for name, gradient in gradients(one).items():
        assert torch.equal(gradient, gradients(other)[name])
    passes.clear()
    whole, twin = supernet(), supernet()
    supernet_objective(whole, THREAT, recipe, SEED)(1)(X, Y, generator(0))
    trained = [(x, *others) for x, others in passes if len(others) == 1]  # no attacks
    for x, each in trained:
        logits = twin(x, each, weight_surrogate=surrogate)
        torch.autograd.backward(F.cross_entropy(logits, Y))
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradient, gradients(twin)[name], rtol=1e-4, atol=1e-5)


def private(assignments: Iterable[Assignment]) -> set[str]:
    """The quantizers these sub-networks use."""
    return {
        f"convolutions.{row.name}.{kind}.{getattr(bases, kind)}"
        for assignment in assignments
        for row, bases in zip(TABLE.searchable, assignment, strict=True)
        for kind in ("weights", "activations")
    }


@by_either_rule
@pytest.mark.parametrize("recipe", [NATURAL, FASTAT], ids=["natural", "FastAT"])
@pytest.mark.parametrize(("count", "batches"), [(1, 1), (2, 1), (1, 2)])
def test_only_sub_networks_that_are_trained_have_gradients_on_their_private_scalars(
    recipe: SupernetRecipe, count: int, batches: int, rule: Rule
) -> None:
    module = supernet()
    recipe = recipe.model_copy(update={"sampled": count, "rule": rule})
    accumulate = supernet_objective(module, THREAT, recipe, SEED)(1)
    for _ in range(batches):
        accumulate(X, Y, generator(0))
    trained = members(rule, count * batches)
    assert gradients(module).keys() == {
        name
        for name, _ in module.named_parameters()
        if name.rpartition(".")[0] not in private(SPACE.uniforms) - private(trained)
    }


# Distillation


def test_a_pupil_that_agrees_with_its_teacher_learns_nothing_more() -> None:
    """The gradient of cross-entropy by logits is softmax(z) - softmax(teacher's z)."""
    module = network().eval()
    network_objective(module, THREAT, NATURAL, teacher=network().eval())(1)(X, Y, generator(0))
    assert all(each.grad.abs().max() < 1e-7 for each in module.parameters())
    network_objective(module, THREAT, NATURAL)(1)(X, Y, generator(0))
    assert any(each.grad.abs().max() > 1e-3 for each in module.parameters())


def test_a_teacher_sees_the_natural_images_and_the_attack_the_labels() -> None:
    seen: list[Tensor] = []

    def teacher(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.zeros(len(x), TABLE.classes)

    module, other = network(), network()
    loss = network_objective(module, THREAT, FASTAT, teacher)(1)(X, Y, generator(0))
    assert [torch.equal(each, X) for each in seen] == [True]
    x = fgsm(
        lambda z: other(z, THREAT.surrogate),
        X,
        Y,
        eps=THREAT.eps,
        step=0.125,
        generator=generator(0),
    )
    assert loss == pytest.approx(-other(x).log_softmax(dim=1).mean().item(), rel=1e-5)
