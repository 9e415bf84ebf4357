"""What an evaluation gives back: the table of its students, and all that follows from it.

Accuracies and scores are computed from the table and the settings whenever they are asked for, so a result read
back from its file is the same object, and every number can be traced to rows.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ddr_jax.data.files import write_atomically
from ddr_jax.protocols.plain import from_plain, to_plain
from ddr_jax.protocols.settings import Settings
from ddr_jax.results import report
from ddr_jax.results.costs import Costs, label_cost
from ddr_jax.scores import metrics
from ddr_jax.scores.intervals import Components, Interval, bootstrap_interval, t_interval, variance_components
from ddr_jax.scores.readout import Choice, Reading, choices, optimism, read
from ddr_jax.types import ArmTable, InputError

FORMAT = 2


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
class Result:
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

    @functools.cached_property
    def readings(self) -> dict[str, Reading]:
        """Per arm, the accuracy of each set and seed (D, S) that counts."""
        return {name: read(table, self.settings.protocol.readout) for name, table in self.tables.items()}

    @functools.cached_property
    def accuracies(self) -> dict[str, Summary]:
        """Per arm, its test accuracy."""
        return {
            name: self._summary(reading.accuracy, self.tables[name].sets) for name, reading in self.readings.items()
        }

    @functools.cached_property
    def scores(self) -> dict[str, Summary]:
        """Each score that was asked for, and the HLR and IOR that an LRS is made of."""
        return {name: self._summary(values, self.data_names) for name, values in self.values.items()}

    @property
    def data_names(self) -> tuple[str, ...]:
        """The names of the distilled sets."""
        return tuple(entry["name"] for entry in self.data["sets"])

    @functools.cached_property
    def choices(self) -> dict[str, tuple[Choice, ...]]:
        """Per arm with a grid, the rate that was chosen on validation data for each set, between its neighbours."""
        if self.settings.protocol.readout != "last":
            return {}
        return {name: choices(table) for name, table in self.tables.items() if len(table.lrs) > 1}

    @functools.cached_property
    def optimism(self) -> dict[str, Interval]:
        """Per arm, what choosing epoch and rate on the test set would add to its accuracy, over seeds.

        Only of arms that have something to choose, and were read by ``last``.
        """
        if self.settings.protocol.readout != "last":
            return {}
        tables = {name: table for name, table in self.tables.items() if len(table.lrs) > 1 or table.test.shape[-1] > 1}
        return {name: self._interval(optimism(table).mean(0)) for name, table in tables.items()}

    def read_on_test(self) -> Result:
        """The same students, read as ddranking 0.2.0 reads them: the best epoch and rate on the test set."""
        return replace(self, settings=replace(self.settings, protocol=replace(self.settings.protocol, readout="best")))

    @functools.cached_property
    def score_optimism(self) -> dict[str, Interval]:
        """Per score, what the reading on the test set (`read_on_test`) would add to it, over seeds."""
        if not self.optimism:
            return {}
        honest, theirs = self.values, self.read_on_test().values
        return {name: self._interval((theirs[name] - values).mean(0)) for name, values in honest.items()}

    @functools.cached_property
    def variances(self) -> dict[str, Components]:
        """Per arm of several sets, its accuracy's variance by source: seeds, sets, random draws, and the rest."""
        random = self.readings["rdm-any"].accuracy[0] if "rdm-any" in self.readings else None
        if self.settings.baseline != "random":
            random = None
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
        lost = {s for table in self.tables.values() for s in table.students[table.diverged].tolist()}
        return len(lost)

    @functools.cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Each score by set and seed (D, S)."""
        arm = {name: reading.accuracy for name, reading in self.readings.items()}
        asked, weight, values = self.settings.scores, self.settings.weight, {}
        original = self.settings.original_formula
        if "accuracy" in asked:
            values["accuracy"] = arm["syn-any"]
        if "lrs" in asked:
            known = self.settings.real_accuracy
            real = arm["real-hard"] if known is None else known
            values["hlr"] = metrics.hard_label_recovery(real, arm["syn-hard"])
            values["ior"] = metrics.improvement_over_random(arm["syn-any"], arm["rdm-any"])
            values["lrs"] = metrics.label_robust_score(real, arm["syn-hard"], arm["syn-any"], arm["rdm-any"], weight)
            if original:
                values["lrs_of_percentages"] = metrics.of_percentages(values["lrs"])
        if "ars" in asked:
            values["ars"] = metrics.augmentation_robust_score(
                arm["syn-aug"], arm["rdm-aug"], arm["syn-noaug"], arm["rdm-noaug"], weight
            )
            if "lrs" in asked:
                values["joint"] = metrics.joint(values["lrs"], values["ars"])
            if original:
                values["ars_of_percentages"] = metrics.of_percentages(values["ars"])
        return values

    def _summary(self, values: np.ndarray, names: tuple[str, ...]) -> Summary:
        """Over seeds: sets that share a seed share initial weights, so their mean is one draw per seed."""
        return Summary(
            overall=self._interval(values.mean(0)),
            sets={name: self._interval(row) for name, row in zip(names, values, strict=True)},
        )

    def _interval(self, values: np.ndarray) -> Interval:
        if self.settings.interval == "bootstrap":
            return bootstrap_interval(values, seed=0, level=self.settings.level)
        return t_interval(values, self.settings.level)

    def rows(self) -> list[dict[str, Any]]:
        """One row per student and arm: `arm`, `set`, `seed`, `lr`, `accuracy` and more."""
        return [row for name in self.tables for row in self._rows(name)]

    def _rows(self, name: str) -> list[dict[str, Any]]:
        table, reading = self.tables[name], self.readings[name]
        rows = []
        for d, r, s in np.ndindex(table.students.shape):
            counts = table.test[d, r, s].max() if self.settings.protocol.readout == "best" else table.test[d, r, s, -1]
            rows.append(
                {
                    "arm": name,
                    "set": table.sets[d],
                    "seed": s,
                    "lr": table.lrs[r],
                    "accuracy": float(counts),
                    "chosen": bool(reading.rate[d, s] == r),
                    "augmented": table.augmented,
                    "diverged": bool(table.diverged[d, r, s]),
                    "test": table.test[d, r, s].tolist(),
                    "validation": None if table.validation is None else table.validation[d, r, s].tolist(),
                    "student": str(table.students[d, r, s]),
                }
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data; see `from_json`."""
        return {
            "format": FORMAT,
            "scores": {name: summary.to_json() for name, summary in self.scores.items()},
            "arms": {name: summary.to_json() for name, summary in self.accuracies.items()},
            "optimism": {
                "arms": {name: interval.to_json() for name, interval in self.optimism.items()},
                "scores": {name: interval.to_json() for name, interval in self.score_optimism.items()},
            },
            "variances": {name: asdict(components) for name, components in self.variances.items()},
            "diverged": self.diverged,
            "costs": self.costs.to_dict(),
            "settings": to_plain(self.settings),
            "data": self.data,
            "environment": self.environment,
            "students": self.rows(),
            "times": self.times,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Result:
        """The result that `to_json` described; its scores are computed anew from the students' rows."""
        if content.get("format") != FORMAT:
            raise InputError(f"The result has format {content.get('format')!r}; this version reads format {FORMAT}")
        settings = from_plain(Settings, content["settings"], "settings")
        names = dict.fromkeys(row["arm"] for row in content["students"])
        tables = {name: _table(name, [row for row in content["students"] if row["arm"] == name]) for name in names}
        return cls(settings, tables, content["data"], content["environment"], content["times"])

    def save(self, path: str | Path) -> None:
        """Writes the result as JSON, whole or not at all."""
        text = json.dumps(self.to_json(), indent=1, allow_nan=False)
        write_atomically(Path(path), (text + "\n").encode())

    def __str__(self) -> str:
        return report.text(self)


def load_result(path: str | Path) -> Result:
    """Reads a result that `Result.save` wrote.

    Raises:
        InputError: if the file is missing or is not such a result.
    """
    try:
        return Result.from_json(json.loads(Path(path).read_text()))
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a result of ddr-jax: {error!r}; give the .json of an evaluation") from error


def _table(name: str, rows: list[dict[str, Any]]) -> ArmTable:
    sets, lrs, seeds = (tuple(dict.fromkeys(row[axis] for row in rows)) for axis in ("set", "lr", "seed"))
    shape = (len(sets), len(lrs), len(seeds))

    def column(field: str) -> np.ndarray:
        return np.array([row[field] for row in rows]).reshape(*shape, -1)

    return ArmTable(
        arm=name,
        sets=sets,
        lrs=lrs,
        test=column("test"),
        validation=None if rows[0]["validation"] is None else column("validation"),
        diverged=column("diverged")[..., 0],
        students=column("student")[..., 0],
        augmented=rows[0]["augmented"],
    )
