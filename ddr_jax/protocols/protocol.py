"""How students are trained, as plain data that hashes by value; no JAX is imported here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast

from ddr_jax.nets.names import find
from ddr_jax.types import InputError, nearest

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("step", "constant", "cosineannealing", "cosine")
LOSSES = ("ce", "kl", "mse_gt")
LABELS = ("hard", "soft", "teacher")
READOUTS = ("last", "best")
OPERATIONS = ("scale", "rotate", "flip", "color", "crop", "cutout")
DSA_MODES = ("S", "M")
CLOCKS = ("epoch", "step")

REAL_EPOCHS = 30


@dataclass(frozen=True)
class DSA:
    """Differentiable siamese augmentation (Zhao & Bilen 2021, arXiv 2102.08259).

    In mode S a batch gets one of `operations`, in mode M all of them. Strengths, by default the paper's, are drawn per
    image, or once per batch if `siamese`.
    """

    operations: tuple[str, ...] = OPERATIONS
    flip: float = 0.5  # probability
    rotate: float = 15.0  # degrees, either way
    saturation: float = 2.0
    brightness: float = 1.0
    contrast: float = 0.5
    scale: float = 1.2  # factor, at most; 1 / scale at least
    crop: float = 0.125  # shift, as a share of the side
    cutout: float = 0.5  # side of the hole, as a share of the side
    mode: str = "S"
    siamese: bool = False

    def __post_init__(self) -> None:
        if not self.operations:
            raise InputError(f"DSA has no operations: name some of {', '.join(OPERATIONS)}")
        for operation in self.operations:
            _check_choice("DSA operation", operation, OPERATIONS)
        _check_choice("DSA mode", self.mode, DSA_MODES)

    @classmethod
    def from_strategy(cls, strategy: str) -> DSA:
        """Reads the DSA paper's strategy string, operations joined by underscores: ``color_crop_cutout``.

        Raises:
            InputError: if an operation is unknown.
        """
        return cls(operations=tuple(strategy.split("_")))


@dataclass(frozen=True)
class DCAugmentation:
    """One operation per image, of crop, scale and rotate: how DC (Zhao et al. 2021, arXiv 2006.05929) trains on MNIST.

    Its code fills crops and turns with the batch's mean, scales by nearest neighbours and fills those with 0.
    """

    crop: int = 4  # pixels of padding, either side
    scale: float = 0.2  # each side's factor is 1 ± this, at most
    rotate: int = 45  # degrees, either way

    def __post_init__(self) -> None:
        _check("crop", self.crop, self.crop >= 1, "a number of pixels, 1 or more")
        _check("scale", self.scale, 0 <= self.scale < 1, "a share of the side, below 1")
        _check("rotate", self.rotate, 0 <= self.rotate <= 180, "degrees from 0 to 180")


@dataclass(frozen=True)
class RandAugment:
    """`num_ops` operations per image, drawn anew from fourteen, of one magnitude (Cubuk et al., arXiv 1909.13719).

    Operations, magnitudes and defaults are torchvision's; they act on pixels of 256 levels.
    """

    num_ops: int = 2
    magnitude: int = 9  # of num_magnitude_bins
    num_magnitude_bins: int = 31

    def __post_init__(self) -> None:
        _check("num_ops", self.num_ops, self.num_ops >= 1, "1 or more")
        bins = self.num_magnitude_bins
        _check("num_magnitude_bins", bins, bins >= 2, "2 or more")
        _check("magnitude", self.magnitude, 0 <= self.magnitude < bins, f"from 0 to {bins - 1}")


@dataclass(frozen=True)
class PatchShuffle:
    """Images cut into `factor` columns and as many rows, which change places, each image in its own order (RDED)."""

    factor: int = 2

    def __post_init__(self) -> None:
        _check("factor", self.factor, self.factor >= 2, "2 or more patches a side")


@dataclass(frozen=True)
class Mixup:
    """Images mixed in pairs, at a share ~ Beta(alpha, alpha) (Zhang et al. 2018, arXiv 1710.09412).

    `mix_targets` false mixes pixels alone, as ddranking 0.2.0 does. Teachers label what they see in either case.
    """

    alpha: float = 1.0
    mix_targets: bool = True

    def __post_init__(self) -> None:
        _check("alpha", self.alpha, 0 < self.alpha < math.inf, "finite and above 0")


@dataclass(frozen=True)
class CutMix:
    """A box of each image from another one, its area by Beta(beta, beta) (Yun et al. 2019, arXiv 1905.04899).

    `mix_targets` as in `Mixup`.
    """

    beta: float = 1.0
    mix_targets: bool = True

    def __post_init__(self) -> None:
        _check("beta", self.beta, 0 < self.beta < math.inf, "finite and above 0")


@dataclass(frozen=True)
class Crop:
    """Crops of the padded image, mirrored with probability `flip`: the usual augmentation of small images."""

    padding: int = 4  # pixels on each side
    flip: float = 0.5

    def __post_init__(self) -> None:
        _check("padding", self.padding, self.padding >= 1, "a number of pixels, 1 or more")
        _check("flip", self.flip, 0 <= self.flip <= 1, "a probability")


@dataclass(frozen=True)
class ResizedCrop:
    """Boxes of random size enlarged to the image's, mirrored with probability `flip` (torchvision's defaults)."""

    scale: tuple[float, float] = (0.08, 1.0)  # least and greatest share of the area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # of width to height
    flip: float = 0.5

    def __post_init__(self) -> None:
        _check("scale", self.scale, 0 < self.scale[0] <= self.scale[1] <= 1, "two shares of the area, the least first")
        _check("ratio", self.ratio, 0 < self.ratio[0] <= self.ratio[1], "two positive numbers, the least first")
        _check("flip", self.flip, 0 <= self.flip <= 1, "a probability")


@dataclass(frozen=True)
class Chain:
    """Several augmentations, one after another."""

    steps: tuple[Augmentation, ...]

    def __post_init__(self) -> None:
        _check("a chain's steps", self.steps, len(self.steps) >= 1, "one augmentation or more")


Augmentation = DSA | DCAugmentation | Mixup | CutMix | Crop | ResizedCrop | RandAugment | PatchShuffle | Chain
AUGMENTATIONS: dict[str, type[Any]] = {
    "dsa": DSA,
    "dc": DCAugmentation,
    "mixup": Mixup,
    "cutmix": CutMix,
    "crop": Crop,
    "resized-crop": ResizedCrop,
    "randaugment": RandAugment,
    "patch-shuffle": PatchShuffle,
    "chain": Chain,
}
NAMED_AUGMENTATIONS = tuple(name for name in AUGMENTATIONS if name != "chain")  # that need no further word


def augmentation(name: str, flips: bool) -> Augmentation | None:
    """The augmentation of that name, or none; without flips where they may change a class (`flips` false)."""
    if name == "none":
        return None
    _check_choice("augmentation", name, ("none", *NAMED_AUGMENTATIONS))
    augment: Augmentation = AUGMENTATIONS[name]()
    return augment if flips else unflipped(augment)


def unflipped(augment: Augmentation | None) -> Augmentation | None:
    """The same augmentation without mirror images."""
    match augment:
        case Chain():
            return Chain(tuple(cast(Augmentation, unflipped(step)) for step in augment.steps))
        case DSA():
            return replace(augment, operations=tuple(o for o in augment.operations if o != "flip"))
        case Crop() | ResizedCrop():
            return replace(augment, flip=0.0)
    return augment


def of_pixels(augment: Augmentation | None) -> bool:
    """Whether an augmentation works on pixels of 256 levels."""
    steps = augment.steps if isinstance(augment, Chain) else (augment,)
    return any(isinstance(step, RandAugment) for step in steps)


@dataclass(frozen=True)
class Protocol:
    """How the students of an arm are trained and read.

    Fields that shape the compiled program (network, epochs, batch size, optimizer, schedule, augmentation,
    loss) and numbers that are fed to it (rates, decay, momentum, temperature) stand together, because users
    choose them together; `train.Program` is the static part alone, so protocols that differ in numbers only
    share one compilation.

    Attributes:
        student: network name, e.g. ``ConvNet-3`` (see `nets.names`), or a linen module of your own: called with
            images (N, H, W, K), and with `train` if it takes that, it gives logits (N, C).
        width: filters of each convolution, or hidden units.
        epochs: passes over the training set.
        batch_size: images per step; the last, smaller batch of an epoch is used as it is.
        optimizer: one of `OPTIMIZERS`.
        lr: learning rates per step before the schedule; more than one is a grid to choose from.
        weight_decay: of every parameter; added to the gradient as ``weight_decay * weight`` (coupled), but for
            ``adamw``, which is decoupled.
        momentum: of SGD, without Nesterov; Adam's β are fixed at (0.9, 0.999).
        schedule: one of `SCHEDULES`; ``step`` multiplies the rate by 0.1 every `step_size` epochs,
            ``cosineannealing`` ends at 0, ``cosine`` at a half of the rate, as ddranking 0.2.0 has it.
        step_size: in epochs; None means half of the epochs.
        clock: whether the schedule moves on after every ``epoch`` or every ``step``.
        warmup: epochs over which the rate rises evenly from 0 before the schedule takes over, moving as `clock` says.
        fresh_at_drop: starts the optimizer afresh, momentum zero, where the step schedule lowers the rate, as the
            code of DC, DSA, DM and MTT does.
        augment: augmentation of the training batches, or None.
        labels: ``hard`` class indices, ``soft`` labels stored with the set (mode S), or ``teacher`` labels of
            every augmented batch (mode M).
        loss: one of `LOSSES`: cross-entropy or Kullback-Leibler divergence, whose gradients are the same, or
            G-VBSM's squared error of logits with cross-entropy against classes (``mse_gt``), for soft and teacher
            labels, without temperature.
        mse_weight, ce_weight: the two shares of ``mse_gt``.
        temperature: divides student and label logits, soft and teacher labels only.
        scale_loss: multiplies the loss by the square of the temperature.
        readout: ``last`` counts the last epoch's test accuracy, at the rate with the best mean validation
            accuracy over seeds; ``best`` counts the best epoch and rate on the test set, seed by seed, as
            ddranking 0.2.0 does.
        test_every: epochs between tests; None tests after the last epoch only.
    """

    student: Any = "ConvNet-3"
    width: int = 128
    epochs: int = 300
    batch_size: int = 256
    optimizer: str = "sgd"
    lr: tuple[float, ...] = (0.01,)
    weight_decay: float = 5e-4
    momentum: float = 0.9
    schedule: str = "step"
    step_size: int | None = None
    clock: str = "epoch"
    warmup: int = 0
    fresh_at_drop: bool = False
    augment: Augmentation | None = None
    labels: str = "hard"
    loss: str = "ce"
    mse_weight: float = 1.0
    ce_weight: float = 0.0
    temperature: float = 1.0
    scale_loss: bool = False
    readout: str = "last"
    test_every: int | None = None

    def __post_init__(self) -> None:
        rates = self.lr if isinstance(self.lr, Sequence) else (self.lr,)
        object.__setattr__(self, "lr", tuple(float(rate) for rate in rates))
        if isinstance(self.student, str):
            find(self.student)
        _check_choice("clock", self.clock, CLOCKS)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("labels", self.labels, LABELS)
        _check_choice("loss", self.loss, LOSSES)
        _check_choice("readout", self.readout, READOUTS)
        for name in ("width", "epochs", "batch_size", "step_size", "test_every"):
            value = getattr(self, name)
            absent = value is None and name in ("step_size", "test_every")
            _check(name, value, absent or (isinstance(value, int) and value >= 1), "a whole number, 1 or more")
        _check("lr", self.lr, len(self.lr) > 0, "at least one rate")
        for rate in self.lr:
            _check("lr", rate, math.isfinite(rate) and rate > 0, "finite and above 0")
        _check("lr", self.lr, len(set(self.lr)) == len(self.lr), "rates that differ from one another")
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "finite and 0 or more")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)")
        _check("temperature", self.temperature, 0 < self.temperature < math.inf, "finite and above 0")
        for name in ("mse_weight", "ce_weight"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < math.inf, "finite and 0 or more")
        whole = isinstance(self.warmup, int) and 0 <= self.warmup < self.epochs
        _check("warmup", self.warmup, whole, f"a whole number of epochs, 0 or more and fewer than all {self.epochs}")
        self._check_together()

    def _check_together(self) -> None:
        """Raises InputError for fields that are valid alone and contradict one another."""
        if self.test_every is not None and self.test_every > self.epochs:
            raise InputError(f"test_every is {self.test_every} epochs, but a training is {self.epochs} long")
        if self.labels == "hard" and self.temperature != 1:
            raise InputError(
                f"temperature is {self.temperature}, but labels are hard, which have none: leave temperature "
                "at 1, or train with soft or teacher labels"
            )
        if self.loss == "mse_gt" and self.labels == "hard":
            raise InputError("The loss mse_gt compares logits, but labels are hard: train with soft or teacher labels")
        if self.loss == "mse_gt" and (self.temperature != 1 or self.scale_loss):
            raise InputError("The loss mse_gt has no temperature: leave temperature at 1 and scale_loss off")
        if self.loss == "mse_gt" and self.mse_weight == self.ce_weight == 0:
            raise InputError("mse_weight and ce_weight are both 0, so nothing would be learnt: give one of them")
        if self.fresh_at_drop and (self.schedule != "step" or self.warmup):
            raise InputError(
                f"fresh_at_drop restarts the optimizer where a step schedule without warm-up drops, but the schedule "
                f"is {self.schedule} with warmup {self.warmup}: choose step and 0, or leave fresh_at_drop out"
            )

    @property
    def test_epochs(self) -> tuple[int, ...]:
        """The epochs (1-based) after which students are tested, the last one always among them."""
        every = self.test_every or self.epochs
        return (*range(every, self.epochs, every), self.epochs)

    @property
    def chooses_on_validation(self) -> bool:
        """Whether a validation split is needed, because a rate has to be chosen from a grid."""
        return self.readout == "last" and len(self.lr) > 1


@dataclass(frozen=True)
class Described:
    """A network that was a module of the user's, as a result read back from its file knows it: by its text."""

    text: str


