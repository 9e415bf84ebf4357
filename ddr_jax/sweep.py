"""Many evaluations from one list, which any kill may interrupt: what is done is not done again.

A list is a TOML file:

    [protocol.short]          # fields of `Protocol` but the student; with a preset, those that override its own
    preset = "dsa"
    epochs = 300

    [defaults]                # what every line says that does not say otherwise
    real = "cifar10"

    [[line]]                  # an evaluation; its keys are the fields of `Line`
    name = "DM, 10 per class"
    set = "dm_ipc10.npz"
    protocol = "short"
    scores = ["lrs", "ars"]

`further = ["published"]` above them names keys of lines that other programs read. What was measured of a line is
OUT/lines/SLUG.json, and OUT/results/SLUG.json the whole result of a line that has a set; every student is in the
cache as soon as it is trained. So the same command goes on where it was stopped, and measures a line again only if it
asks for something else than before.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
import math
import os
import re
import sys
import time
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from rich.console import Console
from tyro.conf import Positional, arg

from ddr_jax.data import datasets, distilled
from ddr_jax.data.files import check_writable, write_atomically
from ddr_jax.nets import names
from ddr_jax.protocols import presets
from ddr_jax.protocols import protocol as protocols
from ddr_jax.protocols.augmentations import augmentation, unflipped
from ddr_jax.protocols.plain import COUNT, check, fields_from_plain, from_plain, to_plain
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.protocols.settings import Settings
from ddr_jax.results import render
from ddr_jax.scores.intervals import Interval, t_interval
from ddr_jax.types import DistilledSets, InputError, InputWarning, RealData, nearest

if TYPE_CHECKING:
    from ddr_jax.results.result import Result
    from ddr_jax.train.arms import Runner

MAX_CPU_DEVICES = 8  # each holds its own copy of the data

Record = dict[str, Any]
Records = dict[str, Record]  # what was measured, by the line's name
OnProgress = Callable[[str, int, int], None]
Bars = Callable[[], AbstractContextManager[OnProgress]]

_BESIDE = {
    "protocol": {"student"},
    "settings": {"scores", "protocol", "real_protocol", "seeds", "key"},
}  # what a table does not say


class OutOfTime(Exception):
    """The minutes that were given are over; finished students are in the cache."""


def cache_folder(machine: Any) -> Path:
    """Where a command keeps finished students, teachers and compiled programs."""
    return machine.cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddr_jax"


@dataclass(frozen=True)
class Machine:
    """Options of where students are trained, and where they are kept."""

    cache: Path | None = None
    """Where finished students and teachers are kept and found again. Default: in $XDG_CACHE_HOME or ~/.cache."""
    devices: int | None = None
    """Devices used at most. Default: all accelerators, or one per CPU core up to 8."""
    execution: Literal["auto", "serial", "vmap", "shared"] = "auto"
    """How students use the devices: one on each at a time (serial, auto's choice on CPUs), many on each (vmap, auto's
    on accelerators), or all devices on the batches of one (shared, for fewer students than devices)."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Of the networks' arithmetic: tf32 on GPUs, or bfloat16 with float32 weights and statistics."""


def start(machine: Machine, keep: bool = True) -> Runner:
    """Starts JAX, with programs from earlier starts, and one CPU device per core unless an accelerator is there."""
    from ddr_jax.train.arms import Runner
    from ddr_jax.train.devices import default_execution, use_compilation_cache, use_cpu_cores
    from ddr_jax.train.store import Store

    use_compilation_cache(cache_folder(machine) / "programs")
    use_cpu_cores(machine.devices or min(os.cpu_count() or 1, MAX_CPU_DEVICES))
    usual = default_execution()
    mode = usual.mode if machine.execution == "auto" else machine.execution
    execution = replace(usual, mode=mode, devices=machine.devices, precision=machine.precision)
    return Runner(Store(cache_folder(machine)) if keep else None, execution)


