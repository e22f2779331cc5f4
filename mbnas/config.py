"""Settings: one YAML file -> one frozen, validated tree that every later step takes as argument."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from mbnas import backbones
from mbnas.assignment import MAX_BASES, Space
from mbnas.backbones import Backbone
from mbnas.errors import SettingsError


def _fraction(value: Any) -> Any:  # noqa: ANN401 (pydantic hands over whatever the file holds)
    """Let a file say ``8/255`` where it means 8/255."""
    if isinstance(value, str) and "/" in value:
        numerator, _, denominator = value.partition("/")
        try:
            return float(numerator) / float(denominator)
        except (ValueError, ZeroDivisionError):
            return value
    return value


def _in_the_box(value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError("distances are in the scale of images in [0, 1]; 8 of 255 levels: 8/255")
    return value


Distance = Annotated[float, BeforeValidator(_fraction), AfterValidator(_in_the_box)]
Count = Annotated[int, Field(ge=1, le=MAX_BASES)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Surrogate(StrEnum):
    """What stands in for the derivative of sign; see :mod:`mbnas.quantizers`."""

    STE = "ste"
    WIDE = "wide"
    IDENTITY = "identity"
    POLYNOMIAL = "polynomial"
    TANH = "tanh"


class Objective(StrEnum):
    """What the robust accuracy of a candidate is; see :mod:`mbnas.evaluation`."""

    PGD = "pgd"
    WORST_CASE = "worst-case"


class Precision(StrEnum):
    """In what the convolutions of training steps compute; see :mod:`mbnas.precision`."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Training(StrEnum):
    """On which images a network learns; see :mod:`mbnas.training`."""

    NATURAL = "natural"
    FASTAT = "fastat"
    N_FGSM = "n-fgsm"


class BackboneSettings(_Frozen):
    """Which table.

    Attributes:
        width: channels of its first stage.
        prelu: a PReLU follows each convolution of the residual branches. The paper's networks have
            none; small binary ones gain accuracy by it (README).
    """

    name: str
    width: PositiveInt = 16
    prelu: bool = False

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        backbones.require_known(name)
        return name


class Choices(_Frozen):
    """The values that M and N of each layer are chosen from."""

    weight_bases: tuple[Count, ...] = Field(min_length=1)
    activation_bases: tuple[Count, ...] = Field(min_length=1)

    @field_validator("weight_bases", "activation_bases")
    @classmethod
    def _sorted(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(values)))


class DataSettings(_Frozen):
    """Where images come from and how they are split.

    Attributes:
        name: a known data set, or ``folder`` for any folder in ImageFolder layout
            (``train/<class>/*``, ``test/<class>/*`` or ``val/<class>/*``).
        root: the folder; a root in ImageFolder layout is read as such whatever the name.
        image_size: side in pixels; only ``folder`` must state it.
        classes: how many there are; only ``folder`` must state it.
        validation: images held out of the training set for search and checkpoint selection.
        shift: augmentation by random crops of the image padded by this many pixels.
        flip: augmentation by random horizontal flips.
        train_images: use only so many training images (default: all).
    """

    name: Literal["digits", "cifar10", "cifar100", "imagenet", "folder"]
    root: Path | None = None
    image_size: PositiveInt
    classes: PositiveInt
    validation: PositiveInt
    shift: int = Field(default=0, ge=0)
    flip: bool = False
    train_images: PositiveInt | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:  # noqa: ANN401
        known = {
            "digits": (8, 10),
            "cifar10": (32, 10),
            "cifar100": (32, 100),
            "imagenet": (224, 1000),
        }
        if isinstance(values, Mapping) and str(values.get("name")) in known:
            size, classes = known[values["name"]]
            root = None if values["name"] == "digits" else f"~/.cache/mbnas/{values['name']}"
            return {"image_size": size, "classes": classes, "root": root, **values}
        return values

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return (1 if self.name == "digits" else 3, self.image_size, self.image_size)


