"""Measures a list of known accuracies again and sets ours beside the published ones.

    python experiments/known/run.py [LIST.toml] [--data FOLDER] [--only PATTERN] [--cost cheap] [--max-minutes 30]

The list, `known.toml` by default, explains its own form. Every line of it that is measured becomes a file under
OUT/lines, and OUT/table.md is made of them. What is done is not done again, nor is a student that is in the store:
stop the command at any time and start it anew. A line is measured again if it asks for something else than before,
or if its file is deleted. The files of the project's own lists are part of the repository: name another --out to
measure all of them yourself.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import time
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import ddr_jax as ddr
from ddr_jax.data import datasets, distilled
from ddr_jax.data.files import check_writable, write_atomically
from ddr_jax.nets import names
from ddr_jax.protocols import presets
from ddr_jax.protocols.augmentations import augmentation
from ddr_jax.protocols.protocol import Protocol, augmentation_from_dict, to_dict
from ddr_jax.scores.intervals import t_interval
from ddr_jax.types import InputError, InputWarning, RealData, nearest

if TYPE_CHECKING:
    from ddr_jax.train.arms import Runner

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[2] / "shared" / "data"
COSTS = ("cheap", "long", "gpu")
ONE_POINT = 0.01
KEY = 0
BEGIN, END = "<!-- table: made by run.py -->", "<!-- end of table -->"

Records = dict[str, dict[str, Any]]  # what was measured, by the line's name


class OutOfTime(Exception):
    """The minutes that were given are over; finished students are in the store."""


@dataclass(frozen=True)
class Published:
    """An accuracy as somebody published it: fractions, and the standard error of the mean (0 if unknown).

    Where the number of their students is known and their spread is not, ours stands in for it.
    """

    mean: float
    spread: float | None = None
    n: int | None = None
    error: float = 0.0


@dataclass(frozen=True)
class Mean:
    """The mean of n accuracies, the ends of its 95 % interval and their deviation, None for a single one; fractions."""

    mean: float
    low: float | None
    high: float | None
    n: int
    deviation: float | None


@dataclass(frozen=True)
class Line:
    """One line of the list. What students train on is a `set`, `random` images per class, or the `whole` train set."""

    name: str
    real: str
    protocol: dict[str, Any]
    seeds: int
    student: str
    source: str
    cost: str = "long"
    set: str | None = None
    random: int | None = None
    whole: bool = False
    zca: str | None = None
    space: str | None = None
    layout: str | None = None
    soft: str | None = None
    published: Published | None = None
    minutes: float | None = None
    note: str = ""
    out_of_reach: str = ""

    @property
    def slug(self) -> str:
        """The stem of the line's file."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def training(self, flips: bool) -> Protocol:
        """How its students are trained, on images that may or may not be mirrored."""
        values = dict(self.protocol)
        augment = values.pop("augment", "none")
        chosen = augmentation(augment, flips) if isinstance(augment, str) else augmentation_from_dict(augment)
        return Protocol(student=self.student, augment=chosen, **values)


@dataclass(frozen=True)
class Comparison:
    """Ours minus a published accuracy, a fraction; `z` is the same in standard errors, None if unknown."""

    difference: float
    z: float | None
    agrees: bool


def summarise(values: np.ndarray) -> Mean:
    """The mean of accuracies (S,)."""
    found = t_interval(values)
    low, high = (None if end is None else float(end) for end in (found.low, found.high))
    return Mean(float(found.mean), low, high, found.n, float(np.std(values, ddof=1)) if found.n > 1 else None)


def compare(ours: Mean, published: Published) -> Comparison:
    """Ours against a published accuracy: they agree within two standard errors of both or one point."""
    difference, z = ours.mean - published.mean, None
    if ours.deviation is not None:
        borrowed = published.n is not None and published.spread is None
        theirs = ours.deviation / math.sqrt(published.n) if borrowed else published.error
        error = math.hypot(ours.deviation / math.sqrt(ours.n), theirs)
        z = difference / error if error > 0 else None
    return Comparison(difference, z, abs(difference) <= ONE_POINT + 1e-9 or (z is not None and abs(z) <= 2))


