"""The network under audit, its images, and what one attack leaves of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mbnas import losses
from mbnas.attacks import Attack, Model, pgd, uniform_start
from mbnas.config import Surrogate, Threat
from mbnas.evaluation import BATCH, correct_at_each_iterate
from mbnas.losses import Loss
from mbnas.randomness import generator

Steered = Callable[[Tensor, Surrogate], Tensor]
"""A network: images (B, C, H, W) and the surrogate its gradient takes, to logits (B, classes)."""

LOSSES: dict[str, Loss] = {
    "cross-entropy": losses.cross_entropy,
    "margin": losses.margin,
    "logit ratio": losses.logit_ratio,
    "rescaled cross-entropy": losses.rescaled_cross_entropy,
}


@dataclass(frozen=True)
class Case:
    """Masks are (n,) of bool: which of the n images are classified correctly.

    Attributes:
        x: (n, C, H, W) in [0, 1]; y: (n,).
    """

    network: Steered
    x: Tensor
    y: Tensor
    threat: Threat
    seed: int

    def first(self, count: int) -> Case:
        """The same network and the first images."""
        return Case(self.network, self.x[:count], self.y[:count], self.threat, self.seed)

    def through(self, surrogate: Surrogate) -> Model:
        """The network as attacks through ``surrogate`` see it."""
        return lambda x: self.network(x, surrogate)

    def rng(self, *purpose: object) -> torch.Generator:
        """Random numbers of one attack."""
        return generator(self.seed, "audit", *purpose)

    def pgd(
        self, loss: str, surrogate: Surrogate, steps: int, eps: float | None = None
    ) -> partial[Tensor]:
        """PGD on one of :data:`LOSSES`; its step follows ``eps`` where that is not the threat's."""
        radius = self.threat.eps if eps is None else eps
        return partial(
            pgd,
            eps=radius,
            step=self.threat.step if eps is None else 2.5 * radius / steps,
            steps=steps,
            generator=self.rng(loss, surrogate, steps, radius),
            loss=LOSSES[loss],
        )

    def natural(self) -> Tensor:
        """Without an attack."""
        return self._correct(self.x)

    def noise(self, draws: int) -> Tensor:
        """Under every one of ``draws`` uniform perturbations."""
        rng = self.rng("noise")
        masks = [self._correct(uniform_start(self.x, self.threat.eps, rng)) for _ in range(draws)]
        return torch.stack(masks).all(dim=0)

    def standing(self, attack: Attack, model: Model, before: Tensor) -> Tensor:
        """After ``attack`` through ``model``, of those that stood ``before``."""
        after = before.to(self.x.device).clone()
        for indices in torch.split(after.nonzero()[:, 0], BATCH):
            x, y = self.x[indices], self.y[indices]
            adversarial = attack(model, x, y)
            with torch.no_grad():
                after[indices] = self.network(adversarial, Surrogate.STE).argmax(dim=1) == y
        return after

    def by_the_paper(self, steps: int, run: int) -> Tensor:
        """PGD through the straight-through estimator: masks at the last and at every iterate."""
        rng = self.rng("paper", steps, run)
        right = torch.cat(
            [
                correct_at_each_iterate(self.through(Surrogate.STE), x, y, self.threat, rng, steps)
                for x, y in self._batches()
            ],
            dim=1,
        )
        return torch.stack((right[-1], right.all(dim=0)))

    def rise(self, surrogate: Surrogate, steps: int) -> list[float]:
        """Mean cross-entropy at each iterate of PGD on it, the random start first."""
        values: list[float] = []

        def watched(x: Tensor) -> Tensor:
            logits = self.network(x, surrogate)
            values.append(losses.cross_entropy(logits.detach(), self.y).mean().item())
            return logits

        attack = partial(self.pgd("cross-entropy", surrogate, steps), stop_when_broken=False)
        watched(attack(watched, self.x, self.y))
        return values

    def zero_gradients(self, surrogate: Surrogate) -> float:
        """Fraction of images at which the gradient of cross-entropy is zero everywhere."""
        count = 0
        for x, y in self._batches():
            images = x.clone().requires_grad_()
            value = losses.cross_entropy(self.network(images, surrogate), y).sum()
            (gradient,) = torch.autograd.grad(value, images)
            count += int((gradient.flatten(1) == 0).all(dim=1).sum())
        return count / len(self.x)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(torch.split(self.x, BATCH), torch.split(self.y, BATCH), strict=True)

    @torch.no_grad()
    def _correct(self, x: Tensor) -> Tensor:
        logits = [self.network(each, Surrogate.STE) for each in torch.split(x, BATCH)]
        return torch.cat(logits).argmax(dim=1) == self.y
