"""How students are trained, as plain data that hashes by value; no JAX is imported here.

A field belongs to `Static` if changing it changes the compiled program, to `Numbers` if it is a number that is fed to
the program, and to `Protocol` itself if it reaches a student otherwise. All of them are in a student's identity but
`readout`, which is about its finished table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from ddr_jax.nets.names import find
from ddr_jax.protocols.augmentations import Augmentation
from ddr_jax.protocols.plain import COUNT, NOT_NEGATIVE, POSITIVE, Must, check
from ddr_jax.types import InputError

REAL_EPOCHS = 30


@dataclass(frozen=True)
class Described:
    """A network that was a flax module, as a result read back from its file knows it: by its text."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Static:
    """What names a compiled program: equal fields, on data of equal shapes, compile once."""

    epochs: Annotated[int, COUNT] = 300
    """Passes over the set."""
    batch_size: Annotated[int, COUNT] = 256
    """Images per step; the last, smaller batch of an epoch is used as it is."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """SGD with momentum, Adam with coupled decay, or AdamW, as PyTorch defines them; Adam's β are 0.9 and 0.999."""
    schedule: Literal["step", "constant", "cosineannealing", "cosine"] = "step"
    """step: to a tenth every step-size epochs; cosineannealing: to 0; cosine: to a half, as ddranking 0.2.0."""
    step_size: Annotated[int | None, COUNT] = None
    """In epochs. Default: half of the epochs."""
    clock: Literal["epoch", "step"] = "epoch"
    """Whether the schedule moves on after every epoch or every step."""
    warmup: Annotated[int, Must("a whole number of epochs, 0 or more", lambda x: x >= 0)] = 0
    """Epochs over which the rate first rises from 0."""
    fresh_at_drop: bool = False
    """Start the optimizer afresh where the step schedule drops, as the code of DC, DSA, DM and MTT does."""
    augment: Augmentation | None = None
    """Augmentation of training batches, or none."""
    loss: Literal["ce", "kl", "mse_gt"] = "ce"
    """Cross-entropy or Kullback-Leibler divergence, which train alike, or G-VBSM's squared error of logits with
    cross-entropy against classes, for soft and teacher labels."""

    @property
    def drop_every(self) -> int:
        """Epochs between drops of a step schedule."""
        return self.step_size or max(self.epochs // 2, 1)


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What is fed to a program, a row for each student."""

    weight_decay: Annotated[float, NOT_NEGATIVE] = 5e-4
    """Added to the gradient, times the weight; AdamW decays the weight itself."""
    momentum: Annotated[float, Must("in [0, 1)", lambda x: 0 <= x < 1)] = 0.9
    """Of SGD, without Nesterov."""
    mse_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """Of the squared error in mse_gt."""
    ce_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Of the cross-entropy against classes in mse_gt."""
    temperature: Annotated[float, POSITIVE] = 1.0
    """Divides the logits of students and of soft and teacher labels."""
    scale_loss: bool = False
    """Multiply the loss by the square of the temperature."""


@dataclass(frozen=True)
class Protocol(Numbers, Static):
    """How the students of an arm are trained and read.

    Static fields, numbers and the rest stand together because users choose them together. Raises InputError for a
    field of another type, out of its range or none of its choices, and for fields that contradict one another.
    """

    student: str | Described | Any = "ConvNet-3"
    """Network: ConvNet-1 … ConvNet-6 (with -BN, -LN, -GN, -NN for another norm than instance norm), MLP, LeNet,
    AlexNet, VGG-11, ResNet-18-BN, torchvision-ResNet-18, ViT-6 and more: an unknown name lists its neighbours. In
    Python also a flax.linen module, called with images (N, H, W, K), and with `train` if it takes that."""
    width: Annotated[int, COUNT] = 128
    """Filters of each convolution, or hidden units."""
    lr: tuple[Annotated[float, POSITIVE], ...] = (0.01,)
    """Learning rate per step, before the schedule; several are a grid, chosen from on a validation split."""
    labels: Literal["hard", "soft", "teacher"] = "hard"
    """Class indices; soft labels stored with the set (mode S); or teachers' labels of every batch (mode M)."""
    readout: Literal["last", "best"] = "last"
    """last: last epoch, rate chosen on validation. best: best epoch and rate on the test set, as ddranking 0.2.0."""
    test_every: Annotated[int | None, COUNT] = None
    """Epochs between tests. Default: the last epoch only."""

    def __post_init__(self) -> None:
        rates = self.lr if isinstance(self.lr, Sequence) and not isinstance(self.lr, str) else (self.lr,)
        object.__setattr__(self, "lr", tuple(rates))
        if isinstance(self.student, str):
            find(self.student)
        check(self)
        object.__setattr__(self, "lr", tuple(map(float, self.lr)))
        self._check_together()

    def _check_together(self) -> None:
        """Raises InputError for fields that are valid alone and contradict one another."""
        if not self.lr:
            raise InputError("lr is (); expected at least one rate")
        if len(set(self.lr)) < len(self.lr):
            raise InputError(f"lr is {self.lr}; expected rates that differ from one another")
        if self.warmup >= self.epochs:
            raise InputError(
                f"warmup is {self.warmup}; expected a whole number of epochs, 0 or more, fewer than all {self.epochs}"
            )
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
    def static(self) -> Static:
        """The static part, in which `step_size` is a number: equal programs are told by equal fields."""
        whole = Static(**{field.name: getattr(self, field.name) for field in fields(Static)})
        return replace(whole, step_size=self.drop_every)

    def row(self, lr: float, augmented: bool) -> dict[str, float | bool]:
        """The numbers of one student: `Numbers`, its learning rate, whether it is augmented, and the loss's scale.

        What trains a student and what identifies it are both made of this.
        """
        scale = self.temperature**2 if self.scale_loss else 1.0
        numbers = {field.name: float(getattr(self, field.name)) for field in fields(Numbers)}
        return numbers | {"lr": lr, "augmented": augmented, "loss_scale": float(scale)}

    @property
    def test_epochs(self) -> tuple[int, ...]:
        """The epochs (1-based) after which students are tested, the last one always among them."""
        every = self.test_every or self.epochs
        return (*range(every, self.epochs, every), self.epochs)

    @property
    def chooses_on_validation(self) -> bool:
        """Whether a validation split is needed, because a rate has to be chosen from a grid."""
        return self.readout == "last" and len(self.lr) > 1


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
