"""Arms to populations to tables: every student is trained once, beside all others of its program."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddr_jax.protocols.protocol import Protocol
from ddr_jax.train import devices
from ddr_jax.train.devices import Execution, default_execution
from ddr_jax.train.feed import everywhere
from ddr_jax.train.population import train_population
from ddr_jax.train.store import Store, environment, identity, key_facts
from ddr_jax.train.student import HELD_OUT_MULTIPLE, HeldOut, Program, Student, TrainingData
from ddr_jax.train.teachers import Teachers
from ddr_jax.types import ArmTable, RealData, Split, fingerprint


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """One set that students train on: images (N, H, W, K) float32, targets float32 as in `student.TrainingData`."""

    name: str
    images: np.ndarray
    targets: np.ndarray

    @functools.cached_property
    def digests(self) -> tuple[str, str]:
        """Fingerprints of the images and of the targets."""
        return fingerprint(self.images), fingerprint(self.targets)


@dataclass(frozen=True, eq=False)
class Arm:
    """One arm of a score: its protocol, and what each student trains on.

    `sets[d][s]` is what seed s of set d trains on: the same for every seed of a distilled set, a fresh draw
    for every seed of the random baseline. `augmented` switches the protocol's augmentation on. An arm without
    augmentation has it in its program, switched off, and so shares one compilation with an arm that uses it.
    `keep` asks for the students' final weights.
    """

    name: str
    protocol: Protocol
    sets: tuple[tuple[TrainingSet, ...], ...]
    augmented: bool = False
    teachers: Teachers | None = None
    keep: bool = False


OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Runner:
    """How students are run.

    Attributes:
        store: where finished students are looked up and kept; None keeps nothing.
        execution: how a population uses the devices; None takes `devices.default_execution`.
        on_progress: called with what is trained (arms, number of students, epochs), the images trained on since the
            last call (negative where students are begun anew), and how many there will be in all.
    """

    store: Store | None = None
    execution: Execution | None = None
    on_progress: OnProgress | None = None


class Finished(NamedTuple):
    """What training some arms gave: a table per arm, the weights that were asked for, and what it took.

    `chunk` is how many students a device trained at once at most, 0 if none; `peak_memory` as in `devices.peak_memory`.
    """

    tables: dict[str, ArmTable]
    weights: dict[str, Any]  # by student identity
    trained: int
    reused: int
    programs: frozenset[Program]
    chunk: int
    peak_memory: int | None


@dataclass(frozen=True, eq=False)
class _Job:
    """One student: where it stands in its arm, what it shares with others, and its own numbers.

    `row` both trains the student and identifies it.
    """

    arm: Arm
    place: tuple[int, int, int]  # set, rate, seed
    program: Program
    shared: dict[str, Any]
    row: dict[str, float | bool]

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that determines the student."""
        return self.shared | {"row": self.row, "seed": self.place[2], "set": self.data.digests}

    @functools.cached_property
    def student(self) -> str:
        """The student's identity."""
        return identity(self.facts)

    @property
    def data(self) -> TrainingSet:
        """What it trains on."""
        return self.arm.sets[self.place[0]][self.place[2]]


def train_arms(arms: Sequence[Arm], real: RealData, *, key: jax.Array, runner: Runner) -> Finished:
    """Trains every student of the arms that is not in the store, and tabulates them.

    A student's randomness is that of `fold_in(key, seed)`: arms, sets and rates are compared on the same
    initial weights, and no student depends on which others are trained. Students are tested on `real.test`,
    and on `real.validation` where there is one.
    """
    execution = runner.execution or default_execution()
    tests, splits = _held_out(real)
    facts = {
        "space": real.space.digest,
        "tests": [fingerprint(split.images, split.labels) for split in _splits(real).values()],
        "key": key_facts(key),
        "environment": environment(execution.arithmetic, execution.precision),
    }
    jobs = [job for arm in arms for job in _jobs(arm, real, facts)]
    wanted = {job.student: job for job in jobs}
    kept = {job.student for job in jobs if job.arm.keep}
    records, weights = _recall(wanted, kept, runner.store)
    missing = [job for name, job in wanted.items() if name not in records]
    tests = everywhere(tests, execution) if missing else tests
    chunks: list[int] = []
    for group in _groups(missing):
        trained = _train_group(group, key, real, tests, splits, execution, runner, bool(kept), chunks)
        for name, record, variables in trained:
            records[name] = record
            if name in kept:
                weights[name] = variables
    return Finished(
        tables={arm.name: _table(arm, [j for j in jobs if j.arm is arm], records) for arm in arms},
        weights=weights,
        trained=len(missing),
        reused=len(wanted) - len(missing),
        programs=frozenset(job.program for job in jobs),
        chunk=max(chunks, default=0),
        peak_memory=devices.peak_memory(),
    )


def _jobs(arm: Arm, real: RealData, facts: dict[str, Any]) -> list[_Job]:
    protocol = arm.protocol
    teacher = arm.teachers if protocol.labels == "teacher" else None
    program = Program.of(protocol, real.num_classes, teacher and teacher.net)
    common = facts | {
        "program": program.facts(real.image_shape),
        "test_epochs": protocol.test_epochs,
        "teachers": teacher and teacher.digest,
    }
    sets, seeds = len(arm.sets), len(arm.sets[0])
    return [
        _Job(arm, (d, r, s), program, common, protocol.row(protocol.lr[r], arm.augmented))
        for d, r, s in itertools.product(range(sets), range(len(protocol.lr)), range(seeds))
    ]


