"""One evaluation over several students: scores by architecture, their mean and their worst case."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddr_jax.results.render import Document, Part, note, number, span, table
from ddr_jax.results.report import level
from ddr_jax.results.result import Result
from ddr_jax.scores.intervals import Interval, t_interval
from ddr_jax.scores.table import title

FORMAT = 1


@dataclass(frozen=True, eq=False)
class CrossArchitecture(Document):
    """Results of one evaluation by student, which share sets, seeds and all settings but the student."""

    results: dict[str, Result]

    @property
    def _first(self) -> Result:
        return next(iter(self.results.values()))

    @functools.cached_property
    def matrices(self) -> dict[str, np.ndarray]:
        """By score, (students, D, S) in fractions."""
        return {name: np.stack([result.values[name] for result in self.results.values()]) for name in self._first.shown}

    def means(self, name: str) -> tuple[Interval, ...]:
        """Of a score over students, one per set: the mean over students within each seed is what varies over seeds."""
        return tuple(t_interval(row, self._first.settings.level) for row in self.matrices[name].mean(0))

    def worst(self, name: str) -> np.ndarray:
        """Of a score, (D,): the worst of the students' means over seeds.

        It is the worst of several noisy means, and therefore looks a little worse than it is.
        """
        means = self.matrices[name].mean(-1)
        return means.max(0) if self._first.shown[name].lower_is_better else means.min(0)

    def parts(self) -> Iterator[Part]:
        """A matrix per score: sets by students, mean over students with its interval, worst."""
        columns = ("set", *self.results, "mean", level(self._first), "worst")
        for name in self.matrices:
            yield table(f"{title(name)} by student", columns, self._rows(name))
        yield note("Mean and interval are over these students, within each seed; other architectures may differ.")

    def _rows(self, name: str) -> Iterator[tuple[str, ...]]:
        for row in self._score_to_json(name):
            means = map(number, (*row["students"].values(), row["mean"]))
            yield row["set"], *means, span(row["low"], row["high"]), number(row["worst"])

    def to_json(self) -> dict[str, Any]:
        """Each score's matrix, mean and worst by set, and every student's whole result."""
        return {
            "format": FORMAT,
            "scores": {name: self._score_to_json(name) for name in self.matrices},
            "results": {name: result.to_json() for name, result in self.results.items()},
        }

    def _score_to_json(self, name: str) -> list[dict[str, Any]]:
        each, worst = self.matrices[name].mean(-1).T.tolist(), self.worst(name).tolist()
        return [
            {"set": of, "students": dict(zip(self.results, row, strict=True)), **mean.to_json(), "worst": least}
            for of, row, mean, least in zip(self._first.data_names, each, self.means(name), worst, strict=True)
        ]