@dataclass(frozen=True, kw_only=True)
class Sweep(Machine):
    """Measure a list of evaluations; stop it at any time, and the same command goes on from there."""

    path: Annotated[Positional[Path], arg(metavar="LIST")]
    """The list, a .toml."""
    out: Path | None = None
    """Folder of what is measured. Default: results/LIST; at another precision than float32, its name follows."""
    data: Path | None = None
    """Folder in which the list's files are. Default: the list's own."""
    only: str | None = None
    """Lines whose name contains this, or matches it with * and ?; those that are out of reach too."""
    show: Annotated[bool, arg(name="list", aliases=["--dry-run"])] = False
    """Show what is done and what is due, and measure nothing."""
    max_minutes: float = math.inf
    """Stop after so many."""

    @property
    def folder(self) -> Path:
        """Where what is measured goes."""
        return self.out or Path("results") / self.stem

    @property
    def stem(self) -> str:
        """The list's name, and the precision where it is not float32."""
        return self.path.stem + ("" if self.precision == "float32" else f"-{self.precision}")

    @property
    def sources(self) -> Sources:
        """Where the list's files are."""
        return Sources(self.data or self.path.parent)

    def wants(self, line: Line) -> bool:
        """Whether a line is among those that this command is about."""
        name, only = line.name, self.only
        return only is None or only.lower() in name.lower() or fnmatch.fnmatch(name, only)


@dataclass(frozen=True)
class Sources:
    """Where a list's files are."""

    data: Path

    @functools.cache  # noqa: B019  one instance lives as long as the process
    def real(self, name: str, zca: Any) -> RealData:
        """Real data, read once: a dataset's name, or a path inside `data`."""
        return datasets.load_dataset(name if name in datasets.DATASETS else self.data / name, zca=zca)


