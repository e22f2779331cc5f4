"""What the evidence says, check by check: a figure, its threshold, a verdict and a sentence.

Thresholds are in percentage points of all audited images, but those of growing eps, which is tried
on the plan's ``curve_images``. Between PGD-20 and AutoAttack, networks that were trained
adversarially lose 2.5 to 5 points (Croce & Hein 2020, Table 2); the signs of masked gradients are
those of Athalye et al. (2018, Sec. 3.1) and Carlini et al. (2019, Sec. 3-4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from torch import Tensor

from mbnas.auditing.evidence import AUTOATTACK, DOUBLED, SQUARE, TRANSFER, Evidence


class Verdict(StrEnum):
    """How a check ended, from good to bad."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Check:
    """One line of an audit.

    Attributes:
        figure: what was measured; threshold: what passes.
    """

    name: str
    figure: str
    threshold: str
    verdict: Verdict
    explanation: str


def judge(evidence: Evidence) -> list[Check]:
    """Every check that the evidence allows."""
    checks = [each(evidence) for each in _ALWAYS]
    return checks + [
        _finds_no_more(evidence, name, prefix, why)
        for name, prefix, why in _FURTHER
        if any(each.startswith(prefix) for each in evidence.standing)
    ]


def overall(checks: list[Check]) -> Verdict:
    """The worst verdict."""
    return max((check.verdict for check in checks), key=list(Verdict).index)


def percent(mask: Tensor) -> float:
    """Images of a mask (n,), or of all runs (k, n), that are right."""
    return 100 * int(mask.sum()) / mask.numel()


def _graded(value: float, passes: float, warns: float) -> Verdict:
    """Small is good; a percentage that is a threshold to the last digit is not above it."""
    value = round(value, 4)  # differences of percentages, and means of masks, are rounded ones
    if value <= passes:
        return Verdict.PASS
    return Verdict.WARN if value <= warns else Verdict.FAIL


def _gap(evidence: Evidence) -> Check:
    steps = min(evidence.last)
    gap = percent(evidence.last[steps]) - percent(evidence.worst)
    return Check(
        "gap to the worst case",
        f"{gap:.1f} pp",
        "5 pp (fails above 10)",
        _graded(gap, 5, 10),
        f"PGD-{steps} as in the paper (straight-through gradient, last iterate) against the "
        "per-image worst case; a wide gap means that PGD was fooled.",
    )


def _last_iterate(evidence: Evidence) -> Check:
    steps = max(evidence.last)
    surplus = percent(evidence.last[steps]) - percent(evidence.natural)
    slack = percent(evidence.last[steps]) - percent(evidence.every[steps])
    return Check(
        "last iterate",
        f"{slack:.1f} pp above every iterate",
        "5 pp (fails above natural accuracy)",
        Verdict.FAIL if surplus > 0 else _graded(slack, 5, 100),
        "An attack that climbs leaves broken images broken; more images right at the last iterate "
        "than without an attack is a sure sign of masked gradients.",
    )


def _sweep(evidence: Evidence) -> Check:
    gap = percent(evidence.scored) - percent(evidence.sweep[evidence.strongest])
    return Check(
        "losses and surrogates",
        f"{gap:.1f} pp",
        "5 pp (fails above 10)",
        _graded(gap, 5, 10),
        f"What the strongest of the sweep ({evidence.strongest}) finds beyond PGD as the threat "
        "says.",
    )


def _noise(evidence: Evidence) -> Check:
    attacked, noisy = percent(evidence.scored), percent(evidence.noise)
    return Check(
        "random noise",
        f"{noisy:.1f} % stand noise, {attacked:.1f} % PGD",
        "noise breaks less",
        Verdict.PASS if attacked <= noisy else Verdict.FAIL,
        "A gradient that points anywhere useful beats random perturbations of the same size.",
    )


