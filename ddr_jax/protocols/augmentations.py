"""Augmentations of training batches as plain data; `augment` computes them.

A new augmentation is a dataclass here, with a `kind` and a place in `Augmentation`, and a function in `augment`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, cast, get_args

from ddr_jax.protocols.plain import NOT_NEGATIVE, POSITIVE, PROBABILITY, Must, check, verify
from ddr_jax.types import InputError

OPERATIONS = ("scale", "rotate", "flip", "color", "crop", "cutout")
PIXELS = Must("a number of pixels, 1 or more", lambda x: x >= 1)


class Checked:
    """A dataclass whose fields are checked against their annotations."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class DSA(Checked):
    """Differentiable siamese augmentation (Zhao & Bilen 2021, arXiv 2102.08259).

    In mode S a batch gets one of `operations`, in mode M all of them. Strengths, by default the paper's, are drawn per
    image, or once per batch if `siamese`.
    """

    kind: ClassVar = "dsa"
    operations: tuple[str, ...] = OPERATIONS
    """Some of scale, rotate, flip, color, crop and cutout."""
    flip: Annotated[float, PROBABILITY] = 0.5
    """Probability of a mirror image."""
    rotate: Annotated[float, Must("degrees from 0 to 180", lambda x: 0 <= x <= 180)] = 15.0
    """Degrees, either way, at most."""
    saturation: Annotated[float, NOT_NEGATIVE] = 2.0
    """Factor of the distance from grey, at most."""
    brightness: Annotated[float, NOT_NEGATIVE] = 1.0
    """Width of the interval about 0 that is added."""
    contrast: Annotated[float, NOT_NEGATIVE] = 0.5
    """Least factor of the distance from the mean; 1 more at most."""
    scale: Annotated[float, Must("a factor, 1 or more", lambda x: 1 <= x < 1e6)] = 1.2
    """Factor, at most; 1 / scale at least."""
    crop: Annotated[float, Must("a share of the side, from 0 to 1", lambda x: 0 <= x <= 1)] = 0.125
    """Shift, as a share of the side, at most."""
    cutout: Annotated[float, Must("a share of the side, from 0 to 1", lambda x: 0 <= x <= 1)] = 0.5
    """Side of the hole, as a share of the side."""
    mode: Literal["S", "M"] = "S"
    """S: one operation per batch; M: all of them."""
    siamese: bool = False
    """Whether a batch shares its draws."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.operations:
            raise InputError(f"DSA has no operations: name some of {', '.join(OPERATIONS)}")
        for operation in self.operations:
            verify("DSA operation", Literal[OPERATIONS], operation)

    @classmethod
    def from_strategy(cls, strategy: str) -> DSA:
        """Reads the DSA paper's strategy string, operations joined by underscores: ``color_crop_cutout``.

        Raises:
            InputError: if an operation is unknown.
        """
        return cls(operations=tuple(strategy.split("_")))


@dataclass(frozen=True)
class DCAugmentation(Checked):
    """One operation per image, of crop, scale and rotate: how DC (Zhao et al. 2021, arXiv 2006.05929) trains on MNIST.

    Its code fills crops and turns with the batch's mean, scales by nearest neighbours and fills those with 0.
    """

    kind: ClassVar = "dc"
    crop: Annotated[int, PIXELS] = 4
    """Pixels of padding, on either side."""
    scale: Annotated[float, Must("a share of the side, below 1", lambda x: 0 <= x < 1)] = 0.2
    """The factor of each side is 1 ± this, at most."""
    rotate: Annotated[int, Must("degrees from 0 to 180", lambda x: 0 <= x <= 180)] = 45
    """Degrees, either way, at most."""


@dataclass(frozen=True)
class Mixup(Checked):
    """Images mixed in pairs, at a share ~ Beta(alpha, alpha) (Zhang et al. 2018, arXiv 1710.09412)."""

    kind: ClassVar = "mixup"
    alpha: Annotated[float, POSITIVE] = 1.0
    """Both parameters of the Beta distribution."""
    mix_targets: bool = True
    """Whether targets are mixed too; ddranking 0.2.0 mixes pixels alone. Teachers label what they see either way."""


@dataclass(frozen=True)
class CutMix(Checked):
    """A box of each image from another one, its area by Beta(beta, beta) (Yun et al. 2019, arXiv 1905.04899)."""

    kind: ClassVar = "cutmix"
    beta: Annotated[float, POSITIVE] = 1.0
    """Both parameters of the Beta distribution."""
    mix_targets: bool = True
    """As in mixup."""


@dataclass(frozen=True)
class Crop(Checked):
    """Crops of the padded image, mirrored with probability `flip`: the usual augmentation of small images."""

    kind: ClassVar = "crop"
    padding: Annotated[int, PIXELS] = 4
    """Pixels on each side."""
    flip: Annotated[float, PROBABILITY] = 0.5
    """Probability of a mirror image."""


@dataclass(frozen=True)
class ResizedCrop(Checked):
    """Boxes of random size enlarged to the image's, mirrored with probability `flip` (torchvision's defaults)."""

    kind: ClassVar = "resized-crop"
    scale: Annotated[
        tuple[float, float], Must("two shares of the area, the least first", lambda x: 0 < x[0] <= x[1] <= 1)
    ] = (0.08, 1.0)
    """Least and greatest share of the area."""
    ratio: Annotated[
        tuple[float, float], Must("two positive numbers, the least first", lambda x: 0 < x[0] <= x[1] < 1e6)
    ] = (3 / 4, 4 / 3)
    """Least and greatest ratio of width to height."""
    flip: Annotated[float, PROBABILITY] = 0.5
    """Probability of a mirror image."""


@dataclass(frozen=True)
class RandAugment(Checked):
    """`num_ops` operations per image, drawn anew from fourteen, of one magnitude (Cubuk et al., arXiv 1909.13719).

    Operations, magnitudes and defaults are torchvision's; they act on pixels of 256 levels.
    """

    kind: ClassVar = "randaugment"
    num_ops: Annotated[int, Must("from 1 to 14", lambda x: 1 <= x <= 14)] = 2
    """Operations of an image."""
    magnitude: int = 9
    """Strength, of num_magnitude_bins."""
    num_magnitude_bins: Annotated[int, Must("2 or more", lambda x: x >= 2)] = 31
    """Strengths there are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        most = self.num_magnitude_bins - 1
        within = Must(f"from 0 to {most}", lambda x: 0 <= x <= most)
        verify("magnitude", Annotated[int, within], self.magnitude)