@dataclass(frozen=True)
class Line:
    """One evaluation. Students train on a `set`, on `random` images per class, or on the `whole` train split."""

    name: str
    """Of which there is one in a list."""
    real: str
    """Real data: a dataset's name, or the path of an .npz or a folder."""
    protocol: dict[str, Any]
    """Of the students: fields of `Protocol`, over those of a `preset`; in a list, also the name of such a table. An
    augmentation that is a name, or a preset's, does without flips where they change a class."""
    student: str = "ConvNet-3"
    """Their network."""
    seeds: Annotated[int, COUNT] = 5
    """Students per arm, set and rate."""
    key: int = 0
    """Root of all randomness."""
    scores: tuple[str, ...] = ("accuracy",)
    """What is measured of a set."""
    real_protocol: dict[str, Any] = field(default_factory=dict)
    """Fields of the protocol of real-hard students, over the preset's and the default ones."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Further fields of `Settings`, such as weight and real_accuracy."""
    set: str | None = None
    """A file of distilled images, of one run or several."""
    random: Annotated[int | None, COUNT] = None
    """So many images per class, drawn anew for each seed."""
    whole: bool = False
    """All real training images."""
    zca: Literal["kornia", "kip"] | None = None
    """Whitens all images, as MTT (kornia) or KIP do."""
    space: Literal["pixels", "normalised", "zca"] | None = None
    """What the set's numbers are, where its file does not say."""
    layout: Literal["NHWC", "NCHW"] | None = None
    """The order of the axes of the set's images, where it cannot be told."""
    soft: Literal["logits", "probabilities"] | None = None
    """What the set's soft labels are, where its file does not say."""
    minutes: float | None = None
    """How long it takes, roughly: the shortest lines are measured first."""
    note: str = ""
    """Shown under the table."""
    out_of_reach: str = ""
    """Why it is not measured, unless it is named."""

    def __post_init__(self) -> None:
        check(self)
        if sum(map(bool, self.images())) != 1:
            raise InputError("say one of set = FILE, random = images per class, whole = true")
        for table, apart in _BESIDE.items():
            for name in apart & set(getattr(self, table)):
                raise InputError(f"{name} stands in {table}; expected it beside {table}")
        labels, real = self.asks(flips=True).protocol.labels, self.random or self.whole
        if real and (self.scores != ("accuracy",) or labels != "hard"):
            raise InputError(
                f"scores are {', '.join(self.scores)} and labels {labels}; expected the accuracy and hard labels where "
                "students train on real images"
            )

    def images(self) -> tuple[Any, ...]:
        """The keys of which one says what students train on."""
        return self.set, self.random, self.whole

    @property
    def slug(self) -> str:
        """The stem of the line's files."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def _preset(self) -> presets.Preset:
        name = self.protocol.get("preset")
        return presets.Preset("", "", "", {}, {}, {}) if name is None else presets.find(str(name))

    @property
    def augments(self) -> str:
        """The kind of the augmentation, if it follows the data: where it is a name, or a preset's; else nothing."""
        own, preset = self.protocol.get("augment"), self._preset.protocol.get("augment")
        return own if isinstance(own, str) else "" if own or preset is None else preset.kind

    def asks(self, flips: bool) -> Settings:
        """What is asked for, on images that may or may not be mirrored."""
        preset, own = self._preset, {name: value for name, value in self.protocol.items() if name != "preset"}
        named = own.pop("augment") if isinstance(own.get("augment"), str) else None
        own = fields_from_plain(Protocol, own, "protocol")
        augment = preset.protocol.get("augment") if named is None else augmentation(named, flips)
        usual: dict[str, Any] = {"student": self.student, "augment": augment if flips else unflipped(augment)}
        epochs = own.get("epochs", preset.protocol.get("epochs", Protocol.epochs))
        protocol = Protocol(**presets.for_epochs(preset.protocol, epochs) | usual | own)
        of_real = {**preset.real, **fields_from_plain(Protocol, self.real_protocol, "real_protocol")}
        real = replace(protocols.real(protocol, of_real.pop("epochs", protocols.REAL_EPOCHS)), **of_real)
        further: dict[str, Any] = {**preset.settings, **fields_from_plain(Settings, self.settings, "settings")}
        further |= {"seeds": self.seeds}
        return Settings(self.scores, protocol, real, **further)

    def asked(self, data: Path) -> dict[str, Any]:
        """All that the measurement depends on, as JSON gives it back; `data` is where the list's files are.

        Only what is not the default, so that a field that is gained later leaves what was measured as it is.
        """
        kept = ("real", "zca", "set", "random", "whole", "space", "layout", "soft", "seeds")
        settings = self.asks(flips=True)
        usual = Settings(("accuracy",), Protocol(), protocols.real(settings.protocol), seeds=self.seeds)
        facts: dict[str, Any] = {name: value for name in kept if (value := getattr(self, name))} | {"protocol": {}}
        facts |= _different(to_plain(settings), to_plain(usual)) | {"key": self.key}
        if self.augments:
            facts["augment"] = self.augments
        for name in ("set", "real"):
            path = data / (getattr(self, name) or ".")
            if path.is_file():
                facts[f"{name}_digest"] = _digest(path, path.stat().st_mtime_ns)
        return json.loads(json.dumps(facts))

    def check_files(self, data: Path) -> None:
        """Raises InputError unless the files that it names are in `data`."""
        if self.set is not None and not (data / self.set).exists():
            raise InputError(f"there is no {data / self.set}; set is a path inside {data}")

    def sets(self, real: RealData, sources: Sources, runner: Runner | None) -> DistilledSets:
        """What students train on, if it is a set; `runner` is there once students are to be trained."""
        assert self.set is not None
        said = {"space": self.space, "layout": self.layout, "soft": self.soft}
        return distilled.prepare(distilled.load_distilled(sources.data / self.set, **said), real)

    def check_data(self, sources: Sources) -> None:
        """Reads what the line needs before anything trains; raises InputError for what is missing or unfit."""
        real = sources.real(self.real, self.zca)
        names.check(self.student, real.image_shape)
        if self.random is not None:
            few = np.bincount(real.train.labels, minlength=real.num_classes).min()
            if self.random > few:
                raise InputError(f"random is {self.random}, but a class of {self.real} has {few} images")
        if self.set is not None:
            sets = self.sets(real, sources, None)
            if self.asks(real.flips).protocol.labels == "soft" and sets.soft_labels is None:
                raise InputError(f"labels are soft, but {self.set} holds no soft_labels")

    def kept(self, result: Result) -> Record:
        """What the line's record keeps of its result: by score, the value of each seed (S,), mean over the runs."""
        values = {name: each.mean(0).tolist() for name, each in result.values.items()}
        if self.scores != ("accuracy",):
            return {"values": values, "runs": list(result.data_names)}
        each = result.values["accuracy"].tolist()
        return {"values": values["accuracy"], "runs": dict(zip(result.data_names, each, strict=True))}

    def measure(self, sources: Sources, runner: Runner) -> tuple[Record, Result | None]:
        """Trains the line's students: what its record keeps, and the result where it trains on a set."""
        import jax

        from ddr_jax.evaluate import evaluate

        real, key = sources.real(self.real, self.zca), jax.random.key(self.key)
        settings = self.asks(real.flips)
        if self.random or self.whole:
            return _measure_real(self, settings.protocol, real, key, runner), None
        result = evaluate(self.sets(real, sources, runner), real, settings, key=key, runner=runner)
        return self.kept(result) | {"diverged": result.diverged}, result


