"""How accurate a network is, on natural images and under attack."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mbnas.attacks import Model, broken, pgd, require_images, right
from mbnas.errors import DataError, SettingsError
from mbnas.images import Batch, Images
from mbnas.losses import Loss, cross_entropy, margin, rescaled_cross_entropy
from mbnas.networks import Network
from mbnas.settings import Robustness, Surrogate, Threat

BATCH = 128
NOT_FINITE = (
    "the network returns logits that are not finite (NaN or infinite), or so large that their "
    "cross-entropy is not; its training diverged or its file is damaged: train it anew"
)
Steered = Callable[[Tensor, Surrogate], Tensor]
"""A network: images (B, C, H, W) and the surrogate its gradient takes, to logits (B, classes)."""


@dataclass(frozen=True)
class Scores:
    """Fractions of images in [0, 1].

    Attributes:
        natural: classified correctly as they are.
        robust: classified correctly as they are and at every iterate of every attack.
        loss: mean cross-entropy of the natural images; None where it is not finite.
    """

    natural: float
    robust: float
    loss: float | None


@torch.no_grad()
def require_sound(network: Steered, images: Images) -> None:
    """Check what a measurement rests on.

    Raises:
        DataError: if there are no images, they are not in [0, 1], or the network has no logits of
            their labels.
        SettingsError: if the network is in training mode, changes the images that it is given, or
            its logits are not finite or have no gradient.
    """
    require_evaluation_mode(network)
    require_some(images)
    for x, y in images.batches(BATCH):
        require_images(x)
        given = x.clone()
        logits = network(given, Surrogate.STE)
        if not torch.equal(given, x):
            raise SettingsError(
                "the network changes the images that it is given, in place; let it compute new "
                "ones, such as x = x - 0.5 for x -= 0.5"
            )
        if not logits.isfinite().all():
            raise SettingsError(NOT_FINITE)
        if y.min() < 0 or y.max() >= logits.shape[1]:
            raise DataError(
                f"labels run from {y.min()} to {y.max()}, the network returns logits of "
                f"{logits.shape[1]} classes, 0 to {logits.shape[1] - 1}; give the labels that it "
                "was trained with"
            )
    require_gradient(network, images)


def require_gradient(network: Steered, images: Images) -> None:
    """Check that attacks can follow the gradient of a network, be it zero.

    Raises:
        SettingsError: if logits do not depend on images by operations that torch differentiates.
    """
    image = images.gather(slice(1))[0].requires_grad_()
    with torch.enable_grad():
        total = network(image, Surrogate.STE).sum()
    try:
        torch.autograd.grad(total, image)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise SettingsError(
            f"the network has no gradient in its images ({reason}), which nearly all attacks "
            "follow; give one that torch can differentiate, without detach or torch.no_grad"
        ) from None


def require_some(images: Images) -> None:
    """Check that there are images.

    Raises:
        DataError: if there are none.
    """
    if len(images) == 0:
        raise DataError("no images; give at least one")


def require_evaluation_mode(network: Steered) -> None:
    """Check that one image cannot change the logits of another.

    Raises:
        SettingsError: if the network is in training mode.
    """
    if isinstance(network, nn.Module) and any(each.training for each in network.modules()):
        raise SettingsError(
            "the network is in training mode, where one image changes the logits of another; "
            "call network.eval(), or mbnas.freeze"
        )


@torch.no_grad()
def recalibrate(network: nn.Module, images: Images) -> None:
    """Re-estimate the running batch-norm statistics as plain averages over natural batches.

    The batches are of one size, or an image apart: a small last one would count as much as others.

    Raises:
        DataError: if there are no images.
    """
    require_some(images)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    count = -(-len(images) // BATCH)
    for number, indices in enumerate(torch.arange(len(images)).tensor_split(count), start=1):
        for norm in norms:
            norm.momentum = 1 / number  # counted here: a norm would make a GPU wait to be asked
        network(images.gather(indices)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@dataclass(frozen=True)
class Stage:
    """One PGD of a measurement: what it drives up, through which surrogate, for how long."""

    loss: Loss
    surrogate: Surrogate
    steps: int


def plain_stages(threat: Threat) -> tuple[Stage, ...]:
    """PGD on cross-entropy (paper, Sec. 4)."""
    return (Stage(cross_entropy, threat.surrogate, threat.steps),)


def guard_stages(threat: Threat, steps: int) -> tuple[Stage, ...]:
    """What an epoch of training is judged by; it must not share a blind spot with the training."""
    surrogates = (threat.surrogate, another(threat.surrogate))
    return tuple(Stage(cross_entropy, surrogate, steps) for surrogate in surrogates)


def scoring_stages(objective: Robustness, threat: Threat) -> tuple[Stage, ...]:
    """What candidates withstand, in as many passes as PGD takes (from three steps on)."""
    if objective is Robustness.PGD:
        return plain_stages(threat)
    half = threat.steps // 2
    return (
        Stage(margin, threat.surrogate, half),
        Stage(rescaled_cross_entropy, another(threat.surrogate), max(1, threat.steps - half - 1)),
    )


def another(surrogate: Surrogate) -> Surrogate:
    """A surrogate that no attack is likely to be blind to together with this one."""
    return Surrogate.TANH if surrogate is Surrogate.POLYNOMIAL else Surrogate.POLYNOMIAL


def through(network: Steered, surrogate: Surrogate) -> Model:
    """``network`` as attacks through ``surrogate`` see it."""
    return lambda x: network(x, surrogate)


def measure(
    network: Network,
    images: Images,
    threat: Threat,
    rng: torch.Generator,
    stages: Sequence[Stage] | None = None,
) -> Scores:
    """Score a frozen network under one PGD after another (default: :func:`plain_stages`).

    An image that is lost at any iterate is attacked no more; one whose logits are not finite is
    lost. What counts is a last look at the iterate that lost it, in another batch, by whose size a
    library may round differently.

    Raises:
        SettingsError: if the network is in training mode.
        DataError: if there are no images.
    """
    require_evaluation_mode(network)
    require_some(images)
    natural, robust, total = 0, 0, 0.0
    for x, y in images.batches(BATCH):
        standing, loss = classify(network, x, y)
        natural, total = natural + int(standing.sum()), total + loss
        for stage in stages or plain_stages(threat):
            if not standing.any():
                break
            x, y = x[standing], y[standing]  # noqa: PLW2901 (the rest is lost already)
            adversarial = pgd(
                through(network, stage.surrogate),
                x,
                y,
                eps=threat.eps,
                step=threat.step,
                steps=stage.steps,
                generator=rng,
                loss=stage.loss,
            )
            standing = ~broken(network, adversarial, y)
        robust += int(standing.sum())
    count = len(images)
    return Scores(natural / count, robust / count, _mean_loss(total, count))


@torch.no_grad()
def classify(network: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """Which images are classified correctly, (B,), and the sum of their cross-entropies."""
    logits = network(x)
    return right(logits, y), F.cross_entropy(logits, y, reduction="sum").item()


def _mean_loss(total: float, count: int) -> float | None:
    return total / count if math.isfinite(total) else None


def at_last_and_every(
    model: Model, batches: Iterable[Batch], threat: Threat, rng: torch.Generator, steps: int
) -> Tensor:
    """Which of all n images PGD leaves right at its last and at every iterate, (2, n) of bool."""
    each = (correct_at_each_iterate(model, x, y, threat, rng, steps) for x, y in batches)
    return torch.cat([torch.stack((at[-1], at.all(dim=0))) for at in each], dim=1)


def correct_at_each_iterate(
    model: Model, x: Tensor, y: Tensor, threat: Threat, rng: torch.Generator, steps: int
) -> Tensor:
    """Which images (B, C, H, W) PGD leaves right: unperturbed, then at each iterate.

    Returns:
        (steps + 2, B) of bool: the images themselves, the random start, and ``steps`` iterates.
    """
    found: list[Tensor] = []

    def watched(z: Tensor) -> Tensor:
        logits = model(z)
        found.append(right(logits.detach(), y))
        return logits

    with torch.no_grad():
        watched(x)
    adversarial = pgd(
        watched,
        x,
        y,
        eps=threat.eps,
        step=threat.step,
        steps=steps,
        generator=rng,
        stop_when_broken=False,
    )
    with torch.no_grad():
        watched(adversarial)
    return torch.stack(found)


@dataclass(frozen=True)
class Spread:
    """Mean and (sample) standard deviation over attack runs."""

    mean: float
    std: float

    @classmethod
    def over(cls, values: Sequence[float]) -> Spread:
        """Of at least one value; the deviation of a single one is 0."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
