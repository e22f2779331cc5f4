"""Attacks on images in [0, 1] as small pure functions: ``attack(model, x, y, ...) -> x_adv``.

``model`` maps images (B, C, H, W) to logits (B, classes); which surrogate its gradient takes is
bound by the caller, e.g. ``lambda x: network(x, Surrogate.TANH)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mbnas.losses import Loss, cross_entropy

Model = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to logits (B, classes)."""

Attack = Callable[[Model, Tensor, Tensor], Tensor]
"""(model, x, y) -> x_adv, the other arguments bound by the caller."""


def uniform_start(x: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    """A uniform point of the eps-ball around each image, clipped to [0, 1]; shape of ``x``."""
    noise = torch.rand(x.shape, generator=generator).to(x) * 2 - 1
    return (x + eps * noise).clamp(0, 1)


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    generator: torch.Generator,
    loss: Loss = cross_entropy,
    target: Tensor | None = None,
    stop_when_broken: bool = True,
) -> Tensor:
    """L-infinity projected gradient descent (Madry et al. 2018).

        x_0 uniform in the ball,  x_{i+1} = clip(x_i + step * sign(grad loss)),  i < steps

    Args:
        x: images (B, C, H, W) in [0, 1]; y: labels (B,).
        eps: radius of the ball and ``step`` of each iteration, in the scale of the images.
        loss: what each step drives up, see :mod:`mbnas.losses`.
        target: classes (B,) that the loss is taken of instead of the labels, for instance by
            ``losses.towards(losses.margin)``; an image is broken by any wrong class all the same.
        stop_when_broken: return the first misclassified iterate of each image, which then leaves
            the batch; otherwise return the last iterate, as much of the literature does.

    Returns:
        (B, C, H, W), within ``eps`` of ``x`` and within [0, 1].
    """
    lower, upper = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    adversarial = uniform_start(x, eps, generator)
    standing = torch.arange(len(x), device=x.device)
    aim = y if target is None else target
    for _ in range(steps):
        images = adversarial[standing].requires_grad_()
        with torch.enable_grad():
            logits = model(images)
            driven = loss(logits, aim[standing]).sum()
        (gradient,) = torch.autograd.grad(driven, images)
        if stop_when_broken:
            right = logits.argmax(dim=1) == y[standing]
            standing, images, gradient = standing[right], images[right], gradient[right]
            if len(standing) == 0:
                break
        moved = images.detach() + step * gradient.sign()
        adversarial[standing] = moved.clamp(lower[standing], upper[standing])
    return adversarial


def fgsm(
    model: Model, x: Tensor, y: Tensor, *, eps: float, step: float, generator: torch.Generator
) -> Tensor:
    """One step from a uniform start: the perturbation of FastAT (Wong et al. 2020, Alg. 3)."""
    return pgd(
        model,
        x,
        y,
        eps=eps,
        step=step,
        steps=1,
        generator=generator,
        stop_when_broken=False,
    )


def restarted(attack: Attack, model: Model, x: Tensor, y: Tensor, restarts: int) -> Tensor:
    """Attack up to ``restarts`` times, each time only the images that still stand."""
    adversarial = x.clone()
    standing = torch.arange(len(x), device=x.device)
    for _ in range(restarts):
        adversarial[standing] = attack(model, x[standing], y[standing])
        standing = standing[~broken(model, adversarial[standing], y[standing])]
        if len(standing) == 0:
            break
    return adversarial


@torch.no_grad()
def broken(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Which images are misclassified, (B,)."""
    return model(x).argmax(dim=1) != y
