"""From a table of students to one accuracy per set and seed: which epoch counts, which rate was chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddr_jax.types import ArmTable, InputError


@dataclass(frozen=True)
class Reading:
    """What counts of an arm: accuracy (D, S) float64 fractions, and rate (D, S), its position in the table's `lrs`."""

    accuracy: np.ndarray
    rate: np.ndarray


@dataclass(frozen=True)
class Rate:
    """A learning rate of a grid, and its validation accuracy: last epoch, mean over seeds, a fraction.

    `validation` is None where the grid has one rate and nothing was held out.
    """

    lr: float
    validation: float | None


@dataclass(frozen=True)
class Choice:
    """The rate that `last` chose for one set, between its neighbours in the sorted grid.

    `below` and `above` are the next lower and higher rates, None at an end of the grid. `edge` is ``lowest`` or
    ``highest`` where the choice is an end of the grid, so that a better rate may lie beyond it; None if it lies inside,
    or if there is one rate.
    """

    set: str
    chosen: Rate
    below: Rate | None
    above: Rate | None
    edge: str | None


def read(table: ArmTable, readout: str) -> Reading:
    """Reads a table by ``last`` or ``best`` (see `last`, `best`)."""
    return {"last": last, "best": best}[readout](table)


def last(table: ArmTable) -> Reading:
    """The last epoch's test accuracy, at the rate whose validation accuracy, averaged over seeds, is highest.

    The rate is chosen for each set of the arm, by the same rule for every arm; of equals, the first counts.
    Test images had no part in the choice, so the reading is an unbiased estimate of how accurate these students are.
    But a lucky student does well on validation and on test, so the reading is slightly too high for new seeds at the
    chosen rate, where rates are nearly equal and seeds are few (experiments/coverage.md measures by how much).

    Raises:
        InputError: if there are several rates and no validation accuracies to choose by.
    """
    sets, rates, seeds, _ = table.test.shape
    if rates > 1 and table.validation is None:
        raise InputError(
            f"Arm {table.arm} has {rates} learning rates and no validation accuracies to choose by: "
            "hold out a validation split, or give one rate"
        )
    by_rate = np.zeros((sets, 1)) if table.validation is None else table.validation[..., -1].mean(-1)
    chosen = by_rate.argmax(1)
    return Reading(table.test[np.arange(sets), chosen, :, -1], np.repeat(chosen[:, None], seeds, 1))


def best(table: ArmTable) -> Reading:
    """The best test accuracy over test epochs and rates, seed by seed: how ddranking 0.2.0 reads a training.

    It is chosen on the test set and therefore too high; `last` is the honest readout.
    """
    by_rate = table.test.max(-1)
    return Reading(by_rate.max(1), by_rate.argmax(1))


def optimism(table: ArmTable) -> np.ndarray:
    """What choosing on the test set adds: `best` minus `last`, per set and seed (D, S), in fractions.

    0 where there is one rate and one test epoch. The mean over seeds estimates, without bias, by how much the
    reading of ddranking 0.2.0 exceeds the accuracy of the students that `last` picks; `intervals.t_interval` gives
    its interval.

    Raises:
        InputError: as `last`.
    """
    return best(table).accuracy - last(table).accuracy


def choices(table: ArmTable) -> tuple[Choice, ...]:
    """For each set, the rate that `last` chose and its neighbours.

    Raises:
        InputError: as `last`.
    """
    return tuple(_choice(table, d, chosen) for d, chosen in enumerate(last(table).rate[:, 0]))


def _choice(table: ArmTable, d: int, chosen: int) -> Choice:
    """Of set d, whose rate is at the position `chosen` in the table's `lrs`."""
    seen = [None] * len(table.lrs) if table.validation is None else table.validation[d, ..., -1].mean(-1).tolist()
    order = sorted(range(len(seen)), key=table.lrs.__getitem__)
    grid = [Rate(table.lrs[r], seen[r]) for r in order]
    place = order.index(chosen)
    below, _, above = [None, *grid, None][place : place + 3]
    edge = None if len(grid) == 1 else "lowest" if below is None else "highest" if above is None else None
    return Choice(table.sets[d], grid[place], below, above, edge)
