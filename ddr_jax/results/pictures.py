"""A picture of an evaluation: a set's images beside the accuracies."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from ddr_jax.data.files import write_atomically
from ddr_jax.results.record import Record
from ddr_jax.results.report import arm_names, level
from ddr_jax.scores.table import title
from ddr_jax.types import DistilledSets, RealData

COLOURS = {"real": "#7a7a7a", "syn": "#2f6f9f", "rdm": "#d08a3c"}  # by an arm's first word
OTHER = "#a3a3a3"
CLASSES_SHOWN, IMAGES_SHOWN = 10, 10  # rows and columns of images at most


def save_picture(record: Record, sets: DistilledSets, real: RealData, path: Path) -> None:
    """Draws the first set's images beside every arm's accuracy, as PNG, whole or not at all."""
    from matplotlib.figure import Figure  # slow to import, and only pictures need it

    figure = Figure(figsize=(11, 5), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    _draw_images(left, sets, real)
    _draw_arms(right, record)
    scores = (f"{title(name)} {summary.overall.mean:.4f}" for name, summary in record.scores.items())
    figure.suptitle("   ".join(scores), fontsize=12)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def _draw_images(axes, sets: DistilledSets, real: RealData) -> None:
    rows, (h, w, k) = _rows(sets.labels[0]), real.image_shape
    gap = max(1, h // 16)
    grid = np.ones((len(rows), max(map(len, rows)), h + gap, w + gap, k))
    for row, positions in zip(grid, rows, strict=True):
        row[: len(positions), :h, :w] = np.clip(real.space.pixels(sets.images[0, positions]), 0, 1)
    sheet = np.vstack([np.hstack(list(row)) for row in grid])[:-gap, :-gap]
    axes.imshow(sheet.squeeze(-1) if k == 1 else sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(f"{sets.names[0]}, in order of class", fontsize=10)
    axes.set_axis_off()


def _rows(labels: np.ndarray) -> list[np.ndarray]:
    """Positions of the images to show, by row: a row per class, or a near square where a class has few."""
    classes = [np.flatnonzero(labels == c)[:IMAGES_SHOWN] for c in np.unique(labels)[:CLASSES_SHOWN]]
    if max(map(len, classes)) > 2:
        return classes
    together = np.concatenate(classes)
    side = math.ceil(math.sqrt(len(together)))
    return [together[first : first + side] for first in range(0, len(together), side)]


def _draw_arms(axes, record: Record) -> None:
    names = arm_names(record)[::-1]
    for height, name in enumerate(names):
        found, colour = record.accuracies[name].overall, COLOURS.get(name.split("-")[0], OTHER)
        error = None if found.low is None else np.abs(np.array([[found.low], [found.high]], float) - found.mean)
        axes.barh(height, found.mean, xerr=error, color=colour, capsize=3, height=0.7)
        axes.text(0.01, height, f"{found.mean:.4f}", color="white", va="center", fontsize=9)
    known = record.settings.real_accuracy
    if known is not None and "real-hard" in record.taken:
        axes.axvline(known, color=COLOURS["real"], linestyle="--", label=f"real-hard, given: {known:g}")
        axes.legend(loc="lower right", fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"test accuracy (fraction), mean over {record.settings.seeds} seeds, {level(record)}")
    axes.spines[["top", "right"]].set_visible(False)
