"""Measures a list of known accuracies again and sets ours beside the published ones.

    python experiments/known/run.py [LIST.toml] [--data FOLDER] [--only PATTERN] [--cost cheap] [--max-minutes 30]

The list, `known.toml` by default, explains its own form; it is one of `ddr_jax.sweep`, whose options these are, and
which keeps what is measured. The files of the project's own lists are part of the repository: name another --out to
measure all of them yourself.
"""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro

import ddr_jax as ddr
from ddr_jax import sweep
from ddr_jax.cli import main as cli
from ddr_jax.data.files import write_atomically
from ddr_jax.scores.intervals import t_interval
from ddr_jax.types import InputError, RealData, nearest

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[2] / "shared" / "data"
ONE_POINT = 0.01
BEGIN, END = "<!-- table: made by run.py -->", "<!-- end of table -->"


class Published(NamedTuple):
    """An accuracy as somebody published it: fractions, and the standard error of the mean (0 if unknown).

    Where the number of their students is known and their spread is not, ours stands in for it.
    """

    mean: float
    spread: float | None = None
    n: int | None = None
    error: float = 0.0


class Mean(NamedTuple):
    """The mean of n accuracies, the ends of its 95 % interval and their deviation, None for a single one; fractions."""

    mean: float
    low: float | None
    high: float | None
    n: int
    deviation: float | None


class Comparison(NamedTuple):
    """Ours minus a published accuracy, a fraction; `z` is the same in standard errors, None if unknown."""

    difference: float
    z: float | None
    agrees: bool


def summarise(values: np.ndarray) -> Mean:
    """The mean of accuracies (S,)."""
    found = t_interval(values)
    deviation = float(np.std(values, ddof=1)) if found.n > 1 else None
    return Mean(**found.to_json(), deviation=deviation)


def compare(ours: Mean, published: Published) -> Comparison:
    """Ours against a published accuracy: they agree within two standard errors of both or one point."""
    difference, z = ours.mean - published.mean, None
    if ours.deviation is not None:
        borrowed = published.n is not None and published.spread is None
        theirs = ours.deviation / math.sqrt(published.n) if borrowed else published.error
        error = math.hypot(ours.deviation / math.sqrt(ours.n), theirs)
        z = difference / error if error > 0 else None
    return Comparison(difference, z, abs(difference) <= ONE_POINT + 1e-9 or (z is not None and abs(z) <= 2))


# The list


@dataclass(frozen=True)
class Line(sweep.Line):
    """A line of a sweep with what was published; `known.toml` explains the keys."""

    published: float | str | None = None
    n: int | None = None
    spread: float | None = None
    source: str = ""
    cost: Literal["cheap", "long", "gpu"] = "long"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.published, str):
            if self.set is None or self.n is not None or self.spread is not None:
                raise InputError(f"published = {self.published!r} is read from the set, with its spread and its n")
        elif (self.spread is not None and self.n is None) or (self.published is None and self.n is not None):
            raise InputError("published, spread and n belong together; spread, or it and n, may be left out")
        for key in ("published", "spread"):
            value = getattr(self, key)
            if isinstance(value, (int, float)) and not 0 <= value <= 1:
                raise InputError(f"{key} is {value}; expected a fraction in [0, 1]: divide percentages by 100")

    def check_files(self, data: Path) -> None:
        super().check_files(data)
        self.known(data)

    def known(self, data: Path) -> Published | None:
        """What was published; `data` is where the set is."""
        if isinstance(self.published, str):
            return stored(data / str(self.set), self.published)
        if self.published is None:
            return None
        whole = self.n is not None and self.spread is not None
        error = self.spread / math.sqrt(self.n) if whole else 0.0
        return Published(self.published, self.spread, self.n, error)


def stored(path: Path, entry: str) -> Published:
    """The accuracies that authors stored in an `.npz` with a set, under a key such as `acc_ConvNet`.

    Where a file holds several runs, and as many accuracies for each, run by run, the standard error is that of the
    mean over just these runs, which are ours too; the spread is that of all accuracies.
    """
    if path.suffix != ".npz":
        raise InputError(f"published = {entry!r} is read from .npz files, but the set is {path.name}")
    with np.load(path, allow_pickle=False) as content:
        if entry not in content:
            known = [key for key in content if key.startswith("acc")]
            raise InputError(f"{path.name} holds no {entry!r}: {nearest(entry, known) or 'nor any acc_...'}")
        values = np.asarray(content[entry], np.float64).ravel()
        images = content["images"]
    runs = len(images) if images.ndim == 5 else 1
    if not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"{entry} of {path.name} must hold fractions in [0, 1]")
    if len(values) == 1:
        return Published(float(values[0]))
    each = values.reshape(runs, -1) if len(values) % runs == 0 and len(values) > runs else values[None]
    error = math.sqrt((each.var(1, ddof=1) / each.shape[1]).sum()) / len(each)
    return Published(float(values.mean()), float(values.std(ddof=1)), len(values), error)


