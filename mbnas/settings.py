"""Settings: a frozen, validated tree that every later step takes as argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mbnas import backbones
from mbnas.assignment import MAX_BASES, Space
from mbnas.backbones import Backbone


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


Rate = Annotated[float, Field(gt=0, le=1000)]
"""What a step of training takes; more than any has use for would leave the range of float32."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_is_a_number(cls, value: Any, field: ValidationInfo) -> Any:  # noqa: ANN401
        kind = cls.model_fields[str(field.field_name)].annotation
        if kind is bool or (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return value
        if any(isinstance(each, bool) for each in (value if isinstance(value, list) else [value])):
            raise ValueError("give a value other than true or false")
        return value


class Surrogate(StrEnum):
    """What stands in for the derivative of sign; see :mod:`mbnas.quantizers`."""

    STE = "ste"
    WIDE = "wide"
    IDENTITY = "identity"
    POLYNOMIAL = "polynomial"
    TANH = "tanh"


class Robustness(StrEnum):
    """What the robust accuracy of a candidate is; see :mod:`mbnas.evaluation`."""

    PGD = "pgd"
    WORST_CASE = "worst-case"


class Precision(StrEnum):
    """In what the convolutions of training steps compute; see :mod:`mbnas.precision`."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Optimizer(StrEnum):
    """By which rule parameters follow their gradients; see :mod:`mbnas.optimizers`."""

    ADAM = "adam"
    MUON = "muon"


class Training(StrEnum):
    """On which images a network learns; see :mod:`mbnas.objectives`."""

    NATURAL = "natural"
    FASTAT = "fastat"
    N_FGSM = "n-fgsm"


class Rule(StrEnum):
    """What a step of the supernet trains.

    ``sandwich``: the largest sub-network on labels, the smallest and fair-sampled ones on its
    logits (Yu & Huang 2019). ``fair``: fair-sampled ones on labels (Chu et al. 2021,
    FairNAS), which ranks them better but starts them worse (README).
    """

    SANDWICH = "sandwich"
    FAIR = "fair"


class Effort(StrEnum):
    """How much an audit tries; see :mod:`mbnas.auditing.efforts`."""

    QUICK = "quick"
    STANDARD = "standard"
    FULL = "full"


class BackboneSettings(_Frozen):
    """Which table.

    Attributes:
        width: channels of its first stage.
        prelu: a PReLU follows each convolution of the residual branches. The paper's networks have
            none; small binary ones gain accuracy by it (README).
        averaged_shortcuts: parameter-free shortcuts average pixels and repeat channels (Liu et al.
            2020, ReActNet) instead of leaving pixels out and padding with zeros (He et al. 2016).
        block_shortcuts: one shortcut spans both convolutions of a block (He et al. 2016), which
            suits float networks, instead of one each (Liu et al. 2018), which suits binary ones.
    """

    name: str
    width: int = Field(default=16, ge=1, le=1024)
    prelu: bool = False
    averaged_shortcuts: bool = False
    block_shortcuts: bool = False

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
        root: the folder, which digits do not have; one in ImageFolder layout is read as such
            whatever the name.
        image_size: side in pixels; only ``folder`` must state it.
        channels: 3, or 1 for grey images, of which an attack moves one value a pixel.
        classes: how many there are; only ``folder`` must state it.
        validation: images held out of the training set for search and checkpoint selection.
        shift: augmentation by random crops of the image padded by this many pixels, fewer than it
            has in a row.
        flip: augmentation by random horizontal flips.
        train_images: use so many training images at most (default: all).
    """

    name: Literal["digits", "cifar10", "cifar100", "imagenet", "folder"]
    root: Path | None = None
    image_size: int = Field(ge=1, le=1024)
    channels: Literal[1, 3] = 3
    classes: int = Field(ge=2)
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
            digits = values["name"] == "digits"
            root = None if digits else f"~/.cache/mbnas/{values['name']}"
            own = {"image_size": size, "channels": 1 if digits else 3, "classes": classes}
            return {**own, "root": root, **values}
        return values

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return (self.channels, self.image_size, self.image_size)


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
    """How a network is trained: by Adam or Muon under a triangular learning rate.

    Attributes:
        optimizer: Adam for all parameters, or Muon for the weights of convolutions.
        learning_rate: peak; it rises from 0 over the first ``warmup`` of all steps, then falls.
        weight_decay: what each step takes of the weights of convolutions, times its learning rate;
            those of binary bases are standardised, it only makes their steps relatively longer.
        scale_speed: a step moves the scales alpha of a layer by up to as many learning rates of
            their initial root mean square (relative steps, Shazeer & Stern 2018, Sec. 8); null: by
            up to a learning rate, like all else.
        training: natural images, FastAT (Wong et al. 2020) or N-FGSM (de Jorge et al. 2022).
        weight_surrogate: derivative of sign, or slope of fixed point, that latent weights learn
            through. The window of the paper (Eq. 3) leaves those far from every threshold without
            a gradient; ``tanh`` does not (README).
        step: of the single-step perturbation; by default 1.25 eps for FastAT and eps for N-FGSM.
        precision: of the convolutions in training steps; attacks and quantizers keep float32.
            ``auto`` is bfloat16, where the processor has it, in natural training and float32 in
            adversarial, half of which is an attack and would gain little.
        guard_images: validation images at most on which each epoch is measured; the latest epoch is
            kept that is within a standard error of the best.
        guard_steps: PGD steps of that measurement.
    """

    epochs: PositiveInt
    batch_size: int = Field(default=128, ge=2)
    optimizer: Optimizer = Optimizer.ADAM
    learning_rate: Rate = 5e-3
    warmup: float = Field(default=0.2, ge=0, lt=1)
    weight_decay: float = Field(default=0, ge=0, le=1000)
    scale_speed: Rate | None = None
    gradient_clip: PositiveFloat = 1.0
    training: Training = Training.NATURAL
    weight_surrogate: Surrogate = Surrogate.STE
    step: Distance | None = None
    precision: Precision = Precision.AUTO
    guard_images: PositiveInt = 256
    guard_steps: PositiveInt = 5

    @property
    def computes_in(self) -> Precision:
        """The precision that ``auto`` stands for."""
        if self.precision is not Precision.AUTO:
            return self.precision
        natural = self.training is Training.NATURAL
        return Precision.BFLOAT16 if natural else Precision.FLOAT32


class SupernetRecipe(Recipe):
    """Recipe of the weight-shared supernet.

    Attributes:
        rule: which sub-networks a step trains, and on what.
        sampled: fair-sampled sub-networks per step, in a sandwich beside the largest and the
            smallest.
    """

    rule: Rule = Rule.SANDWICH
    sampled: int = Field(default=1, ge=1, le=1000)


class SearchSettings(_Frozen):
    """What is searched and how candidates are scored.

    Attributes:
        engine: whose NSGA-II proposes candidates.
        budget: most BOPS a candidate may cost.
        evaluations: candidates scored in all, the feasible uniform assignments among them.
        population: candidates per generation.
        objective: robust accuracy is that under PGD as the threat says, counted at every iterate,
            or under two shorter attacks that share neither loss nor surrogate, at the same cost.
        images: validation images a candidate is scored on; if as many others are held out, these
            judge the Pareto set.
        recalibration_images: training images that re-estimate batch-norm statistics before.
    """

    engine: Literal["optuna", "pymoo"] = "pymoo"
    budget: PositiveFloat | None = None
    evaluations: PositiveInt
    population: int = Field(default=16, ge=4)
    objective: Robustness = Robustness.PGD
    images: PositiveInt
    recalibration_images: int = Field(default=512, ge=2)


class RetrainingRecipe(Recipe):
    """Recipe of the reported networks.

    Attributes:
        candidates: how many members of the Pareto set are retrained.
        start: fine-tuned from the supernet's weights (without one, as in ``mbnas train``, from
            scratch), trained from scratch, or begun with what fits of the trained network in a
            folder.
        teacher: whose logits are learned: the largest sub-network of the supernet (without one,
            labels are), a trained network in a folder, such as a float one, or nobody's.
    """

    candidates: int = Field(default=3, ge=0)
    start: Literal["supernet", "scratch"] | Path = "supernet"
    teacher: Literal["supernet"] | Path | None = "supernet"

    @field_validator("start", "teacher")
    @classmethod
    def _no_folder_reads_as_a_word(cls, value: str | Path | None) -> str | Path | None:
        if isinstance(value, Path) and str(value) in ("supernet", "scratch"):
            raise ValueError("a folder of that name must be given by its whole path")
        return value


class FinalSettings(_Frozen):
    """The final measurement on test images.

    Attributes:
        images: test images under attack (default: all); natural accuracy always uses all.
        runs: attack runs with different random starts; mean and spread are reported.
        audit: how much is tried on each retrained network of a search.
    """

    images: PositiveInt | None = None
    runs: int = Field(default=5, ge=1, le=1000)
    audit: Effort = Effort.QUICK


class Settings(_Frozen):
    """All that decides the result of a run."""

    name: str = Field(min_length=1, pattern=r"^\w[\w.-]*$")
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    backbone: BackboneSettings
    choices: Choices
    data: DataSettings
    threat: Threat
    supernet: SupernetRecipe
    search: SearchSettings
    retraining: RetrainingRecipe
    test: FinalSettings = FinalSettings()

    @model_validator(mode="after")
    def _enough_images(self) -> Settings:
        if self.search.images > self.data.validation:
            raise ValueError(
                f"search.images={self.search.images} of data.validation={self.data.validation} "
                "validation images; ask for at most as many"
            )
        return self

    @model_validator(mode="after")
    def _something_left_of_shifted_images(self) -> Settings:
        if self.data.shift >= self.data.image_size:
            raise ValueError(
                f"data.shift={self.data.shift} moves images of {self.data.image_size} pixels out "
                "of sight; give fewer pixels"
            )
        return self

    @model_validator(mode="after")
    def _shortcuts_to_average(self) -> Settings:
        if not self.backbone.averaged_shortcuts:
            return self
        table = self.table
        if any(row.role == "shortcut" for row in table.rows):
            reason = "are convolutions and average nothing"
        elif any(row.out_channels % row.in_channels for row in table.main):
            reason = "cannot repeat channels to a number that is no multiple of theirs"
        else:
            return self
        raise ValueError(
            f"backbone.averaged_shortcuts: those of {self.backbone.name} {reason}; leave it false"
        )

    @property
    def table(self) -> Backbone:
        """The backbone for this data set."""
        table = backbones.build(
            self.backbone.name,
            width=self.backbone.width,
            image=self.data.image,
            classes=self.data.classes,
        )
        return replace(
            table,
            prelu=self.backbone.prelu,
            averaged_shortcuts=self.backbone.averaged_shortcuts,
            block_shortcuts=self.backbone.block_shortcuts,
        )

    @property
    def space(self) -> Space:
        """The search space."""
        return Space(
            self.choices.weight_bases,
            self.choices.activation_bases,
            len(self.table.searchable),
        )