Kind = TypeVar("Kind", bound=Line)
Given = TypeVar("Given")


def read(path: Path, data: Path, kind: type[Kind] = Line) -> tuple[Kind, ...]:
    """Every line of a list, checked as far as possible without real data; `data` is where its files are.

    `kind` may extend `Line` by further fields.

    Raises:
        InputError: for the first mistake, which names the file, the line and the key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name a list of lines (.toml)") from error
    except ValueError as error:
        raise InputError(f"{path}: not TOML: {error}") from error
    if not content.get("line"):
        raise InputError(f"{path}: has no lines; write at least one [[line]]")
    entries = _told(str(path), lambda: from_plain(_List, content, "the list"))
    lines = tuple(_line(raw, entries, data, kind, f"{path}: line {i}") for i, raw in enumerate(entries.line, 1))
    slugs = [line.slug for line in lines]
    for line in lines:
        if slugs.count(line.slug) > 1:
            raise InputError(f"{path}: the name {line.name!r} stands on two lines; give each its own")
    return lines


@dataclass(frozen=True)
class _List:
    line: tuple[dict[str, Any], ...]
    protocol: dict[str, dict[str, Any]] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    further: tuple[str, ...] = ()


def _line(raw: dict[str, Any], entries: _List, data: Path, kind: type[Kind], where: str) -> Kind:
    known = {each.name: each for each in fields(kind)}
    values = {
        key: value for key, value in (entries.defaults | raw).items() if key in known or key not in entries.further
    }
    where += f" ({raw['name']!r})" if isinstance(raw.get("name"), str) else ""

    def made() -> Kind:
        for key in ("protocol", "real_protocol"):
            if isinstance(values.get(key), str):
                values[key] = _named(values[key], entries.protocol)
        for name, each in known.items():
            if each.default is each.default_factory is MISSING and name not in values:
                raise InputError(f"has no {name}")
        line = from_plain(kind, values, "line")
        line.check_files(data)
        return line

    return _told(where, made)


def _told(where: str, work: Callable[[], Given]) -> Given:
    """What `work` gives; its mistakes say where they are."""
    try:
        return work()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _named(name: str, protocols: dict[str, Any]) -> Any:
    if name not in protocols:
        raise InputError(f"unknown protocol {name!r}: {nearest(name, protocols) or 'the list has none'}")
    return protocols[name]


def _different(values: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """What is not as usual, of protocols field by field."""
    return {
        name: _different(value, usual[name]) if name.endswith("protocol") else value
        for name, value in values.items()
        if value != usual.get(name)
    }


@functools.cache
def _digest(path: Path, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _measure_real(line: Line, protocol: Protocol, real: RealData, key: Any, runner: Runner) -> Record:
    """Accuracies (S,) of students of real images: all of them, or a draw of its own for each seed."""
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
        rngs = [np.random.default_rng([line.key, seed]) for seed in range(line.seeds)]
        sets = tuple(chosen(datasets.random_subset(real.train, counts, rng)) for rng in rngs)
    arm = Arm(line.name, protocol, (sets,), augmented=protocol.augment is not None)
    table = train_arms([arm], real, key=key, runner=runner).tables[line.name]
    values = read(table, protocol.readout).accuracy[0]
    return {"values": values.tolist(), "diverged": int(table.diverged.sum())}


# What is done and what is due


@dataclass(frozen=True)
class Plan:
    """The `lines` of a list, the `records` of those that are done, the lines that the command `chose`, those `due`."""

    lines: tuple[Any, ...]
    records: Records
    chosen: tuple[Any, ...]
    due: tuple[Any, ...]


def plan(sweep: Sweep, kind: type[Line] = Line) -> Plan:
    """What a command would do; raises InputError for mistakes in the list, or if it chooses nothing."""
    lines = read(sweep.path, sweep.sources.data, kind)
    chosen = tuple(line for line in lines if sweep.wants(line))
    if not chosen:
        raise InputError(f"no line's name matches {sweep.only!r}: {nearest(str(sweep.only), [x.name for x in lines])}")
    records = {line.name: record for line in lines if (record := _found(line, sweep))}
    due = [x for x in chosen if x.name not in records and (sweep.only or not x.out_of_reach)]
    return Plan(lines, records, chosen, tuple(sorted(due, key=lambda line: line.minutes or 0)))


def _asked(line: Line, sweep: Sweep) -> Record:
    precision = {} if sweep.precision == "float32" else {"precision": sweep.precision}
    return line.asked(sweep.sources.data) | precision


def _file(line: Line, sweep: Sweep) -> Path:
    return sweep.folder / "lines" / f"{line.slug}.json"


def _found(line: Line, sweep: Sweep) -> Record | None:
    """What was measured of a line, if it is finished and asked for the same."""
    record = _recorded(_file(line, sweep))
    return record if record and record["done"] and record["asked"] == _asked(line, sweep) else None


def _recorded(file: Path) -> Record | None:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.warn(f"{file} is unreadable ({error}); measuring that line anew", InputWarning, stacklevel=2)
        return None


# Doing it


def run(
    sweep: Sweep,
    kind: type[Line] = Line,
    table: Callable[[Plan], str] | None = None,
    bars: Bars = lambda: nullcontext(lambda arms, done, total: None),
) -> int:
    """Measures what is due, the shortest lines first, writes OUT/table.md after each of them, and shows the outcome.

    Args:
        kind: of the lines; one that extends `Line` may bring keys and ways to measure of its own.
        table: makes the text of table.md, before anything else and after each line; None takes `rows` and the notes.
        bars: shows the progress of a line while it is entered.

    Returns:
        0, or 3 where the minutes were over before all was done.

    Raises:
        InputError: for mistakes in the list or its data, before anything is trained.
    """
    found, table, late = plan(sweep, kind), table or _text, False
    text = table(found)
    if not sweep.show:
        check_writable(sweep.folder / "lines")
        for line in found.due:
            _told(f"line {line.name!r}", functools.partial(line.check_data, sweep.sources))
        write_atomically(sweep.folder / "table.md", text.encode())
        try:
            for line, record in _measured(sweep, found.due, bars):
                found.records[line.name] = record
                write_atomically(sweep.folder / "table.md", table(found).encode())
        except OutOfTime:
            late = True
    shown, console = render.table("", HEAD, rows(found, found.chosen)), Console()
    console.width = console.width if console.is_terminal else render.WIDTH
    console.print(shown)
    print(f"{len(found.records)} of {len(found.lines)} lines measured, in {sweep.folder}")
    if late:
        print(f"{sweep.max_minutes:g} minutes are over; the same command goes on from here", file=sys.stderr)
    return 3 if late else 0


def _measured(sweep: Sweep, due: Sequence[Line], bars: Bars) -> Iterator[tuple[Line, Record]]:
    """Measures one line after another; raises OutOfTime once the minutes are over."""
    if not due:
        return
    runner, stop = start(sweep), time.monotonic() + 60 * sweep.max_minutes
    for number, line in enumerate(due, 1):
        print(f"[{number}/{len(due)}] {line.name} ...", flush=True)
        with bars() as on_progress:
            record = _measure(line, sweep, runner, on_progress, stop)
        for score, each in intervals(record).items():
            print("   ", score, *render.cells(each)[:2], flush=True)
        yield line, record


def _measure(line: Line, sweep: Sweep, runner: Runner, forward: OnProgress, stop: float) -> Record:
    """Measures a line and writes its file, which until then keeps the time that it has taken."""
    file, wanted = _file(line, sweep), _asked(line, sweep)
    before, began = _recorded(file), time.perf_counter()
    spent = before["seconds"] if before and before["asked"] == wanted else 0.0

    def write(done: bool, found: Record) -> Record:
        seconds = round(spent + time.perf_counter() - began, 1)
        record = {"name": line.name, "asked": wanted, "done": done} | found | {"seconds": seconds} | _machine(runner)
        write_atomically(file, (json.dumps(record, indent=1) + "\n").encode())
        return record

    def on_progress(arms: str, done: int, total: int) -> None:
        write(False, {})
        forward(arms, done, total)
        if time.monotonic() > stop:
            raise OutOfTime

    found, result = line.measure(sweep.sources, replace(runner, on_progress=on_progress))
    if result is not None:
        result.save(sweep.folder / "results" / file.name)
    return write(True, found)


def _machine(runner: Runner) -> Record:
    import jax

    from ddr_jax.train import store

    execution, devices = runner.execution, jax.local_devices()
    assert execution is not None
    facts = store.environment(execution.arithmetic, execution.precision) | {"versions": store.versions()}
    return {"device": f"{len(devices)} × {devices[0].device_kind}", "environment": facts}


# The table

HEAD = ("line", "student", "score", "mean", "95% interval", "n", "device", "minutes")


def intervals(record: Record) -> dict[str, Interval]:
    """The interval of each score over a line's seeds; fractions."""
    if "kept" in record:  # of an old line whose students were not kept
        return {"accuracy": Interval(**{name: record["kept"][name] for name in ("mean", "low", "high", "n")})}
    values = record["values"] if isinstance(record["values"], dict) else {"accuracy": record["values"]}
    return {score: t_interval(each) for score, each in values.items()}