@dataclass(frozen=True)
class Kind:
    """What one kind of list does in its own way; known accuracies are one, `leaderboard.py` has another.

    `summary` is a line's result for the terminal; `begin` marks where the table goes in a README.
    """

    about: str
    list: Path
    read: Callable[[Path, Path], tuple[Line, ...]]
    measure: Callable[[Any, Sources, Runner], dict[str, Any]]
    table: Callable[[tuple[Any, ...], Records], str]
    summary: Callable[[Any, dict[str, Any]], str]
    begin: str


# The list


def read_list(path: Path, data: Path, make: Callable[..., Line] | None = None) -> tuple[Line, ...]:
    """Every line of a list, checked as far as possible without real data; `data` is where its files are.

    `make` turns a line's table into a line, `read_line` by default.

    Raises:
        InputError: for the first mistake in any line.
    """
    make = make or read_line
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name a list of lines (.toml)") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    check_keys(content, ("protocol", "line"), str(path))
    protocols, raws = content.get("protocol", {}), content.get("line", [])
    if not isinstance(raws, list) or not raws:
        raise InputError(f"{path}: has no lines; write at least one [[line]]")
    lines = tuple(make(raw, protocols, data, f"{path}: line {i}") for i, raw in enumerate(raws, 1))
    slugs = [line.slug for line in lines]
    for line, slug in zip(lines, slugs, strict=True):
        if slugs.count(slug) > 1:
            raise InputError(f"{path}: the name {line.name!r} stands on two lines; give each its own")
    return lines


_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "real", "student", "source", "cost", "set", "zca", "space", "layout", "soft"), (str,)),
    **dict.fromkeys(("note", "out_of_reach"), (str,)),
    **dict.fromkeys(("seeds", "random", "n"), (int,)),
    **dict.fromkeys(("spread", "minutes"), (int, float)),
    "whole": (bool,),
    "protocol": (str, dict),
    "published": (str, int, float),
}
LINE_KEYS = tuple(_TYPES)


def read_line(raw: dict[str, Any], protocols: dict[str, Any], data: Path, where: str) -> Line:
    """One line of a list, checked."""
    if isinstance(raw.get("name"), str):
        where = f"{where} ({raw['name']!r})"
    check_keys(raw, LINE_KEYS, where)
    for key, value in raw.items():
        if not isinstance(value, _TYPES[key]) or (isinstance(value, bool) and bool not in _TYPES[key]):
            raise InputError(f"{where}: {key} is {value!r}; expected {' or '.join(t.__name__ for t in _TYPES[key])}")
    values = {"student": "ConvNet-3", "seeds": 5, "source": ""} | raw
    for key in ("name", "real", "protocol"):
        if key not in values:
            raise InputError(f"{where}: has no {key}")
    if sum((key in raw) and raw[key] is not False for key in ("set", "random", "whole")) != 1:
        raise InputError(f"{where}: say one of set = FILE, random = images per class, whole = true")
    for key in ("seeds", "random", "n"):
        if values.get(key, 1) < 1:
            raise InputError(f"{where}: {key} is {values[key]}; expected 1 or more")
    if values.get("cost", "long") not in COSTS:
        raise InputError(f"{where}: unknown cost {values['cost']!r}: {nearest(values['cost'], COSTS)}")
    values["protocol"] = _protocol(values["protocol"], protocols, where)
    if "set" in values and not (data / values["set"]).exists():
        raise InputError(f"{where}: there is no {data / values['set']}; set is a path inside --data")
    values["published"] = _published(values, data, where)
    line = Line(**{field.name: values[field.name] for field in fields(Line) if field.name in values})
    _check_training(line, where)
    return line