class Threat(_Frozen):
    """L-infinity threat model on images in [0, 1] (paper, Sec. 4).

    Attributes:
        eps: radius of the ball, step: step size of PGD; fractions such as ``8/255`` are understood.
        steps: iterations of PGD.
        surrogate: derivative of sign that attacks see, in FastAT as in PGD.
    """

    eps: Distance
    step: Distance
    steps: PositiveInt = 20
    surrogate: Surrogate = Surrogate.POLYNOMIAL


class Recipe(_Frozen):
    """How a network is trained: Adam under a triangular learning rate.

    Attributes:
        learning_rate: peak; it rises from 0 over the first ``warmup`` of all steps, then falls.
        training: natural images, FastAT (Wong et al. 2020) or N-FGSM (de Jorge et al. 2022).
        step: of the single-step perturbation; by default 1.25 eps for FastAT and eps for N-FGSM.
        precision: of the convolutions in training steps; attacks and quantizers keep float32.
        guard_images: validation images on which each epoch is measured; the best epoch is kept.
        guard_steps: PGD steps of that measurement.
    """

    epochs: PositiveInt
    batch_size: PositiveInt = 128
    learning_rate: PositiveFloat = 5e-3
    warmup: float = Field(default=0.2, ge=0, lt=1)
    gradient_clip: PositiveFloat = 1.0
    training: Training = Training.NATURAL
    step: Distance | None = None
    precision: Precision = Precision.FLOAT32
    guard_images: PositiveInt = 256
    guard_steps: PositiveInt = 5


class SupernetRecipe(Recipe):
    """Recipe of the weight-shared supernet.

    Attributes:
        sampled: fair-sampled sub-networks per step, beside the largest and the smallest.
    """

    sampled: int = Field(default=1, ge=0)


class SearchSettings(_Frozen):
    """What is searched and how candidates are scored.

    Attributes:
        engine: whose NSGA-II proposes candidates.
        budget: most BOPS a candidate may cost.
        evaluations: candidates scored in all, the feasible uniform assignments among them.
        population: candidates per generation.
        objective: robust accuracy is that under PGD as in the paper, or under two shorter attacks
            that share neither loss nor surrogate, at the same cost.
        images: validation images a candidate is scored on.
        recalibration_images: training images that re-estimate batch-norm statistics before.
    """

    engine: Literal["optuna", "pymoo"] = "pymoo"
    budget: PositiveFloat | None = None
    evaluations: PositiveInt
    population: int = Field(default=16, ge=4)
    objective: Objective = Objective.PGD
    images: PositiveInt
    recalibration_images: PositiveInt = 512


class RetrainingRecipe(Recipe):
    """Recipe of the reported networks.

    Attributes:
        candidates: how many members of the Pareto set are retrained.
        start: fine-tuned from the supernet's weights or trained from scratch.
        teacher: folder of a trained network, such as a float one, whose logits are learned.
    """

    candidates: int = Field(default=3, ge=0)
    start: Literal["supernet", "scratch"] = "supernet"
    teacher: Path | None = None


class FinalSettings(_Frozen):
    """The final measurement on test images.

    Attributes:
        images: test images under attack (default: all); natural accuracy always uses all.
        runs: attack runs with different random starts; mean and spread are reported.
    """

    images: PositiveInt | None = None
    runs: PositiveInt = 5


class Settings(_Frozen):
    """All that decides the result of a run."""

    name: str = Field(min_length=1, pattern=r"^\w[\w.-]*$")
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    backbone: BackboneSettings
    choices: Choices
    data: DataSettings
    threat: Threat
    supernet: SupernetRecipe
    search: SearchSettings
    retraining: RetrainingRecipe
    test: FinalSettings = FinalSettings()

    @property
    def table(self) -> Backbone:
        """The backbone for this data set."""
        table = backbones.build(
            self.backbone.name,
            width=self.backbone.width,
            image=self.data.image,
            classes=self.data.classes,
        )
        return replace(table, prelu=self.backbone.prelu)

    @property
    def space(self) -> Space:
        """The search space."""
        return Space(
            self.choices.weight_bases,
            self.choices.activation_bases,
            len(self.table.searchable),
        )


