"""HLR and IOR of published sets beside the leaderboard's, under each reading of the real-hard accuracy.

    python experiments/known/leaderboard.py [LIST.toml] [--only PATTERN] [--cost cheap] [--readme README.md]

The list, `leaderboard.toml` by default, explains its own form; the command, its options and what it keeps are those of
`run.py`. Nobody trains on all of CIFAR-10 here: HLR takes real-hard accuracies that are known, which the list names
together with where they were read.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import run

import ddr_jax as ddr
from ddr_jax import sweep
from ddr_jax.protocols.plain import Must, check
from ddr_jax.protocols.settings import Settings
from ddr_jax.scores import metrics

BEGIN = "<!-- table: made by leaderboard.py -->"
Points = Annotated[float, Must("a fraction: divide points by 100", lambda x: -1 <= x <= 1)]


@dataclass(frozen=True)
class Reading:
    """A known accuracy of students of all real data, a fraction: under which reading of HLR, and where it was read."""

    name: str
    accuracy: Annotated[float, Must("in (0, 1)", lambda x: 0 < x < 1)]
    source: str

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Entry(run.Line):
    """A line of `run.py`, whose set is scored by LRS, with the leaderboard's HLR and IOR, fractions."""

    scores: tuple[str, ...] = ("lrs",)
    hlr: Points
    ior: Points
    real_hard: Annotated[tuple[Reading, ...], Must("one or more", bool)]

    def asks(self, flips: bool) -> Settings:
        return replace(super().asks(flips), real_accuracy=self.real_hard[0].accuracy)

    def asked(self, data: Path) -> dict[str, Any]:
        """As of an accuracy: which known accuracy HLR takes decides nothing that is measured."""
        return {key: value for key, value in super().asked(data).items() if key not in ("scores", "real_accuracy")}

    def kept(self, result: ddr.Result) -> sweep.Record:
        """By arm, the test accuracy of each seed (S,), mean over the file's runs."""
        arms = {name: result.readings[name].accuracy for name in ("syn-hard", "syn-any", "rdm-any")}
        return {"values": {name: each.mean(0).tolist() for name, each in arms.items()}, "runs": len(arms["syn-any"])}


@dataclass(frozen=True)
class Score:
    """One of an entry's scores: its name, our values by seed (S,), and the leaderboard's."""

    name: str
    ours: np.ndarray
    theirs: float


def scores(entry: Entry, record: sweep.Record) -> list[Score]:
    """HLR under every reading, and IOR; fractions."""
    arm = {name: np.array(values) for name, values in record["values"].items()}
    recovery = [
        Score(f"HLR, {known.name} ({100 * known.accuracy:.1f})", values, entry.hlr)
        for known in entry.real_hard
        for values in (np.asarray(metrics.hard_label_recovery(known.accuracy, arm["syn-hard"])),)
    ]
    improvement = np.asarray(metrics.improvement_over_random(arm["syn-any"], arm["rdm-any"]))
    return [*recovery, Score("IOR", improvement, entry.ior)]


HEAD = ("set", "score", "ours, points (95 %)", "n", "leaderboard", "difference", "agrees", "device", "minutes")


def table(found: sweep.Plan, data: Path) -> str:
    """The table as Markdown: a row per score, then where the real-hard accuracies were read, and notes."""
    rows = [row for entry in found.lines for row in _rows(entry, found.records.get(entry.name))]
    known = {(each.name, each.accuracy, each.source) for entry in found.lines for each in entry.real_hard}
    read = "".join(f"- **{name}**, {100 * accuracy:.1f} %: {source}\n" for name, accuracy, source in sorted(known))
    measured = f"{len(found.records)} of {len(found.lines)} lines measured."
    head = f"{measured} Real-hard accuracies, known and not trained here:"
    return f"{sweep.markdown(HEAD, rows)}\n{head}\n\n{read}{sweep.notes(found.lines)}"


def _rows(entry: Entry, record: sweep.Record | None) -> list[list[str]]:
    if record is None:
        theirs = f"{100 * entry.hlr:.2f} / {100 * entry.ior:.2f}"
        return [[entry.name, "HLR / IOR", run.unmeasured(entry), "", theirs, *[""] * 4]]
    rows = []
    for score in scores(entry, record):
        mean = run.summarise(score.ours)
        c = run.compare(mean, run.Published(score.theirs))
        rows.append([entry.name, score.name, run.span(mean), sweep.count(record), f"{100 * score.theirs:.2f}"])
        rows[-1] += [f"{100 * c.difference:+.2f}", "yes" if c.agrees else "**no**"]
        rows[-1] += [record["device"], f"{record['seconds'] / 60:.1f}"]
    return rows


def main(arguments: list[str] | None = None) -> int:
    return run.main(arguments, Entry, table, BEGIN, run.HERE / "leaderboard.toml")


if __name__ == "__main__":
    sys.exit(main())
