"""What is said and shown of a record: its tables, and notes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ddr_jax.results.record import Record
from ddr_jax.results.render import Part, cells, note, number, table
from ddr_jax.scores.readout import Rate
from ddr_jax.scores.table import title


def parts(record: Record) -> Iterator[Part]:
    """Accuracies per arm and scores, with intervals over seeds, and notes."""
    yield _arms_table(record)
    yield _scores_table(record)
    further = (record.choices, _rates_table), (record.optimism, _optimism_table), (record.variances, _variances_table)
    yield from (make(record) for found, make in further if found)
    yield note(f"Cost of a set: {record.costs}", style="")
    yield from map(note, notes(record))


def notes(record: Record) -> Iterator[str]:
    """What a reader must know besides the numbers."""
    settings = record.settings
    if record.diverged:
        yield f"{record.diverged} students diverged (weights not finite) and count as measured: lower the learning rate"
    if settings.real_accuracy is not None and "real-hard" in record.taken:
        yield f"acc(real, hard) was given as {settings.real_accuracy}, not measured; intervals take it as exact"
    if settings.protocol.readout == "best":
        yield "Epochs and rates were chosen on the test set, as ddranking 0.2.0 does: accuracies are too high"
    yield from _edges(record)
    if "ars" in record.shown and settings.protocol.augment is None:
        yield "ARS compares training with and without augmentation, but augment is none: both halves are the same"
    mixed = [entry["name"] for entry in record.data["sets"] if entry["label_order"] == "mixed"]
    if mixed:
        yield f"Labels are not in order of class in {', '.join(mixed)}; each image keeps the label stored with it"
    if settings.seeds == 1:
        yield "One seed gives no interval: use --seeds 2 or more"


def _edges(record: Record) -> Iterator[str]:
    """Warnings of rates that were chosen at an end of their grid."""
    at_end: dict[tuple[str, float], dict[str, None]] = {}
    for arm, found in record.choices.items():
        for choice in found:
            if choice.edge is not None:
                at_end.setdefault((choice.edge, choice.chosen.lr), {})[arm] = None
    for (edge, lr), arms in at_end.items():
        chosen = f"The {edge} rate of the grid, {lr:g}, was chosen in {', '.join(arms)}"
        yield f"{chosen}: a better one may lie beyond it; extend the grid (--extend-grid 3)"


def arm_names(record: Record) -> list[str]:
    """The arms of a record, teachers first, the others in the order in which scores take them."""
    order = [arm for score in record.shown.values() for arm in score.takes]
    return sorted(record.tables, key=lambda arm: order.index(arm) if arm in order else -1)


def level(record: Record) -> str:
    """The head of a column of intervals."""
    return f"{record.settings.level:.0%} interval"


def _arms_table(record: Record) -> Part:
    def rows() -> Iterator[tuple[str, ...]]:
        for arm in arm_names(record):
            students, rate = record.tables[arm], record.readings[arm].rate
            for d, (name, interval) in enumerate(record.accuracies[arm].sets.items()):
                rates = ", ".join(f"{lr:g}" for lr in sorted({students.lrs[r] for r in rate[d]}))
                lost = str(int(students.diverged[d].sum()))
                yield arm, name, rates, *cells(interval, record.settings.percent), lost

    columns = ("arm", "set", "rate", "accuracy", level(record), "n", "diverged")
    return table("Test accuracy of each arm", columns, rows())


def _scores_table(record: Record) -> Part:
    def rows() -> Iterator[tuple[str, ...]]:
        for name, summary in record.scores.items():
            score = record.shown[name]
            together = [("mean over sets", summary.overall)] if len(summary.sets) > 1 else []
            for line, (where, interval) in enumerate([*summary.sets.items(), *together]):
                numbers = cells(interval, record.settings.percent and score.of_accuracies)
                yield title(name), where, *numbers, "" if line else score.meaning

    return table("Scores", ("score", "set", "mean", level(record), "n", "meaning"), rows())


def _rates_table(record: Record) -> Part:
    columns = ("arm", "set", "rate", "validation", "rate below", "validation below", "rate above", "validation above")
    rows = (
        (arm, choice.set, *(cell for rate in (choice.chosen, choice.below, choice.above) for cell in _rate(rate)))
        for arm in arm_names(record)
        for choice in record.choices.get(arm, ())
    )
    return table("Learning rates chosen on validation data, and their neighbours in the grid", columns, rows)


def _rate(rate: Rate | None) -> tuple[str, str]:
    return ("–", "–") if rate is None else (f"{rate.lr:g}", number(rate.validation))


def _optimism_table(record: Record) -> Part:
    """What a reading on the test set, as ddranking's, would have added: to arms, and to scores."""
    percent = record.settings.percent
    rows = [(arm, *cells(record.optimism[arm], percent)) for arm in arm_names(record) if arm in record.optimism]
    rows += [
        (title(name), *cells(interval, percent and record.shown[name].of_accuracies))
        for name, interval in record.score_optimism.items()
    ]
    return table("Optimism: what choosing on the test set would add", ("of", "mean", level(record), "n"), rows)


def _variances_table(record: Record) -> Part:
    """Standard deviations, which are in the units of accuracies."""
    origins = ((arm, (found.seed, found.set, found.rest, found.draw)) for arm, found in record.variances.items())
    rows = ((arm, *(number(variance and math.sqrt(variance)) for variance in found)) for arm, found in origins)
    columns = ("arm", "by seed", "by set", "rest", "draw of random images")
    return table("Standard deviation of accuracies, by origin", columns, rows)