def to_dict(protocol: Protocol) -> dict[str, Any]:
    """A protocol as plain data; its augmentation says its kind, and a module of the user's is its text."""
    values = {field.name: getattr(protocol, field.name) for field in fields(protocol)}
    if isinstance(protocol.student, Described):
        values["student"] = asdict(protocol.student)
    elif not isinstance(protocol.student, str):
        values["student"] = {"text": repr(protocol.student)}
    return values | {"augment": augmentation_to_dict(protocol.augment)}


def from_dict(values: dict[str, Any]) -> Protocol:
    """The protocol that `to_dict`, or JSON made of it, describes."""
    student = values.get("student", Protocol.student)
    if isinstance(student, dict):
        student = Described(**student)
    return Protocol(**{**values, "student": student, "augment": augmentation_from_dict(values.get("augment"))})


def augmentation_to_dict(augment: Augmentation | None) -> dict[str, Any] | None:
    """An augmentation as plain data, its `kind` a name of `AUGMENTATIONS`."""
    if augment is None:
        return None
    kind = next(name for name, kind in AUGMENTATIONS.items() if kind is type(augment))
    if isinstance(augment, Chain):
        return {"kind": kind, "steps": [augmentation_to_dict(step) for step in augment.steps]}
    return {"kind": kind, **asdict(augment)}


