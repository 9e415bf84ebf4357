"""Many students of one program: which run side by side, on which devices, and in what order.

Three ways to run a population, chosen per backend by what was measured (`default_execution`):

- ``serial``: each device trains one student at a time, and sees that student's set alone. The compiled program
  knows neither the size of the population nor the number of sets, so a student's result is the same bit for bit
  alone, among others and in any order.
- ``vmap``: each device trains `chunk` students at once; the last digits depend on the chunk.
- ``shared``: all devices train one student after another, each on its part of every batch, and add their gradients;
  the last digits depend on the number of devices. For fewer students than devices.

Where batches are not shared, devices split the students axis of a mesh and exchange nothing.
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

from ddr_jax.nets.precision import PRECISIONS
from ddr_jax.train import devices as memory
from ddr_jax.train import student as training
from ddr_jax.train.student import HeldOut, Program, State, Student, TrainingData
from ddr_jax.types import InputError, nearest

MODES = ("serial", "vmap", "shared")
VMAP_CHUNK = 25  # students per device where its memory is not known: five seeds at five rates
MEMORY_SHARE = 0.8  # of a device's memory that a first guess of the chunk fills
AXIS = "students"
REPORTS = 10  # times that a training says how far it is

OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class Execution:
    """How a population runs.

    Attributes:
        mode: one of `MODES`.
        chunk: students per device and call; None takes as many as the device's memory should hold (one unless
            vmapped), and fewer when it turns out not to.
        devices: how many to use at most; None uses all local ones.
        test_batch: images per forward pass of a test.
        precision: of the networks' arithmetic, "float32", "tf32" (GPUs) or "bfloat16"; weights stay float32.

    Raises:
        InputError: if a name is unknown, a number is out of range, or students that are not vmapped are to share
            a call.
    """

    mode: str
    chunk: int | None = None
    devices: int | None = None
    test_batch: int = 256
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"Unknown execution mode {self.mode!r}: {nearest(self.mode, MODES)}")
        if self.precision not in PRECISIONS:
            raise InputError(f"Unknown precision {self.precision!r}: {nearest(self.precision, PRECISIONS)}")
        if any(number is not None and number < 1 for number in (self.chunk, self.devices)):
            raise InputError(f"chunk is {self.chunk} and devices {self.devices}; expected 1 or more")
        if self.test_batch < 1 or training.HELD_OUT_MULTIPLE % self.test_batch:
            raise InputError(f"test_batch is {self.test_batch}; expected a divisor of {training.HELD_OUT_MULTIPLE}")
        if self.mode != "vmap" and self.chunk not in (None, 1):
            raise InputError(
                f"chunk is {self.chunk}, but {self.mode} execution trains one student at a time: "
                "leave chunk out, or choose mode 'vmap'"
            )

    @property
    def arithmetic(self) -> str:
        """The mode, and the devices that share a batch: on what a student's last digits depend; starts JAX."""
        return f"shared by {len(self.local_devices())}" if self.mode == "shared" else self.mode

    def local_devices(self) -> tuple[Any, ...]:
        """The devices that it uses."""
        return tuple(jax.local_devices()[: self.devices])


def default_execution() -> Execution:
    """Serial with small test batches on CPUs, as experiments/step_time.md measured; vmapped elsewhere.

    On an H100 25 students side by side took 0.38 (bfloat16), 0.66 (tf32) and 0.75 (float32) of the time that they took
    one after another (experiments/h100/gpu_kernels.md). TPUs were not measured.
    """
    return Execution("serial", test_batch=32) if jax.default_backend() == "cpu" else Execution("vmap")


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


def everywhere(tests: HeldOut, execution: Execution) -> HeldOut:
    """The test images on every device that is used; populations then need not send them again."""
    return _place(_mesh(execution.local_devices()), Spec(), tests)


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
    _check_precision(execution.precision, devices[0].platform)
    _check_sharing(program, students, data, execution)
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
    """Students per call, a multiple of the devices: as few calls as chunks allow, and those alike."""
    calls = -(-count // (devices * chunk))
    return devices * -(-count // (devices * calls))


def _halved(chunk: int, error: Exception) -> int:
    """The chunk to try next after an error, which is raised if it is not of memory."""
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


def _check_sharing(program: Program, students: Student, data: TrainingData, execution: Execution) -> None:
    if execution.mode == "shared" and set(_one(program, students, data)[2].variables) != {"params"}:
        raise InputError(
            "Shared execution divides batches, but this network keeps statistics of whole ones (batch norm): choose "
            "execution 'serial'"
        )


def _check_precision(precision: str, platform: str) -> None:
    if precision == "tf32" and platform == "cpu":
        raise InputError("precision is tf32, which CPUs do not have: choose float32 or bfloat16")


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


Feed = Callable[[Student], tuple[Student, TrainingData]]


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
    mesh = _mesh(devices)
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
        feed=functools.partial(_feed_all_sets if mode == "vmap" else _feed_own_sets, mesh, each),
        everywhere=functools.partial(_place, mesh, all_),
        devices=1 if mode == "shared" else len(devices),
    )


def _mesh(devices: tuple[Any, ...]) -> Mesh:
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def _place(mesh: Mesh, spec: Spec, tree: Any) -> Any:
    return jax.device_put(tree, NamedSharding(mesh, spec))


def _feed_all_sets(mesh: Mesh, spec: Spec, data: TrainingData) -> Feed:
    """Every device has all sets, and `spec` splits the students.

    The number of sets is filled up to a power of two, lest every number compile anew.
    """
    data = _place(mesh, Spec(), data._replace(images=_filled_up(data.images), targets=_filled_up(data.targets)))
    return lambda students: (_place(mesh, spec, students), data)


def _filled_up(sets: Any) -> Any:
    size = 1 << (len(sets) - 1).bit_length()
    return sets if size == len(sets) else sets[np.minimum(np.arange(size), len(sets) - 1)]


def _feed_own_sets(mesh: Mesh, spec: Spec, data: TrainingData) -> Feed:
    """Every device has the set of the student that it trains next, (1, N, …) there; `spec` splits the students."""
    shared = _place(mesh, Spec(), data._replace(images=None, targets=None))

    @functools.cache
    def put(pool: str, position: int, device: Any) -> jax.Array:
        return jax.device_put(getattr(data, pool)[position][None], device)

    def gather(pool: str, positions: Any) -> jax.Array:
        of_devices = np.resize(positions, len(mesh.devices))  # one for all where they share a student
        parts = [put(pool, int(p), device) for p, device in zip(of_devices, mesh.devices, strict=True)]
        whole = (len(positions), *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(whole, NamedSharding(mesh, spec), parts)

    def feed(students: Student) -> tuple[Student, TrainingData]:
        images, targets = (gather(p, np.asarray(getattr(students, p))) for p in ("images", "targets"))
        only = np.zeros(len(images), np.int32)  # the one set that a device has
        students = _place(mesh, spec, students._replace(images=only, targets=only))
        return students, shared._replace(images=images, targets=targets)

    return feed


def _vmapped(function, batched):
    return jax.vmap(function, in_axes=tuple(0 if b else None for b in batched))


def _one_by_one(function, batched):
    """The function of a single student, given and returning a students axis of length one."""

    def single(*arguments):
        lone = [jax.tree.map(lambda x: x[0], a) if b else a for a, b in zip(arguments, batched, strict=True)]
        return jax.tree.map(lambda x: x[None], function(*lone))

    return single
