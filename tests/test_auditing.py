"""Audits of networks that are honest, and of networks that hide their gradients."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import cycle, islice, pairwise, product
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from helpers import README, sources
from rich.console import Console
from torch import Tensor, nn
from victims import grey, masked

from mbnas import auditing, backbones, losses
from mbnas.assignment import Assignment
from mbnas.attacks import Attack, Model
from mbnas.auditing import PLANS, Audit, Plan, Verdict, audit, begun_with, page, version
from mbnas.auditing.case import LOSSES, Case
from mbnas.auditing.checks import Check, judge, percent
from mbnas.auditing.evidence import (
    AUTOATTACK,
    DOUBLED,
    SQUARE,
    TRANSFER,
    Evidence,
    Pair,
    _attacks,
    _pairs,
    _swept,
    gather,
)
from mbnas.data import load
from mbnas.errors import DataError, SettingsError
from mbnas.evaluation import Steered, another
from mbnas.formats import Format
from mbnas.images import Images
from mbnas.journal import Journal
from mbnas.ledger import Ledger
from mbnas.networks import Network, build_network, multibit
from mbnas.objectives import network_objective
from mbnas.randomness import seeded
from mbnas.search import rescoring
from mbnas.settings import DataSettings, Effort, Recipe, Surrogate, Threat, Training

THREAT = Threat(eps=0.1, step=0.025, steps=10)
PLAN = replace(PLANS[Effort.QUICK], images=128, queries=200)
DATA = load(DataSettings(name="digits", validation=300), seed=0)
IMAGES = DATA.test.first(PLAN.images)
X, Y = IMAGES.gather(slice(None))


@cache
@torch.enable_grad()  # whoever asks first
def honest() -> Network:
    """A float network, trained by FastAT for a few seconds."""
    table = backbones.build("resnet8", width=8, image=(1, 8, 8), classes=10)
    with seeded(0):
        network = build_network(table, Format.parse("float", len(table.searchable)))
    network.standardise_by(*DATA.statistics())
    recipe = Recipe(epochs=6, batch_size=64, learning_rate=0.01, training=Training.FASTAT)
    objective = network_objective(network, THREAT, recipe)(1)
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    rng = torch.Generator().manual_seed(0)
    for _ in range(recipe.epochs):
        for x, y in DATA.train.shuffled(recipe.batch_size, shift=0, flip=False, rng=rng):
            optimizer.zero_grad()
            objective(x, y, rng)
            optimizer.step()
    return network.eval().requires_grad_(False)


class Saturated(nn.Module):
    """The honest network with logits so large that softmax has no gradient left."""

    def forward(self, x: Tensor, surrogate: Surrogate) -> Tensor:
        return 1e4 * honest()(x, surrogate)


class Shattered(nn.Module):
    """The honest network behind a function whose gradient is zero."""

    def forward(self, x: Tensor, surrogate: Surrogate) -> Tensor:
        logits = honest()(x.detach(), surrogate)
        return logits + 0 * x.flatten(1).sum(1, keepdim=True)


class Misleading(nn.Module):
    """The honest network with a gradient that points the other way."""

    def forward(self, x: Tensor, surrogate: Surrogate) -> Tensor:
        mirrored = 2 * x.detach() - x
        return honest()(mirrored, surrogate)


def audited(network: nn.Module, path: Path, **options: object) -> Audit:
    return audit(
        network.eval(), IMAGES, THREAT, PLAN, seed=0, journal=Journal(path / "journal"), **options
    )


SHORT = replace(PLANS[Effort.STANDARD], apgd=2, queries=1, doublings=1, paper=(10,), runs=1)
GREY = grey([115] * 8, [0] * 8, side=16)  # broken only where every pixel is as bright as can be


def hidden(leads: Surrogate, own: Surrogate, elsewhere: int = -1) -> Case:
    """A network that falls through one surrogate, under a threat through another."""
    threat = Threat(eps=0.25, step=0.1, steps=10, surrogate=own)
    return Case(masked(leads, elsewhere), GREY, threat, 0)


def gathered(case: Case, plan: Plan, path: Path) -> Evidence:
    return gather(case, plan, {}, Ledger(Journal(path / "journal"), {}, lambda _: None))


@pytest.fixture(scope="module")
def of_honest(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    return audited(honest(), tmp_path_factory.mktemp("honest"))


def named(found: Audit, name: str) -> Check:
    (check,) = (each for each in found.checks if each.name == name)
    return check


# Verdicts


def test_an_honest_network_passes(of_honest: Audit) -> None:
    failed = [check for check in of_honest.checks if check.verdict is not Verdict.PASS]
    assert failed == []
    assert of_honest.verdict is Verdict.PASS
    natural, worst = of_honest.evidence.natural, of_honest.evidence.worst
    assert natural.float().mean() > 0.9
    assert 0.3 < worst.float().mean() < natural.float().mean()


@pytest.mark.parametrize(
    ("masked", "by"),
    [
        (Saturated, {"images without a gradient", "losses and surrogates"}),
        (
            Shattered,
            {"images without a gradient", "Square, gradient-free", "convergence of the loss"},
        ),
        (Misleading, {"Square, gradient-free", "random noise"}),
    ],
)
def test_a_masked_network_is_flagged(
    masked: Callable[[], nn.Module], by: set[str], tmp_path: Path
) -> None:
    found = audited(masked(), tmp_path)
    assert found.verdict is Verdict.FAIL
    failed = {check.name for check in found.checks if check.verdict is Verdict.FAIL}
    assert by <= failed


def test_every_line_says_what_was_measured_and_what_passes(of_honest: Audit) -> None:
    assert len({check.name for check in of_honest.checks}) == len(of_honest.checks) == 11
    for check in of_honest.checks:
        assert all((check.figure, check.threshold, check.explanation))


# Evidence


def test_the_worst_case_is_the_worst_of_everything(of_honest: Audit) -> None:
    evidence = of_honest.evidence
    masks = [
        *(evidence.natural, evidence.noise, evidence.scored, evidence.swept),
        *evidence.sweep.values(),
        *evidence.standing.values(),
        *(run for runs in evidence.every.values() for run in runs),
    ]
    for mask in masks:
        assert not (evidence.worst & ~mask).any()
    turns = [evidence.swept, *evidence.standing.values()]
    assert all(not (after & ~before).any() for before, after in pairwise(turns))


def test_the_headline_counts_what_only_the_last_attacks_find(tmp_path: Path) -> None:
    """Nothing that follows a gradient finds it."""
    honest()  # is trained by the first call, which must not be an audit's
    found = audited(Shattered(), tmp_path)
    swept, worst = (percent(each) for each in (found.evidence.swept, found.evidence.worst))
    assert worst < swept - 3
    assert page.record(found)["worst_case"]["accuracy"] == pytest.approx(worst / 100)
    assert page.headline(page.record(found)).startswith(f"{worst:.1f} %")


def test_the_worst_case_counts_noise_and_every_run_of_the_paper(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each finds one image that nothing else does."""
    images = grey([0] * 8, [0] * 8)  # out of reach

    def but(*lost: int) -> Tensor:
        return torch.tensor([image not in lost for image in range(8)])

    def noise(_: Case, __: int, before: Tensor) -> Tensor:
        return before & but(1)

    def by_the_paper(_: Case, steps: int, run: int) -> Tensor:
        found = {(2, 2): (but(2), but()), (3, 1): (but(), but(4))}
        return torch.stack(found.get((steps, run), (but(), but())))

    monkeypatch.setattr(Case, "noise", noise)
    monkeypatch.setattr(Case, "by_the_paper", by_the_paper)
    case = replace(hidden(Surrogate.TANH, Surrogate.TANH), images=images)
    found = gathered(case, replace(SHORT, paper=(2, 3), runs=2), tmp_path)
    assert found.worst.tolist() == but(1, 2, 4).tolist()


