"""One training loop for networks and supernets, whatever they learn, resumable by epoch."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mbnas import parallel
from mbnas.data import fingerprint
from mbnas.errors import DataError, SettingsError
from mbnas.evaluation import Scores
from mbnas.files import write_atomically
from mbnas.images import Images
from mbnas.layers import takes_surrogates
from mbnas.objectives import Objective
from mbnas.optimizers import Optimizers
from mbnas.precision import computed_in
from mbnas.progress import bar, log
from mbnas.randomness import generator
from mbnas.sameness import identity, require_same
from mbnas.settings import Recipe, Settings, SupernetRecipe, Surrogate, Training


@dataclass(frozen=True)
class Epoch:
    """What the log says of one epoch; accuracies on held-out images, as fractions.

    Attributes:
        precision: of its convolutions; another machine may go on in another.
    """

    number: int
    loss: float
    natural: float
    robust: float
    precision: str

    def __str__(self) -> str:
        return (
            f"epoch {self.number}: loss {self.loss:.3f}, held-out natural {self.natural:.1%}, "
            f"under attack {self.robust:.1%}"
        )


@dataclass(frozen=True)
class Trained:
    """A finished training: its epochs, and the one whose weights remain."""

    epochs: tuple[Epoch, ...]
    kept: Epoch

    def record(self) -> dict[str, Any]:
        """As it is written beside the weights."""
        return {
            "precision": " and ".join(dict.fromkeys(epoch.precision for epoch in self.epochs)),
            "training": [asdict(epoch) for epoch in self.epochs],
            "kept": self.kept.number,
        }


def fit(
    module: nn.Module,
    objective: Objective,
    *,
    guard: Callable[[], Scores],
    train: Images,
    settings: Settings,
    recipe: Recipe,
    learned_from: Mapping[str, str],
    title: str,
    seed: int,
    checkpoint: Path,
) -> Trained:
    """Train ``module`` in place and leave it in the state of the epoch that :func:`kept` names.

    Each epoch ends with ``guard``, a measurement on held-out images, and a checkpoint; where one
    exists already, training goes on behind it; by as many processes and threads as before, bit for
    bit as if it had never stopped.

    Args:
        settings: say how images are augmented; a checkpoint begun with others is refused,
        learned_from: so is one begun with other networks; what they are for, and their digests.

    Raises:
        SettingsError: if the loss stops being finite, or the checkpoint was begun otherwise.
        DataError: if the checkpoint is corrupt or of another network, or is not there for all
            processes that train together.
    """
    optimizer = Optimizers(module, recipe)
    batches = max(1, len(train) // recipe.batch_size)
    origin = {
        "network": title,  # from which, and the settings' seed, ``seed`` follows
        "recipe": recipe.model_dump(mode="json", include=set(Recipe.model_fields)),
        "settings": identity(settings),
        "networks": learned_from,
        "images": fingerprint(train),
    }
    history, chosen = _restore(checkpoint, origin, module, optimizer)
    if not parallel.agreed(len(history)):
        raise DataError(
            f"not every process finds the training checkpoint {str(checkpoint)!r}; "
            "give a folder that all machines share"
        )
    parallel.share(module)
    guarded = min(recipe.guard_images, settings.data.validation)
    precision = str(computed_in(recipe, next(module.parameters()).device))
    with bar(title, recipe.epochs * batches, done=len(history) * batches) as advance:
        for number in range(len(history) + 1, recipe.epochs + 1):
            if _collapsed(history, recipe, guarded):
                break
            rng, accumulate = generator(seed, "epoch", number), objective(number)
            shuffled = train.shuffled(
                recipe.batch_size,
                shift=settings.data.shift,
                flip=settings.data.flip,
                rng=rng,
                part=(parallel.rank(), parallel.count()),
            )
            module.train()
            total = torch.zeros((), dtype=torch.float64)  # read once an epoch: a GPU runs ahead
            for batch, (x, y) in enumerate(shuffled):
                optimizer.zero_grad()
                total = total + accumulate(x, y, rng)
                parallel.average_gradients(module)
                progress = ((number - 1) * batches + batch + 0.5) / (recipe.epochs * batches)
                _step(module, optimizer, recipe, progress)
                advance(f"natural {history[-1].natural:.1%}" if history else "")
            parallel.share(module)
            mean = float(total) / batches
            epoch = parallel.led(partial(_judged, recipe, number, mean, guard, precision))
            log.info("%s %s", title, epoch)
            history = (*history, epoch)
            if kept(history, recipe, guarded) is epoch:
                chosen = {key: value.clone() for key, value in module.state_dict().items()}
            if parallel.rank() == 0:
                _save(checkpoint, origin, module, optimizer, chosen, history)
    module.load_state_dict(chosen)
    module.eval()
    trained = Trained(history, kept(history, recipe, guarded))
    if _collapsed(history, recipe, guarded):
        attack = settings.threat.surrogate if takes_surrogates(module) else None
        remedies = " or ".join(_remedies(recipe, attack))
        log.warning(
            "%s collapsed under attack and was stopped after epoch %d of %d; %s may help",
            *(title, len(history), recipe.epochs, remedies),
        )
    if trained.kept is not history[-1]:
        log.info("%s keeps %s", title, trained.kept)
    return trained


def _step(module: nn.Module, optimizer: Optimizers, recipe: Recipe, progress: float) -> None:
    """Move the parameters along their clipped gradient, at the rate due at ``progress``."""
    nn.utils.clip_grad_norm_(module.parameters(), recipe.gradient_clip)
    optimizer.step(triangular(progress, recipe.learning_rate, recipe.warmup))


def triangular(progress: float, peak: float, warmup: float) -> float:
    """Learning rate at ``progress`` in [0, 1]: up from 0 until ``warmup``, then down to 0."""
    rising = progress / warmup if warmup else 1.0
    return peak * min(rising, (1 - progress) / (1 - warmup))


def _judged(
    recipe: Recipe, number: int, loss: float, guard: Callable[[], Scores], precision: str
) -> Epoch:
    if not math.isfinite(loss):
        raise _diverged(recipe, number, f"is {loss}")
    scores = guard()
    if scores.loss is None:
        raise _diverged(recipe, number, "of held-out images is not finite")
    return Epoch(number, loss, scores.natural, scores.robust, precision)


def _diverged(recipe: Recipe, number: int, how: str) -> SettingsError:
    return SettingsError(
        f"training diverged in epoch {number} (the loss {how}); lower "
        f"{_section(recipe)}.learning_rate, which is {recipe.learning_rate:g}"
    )


def _section(recipe: Recipe) -> str:
    """Of the settings."""
    return "supernet" if isinstance(recipe, SupernetRecipe) else "retraining"


def kept(history: Sequence[Epoch], recipe: Recipe, images: int) -> Epoch:
    """The latest epoch that was within a standard error of the best one until then.

    So many images as the guard looks at tell no more apart, and the learning rate has fallen on
    (the rule of one standard error, Breiman et al. 1984, Sec. 3.4.3). One that falls behind in
    robustness gives way to the epoch that left it behind: of those between, no weights are kept.
    """
    chosen = history[0]
    for count, epoch in enumerate(history, start=1):
        standing = _standing(history[:count], recipe, images)
        best = max(standing, key=lambda each: (_worth(each, recipe), each.number))
        least = _worth(best, recipe) - _standard_error(best, recipe, images)
        near = epoch in standing and _worth(epoch, recipe) >= least
        if near or chosen not in standing:
            chosen = epoch
    return chosen


def _standing(history: Sequence[Epoch], recipe: Recipe, images: int) -> Sequence[Epoch]:
    """Those with half of the highest robust accuracy, or nearly, where that is trained for.

    While it collapses, natural accuracy may rise, and with it what an epoch seems to be worth. What
    is missing from half of a highest one of few images, 1.5 standard errors at most, may be chance.
    """
    if recipe.training is Training.NATURAL:
        return history
    highest = max(epoch.robust for epoch in history)
    least = highest / 2 - 1.5 * math.sqrt(highest * (1 - highest) / images)
    return [epoch for epoch in history if epoch.robust >= least]


def _worth(epoch: Epoch, recipe: Recipe) -> float:
    return worth(epoch.natural, epoch.robust, recipe.training)


def _standard_error(epoch: Epoch, recipe: Recipe, images: int) -> float:
    """Of its worth: an image counts 1 if it is classified correctly, 2 if under attack, too."""
    mean, robust = _worth(epoch, recipe), epoch.robust
    square = mean if recipe.training is Training.NATURAL else epoch.natural + 3 * robust
    return math.sqrt(max(0.0, square - mean**2) / images)


def worth(natural: float, robust: float, training: Training) -> float:
    """By what networks are told apart: the accuracies that were trained for."""
    return natural if training is Training.NATURAL else natural + robust


def _collapsed(history: Sequence[Epoch], recipe: Recipe, images: int) -> bool:
    """Whether two epochs in a row have less than half of the highest robust accuracy.

    Catastrophic overfitting to single-step perturbations (Wong et al. 2020, Sec. 5.4).
    """
    if len(history) < 2:
        return False
    standing = _standing(history, recipe, images)
    return all(epoch not in standing for epoch in history[-2:])


def _remedies(recipe: Recipe, attack: Surrogate | None) -> list[str]:
    """What a training that collapsed did not yet try.

    Args:
        attack: through which perturbations went; None where no surrogate is needed.
    """
    section, best = _section(recipe), Surrogate.POLYNOMIAL
    smoother = [f"threat.surrogate={best}"] if attack not in (None, best) else []
    noisier = [f"{section}.training=n-fgsm"] if recipe.training is not Training.N_FGSM else []
    return [*smoother, *noisier, f"a lower {section}.learning_rate"]


State = dict[str, Tensor]
_UNREADABLE = (
    *(OSError, EOFError, RuntimeError, pickle.UnpicklingError),  # while reading
    *(AttributeError, LookupError, TypeError, ValueError),  # while taking apart what was read
)


def _save(
    path: Path,
    origin: dict[str, Any],
    module: nn.Module,
    optimizer: Optimizers,
    chosen: State,
    history: Sequence[Epoch],
) -> None:
    state = {
        "origin": origin,
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "chosen": chosen,
        "history": [asdict(epoch) for epoch in history],
    }
    content = io.BytesIO()  # writing to the file itself, torch would hide a full disk
    torch.save(state, content)
    write_atomically(path, lambda temporary: temporary.write_bytes(content.getbuffer()))


def _restore(
    path: Path, origin: dict[str, Any], module: nn.Module, optimizer: Optimizers
) -> tuple[tuple[Epoch, ...], State]:
    if not path.exists():
        return (), {}
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        what, do = f"training checkpoint {str(path)!r} was begun", "go on with those, or delete it"
        require_same(state["origin"], origin, what, f"{do} to train from the start")
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        history = tuple(Epoch(**epoch) for epoch in state["history"])
        chosen: State = state["chosen"]
    except torch.OutOfMemoryError:  # a RuntimeError that the checkpoint has no part in
        raise
    except _UNREADABLE:
        raise DataError(
            f"training checkpoint {str(path)!r} is corrupt or of another network; "
            "delete it to train from the start"
        ) from None
    return history, chosen
