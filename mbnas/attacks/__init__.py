"""Attacks on images in [0, 1] as small pure functions: ``attack(model, x, y, ...) -> x_adv``.

``model`` maps images (B, C, H, W) to logits (B, classes); which surrogate its gradient takes is
bound by the caller, e.g. ``lambda x: network(x, Surrogate.STE)``. Of attacks that take
more than one step, images that are broken leave the batch, unless PGD is to go to its last iterate;
none takes gradients of parameters.
"""

from mbnas.attacks.apgd import apgd, apgd_targeted
from mbnas.attacks.common import (
    Attack,
    Model,
    broken,
    require_images,
    right,
    uniform_start,
)
from mbnas.attacks.pgd import fgsm, n_fgsm, pgd
from mbnas.attacks.square import square

__all__ = [
    "Attack",
    "Model",
    "apgd",
    "apgd_targeted",
    "broken",
    "fgsm",
    "n_fgsm",
    "pgd",
    "require_images",
    "right",
    "square",
    "uniform_start",
]
