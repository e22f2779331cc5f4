"""Accuracies of models whose answers are known, and batch-norm statistics worked out by hand."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from helpers import noise, same, scrambled, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from victims import grey, masked

from mbnas import backbones, losses
from mbnas.assignment import Assignment
from mbnas.attacks import uniform_start
from mbnas.errors import DataError, SettingsError
from mbnas.evaluation import (
    Scores,
    Spread,
    Stage,
    at_last_and_every,
    guard_stages,
    measure,
    recalibrate,
    scoring_stages,
)
from mbnas.final import final_scores, reported
from mbnas.images import Images
from mbnas.networks import Network, freeze, multibit
from mbnas.randomness import generator
from mbnas.settings import Robustness, Settings, Surrogate, Threat

Model = Callable[..., Tensor]
TABLE = backbones.build("resnet8", width=2, image=(1, 8, 8), classes=3)
THREAT = Threat(eps=0.4, step=0.05, steps=20)


def right_where(condition: Callable[[Tensor], Tensor]) -> Model:
    """Class 0 where the brightness fulfils the condition; the gradient always says: brighter."""

    def model(x: Tensor, surrogate: Surrogate = Surrogate.STE) -> Tensor:
        brightness = x.flatten(1).mean(1)
        margin = torch.where(condition(brightness), 1.0, -1.0)
        margin = margin - (brightness - brightness.detach())
        return torch.stack((margin, -margin), dim=1)

    return model


def measured(model: Model, images: Images) -> Scores:
    return measure(model, images, THREAT, generator(0))


class Counts(NamedTuple):
    any_iterate: float
    last_iterate: float


def counted(model: Model, images: Images, threat: Threat = THREAT, seed: int = 0) -> Counts:
    masks = at_last_and_every(
        lambda x: model(x, Surrogate.TANH),
        images.batches(128),
        threat,
        generator(seed),
        threat.steps,
    )
    last, every = masks.double().mean(dim=1).tolist()
    return Counts(every, last)


def network(seed: int = 0, bases: tuple[int, int] = (2, 2)) -> Network:
    assignment = Assignment.uniform(*bases, len(TABLE.searchable))
    return freeze(scrambled(lambda: multibit(TABLE, assignment), seed))


def images_of_noise(count: int, seed: int = 0) -> Images:
    return noise(count, TABLE.image, TABLE.classes, seed)


BASES = st.tuples(st.integers(1, 4), st.integers(1, 4))
WEAK = st.builds(Threat, eps=st.floats(0.01, 1), step=st.floats(0.01, 1), steps=st.integers(1, 4))


@given(seed=st.integers(0, 2**32), bases=BASES, threat=WEAK)
@settings(max_examples=25)
def test_robust_accuracy_never_exceeds_natural_accuracy(
    seed: int, bases: tuple[int, int], threat: Threat
) -> None:
    model, images = network(seed, bases), images_of_noise(20, seed)
    x, y = images.gather(slice(None))
    natural = (model(x).argmax(1) == y).float().mean().item()
    scores = measure(model, images, threat, generator(seed))
    counts = counted(model, images, threat, seed)
    assert scores.natural == pytest.approx(natural)
    assert scores.loss == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-5)
    assert 0 <= scores.robust <= scores.natural
    assert counts.any_iterate <= min(scores.natural, counts.last_iterate)


def test_measuring_leaves_the_network_alone_and_repeats_itself() -> None:
    model, images = network(), images_of_noise(20)
    first = measured(model, images)
    assert measured(model, images) == first
    assert same(model, network())


@given(labels=st.lists(st.integers(0, 1), min_size=1, max_size=300))
@settings(max_examples=20)
def test_a_model_that_never_wavers_is_as_robust_as_it_is_accurate(labels: list[int]) -> None:
    """Also over several batches."""
    images = grey([128] * len(labels), labels)
    share = labels.count(0) / len(labels)
    always = right_where(lambda brightness: brightness >= 0)
    scores, counts = measured(always, images), counted(always, images)
    assert (scores.natural, scores.robust) == (share, share)
    assert (counts.any_iterate, counts.last_iterate) == (share, share)


def test_the_loss_is_the_mean_cross_entropy() -> None:
    def odds(x: Tensor, surrogate: Surrogate = Surrogate.STE) -> Tensor:
        return torch.tensor([0.0, 3.0]).log1p() + 0 * x.flatten(1)

    expected = (200 * torch.tensor(5).log() + 100 * torch.tensor(1.25).log()) / 300
    images = grey([128] * 300, [0, 0, 1] * 100)
    assert measured(odds, images).loss == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_never_right_and_never_reported(value: float) -> None:
    def broken(x: Tensor, surrogate: Surrogate = Surrogate.STE) -> Tensor:
        return torch.tensor([value, 0.0]) + 0 * x.flatten(1)

    images = grey([128] * 4, [0, 1, 0, 1])
    assert measured(broken, images) == Scores(0, 0, None)
    with pytest.raises(SettingsError, match="logits that are not finite"):
        final_scores(broken, images, reporting(Surrogate.TANH))


def test_an_image_that_is_wrong_naturally_is_not_robust_even_if_the_attack_mends_it() -> None:
    images = grey([0] * 16, [0] * 16)
    brighter = right_where(lambda brightness: brightness > 0)
    scores, counts = measured(brighter, images), counted(brighter, images)
    assert (scores.natural, scores.robust) == (0, 0)
    assert (counts.any_iterate, counts.last_iterate) == (0, 1)


def test_an_image_lost_on_the_way_counts_at_the_last_iterate_only() -> None:
    """Wrong in a valley that every start below it has to cross."""
    images = grey([128] * 64, [0] * 64)
    valley = right_where(lambda brightness: (brightness < 0.7) | (brightness > 0.8))
    start = uniform_start(images.gather(slice(None))[0], THREAT.eps, generator(0))
    beyond = (start > 0.8).float().mean().item()
    assert 0 < beyond < 1
    scores, counts = measured(valley, images), counted(valley, images)
    assert (scores.natural, scores.robust) == (1, beyond)
    assert (counts.any_iterate, counts.last_iterate) == (beyond, 1)


def test_the_final_iterate_counts_too() -> None:
    """One step from everywhere in the ball to beyond the only limit."""
    images, threat = grey([128] * 16, [0] * 16), Threat(eps=0.1, step=0.3, steps=1)
    limited = right_where(lambda brightness: brightness < 128 / 255 + 0.0999)
    scores = measure(limited, images, threat, generator(0))
    counts = counted(limited, images, threat)
    assert (scores.natural, scores.robust) == (1, 0)
    assert (counts.any_iterate, counts.last_iterate) == (0, 0)


@pytest.mark.parametrize("surrogate", list(Surrogate))
def test_no_training_is_judged_by_its_own_surrogate_alone(surrogate: Surrogate) -> None:
    threat = THREAT.model_copy(update={"surrogate": surrogate})
    stages = guard_stages(threat, 3)
    assert surrogate in (through := {each.surrogate for each in stages})
    assert len(through) == 2
    assert {each.steps for each in stages} == {3}


def test_nothing_is_measured_on_no_images() -> None:
    for measurement in (measured, recalibrate):
        with pytest.raises(DataError, match="no images"):
            measurement(network().eval(), images_of_noise(8).first(0))


def test_a_network_in_training_mode_is_not_measured() -> None:
    model, images = network().train(), images_of_noise(8)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SettingsError, match=r"training mode, .* call network\.eval\(\)"):
        measured(model, images)
    with pytest.raises(SettingsError, match="training mode"):
        final_scores(model, images, reporting(Surrogate.TANH))
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


@given(surrogate=st.sampled_from(list(Surrogate)), steps=st.integers(3, 50))
def test_the_worst_case_takes_no_more_passes_than_pgd_and_shares_nothing_between_its_parts(
    surrogate: Surrogate, steps: int
) -> None:
    threat = Threat(eps=0.4, step=0.05, steps=steps, surrogate=surrogate)
    ((plain,), (first, second)) = (scoring_stages(each, threat) for each in Robustness)
    assert plain == Stage(losses.cross_entropy, surrogate, steps)
    last_look = 1
    assert first.steps + last_look + second.steps + last_look <= steps + last_look
    assert first.loss is not second.loss
    assert first.surrogate is surrogate is not second.surrogate


def test_the_worst_case_sees_through_what_one_surrogate_hides() -> None:
    images, rng = grey([128] * 6, [0] * 6), generator(0)
    hidden = Threat(eps=0.4, step=0.1, steps=20, surrogate=Surrogate.POLYNOMIAL)
    plain, worst = (
        measure(masked(Surrogate.TANH), images, hidden, rng, scoring_stages(each, hidden))
        for each in Robustness
    )
    assert plain.robust > worst.robust == 0
    assert plain.natural == worst.natural == 1


# The report on test images


def reporting(surrogate: Surrogate, seed: int = 0) -> Settings:
    return tiny(
        f"seed={seed}",
        "threat.eps=0.25",
        "threat.step=0.05",
        "threat.steps=20",
        f"threat.surrogate={surrogate}",
        "test.images=8",
        "test.runs=3",
    )


@pytest.mark.parametrize("surrogate", [Surrogate.STE, Surrogate.TANH])
def test_the_report_tells_the_surrogates_apart(surrogate: Surrogate) -> None:
    images = grey([115] * 8 + [255] * 4, [0] * 12)
    scores = final_scores(masked(Surrogate.TANH), images, reporting(surrogate))
    assert (scores.natural, scores.images) == (8 / 12, 12)
    assert (scores.attacked, scores.runs) == (8, 3)
    through_tanh = {"tanh_every": Spread(0, 0), "tanh_last": Spread(0, 0)}
    assert scores.attacks == {
        "ste_every": Spread(1, 0),
        "ste_last": Spread(1, 0),
        **(through_tanh if surrogate is Surrogate.TANH else {}),
    }
    assert scores.pgd == scores.attacks[f"{surrogate}_every"]


def test_every_run_and_every_seed_starts_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = set()

    def attacked(_: object, __: object, ___: object, rng: torch.Generator, ____: int) -> Tensor:
        starts.add(float(torch.rand(1, generator=rng)))
        return torch.ones(2, 8)

    monkeypatch.setattr("mbnas.final.at_last_and_every", attacked)
    for seed in (0, 1):
        final_scores(
            masked(Surrogate.TANH), grey([115] * 8, [0] * 8), reporting(Surrogate.STE, seed)
        )
    assert len(starts) == 2 * 3


def test_the_report_depends_on_the_seed_only() -> None:
    model, images, config = network(), images_of_noise(24), reporting(Surrogate.TANH, seed=5)
    torch.manual_seed(1)
    first = final_scores(model, images, config)
    torch.manual_seed(2)
    assert final_scores(model, images, config) == first


def test_spread_of_known_values() -> None:
    assert Spread.over([0.25]) == Spread(0.25, 0)
    assert Spread.over([1, 2, 3]) == Spread(2, 1)
    assert Spread.over([0.5, 0.5, 0.5]) == Spread(0.5, 0)


# Batch-norm recalibration


def test_statistics_of_one_batch_are_its_mean_and_variance() -> None:
    images = images_of_noise(100)
    norm = nn.BatchNorm2d(1)
    recalibrate(nn.Sequential(norm), images)
    x, _ = images.gather(slice(None))
    torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, x.var((0, 2, 3)))


@pytest.mark.parametrize("count", [1, 128, 129, 300])
def test_statistics_are_plain_averages_over_batches_in_every_layer(count: int) -> None:
    model = network()
    seen: dict[nn.Module, list[Tensor]] = {model.head: []}
    seen |= {norm: [] for norm in model.norms.values()}
    model.head.register_forward_pre_hook(lambda norm, inputs: seen[norm].append(inputs[0]))
    for layer in model.convolutions.values():
        layer.register_forward_pre_hook(lambda _, inputs: seen[inputs[1]].append(inputs[0]))
    recalibrate(model, images_of_noise(count))
    for norm, batches in seen.items():
        sizes = {len(x) for x in batches}
        assert max(sizes) <= 128
        assert max(sizes) - min(sizes) <= 1  # else images of a small batch would count more
        means = torch.stack([x.mean((0, 2, 3)) for x in batches])
        variances = torch.stack([x.var((0, 2, 3)) for x in batches])
        torch.testing.assert_close(norm.running_mean, means.mean(0))
        torch.testing.assert_close(norm.running_var, variances.mean(0))


def test_earlier_statistics_leave_no_trace() -> None:
    one, other = network(), network()
    for norm in other.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.fill_(7)
            norm.running_var.fill_(7)
    for model in (one, other):
        recalibrate(model, images_of_noise(150))
    assert same(one, other)


def test_recalibration_restores_momentum_and_evaluation_mode() -> None:
    model = network()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for number, norm in enumerate(norms):
        norm.momentum = number / 100
    recalibrate(model, images_of_noise(20))
    assert [norm.momentum for norm in norms] == [number / 100 for number in range(len(norms))]
    assert not any(module.training for module in model.modules())


def test_recalibration_changes_nothing_but_statistics() -> None:
    model, before = network(), network().state_dict()
    recalibrate(model, images_of_noise(20))
    changed = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    assert {key.rpartition(".")[2] for key in changed} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


@pytest.mark.parametrize("surrogate", list(Surrogate))
def test_a_network_is_attacked_through_the_surrogate_of_its_threat_model_and_the_papers(
    surrogate: Surrogate,
) -> None:
    expected = {Surrogate.STE, surrogate}
    found = reported(reporting(surrogate).threat)
    assert len(found) == len(expected)
    assert set(found) == expected


def test_the_guard_and_the_worst_case_drive_up_the_losses_of_their_names() -> None:
    through = (THREAT.surrogate, Surrogate.TANH)
    assert guard_stages(THREAT, 3) == tuple(
        Stage(losses.cross_entropy, each, 3) for each in through
    )
    first, second = scoring_stages(Robustness.WORST_CASE, THREAT)
    assert (first.loss, second.loss) == (losses.margin, losses.rescaled_cross_entropy)
