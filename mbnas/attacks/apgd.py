"""Auto-PGD, whose step size and restarts follow the loss (Croce & Hein 2020, Alg. 1)."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from mbnas.attacks.common import Model, ball, broken, require_images, right, uniform_start
from mbnas.losses import Loss, cross_entropy, targeted_logit_ratio

MOMENTUM = 0.75
RHO = 0.75


class _Ascent(NamedTuple):
    """Where each image stands; all have a row for each.

    Attributes:
        place: x_k, and before: x_{k-1}; gradient and value belong to x_k.
        best: the iterate of the largest value so far.
        step: eta, shaped (B, 1, 1, 1).
        rises: how often the value rose since the last checkpoint.
        mark: the best value at the last checkpoint, and halved: whether the step was, there.
    """

    place: Tensor
    before: Tensor
    gradient: Tensor
    value: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    step: Tensor
    rises: Tensor
    mark: Tensor
    halved: Tensor


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int,
    generator: torch.Generator,
    loss: Loss = cross_entropy,
    target: Tensor | None = None,
) -> Tensor:
    """L-infinity APGD from a uniform start; at most ``steps + 1`` passes.

    Args:
        x: images (B, C, H, W) in [0, 1]; y: labels (B,).
        eps: radius of the ball, in the scale of the images.
        generator: of the CPU, wherever the images are.
        loss: what is driven up, see :mod:`mbnas.losses`.
        target: what the loss is taken of instead of the labels, (B, ...).

    Returns:
        (B, C, H, W): the first misclassified iterate, or the one of the largest loss.

    Raises:
        SettingsError: if ``eps`` is not in the scale of images in [0, 1].
        DataError: if the images are not.
    """
    require_images(x)
    lower, upper = ball(x, eps)
    adversarial = uniform_start(x, eps, generator)
    standing = torch.arange(len(x), device=x.device)
    aim = y if target is None else target

    def look(place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which of the standing images are classified correctly, their loss and its gradient."""
        images = place.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(images)
            value = loss(logits, aim[standing])
        (gradient,) = torch.autograd.grad(value.sum(), images)
        return right(logits, y[standing]), value.detach(), gradient

    still, value, gradient = look(adversarial)
    ascent = _begin(adversarial.clone(), value, gradient, 2 * eps)
    periods = {end: end - begin for begin, end in pairwise(checkpoints(steps))}
    for k in range(1, steps + 1):
        kept = still.nonzero()[:, 0]
        standing, ascent = standing[kept], _Ascent(*(each[kept] for each in ascent))
        if len(standing) == 0:
            break
        momentum = MOMENTUM if k > 1 else 1.0
        ascent = _move(ascent, lower[standing], upper[standing], momentum)
        still, value, gradient = look(ascent.place)
        ascent = _record(ascent, value, gradient)
        adversarial[standing] = torch.where(_like(still, x), ascent.best, ascent.place)
        if k in periods:
            ascent = _review(ascent, periods[k])
    return adversarial


def apgd_targeted(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    steps: int,
    generator: torch.Generator,
    targets: int = 9,
) -> Tensor:
    """APGD towards each of the ``targets`` likeliest wrong classes in turn (APGD-T).

    Drives up the targeted difference-of-logits ratio (Croce & Hein 2020, Eq. 7); images that are
    broken on the way to one class are left alone by the others.

    Args:
        x: images (B, C, H, W) in [0, 1]; y: labels (B,).
        eps: radius of the ball, in the scale of the images.
        steps: towards each class, as of :func:`apgd`.
        generator: of the CPU, wherever the images are.

    Returns:
        (B, C, H, W), within ``eps`` of ``x`` and within [0, 1]; misclassified where any class led
        to that.

    Raises:
        SettingsError: if ``eps`` is not in the scale of images in [0, 1].
        DataError: if the images are not.
    """
    adversarial = x.clone()
    standing = torch.arange(len(x), device=x.device)
    with torch.no_grad():
        logits = model(x).scatter(1, y[:, None], -torch.inf)
    classes = logits.topk(min(targets, logits.shape[1] - 1), dim=1).indices
    for rank in range(classes.shape[1]):
        adversarial[standing] = apgd(
            model,
            x[standing],
            y[standing],
            eps=eps,
            steps=steps,
            generator=generator,
            loss=targeted_logit_ratio,
            target=torch.stack((y, classes[:, rank]), dim=1)[standing],
        )
        standing = standing[~broken(model, adversarial[standing], y[standing])]
        if len(standing) == 0:
            break
    return adversarial


def checkpoints(steps: int) -> list[int]:
    """After which iterations the step size is reviewed, 0 first (Croce & Hein 2020, Sec. 3.1)."""
    before, now = 0, 22  # in hundredths of all steps
    found = {0}
    while now <= 100:
        found.add(-(-now * steps // 100))
        before, now = now, now + max(now - before - 3, 6)
    return sorted(found)


def _begin(place: Tensor, value: Tensor, gradient: Tensor, step: float) -> _Ascent:
    return _Ascent(
        place=place,
        before=place,
        gradient=gradient,
        value=value,
        best=place,
        best_gradient=gradient,
        best_value=value,
        step=torch.full_like(value, step).view(-1, *(1 for _ in place.shape[1:])),
        rises=torch.zeros_like(value),
        mark=value,
        halved=torch.zeros_like(value, dtype=torch.bool),
    )


def _move(ascent: _Ascent, lower: Tensor, upper: Tensor, momentum: float) -> _Ascent:
    """z = P(x_k + eta sign g),  x_{k+1} = P(x_k + a (z - x_k) + (1 - a)(x_k - x_{k-1}))."""
    place = ascent.place
    z = (place + ascent.step * ascent.gradient.sign()).clamp(lower, upper)
    moved = place + momentum * (z - place) + (1 - momentum) * (place - ascent.before)
    return ascent._replace(place=moved.clamp(lower, upper), before=place)


def _record(ascent: _Ascent, value: Tensor, gradient: Tensor) -> _Ascent:
    """Remember what was found at the new place."""
    better = value > ascent.best_value
    wide = _like(better, gradient)
    return ascent._replace(
        value=value,
        gradient=gradient,
        rises=ascent.rises + (value > ascent.value),
        best=torch.where(wide, ascent.place, ascent.best),
        best_gradient=torch.where(wide, gradient, ascent.best_gradient),
        best_value=torch.where(better, value, ascent.best_value),
    )


def _review(ascent: _Ascent, period: int) -> _Ascent:
    """Halve the step, and go back to the best place, where it no longer helps.

    That is where the value rose too seldom since the last checkpoint, or where neither the step
    nor the best value changed.
    """
    seldom = ascent.rises < RHO * period
    stuck = ~ascent.halved & (ascent.best_value <= ascent.mark)
    halve = seldom | stuck
    wide = _like(halve, ascent.place)
    return ascent._replace(
        place=torch.where(wide, ascent.best, ascent.place),
        gradient=torch.where(wide, ascent.best_gradient, ascent.gradient),
        value=torch.where(halve, ascent.best_value, ascent.value),
        step=torch.where(wide, ascent.step / 2, ascent.step),
        rises=torch.zeros_like(ascent.rises),
        mark=ascent.best_value,
        halved=halve,
    )


def _like(flags: Tensor, images: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return flags.view(-1, *(1 for _ in images.shape[1:]))
