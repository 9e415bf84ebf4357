"""A finished evaluation as users know it: printed, saved, and read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ddr_jax.protocols.plain import from_plain, to_plain
from ddr_jax.protocols.settings import Settings
from ddr_jax.results import report
from ddr_jax.results.record import Record
from ddr_jax.results.render import Document, Part
from ddr_jax.types import ArmTable, InputError

FORMAT = 2


class Result(Record, Document):
    """A record of an evaluation that is printed and saved; read back from its file it is the same."""

    def parts(self) -> Iterable[Part]:
        """Accuracies per arm and scores, with intervals over seeds, and notes."""
        return report.parts(self)

    def rows(self) -> list[dict[str, Any]]:
        """One row per student and arm: `arm`, `set`, `seed`, `lr`, `accuracy` and more."""
        return [row for name in self.tables for row in self._rows(name)]

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        table, chosen = self.tables[name], self.readings[name].rate
        counts = table.test.max(-1) if self.settings.protocol.readout == "best" else table.test[..., -1]
        for d, r, s in np.ndindex(table.students.shape):
            yield {
                "arm": name,
                "set": table.sets[d],
                "seed": s,
                "lr": table.lrs[r],
                "accuracy": float(counts[d, r, s]),
                "chosen": bool(chosen[d, s] == r),
                "augmented": table.augmented,
                "diverged": bool(table.diverged[d, r, s]),
                "test": table.test[d, r, s].tolist(),
                "validation": None if table.validation is None else table.validation[d, r, s].tolist(),
                "student": str(table.students[d, r, s]),
            }

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data; see `from_json`."""
        return {
            "format": FORMAT,
            "scores": _each_to_json(self.scores),
            "arms": _each_to_json(self.accuracies),
            "optimism": {"arms": _each_to_json(self.optimism), "scores": _each_to_json(self.score_optimism)},
            "variances": {name: asdict(components) for name, components in self.variances.items()},
            "diverged": self.diverged,
            "costs": asdict(self.costs),
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


def load_result(path: str | Path) -> Result:
    """Reads a result that `Result.save` wrote.

    Raises:
        InputError: if the file is missing or is not such a result.
    """
    try:
        return Result.from_json(json.loads(Path(path).read_text()))
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}") from error
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a result of ddr-jax: {error!r}; give the .json of an evaluation") from error


def _each_to_json(found: dict[str, Any]) -> dict[str, Any]:
    return {name: each.to_json() for name, each in found.items()}


def _table(name: str, rows: list[dict[str, Any]]) -> ArmTable:
    """An arm's table from the rows of `Result.rows`."""
    sets, lrs, seeds = (tuple(dict.fromkeys(row[axis] for row in rows)) for axis in ("set", "lr", "seed"))

    def column(field: str) -> np.ndarray:
        return np.array([row[field] for row in rows]).reshape(len(sets), len(lrs), len(seeds), -1)

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
