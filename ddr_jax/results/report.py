"""A result for people: tables in the terminal, and a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ddr_jax.data.files import write_atomically
from ddr_jax.scores.intervals import Interval
from ddr_jax.types import DistilledSets, RealData

if TYPE_CHECKING:
    from ddr_jax.results.result import Result
    from ddr_jax.scores.readout import Rate

ARMS = (
    "real-hard",
    "teacher",
    "syn-hard",
    "syn-any",
    "rdm-any",
    "syn-aug",
    "rdm-aug",
    "syn-noaug",
    "rdm-noaug",
)
MEANINGS = {
    "accuracy": "accuracy of students of the set",
    "hlr": "hard label recovery, lower is better",
    "ior": "improvement over random, higher is better",
    "lrs": "label-robust score, 0 to 1, higher is better",
    "ars": "augmentation-robust score, 0 to 1, higher is better",
    "joint": "the mean of LRS and ARS, seed by seed",
    "lrs_of_percentages": "what ddranking 0.2.0 prints as LRS: its formula takes percentages",
    "ars_of_percentages": "what ddranking 0.2.0 prints as ARS: its formula takes percentages",
}
LOWER_IS_BETTER = ("hlr",)
ACCURACIES = ("accuracy", "hlr", "ior")  # and their differences: what may be shown as percentages
COLOURS = {"real": "#7a7a7a", "teacher": "#a3a3a3", "syn": "#2f6f9f", "rdm": "#d08a3c"}
NUMBERS = ("accuracy", "mean", "n", "diverged", "seed", "rest", "draw of random images")
WIDTH = 120  # characters, where there is no terminal to ask
CLASSES_SHOWN, IMAGES_SHOWN = 10, 10  # rows and columns of the picture's images at most


def text(result: Result) -> str:
    """The tables as plain text."""
    buffer = io.StringIO()
    Console(file=buffer, width=WIDTH, color_system=None).print(tables(result))
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())


def show(result: Result) -> None:
    """Prints the tables: as wide as the terminal, or as `text` into a file or a pipe."""
    console = Console()
    if console.is_terminal:
        console.print(tables(result))
    else:
        print(text(result))


def tables(result: Result) -> Group:
    """Accuracies per arm and scores, as fractions, with intervals over seeds."""
    parts: list[Any] = [_arms_table(result), Text(), _scores_table(result), Text()]
    if result.choices:
        parts += [_rates_table(result), Text()]
    if result.optimism:
        parts += [_optimism_table(result), Text()]
    if result.variances:
        parts += [_variances_table(result), Text()]
    parts.append(Text(f"Cost of a set: {result.costs}"))
    return Group(*parts, *(Text(note, style="yellow") for note in notes(result)))


def notes(result: Result) -> list[str]:
    """What a reader must know besides the numbers."""
    found = []
    settings = result.settings
    if result.diverged:
        found.append(
            f"{result.diverged} students diverged (weights not finite); their accuracies count as measured: "
            "try a lower learning rate"
        )
    if settings.real_accuracy is not None and "lrs" in settings.scores:
        found.append(f"acc(real, hard) was given as {settings.real_accuracy}, not measured; intervals take it as exact")
    if settings.protocol.readout == "best":
        found.append("Epochs and rates were chosen on the test set, as ddranking 0.2.0 does: accuracies are too high")
    found += _edges(result)
    if "ars" in settings.scores and settings.protocol.augment is None:
        found.append("ARS compares training with and without augmentation, and augment is none: both halves are alike")
    mixed = [entry["name"] for entry in result.data["sets"] if entry["label_order"] == "mixed"]
    if mixed:
        found.append(
            f"Labels are not in order of class in {', '.join(mixed)}; each image keeps the label stored with it"
        )
    if settings.seeds == 1:
        found.append("One seed gives no interval: use --seeds 2 or more")
    return found


def _edges(result: Result) -> list[str]:
    """Warnings of rates that were chosen at an end of their grid."""
    at_end: dict[tuple[str, float], list[str]] = {}
    for arm, found in result.choices.items():
        for choice in found:
            if choice.edge is not None:
                at_end.setdefault((choice.edge, choice.chosen.lr), []).append(arm)
    return [
        f"The {edge} rate of the grid, {lr:g}, was chosen in {', '.join(dict.fromkeys(arms))}: a better one may lie "
        "beyond; extend the grid (--extend-grid 3)"
        for (edge, lr), arms in at_end.items()
    ]


def arm_names(result: Result) -> list[str]:
    """The arms of a result in the order in which they are shown."""
    return sorted(result.tables, key=ARMS.index)


def _arms_table(result: Result) -> Table:
    table = _table("Test accuracy of each arm", ("arm", "set", "rate", "accuracy", _level(result), "n", "diverged"))
    for arm in arm_names(result):
        students, reading = result.tables[arm], result.readings[arm]
        for d, (name, interval) in enumerate(result.accuracies[arm].sets.items()):
            rates = sorted({students.lrs[r] for r in reading.rate[d]})
            lost = int(students.diverged[d].sum())
            cells = (
                arm,
                name,
                ", ".join(f"{rate:g}" for rate in rates),
                *_cells(interval, result.settings.percent),
                str(lost),
            )
            table.add_row(*map(Text, cells))
    return table


def _scores_table(result: Result) -> Table:
    table = _table("Scores", ("score", "set", "mean", _level(result), "n", "meaning"))
    for name, summary in result.scores.items():
        for row, (where, interval) in enumerate(_by_set(summary.sets, summary.overall)):
            percent = result.settings.percent and name in ACCURACIES
            cells = (score_title(name), where, *_cells(interval, percent), "" if row else MEANINGS[name])
            table.add_row(*map(Text, cells))
    return table


def _rates_table(result: Result) -> Table:
    columns = ("arm", "set", "rate", "validation", "rate below", "validation below", "rate above", "validation above")
    table = _table("Learning rates chosen on validation data, and their neighbours in the grid", columns)
    for arm in (name for name in arm_names(result) if name in result.choices):
        for choice in result.choices[arm]:
            rates = (choice.chosen, choice.below, choice.above)
            cells = [text for rate in rates for text in (("–", "–") if rate is None else _rate_cells(rate))]
            table.add_row(*map(Text, (arm, choice.set, *cells)))
    return table


def _rate_cells(rate: Rate) -> tuple[str, str]:
    return f"{rate.lr:g}", "–" if rate.validation is None else f"{rate.validation:.4f}"


def _optimism_table(result: Result) -> Table:
    """What a reading on the test set, as ddranking's, would have added: of arms, and of scores."""
    title = "Optimism: what choosing on the test set would add"
    table = _table(title, ("of", "mean", _level(result), "n"))
    arms = {name: result.optimism[name] for name in arm_names(result) if name in result.optimism}
    for name, interval in {**arms, **result.score_optimism}.items():
        percent = result.settings.percent and (name in ACCURACIES or name in result.optimism)
        label = name if name in result.optimism else score_title(name)
        table.add_row(*map(Text, (label, *_cells(interval, percent))))
    return table


