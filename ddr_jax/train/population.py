"""Many students of one program: trained group after group, in the way that `devices.Execution` says."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as Spec

from ddr_jax.train import devices as memory
from ddr_jax.train import student as training
from ddr_jax.train.devices import AXIS, Execution, mesh_of
from ddr_jax.train.feed import Feed, feed_all_sets, feed_own_sets, place
from ddr_jax.train.student import HeldOut, Program, State, Student, TrainingData
from ddr_jax.types import InputError

VMAP_CHUNK = 25  # students per device where its memory is not known: five seeds at five rates
MEMORY_SHARE = 0.8  # of a device's memory that a first guess of the chunk fills
REPORTS = 10  # times that a training says how far it is
OnProgress = Callable[[int], None]


class Outcome(NamedTuple):
    """What some students' training gave, on the host; A of P students, at positions `students` (A,).

    `hits` (A, E, splits) int32, images classified right after each of the program's test epochs;
    `diverged` (A,) bool; `variables` the final weights, leaves (A, …), or None unless asked for; `chunk` how many
    students each device trained at once.
    """

    students: np.ndarray
    hits: np.ndarray
    diverged: np.ndarray
    variables: Any
    chunk: int


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

    When a device runs out of memory, the group that it was at is begun anew in halves.

    Args:
        test_epochs: 1-based epochs after which students are tested, ascending, the last one the program's last.
        keep: whether to bring the final weights to the host.
        on_progress: called with the number of student-epochs done since the last call, which is negative when a
            group is begun anew.

    Raises:
        InputError: if the memory does not hold a single student per device, for tf32 on a CPU, or where batches are
            shared and a network normalises over whole ones.
    """
    count, devices = len(students.images), execution.local_devices()
    devices = devices if execution.mode == "shared" else devices[:count]
    _check(program, students, data, execution, devices[0].platform)
    run = _compiled(program, execution.mode, execution.test_batch, execution.precision, devices)
    chunk = execution.chunk or _first_chunk(program, students, data, tests, execution, devices[0])
    feed, tests = run.feed(data), run.everywhere(tests)
    first, group = 0, _group(count, run.devices, chunk)
    while first < count:
        positions = np.arange(first, min(first + group, count))
        padded = np.resize(positions, group)
        try:
            part = feed(jax.tree.map(lambda leaf: leaf[padded], students))  # noqa: B023
            outcome = _train_group(run, program, test_epochs, part, tests, on_progress, positions, keep)
        except jax.errors.JaxRuntimeError as error:
            chunk = _halved(group // run.devices, error)
            group = _group(count - first, run.devices, chunk)
            continue
        yield outcome
        first += len(positions)


def _group(count: int, devices: int, chunk: int) -> int:
    """Students per call, a multiple of the devices: as few calls as chunks allow, all of one size."""
    calls = -(-count // (devices * chunk))
    return devices * -(-count // (devices * calls))


def _halved(chunk: int, error: Exception) -> int:
    """The chunk to try after an error; raises the error again if it does not say that memory ran out."""
    if not memory.exhausted(error):
        raise error
    if chunk == 1:
        raise InputError(
            "A device's memory does not hold one student: choose a smaller batch_size, width or test_batch"
        ) from error
    return -(-chunk // 2)


def _first_chunk(program, students, data, tests, execution, device) -> int:
    """One unless vmapped; then how many students a device's memory should hold."""
    if execution.mode != "vmap":
        return 1
    limit = memory.limit(device)
    if limit is None:
        return VMAP_CHUNK
    free = MEMORY_SHARE * limit - memory.size((data, tests))
    return max(1, int(free // student_bytes(program, students, data, execution)))


def student_bytes(program: Program, students: Student, data: TrainingData, execution: Execution) -> int:
    """What a student should need of a device's memory, from shapes alone.

    Its weights and optimizer state twice (before and after a step), its gradient, and every value of a forward pass
    of the larger batch, of training or testing. XLA fuses most of these away: on a CPU its programs asked for a
    third (ConvNet-3 of 32 filters, 50 images of 32×32: 25.7 MB of 79; ConvNet-2-BN of 16: 13.2 of 38).
    """
    student, data, state = _one(program, students, data)
    batch = max(min(program.static.batch_size, data.images.shape[1]), execution.test_batch)
    images = jax.ShapeDtypeStruct((batch, *data.images.shape[2:]), jnp.float32)

    def forward(variables, images, key):
        return training.forward(program, variables, images, key, execution.precision)

    passed = memory.intermediates(forward, state.variables, images, student.key)
    return 2 * memory.size(state) + memory.size(state.variables) + passed


def _one(program: Program, students: Student, data: TrainingData) -> tuple[Student, TrainingData, State]:
    """The shapes of one student, of its data, and of its state."""
    student, data = jax.eval_shape(lambda s, d: (jax.tree.map(lambda x: x[0], s), d), students, data)
    return student, data, jax.eval_shape(functools.partial(training.start, program), student, data)


def _check(program: Program, students: Student, data: TrainingData, execution: Execution, platform: str) -> None:
    if execution.precision == "tf32" and platform == "cpu":
        raise InputError("precision is tf32, which CPUs do not have: choose float32 or bfloat16")
    if execution.mode == "shared" and set(_one(program, students, data)[2].variables) != {"params"}:
        raise InputError(
            "Shared execution divides batches, but this network keeps statistics of whole ones (batch norm): choose "
            "execution 'serial'"
        )


def _train_group(run, program, test_epochs, part, tests, on_progress, positions, keep) -> Outcome:
    students, data = part
    real, hits, done = len(positions), [], 0
    try:
        state = run.start(students, data)
        for stop in _stops(test_epochs, program.static.epochs):
            state = run.train(state, students, data, jnp.int32(done), jnp.int32(stop))
            if stop in test_epochs:
                hits.append(run.test(state, tests))
            jax.block_until_ready(state)
            on_progress((stop - done) * real)
            done = stop
        counts, diverged = zip(*jax.device_get(hits), strict=True)
        kept = jax.device_get(state.variables) if keep else None
    except jax.errors.JaxRuntimeError:
        on_progress(-done * real)
        raise
    kept = jax.tree.map(lambda leaf: leaf[:real], kept)
    chunk = len(students.images) // run.devices
    return Outcome(positions, np.stack(counts, 1)[:real], diverged[-1][:real], kept, chunk)


def _stops(test_epochs: tuple[int, ...], epochs: int) -> list[int]:
    """The epochs at which the host looks in: to test, and now and then to report."""
    reports = {round(epochs * i / REPORTS) for i in range(1, REPORTS + 1)} - {0}
    return sorted(reports | set(test_epochs))


@dataclass(frozen=True)
class _Run:
    """The compiled functions of one program on one row of devices.

    `feed` takes the data of a population and gives a function that puts students, and what they learn from, where
    they are trained; data that is there already is not sent again. `devices` counts those that students are split
    over.
    """

    start: Callable[..., State]
    train: Callable[..., State]
    test: Callable[..., Any]
    feed: Callable[[TrainingData], Feed]
    everywhere: Callable[[Any], Any]
    devices: int


@functools.lru_cache(maxsize=64)
def _compiled(program: Program, mode: str, test_batch: int, precision: str, devices: tuple[Any, ...]) -> _Run:
    mesh = mesh_of(devices)
    axis = AXIS if mode == "shared" else None
    all_ = Spec()
    each = all_ if mode == "shared" else Spec(AXIS)
    sets = TrainingData(each, each, all_, all_, all_) if mode == "serial" else all_  # type: ignore[arg-type]
    many = _vmapped if mode == "vmap" else _one_by_one

    def spread(function, specs, batched):
        """Maps a function of `batched` arguments, those with a students axis, and others; that axis over devices."""
        return jax.shard_map(many(function, batched), mesh=mesh, in_specs=specs, out_specs=each, check_vma=False)

    def start(students, data):
        return training.start(program, students, data)

    def train_epochs(state, students, data, first, last):
        return training.train_epochs(program, state, students, data, first, last, precision, axis)

    def test(state, tests):
        return training.test(program, state, tests, test_batch, precision, axis)

    return _Run(
        start=jax.jit(spread(start, (each, sets), (True, False))),
        train=jax.jit(
            spread(train_epochs, (each, each, sets, all_, all_), (True, True, False, False, False)), donate_argnums=0
        ),
        test=jax.jit(spread(test, (each, all_), (True, False))),
        feed=functools.partial(feed_all_sets if mode == "vmap" else feed_own_sets, mesh, each),
        everywhere=functools.partial(place, mesh, all_),
        devices=1 if mode == "shared" else len(devices),
    )


def _vmapped(function, batched):
    return jax.vmap(function, in_axes=tuple(0 if b else None for b in batched))


def _one_by_one(function, batched):
    """The function of a single student, given and returning a students axis of length one."""

    def single(*arguments):
        lone = [jax.tree.map(lambda x: x[0], a) if b else a for a, b in zip(arguments, batched, strict=True)]
        return jax.tree.map(lambda x: x[None], function(*lone))

    return single
