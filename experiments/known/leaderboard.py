"""HLR and IOR of published sets beside the leaderboard's, under each reading of the real-hard accuracy.

    python experiments/known/leaderboard.py [LIST.toml] [--only PATTERN] [--cost cheap] [--readme README.md]

The list, `leaderboard.toml` by default, explains its own form; the command, its options and what it keeps are those of
`run.py`. Nobody trains on all of CIFAR-10 here: HLR takes real-hard accuracies that are known, which the list names
together with where they were read.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import run

import ddr_jax as ddr
from ddr_jax.scores import metrics
from ddr_jax.types import InputError

if TYPE_CHECKING:
    from ddr_jax.train.arms import Runner

OWN = ("hlr", "ior", "real_hard")
BEGIN = "<!-- table: made by leaderboard.py -->"


@dataclass(frozen=True)
class Reading:
    """A known accuracy of students of all real data, a fraction: under which reading of HLR, and where it was read."""

    name: str
    accuracy: float
    source: str


@dataclass(frozen=True)
class Entry(run.Line):
    """A line of `run.py` with the leaderboard's HLR and IOR, fractions."""

    hlr: float = 0.0
    ior: float = 0.0
    real_hard: tuple[Reading, ...] = ()


def read_entry(raw: dict[str, Any], protocols: dict[str, Any], data: Path, where: str) -> Entry:
    """One entry of the list, checked."""
    where = f"{where} ({raw.get('name')!r})"
    run.check_keys(raw, (*run.LINE_KEYS, *OWN), where)
    for key in ("set", *OWN):
        if key not in raw:
            raise InputError(f"{where}: has no {key}")
    for key in ("hlr", "ior"):
        if not isinstance(raw[key], (int, float)) or not -1 <= raw[key] <= 1:
            raise InputError(f"{where}: {key} is {raw[key]!r}; expected a fraction: divide points by 100")
    readings = tuple(_reading(each, where) for each in raw["real_hard"])
    line = run.read_line({key: value for key, value in raw.items() if key not in OWN}, protocols, data, where)
    values = {field.name: getattr(line, field.name) for field in fields(run.Line)}
    return Entry(**values, hlr=raw["hlr"], ior=raw["ior"], real_hard=readings)


def _reading(raw: dict[str, Any], where: str) -> Reading:
    where = f"{where}: real_hard"
    run.check_keys(raw, ("name", "accuracy", "source"), where)
    if set(raw) != {"name", "accuracy", "source"} or not 0 < raw["accuracy"] < 1:
        raise InputError(f"{where} is {raw}; expected a name, an accuracy in (0, 1) and a source")
    return Reading(**raw)


def measure(entry: Entry, sources: run.Sources, runner: Runner) -> dict[str, Any]:
    """Trains the entry's students: by arm, the test accuracy of each seed (S,), mean over the file's runs."""
    import jax

    real = sources.real(entry.real, entry.zca)
    result = ddr.label_robust_score(
        sources.distilled(entry),
        real,
        entry.training(real.flips),
        key=jax.random.key(run.KEY),
        runner=runner,
        seeds=entry.seeds,
        real_accuracy=entry.real_hard[0].accuracy,
    )
    arms = {name: result.readings[name].accuracy for name in ("syn-hard", "syn-any", "rdm-any")}
    values = {name: np.mean(each, axis=0).tolist() for name, each in arms.items()}
    return {"values": values, "runs": len(arms["syn-any"]), "diverged": result.diverged}


@dataclass(frozen=True)
class Score:
    """One of an entry's scores: its name, our values by seed (S,), and the leaderboard's."""

    name: str
    ours: np.ndarray
    theirs: float


def scores(entry: Entry, record: dict[str, Any]) -> list[Score]:
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


def table(entries: tuple[Entry, ...], records: run.Records) -> str:
    """The table as Markdown: a row per score, then where the real-hard accuracies were read, and notes."""
    text = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    for entry in entries:
        text += ["| " + " | ".join(row) + " |" for row in _rows(entry, records.get(entry.name))]
    text += [
        "",
        f"{len(records)} of {len(entries)} lines measured. Real-hard accuracies, known and not trained here:",
        "",
    ]
    known = {(each.name, each.accuracy, each.source) for entry in entries for each in entry.real_hard}
    text += [f"- **{name}**, {100 * accuracy:.1f} %: {source}" for name, accuracy, source in sorted(known)]
    return "\n".join([*text, *(f"- **{entry.name}**: {entry.note}" for entry in entries if entry.note)]) + "\n"


def _rows(entry: Entry, record: dict[str, Any] | None) -> list[list[str]]:
    if record is None:
        theirs = f"{100 * entry.hlr:.2f} / {100 * entry.ior:.2f}"
        return [[entry.name, "HLR / IOR", run.unmeasured(entry), "", theirs, *[""] * 4]]
    rows = []
    for score in scores(entry, record):
        mean = run.summarise(score.ours)
        c = run.compare(mean, run.Published(score.theirs))
        n = f"{mean.n} × {record['runs']} sets" if record["runs"] > 1 else str(mean.n)
        rows.append([entry.name, score.name, run.span(mean), n, f"{100 * score.theirs:.2f}"])
        rows[-1] += [f"{100 * c.difference:+.2f}", "yes" if c.agrees else "**no**"]
        rows[-1] += [record["device"], f"{record['seconds'] / 60:.1f}"]
    return rows


def summary(entry: Entry, record: dict[str, Any]) -> str:
    """An entry's scores for the terminal."""
    each = (f"{s.name} {100 * s.ours.mean():.2f}, leaderboard {100 * s.theirs:.2f}" for s in scores(entry, record))
    return "; ".join(each)


def leaderboard() -> run.Kind:
    """The kind of list that this script is about."""
    read = functools.partial(run.read_list, make=read_entry)
    return run.Kind(__doc__ or "", run.HERE / "leaderboard.toml", read, measure, table, summary, BEGIN)


if __name__ == "__main__":
    sys.exit(run.main(kind=leaderboard()))
