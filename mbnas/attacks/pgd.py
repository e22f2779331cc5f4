"""Projected gradient descent, FGSM as its first step, and N-FGSM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mbnas.attacks.common import (
    Model,
    ball,
    require_images,
    require_scale,
    right,
    uniform_start,
)
from mbnas.losses import Loss, cross_entropy


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
    stop_when_broken: bool = True,
    annealed: bool = False,
) -> Tensor:
    """L-infinity projected gradient descent (Madry et al. 2018).

        x_0 uniform in the ball,  x_{i+1} = clip(x_i + step * sign(grad loss)),  i < steps

    Args:
        x: images (B, C, H, W) in [0, 1]; y: labels (B,).
        eps: radius of the ball and ``step`` of each iteration, in the scale of the images.
        generator: of the CPU, wherever the images are.
        loss: what each step drives up, see :mod:`mbnas.losses`.
        stop_when_broken: return the first misclassified iterate of each image, which then leaves
            the batch; otherwise return the last iterate, as much of the literature does.
        annealed: let the step fall along half a cosine, to ``step * (1 + cos(pi i / steps)) / 2``
            in iteration i (as learning rates do by Loshchilov & Hutter 2017, Eq. 5).

    Returns:
        (B, C, H, W), within ``eps`` of ``x`` and within [0, 1].

    Raises:
        SettingsError: if a distance is not in the scale of images in [0, 1].
        DataError: if the images are not.
    """
    require_images(x)
    require_scale("step", step)
    lower, upper = ball(x, eps)
    adversarial = uniform_start(x, eps, generator)
    standing = torch.arange(len(x), device=x.device)
    for i in range(steps):
        images = adversarial[standing].requires_grad_()
        with torch.enable_grad():
            logits = model(images)
            driven = loss(logits, y[standing]).sum()
        (gradient,) = torch.autograd.grad(driven, images)
        if stop_when_broken:
            still = right(logits, y[standing]).nonzero()[:, 0]
            standing, images, gradient = standing[still], images[still], gradient[still]
            if len(standing) == 0:
                break
        now = step * (1 + math.cos(math.pi * i / steps)) / 2 if annealed else step
        moved = images.detach() + now * gradient.sign()
        adversarial[standing] = moved.clamp(lower[standing], upper[standing])
    return adversarial


def fgsm(
    model: Model, x: Tensor, y: Tensor, *, eps: float, step: float, generator: torch.Generator
) -> Tensor:
    """One step from a uniform start: the perturbation of FastAT (Wong et al. 2020, Alg. 3).

    It runs in every step of training, where a look at the images would make a GPU wait: unlike
    other attacks it does not check that they are in [0, 1].

    Args:
        x: images (B, C, H, W) in [0, 1]; y: labels (B,).
        eps: radius of the ball and length ``step`` of the step, in the scale of the images.
        generator: of the CPU, wherever the images are.

    Returns:
        (B, C, H, W), within ``eps`` of ``x`` and within [0, 1].

    Raises:
        SettingsError: if a distance is not in the scale of images in [0, 1].
    """
    require_scale("step", step)
    lower, upper = ball(x, eps)
    return _stepped(model, uniform_start(x, eps, generator), y, step).clamp(lower, upper)


def n_fgsm(
    model: Model, x: Tensor, y: Tensor, *, eps: float, step: float, generator: torch.Generator
) -> Tensor:
    """One step from stronger noise, not projected onto the ball (de Jorge et al. 2022, Eq. 6).

        x_adv = x + noise + step * sign(grad cross-entropy(x + noise)),  noise in +-2 eps

    As in the code of its authors, x + noise is clipped to [0, 1] before the gradient is taken. The
    images are not checked, as by :func:`fgsm`.

    Args:
        x: images (B, C, H, W) in [0, 1]; y: labels (B,).
        eps: half of how far the noise goes and length ``step`` of the step, in the scale of the
            images.
        generator: of the CPU, wherever the images are.

    Returns:
        (B, C, H, W) in [0, 1], within 2 eps + step of ``x``.

    Raises:
        SettingsError: if a distance is not in the scale of images in [0, 1].
    """
    require_scale("eps", eps)
    require_scale("step", step)
    return _stepped(model, uniform_start(x, 2 * eps, generator), y, step).clamp(0, 1)


def _stepped(model: Model, x: Tensor, y: Tensor, step: float) -> Tensor:
    """x + step * sign(grad cross-entropy(x))."""
    images = x.requires_grad_()
    with torch.enable_grad():
        driven = cross_entropy(model(images), y).sum()
    (gradient,) = torch.autograd.grad(driven, images)
    return images.detach() + step * gradient.sign()