FURTHER = {  # attacks after the sweep, in turn, and the check that each enters
    "APGD-CE": "APGD",
    "APGD-DLR": "APGD",
    f"{DOUBLED}20 steps": "more iterations and starts",
    f"{DOUBLED}40 steps": "more iterations and starts",
    f"{SQUARE}9": "Square, gradient-free",
    AUTOATTACK: AUTOATTACK,
    f"{TRANSFER}twin": "transfer",
}


def of_100(right: int) -> Tensor:
    return torch.arange(100) < right


def sound() -> Evidence:
    """Of 100 images of which every attack leaves the same 60."""
    left = of_100(60)
    return Evidence(
        natural=of_100(90),
        commonest=0.1,
        noise=of_100(90),
        last={20: left[None]},
        every={20: left[None]},
        scored=left,
        sweep={"own": left},
        strongest="own",
        swept=left,
        standing=dict.fromkeys(FURTHER, left),
        radii={0.0: 0.9, 0.1: 0.6, 1.0: 0.0},
        rises={"ste": [0.0, 1.0, 1.0, 1.0, 1.0]},
        zero_gradients={"ste": 0.0},
    )


PASSES, WARNS, FAILS = Verdict.PASS, Verdict.WARN, Verdict.FAIL


def further(attack: str) -> Callable[[int], Evidence]:
    """Percentage points that one of the attacks after the sweep finds beyond all before it."""

    def found(points: int) -> Evidence:
        names = list(FURTHER)
        late = names[names.index(attack) :]
        left = {name: of_100(60 - points if name in late else 60) for name in names}
        return replace(sound(), standing=left)

    return found


def swept(points: int) -> Evidence:
    return replace(
        sound(), sweep={"own": of_100(60), "other": of_100(60 - points)}, strongest="other"
    )


def at_last(surplus: int) -> Evidence:
    """Images right at the last of 50 iterates beyond those right without an attack."""
    every, last = of_100(90)[None], of_100(90 + surplus)[None]
    return replace(sound(), last={20: every, 50: last}, every={20: every, 50: every})


def by_the_way(slack: int) -> Evidence:
    """Images wrong at one of 50 iterates and right at the last."""
    every, last = of_100(60)[None], of_100(60 + slack)[None]
    return replace(sound(), last={20: every, 50: last}, every={20: every, 50: every})


def noisy(standing: int) -> Evidence:
    return replace(sound(), noise=of_100(standing))


def in_the_box(standing: int) -> Evidence:
    return replace(sound(), radii={1.0: standing / 100, 0.0: 0.9, 0.1: 0.6})


def rising(points: int) -> Evidence:
    """Of a curve that is written down in no order."""
    return replace(sound(), radii={1.0: 0.0, 0.2: (60 + points) / 100, 0.0: 0.9, 0.1: 0.6})


def guessing(images: int) -> Evidence:
    """Of 90 that are right without an attack, as many are of one class."""
    return replace(sound(), commonest=images / 100)


def flat(images: int) -> Evidence:
    return replace(sound(), zero_gradients={"ste": 0.0, "tanh": images / 100, "wide": 0.0})


BEYOND_ALL = {0: PASSES, 1: PASSES, 2: WARNS, 3: WARNS, 4: FAILS}
GAP = {0: PASSES, 5: PASSES, 6: WARNS, 10: WARNS, 11: FAILS}


@pytest.mark.parametrize(
    ("name", "changed", "verdicts"),
    [
        ("gap to the worst case", further(f"{SQUARE}9"), GAP),
        ("last iterate", at_last, {-5: PASSES, 0: PASSES, 1: FAILS}),
        ("last iterate", by_the_way, {5: PASSES, 6: WARNS, 30: WARNS}),
        ("losses and surrogates", swept, GAP),
        ("random noise", noisy, {61: PASSES, 60: PASSES, 59: FAILS}),
        ("growing eps", in_the_box, {0: PASSES, 1: PASSES, 2: WARNS, 5: WARNS, 6: FAILS}),
        ("growing eps", rising, {0: PASSES, 2: PASSES, 3: WARNS, 5: WARNS, 6: FAILS}),
        ("images without a gradient", flat, {1: PASSES, 2: WARNS, 10: WARNS, 11: FAILS}),
        ("natural accuracy", guessing, {89: PASSES, 90: WARNS, 91: WARNS}),
        *((name, further(attack), BEYOND_ALL) for attack, name in FURTHER.items()),
    ],
)
def test_verdicts_change_at_their_thresholds(
    name: str, changed: Callable[[int], Evidence], verdicts: dict[int, Verdict]
) -> None:
    def verdict(points: int) -> Verdict:
        (check,) = (each for each in judge(changed(points)) if each.name == name)
        return check.verdict

    assert {points: verdict(points) for points in verdicts} == verdicts