@dataclass(frozen=True)
class PatchShuffle(Checked):
    """Images cut into `factor` columns and as many rows, which change places, each image in its own order (RDED)."""

    kind: ClassVar = "patch-shuffle"
    factor: Annotated[int, Must("2 or more patches a side", lambda x: x >= 2)] = 2
    """Patches of a side."""


@dataclass(frozen=True)
class Chain(Checked):
    """Several augmentations, one after another."""

    kind: ClassVar = "chain"
    steps: Annotated[tuple[Augmentation, ...], Must("one augmentation or more", bool)]
    """The augmentations in their order."""


Augmentation = DSA | DCAugmentation | Mixup | CutMix | Crop | ResizedCrop | RandAugment | PatchShuffle | Chain
AUGMENTATIONS = {kind.kind: kind for kind in get_args(Augmentation)}
NAMED_AUGMENTATIONS = tuple(name for name in AUGMENTATIONS if name != "chain")  # that need no further word


def augmentation(name: str, flips: bool) -> Augmentation | None:
    """The augmentation of that name with its defaults, or none; without flips where they change a class (not `flips`).

    Raises:
        InputError: if the name is unknown.
    """
    verify("augmentation", Literal[("none", *NAMED_AUGMENTATIONS)], name)
    made = None if name == "none" else AUGMENTATIONS[name]()
    return made if flips else unflipped(made)


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