def _radii(evidence: Evidence) -> Check:
    curve = [100 * evidence.radii[radius] for radius in sorted(evidence.radii)]
    rise = max(after - before for before, after in pairwise(curve))
    verdict = max(_graded(curve[-1], 1, 5), _graded(rise, 2, 5), key=list(Verdict).index)
    return Check(
        "growing eps",
        f"{curve[-1]:.1f} % stand eps 1; rises by {max(rise, 0):.1f} pp at most",
        "1 % and 2 pp (fails above 5)",
        verdict,
        "A larger ball holds the smaller one, and the whole box holds images of other classes: "
        "accuracy must fall, to nothing at last.",
    )


def _zero_gradients(evidence: Evidence) -> Check:
    rate = 100 * max(evidence.zero_gradients.values())
    return Check(
        "images without a gradient",
        f"{rate:.1f} %",
        "1 % (fails above 10)",
        _graded(rate, 1, 10),
        "Where the gradient of cross-entropy is zero everywhere, an attack on it cannot start.",
    )


def _convergence(evidence: Evidence) -> Check:
    late = {name: _late_rise(curve) for name, curve in evidence.rises.items()}
    surrogate = max(late, key=lambda name: late[name])
    value, nothing = 100 * late[surrogate], late[surrogate] == float("inf")
    figure = "nothing rises" if nothing else f"{value:.0f} % of the rise is late"
    return Check(
        "convergence of the loss",
        f"{figure} ({surrogate})",
        "20 % in the last quarter of iterations (fails if nothing rises)",
        Verdict.FAIL if nothing else _graded(value, 20, float("inf")),
        "While the loss still climbs at a steady rate (25 %), more iterations would find more.",
    )


def _late_rise(curve: list[float]) -> float:
    total = curve[-1] - curve[0]
    if not total > 0:
        return float("inf")
    return (curve[-1] - curve[-1 - len(curve) // 4]) / total


def _guess(evidence: Evidence) -> Check:
    natural, constant = percent(evidence.natural), 100 * evidence.commonest
    return Check(
        "natural accuracy",
        f"{natural:.1f} %",
        f"more than {constant:.1f} %",
        Verdict.PASS if natural > constant else Verdict.WARN,
        "A network that answers the commonest class to every image is right this often, and it "
        "withstands every attack: what one that is no better withstands means nothing.",
    )


def _finds_no_more(evidence: Evidence, name: str, prefix: str, why: str) -> Check:
    before, found = _found(evidence, prefix)
    return Check(
        name,
        f"{found:.1f} pp of the {before:.1f} % left",
        "1 pp (fails above 3)",
        _graded(found, 1, 3),
        why,
    )


def _found(evidence: Evidence, prefix: str) -> tuple[float, float]:
    """What stood before the attacks of that name, and how much of it they broke, in percent."""
    names = list(evidence.standing)
    hits = [index for index, name in enumerate(names) if name.startswith(prefix)]
    masks = [evidence.swept, *evidence.standing.values()]
    first, last = masks[hits[0]], masks[hits[-1] + 1]
    return percent(first), percent(first) - percent(last)


_ALWAYS: tuple[Callable[[Evidence], Check], ...] = (
    _gap,
    _last_iterate,
    _sweep,
    _noise,
    _radii,
    _zero_gradients,
    _convergence,
    _guess,
)
_FURTHER = (
    ("APGD", "APGD", "Adaptive steps, two or three losses: what fixed steps jumped over."),
    (
        "more iterations and starts",
        DOUBLED,
        "Iterations, of falling steps, and starts doubled until two doublings find nothing or the "
        "plan ends; the strongest attack takes turns with cross-entropy and the margin.",
    ),
    (
        "Square, gradient-free",
        SQUARE,
        "Random search that sees logits only; what it alone finds, gradients were hidden from.",
    ),
    (
        "transfer",
        TRANSFER,
        "Adversarial images of other networks; white-box attacks should have found them.",
    ),
    (AUTOATTACK, AUTOATTACK, "The reference implementation, through the strongest surrogate."),
)