def test_a_gap_of_whole_points_is_not_above_its_threshold_by_rounding() -> None:
    def verdict(right: int, lost: int) -> Verdict:
        left = torch.arange(500) < right - lost
        scored = (torch.arange(500) < right)[None]
        found = replace(sound(), last={20: scored}, every={20: scored}, scored=left, swept=left)
        gap, *_ = judge(replace(found, sweep={"own": left}, standing=dict.fromkeys(FURTHER, left)))
        return gap.verdict

    rounded_up = [right for right in range(25, 501) if right / 5 - (right - 25) / 5 > 5]
    assert rounded_up
    assert {verdict(right, 25) for right in rounded_up} == {PASSES}
    assert verdict(rounded_up[-1], 26) is WARNS


def test_the_gap_is_that_of_the_shortest_attack_of_the_paper_at_its_last_iterate() -> None:
    runs = {20: of_100(68)[None], 50: of_100(60)[None]}
    every = dict.fromkeys(runs, of_100(60)[None])
    gap, *_ = judge(replace(sound(), last=runs, every=every))
    assert (gap.figure, gap.verdict) == ("8.0 pp", Verdict.WARN)
    assert gap.explanation.startswith("PGD-20 ")


def test_sound_evidence_passes_every_check() -> None:
    checks = judge(sound())
    assert len({check.name for check in checks}) == len(checks) == 13
    assert {check.verdict for check in checks} == {PASSES}


@pytest.mark.parametrize(("attack", "name"), FURTHER.items())
def test_what_an_attack_finds_is_held_against_it_alone(attack: str, name: str) -> None:
    """The gap to the worst case holds what any of them finds, but passes up to 5 points."""
    checks = judge(further(attack)(4))
    assert [check.name for check in checks if check.verdict is not PASSES] == [name]


@pytest.mark.parametrize(
    ("late", "figure", "verdict"),
    [
        (0.20, "20 % of the rise is late (ste)", PASSES),
        (0.21, "21 % of the rise is late (ste)", WARNS),
        (None, "nothing rises (ste)", FAILS),
    ],
)
def test_a_fifth_of_the_rise_may_be_late(late: float | None, figure: str, verdict: Verdict) -> None:
    curve = [1.0] * 5 if late is None else [0.0, 0.5, 0.7, 1 - late, 1.0]
    rises = {"ste": [5 * each for each in curve]}
    checks = {each.name: each for each in judge(replace(sound(), rises=rises))}
    found = checks["convergence of the loss"]
    assert (found.figure, found.verdict) == (figure, verdict)


@pytest.mark.parametrize(
    ("power", "verdict"), [(0.5, PASSES), (0.9, WARNS), (1.0, WARNS)], ids=["slows", "nearly", "on"]
)
def test_a_loss_that_climbs_on_as_it_began_has_not_converged(
    power: float, verdict: Verdict
) -> None:
    rises = sound().rises | {"tanh": [(step / 20) ** power for step in range(21)]}
    (check,) = (
        each
        for each in judge(replace(sound(), rises=rises))
        if each.name == "convergence of the loss"
    )
    assert check.verdict is verdict


def test_iterations_and_starts_are_doubled_until_two_find_nothing(tmp_path: Path) -> None:
    plan = replace(PLAN, doublings=6, images=48)
    found = audit(
        *(honest(), IMAGES.first(48), THREAT, plan), seed=0, journal=Journal(tmp_path / "journal")
    )
    names = list(found.evidence.standing)
    doublings = [name for name in names if name.startswith(DOUBLED)]
    before, *left = (  # before the first doubling and after each
        int(found.evidence.standing[name].sum())
        for name in names[names.index(doublings[0]) - 1 : names.index(doublings[-1]) + 1]
    )
    assert 2 <= len(doublings) < 6
    found_by_each = [one - other for one, other in pairwise([before, *left])]
    assert found_by_each[-2:] == [0, 0]
    assert [0, 0] not in map(list, pairwise(found_by_each[:-1]))


def test_only_doublings_in_a_row_that_find_nothing_end_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds = {f"{DOUBLED}40 steps, 4 starts: 3"}  # in the second doubling

    def scripted(entry: str, _: object, __: object, before: Tensor, ___: object) -> Tensor:
        after = before.clone()
        if entry in finds:
            after[int(after.nonzero()[0])] = False
        return after

    monkeypatch.setattr("mbnas.auditing.evidence._part_by_part", scripted)
    case = Case(honest(), IMAGES.first(16), THREAT, 0)
    standing = gathered(case, replace(PLAN, doublings=6), tmp_path).standing
    doublings = [name for name in standing if name.startswith(DOUBLED)]
    assert [name.split()[-2] for name in doublings] == ["2", "4", "8", "16"]


def test_another_network_for_transfer_is_tried_last(tmp_path: Path) -> None:
    found = audited(honest(), tmp_path, sources={"itself": honest()})
    *_, square, transfer = found.evidence.standing
    assert square.startswith(SQUARE)
    assert transfer == f"{TRANSFER}itself"
    assert named(found, "transfer").verdict is Verdict.PASS


def test_an_interrupted_audit_goes_on_and_ends_the_same(tmp_path: Path, of_honest: Audit) -> None:
    class StopError(Exception):
        pass

    class Failing(nn.Module):
        """The honest network, until it has been called so often."""

        def __init__(self, calls: int) -> None:
            super().__init__()
            self.left = calls

        def forward(self, x: Tensor, surrogate: Surrogate) -> Tensor:
            self.left -= 1
            if self.left < 0:
                raise StopError
            return honest()(x, surrogate)

    journal = Journal(tmp_path / "journal")
    for calls in (60, 200):
        before = len(journal.read())
        with pytest.raises(StopError):
            audited(Failing(calls), tmp_path)
        assert len(journal.read()) > before
    assert json.dumps(page.record(audited(honest(), tmp_path))) == json.dumps(
        page.record(of_honest)
    )