def load(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Read a space from YAML, apply ``key.path=value`` overrides, validate.

    Raises:
        SettingsError: with one line that names the key, what was given and what is allowed.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise SettingsError(
            f"cannot read space {str(path)!r}: {error.strerror}; "
            "give a YAML file such as search_spaces/digits.yaml"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"space {str(path)!r} is not valid YAML: {reason}") from None
    if not isinstance(tree, dict):
        raise SettingsError(f"space {str(path)!r} must hold keys and values, see search_spaces/")
    return validate(tree, overrides)


def validate(tree: Mapping[str, Any], overrides: Sequence[str] = ()) -> Settings:
    """Settings from a tree of plain values, with overrides applied first."""
    for override in overrides:
        tree = _override(tree, override)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(_first_mistake(error)) from None


def dump(settings: Settings) -> str:
    """YAML that :func:`load` reads back to equal settings."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def identity(settings: Settings) -> dict[str, Any]:
    """What decides a result: all but where the images lie and what computes."""
    tree = settings.model_dump(mode="json", exclude={"device": True, "data": {"root"}})
    assert isinstance(tree, dict)
    return tree


def require_same(started: Mapping[str, Any], asked: Mapping[str, Any], what: str, do: str) -> None:
    """Check that something may go on, or be taken for what is asked for.

    Args:
        started, asked: plain values, such as two :func:`identity`.
        what: was begun; do: what to do instead, for the message.

    Raises:
        SettingsError: with each value that differs.
    """
    changed = differences(started, asked)
    if changed:
        raise SettingsError(f"{what} with other settings ({'; '.join(changed)}); {do}")


def require_same_networks(saved: Settings, asked: Settings, what: str) -> None:
    """Check that two settings are of networks of one shape.

    Raises:
        SettingsError: with each value that differs.
    """

    def shape(settings: Settings) -> dict[str, Any]:
        return settings.model_dump(mode="json", include={"backbone", "choices"})

    do = "networks of another shape need a training of their own"
    require_same(shape(saved), shape(asked), what, do)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One ``key: old -> new`` for each value that differs."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in before | after
        if before.get(key) != after.get(key)
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _override(tree: Mapping[str, Any], override: str) -> dict[str, Any]:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise SettingsError(f"--set {override!r} is not of the form key.path=value")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise SettingsError(f"--set {override!r}: {text!r} is not a YAML value") from None
    return _replaced(tree, path.strip().split("."), value)


def _replaced(tree: Any, keys: Sequence[str], value: Any) -> dict[str, Any]:  # noqa: ANN401
    head, *rest = keys
    branch = dict(tree) if isinstance(tree, Mapping) else {}
    branch[head] = _replaced(branch.get(head), rest, value) if rest else value
    return branch


def _first_mistake(error: ValidationError) -> str:
    mistakes = error.errors()
    misspelt = (each for each in mistakes if each["type"] == "extra_forbidden")
    mistake = next(misspelt, mistakes[0])  # a misspelt key is also reported as a missing one
    location = ".".join(map(str, mistake["loc"]))
    if mistake["type"] == "extra_forbidden":
        allowed = list(_section(mistake["loc"][:-1]).model_fields)
        near = difflib.get_close_matches(str(mistake["loc"][-1]), allowed, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown key {location!r}; {hint}allowed here: {', '.join(allowed)}"
    if mistake["type"] == "missing":
        return f"missing key {location!r}; add it to the space or give --set {location}=VALUE"
    message = mistake["msg"].removeprefix("Value error, ")
    return f"{location}: {message} (given: {mistake['input']!r})"


def _section(location: Sequence[int | str]) -> type[BaseModel]:
    model: type[BaseModel] = Settings
    for key in location:
        annotation = model.model_fields[str(key)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        model = annotation
    return model
