"""From a table of students to one accuracy per set and seed: which epoch counts, which rate was chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddr_jax.types import ArmTable, InputError


@dataclass(frozen=True)
class Reading:
    """What counts of an arm: accuracy (D, S) float64 fractions and rate (D, S), the position in the table's `lrs`."""

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
    ``highest`` where the choice is such an end, so that a better rate may lie beyond, None inside or without a grid.
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
    Test images had no part in the choice, so what is read is an unbiased estimate of how accurate these students are.
    Their luck had: one that was well initialised does better on both splits. For new seeds at the chosen rate the
    reading is therefore too high where rates are nearly equal and seeds are few (experiments/coverage.md measures it).

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

    It is chosen on the test set, and so too high; `last` is the honest readout.
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
    order = [int(r) for r in np.argsort(table.lrs)]
    chosen = [order.index(r) for r in last(table).rate[:, 0]]
    return tuple(_choice(table, order, d, place) for d, place in enumerate(chosen))


def _choice(table: ArmTable, order: list[int], d: int, place: int) -> Choice:
    """Of set d, whose rate stands at `place` in the order of the rates."""

    def rate(place: int) -> Rate | None:
        if not 0 <= place < len(order):
            return None
        r = order[place]
        seen = None if table.validation is None else float(table.validation[d, r, :, -1].mean())
        return Rate(table.lrs[r], seen)

    chosen, below, above = rate(place), rate(place - 1), rate(place + 1)
    assert chosen is not None
    edge = None if len(order) == 1 else "lowest" if below is None else "highest" if above is None else None
    return Choice(table.sets[d], chosen, below, above, edge)