def test_a_kill_loses_one_part_of_one_attack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbnas.auditing.evidence.PART", 48)
    case, journal = Case(honest(), IMAGES, THREAT, 0), Journal(tmp_path / "journal")
    parts = [f"{SQUARE}{PLAN.queries} queries, part {part} of 3" for part in (1, 2, 3)]

    def stop(name: str) -> None:
        if name == parts[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(case, PLAN, {}, Ledger(journal, {}, stop))
    measured: list[str] = []
    found = gather(case, PLAN, {}, Ledger(journal, {}, measured.append))
    assert measured[0] == parts[2]
    (tmp_path / "whole").mkdir()
    whole = gathered(case, PLAN, tmp_path / "whole")
    assert [*map(torch.Tensor.tolist, found.standing.values())] == [
        *map(torch.Tensor.tolist, whole.standing.values())
    ]


def test_parts_are_put_together_in_the_order_of_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbnas.auditing.evidence.PART", 48)

    standing = Case.standing

    def stands(case: Case, attack: Attack, model: Model, before: Tensor) -> Tensor:
        whole = len(case.images) not in (48, 32)
        even = case.images.labels % 2 == 0
        return standing(case, attack, model, before) if whole else before & even

    monkeypatch.setattr(Case, "standing", stands)
    evidence = gathered(Case(honest(), IMAGES, THREAT, 0), PLAN, tmp_path)
    assert torch.equal(evidence.worst, evidence.swept & (Y % 2 == 0))
    assert evidence.swept[Y % 2 == 1].any()


def test_a_source_that_is_wrong_already_still_gives_images_to_transfer(
    of_honest: Audit, tmp_path: Path
) -> None:
    """Shattered hides its gradient; the source has it, but is wrong about every image."""

    def wrong(x: Tensor, surrogate: Surrogate) -> Tensor:
        nearest = (x[:, None] - X).flatten(2).norm(dim=2).argmin(dim=1)
        right = F.one_hot(Y, 10)[nearest]
        return honest()(x, surrogate) - 100 * right

    found = audited(Shattered(), tmp_path, sources={"wrong": wrong}).evidence
    left = found.standing[f"{TRANSFER}wrong"].sum()
    assert left <= of_honest.evidence.scored.sum() + 3  # as many as the gradient itself leaves


def test_the_journal_of_another_audit_is_refused(tmp_path: Path) -> None:
    audited(honest(), tmp_path)
    for other in (Saturated(), Shattered(), Misleading()):  # two of them in its gradient alone
        with pytest.raises(DataError, match=r"another network \(by its first .*gradients\); go"):
            audited(other, tmp_path)


def test_the_journal_of_other_images_or_labels_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    audited(honest(), tmp_path)
    darker, relabelled = X.clone(), Y.clone()
    darker[-1], relabelled[-1] = darker[-1] / 2, (relabelled[-1] + 1) % 10
    for images in (Images.of(darker, Y), Images.of(X, relabelled)):
        with pytest.raises(DataError, match="begun with another images; go on with that"):
            audit(honest(), images, THREAT, PLAN, seed=0, journal=journal)


def test_whatever_makes_a_networks_gradient_is_of_the_version_of_the_attacks() -> None:
    package = Path(auditing.__file__).parent.parent
    computing_none = {"settings", "assignment", "backbones", "formats", "errors", "progress"}
    found, left = set(), ["networks"]
    while left:
        name = left.pop()
        found.add(name)
        imported = re.findall(
            r"^from mbnas(?:\.(\w+))? import (.+)$", (package / f"{name}.py").read_text(), re.M
        )
        names = {
            each for module, of in imported for each in ([module] if module else of.split(", "))
        }
        left += names - found - computing_none
    assert {"networks", "layers", "quantizers", "kernels", "loops", "prelu"} <= found
    before, read = version.__wrapped__(), Path.read_bytes
    for name in found:
        changed = package / f"{name}.py"
        with mock.patch.object(
            Path, "read_bytes", lambda path, of=changed: read(path) + b"#" * (path == of)
        ):
            assert version.__wrapped__() != before, name


def test_an_audit_goes_on_with_more_networks_for_transfer_but_not_with_others(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "journal")
    audited(honest(), tmp_path, sources={"twin": honest()})
    before = journal.read()
    found = audited(honest(), tmp_path, sources={"twin": honest(), "one": honest()})
    *_, first, second = found.evidence.standing
    assert (first, second) == (f"{TRANSFER}one", f"{TRANSFER}twin")
    assert [each["name"] for each in journal.read()[len(before) :]] == ["origin", first]
    assert begun_with(journal) == {"one", "twin"}
    with pytest.raises(DataError, match="begun with another source twin; go on with that"):
        audited(honest(), tmp_path, sources={"twin": Saturated().eval(), "one": honest()})
    with pytest.raises(DataError, match="begun with another source one; go on with that"):
        audited(honest(), tmp_path, sources={"twin": honest()})


def test_what_each_source_breaks_counts_in_whatever_order_they_are_tried(tmp_path: Path) -> None:
    half = torch.arange(16) < 8
    breaks = {"a": half, "b": ~half}
    standing = Case.standing

    def stands(case: Case, attack: object, model: object, before: Tensor) -> Tensor:
        broken = breaks.get(attack) if isinstance(attack, str) else None
        return standing(case, attack, model, before) if broken is None else before & ~broken

    case = Case(honest(), IMAGES.first(16), THREAT, 0)
    ledger = Ledger(Journal(tmp_path / "journal"), {}, lambda _: None)
    with (
        mock.patch.object(Case, "standing", stands),
        mock.patch("mbnas.auditing.evidence._attacks", lambda _, __, tried, ___: tried),
    ):
        alone, after = (
            gather(case, PLAN, {name: [(name, None)] for name in order}, ledger).worst
            for order in ("a", "ba")  # a is tried before an interrupt, and b then comes first
        )
    assert alone.any()
    assert not after.any()


@pytest.mark.parametrize(("found", "strongest"), [(4, "margin, own"), (5, "cross-entropy, other")])
def test_of_attacks_that_find_as_much_one_through_the_threats_surrogate_is_strongest(
    tmp_path: Path, found: int, strongest: str
) -> None:
    own, other = THREAT.surrogate, another(THREAT.surrogate)
    numbers = torch.arange(16)
    sweep = {
        ("cross-entropy", own): numbers >= 0,
        ("cross-entropy", other): numbers >= found,
        ("margin", own): numbers >= 4,
    }
    case = Case(honest(), IMAGES.first(16), THREAT, 0)
    ledger = Ledger(Journal(tmp_path / "journal"), {}, lambda _: None)
    with (
        mock.patch("mbnas.auditing.evidence._swept", lambda *_: (numbers >= 0, sweep)),
        mock.patch("mbnas.auditing.evidence._attacks", wraps=_attacks) as attacks,
    ):
        evidence = gather(case, PLAN, {}, ledger)
    words = {"own": own, "other": other}
    loss, _, surrogate = strongest.partition(", ")
    assert evidence.strongest == f"{loss}, {words[surrogate]}"
    *_, told = attacks.call_args.args
    assert told == (loss, words[surrogate])


@pytest.mark.parametrize(("steps", "longer"), [(20, True), (10, False)])
def test_no_attack_of_the_sweep_is_shorter_than_planned(steps: int, longer: bool) -> None:
    asked: list[str] = []

    def mask(name: str, _: object) -> Tensor:
        asked.append(name)
        return torch.ones(len(IMAGES), dtype=torch.bool)

    case, plan = Case(honest(), IMAGES, THREAT, 0), replace(SHORT, sweep=steps)
    _swept(case, plan, mock.Mock(mask=mask), torch.ones(len(IMAGES), dtype=torch.bool))
    assert THREAT.steps == 10
    assert (f"cross-entropy, {THREAT.surrogate}" in asked) == longer


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"threat": THREAT.model_copy(update={"eps": 0.2})}, "threat"),
        ({"seed": 1}, "seed"),
        ({"plan": replace(PLAN, noises=PLAN.noises + 1)}, "plan"),
        ({"images": IMAGES.first(9)}, "images"),
        ({"seed": 1, "images": IMAGES.first(9)}, "seed and images"),
    ],
)
def test_an_audit_does_not_go_on_with_anything_else(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    asked = {"images": IMAGES, "threat": THREAT, "plan": PLAN, "seed": 0}
    journal, network = Journal(tmp_path / "journal"), honest()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Case, "natural", mock.Mock(side_effect=KeyboardInterrupt))
        audit(network, journal=journal, **asked)
    with pytest.raises(DataError, match=f"was begun with another {named}; go on with that"):
        audit(network, journal=journal, **asked | change)