def _recall(
    wanted: dict[str, _Job], kept: set[str], store: Store | None
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The records, and the kept weights, of those students that are in the store with all that is needed."""
    records, weights = {}, {}
    for name in wanted if store else ():
        record = store.record(name)
        variables = store.weights(name) if name in kept else None
        if record is not None and (name not in kept or variables is not None):
            records[name] = record
        if variables is not None:
            weights[name] = variables
    return records, weights


def _groups(jobs: list[_Job]) -> list[list[_Job]]:
    """Jobs that one population can train: the same program, epochs to test after, shapes and teachers."""
    groups: dict[Any, list[_Job]] = {}
    for job in jobs:
        teacher = job.shared["teachers"]
        group = (job.program, job.arm.protocol.test_epochs, job.data.images.shape, teacher)
        groups.setdefault(group, []).append(job)
    return list(groups.values())


def _train_group(group, key, real, tests, splits, execution, runner, keep, chunks):
    """Trains one population, yielding identity, record and final weights of each student as it finishes.

    Appends to `chunks` how many students each device trained at once.
    """
    program, protocol = group[0].program, group[0].arm.protocol
    students, data = _population(group, key, real)
    arms, images = ", ".join(dict.fromkeys(job.arm.name for job in group)), data.images.shape[1]
    label = f"{arms}: {len(group):,} students × {program.static.epochs:,} epochs"

    def report(student_epochs: int) -> None:
        if runner.on_progress is not None:
            runner.on_progress(label, student_epochs * images, len(group) * program.static.epochs * images)

    report(0)
    outcomes = train_population(
        program,
        protocol.test_epochs,
        students,
        data,
        tests,
        execution=execution,
        keep=keep,
        on_progress=report,
    )
    for outcome in outcomes:
        chunks.append(outcome.chunk)
        for i, position in enumerate(outcome.students):
            record = {name: (outcome.hits[i, :, n] / size).tolist() for n, (name, size) in enumerate(splits.items())}
            record["diverged"] = bool(outcome.diverged[i])
            variables = jax.tree.map(lambda leaf: leaf[i], outcome.variables) if keep else None  # noqa: B023
            job = group[position]
            if runner.store:
                runner.store.put(job.student, job.facts, record, variables)
            yield job.student, record, variables


def _population(group: list[_Job], key: jax.Array, real: RealData) -> tuple[Student, TrainingData]:
    """The students of one population as arrays, and the distinct images and targets that they train on."""
    images = {job.data.digests[0]: job.data.images for job in group}
    targets = {job.data.digests[1]: job.data.targets for job in group}
    at_images, at_targets = ({digest: i for i, digest in enumerate(pool)} for pool in (images, targets))
    students = Student.of(
        [job.row for job in group],
        jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.array([job.place[2] for job in group])),
        [at_images[job.data.digests[0]] for job in group],
        [at_targets[job.data.digests[1]] for job in group],
    )
    teacher = group[0].arm.teachers.variables if group[0].program.teacher is not None else None
    stacked_images, stacked_targets = (np.stack(list(pool.values())) for pool in (images, targets))
    return students, TrainingData(stacked_images, stacked_targets, teacher, real.space.mean, real.space.std)


def _table(arm: Arm, jobs: list[_Job], records: dict[str, dict[str, Any]]) -> ArmTable:
    shape = (len(arm.sets), len(arm.protocol.lr), len(arm.sets[0]))
    found = [records[job.student] for job in jobs]

    def column(name: str) -> np.ndarray:
        return np.array([record[name] for record in found]).reshape(*shape, -1)

    return ArmTable(
        arm=arm.name,
        sets=tuple(row[0].name for row in arm.sets),
        lrs=arm.protocol.lr,
        test=column("test"),
        validation=column("validation") if "validation" in found[0] else None,
        diverged=column("diverged")[..., 0],
        students=np.array([job.student for job in jobs]).reshape(shape),
        augmented=arm.augmented,
    )


def _splits(real: RealData) -> dict[str, Split]:
    splits = {"validation": real.validation, "test": real.test}
    return {name: split for name, split in splits.items() if split is not None}


def _held_out(real: RealData) -> tuple[HeldOut, dict[str, int]]:
    """All images to test on as one padded array, and the size of each split."""
    splits = _splits(real)
    sizes = {name: len(split) for name, split in splits.items()}
    spare = -sum(sizes.values()) % HELD_OUT_MULTIPLE
    images = np.concatenate([split.images for split in splits.values()])
    labels = np.concatenate([split.labels for split in splits.values()])
    owner = np.repeat(np.arange(len(splits) + 1), [*sizes.values(), spare])
    tests = HeldOut(
        images=np.pad(images, [(0, spare)] + [(0, 0)] * (images.ndim - 1)),
        labels=np.pad(labels, (0, spare)),
        splits=owner == np.arange(len(splits))[:, None],
    )
    return tests, sizes
