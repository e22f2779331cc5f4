"""How much work an audit is allowed.

Minutes, an hour, or as long as it takes, for ResNet-20 on two cores.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mbnas.settings import Effort


@dataclass(frozen=True)
class Plan:
    """What one effort means.

    Attributes:
        images: test images at most; None takes all.
        paper: iterations of the paper's PGD, and runs: of each, from different starts.
        sweep: iterations of each attack of the sweep; every_pair: each loss through each surrogate,
            else each loss through the threat's own and another one, cross-entropy through each.
        apgd: iterations of APGD; targets: wrong classes that APGD-T goes for, 0 for none.
        queries: of Square.
        doublings: how often iterations and restarts are doubled, unless two in a row find nothing.
        noises: random perturbations of each image.
        curve_images: images behind the curves over eps and over iterations.
        autoattack: whether the reference implementation of AutoAttack is run, if installed.
    """

    images: int | None
    paper: tuple[int, ...]
    runs: int
    sweep: int
    every_pair: bool
    apgd: int
    targets: int
    queries: int
    doublings: int
    noises: int
    curve_images: int
    autoattack: bool

    def record(self) -> dict[str, Any]:
        """Plain values, as they come back from JSON."""
        return {**asdict(self), "paper": list(self.paper)}


PLANS = {
    Effort.QUICK: Plan(
        images=500,
        paper=(20,),
        runs=1,
        sweep=10,
        every_pair=False,
        apgd=20,
        targets=0,
        queries=200,
        doublings=2,
        noises=5,
        curve_images=64,
        autoattack=False,
    ),
    Effort.STANDARD: Plan(
        images=1000,
        paper=(20, 50),
        runs=5,
        sweep=20,
        every_pair=True,
        apgd=100,
        targets=9,
        queries=2000,
        doublings=4,
        noises=20,
        curve_images=256,
        autoattack=False,
    ),
    Effort.FULL: Plan(
        images=None,
        paper=(20, 50),
        runs=5,
        sweep=50,
        every_pair=True,
        apgd=100,
        targets=9,
        queries=5000,
        doublings=5,
        noises=100,
        curve_images=1000,
        autoattack=True,
    ),
}