def test_nothing_is_attacked_where_nothing_stands() -> None:
    case = Case(honest(), IMAGES, THREAT, 0)

    def attack(*_: object) -> Tensor:
        raise AssertionError

    nothing = torch.zeros_like(Y, dtype=torch.bool)
    assert torch.equal(case.standing(attack, honest(), nothing), nothing)


def test_the_loss_rises_alike_whatever_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(honest(), IMAGES, THREAT, 0)
    whole = case.rise(Surrogate.STE, 3)
    assert len(whole) == 1 + 3
    assert whole[-1] > whole[0]
    monkeypatch.setattr("mbnas.auditing.case.BATCH", 50)
    assert case.rise(Surrogate.STE, 3) == pytest.approx(whole, rel=1e-4)


def test_the_short_worst_case_is_at_most_any_of_its_parts_and_finds_what_hides() -> None:
    case = Case(honest(), IMAGES, THREAT, 0)
    left = rescoring.withstanding(case, 100, case.natural())
    for loss, surrogate in (("margin", THREAT.surrogate), ("cross-entropy", Surrogate.STE)):
        alone = case.standing(
            case.pgd(loss, surrogate, 10), case.through(surrogate), case.natural()
        )
        assert left.sum() <= alone.sum() + 1  # starts are random
    assert not (rescoring.withstanding(case, 1, left) & ~left).any()
    shattered = Case(Shattered(), IMAGES, THREAT, 0)
    hidden = rescoring.withstanding(shattered, 400, shattered.natural())
    by_gradient = shattered.by_the_paper(20, 0)[0]
    assert hidden.float().mean() < by_gradient.float().mean() - 0.1


# Surrogates


@pytest.mark.parametrize("leads", list(Surrogate))
def test_the_one_surrogate_that_leads_anywhere_is_found(leads: Surrogate, tmp_path: Path) -> None:
    found = gathered(hidden(leads, another(leads)), SHORT, tmp_path)
    assert len(found.sweep) == len(LOSSES) * len(Surrogate)
    assert {name: int(mask.sum()) for name, mask in found.sweep.items()} == {
        name: 0 if name.endswith(f", {leads}") else len(GREY) for name in found.sweep
    }
    assert found.strongest.endswith(f", {leads}")
    assert found.radii == {radius: float(radius < 0.25) for radius in found.radii}
    rising = {surrogate: curve[-1] > curve[0] for surrogate, curve in found.rises.items()}
    assert rising == {Surrogate.STE: leads is Surrogate.STE, leads: True}


@pytest.mark.parametrize("leads", [Surrogate.STE, Surrogate.TANH])
def test_what_follows_the_sweep_takes_its_strongest_surrogate(leads: Surrogate) -> None:
    """Of other networks it takes the threat's own."""
    case = hidden(leads, Surrogate.POLYNOMIAL)
    twin = {"twin": masked(Surrogate.POLYNOMIAL)}
    left = {
        name: int(case.standing(attack, model, case.natural()).sum())
        for name, [(attack, model), *_] in _attacks(case, SHORT, twin, ("margin", leads)).items()
    }
    assert left.pop(f"{SQUARE}1 queries") == len(GREY)
    assert set(left.values()) == {0}
    assert len(left) == 3 + 1 + len(twin)


