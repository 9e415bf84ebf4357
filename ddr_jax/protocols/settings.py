"""What an evaluation is asked for, and what follows from that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from ddr_jax.data.baselines import BASELINES, IN_FEATURES
from ddr_jax.nets.names import find
from ddr_jax.protocols import protocol as protocols
from ddr_jax.protocols.plain import COUNT, POSITIVE, Must, OfArms, check, verify
from ddr_jax.protocols.protocol import Described, Protocol
from ddr_jax.scores.table import SCORES, arms_of
from ddr_jax.types import InputError

FRACTION = Must("a fraction in [0, 1]: divide percentages by 100", lambda x: x == "known" or 0 <= x <= 1)
Rates = tuple[Annotated[float, POSITIVE], ...]


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Raises InputError for a field of another type, out of its range or none of its choices, and for fields that
    contradict one another. A result holds the settings with `key`, `given_teachers`, `real_accuracy` and the grids as
    they came to be used.
    """

    scores: tuple[str, ...]
    """Scores that are computed, by name."""
    protocol: Protocol
    """How students of distilled sets and of random baselines are trained."""
    real_protocol: Protocol = None  # type: ignore[assignment]
    """How real-hard students and teachers are trained. Default: `protocol.real` of `protocol`."""
    real_accuracy: Annotated[float | Literal["known"] | None, FRACTION, OfArms("real-hard")] = None
    """A known accuracy of students of all real data, as a fraction, instead of training them; known takes the
    published one for this data and student."""
    seeds: Annotated[int, COUNT] = 5
    """Students per arm, set and rate; also random draws, one per seed."""
    key: tuple[str, tuple[int, ...]] | None = None
    """The PRNG key's implementation and words."""
    baseline: Annotated[Literal[tuple(BASELINES)], OfArms("rdm-")] = "random"  # type: ignore[valid-type]
    """What sets are compared with: as many random real images, noise, or a coreset of real images."""
    hard_augment: Annotated[bool | None, OfArms("syn-hard")] = None
    """Augment the syn-hard arm. Default: with hard labels as the method does, else not, as ddranking 0.2.0."""
    hard_lr: Annotated[Rates | None, OfArms("syn-hard")] = None
    """Learning rate or grid of the syn-hard arm. Default: as the protocol's."""
    random_lr: Annotated[Rates | None, OfArms("rdm-")] = None
    """Learning rate or grid of the random arms. Default: as the protocol's."""
    weight: Annotated[float, Must("a number in [0, 1]", lambda x: 0 <= x <= 1), OfArms("rdm-")] = 0.5
    """w: the share of IOR in LRS. γ: the share of the gain with augmentation in ARS."""
    teachers: Annotated[int, COUNT] = 1
    """Teachers whose logits are averaged; trained as real-hard students are."""
    teacher: str | Described | Any = None
    """Network of the teachers. Default: the student's."""
    given_teachers: str | None = None
    """The fingerprint of teachers that were given; none were where they are trained."""
    interval: Literal["t", "bootstrap"] = "t"
    """Student's t or bias-corrected bootstrap, over seeds."""
    level: Annotated[float, Must("strictly between 0 and 1, such as 0.95", lambda x: 0 < x < 1)] = 0.95
    """Coverage that intervals aim at."""
    extend_grid: Annotated[int, Must("how often at most, 0 or more", lambda x: x >= 0)] = 0
    """How often, at most, a grid of rates gets a further one at an end where an arm chose."""
    halving: bool = False
    """Try the whole grid for a quarter of the epochs, and train its better half in full."""
    percent: bool = False
    """Show accuracies and their differences as percentages; files keep fractions."""
    original_formula: Annotated[bool, OfArms("rdm-")] = False
    """Show also what ddranking 0.2.0 prints as score: its formula takes percentages."""

    def __post_init__(self) -> None:
        for score in self.scores:
            verify("score", Literal[tuple(SCORES)], score)
        verify("protocol", Protocol, self.protocol)
        if self.real_protocol is None:
            object.__setattr__(self, "real_protocol", protocols.real(self.protocol))
        check(self)
        if self.hard_augment and self.protocol.augment is None:
            raise InputError("hard_augment asks for augmented hard arms, but augment is none: choose one, e.g. dsa")

    @property
    def arms(self) -> frozenset[str]:
        """The arms that the scores take."""
        return arms_of(self.scores)

    @property
    def has_baseline(self) -> bool:
        """Whether sets are compared with a baseline."""
        return any(arm.startswith("rdm-") for arm in self.arms)

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
        return replace(protocols.hard(self.protocol), lr=self.hard_lr or self.protocol.lr)

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
        return "real-hard" in self.arms and self.real_accuracy is None

    @property
    def trains_teachers(self) -> bool:
        """Whether teachers are needed and none are given.

        They label batches in mode M and baselines in mode S, and their features choose coresets.
        """
        needed = self.protocol.labels == "teacher"
        if self.has_baseline:
            needed = needed or self.protocol.labels == "soft" or self.baseline in IN_FEATURES
        return needed and self.given_teachers is None

    @property
    def chooses_on_validation(self) -> bool:
        """Whether a rate has to be chosen for any student that is trained."""
        protocols = [self.protocol]
        if self.trains_real_hard or self.trains_teachers:
            protocols.append(self.real_protocol)
        if "syn-hard" in self.arms:
            protocols.append(self.hard_protocol)
        if self.has_baseline:
            protocols.append(self.random_protocol)
        return any(protocol.chooses_on_validation for protocol in protocols)