def _variances_table(result: Result) -> Table:
    """Standard deviations, which are in the units of accuracies."""
    columns = ("arm", "seed", "set", "rest", "draw of random images")
    table = _table("Standard deviation of accuracies, by origin", columns)
    for arm, parts in result.variances.items():
        values = (parts.seed, parts.set, parts.rest, parts.draw)
        cells = ("–" if value is None else f"{math.sqrt(value):.4f}" for value in values)
        table.add_row(*map(Text, (arm, *cells)))
    return table


def _by_set(sets: dict[str, Interval], overall: Interval) -> Iterator[tuple[str, Interval]]:
    yield from sets.items()
    if len(sets) > 1:
        yield "mean over sets", overall


def _table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        right = column in NUMBERS or column.startswith(("rate", "validation")) or "interval" in column
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "meaning")
    return table


def _level(result: Result) -> str:
    return f"{result.settings.level:.0%} interval"


def score_title(score: str) -> str:
    """A score's name as it is shown."""
    return score.split("_")[0].upper() + (" of 0.2.0" if score.endswith("_of_percentages") else "")


def _cells(interval: Interval, percent: bool = False) -> tuple[str, str, str]:
    def number(value: Any) -> str:
        return f"{100 * value:.2f} %" if percent else f"{value:.4f}"

    bounds = "–" if interval.low is None else f"{number(interval.low)} … {number(interval.high)}"
    return number(interval.mean), bounds, str(interval.n)


def save_picture(result: Result, sets: DistilledSets, real: RealData, path: Path) -> None:
    """Draws the first set's images beside every arm's accuracy, as PNG, whole or not at all."""
    from matplotlib.figure import Figure  # slow to import, and only pictures need it

    figure = Figure(figsize=(11, 5), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    _draw_images(left, sets, real)
    _draw_arms(right, result)
    figure.suptitle(
        "   ".join(f"{name.upper()} {summary.overall.mean:.4f}" for name, summary in result.scores.items()),
        fontsize=12,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def _draw_images(axes, sets: DistilledSets, real: RealData) -> None:
    shown = _shown(sets.labels[0])
    h, w, k = real.image_shape
    drawn = np.concatenate(shown)
    pixels = dict(zip(drawn, np.clip(real.space.pixels(sets.images[0, drawn]), 0, 1), strict=True))
    gap = max(1, h // 16)
    sheet = np.ones((len(shown) * (h + gap) - gap, max(map(len, shown)) * (w + gap) - gap, k))
    for row, positions in enumerate(shown):
        for column, position in enumerate(positions):
            top, side = row * (h + gap), column * (w + gap)
            sheet[top : top + h, side : side + w] = pixels[position]
    axes.imshow(sheet.squeeze(-1) if k == 1 else sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(f"{sets.names[0]}, in order of class", fontsize=10)
    axes.set_axis_off()


def _shown(labels: np.ndarray) -> list[np.ndarray]:
    """Positions of the images to show, by row: a row per class, or a near square where a class has few."""
    classes = [np.flatnonzero(labels == c)[:IMAGES_SHOWN] for c in np.unique(labels)[:CLASSES_SHOWN]]
    if max(map(len, classes)) > 2:
        return classes
    together = np.concatenate(classes)
    side = math.ceil(math.sqrt(len(together)))
    return [together[first : first + side] for first in range(0, len(together), side)]


def _draw_arms(axes, result: Result) -> None:
    names = arm_names(result)[::-1]
    for height, name in enumerate(names):
        interval = result.accuracies[name].overall
        bounds = (interval.low, interval.high)
        error = None if None in bounds else np.abs(np.array(bounds, float)[:, None] - interval.mean)
        axes.barh(height, interval.mean, xerr=error, color=COLOURS[name.split("-")[0]], capsize=3, height=0.7)
        axes.text(0.01, height, f"{interval.mean:.4f}", color="white", va="center", fontsize=9)
    known = result.settings.real_accuracy
    if known is not None and "lrs" in result.settings.scores:
        axes.axvline(known, color=COLOURS["real"], linestyle="--", label=f"real-hard, given: {known:g}")
        axes.legend(loc="lower right", fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"test accuracy (fraction), mean over {result.settings.seeds} seeds, {_level(result)}")
    axes.spines[["top", "right"]].set_visible(False)