@pytest.mark.parametrize("own", Surrogate)
def test_a_quick_sweep_takes_every_loss_through_two_surrogates_and_every_surrogate(
    own: Surrogate,
) -> None:
    pairs = _pairs(PLANS[Effort.QUICK], own)
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == set(product(LOSSES, [own, another(own)])) | {
        ("cross-entropy", each) for each in Surrogate
    }


def test_pgd_of_the_paper_goes_through_the_straight_through_estimator_alone() -> None:
    blind, sees = hidden(Surrogate.TANH, Surrogate.TANH), hidden(Surrogate.STE, Surrogate.TANH)
    assert blind.by_the_paper(10, 0).all()
    assert not sees.by_the_paper(10, 0).any()


def test_pgd_of_the_paper_counts_both_iterates() -> None:
    """An image that is wrong naturally and mended by the attack is right at the last one only."""
    bright = grey([115] * 8 + [200] * 4, [0] * 12, side=16)
    last, every = replace(hidden(Surrogate.TANH, Surrogate.TANH), images=bright).by_the_paper(10, 0)
    assert last.all()
    assert every.tolist() == [True] * 8 + [False] * 4


def test_each_run_of_the_paper_and_each_seed_starts_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts = set()

    def attacked(_: object, __: object, ___: object, rng: torch.Generator, ____: int) -> Tensor:
        starts.add(float(torch.rand(1, generator=rng)))
        return torch.ones(2, 8)

    monkeypatch.setattr("mbnas.auditing.case.at_last_and_every", attacked)
    for seed, steps, run in product((0, 1), (20, 50), (1, 2)):
        replace(hidden(Surrogate.TANH, Surrogate.TANH), seed=seed).by_the_paper(steps, run)
    assert len(starts) == 8


def test_noise_is_drawn_anew_within_eps_and_each_draw_counts() -> None:
    seen: list[Tensor] = []
    wrong = {0: 3, 2: 0}  # call: the image that is wrong then

    def model(x: Tensor, surrogate: Surrogate = Surrogate.STE) -> Tensor:
        logits = torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)
        if len(seen) in wrong:
            logits[wrong[len(seen)]] *= -1
        seen.append(x)
        return logits

    left = Case(model, GREY, THREAT, 0).noise(3, torch.ones(8, dtype=torch.bool))
    assert left.tolist() == [False, True, True, False, True, True, True, True]
    x, _ = GREY.gather(slice(1, 3))
    moved = [(each[1:3] - x).abs().max().item() for each in seen]
    assert all(0.95 * THREAT.eps < each <= THREAT.eps + 1e-6 for each in moved)
    assert not torch.equal(seen[0][:3], seen[1][:3])


def test_a_gradient_at_a_single_pixel_is_a_gradient() -> None:
    def corner(x: Tensor, surrogate: Surrogate = Surrogate.STE) -> Tensor:
        return torch.stack((x[:, 0, 0, 0], -x[:, 0, 0, 0]), dim=1)

    assert Case(corner, GREY, THREAT, 0).zero_gradients(Surrogate.STE) == 0


def test_what_falls_within_eps_counts_wherever_the_curve_finds_it(tmp_path: Path) -> None:
    def shell(x: Tensor, surrogate: Surrogate = Surrogate.STE) -> Tensor:
        """Wrong where a pixel is 0.3 to 0.7 eps off: nearer than noise and other attacks look."""
        off = (x - GREY.gather(slice(1))[0]).abs().flatten(1).amax(dim=1) / THREAT.eps
        right = ((off < 0.3) | (off > 0.7)).float() + 0 * x.flatten(1).sum(dim=1)
        return torch.stack((right, 1 - right), dim=1)

    dark = grey([115] * 8, [0] * 8, side=16)
    found = gathered(Case(shell, dark, THREAT, 0), replace(SHORT, curve_images=3), tmp_path)
    assert {radius: left for radius, left in found.radii.items() if radius <= THREAT.eps} == {
        0: 1,
        THREAT.eps / 4: 1,
        THREAT.eps / 2: 0,
        THREAT.eps: 1,
    }
    assert all(mask.all() for mask in found.sweep.values())
    assert found.worst.tolist() == [False] * 3 + [True] * 5


