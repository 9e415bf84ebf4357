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


def read(table: ArmTable, readout: str) -> Reading:
    """Reads a table by ``last`` or ``best`` (see `last`, `best`)."""
    return {"last": last, "best": best}[readout](table)


def last(table: ArmTable) -> Reading:
    """The last epoch's test accuracy, at the rate whose validation accuracy, averaged over seeds, is highest.

    The rate is chosen for each set of the arm, by the same rule for every arm; of equals, the first counts.

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
