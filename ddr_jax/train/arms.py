"""Arms to populations to tables: every student is trained once, beside all others of its program."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddr_jax.protocols.protocol import Protocol
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
    """What training some arms gave: a table per arm, and the weights that were asked for, by student identity.

    `trained` counts the students that were not in the store; `chunk` is how many a device trained at once, at most, 0
    if none.
    """

    tables: dict[str, ArmTable]
    weights: dict[str, Any]
    trained: int
    chunk: int


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
    facts = {
        "space": real.space.digest,
        "tests": [fingerprint(split.images, split.labels) for split in _splits(real).values()],
        "key": key_facts(key),
        "environment": environment(execution.arithmetic, execution.precision),
    }
    jobs = [job for arm in arms for job in _jobs(arm, real, facts)]
    wanted = {job.student: job for job in jobs}
    kept = {job.student for job in jobs if job.arm.keep}
    found = _recall(wanted, kept, runner.store)
    missing = [job for name, job in wanted.items() if name not in found]
    tests = everywhere(_held_out(real), execution) if missing else None
    chunks: list[int] = []
    for group in _groups(missing):
        trained = _train_group(group, key, real, tests, execution, runner, kept, chunks)
        found |= {name: (record, variables) for name, record, variables in trained}
    return Finished(
        tables={
            arm.name: _table(arm, [(j.student, found[j.student][0]) for j in jobs if j.arm is arm]) for arm in arms
        },
        weights={name: found[name][1] for name in kept},
        trained=len(missing),
        chunk=max(chunks, default=0),
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


def _recall(wanted: Iterable[str], kept: set[str], store: Store | None) -> dict[str, tuple[dict[str, Any], Any]]:
    """The record, and the weights if they are kept, of each student that is in the store with all that is needed."""
    found = {}
    for name in wanted if store else ():
        record, variables = store.record(name), store.weights(name) if name in kept else None
        if record is not None and (variables is not None or name not in kept):
            found[name] = record, variables
    return found


def _groups(jobs: list[_Job]) -> list[list[_Job]]:
    """Jobs that one population can train: the same program, epochs to test after, shapes and teachers."""
    groups: dict[Any, list[_Job]] = {}
    for job in jobs:
        teacher = job.shared["teachers"]
        group = (job.program, job.arm.protocol.test_epochs, job.data.images.shape, teacher)
        groups.setdefault(group, []).append(job)
    return list(groups.values())


def _train_group(group, key, real, tests, execution, runner, kept, chunks):
    """Trains one population, yielding identity, record and weights, if they are kept, of each student that finishes.

    Appends to `chunks` how many students each device trained at once.
    """
    program, epochs = group[0].program, group[0].program.static.epochs
    students, data = _population(group, key, real)
    arms, images = ", ".join(dict.fromkeys(job.arm.name for job in group)), data.images.shape[1]

    def report(student_epochs: int) -> None:
        if runner.on_progress is not None:
            label = f"{arms}: {len(group):,} students × {epochs:,} epochs"
            runner.on_progress(label, student_epochs * images, len(group) * epochs * images)

    report(0)
    how = {"execution": execution, "keep": bool(kept), "on_progress": report}
    for outcome in train_population(program, group[0].arm.protocol.test_epochs, students, data, tests, **how):
        chunks.append(outcome.chunk)
        for i, job in enumerate(group[position] for position in outcome.students):
            splits = enumerate(_splits(real).items())
            record = {name: (outcome.hits[i, :, n] / len(split)).tolist() for n, (name, split) in splits}
            record["diverged"] = bool(outcome.diverged[i])
            variables = jax.tree.map(lambda leaf: leaf[i], outcome.variables) if job.student in kept else None  # noqa: B023
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


def _table(arm: Arm, found: Sequence[tuple[str, dict[str, Any]]]) -> ArmTable:
    """The table of an arm, of its students' identities and records in the order of sets, rates and seeds."""
    shape = (len(arm.sets), len(arm.protocol.lr), len(arm.sets[0]))

    def column(name: str) -> np.ndarray:
        return np.array([record[name] for _, record in found]).reshape(*shape, -1)

    return ArmTable(
        arm=arm.name,
        sets=tuple(row[0].name for row in arm.sets),
        lrs=arm.protocol.lr,
        test=column("test"),
        validation=column("validation") if "validation" in found[0][1] else None,
        diverged=column("diverged")[..., 0],
        students=np.array([student for student, _ in found]).reshape(shape),
        augmented=arm.augmented,
    )


def _splits(real: RealData) -> dict[str, Split]:
    splits = {"validation": real.validation, "test": real.test}
    return {name: split for name, split in splits.items() if split is not None}


def _held_out(real: RealData) -> HeldOut:
    """All images to test on as one padded array."""
    splits = _splits(real).values()
    images, labels = (np.concatenate([getattr(split, part) for split in splits]) for part in ("images", "labels"))
    spare = -len(labels) % HELD_OUT_MULTIPLE
    owner = np.repeat(np.arange(len(splits) + 1), [*map(len, splits), spare])
    return HeldOut(
        images=np.pad(images, [(0, spare)] + [(0, 0)] * (images.ndim - 1)),
        labels=np.pad(labels, (0, spare)),
        splits=owner == np.arange(len(splits))[:, None],
    )