@pytest.mark.parametrize(
    ("strongest", "turns"),
    [
        (("logit ratio", Surrogate.STE), ["logit ratio", "cross-entropy", "margin"]),
        (("margin", Surrogate.STE), ["margin", "cross-entropy", "margin"]),
        (("margin", Surrogate.TANH), ["margin", "cross-entropy", "margin", "cross-entropy"]),
    ],
)
def test_doublings_double_iterations_and_starts(
    strongest: Pair, turns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    begun: list[float] = []
    led: list[object] = []

    def pgd(
        _: object,
        x: Tensor,
        __: Tensor,
        *,
        steps: int,
        generator: torch.Generator,
        loss: object,
        annealed: bool,
        **___: object,
    ) -> Tensor:
        assert annealed
        made.append(steps)
        led.append(loss)
        begun.append(float(torch.rand(1, generator=generator)))
        return x

    monkeypatch.setattr("mbnas.auditing.case.pgd", pgd)
    x, y = GREY.gather(slice(None))
    case, plan = hidden(Surrogate.TANH, Surrogate.TANH), replace(SHORT, sweep=3, doublings=2)
    for name, attempts in _attacks(case, plan, {}, strongest).items():
        for attack, model in attempts if name.startswith(DOUBLED) else ():
            attack(model, x, y)
    assert made == [6] * 2 + [12] * 4
    in_all = [*turns[:2], *islice(cycle(turns), 4)]
    assert led == [LOSSES[loss] for loss in in_all]
    assert len(set(begun)) == len(made)


def test_attacks_are_as_long_as_the_plan_says_and_on_their_losses() -> None:
    case, plan = (
        hidden(Surrogate.TANH, Surrogate.TANH),
        replace(SHORT, apgd=7, targets=3, queries=9),
    )
    found = _attacks(case, plan, {}, ("margin", Surrogate.TANH))
    asked = {name: attack.keywords for name, [(attack, _), *_] in found.items()}
    for name, loss in (("APGD-CE", losses.cross_entropy), ("APGD-DLR", losses.logit_ratio)):
        assert (asked[name]["steps"], asked[name]["loss"]) == (7, loss)
    assert (asked["APGD-T"]["steps"], asked["APGD-T"]["targets"]) == (7, 3)
    assert asked["Square, 9 queries"]["queries"] == 9


@pytest.mark.parametrize("steps", [1, 2])
def test_a_step_or_two_are_enough_to_cross_the_whole_box(steps: int) -> None:
    case = hidden(Surrogate.TANH, Surrogate.POLYNOMIAL)
    attack = case.pgd("margin", Surrogate.TANH, steps, eps=1.0)
    assert not case.standing(attack, case.through(Surrogate.TANH), case.natural()).any()


def test_images_without_a_gradient_are_counted_through_the_surrogate_that_is_asked() -> None:
    case = hidden(Surrogate.TANH, Surrogate.POLYNOMIAL, elsewhere=0)
    rates = {surrogate: case.zero_gradients(surrogate) for surrogate in Surrogate}
    assert rates == {surrogate: surrogate is not Surrogate.TANH for surrogate in Surrogate}


@pytest.mark.parametrize("own", list(Surrogate))
def test_the_short_worst_case_sees_through_two_surrogates(own: Surrogate) -> None:
    cases = {leads: hidden(leads, own) for leads in Surrogate}
    left = {leads: rescoring.withstanding(case, 1, case.natural()) for leads, case in cases.items()}
    assert {leads for leads, mask in left.items() if not mask.any()} == {own, another(own)}
    assert sum(int(mask.sum()) for mask in left.values()) == 3 * len(GREY)


# Plans


class Firm(nn.Module):
    """Five classes, each of one pixel, that no attack within eps confuses."""

    def forward(self, x: Tensor, surrogate: Surrogate) -> Tensor:
        return 5 * x.flatten(1)


def planned(effort: Effort, path: Path) -> Audit:
    plan = replace(PLANS[effort], paper=(2, 3), runs=2, sweep=2, apgd=2, queries=5, doublings=1)
    labels = torch.arange(16) % 5
    images = Images.of(torch.eye(5)[labels].view(16, 1, 1, 5), labels)
    return audit(Firm().eval(), images, THREAT, plan, seed=3, journal=Journal(path / "journal"))


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack as if it were installed and stronger than anything."""

    def standard(_: object, x: Tensor, __: Tensor, *, eps: float, seed: int) -> Tensor:
        assert (eps, seed) == (THREAT.eps, 3)
        return 1 - x

    monkeypatch.setattr("mbnas.auditing.autoattack.standard", standard)
    monkeypatch.setattr("mbnas.auditing.autoattack.available", lambda: True)


ATTACKS = ["APGD-CE", "APGD-DLR", "APGD-T", f"{DOUBLED}4 steps, 2 starts", f"{SQUARE}5 queries"]


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("effort", [Effort.STANDARD, Effort.FULL])
def test_the_longer_plans_run_everything(effort: Effort, tmp_path: Path) -> None:
    found = planned(effort, tmp_path)
    pairs = {f"{loss}, {surrogate}" for loss in LOSSES for surrogate in Surrogate}
    assert found.evidence.sweep.keys() == pairs
    runs = [*found.evidence.last.items(), *found.evidence.every.items()]
    assert [(steps, mask.shape) for steps, mask in runs] == [(2, (2, 16)), (3, (2, 16))] * 2
    standing = {name: int(mask.sum()) for name, mask in found.evidence.standing.items()}
    left = dict.fromkeys(ATTACKS, 16) | ({AUTOATTACK: 0} if effort is Effort.FULL else {})
    assert list(standing.items()) == list(left.items())
    assert int(found.evidence.worst.sum()) == list(left.values())[-1]
    assert set(json.loads(json.dumps(page.record(found)))["paper"]) == {"PGD-2", "PGD-3"}


@pytest.mark.usefixtures("reference")
def test_autoattack_is_left_out_aloud_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr("mbnas.auditing.autoattack.available", lambda: False)
    found = planned(Effort.FULL, tmp_path)
    assert list(found.evidence.standing) == ATTACKS
    assert not found.plan.autoattack
    (message,) = caplog.messages
    assert message.startswith("AutoAttack is left out")


# Pages


def test_the_record_tells_attacks_apart_and_takes_the_worst_of_all_runs() -> None:
    every = torch.stack((of_100(60), torch.arange(100) >= 10))
    found = replace(
        sound(),
        scored=of_100(70),
        swept=of_100(65),
        noise=of_100(80),
        last={20: torch.stack((of_100(92), of_100(96)))},
        every={20: every},
    )
    told = page.record(Audit(THREAT, 0, PLAN, found, judge(found)))
    paper = told["paper"]["PGD-20"]
    assert paper["last iterate"]["mean"] == pytest.approx(0.94)
    assert paper["every iterate"]["mean"] == pytest.approx(0.75)
    assert paper["per-image worst of all runs"] == 0.5
    assert (told["search_attack"], told["noise"]) == (0.7, 0.8)
    worst = 100 * told["worst_case"]["accuracy"]
    assert f"PGD-20 as in the paper 94.0 %, gap {94 - worst:.1f} pp" in page.headline(told)


def test_the_readme_tells_how_many_queries_square_has() -> None:
    of_each = r"(\d+) queries in a search, (\d+) in a quick audit, ([\d,]+) in a standard"
    (told,) = re.findall(of_each, README.read_text().replace("\n", " "))
    asked = [rescoring.QUERIES, *(PLANS[each].queries for each in (Effort.QUICK, Effort.STANDARD))]
    assert [int(each.replace(",", "")) for each in told] == asked


def test_the_readme_tells_how_many_images_an_audit_takes() -> None:
    text = " ".join(README.read_text().split())
    assert "`standard` holds, on 1,000 test images, PGD-20 and PGD-50 as in the paper;" in text
    assert "`quick` is a short version on 500." in text
    assert "`--effort full` takes all test images" in text
    assert [PLANS[each].images for each in Effort] == [500, 1000, None]
    assert [PLANS[each].paper for each in Effort] == [(20,), (20, 50), (20, 50)]


def test_the_curve_over_eps_begins_with_natural_accuracy(of_honest: Audit) -> None:
    found = of_honest.evidence
    few = found.natural[: PLAN.curve_images], found.scored[: PLAN.curve_images]
    natural, robust = (each.float().mean().item() for each in few)
    assert found.radii[0.0] == pytest.approx(natural)
    assert natural > robust


def test_the_record_survives_json(of_honest: Audit) -> None:
    record = json.loads(json.dumps(page.record(of_honest)))
    assert record["verdict"] == "PASS"
    low, high = record["worst_case"]["interval"]
    assert 0 <= low < record["worst_case"]["accuracy"] < high <= 1
    assert record["images"] == len(IMAGES)
    assert set(record["paper"]) == {"PGD-20"}


def test_the_interval_is_the_exact_binomial_one() -> None:
    """Clopper & Pearson 1934: none of 10 right leaves 1 - 0.025^(1/10) at most."""
    low, high = page._estimate(torch.zeros(10, dtype=torch.bool))["interval"]
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 10))


def test_table_and_page_show_every_check(of_honest: Audit) -> None:
    console = Console(width=100, record=True)
    with console.capture() as capture:
        console.print(page.table(page.record(of_honest), "[bold]one"))
    text, html = " ".join(capture.get().split()), page.page(page.record(of_honest), "<one>")
    assert "withstand everything" in text
    assert "[bold]one: PASS" in text
    for check in of_honest.checks:
        assert check.explanation.replace("'", "&#x27;") in html
    assert "&lt;one&gt;: PASS" in html
    assert sources(html) == []


def test_the_page_draws_what_was_measured(of_honest: Audit) -> None:
    record = page.record(of_honest)
    bars, steps, radii, *rises = page.figure(record).data
    assert dict(zip(bars.y, bars.x, strict=True)) == record["sweep"]
    assert dict(zip(steps.x, steps.y, strict=True)) == record["standing_after"]
    assert [*map(list, zip(radii.x, radii.y, strict=True))] == record["accuracy_over_eps"]
    through = {each.name.removeprefix("through "): list(each.y) for each in rises}
    assert through == record["loss_over_iterations"]
    drawn = page.page(record, "one").split("Plotly.newPlot(")[1]
    assert all(json.dumps(name)[1:-1] in drawn for name in record["standing_after"])


# Wrong input


def audit_of(network: nn.Module, x: Tensor, path: Path) -> Audit:
    return audit(network, Images.of(x, Y), THREAT, PLAN, seed=0, journal=Journal(path / "journal"))


def test_images_outside_the_box_are_refused(tmp_path: Path) -> None:
    for x in (255 * X, X - 0.5):
        with pytest.raises(DataError, match=r"images run from .* attacks need them in \[0, 1\]"):
            audit_of(honest(), x, tmp_path)


def test_a_network_in_training_mode_is_refused(tmp_path: Path) -> None:
    table = backbones.build("resnet8", width=2, image=(1, 8, 8), classes=10)
    network = multibit(table, Assignment.uniform(1, 1, len(table.searchable)))
    with pytest.raises(SettingsError, match="training mode"):
        audit_of(network.train(), X, tmp_path)
    with pytest.raises(SettingsError, match="training mode"):
        audited(honest(), tmp_path, sources={"twin": network})


def test_labels_that_the_network_does_not_know_are_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for wrong in (-1, 10):
        images = Images.of(X, torch.cat([Y[1:], torch.tensor([wrong])]))
        with pytest.raises(DataError, match=r"labels run from .* logits of 10 classes, 0 to 9; "):
            audit(honest(), images, THREAT, PLAN, seed=0, journal=journal)


def test_no_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images; give at least one"):
        audit(
            honest(), IMAGES.first(0), THREAT, PLAN, seed=0, journal=Journal(tmp_path / "journal")
        )


def test_a_network_that_changes_its_images_is_told_so(tmp_path: Path) -> None:
    class Careless(nn.Module):
        def forward(self, x: Tensor, surrogate: Surrogate) -> Tensor:
            x -= 0.5
            return honest()(x, surrogate)

    with pytest.raises(SettingsError, match="changes the images that it is given, in place"):
        audit_of(Careless().eval(), X, tmp_path)


@pytest.mark.parametrize(
    "network",
    [lambda x, _: torch.zeros(len(x), 10), lambda x, surrogate: honest()(x, surrogate).detach()],
    ids=["constant", "detached"],
)
def test_a_network_without_a_gradient_is_told_so(network: Steered, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for attacked, others in ((network, {}), (honest(), {"other": network})):
        with pytest.raises(SettingsError, match=r"no gradient in its images \(.*\), which"):
            audit(attacked, IMAGES, THREAT, PLAN, seed=0, journal=journal, sources=others)


def test_a_network_that_answers_the_commonest_class_is_no_better_than_a_guess(
    tmp_path: Path,
) -> None:
    def constant(x: Tensor, _: Surrogate) -> Tensor:
        return F.one_hot(Y.mode().values, 10) + 0 * x.flatten(1)[:, :10]

    found = audit(constant, IMAGES, THREAT, PLAN, seed=0, journal=Journal(tmp_path / "journal"))
    check = named(found, "natural accuracy")
    assert check.verdict is Verdict.WARN
    assert check.threshold == f"more than {check.figure}"


def test_logits_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    class Diverged(nn.Module):
        def forward(self, x: Tensor, surrogate: Surrogate) -> Tensor:
            return honest()(x, surrogate).where(x.flatten(1).sum(1, keepdim=True) > 20, torch.nan)

    with pytest.raises(SettingsError, match="not finite"):
        audit_of(Diverged().eval(), X, tmp_path)
