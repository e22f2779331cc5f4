"""A training loop that may stop anywhere, its schedule and its checkpoint."""

import copy
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import same, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from lessons import (
    CHANGES,
    FASTAT,
    IMAGES,
    NATURAL,
    SEED,
    SETTINGS,
    SPACE,
    TABLE,
    THREAT,
    network,
    supernet,
)
from torch import Tensor, nn

from mbnas.errors import DataError, SettingsError
from mbnas.evaluation import Scores
from mbnas.formats import Format
from mbnas.images import Batch, Images
from mbnas.networks import Network, build_network
from mbnas.objectives import (
    Accumulate,
    Objective,
    network_objective,
    supernet_objective,
)
from mbnas.randomness import generator
from mbnas.settings import Optimizer, Recipe, Settings, Training
from mbnas.training import Epoch, _standard_error, fit, kept, triangular

# The schedule


@given(progress=st.floats(0, 1), peak=st.floats(1e-4, 1), warmup=st.floats(0.01, 0.99))
def test_the_learning_rate_is_a_triangle(progress: float, peak: float, warmup: float) -> None:
    expected = np.interp(progress, [0, warmup, 1], [0, peak, 0])
    assert triangular(progress, peak, warmup) == pytest.approx(expected, abs=1e-12)


@given(progress=st.floats(0, 1), peak=st.floats(1e-4, 1))
def test_without_warmup_the_learning_rate_only_falls(progress: float, peak: float) -> None:
    assert triangular(progress, peak, 0) == peak * (1 - progress)


# The loop