@dataclass(frozen=True)
class Sources(sweep.Sources):
    """Where the lists' files are, some of them folders that an `unpack.py` there unpacks into `work`."""

    work: Path

    @functools.cache  # noqa: B019  one instance lives as long as the process
    def real(self, name: str, zca: Any) -> RealData:
        script, target = self.data / "unpack.py", self.work / f"{name}.npz"
        if not script.is_file() or not (self.data / name).is_dir():
            return super().real(name, zca)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{os.getpid()}-{name}.npz")
            command = [sys.executable, str(script), name, str(draft)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise InputError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
            draft.replace(target)
        return ddr.load_dataset(target, zca=zca)


# The table

HEAD = (
    *("what", "student", "ours, % (95 %)", "n", "published, % (n)", "read in", "difference"),
    *("in standard errors", "agrees", "device", "minutes"),
)


def table(found: sweep.Plan, data: Path) -> str:
    """The table as Markdown: a row per line, how many agree, and the notes."""
    known = {line.name: line.known(data) for line in found.lines}
    rows = [_row(line, found.records.get(line.name), known[line.name]) for line in found.lines]
    agree = [compare(ours(record), known[name]).agrees for name, record in found.records.items() if known[name]]
    text = (
        f"{sweep.markdown(HEAD, rows)}\n{len(found.records)} of {len(rows)} lines measured; {sum(map(bool, agree))} of "
    )
    text += f"the {len(agree)} with a published value agree within two standard errors or one point.\n"
    return f"{text}\n{notes}" if (notes := sweep.notes(found.lines)) else text


def _row(line: Line, record: sweep.Record | None, published: Published | None) -> list[str]:
    if record is None:
        return [line.name, line.student, unmeasured(line), "", _shown(published), line.source, *[""] * 5]
    mean = ours(record)
    lost = f"; {record['diverged']} diverged" if record["diverged"] else ""
    return [
        *(line.name, line.student, span(mean) + lost, sweep.count(record)),
        *(_shown(published), line.source, *_compared(mean, published)),
        *(record["device"], f"{record['seconds'] / 60:.1f}"),
    ]


def span(found: Mean) -> str:
    """A mean and its interval in percent."""
    ends = "" if found.low is None else f" ({100 * found.low:.2f} to {100 * found.high:.2f})"
    return f"{100 * found.mean:.2f}{ends}"


def unmeasured(line: sweep.Line) -> str:
    """Why there is no measurement of a line."""
    if line.out_of_reach:
        return f"out of reach: {line.out_of_reach}"
    return "not measured" + ("" if line.minutes is None else f": about {line.minutes:g} minutes on two cores")


def ours(record: sweep.Record) -> Mean:
    """What was measured of a line; of some old lines, only what their table said was kept."""
    return Mean(**record["kept"]) if "kept" in record else summarise(np.array(record["values"]))


def _compared(mean: Mean, published: Published | None) -> tuple[str, str, str]:
    if published is None:
        return "", "", ""
    c = compare(mean, published)
    return f"{100 * c.difference:+.2f}", "" if c.z is None else f"{c.z:+.1f}", "yes" if c.agrees else "**no**"


def _shown(published: Published | None) -> str:
    if published is None:
        return "–"
    spread = "" if published.spread is None else f" ± {100 * published.spread:.2f}"
    return f"{100 * published.mean:.2f}{spread}" + ("" if published.n is None else f" ({published.n})")


def put(text: str, readme: Path, begin: str) -> None:
    """Puts a table between the marks of a README; raises InputError where it has none."""
    head, _, rest = readme.read_text().partition(begin)
    _, end, tail = rest.partition(END)
    if not end:
        raise InputError(f"{readme}: has no place for the table; write {begin} and {END} on lines of their own")
    write_atomically(readme, f"{head}{begin}\n{text}{END}{tail}".encode())


# The command


@dataclass(frozen=True)
class Options(sweep.Sweep):
    """Measure a list of known accuracies again; stop it at any time, and the same command goes on from there."""

    path: tyro.conf.Positional[Path] = HERE / "known.toml"
    """The list."""
    data: Path = SHARED
    """Where the list's files are."""
    cost: Literal["cheap", "long", "gpu"] | None = None
    """Lines of this cost alone."""
    readme: Path | None = None
    """Also put the table there, between its marks."""

    @property
    def folder(self) -> Path:
        return self.out or HERE / "measured" / self.stem

    @property
    def sources(self) -> Sources:
        return Sources(self.data, sweep.cache_folder(self) / "real")

    def wants(self, line: Line) -> bool:
        return super().wants(line) and self.cost in (None, line.cost)


def main(
    arguments: Sequence[str] | None = None,
    kind: type[Line] = Line,
    table: Callable[[sweep.Plan, Path], str] = table,
    begin: str = BEGIN,
    path: Path = HERE / "known.toml",
) -> int:
    """Runs the command; returns 0, 2 after a mistake, 3 where time ran out, 130 where it was interrupted."""
    options = tyro.cli(Options, prog="known", args=arguments, default=Options(path=path), config=cli.options.TYRO)

    def text(found: sweep.Plan) -> str:
        made = table(found, options.data)
        if options.readme:
            put(made, options.readme, begin)
        return made

    return cli.answer(lambda: sweep.run(options, kind, text), "known")


if __name__ == "__main__":
    sys.exit(main())
