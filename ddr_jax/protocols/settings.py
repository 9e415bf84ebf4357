"""What an evaluation is asked for, and what follows from that."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from ddr_jax.data.baselines import BASELINES, IN_FEATURES
from ddr_jax.nets.names import find
from ddr_jax.protocols.protocol import Protocol, hard
from ddr_jax.protocols.protocol import to_dict as protocol_to_dict
from ddr_jax.types import InputError, nearest

SCORES = ("accuracy", "lrs", "ars")
INTERVALS = ("t", "bootstrap")


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        scores: some of `SCORES`.
        protocol: of the students of distilled sets and random baselines.
        real_protocol: of the real-hard students and of teachers.
        real_accuracy: a known real-hard accuracy, a fraction, used instead of training; None trains.
        seeds: students per arm, set and rate.
        key: the PRNG key's implementation and words.
        baseline: what the sets are compared with, a name of `coresets.BASELINES`; those that look at features see a
            teacher's.
        hard_augment: whether the syn-hard arm is augmented; None does as the syn-any arm where labels are hard, and
            does not augment where they are soft or a teacher's (ddranking 0.2.0's choice).
        hard_lr, random_lr: learning rates of the syn-hard arm, and of random arms, where they are not the protocol's.
        weight: w of the LRS and γ of the ARS, in [0, 1].
        teachers: how many teachers' logits are averaged, where labels come from teachers.
        teacher: their network, as a protocol's `student`; None is that of the real-hard students.
        given_teachers: the fingerprint of teachers that were given; None trains them.
        interval: ``t`` (Student's) or ``bootstrap`` (bias-corrected), over seeds.
        level: coverage that the intervals aim at.
        extend_grid: how often, at most, a grid gets a further rate at an end where an arm chose (see `grids`); the
            protocols of a result hold the grid at the end.
        halving: whether the grid is tried for a quarter of the epochs first, and its better half trained in full.
        percent: whether reports show accuracies and their differences as percentages; the data stays in fractions.
        original_formula: whether to show also what ddranking 0.2.0 prints as LRS and ARS, of percentages.
    """

    scores: tuple[str, ...]
    protocol: Protocol
    real_protocol: Protocol
    real_accuracy: float | None = None
    seeds: int = 5
    key: tuple[Any, ...] = ()
    baseline: str = "random"
    hard_augment: bool | None = None
    hard_lr: tuple[float, ...] | None = None
    random_lr: tuple[float, ...] | None = None
    weight: float = 0.5
    teachers: int = 1
    teacher: Any = None
    given_teachers: str | None = None
    interval: str = "t"
    level: float = 0.95
    extend_grid: int = 0
    halving: bool = False
    percent: bool = False
    original_formula: bool = False

    def __post_init__(self) -> None:
        for name, value, valid in (
            *(("score", score, SCORES) for score in self.scores),
            ("interval", self.interval, INTERVALS),
            ("baseline", self.baseline, tuple(BASELINES)),
        ):
            if value not in valid:
                raise InputError(f"Unknown {name} {value!r}: {nearest(value, valid)}")
        for name, value in (("seeds", self.seeds), ("teachers", self.teachers)):
            if value < 1:
                raise InputError(f"{name} is {value}; expected 1 or more")
        if not 0 < self.level < 1:
            raise InputError(f"level is {self.level}; expected strictly between 0 and 1, such as 0.95")
        if not 0 <= self.weight <= 1:
            raise InputError(f"weight is {self.weight}; expected a number in [0, 1]")
        if self.real_accuracy is not None and not 0 <= self.real_accuracy <= 1:
            raise InputError(
                f"real_accuracy is {self.real_accuracy}; expected a fraction in [0, 1]: divide percentages by 100"
            )
        if self.extend_grid < 0:
            raise InputError(f"extend_grid is {self.extend_grid}; expected how often at most, 0 or more")
        if self.hard_augment and self.protocol.augment is None:
            raise InputError("hard_augment asks for augmented hard arms, but augment is none: choose one, e.g. dsa")

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain data."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        if not isinstance(self.teacher, str | None):
            values["teacher"] = repr(self.teacher)
        return values | {name: protocol_to_dict(values[name]) for name in ("protocol", "real_protocol")}

    @property
    def teacher_protocol(self) -> Protocol:
        """Of teachers: as real-hard students, but for their network."""
        if self.teacher is None:
            return self.real_protocol
        own_width = not isinstance(self.teacher, str) or not find(self.teacher).has_width
        width = Protocol.width if own_width else self.real_protocol.width
        return replace(self.real_protocol, student=self.teacher, width=width)

    @property
    def hard_protocol(self) -> Protocol:
        """Of the syn-hard arm."""
        return replace(hard(self.protocol), lr=self.hard_lr or self.protocol.lr)

    @property
    def random_protocol(self) -> Protocol:
        """Of the random arms."""
        return replace(self.protocol, lr=self.random_lr or self.protocol.lr)

    @property
    def augments_hard(self) -> bool:
        """Whether the syn-hard arm is augmented."""
        if self.hard_augment is None:
            return self.protocol.augment is not None and self.protocol.labels == "hard"
        return self.hard_augment

    @property
    def trains_real_hard(self) -> bool:
        """Whether students of the real data are among the arms."""
        return "lrs" in self.scores and self.real_accuracy is None

    @property
    def trains_teachers(self) -> bool:
        """Whether teachers are needed and none are given.

        They label batches in mode M and baselines in mode S, and their features choose coresets.
        """
        needed = self.protocol.labels == "teacher"
        if self.scores != ("accuracy",):
            needed = needed or self.protocol.labels == "soft" or self.baseline in IN_FEATURES
        return needed and self.given_teachers is None

    @property
    def chooses_on_validation(self) -> bool:
        """Whether a rate has to be chosen for any student that is trained."""
        protocols = [self.protocol]
        if self.trains_real_hard or self.trains_teachers:
            protocols.append(self.real_protocol)
        if "lrs" in self.scores:
            protocols.append(self.hard_protocol)
        if self.scores != ("accuracy",):
            protocols.append(self.random_protocol)
        return any(protocol.chooses_on_validation for protocol in protocols)