def check_keys(raw: dict[str, Any], valid: tuple[str, ...], where: str) -> None:
    """Raises InputError for a key that is not valid."""
    for key in raw:
        if key not in valid:
            raise InputError(f"{where}: unknown key {key!r}: {nearest(key, valid)}")


def _protocol(asked: str | dict[str, Any], protocols: dict[str, Any], where: str) -> dict[str, Any]:
    if isinstance(asked, str) and asked not in protocols:
        raise InputError(f"{where}: unknown protocol {asked!r}: {nearest(asked, protocols) or 'the list has none'}")
    chosen = protocols[asked] if isinstance(asked, str) else asked
    if not isinstance(chosen, dict):
        raise InputError(f"{where}: the protocol {asked!r} is {chosen!r}; expected a table of its fields")
    valid = tuple(field.name for field in fields(Protocol) if field.name != "student")
    check_keys(chosen, ("preset", *valid), f"{where}: protocol")
    return _of_preset(chosen, where)


def _of_preset(chosen: dict[str, Any], where: str) -> dict[str, Any]:
    """The fields of a protocol, those of a preset that it names among them."""
    own = {name: value for name, value in chosen.items() if name != "preset"}
    if "preset" not in chosen:
        return own
    try:
        named = presets.find(str(chosen["preset"])).protocol
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    plain = to_dict(Protocol(**named))
    return {name: plain[name] for name in named if plain[name] is not None} | own


def _published(values: dict[str, Any], data: Path, where: str) -> Published | None:
    published = values.get("published")
    if isinstance(published, str):
        if "set" not in values or "n" in values or "spread" in values:
            raise InputError(f"{where}: published = {published!r} is read from the set, with its spread and its n")
        return stored(data / values["set"], published, where)
    if ("spread" in values and "n" not in values) or (published is None and "n" in values):
        raise InputError(f"{where}: published, spread and n belong together; spread, or it and n, may be left out")
    if published is None:
        return None
    spread, n = values.get("spread"), values.get("n")
    for key, value in (("published", published), ("spread", spread)):
        if value is not None and not 0 <= value <= 1:
            raise InputError(f"{where}: {key} is {value}; expected a fraction in [0, 1]: divide percentages by 100")
    return Published(published, spread, n, 0.0 if n is None or spread is None else spread / math.sqrt(n))


def stored(path: Path, entry: str, where: str) -> Published:
    """The accuracies that authors stored in an `.npz` with a set, under a key such as `acc_ConvNet`.

    Where a file holds several runs, and as many accuracies for each, run by run, the standard error is that of the
    mean over just these runs, which are ours too; the spread is that of all accuracies.
    """
    if path.suffix != ".npz":
        raise InputError(f"{where}: published = {entry!r} is read from .npz files, but the set is {path.name}")
    with np.load(path, allow_pickle=False) as content:
        if entry not in content:
            known = [key for key in content if key.startswith("acc")]
            raise InputError(f"{where}: {path.name} holds no {entry!r}: {nearest(entry, known) or 'nor any acc_...'}")
        values = np.asarray(content[entry], np.float64).ravel()
        images = content["images"]
    runs = len(images) if images.ndim == 5 else 1
    if not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"{where}: {entry} of {path.name} must hold fractions in [0, 1]")
    if len(values) == 1:
        return Published(float(values[0]))
    each = values.reshape(runs, -1) if len(values) % runs == 0 and len(values) > runs else values[None]
    error = math.sqrt((each.var(1, ddof=1) / each.shape[1]).sum()) / len(each)
    return Published(float(values.mean()), float(values.std(ddof=1)), len(values), error)


def _check_training(line: Line, where: str) -> None:
    try:
        labels = line.training(flips=True).labels
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except TypeError as error:
        raise InputError(f"{where}: a field of the protocol has the wrong type: {error}") from error
    if labels == "teacher" or (labels == "soft" and line.set is None):
        raise InputError(f"{where}: labels are {labels}; expected hard ones, or soft ones that are stored with a set")


