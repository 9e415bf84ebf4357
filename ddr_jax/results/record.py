"""The table of an evaluation's students, and all that follows from it.

Accuracies and scores are computed from the table and the settings whenever they are asked for, so that every number can
be traced to rows. Learning rates and epochs, too, are chosen here, after training.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ddr_jax.protocols.settings import Settings
from ddr_jax.results.costs import Costs, label_cost
from ddr_jax.scores import table
from ddr_jax.scores.intervals import Components, Interval, bootstrap_interval, t_interval, variance_components
from ddr_jax.scores.readout import Choice, Reading, choices, optimism, read
from ddr_jax.types import ArmTable


@dataclass(frozen=True)
class Summary:
    """The mean of a quantity over seeds, of the mean over sets (`overall`) and of each set alone."""

    overall: Interval
    sets: dict[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """`mean`, `low`, `high`, `n` of the mean over sets, and a list of the same per set where there are several."""
        sets = [{"set": name, **interval.to_json()} for name, interval in self.sets.items()]
        return self.overall.to_json() | ({"sets": sets} if len(sets) > 1 else {})


@dataclass(frozen=True, eq=False)
class Record:
    """A finished evaluation.

    Attributes:
        settings: what was asked for.
        tables: per arm, every student's accuracies.
        data: names, sizes and fingerprints of the real data and of the distilled sets.
        environment: versions, device and execution.
        times: when and how long, and how many students were trained or found in the store; all that may differ
            between two runs of one evaluation.
    """

    settings: Settings
    tables: dict[str, ArmTable]
    data: dict[str, Any]
    environment: dict[str, Any]
    times: dict[str, Any] = field(default_factory=dict)

    @property
    def data_names(self) -> tuple[str, ...]:
        """The names of the distilled sets (D,)."""
        return tuple(entry["name"] for entry in self.data["sets"])

    @functools.cached_property
    def readings(self) -> dict[str, Reading]:
        """Per arm, the accuracy of each set and seed (D, S) that counts."""
        return {name: read(arm, self.settings.protocol.readout) for name, arm in self.tables.items()}

    @functools.cached_property
    def accuracies(self) -> dict[str, Summary]:
        """Per arm, its test accuracy."""
        return {name: self._summary(found.accuracy, self.tables[name].sets) for name, found in self.readings.items()}

    @functools.cached_property
    def taken(self) -> dict[str, np.ndarray]:
        """Per arm that scores take, the accuracy (D, S) that they take: real-hard as it was given, if it was."""
        known: dict[str, Any] = {name: reading.accuracy for name, reading in self.readings.items()}
        if self.settings.real_accuracy is not None:
            known["real-hard"] = self.settings.real_accuracy
        shape = len(self.data_names), self.settings.seeds
        return {arm: np.broadcast_to(known[arm], shape) for arm in self.settings.arms}

    @functools.cached_property
    def shown(self) -> dict[str, table.Score]:
        """The rows of the table of scores: those asked for and those shown with them, by name."""
        return table.shown(self.settings.scores, self.settings.original_formula)

    @functools.cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Each score by set and seed (D, S)."""
        return table.values(self.shown, self.taken, self.settings.weight)

    @functools.cached_property
    def scores(self) -> dict[str, Summary]:
        """Each score that was asked for, and those that are shown with it."""
        return {name: self._summary(values, self.data_names) for name, values in self.values.items()}

    @functools.cached_property
    def choices(self) -> dict[str, tuple[Choice, ...]]:
        """Per arm with a grid, the rate that was chosen on validation data for each set, between its neighbours."""
        return {name: choices(arm) for name, arm in self._read_by_last.items() if len(arm.lrs) > 1}

    @functools.cached_property
    def optimism(self) -> dict[str, Interval]:
        """Per arm, what choosing epoch and rate on the test set would add to its accuracy, over seeds.

        Only of arms that have something to choose, and were read by ``last``.
        """
        return {
            name: self._interval(optimism(arm).mean(0))
            for name, arm in self._read_by_last.items()
            if len(arm.lrs) > 1 or arm.test.shape[-1] > 1
        }

    @functools.cached_property
    def score_optimism(self) -> dict[str, Interval]:
        """Per score, what reading it as ddranking 0.2.0 does, on the test set, would add to it, over seeds."""
        if not self.optimism:
            return {}
        protocol = replace(self.settings.protocol, readout="best")
        on_test = replace(self, settings=replace(self.settings, protocol=protocol)).values
        return {name: self._interval((on_test[name] - values).mean(0)) for name, values in self.values.items()}

    @functools.cached_property
    def variances(self) -> dict[str, Components]:
        """Per arm of several sets, its accuracy's variance by source: seeds, sets, random draws, and the rest."""
        draws_vary = self.settings.baseline == "random" and "rdm-any" in self.readings
        random = self.readings["rdm-any"].accuracy[0] if draws_vary else None
        return {
            name: variance_components(reading.accuracy, random)
            for name, reading in self.readings.items()
            if len(reading.accuracy) > 1 and self.settings.seeds > 1
        }

    @property
    def costs(self) -> Costs:
        """What one student needs of a set: bytes of its images and labels, and a teacher's work."""
        real, teachers = self.data["real"], self.data["teachers"] or {"count": 1, "parameters": None}
        shape = self.data["sets"][0]["shape"]
        return label_cost(self.settings.protocol, shape, real["classes"], teachers["parameters"], teachers["count"])

    @property
    def diverged(self) -> int:
        """How many students ended with weights that are not finite; their accuracies count as measured."""
        return len({student for arm in self.tables.values() for student in arm.students[arm.diverged].tolist()})

    @property
    def _read_by_last(self) -> dict[str, ArmTable]:
        return self.tables if self.settings.protocol.readout == "last" else {}

    def _summary(self, values: np.ndarray, names: tuple[str, ...]) -> Summary:
        """Over seeds: sets that share a seed share initial weights, so their mean is one draw per seed."""
        sets = {name: self._interval(row) for name, row in zip(names, values, strict=True)}
        return Summary(self._interval(values.mean(0)), sets)

    def _interval(self, values: np.ndarray) -> Interval:
        if self.settings.interval == "bootstrap":
            return bootstrap_interval(values, seed=0, level=self.settings.level)
        return t_interval(values, self.settings.level)
