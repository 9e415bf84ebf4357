"""How students are trained, as plain data that hashes by value; no JAX is imported here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ddr_jax.nets.names import find
from ddr_jax.types import InputError, nearest

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("step", "constant", "cosineannealing", "cosine")
LOSSES = ("ce", "kl")
LABELS = ("hard", "soft", "teacher")
READOUTS = ("last", "best")
OPERATIONS = ("scale", "rotate", "flip", "color", "crop", "cutout")
DSA_MODES = ("S", "M")

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
    def for_classes(cls, flips: bool) -> DSA:
        """Every operation, without the flip where a mirrored image may be of another class (`flips` false)."""
        return cls(operations=tuple(o for o in OPERATIONS if flips or o != "flip"))

    @classmethod
    def from_strategy(cls, strategy: str) -> DSA:
        """Reads the DSA paper's strategy string, operations joined by underscores: ``color_crop_cutout``.

        Raises:
            InputError: if an operation is unknown.
        """
        return cls(operations=tuple(strategy.split("_")))


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


Augmentation = DSA | Mixup | CutMix | Crop | ResizedCrop
AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "dsa": DSA,
    "mixup": Mixup,
    "cutmix": CutMix,
    "crop": Crop,
    "resized-crop": ResizedCrop,
}


def augmentation(name: str, flips: bool) -> Augmentation | None:
    """The augmentation of a name of `AUGMENTATIONS`, or none; without flips where they may change a class."""
    if name == "none":
        return None
    _check_choice("augmentation", name, ("none", *AUGMENTATIONS))
    if name == "dsa":
        return DSA.for_classes(flips)
    still: dict[str, Any] = {"flip": 0.0} if name in ("crop", "resized-crop") and not flips else {}
    return AUGMENTATIONS[name](**still)


@dataclass(frozen=True)
class Protocol:
    """How the students of an arm are trained and read.

    Fields that shape the compiled program (network, epochs, batch size, optimizer, schedule, augmentation,
    loss) and numbers that are fed to it (rates, decay, momentum, temperature) stand together, because users
    choose them together; `train.Program` is the static part alone, so protocols that differ in numbers only
    share one compilation.

    Attributes:
        student: network name, e.g. ``ConvNet-3`` (see `nets.names`).
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
        augment: augmentation of the training batches, or None.
        labels: ``hard`` class indices, ``soft`` labels stored with the set (mode S), or ``teacher`` labels of
            every augmented batch (mode M).
        loss: one of `LOSSES`, cross-entropy or Kullback-Leibler divergence; their gradients are the same.
        temperature: divides student and label logits, soft and teacher labels only.
        scale_loss: multiplies the loss by the square of the temperature.
        readout: ``last`` counts the last epoch's test accuracy, at the rate with the best mean validation
            accuracy over seeds; ``best`` counts the best epoch and rate on the test set, seed by seed, as
            ddranking 0.2.0 does.
        test_every: epochs between tests; None tests after the last epoch only.
    """

    student: str = "ConvNet-3"
    width: int = 128
    epochs: int = 300
    batch_size: int = 256
    optimizer: str = "sgd"
    lr: tuple[float, ...] = (0.01,)
    weight_decay: float = 5e-4
    momentum: float = 0.9
    schedule: str = "step"
    step_size: int | None = None
    augment: Augmentation | None = None
    labels: str = "hard"
    loss: str = "ce"
    temperature: float = 1.0
    scale_loss: bool = False
    readout: str = "last"
    test_every: int | None = None

    def __post_init__(self) -> None:
        rates = self.lr if isinstance(self.lr, Sequence) else (self.lr,)
        object.__setattr__(self, "lr", tuple(float(rate) for rate in rates))
        find(self.student)
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
        if self.test_every is not None and self.test_every > self.epochs:
            raise InputError(f"test_every is {self.test_every} epochs, but a training is {self.epochs} long")
        if self.labels == "hard" and self.temperature != 1:
            raise InputError(
                f"temperature is {self.temperature}, but labels are hard, which have none: leave temperature "
                "at 1, or train with soft or teacher labels"
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


def to_dict(protocol: Protocol) -> dict[str, Any]:
    """A protocol as plain data; its augmentation says its kind."""
    names = {kind: name for name, kind in AUGMENTATIONS.items()}
    augment = protocol.augment
    plain = None if augment is None else {"kind": names[type(augment)], **asdict(augment)}
    return asdict(protocol) | {"augment": plain}


def from_dict(fields: dict[str, Any]) -> Protocol:
    """The protocol that `to_dict`, or JSON made of it, describes."""
    augment = dict(fields["augment"] or {})
    kind = AUGMENTATIONS[augment.pop("kind")] if augment else None
    tuples: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in augment.items()
    }
    return Protocol(**{**fields, "augment": kind(**tuples) if kind else None})


def hard(protocol: Protocol) -> Protocol:
    """The same protocol with hard labels; its loss may stay, for on one-hot targets both are cross-entropy."""
    return replace(protocol, labels="hard", temperature=1.0, scale_loss=False)


def real(protocol: Protocol, epochs: int = REAL_EPOCHS) -> Protocol:
    """The default protocol of real-hard students and teachers: hard labels, not augmented, `epochs` long.

    ddranking 0.2.0 does not augment this arm either.
    """
    every = min(protocol.test_every, epochs) if protocol.test_every else None
    return replace(hard(protocol), augment=None, epochs=epochs, step_size=None, test_every=every)


def _check(name: str, value: object, valid: bool, expected: str) -> None:
    if not valid:
        raise InputError(f"{name} is {value}; expected {expected}")


def _check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise InputError(f"Unknown {name} {value!r}: {nearest(value, valid)}")
