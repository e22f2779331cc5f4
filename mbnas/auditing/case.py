"""The network under audit, its images, and what one attack leaves of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from mbnas import losses
from mbnas.attacks import Attack, Model, pgd, right, uniform_start
from mbnas.evaluation import BATCH, Steered, at_last_and_every, through
from mbnas.images import Images
from mbnas.losses import Loss
from mbnas.randomness import generator
from mbnas.settings import Surrogate, Threat

LOSSES: dict[str, Loss] = {
    "cross-entropy": losses.cross_entropy,
    "margin": losses.margin,
    "logit ratio": losses.logit_ratio,
    "rescaled cross-entropy": losses.rescaled_cross_entropy,
}


@dataclass(frozen=True)
class Case:
    """Masks are (n,) of bool: which of the n images are classified correctly."""

    network: Steered
    images: Images
    threat: Threat
    seed: int

    def first(self, count: int) -> Case:
        """The same network and the first images."""
        return replace(self, images=self.images.first(count))

    def parts(self, size: int) -> list[Case]:
        """The same network and so many of the images each; all draw the same random numbers."""
        positions = torch.split(torch.arange(len(self.images)), size)
        return [replace(self, images=self.images.take(each)) for each in positions]

    def through(self, surrogate: Surrogate) -> Model:
        """The network as attacks through ``surrogate`` see it."""
        return through(self.network, surrogate)

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
            step=self.threat.step if eps is None else min(2.5 * radius / steps, 1),
            steps=steps,
            generator=self.rng(loss, surrogate, steps, radius),
            loss=LOSSES[loss],
        )

    def natural(self) -> Tensor:
        """Without an attack."""
        return torch.cat([self._correct(x, y) for x, y in self.images.batches(BATCH)])

    def noise(self, draws: int, before: Tensor) -> Tensor:
        """Under every one of ``draws`` uniform perturbations, of those that stood ``before``."""
        rng = self.rng("noise")

        def perturb(_: Model, x: Tensor, __: Tensor) -> Tensor:
            return uniform_start(x, self.threat.eps, rng)

        left = before
        for _ in range(draws):
            left = self.standing(perturb, self.through(Surrogate.STE), left)
        return left

    def standing(self, attack: Attack, model: Model, before: Tensor) -> Tensor:
        """After ``attack`` through ``model``, of those that stood ``before``."""
        after = before.to(self.images.device).clone()
        for indices in torch.split(after.nonzero()[:, 0], BATCH):
            if len(indices) == 0:  # torch splits nothing into one part
                break
            x, y = self.images.gather(indices)
            after[indices] = self._correct(attack(model, x, y), y)
        return after

    def by_the_paper(self, steps: int, run: int) -> Tensor:
        """PGD through the straight-through estimator: masks at the last and at every iterate."""
        rng = self.rng("paper", steps, run)
        model = self.through(Surrogate.STE)
        return at_last_and_every(model, self.images.batches(BATCH), self.threat, rng, steps)

    def rise(self, surrogate: Surrogate, steps: int) -> list[float]:
        """Mean cross-entropy at each iterate of PGD on it, the random start first."""
        attack = partial(self.pgd("cross-entropy", surrogate, steps), stop_when_broken=False)

        def summed(x: Tensor, y: Tensor) -> Tensor:
            sums: list[Tensor] = []

            def watched(z: Tensor) -> Tensor:
                logits = self.network(z, surrogate)
                sums.append(losses.cross_entropy(logits.detach(), y).sum())
                return logits

            watched(attack(watched, x, y))
            return torch.stack(sums)

        total = torch.stack([summed(x, y) for x, y in self.images.batches(BATCH)]).sum(dim=0)
        means: list[float] = (total / len(self.images)).tolist()
        return means

    def zero_gradients(self, surrogate: Surrogate) -> float:
        """Fraction of images at which the gradient of cross-entropy is zero everywhere."""
        count = 0
        for x, y in self.images.batches(BATCH):
            images = x.clone().requires_grad_()
            value = losses.cross_entropy(self.network(images, surrogate), y).sum()
            (gradient,) = torch.autograd.grad(value, images)
            count += int((gradient.flatten(1) == 0).all(dim=1).sum())
        return count / len(self.images)

    def print_of(self, network: Steered) -> list[str]:
        """By which a network is known again: what attacks see of it at the first image.

        Logits, and for each surrogate the norm of the gradient of cross-entropy and its derivative
        along the image, rounded so that most machines agree on them.
        """
        x, y = self.images.gather(slice(1))
        seen: list[Tensor] = []
        for surrogate in Surrogate:
            image = x.clone().requires_grad_()
            logits = network(image, surrogate)
            (gradient,) = torch.autograd.grad(losses.cross_entropy(logits, y).sum(), image)
            seen += [logits.detach().flatten(), gradient.norm()[None], (gradient * x).sum()[None]]
        return [f"{each:.3g}" for each in torch.cat(seen).tolist()]

    @torch.no_grad()
    def _correct(self, x: Tensor, y: Tensor) -> Tensor:
        return right(self.network(x, Surrogate.STE), y)
