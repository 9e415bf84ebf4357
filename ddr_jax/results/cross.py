"""One evaluation over several students: scores by architecture, their mean and their worst case."""

from __future__ import annotations

import functools
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ddr_jax.data.files import write_atomically
from ddr_jax.results.report import LOWER_IS_BETTER, WIDTH, score_title
from ddr_jax.results.result import Result
from ddr_jax.scores.intervals import Interval, t_interval

FORMAT = 1


@dataclass(frozen=True, eq=False)
class CrossArchitecture:
    """Results of one evaluation by student, which share sets, seeds and all settings but the student."""

    results: dict[str, Result]

    @functools.cached_property
    def matrices(self) -> dict[str, np.ndarray]:
        """By score, (students, D, S) in fractions."""
        first = next(iter(self.results.values()))
        return {name: np.stack([result.values[name] for result in self.results.values()]) for name in first.scores}

    def means(self, name: str) -> tuple[Interval, ...]:
        """Of a score over students, one per set: the mean over students within each seed is what varies over seeds."""
        return tuple(t_interval(row, self._level) for row in self.matrices[name].mean(0))

    def worst(self, name: str) -> np.ndarray:
        """Of a score, (D,): the least of the students' means over seeds, or the greatest where lower is better.

        It is the least of several noisy means, and so a little too low.
        """
        means = self.matrices[name].mean(-1)
        return means.max(0) if name in LOWER_IS_BETTER else means.min(0)

    @property
    def _level(self) -> float:
        return next(iter(self.results.values())).settings.level

    @property
    def set_names(self) -> tuple[str, ...]:
        """Of the distilled sets (D,)."""
        return next(iter(self.results.values())).data_names

    def text(self) -> str:
        """A matrix per score as plain text: sets by students, mean over students with its interval, worst."""
        buffer = io.StringIO()
        tables = (self._table(name) for name in self.matrices)
        Console(file=buffer, width=WIDTH, color_system=None).print(Group(*tables, Text(self._note())))
        return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())

    __str__ = text

    def to_json(self) -> dict[str, Any]:
        """Each score's matrix, mean and worst by set, and every student's whole result."""
        scores = {}
        for name, matrix in self.matrices.items():
            means, worst = self.means(name), self.worst(name)
            scores[name] = [
                {
                    "set": of,
                    "students": dict(zip(self.results, matrix[:, d].mean(-1).tolist(), strict=True)),
                    **means[d].to_json(),
                    "worst": float(worst[d]),
                }
                for d, of in enumerate(self.set_names)
            ]
        results = {name: result.to_json() for name, result in self.results.items()}
        return {"format": FORMAT, "scores": scores, "results": results}

    def save(self, path: str | Path) -> None:
        """Writes everything as JSON, whole or not at all."""
        text = json.dumps(self.to_json(), indent=1, allow_nan=False)
        write_atomically(Path(path), (text + "\n").encode())

    def _table(self, name: str) -> Table:
        title = f"{score_title(name)} by student"
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        table.add_column("set")
        for column in (*self.results, "mean", f"{self._level:.0%} interval", "worst"):
            table.add_column(column, justify="right", no_wrap=True)
        each, worst = self.matrices[name].mean(-1), self.worst(name)
        for d, (of, mean) in enumerate(zip(self.set_names, self.means(name), strict=True)):
            span = "–" if mean.low is None else f"{mean.low:.4f} … {mean.high:.4f}"
            cells = (of, *(f"{m:.4f}" for m in each[:, d]), f"{mean.mean:.4f}", span, f"{worst[d]:.4f}")
            table.add_row(*map(Text, cells))
        return table

    def _note(self) -> str:
        return "Mean and interval are over these students, within each seed; other architectures may differ."