# Data


@dataclass(frozen=True)
class Sources:
    """Where the list's files are (`data`), and where real data is unpacked to (`work`)."""

    data: Path
    work: Path

    @functools.cache  # noqa: B019  one instance lives as long as the process
    def real(self, name: str, zca: str | None) -> RealData:
        """Real data: a path inside `data`, a folder there that its `unpack.py` unpacks, or a name of the package's."""
        options: dict[str, Any] = {} if zca is None else {"zca": zca}
        if (self.data / name).is_file():
            return ddr.load_dataset(self.data / name, **options)
        if (self.data / "unpack.py").is_file() and (self.data / name).is_dir():
            return ddr.load_dataset(self._unpacked(name), **options)
        return ddr.load_dataset(name, **options)

    def _unpacked(self, name: str) -> Path:
        target = self.work / f"{name}.npz"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(f".{os.getpid()}-{name}.npz")
            command = [sys.executable, str(self.data / "unpack.py"), name, str(draft)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise InputError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
            draft.replace(target)
        return target

    def distilled(self, line: Line) -> tuple[ddr.Distilled, ...]:
        """The set of a line, as it is stored."""
        assert line.set is not None
        return ddr.load_distilled(self.data / line.set, space=line.space, layout=line.layout, soft=line.soft)


def check_data(lines: list[Line], sources: Sources) -> None:
    """Reads all that the lines need before the first of them trains, so that a mistake does not cost hours.

    Raises:
        InputError: if real data or a set is missing or unfit, or a network does not fit the images.
    """
    for line in lines:
        try:
            real = sources.real(line.real, line.zca)
            names.check(line.student, real.image_shape)
            if line.random is not None:
                few = np.bincount(real.train.labels, minlength=real.num_classes).min()
                if line.random > few:
                    raise InputError(f"random is {line.random}, but a class of {line.real} has {few} images")
            if line.set is not None:
                sets = distilled.prepare(sources.distilled(line), real)
                if line.protocol.get("labels") == "soft" and sets.soft_labels is None:
                    raise InputError(f"labels are soft, but {line.set} holds no soft_labels")
        except InputError as error:
            raise InputError(f"line {line.name!r}: {error}") from error


def asked(line: Line, data: Path) -> dict[str, Any]:
    """All of a line that its measurement depends on, as JSON gives it back."""
    kept = ("real", "zca", "set", "random", "whole", "space", "layout", "soft", "seeds")
    plain, defaults = to_dict(line.training(True)), to_dict(Protocol())
    facts: dict[str, Any] = {name: value for name in kept if (value := getattr(line, name))} | {"key": KEY}
    # Only what is not the default, so that a field that protocols gain later leaves the measured lines as they are.
    facts["protocol"] = {name: value for name, value in plain.items() if value != defaults.get(name)}
    if isinstance(line.protocol.get("augment"), str):
        facts["augment"] = line.protocol["augment"]
    for name in ("set", "real"):
        path = data / (getattr(line, name) or ".")
        if path.is_file():
            facts[f"{name}_digest"] = _digest(path, path.stat().st_mtime_ns)
    return json.loads(json.dumps(facts))


@functools.cache
def _digest(path: Path, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


# Measuring


def measure(line: Line, sources: Sources, runner: Runner) -> dict[str, Any]:
    """Trains the students of a line: `values` (S,), the test accuracy of each seed, mean over the file's runs."""
    import jax

    key, real = jax.random.key(KEY), sources.real(line.real, line.zca)
    protocol = line.training(real.flips)
    if line.set is None:
        return _measure_real(line, protocol, real, key, runner)
    result = ddr.accuracy(sources.distilled(line), real, protocol, key=key, runner=runner, seeds=line.seeds)
    accuracies = result.readings["syn-any"].accuracy
    return {
        "values": accuracies.mean(0).tolist(),
        "runs": dict(zip(result.data_names, accuracies.tolist(), strict=True)),
        "diverged": result.diverged,
    }


def _measure_real(line: Line, protocol: Protocol, real: RealData, key: Any, runner: Runner) -> dict[str, Any]:
    """Students of real images: all of them, or a draw of its own for each seed."""
    from ddr_jax.scores.readout import read
    from ddr_jax.train.arms import Arm, TrainingSet, train_arms

    real = (datasets.with_validation if protocol.chooses_on_validation else datasets.without_validation)(real)

    def chosen(index: np.ndarray | slice) -> TrainingSet:
        targets = np.eye(real.num_classes, dtype=np.float32)[real.train.labels[index]]
        return TrainingSet(line.name, real.train.images[index], targets)

    if line.random is None:
        sets = (chosen(slice(None)),) * line.seeds
    else:
        counts = np.full(real.num_classes, line.random)
        rngs = [np.random.default_rng([KEY, seed]) for seed in range(line.seeds)]
        sets = tuple(chosen(datasets.random_subset(real.train, counts, rng)) for rng in rngs)
    arm = Arm(line.name, protocol, (sets,), augmented=protocol.augment is not None)
    table = train_arms([arm], real, key=key, runner=runner).tables[line.name]
    values = read(table, protocol.readout).accuracy[0]
    return {"values": values.tolist(), "diverged": int(table.diverged.sum())}


def run_line(kind: Kind, line: Line, sources: Sources, file: Path, runner: Runner) -> dict[str, Any]:
    """Measures a line and writes its file; if it is stopped, the file keeps the time that it has taken."""
    import jax

    from ddr_jax.train import store
    from ddr_jax.train.devices import default_execution

    wanted, before = asked(line, sources.data), _recorded(file)
    spent = before["seconds"] if before and before["asked"] == wanted else 0.0
    began = time.perf_counter()
    execution = runner.execution or default_execution()
    record = {"name": line.name, "asked": wanted, "done": False}
    try:
        record |= kind.measure(line, sources, runner)
        record["done"] = True
    finally:
        record["seconds"] = round(spent + time.perf_counter() - began, 1)
        record["device"] = f"{len(jax.local_devices())} × {jax.local_devices()[0].device_kind}"
        record["environment"] = store.environment(execution.arithmetic, execution.precision) | {
            "versions": store.versions()
        }
        write_atomically(file, (json.dumps(record, indent=1) + "\n").encode())
    return record


def _recorded(file: Path) -> dict[str, Any] | None:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.warn(f"{file} is unreadable ({error}); measuring that line anew", InputWarning, stacklevel=2)
        return None


def found(line: Line, out: Path, data: Path) -> dict[str, Any] | None:
    """What was measured of a line, if it is finished and asked for the same."""
    record = _recorded(out / "lines" / f"{line.slug}.json")
    if record is None or not record["done"] or record["asked"] != asked(line, data):
        return None
    return record


# The table

HEAD = (
    *("what", "student", "ours, % (95 %)", "n", "published, % (n)", "read in", "difference"),
    *("in standard errors", "agrees", "device", "minutes"),
)


def table(lines: tuple[Line, ...], records: Records) -> str:
    """The table as Markdown: a row per line, its notes under it, and how many agree."""
    rows = [_row(line, records.get(line.name)) for line in lines]
    text = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    text += ["| " + " | ".join(row) + " |" for row in rows]
    compared = [
        compare(ours(records[line.name]), line.published).agrees
        for line in lines
        if line.name in records and line.published
    ]
    text += ["", f"{len(records)} of {len(lines)} lines measured; {sum(map(bool, compared))} of the {len(compared)}"]
    text[-1] += " with a published value agree within two standard errors or one point."
    notes = [f"- **{line.name}**: {line.note}" for line in lines if line.note]
    return "\n".join([*text, *(["", *notes] if notes else [])]) + "\n"


def _row(line: Line, record: dict[str, Any] | None) -> list[str]:
    published = _shown(line.published)
    if record is None:
        return [line.name, line.student, unmeasured(line), "", published, line.source, *[""] * 5]
    mean = ours(record)
    lost = f"; {record['diverged']} diverged" if record["diverged"] else ""
    runs = len(record.get("runs", [None]))
    return [
        *(line.name, line.student, span(mean) + lost, f"{mean.n} × {runs} sets" if runs > 1 else str(mean.n)),
        *(published, line.source, *_compared(mean, line.published)),
        *(record["device"], f"{record['seconds'] / 60:.1f}"),
    ]


def unmeasured(line: Line) -> str:
    """Why there is no measurement of a line."""
    if line.out_of_reach:
        return f"out of reach: {line.out_of_reach}"
    return "not measured" + ("" if line.minutes is None else f": about {line.minutes:g} minutes on two cores")


def ours(record: dict[str, Any]) -> Mean:
    """What was measured of a line; of some old lines, only what their table said was kept."""
    return Mean(**record["kept"]) if "kept" in record else summarise(np.array(record["values"]))


def span(mean: Mean) -> str:
    """A mean and its interval in percent."""
    ends = "" if mean.low is None or mean.high is None else f" ({100 * mean.low:.2f} to {100 * mean.high:.2f})"
    return f"{100 * mean.mean:.2f}{ends}"


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


def _summary(line: Line, record: dict[str, Any]) -> str:
    row = _row(line, record)
    return f"{row[2]}, published {row[4]}, {row[7] or '–'} standard errors, {row[10]} min"


def write_table(text: str, out: Path, readme: Path | None, begin: str = BEGIN) -> None:
    """Writes OUT/table.md, and the same between the marks of a README where one is given."""
    write_atomically(out / "table.md", text.encode())
    if readme is None:
        return
    head, _, rest = readme.read_text().partition(begin)
    _, end, tail = rest.partition(END)
    if not end:
        raise InputError(f"{readme}: has no place for the table; write {begin} and {END} on lines of their own")
    write_atomically(readme, f"{head}{begin}\n{text}{END}{tail}".encode())


# The command


def known_accuracies() -> Kind:
    """The kind of list that this script is about."""
    return Kind(__doc__ or "", HERE / "known.toml", read_list, measure, table, _summary, BEGIN)


def main(arguments: list[str] | None = None, kind: Kind | None = None) -> int:
    """Runs the command; returns 0, 2 after a mistake, 3 where time ran out, 130 where it was interrupted."""
    warnings.showwarning = _show_warning
    kind = kind or known_accuracies()
    options = _parse(arguments, kind)
    try:
        return _run(kind, options)
    except InputError as error:
        print(f"known: error: {error}", file=sys.stderr)
        return 2
    except OutOfTime:
        print(f"known: {options.max_minutes:g} minutes are over; the same command goes on from here", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("known: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parse(arguments: list[str] | None, kind: Kind) -> argparse.Namespace:
    about, _, rest = kind.about.partition("\n")
    parser = argparse.ArgumentParser(
        "known", description=about, epilog=rest, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("list", nargs="?", type=Path, default=kind.list, help=f"the list; default: {kind.list.name}")
    parser.add_argument("--data", type=Path, default=SHARED, help=f"where the list's files are; default: {SHARED}")
    parser.add_argument("--out", type=Path, help="folder of results; default: measured/STEM beside this script")
    parser.add_argument("--work", type=Path, help="where real data is unpacked to; default: the cache")
    parser.add_argument("--cache", type=Path, default=_cache(), help="where finished students are kept")
    parser.add_argument(
        "--only", help="lines whose name contains this, or matches it with * and ?; those out of reach too"
    )
    parser.add_argument("--cost", choices=COSTS, help="lines of this cost; default: all, gpu where there is one")
    parser.add_argument("--max-minutes", type=float, default=math.inf, help="stop after so many")
    parser.add_argument("--readme", type=Path, help=f"also put the table there, after {kind.begin}")
    parser.add_argument("--devices", type=int, help="CPU devices; default: one per core, up to 8")
    parser.add_argument(
        "--list", dest="show", action="store_true", help="show what is done, --readme its table; no training"
    )
    return parser.parse_args(arguments)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddr_jax"


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if issubclass(category, InputWarning):
        print(f"known: warning: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), file=sys.stderr, end="")


def _run(kind: Kind, options: argparse.Namespace) -> int:
    out = options.out or HERE / "measured" / options.list.stem
    lines = kind.read(options.list, options.data)
    chosen = [line for line in lines if _matches(line, options.only)]
    if not chosen:
        raise InputError(
            f"no line's name matches {options.only!r}: {nearest(options.only, [line.name for line in lines])}"
        )
    records = {line.name: record for line in lines if (record := found(line, out, options.data))}
    if options.show:
        _show(chosen, records)
        if options.readme:
            write_table(kind.table(lines, records), out, options.readme, kind.begin)
        return 0
    check_writable(out / "lines")
    due = _due(chosen, records, options)
    write_table(
        kind.table(lines, records), out, options.readme, kind.begin
    )  # a README without a place for it fails now
    if due:
        sources = Sources(options.data, options.work or options.cache / "real")
        check_data(due, sources)
        _run_lines(kind, due, lines, records, sources, out, options)
    print(f"{len(records)} of {len(lines)} lines measured; table: {out / 'table.md'}")
    return 0


def _matches(line: Line, pattern: str | None) -> bool:
    return pattern is None or pattern.lower() in line.name.lower() or fnmatch.fnmatch(line.name, pattern)


def _due(chosen: list[Line], records: dict[str, Any], options: argparse.Namespace) -> list[Line]:
    """The lines to measure, the cheapest first: of those out of reach, the ones that --only names.

    Starts JAX, because lines for a GPU wait for one.
    """
    ddr.use_cpu_cores(options.devices or min(os.cpu_count() or 1, 8))
    import jax

    costs = (options.cost,) if options.cost else COSTS if jax.default_backend() != "cpu" else COSTS[:2]
    due = [
        line
        for line in chosen
        if line.cost in costs and line.name not in records and (options.only or not line.out_of_reach)
    ]
    return sorted(due, key=lambda line: COSTS.index(line.cost))


def _run_lines(kind: Kind, due, lines, records, sources: Sources, out: Path, options: argparse.Namespace) -> None:
    from ddr_jax.train.arms import Runner

    stop = time.monotonic() + 60 * options.max_minutes

    def on_progress(arms: str, done: int, total: int) -> None:
        if time.monotonic() > stop:
            raise OutOfTime

    runner = Runner(ddr.Store(options.cache), None, on_progress)
    for number, line in enumerate(due, 1):
        print(f"[{number}/{len(due)}] {line.name} ...", flush=True)
        records[line.name] = run_line(kind, line, sources, out / "lines" / f"{line.slug}.json", runner)
        print(f"    {kind.summary(line, records[line.name])}", flush=True)
        write_table(kind.table(lines, records), out, options.readme, kind.begin)


def _show(lines: list[Line], records: Records) -> None:
    for line in lines:
        state = "done" if line.name in records else "out of reach" if line.out_of_reach else "to do"
        minutes = "" if line.minutes is None else f"{line.minutes:g} min"
        print(f"{line.cost:6} {state:13} {minutes:>9}  {line.seeds:3} × {line.student:11} {line.name}")
    for cost in COSTS:
        of_cost = [line for line in lines if line.cost == cost]
        total = sum(line.minutes or 0 for line in of_cost)
        print(f"{cost}: {len(of_cost)} lines, about {total:g} minutes on two cores")


if __name__ == "__main__":
    sys.exit(main())
