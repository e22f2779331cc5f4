"""Which attacks an audit runs, in which order, and what is left of the images after each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mbnas import losses
from mbnas.attacks import Attack, Model, apgd, apgd_targeted, square
from mbnas.auditing import autoattack
from mbnas.auditing.case import LOSSES, Case
from mbnas.auditing.efforts import Plan
from mbnas.evaluation import Steered, another, through
from mbnas.ledger import Ledger
from mbnas.settings import Surrogate

RADII = (0.25, 0.5, 1, 2, 4, 8, 16)  # multiples of eps; the whole box follows
PART = 1024
"""Images on which a further attack is finished before the next ones: a kill loses one part."""
PATIENCE = 2
"""Doublings that may find nothing before the next ones are left out: the first are short."""
DOUBLED, SQUARE, AUTOATTACK, TRANSFER = "PGD, ", "Square, ", "AutoAttack", "transfer from "
Pair = tuple[str, Surrogate]
"""A loss and the surrogate its gradient takes."""
Attempts = Sequence[tuple[Attack, Model]]
"""One attack from several random starts, each on the network as it sees it."""


@dataclass(frozen=True)
class Evidence:
    """Masks are (n,) of bool: which of the n images are classified correctly nevertheless.

    Attributes:
        natural: without an attack.
        commonest: fraction of images of the class that most of them have.
        last, every: by the paper's PGD, at the last and at every iterate; iterations -> (runs, n).
        scored: under PGD as the threat says.
        sweep: of these, under each attack of the sweep, ``<loss>, <surrogate>``; each begins with
            all of them. Cross-entropy through the threat's surrogate is ``scored`` itself where the
            sweep takes no more steps.
        strongest: which of the sweep left the fewest of what is ``scored``; of several the first
            through the threat's own surrogate, if one is.
        swept: under all of the above, noise, and what is within eps of the curve over it.
        standing: after each further attack in turn, of those that stood before.
        noise: of the natural ones, under every random perturbation.
        radii: eps -> fraction of the first images standing under the strongest attack.
        rises: surrogate -> mean loss at each iterate.
        zero_gradients: surrogate -> fraction of images whose loss has no gradient at all.
    """

    natural: Tensor
    commonest: float
    last: dict[int, Tensor]
    every: dict[int, Tensor]
    scored: Tensor
    sweep: dict[str, Tensor]
    strongest: str
    swept: Tensor
    standing: dict[str, Tensor]
    noise: Tensor
    radii: dict[float, float]
    rises: dict[str, list[float]]
    zero_gradients: dict[str, float]

    @property
    def worst(self) -> Tensor:
        """Which images withstand everything; each further attack began with what was left."""
        return list(self.standing.values())[-1]


def gather(case: Case, plan: Plan, sources: Mapping[str, Steered], ledger: Ledger) -> Evidence:
    """Attack the network with everything the plan holds.

    Args:
        sources: networks whose adversarial images are tried on this one.
    """
    natural = ledger.mask("natural", case.natural)
    noise = ledger.mask("noise", partial(case.noise, plan.noises, natural))
    last, every = _by_the_paper(case, plan, ledger)
    scored, sweep = _swept(case, plan, ledger, natural)
    own = case.threat.surrogate
    strongest = min(sweep, key=lambda pair: (int(sweep[pair].sum()), pair[1] is not own))
    alone = (natural, noise, scored, *sweep.values(), *last.values(), *every.values())
    swept = torch.cat([masks.view(-1, len(natural)) for masks in alone]).all(dim=0)
    few = case.first(plan.curve_images)
    curve = _curve(few, plan, ledger, natural[: plan.curve_images], strongest)
    for radius, mask in curve.items():
        if radius <= case.threat.eps:
            swept[: len(mask)] &= mask
    parts = case.parts(PART)
    further = [_attacks(part, plan, sources, strongest) for part in parts]
    standing: dict[str, Tensor] = {}
    left, in_vain = swept, 0
    for name, attempts in further[0].items():
        doubled = name.startswith(DOUBLED)
        if doubled and in_vain == PATIENCE:
            continue
        before = left
        for start in range(len(attempts)):
            entry = name if len(attempts) == 1 else f"{name}: {start + 1}"
            attempt = [attacks[name][start] for attacks in further]
            # What was measured before an interrupt may have begun with more than is left now.
            left = left & _part_by_part(entry, parts, attempt, left, ledger)
        in_vain = in_vain + 1 if doubled and torch.equal(before, left) else 0
        standing[name] = left
    return Evidence(
        natural=natural,
        commonest=float(case.images.labels.bincount().max()) / len(natural),
        noise=noise,
        last=last,
        every=every,
        scored=scored,
        sweep={_named(pair): mask for pair, mask in sweep.items()},
        strongest=_named(strongest),
        swept=swept,
        standing=standing,
        radii={radius: float(mask.float().mean()) for radius, mask in curve.items()},
        rises={
            surrogate.value: ledger.numbers(
                f"loss, {surrogate}", partial(few.rise, surrogate, 2 * plan.sweep)
            )
            for surrogate in _shown(strongest)
        },
        zero_gradients={
            surrogate.value: ledger.number(
                f"zero gradients, {surrogate}", partial(case.zero_gradients, surrogate)
            )
            for surrogate in _shown(strongest)
        },
    )


def count(plan: Plan, images: int, sources: int) -> int:
    """How many results :func:`gather` asks the ledger for at most, give or take two.

    Doublings that are left out, because those before found nothing, are not asked for.
    """
    radii, shown = len(RADII), 2
    starts = 2 * ((1 << plan.doublings) - 1)
    further = 3 + bool(plan.targets) + starts + sources + plan.autoattack
    return (
        3
        + len(plan.paper) * plan.runs
        + len(_pairs(plan, Surrogate.STE))
        + math.ceil(images / PART) * further
        + radii
        + 2 * shown
    )


def _by_the_paper(
    case: Case, plan: Plan, ledger: Ledger
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    last, every = {}, {}
    for steps in plan.paper:
        runs = torch.stack(
            [
                ledger.masks(f"PGD-{steps}, run {run}", partial(case.by_the_paper, steps, run))
                for run in range(1, plan.runs + 1)
            ]
        )
        last[steps], every[steps] = runs.unbind(dim=1)
    return last, every


def _swept(
    case: Case, plan: Plan, ledger: Ledger, natural: Tensor
) -> tuple[Tensor, dict[Pair, Tensor]]:
    """Under PGD as the threat says, and what each of the sweep leaves of that."""
    own = ("cross-entropy", case.threat.surrogate)

    def left(name: str, pair: Pair, steps: int, before: Tensor) -> Tensor:
        attack, model = case.pgd(*pair, steps), case.through(pair[1])
        return ledger.mask(name, partial(case.standing, attack, model, before))

    scored = left("PGD as the threat says", own, case.threat.steps, natural)
    longer = plan.sweep > case.threat.steps
    further = (pair for pair in _pairs(plan, own[1]) if longer or pair != own)
    swept = {pair: left(_named(pair), pair, plan.sweep, scored) for pair in further}
    return scored, {own: scored} | swept


def _attacks(
    case: Case, plan: Plan, sources: Mapping[str, Steered], strongest: Pair
) -> Mapping[str, Attempts]:
    """What is tried on the images that stand after the sweep, in this order.

    Args:
        strongest: of the sweep, through whose surrogate all goes; where there are several starts,
            it takes turns with what finds most when it is given time.
    """
    eps, own = case.threat.eps, case.threat.surrogate
    turns = list(dict.fromkeys((strongest, ("cross-entropy", own), ("margin", own))))
    adaptive: dict[str, Attack] = {
        f"APGD-{name}": partial(
            apgd, eps=eps, steps=plan.apgd, generator=case.rng("apgd", name), loss=each
        )
        for name, each in (("CE", losses.cross_entropy), ("DLR", losses.logit_ratio))
    }
    if plan.targets:
        adaptive["APGD-T"] = partial(
            apgd_targeted,
            eps=eps,
            steps=plan.apgd,
            targets=plan.targets,
            generator=case.rng("apgd-t"),
        )
    last: dict[str, Attack] = {
        f"{SQUARE}{plan.queries} queries": partial(
            square, eps=eps, queries=plan.queries, generator=case.rng("square")
        )
    }
    if plan.autoattack:
        last[AUTOATTACK] = partial(autoattack.standard, eps=eps, seed=case.seed)

    def started(steps: int, start: int) -> tuple[Attack, Model]:
        loss, surrogate = turns[start % len(turns)]
        rng = case.rng(DOUBLED, steps, start)
        attack = partial(case.pgd(loss, surrogate, steps), generator=rng, annealed=True)
        return attack, case.through(surrogate)

    doubled = {
        f"{DOUBLED}{times * plan.sweep} steps, {times} starts": [
            started(times * plan.sweep, start) for start in range(times)
        ]
        for times in (2**doubling for doubling in range(1, plan.doublings + 1))
    }

    def once(attacks: Mapping[str, Attack]) -> dict[str, list[tuple[Attack, Model]]]:
        return {name: [(each, case.through(strongest[1]))] for name, each in attacks.items()}

    def far() -> Attack:
        """To the last iterate: what barely fools the source fools no other network."""
        return partial(case.pgd("cross-entropy", own, plan.sweep), stop_when_broken=False)

    transfer = {
        f"{TRANSFER}{name}": [(far(), through(source, own))] for name, source in sources.items()
    }
    return once(adaptive) | doubled | once(last) | transfer


def _part_by_part(
    entry: str,
    parts: Sequence[Case],
    attempt: Sequence[tuple[Attack, Model]],
    before: Tensor,
    ledger: Ledger,
) -> Tensor:
    """What one attack, made for each part, leaves of the images that stood ``before``, (n,)."""
    names = [f"{entry}, part {part} of {len(parts)}" for part in range(1, len(parts) + 1)]
    entries, before_each = names if len(parts) > 1 else [entry], torch.split(before, PART)
    masks = [
        ledger.mask(name, partial(part.standing, attack, model, left))
        for name, part, (attack, model), left in zip(
            entries, parts, attempt, before_each, strict=True
        )
    ]
    return torch.cat(masks)


def _curve(
    few: Case, plan: Plan, ledger: Ledger, natural: Tensor, strongest: Pair
) -> dict[float, Tensor]:
    """What stands over eps; 1 is the whole box, where nothing should."""
    inside = [each * few.threat.eps for each in RADII]
    left = {0.0: natural}
    for radius in (*(each for each in inside if each < 1), 1.0):
        attack, model = few.pgd(*strongest, plan.sweep, radius), few.through(strongest[1])
        left[radius] = ledger.mask(
            f"eps {radius:.4g}", partial(few.standing, attack, model, natural)
        )
    return left


def _pairs(plan: Plan, own: Surrogate) -> list[Pair]:
    """Every loss through every surrogate, or through the threat's own and another one.

    Then cross-entropy goes through all of them: a network that was trained against one surrogate
    may be blind to another.
    """
    every = tuple(Surrogate) if plan.every_pair else (own, another(own))
    pairs = [(loss, surrogate) for loss in LOSSES for surrogate in every]
    return pairs + [("cross-entropy", each) for each in Surrogate if each not in every]


def _shown(strongest: Pair) -> tuple[Surrogate, ...]:
    """The surrogates of the curves: the paper's, and that of the strongest attack."""
    return tuple(dict.fromkeys((Surrogate.STE, strongest[1])))


def _named(pair: Pair) -> str:
    loss, surrogate = pair
    return f"{loss}, {surrogate}"
