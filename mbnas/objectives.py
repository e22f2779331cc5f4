"""What one batch adds to the gradients: on natural or perturbed images, from labels or logits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mbnas.assignment import Assignment, Space
from mbnas.attacks import Model, fgsm, n_fgsm
from mbnas.networks import Network
from mbnas.precision import autocast
from mbnas.randomness import derive
from mbnas.settings import Recipe, Rule, SupernetRecipe, Threat, Training
from mbnas.supernet import Supernet

Accumulate = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""(x, y, rng) -> loss, after adding the gradients of one batch to the parameters."""

Objective = Callable[[int], Accumulate]
"""What one epoch, counted from 1, does with its batches."""


def network_objective(
    network: Network, threat: Threat, recipe: Recipe, teacher: Model | None = None
) -> Objective:
    """Cross-entropy on natural or on perturbed images.

    Args:
        teacher: whose softmax of the natural images takes the place of the labels (Hinton et al.
            2015; under attack Goldblum et al. 2020, ARD); attacks aim at the labels all the same.
    """

    def accumulate(x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        with torch.no_grad(), autocast(recipe, x.device):
            truth = y if teacher is None else teacher(x).softmax(dim=1)
        with without_gradients(network):
            x = perturbed(lambda z: network(z, threat.surrogate), x, y, threat.eps, recipe, rng)
        with autocast(recipe, x.device):
            logits = network(x, weight_surrogate=recipe.weight_surrogate)
        loss = F.cross_entropy(logits, truth)
        torch.autograd.backward(loss)
        return loss.detach()

    return lambda _: accumulate


def supernet_objective(
    supernet: Supernet, threat: Threat, recipe: SupernetRecipe, seed: int
) -> Objective:
    """Some sub-networks per batch, each on perturbations made on that very sub-network.

    Which ones, and on labels or logits, is the rule of the recipe.
    """
    space = supernet.space

    def logits_of(assignment: Assignment, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        with without_gradients(supernet):
            x = perturbed(
                lambda z: supernet(z, assignment, threat.surrogate), x, y, threat.eps, recipe, rng
            )
        with autocast(recipe, x.device):
            logits: Tensor = supernet(x, assignment, weight_surrogate=recipe.weight_surrogate)
        return logits

    def objective(epoch: int) -> Accumulate:
        fair = fair_assignments(space, derive(seed, "fair", epoch))

        def sandwiched(x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
            logits = logits_of(space.largest, x, y, rng)
            loss = F.cross_entropy(logits, y)
            torch.autograd.backward(loss)
            teacher = logits.detach().softmax(dim=1)
            for assignment in (space.smallest, *islice(fair, recipe.sampled)):
                torch.autograd.backward(F.cross_entropy(logits_of(assignment, x, y, rng), teacher))
            return loss.detach()

        def fairly(x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
            total = torch.zeros((), device=x.device)
            for assignment in islice(fair, recipe.sampled):
                loss = F.cross_entropy(logits_of(assignment, x, y, rng), y)
                torch.autograd.backward(loss)
                total += loss.detach()
            return total / recipe.sampled

        return sandwiched if recipe.rule is Rule.SANDWICH else fairly

    return objective


def perturbed(
    model: Model, x: Tensor, y: Tensor, eps: float, recipe: Recipe, rng: torch.Generator
) -> Tensor:
    """The images (B, C, H, W) that a batch trains on."""
    match recipe.training:
        case Training.NATURAL:
            return x
        case Training.FASTAT:
            step = recipe.step or min(1.25 * eps, 1.0)
            return fgsm(model, x, y, eps=eps, step=step, generator=rng)
        case Training.N_FGSM:
            return n_fgsm(model, x, y, eps=eps, step=recipe.step or eps, generator=rng)


@contextmanager
def without_gradients(module: nn.Module) -> Iterator[None]:
    """An attack needs the gradient of the image only; parameters are left out of it inside."""
    parameters = [each for each in module.parameters() if each.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def fair_assignments(space: Space, seed: int) -> Iterator[Assignment]:
    """Endless assignments in which each variable goes through shuffled decks of its choices.

    Every choice of every M and N is thus trained equally often (Chu et al. 2021, FairNAS).
    """
    rng = random.Random(seed)
    decks: list[list[int]] = [[] for _ in space.variables]
    while True:
        for deck, choices in zip(decks, space.variables, strict=True):
            if not deck:
                deck.extend(rng.sample(range(len(choices)), len(choices)))
        yield space.decode([deck.pop() for deck in decks])
