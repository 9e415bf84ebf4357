"""The letters, the arrays that flow between rooms, and the one kind of error a user can cause.

Letters for shapes, here and everywhere:
    D sets   R learning rates   S seeds   P students in a population   E evaluation points
    N training images   M evaluation images   B batch   C classes   K channels   H, W sides
Images are (N, H, W, K) float32, in the real data's `Space`: normalised, (pixel in [0, 1] − mean) / std per channel, or
whitened.
Accuracies are fractions in [0, 1].
"""

from __future__ import annotations

import difflib
import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeGuard

import numpy as np

AnyPath: TypeAlias = str | os.PathLike[str]
FEW = 4  # numbers that the `repr` of an array lists, at most
MANY = 12  # names that an error message lists beside a near one, at most


class InputError(ValueError):
    """A mistake of the caller: the message says what was wrong, where, and what to do.

    The command line prints the message alone and exits with status 2.
    """


class InputWarning(UserWarning):
    """Something in the input that is allowed but probably not meant."""


@contextmanager
def within(where: str) -> Iterator[None]:
    """An InputError that arises in this context begins with `where`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def is_path(value: object) -> TypeGuard[AnyPath]:
    """Whether a value is a path, as text or as an object."""
    return isinstance(value, str | os.PathLike)


def warn(message: str) -> None:
    """Gives an `InputWarning`."""
    warnings.warn(message, InputWarning, stacklevel=3)


class OneLine:
    """A dataclass whose `repr` has one line: the fields that are not None, arrays by dtype and shape."""

    def __repr__(self) -> str:
        shown = (f"{name}={_shown(value)}" for name, value in vars(self).items() if value is not None)
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return repr(value)
    few = value.ndim == 1 and len(value) <= FEW
    return np.array2string(value, precision=4, separator=", ") if few else f"{value.dtype} {value.shape}"


@dataclass(frozen=True, eq=False, repr=False)
class Space(OneLine, ABC):
    """How pixels in [0, 1] become the images that networks see, and how they come back; see `data.spaces`.

    `name` is the word by which distilled sets declare images of this space. `mean` and `std` (K,) float32, in units of
    pixels in [0, 1], are the constants by which images that are declared normalised are understood, in any space.
    """

    mean: np.ndarray
    std: np.ndarray
    name: ClassVar[str]

    @property
    def digest(self) -> str:
        """A fingerprint of all numbers, which tells spaces apart that make different images."""
        return fingerprint(*(value for value in vars(self).values() if isinstance(value, np.ndarray)))

    @abstractmethod
    def images(self, pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Images (..., H, W, K) float32 of pixels in [0, 1]; written into `out` if given, which may be the pixels."""

    @abstractmethod
    def pixels(self, images: np.ndarray) -> np.ndarray:
        """The pixels (..., H, W, K) that become these images, not clipped to [0, 1]."""


@dataclass(frozen=True, eq=False, repr=False)
class Split(OneLine):
    """Labelled images of one split: images (N, H, W, K) float32 in the data's space, labels (N,) int32."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False, repr=False)
class RealData(OneLine):
    """A real dataset on the host.

    `validation` is None unless the dataset fixes one or one was held out of `train`
    (see `datasets.with_validation`, `datasets.without_validation`).
    `space` is what made the images of pixels.
    `flips` says whether a mirrored image keeps its class (false for digits).
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    space: Space
    num_classes: int
    flips: bool

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, K)."""
        h, w, k = self.train.images.shape[1:]
        return h, w, k


@dataclass(frozen=True, eq=False, repr=False)
class DistilledSets(OneLine):
    """D distilled sets of one shape, checked against the real data they stand for.

    `images` (D, N, H, W, K) float32 in the real data's space; `labels` (D, N) int32 hard labels;
    `soft_labels` (D, N, C) float32 logits, or None where the files hold none; `names` (D,).
    """

    names: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray
    soft_labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class ArmTable:
    """The accuracies of all students of one arm: D sets, R rates, S seeds, E test epochs.

    `sets` (D,) names; `lrs` (R,); `test` and `validation` (D, R, S, E) float64 fractions, `validation` None
    where no rate had to be chosen on it; `diverged` (D, R, S) bool; `students` (D, R, S) identities, equal
    where one student serves several arms; `augmented` whether its batches were.
    """

    arm: str
    sets: tuple[str, ...]
    lrs: tuple[float, ...]
    test: np.ndarray
    validation: np.ndarray | None
    diverged: np.ndarray
    students: np.ndarray
    augmented: bool


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the nearest valid one, and all of them if they are few."""
    valid = list(valid)
    folded = {v.lower(): v for v in valid}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.4)
    hint = f"did you mean {folded[close[0]]!r}?" if close else ""
    listed = "" if close and len(valid) > MANY else f"Valid: {', '.join(valid)}"
    return " ".join(filter(None, (hint, listed)))


def fingerprint(*arrays: np.ndarray) -> str:
    """A hex digest (16 digits of SHA-256) of the arrays' shapes, dtypes and bytes, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(array.data)
    return digest.hexdigest()[:16]
