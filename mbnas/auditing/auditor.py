"""One audit, from a network and its images to a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

from mbnas.auditing import autoattack
from mbnas.auditing.case import Case
from mbnas.auditing.checks import Check, Verdict, judge, overall
from mbnas.auditing.efforts import Plan
from mbnas.auditing.evidence import Evidence, count, gather
from mbnas.data import fingerprint
from mbnas.evaluation import Steered, require_evaluation_mode, require_gradient, require_sound
from mbnas.images import Images
from mbnas.journal import Journal
from mbnas.ledger import Ledger, origin_of
from mbnas.progress import bar, log
from mbnas.settings import Threat

SOURCE = "source "


@dataclass(frozen=True)
class Audit:
    """What was found, and what it means."""

    threat: Threat
    seed: int
    plan: Plan
    evidence: Evidence
    checks: list[Check]

    @property
    def verdict(self) -> Verdict:
        """The worst of all checks."""
        return overall(self.checks)


def audit(
    network: Steered,
    images: Images,
    threat: Threat,
    plan: Plan,
    *,
    seed: int,
    journal: Journal,
    sources: Mapping[str, Steered] | None = None,
) -> Audit:
    """Attack ``network`` with all that ``plan`` holds and judge what is found.

    Args:
        network: ``network(x, surrogate)`` to logits (B, classes), in evaluation mode; torch must be
            able to differentiate it by x.
        images: n of them, with labels; ``Images.of(x, y)`` makes them of x (n, C, H, W), uint8 or
            floats in [0, 1], and y (n,).
        journal: where each result is kept; what it holds already is not measured again.
        sources: networks whose adversarial images are tried on this one, by name; an unfinished
            audit goes on with more of them.

    Raises:
        SettingsError: if a network is in training mode or has no gradient, or the one under audit
            changes its images or returns numbers that are not finite.
        DataError: if the images or labels are none that can be audited, or the journal was begun
            with another network, threat, plan, seed, images or version of the attacks.
    """
    require_sound(network, images)
    plan, others = feasible(plan), dict(sorted((sources or {}).items()))
    for each in others.values():
        require_evaluation_mode(each)
        require_gradient(each, images)
    case = Case(network, images, threat, seed)
    origin = {
        "threat": threat.model_dump(mode="json"),
        "plan": plan.record(),
        "seed": seed,
        "images": fingerprint(images),
        "version of the attacks": version(),
        "network (by its first logits and gradients)": case.print_of(network),
        **{f"{SOURCE}{name}": case.print_of(each) for name, each in others.items()},
    }
    with bar("audit", count(plan, len(images), len(others)) + 1, len(journal.read())) as advance:
        evidence = gather(case, plan, others, Ledger(journal, origin, advance))
    return Audit(threat, seed, plan, evidence, judge(evidence))


@cache
def version() -> str:
    """Of all code that decides what attacks find: one version's findings are none of another's."""
    mbnas = Path(__file__).parent.parent
    attacks = sorted((mbnas / "attacks").glob("*.py"))
    names = ["losses", "randomness", "evaluation"]
    names += ["auditing/autoattack", "auditing/case", "auditing/evidence"]
    names += ["networks", "layers", "quantizers", "fixed_point", "normalisation", "prelu"]
    names += ["kernels", "loops", "fusion", "precision"]
    files = (*attacks, *(mbnas / f"{each}.py" for each in names))
    return sha256(b"".join(each.read_bytes() for each in files)).hexdigest()[:12]


def begun_with(journal: Journal) -> AbstractSet[str]:
    """Of which sources an unfinished audit tries the adversarial images, by name."""
    origin = origin_of(journal)
    return {key.removeprefix(SOURCE) for key in origin if key.startswith(SOURCE)}


def feasible(plan: Plan) -> Plan:
    """The plan, but for AutoAttack where it is not installed."""
    if not plan.autoattack or autoattack.available():
        return plan
    log.warning('AutoAttack is left out; pip install "mbnas[autoattack]" to run it, too')
    return replace(plan, autoattack=False)