def augmentation_from_dict(plain: dict[str, Any] | None) -> Augmentation | None:
    """The augmentation that `augmentation_to_dict`, or JSON or TOML made of it, describes.

    Raises:
        InputError: if the kind is missing or unknown, or has no such field.
    """
    if plain is None:
        return None
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain.items() if name != "kind"
    }
    _check_choice("kind of augmentation", str(plain.get("kind")), tuple(AUGMENTATIONS))
    kind = AUGMENTATIONS[plain["kind"]]
    valid = [field.name for field in fields(kind)]
    for name in settings:
        _check_choice(f"field of the augmentation {plain['kind']}", name, tuple(valid))
    if kind is Chain:
        settings["steps"] = tuple(augmentation_from_dict(step) for step in settings["steps"])
    return kind(**settings)


def hard(protocol: Protocol) -> Protocol:
    """The same protocol with hard labels; a KL loss may stay, for on one-hot targets it is cross-entropy."""
    loss = "ce" if protocol.loss == "mse_gt" else protocol.loss
    return replace(protocol, labels="hard", loss=loss, temperature=1.0, scale_loss=False)


def real(protocol: Protocol, epochs: int = REAL_EPOCHS) -> Protocol:
    """The default protocol of real-hard students and teachers: hard labels, not augmented, `epochs` long.

    ddranking 0.2.0 does not augment this arm either.
    """
    every = min(protocol.test_every, epochs) if protocol.test_every else None
    warmup = min(protocol.warmup, epochs - 1)
    return replace(hard(protocol), augment=None, epochs=epochs, step_size=None, test_every=every, warmup=warmup)


def _check(name: str, value: object, valid: bool, expected: str) -> None:
    if not valid:
        raise InputError(f"{name} is {value}; expected {expected}")


def _check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise InputError(f"Unknown {name} {value!r}: {nearest(value, valid)}")
