"""Many students of one program: which run side by side, on which devices, and in what order.

Two ways to run a population, chosen per backend by what was measured (`default_execution`):

- ``serial``: each device trains one student at a time. The compiled program never sees the size of the
  population, so a student's result is the same bit for bit alone, among others and in any order.
- ``vmap``: each device trains `chunk` students at once; the last digits depend on the chunk.

Devices share the students axis of a mesh and exchange nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from ddr_jax import train
from ddr_jax.train import HeldOut, Program, State, Student, TrainingData
from ddr_jax.types import InputError, nearest

MODES = ("serial", "vmap")
VMAP_CHUNK = 25  # students per accelerator: five seeds at five rates
AXIS = "students"
REPORTS = 10  # times that a training says how far it is

OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class Execution:
    """How a population runs.

    Attributes:
        mode: one of `MODES`.
        chunk: students per device and call.
        devices: how many to use at most; None uses all local ones.
        test_batch: images per forward pass of a test.

    Raises:
        InputError: if the mode is unknown, a number is out of range, or serial students are to share a call.
    """

    mode: str
    chunk: int = 1
    devices: int | None = None
    test_batch: int = 256

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"Unknown execution mode {self.mode!r}: {nearest(self.mode, MODES)}")
        if self.chunk < 1 or (self.devices is not None and self.devices < 1):
            raise InputError(f"chunk is {self.chunk} and devices {self.devices}; expected 1 or more")
        if self.test_batch < 1 or train.HELD_OUT_MULTIPLE % self.test_batch:
            raise InputError(f"test_batch is {self.test_batch}; expected a divisor of {train.HELD_OUT_MULTIPLE}")
        if self.mode == "serial" and self.chunk != 1:
            raise InputError(
                f"chunk is {self.chunk}, but serial execution trains one student per device at a time: "
                "leave chunk at 1, or choose mode 'vmap'"
            )


def default_execution() -> Execution:
    """Serial with small test batches on CPUs, as experiments/step_time.md measured; vmapped elsewhere, not measured."""
    if jax.default_backend() == "cpu":
        return Execution("serial", test_batch=32)
    return Execution("vmap", VMAP_CHUNK)


def use_cpu_cores(cores: int) -> None:
    """Makes JAX see `cores` CPU devices, so that as many students train side by side.

    Raises:
        InputError: if JAX has already started its CPU device; call this before any JAX computation.
    """
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError as error:
        raise InputError(
            f"Cannot use {cores} CPU cores: JAX has started already; call use_cpu_cores before any computation"
        ) from error


class Outcome(NamedTuple):
    """What some students' training gave, on the host; A of P students, at positions `students` (A,).

    `hits` (A, E, splits) int32, images classified right after each of the program's test epochs;
    `diverged` (A,) bool; `variables` the final weights, leaves (A, …), or None unless asked for.
    """

    students: np.ndarray
    hits: np.ndarray
    diverged: np.ndarray
    variables: Any


def train_population(
    program: Program,
    test_epochs: tuple[int, ...],
    students: Student,
    data: TrainingData,
    tests: HeldOut,
    *,
    execution: Execution,
    keep: bool = False,
    on_progress: OnProgress = lambda epochs: None,
) -> Iterator[Outcome]:
    """Trains P students (leaves with leading axis P), yielding each group as soon as it is finished.

    Args:
        test_epochs: 1-based epochs after which students are tested, ascending, the last one the program's last.
        keep: whether to bring the final weights to the host.
        on_progress: called with the number of student-epochs done since the last call.
    """
    count = len(students.images)
    devices = tuple(jax.local_devices()[: execution.devices][:count])
    run = _compiled(program, execution.mode, execution.test_batch, devices)
    data, tests = run.everywhere(data), run.everywhere(tests)
    calls = -(-count // (len(devices) * execution.chunk))
    group = len(devices) * -(-count // (len(devices) * calls))
    for first in range(0, count, group):
        positions = np.arange(first, min(first + group, count))
        padded = np.resize(positions, group)
        part = run.split(jax.tree.map(lambda leaf: leaf[padded], students))  # noqa: B023
        state, hits, diverged = _train_group(run, program, test_epochs, part, data, tests, on_progress, len(positions))
        kept = jax.device_get(state.variables) if keep else None
        kept = jax.tree.map(lambda leaf: leaf[: len(positions)], kept)  # noqa: B023
        yield Outcome(positions, hits[: len(positions)], diverged[: len(positions)], kept)


def _train_group(run, program, test_epochs, students, data, tests, on_progress, real_count):
    state = run.start(students, data)
    hits, done = [], 0
    for stop in _stops(test_epochs, program.epochs):
        state = run.train(state, students, data, jnp.int32(done), jnp.int32(stop))
        if stop in test_epochs:
            hits.append(run.test(state, tests))
        jax.block_until_ready(state)
        on_progress((stop - done) * real_count)
        done = stop
    counts, diverged = zip(*jax.device_get(hits), strict=True)
    return state, np.stack(counts, 1), diverged[-1]


def _stops(test_epochs: tuple[int, ...], epochs: int) -> list[int]:
    """The epochs at which the host looks in: to test, and now and then to report."""
    reports = {round(epochs * i / REPORTS) for i in range(1, REPORTS + 1)} - {0}
    return sorted(reports | set(test_epochs))


@dataclass(frozen=True)
class _Run:
    """The compiled functions of one program on one row of devices."""

    start: Callable[..., State]
    train: Callable[..., State]
    test: Callable[..., Any]
    split: Callable[[Any], Any]
    everywhere: Callable[[Any], Any]


@functools.lru_cache(maxsize=64)
def _compiled(program: Program, mode: str, test_batch: int, devices: tuple[Any, ...]) -> _Run:
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))

    def spread(function, batched):
        """Maps the arguments marked as batched over students, and their first axis over devices."""
        specs = tuple(Spec(AXIS) if b else Spec() for b in batched)
        many = _one_by_one(function, batched) if mode == "serial" else _vmapped(function, batched)
        return jax.shard_map(many, mesh=mesh, in_specs=specs, out_specs=Spec(AXIS), check_vma=False)

    def start(students, data):
        return train.start(program, students, data)

    def train_epochs(state, students, data, first, last):
        return train.train_epochs(program, state, students, data, first, last)

    def test(state, tests):
        return train.test(program, state, tests, test_batch)

    def place(spec):
        return lambda tree: jax.device_put(tree, NamedSharding(mesh, spec))

    return _Run(
        start=jax.jit(spread(start, (True, False))),
        train=jax.jit(spread(train_epochs, (True, True, False, False, False)), donate_argnums=0),
        test=jax.jit(spread(test, (True, False))),
        split=place(Spec(AXIS)),
        everywhere=place(Spec()),
    )


def _vmapped(function, batched):
    return jax.vmap(function, in_axes=tuple(0 if b else None for b in batched))


def _one_by_one(function, batched):
    """The function of a single student, given and returning a students axis of length one."""

    def single(*arguments):
        lone = [jax.tree.map(lambda x: x[0], a) if b else a for a, b in zip(arguments, batched, strict=True)]
        return jax.tree.map(lambda x: x[None], function(*lone))

    return single