def count(record: Record) -> str:
    """How many students a mean is of: seeds, and sets where a file holds several."""
    n, runs = next(iter(intervals(record).values())).n, record.get("runs", 1)
    runs = runs if isinstance(runs, int) else len(runs)
    return f"{n} × {runs} sets" if runs > 1 else str(n)


def rows(found: Plan, lines: Sequence[Line]) -> Iterator[tuple[str, ...]]:
    """Of each line, a row per score under `HEAD`, or one that says why there is none."""
    for line in lines:
        record = found.records.get(line.name)
        if record is None:
            yield line.name, line.student, "out of reach" if line.out_of_reach else "not measured", *[""] * 5
            continue
        lost = f"; {record['diverged']} diverged" if record["diverged"] else ""
        for score, each in intervals(record).items():
            mean, span, _ = render.cells(each)
            of_line = count(record) + lost, record["device"], f"{record['seconds'] / 60:.1f}"
            yield line.name, line.student, score, mean, span, *of_line


def markdown(head: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A table as Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *cells))


def notes(lines: Sequence[Line]) -> str:
    """The lines' notes as a list in Markdown."""
    return "".join(f"- **{line.name}**: {line.note}\n" for line in lines if line.note)


def _text(found: Plan) -> str:
    why = (f"- **{line.name}** is out of reach: {line.out_of_reach}\n" for line in found.lines if line.out_of_reach)
    return f"{markdown(HEAD, rows(found, found.lines))}\n{notes(found.lines)}{''.join(why)}"