@dataclass
class Script:
    """A training that scores as told, and breaks off before the batch of the epoch it is told.

    A batch behind the last of an epoch is its guard.
    """

    objective: Objective
    scores: Sequence[tuple[float, float]] = ((0.2, 0.1), (0.6, 0.4), (0.7, 0.1), (0.5, 0.3))
    stop: tuple[int, int] | None = None
    observe: Callable[[], None] = lambda: None
    epoch: int = 0
    batch: int = 0

    def __call__(self, epoch: int) -> Accumulate:
        accumulate = self.objective(epoch)
        self.epoch, self.batch = epoch, 0

        def batch(x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
            self._next()
            return accumulate(x, y, rng)

        return batch

    def guard(self) -> Scores:
        self._next()
        self.observe()
        natural, robust = self.scores[self.epoch - 1]
        return Scores(natural, robust, 1)

    def _next(self) -> None:
        if (self.epoch, self.batch) == self.stop:
            raise KeyboardInterrupt
        self.batch += 1


def run(
    module: nn.Module,
    script: Script,
    checkpoint: Path,
    recipe: Recipe = FASTAT,
    asked: Settings = SETTINGS,
    train: Images = IMAGES,
) -> tuple[Epoch, ...]:
    return fit(
        module,
        script,
        guard=script.guard,
        train=train,
        settings=asked,
        recipe=recipe,
        learned_from={},
        title="network",
        seed=SEED,
        checkpoint=checkpoint,
    ).epochs


def natural(module: Network) -> Objective:
    return network_objective(module, THREAT, NATURAL)


def fastat_network() -> tuple[nn.Module, Objective]:
    module = network()
    return module, network_objective(module, THREAT, FASTAT)


def fastat_supernet() -> tuple[nn.Module, Objective]:
    module = supernet()
    return module, supernet_objective(module, THREAT, FASTAT, SEED)


@pytest.mark.parametrize("optimizer", Optimizer)
@pytest.mark.parametrize("fresh", [fastat_network, fastat_supernet])
def test_wherever_it_stops_training_goes_on_as_if_it_had_not(
    fresh: Callable[[], tuple[nn.Module, Objective]], optimizer: Optimizer, tmp_path: Path
) -> None:
    recipe = FASTAT.model_copy(update={"optimizer": optimizer})
    undisturbed, objective = fresh()
    history = run(undisturbed, Script(objective), tmp_path / "undisturbed", recipe)
    for stop in ((1, 1), (2, 0), (2, 2), (4, 1)):
        module, objective = fresh()
        with pytest.raises(KeyboardInterrupt):
            run(module, Script(objective, stop=stop), tmp_path / "checkpoint", recipe)
        torch.manual_seed(stop[0])
    for _ in range(2):  # the second time nothing is left to do
        module, objective = fresh()
        assert run(module, Script(objective), tmp_path / "checkpoint", recipe) == history
        assert same(module, undisturbed)


@pytest.mark.parametrize("warmup", [0, 0.25, 0.5, 0.8])
def test_a_step_is_as_long_as_the_rate_in_the_middle_of_its_batch(
    tmp_path: Path, warmup: float
) -> None:
    """The first step of Adam moves a parameter by the learning rate."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    before = module[1].weight.detach().clone()

    def accumulate(x: Tensor, y: Tensor, _: torch.Generator) -> Tensor:
        loss = F.cross_entropy(module(x), y)
        torch.autograd.backward(loss)
        return loss.detach()

    recipe = Recipe(epochs=1, batch_size=16, warmup=warmup)
    run(module, Script(lambda _: accumulate), tmp_path / "checkpoint", recipe)
    moved = (module[1].weight - before).abs().max().item()
    assert moved == pytest.approx(triangular(0.5, recipe.learning_rate, warmup), rel=1e-3)


def test_training_augments_as_the_settings_say_and_moves_batch_norm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, original = [], Images.shuffled

    def shuffled(
        self: Images, size: int, *, shift: int, flip: bool, **others: object
    ) -> Iterator[Batch]:
        seen.append((shift, flip))
        return original(self, size, shift=shift, flip=flip, **others)

    monkeypatch.setattr(Images, "shuffled", shuffled)
    module = network().eval()  # as one that is fine-tuned
    before = module.head.running_mean.clone()
    run(module, Script(natural(module)), tmp_path / "checkpoint", NATURAL)
    assert set(seen) == {(SETTINGS.data.shift, SETTINGS.data.flip)} == {(1, True)}
    assert not torch.equal(module.head.running_mean, before)


def test_epochs_differ_in_their_order_and_one_schedule_spans_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    rates: list[float] = []
    epochs: list[int] = []

    def objective(epoch: int) -> Accumulate:
        epochs.append(epoch)

        def accumulate(x: Tensor, _: Tensor, __: torch.Generator) -> Tensor:
            seen.append(x)
            return torch.tensor(0.0)

        return accumulate

    monkeypatch.setattr("mbnas.optimizers.Optimizers.step", lambda _, rate: rates.append(rate))
    recipe = Recipe(epochs=3, batch_size=8)
    run(nn.Linear(1, 1), Script(objective), tmp_path / "file", recipe)
    assert epochs == [1, 2, 3]
    assert not torch.equal(seen[0], seen[len(seen) // 3])
    middles = [(step + 0.5) / len(seen) for step in range(len(seen))]
    peak, warmup = recipe.learning_rate, recipe.warmup
    assert rates == pytest.approx([triangular(each, peak, warmup) for each in middles])


def test_gradients_are_clipped_to_the_norm_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, norms = nn.Linear(4, 3), []

    def accumulate(*_: object) -> Tensor:
        for each in module.parameters():
            each.grad = torch.full_like(each, 9.0)
        return torch.tensor(0.0)

    def step(*_: object) -> None:
        whole = torch.cat([each.grad.flatten() for each in module.parameters()])
        norms.append(whole.norm().item())

    monkeypatch.setattr("mbnas.optimizers.Optimizers.step", step)
    recipe = Recipe(epochs=1, batch_size=8, gradient_clip=0.5)
    run(module, Script(lambda _: accumulate), tmp_path / "file", recipe)
    assert norms == pytest.approx([0.5, 0.5])


def test_the_loss_of_an_epoch_is_the_mean_over_its_batches(tmp_path: Path) -> None:
    module, losses = network(), itertools.cycle((1.0, 3.0))
    script = Script(lambda _: lambda *_: torch.tensor(next(losses)))
    history = run(module, script, tmp_path / "checkpoint", NATURAL)
    assert [epoch.loss for epoch in history] == [2] * NATURAL.epochs


EIGHTHS = st.integers(2, 4)  # of the images are right; too close together for a collapse
EPOCHS = st.lists(
    st.tuples(EIGHTHS, EIGHTHS).map(lambda each: (max(each) / 8, min(each) / 8)),
    min_size=1,
    max_size=4,
)


def worths(natural: float, robust: float, recipe: Recipe) -> list[int]:
    """What each of eight images counts; one that withstands attacks is right as it is, too."""
    adversarial = recipe.training is not Training.NATURAL
    return [(i < 8 * natural) + (adversarial and i < 8 * robust) for i in range(8)]


@pytest.mark.parametrize("recipe", [NATURAL, FASTAT])
@given(scores=EPOCHS, images=st.sampled_from([8, 100, 10_000]))
@settings(max_examples=15)
def test_the_latest_epoch_within_a_standard_error_of_the_best_is_what_is_left(
    tmp_path_factory: pytest.TempPathFactory,
    recipe: Recipe,
    scores: list[tuple[float, float]],
    images: int,
) -> None:
    """Best by natural accuracy, or by that and robust accuracy where training is adversarial."""
    module, states = network(), list[nn.Module]()
    script = Script(natural(module), scores, observe=lambda: states.append(copy.deepcopy(module)))
    recipe = recipe.model_copy(update={"epochs": len(scores), "guard_images": 10_000})
    few = SETTINGS.data.model_copy(update={"validation": images})  # the guard can see no more
    asked = SETTINGS.model_copy(update={"data": few})
    history = run(module, script, tmp_path_factory.mktemp("fit") / "checkpoint", recipe, asked)
    assert [(each.natural, each.robust) for each in history] == scores
    counted = [worths(*each, recipe) for each in scores]
    best = max(range(len(scores)), key=lambda i: (fmean(counted[i]), i))
    error = pstdev(counted[best]) / images**0.5
    near = [i for i, each in enumerate(counted) if fmean(each) >= fmean(counted[best]) - error]
    assert same(module, states[near[-1]])
    assert not any(each.training for each in module.modules())


@pytest.mark.parametrize(
    ("recipe", "counted"),
    [(NATURAL, [1] * 63 + [0] * 37), (FASTAT, [2] * 41 + [1] * 22 + [0] * 37)],
    ids=["natural", "adversarial"],
)
def test_the_standard_error_is_that_of_what_each_image_counts(
    recipe: Recipe, counted: list[int]
) -> None:
    epoch = Epoch(1, 0.0, natural=0.63, robust=0.41, precision="float32")
    assert _standard_error(epoch, recipe, 100) == pytest.approx(pstdev(counted) / 10)


@pytest.mark.parametrize(
    ("guard", "there", "kept"), [(20, 10_000, 1), (10_000, 20, 1), (10_000, 10_000, 0)]
)
def test_a_guard_tells_as_little_apart_as_the_images_it_sees(
    tmp_path: Path, guard: int, there: int, kept: int
) -> None:
    """The second epoch is within a standard error of the first over 20 images, not over 10,000."""
    module, states = network(), list[nn.Module]()
    scores = [(0.60, 0.40), (0.55, 0.38)]
    script = Script(natural(module), scores, observe=lambda: states.append(copy.deepcopy(module)))
    recipe = FASTAT.model_copy(update={"epochs": 2, "guard_images": guard})
    held_out = SETTINGS.data.model_copy(update={"validation": there})
    asked = SETTINGS.model_copy(update={"data": held_out})
    run(module, script, tmp_path / "file", recipe, asked)
    assert same(module, states[kept])


COLLAPSED = "collapsed under attack and was stopped after epoch 4 of 6"


@pytest.mark.parametrize(
    ("recipe", "robust", "epochs", "said"),
    [
        (FASTAT, (0.1, 0.4, 0.15, 0.15, 0.4, 0.4), 4, [COLLAPSED, "keeps epoch 2"]),
        (FASTAT, (0.1, 0.4, 0.15, 0.3, 0.15, 0.3), 6, ["keeps epoch 2"]),
        (FASTAT, (0.0, 0.0, 0.0, 0.1, 0.3, 0.4), 6, []),
        (NATURAL, (0.1, 0.4, 0.15, 0.15, 0.1, 0.1), 6, []),
    ],
    ids=["collapse", "relapses", "slow start", "natural"],
)
def test_a_collapse_ends_training_and_the_log_tells_which_epoch_is_kept(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    recipe: Recipe,
    robust: tuple[float, ...],
    epochs: int,
    said: list[str],
) -> None:
    recipe = recipe.model_copy(update={"epochs": 6, "guard_images": 10_000})
    for _ in range(2):  # the second time, all is there already
        module = network()
        script = Script(natural(module), [(0.5, each) for each in robust])
        with caplog.at_level(logging.INFO, "mbnas"):
            history = run(module, script, tmp_path / "file", recipe)
        assert [each.robust for each in history] == list(robust[:epochs])
    named = [f"network epoch {number}" for number in range(1, epochs + 1)]
    told = [line.partition(":")[0].partition(";")[0] for line in caplog.messages]
    remarks = [f"network {each}" for each in said]
    assert told == [*named, *remarks, *remarks]


@pytest.mark.parametrize(
    ("surrogate", "training", "advice"),
    [
        (
            *("ste", Training.FASTAT),
            "6; threat.surrogate=polynomial or supernet.training=n-fgsm or a lower",
        ),
        ("polynomial", Training.FASTAT, "6; supernet.training=n-fgsm or a lower"),
        ("polynomial", Training.N_FGSM, "6; a lower"),
    ],
)
def test_after_a_collapse_nothing_is_advised_that_is_in_use(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    surrogate: str,
    training: Training,
    advice: str,
) -> None:
    recipe = FASTAT.model_copy(update={"epochs": 6, "training": training})
    module = network()
    script = Script(natural(module), [(0.5, robust) for robust in (0.4, 0.1, 0.1)])
    asked = tiny(*CHANGES, f"threat.surrogate={surrogate}")
    run(module, script, tmp_path / "file", recipe, asked)
    (told,) = [each for each in caplog.messages if "collapsed" in each]
    assert f"{advice} supernet.learning_rate may help" in told


def test_after_a_collapse_of_a_float_network_no_surrogate_is_advised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = build_network(TABLE, Format.parse("float", SPACE.layers))
    script = Script(natural(module), [(0.5, robust) for robust in (0.4, 0.1, 0.1)])
    run(module, script, tmp_path / "file", FASTAT, tiny(*CHANGES, "threat.surrogate=ste"))
    (told,) = [each for each in caplog.messages if "collapsed" in each]
    assert "; supernet.training=n-fgsm or a lower supernet.learning_rate may help" in told


def test_no_collapsed_epoch_is_kept_however_natural_accuracy_rises(tmp_path: Path) -> None:
    """By the sum of both accuracies the last epochs are as good as the first, or better."""
    scores = [(0.40, 0.10), (0.49, 0.02), (0.58, 0.01), (0.60, 0.00)]
    recipe = FASTAT.model_copy(update={"epochs": 4})
    module = network()
    history = run(module, Script(natural(module), scores), tmp_path / "file", recipe)
    assert len(history) == 3
    assert kept(history, recipe, 256) is history[0]


def test_an_epoch_that_falls_behind_gives_way_to_the_one_that_left_it_behind(
    tmp_path: Path,
) -> None:
    """A natural network that learns to be robust: the best epoch so far may stop standing."""
    scores = [(0.80, 0.04), (0.60, 0.13), (0.45, 0.17)]
    recipe = FASTAT.model_copy(update={"epochs": 3})
    module, states = network(), list[nn.Module]()
    script = Script(natural(module), scores, observe=lambda: states.append(copy.deepcopy(module)))
    history = run(module, script, tmp_path / "file", recipe)
    assert kept(history, recipe, 256) is history[2]
    assert same(module, states[2])


@pytest.mark.parametrize(
    ("robust", "images", "epochs"),
    [
        ((1 / 256, 0, 0, 0), 256, 4),
        ((0.05, 0.02, 0.02, 0.02), 256, 4),
        ((0.05, 0.02, 0.02, 0.02), 10_000, 3),
        ((0.05, 0, 0, 0), 256, 3),
    ],
    ids=["one image", "few images", "many images", "collapse"],
)
def test_what_a_few_images_do_is_no_collapse(
    tmp_path: Path, robust: tuple[float, ...], images: int, epochs: int
) -> None:
    recipe = FASTAT.model_copy(update={"epochs": 4, "guard_images": images})
    held_out = SETTINGS.data.model_copy(update={"validation": images})
    module = network()
    script = Script(natural(module), [(0.5, each) for each in robust])
    asked = SETTINGS.model_copy(update={"data": held_out})
    assert len(run(module, script, tmp_path / "file", recipe, asked)) == epochs


FRACTION = st.integers(0, 8).map(lambda eighths: eighths / 8)


@given(scores=st.lists(st.tuples(FRACTION, FRACTION), min_size=1, max_size=8))
def test_the_epoch_kept_is_the_one_kept_before_or_the_newest(
    scores: list[tuple[float, float]],
) -> None:
    """For no other one has weights on disk."""
    history = [Epoch(number, 1.0, *each, "float32") for number, each in enumerate(scores, start=1)]
    chosen = [kept(history[:count], FASTAT, 256) for count in range(1, len(history) + 1)]
    for before, after, newest in zip([history[0], *chosen], chosen, history, strict=False):
        assert after in (before, newest)
        highest = max(each.robust for each in history[: newest.number])
        assert after.robust >= highest / 2


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_training(tmp_path: Path, loss: float) -> None:
    module, checkpoint = network(), tmp_path / "checkpoint"
    harmless = natural(module)

    def objective(epoch: int) -> Accumulate:
        return harmless(epoch) if epoch < 3 else lambda *_: torch.tensor(loss)

    with pytest.raises(
        SettingsError,
        match=r"diverged in epoch 3 .*; lower supernet\.learning_rate, which is 0\.01",
    ):
        run(module, Script(objective), checkpoint)
    assert len(torch.load(checkpoint)["history"]) == 2


def test_held_out_images_whose_loss_is_not_finite_end_training(tmp_path: Path) -> None:
    module = network()
    script = Script(natural(module))
    with (
        mock.patch.object(script, "guard", lambda: Scores(0, 0, None)),
        pytest.raises(
            SettingsError,
            match=r"diverged in epoch 1 .*held-out.*; lower retraining\.learning_rate",
        ),
    ):
        run(module, script, tmp_path / "checkpoint", SETTINGS.retraining)


# Its checkpoint


@pytest.mark.parametrize("change", ["threat.eps=0.01", "data.shift=0", "data.train_images=32"])
def test_a_training_begun_with_other_settings_does_not_go_on(change: str, tmp_path: Path) -> None:
    checkpoint, module = tmp_path / "checkpoint", network()
    with pytest.raises(KeyboardInterrupt):
        run(module, Script(natural(module), stop=(3, 0)), checkpoint)
    key, _, value = change.partition("=")
    other = tiny(*CHANGES, change)
    with pytest.raises(
        SettingsError, match=rf"begun with other settings \(settings\.{key}: .* -> {value}\)"
    ):
        run(module, Script(natural(module)), checkpoint, asked=other)
    elsewhere = tiny(*CHANGES, "data.root=moved", "device=cpu")
    assert len(run(module, Script(natural(module)), checkpoint, asked=elsewhere)) == NATURAL.epochs


@pytest.mark.parametrize("change", [{"optimizer": "muon"}, {"learning_rate": 0.5}])
def test_a_training_begun_by_another_recipe_does_not_go_on(
    change: dict[str, object], tmp_path: Path
) -> None:
    checkpoint, module = tmp_path / "checkpoint", network()
    with pytest.raises(KeyboardInterrupt):
        run(module, Script(natural(module), stop=(3, 0)), checkpoint)
    begun = {key: value.clone() for key, value in module.state_dict().items()}
    other = FASTAT.model_validate({**FASTAT.model_dump(), **change})
    (key,) = change
    with pytest.raises(SettingsError, match=rf"begun with other settings \(recipe\.{key}: "):
        run(module, Script(natural(module)), checkpoint, recipe=other)
    assert all(torch.equal(value, begun[key]) for key, value in module.state_dict().items())


def test_a_training_begun_on_other_images_does_not_go_on(tmp_path: Path) -> None:
    checkpoint, module = tmp_path / "checkpoint", network()
    with pytest.raises(KeyboardInterrupt):
        run(module, Script(natural(module), stop=(3, 0)), checkpoint)
    flipped = Images.of(IMAGES.pixels.flip(3), IMAGES.targets)
    with pytest.raises(SettingsError, match=r"begun with other settings \(images: "):
        run(module, Script(natural(module)), checkpoint, train=flipped)


def refused(path: Path) -> bool:
    """Whether the checkpoint is named in one line and left alone."""
    module, before = network(), path.read_bytes()
    with pytest.raises(DataError) as caught:
        run(module, Script(natural(module)), path)
    message = str(caught.value)
    assert path.read_bytes() == before
    return f"{str(path)!r} is corrupt or of another network; delete it" in message


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a network."""
    path, module = tmp_path_factory.mktemp("whole") / "checkpoint", network()
    run(module, Script(natural(module)), path)
    return path.read_bytes()


@pytest.mark.parametrize("fraction", [0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_named(whole: bytes, tmp_path: Path, fraction: float) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(whole[: int(fraction * len(whole))])
    assert refused(path)


def test_random_bytes_are_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    for seed in range(20):
        path.write_bytes(bytes(torch.randint(256, (400,), generator=generator(seed)).tolist()))
        assert refused(path)


def test_the_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    for other, _ in (fastat_supernet(), (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), None)):
        run(other, Script(lambda _: lambda *_: torch.tensor(0.0)), path)
        assert refused(path)
        path.unlink()


@pytest.mark.parametrize(
    "change",
    [
        lambda _: [1, 2],
        lambda _: torch.zeros(3),
        lambda _: None,
        lambda _: {},
        lambda state: state | {"module": 1},
        lambda state: state | {"module": {}},
        lambda state: state | {"optimizer": {}},
        lambda state: state | {"optimizer": 1},
        lambda state: state | {"history": [{}]},
        lambda state: state | {"history": 1},
        lambda state: {key: value for key, value in state.items() if key != "chosen"},
    ],
)
def test_other_things_that_torch_saves_are_no_checkpoint(
    whole: bytes, tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(whole)
    torch.save(change(torch.load(path)), path)
    assert refused(path)
