"""What a distilled set costs to keep: bytes of its images and of its labels, and a teacher's work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ddr_jax.protocols.protocol import Protocol

FLOAT = 4  # bytes of a float32
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")  # powers of 1,000


@dataclass(frozen=True)
class Costs:
    """What one student needs of a set, in bytes before compression.

    Attributes:
        images_uint8: N · H · W · K, a byte for each channel of each pixel. Distilled pixels are rarely whole numbers of
            256 levels, so a set that must not change costs `images_float32`.
        images_float32: four times as much.
        labels: which labels these are, one of `protocol.LABELS`.
        labels_stored: all labels of one training, kept. ``hard``: N class indices of as few bytes as C classes need;
            ``soft``: N · C float32; ``teacher``: epochs · N · C float32, since every batch of every epoch is labelled
            anew. What the augmentation drew is not counted: it follows from a seed.
        labels_recomputed: ``teacher`` only: the teachers' weights as float32, kept instead of their labels; None if
            their size is unknown or no teacher is needed.
        teacher_passes: forward passes of single images through single teachers that recomputing takes in one
            training, epochs · N · teachers; 0 for other labels.
    """

    images_uint8: int
    images_float32: int
    labels: str
    labels_stored: int
    labels_recomputed: int | None
    teacher_passes: int

    def __str__(self) -> str:
        images = f"images {human(self.images_uint8)} (uint8) or {human(self.images_float32)} (float32)"
        if self.labels != "teacher":
            return f"{images}; {self.labels} labels {human(self.labels_stored)}"
        weights = "weights" if self.labels_recomputed is None else f"{human(self.labels_recomputed)} of weights"
        recomputed = f"{weights} and {self.teacher_passes:,} forward passes per training"
        return f"{images}; teachers' labels {human(self.labels_stored)} if kept, or {recomputed}"


def label_cost(
    protocol: Protocol,
    images: tuple[int, int, int, int],
    num_classes: int,
    teacher_parameters: int | None = None,
    teachers: int = 1,
) -> Costs:
    """The costs of a set of `images` (N, H, W, K) of C classes, trained on by a protocol.

    `teacher_parameters` counts the numbers that one teacher consists of, running statistics included, and `teachers`
    how many there are; both matter only where the protocol's labels are a teacher's.
    """
    n, pixels = images[0], math.prod(images)
    by_teacher = protocol.labels == "teacher"
    index = max(1, math.ceil((num_classes - 1).bit_length() / 8))  # bytes of a class index
    logits = n * num_classes * FLOAT
    stored = {"hard": n * index, "soft": logits, "teacher": protocol.epochs * logits}
    weights = teachers * teacher_parameters * FLOAT if by_teacher and teacher_parameters is not None else None
    return Costs(
        images_uint8=pixels,
        images_float32=pixels * FLOAT,
        labels=protocol.labels,
        labels_stored=stored[protocol.labels],
        labels_recomputed=weights,
        teacher_passes=protocol.epochs * n * teachers if by_teacher else 0,
    )


def human(size: int) -> str:
    """Bytes in the largest unit (powers of 1,000) that leaves 1 or more, to three digits: 999 B, 1.23 MB, 45.6 GB."""
    value = float(f"{size:.3g}")
    power = min((len(f"{value:.0f}") - 1) // 3, len(UNITS) - 1)
    value /= 1000**power
    digits = max(0, 2 - int(math.log10(max(value, 1)))) if power else 0
    return f"{value:.{digits}f} {UNITS[power]}"
