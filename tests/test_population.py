import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddr_jax.protocols.augmentations import DSA
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.train import devices, feed, population
from ddr_jax.train import student as training
from ddr_jax.train.arms import _held_out
from ddr_jax.train.devices import Execution
from ddr_jax.train.population import train_population
from ddr_jax.train.student import Program, Student, TrainingData
from ddr_jax.types import InputError

SERIAL = Execution("serial")
PROTOCOL = Protocol(student="ConvNet-2", width=4, epochs=3, batch_size=8, augment=DSA())


def students(count: int) -> Student:
    """Students that differ in everything that may: seed, set, labels, rate, decay, momentum, augmentation."""
    ramp = jnp.linspace(0, 1, count)
    numbers = {
        "lr": 0.01 + 0.1 * ramp,
        "weight_decay": 1e-3 * ramp,
        "momentum": 0.9 * ramp,
        "temperature": 1 + ramp,
        "loss_scale": 1 + ramp,
        "mse_weight": ramp,
        "ce_weight": 1 - ramp,
        "augmented": jnp.arange(count) % 2 == 0,
    }
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(count) % 5)
    return Student(keys, jnp.arange(count) % 2, jnp.arange(count) % 3, numbers)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    images, targets = jax.random.split(jax.random.key(1))
    return TrainingData(
        jax.random.normal(images, (2, 20, 8, 8, 1)), jax.nn.softmax(jax.random.normal(targets, (3, 20, 3)))
    )


@pytest.fixture(scope="module")
def trained(real, data):
    """Trains some of 25 students and gives their hits and final weights, in order."""
    program, tests = Program.of(PROTOCOL, 3), _held_out(real)

    def run(positions, execution=SERIAL):
        chosen = jax.tree.map(lambda leaf: leaf[np.array(positions)], students(25))
        outcomes = list(train_population(program, (1, 3), chosen, data, tests, execution=execution, keep=True))
        np.testing.assert_array_equal(np.concatenate([o.students for o in outcomes]), np.arange(len(positions)))
        weights = jax.tree.map(lambda *leaves: np.concatenate(leaves), *[o.variables for o in outcomes])
        return np.concatenate([o.hits for o in outcomes]), weights

    return run


@pytest.fixture(scope="module")
def together(trained):
    return trained(range(25))


def at(outcome, positions):
    return jax.tree.map(lambda leaf: leaf[np.array(positions)], outcome)


def test_outcomes_hold_a_count_per_test_epoch_and_split(together):
    hits, weights = together
    chex.assert_shape(hits, (25, 2, 2))
    assert all(len(leaf) == 25 for leaf in jax.tree.leaves(weights))
    assert (hits >= 0).all()
    assert (hits <= 30).all()


def test_students_differ(together):
    kernels = jax.tree.leaves(together[1])[0].reshape(25, -1)
    assert len(np.unique(kernels, axis=0)) == 25


@pytest.mark.parametrize("positions", [[0], [7], [24, 3], [5, 9, 11]])
def test_a_student_is_the_same_bit_for_bit_alone_and_in_a_population(trained, together, positions):
    chex.assert_trees_all_equal(trained(positions), at(together, positions))


def test_a_student_is_the_same_bit_for_bit_on_one_device_and_on_two(trained, together):
    chex.assert_trees_all_equal(trained(range(4), Execution("serial", devices=1)), at(together, range(4)))


@pytest.mark.parametrize("chunk", [4])
def test_vmapped_student_equals_lone_student_to_rounding(trained, together, chunk):
    hits, weights = trained(range(10), Execution("vmap", chunk))
    expected_hits, expected = at(together, range(10))
    chex.assert_trees_all_close(weights, expected, atol=2e-4)
    np.testing.assert_allclose(hits, expected_hits, atol=1)  # an image on the boundary may tip over


def test_a_student_whose_batches_are_shared_equals_a_lone_student_to_rounding(real, data):
    """Batches of 7 images, and 6 at an epoch's end: two devices have 4 and 3 of them, then 3 each."""
    program = Program.of(Protocol(**{**vars(PROTOCOL), "batch_size": 7}), 3)
    tests, chosen = _held_out(real), jax.tree.map(lambda leaf: leaf[jnp.array([3, 8, 24])], students(25))

    def run(mode):
        outcomes = list(train_population(program, (3,), chosen, data, tests, execution=Execution(mode), keep=True))
        assert [len(outcome.students) for outcome in outcomes] == ([1, 1, 1] if mode == "shared" else [2, 1])
        weights = jax.tree.map(lambda *leaves: np.concatenate(leaves), *[o.variables for o in outcomes])
        return np.concatenate([o.hits for o in outcomes]), weights

    (hits, weights), (expected_hits, expected) = run("shared"), run("serial")
    chex.assert_trees_all_close(weights, expected, atol=2e-5)
    np.testing.assert_allclose(hits, expected_hits, atol=1)


def test_batches_of_networks_that_normalise_over_them_are_not_shared(real, data):
    program, tests = Program.of(Protocol(**{**vars(PROTOCOL), "student": "ConvNet-2-BN"}), 3), _held_out(real)
    with pytest.raises(InputError, match=r"statistics of whole ones .* choose execution 'serial'"):
        next(train_population(program, (3,), students(1), data, tests, execution=Execution("shared")))


def test_students_are_stored_apart_by_all_that_their_last_digits_depend_on():
    executions = [Execution(mode, devices=devices) for mode in ("serial", "shared") for devices in (None, 1)]
    assert [e.arithmetic for e in executions] == ["serial", "serial", "shared by 2", "shared by 1"]


def test_equal_programs_compile_once(real, data, monkeypatch):
    chex.clear_trace_counter()
    population._compiled.cache_clear()
    monkeypatch.setattr(training, "train_epochs", chex.assert_max_traces(training.train_epochs, n=1))
    tests = _held_out(real)
    for protocol, count in (
        (PROTOCOL, 2),
        (Protocol(**{**vars(PROTOCOL), "lr": (0.5,), "momentum": 0.1}), 5),
    ):
        list(train_population(Program.of(protocol, 3), (3,), students(count), data, tests, execution=SERIAL))


def test_progress_adds_up_to_all_students_epochs(real, data):
    done = []
    program, tests = Program.of(PROTOCOL, 3), _held_out(real)
    list(train_population(program, (3,), students(3), data, tests, execution=SERIAL, on_progress=done.append))
    assert sum(done) == 3 * PROTOCOL.epochs


@pytest.fixture
def small_memory(monkeypatch):
    """Devices that hold three students and no more, found out in their second call; gives the chunks tried."""
    tried = []

    def fake(program, mode, test_batch, precision, devices):
        def train_epochs(state, students, data, first, last):
            if first == 0:
                tried.append(len(students.images))
            if len(students.images) > 3 and first > 0:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
            return state

        def test(state, tests):
            return state["id"][:, None], state["id"] < 0

        return population._Run(
            start=lambda students, data: {"id": students.images},
            train=train_epochs,
            test=test,
            feed=lambda data: lambda students: (students, data),
            everywhere=lambda tree: tree,
            devices=1,
        )

    monkeypatch.setattr(population, "_compiled", fake)
    return tried


def exhausting(count, data, real, **options):
    program, tests = Program.of(PROTOCOL, 3), _held_out(real)
    numbered = students(count)._replace(images=np.arange(count))
    return train_population(program, (3,), numbered, data, tests, execution=Execution("vmap", devices=1, **options))


def test_where_memory_runs_out_students_are_trained_in_halves_and_none_is_lost(real, data, small_memory):
    outcomes = list(exhausting(13, data, real, chunk=8))
    # groups are made alike: 13 students in two calls of 7, then of 4, then of 2
    assert small_memory == [7, 4] + [2] * 7
    np.testing.assert_array_equal(np.concatenate([o.hits[:, 0, 0] for o in outcomes]), np.arange(13))
    assert {o.chunk for o in outcomes} == {2}


def test_finished_students_stay_when_memory_runs_out_later(real, data, small_memory, monkeypatch):
    done = exhausting(6, data, real, chunk=3)
    first = next(done)
    held = population._train_group
    monkeypatch.setattr(population, "_train_group", lambda *a: _fail(a) if len(a[6]) == 3 else held(*a))
    rest = list(done)
    np.testing.assert_array_equal(first.students, [0, 1, 2])
    np.testing.assert_array_equal(np.concatenate([o.students for o in rest]), [3, 4, 5])


def _fail(arguments):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")


def test_progress_of_students_that_are_begun_anew_is_taken_back(real, data, small_memory):
    done = []
    program, tests = Program.of(PROTOCOL, 3), _held_out(real)
    execution = Execution("vmap", chunk=4, devices=1)
    list(train_population(program, (3,), students(4), data, tests, execution=execution, on_progress=done.append))
    assert min(done) < 0
    assert sum(done) == 4 * PROTOCOL.epochs


def test_one_student_too_many_for_the_memory_is_said_so(real, data, monkeypatch):
    monkeypatch.setattr(population, "_train_group", lambda *arguments: _fail(arguments))
    with pytest.raises(InputError, match="does not hold one student: choose a smaller batch_size"):
        list(exhausting(2, data, real, chunk=2))


def test_errors_of_other_kinds_are_not_tried_again(real, data, monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(population, "_train_group", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        list(exhausting(4, data, real, chunk=2))


@pytest.mark.parametrize(("limit", "chunk"), [(None, population.VMAP_CHUNK), (1, 1)])
def test_the_first_chunk_fits_the_devices_memory(real, data, monkeypatch, limit, chunk):
    program, tests, execution = Program.of(PROTOCOL, 3), _held_out(real), Execution("vmap")
    arguments = (program, students(4), data, tests, execution, jax.local_devices()[0])
    monkeypatch.setattr(population.memory, "limit", lambda device: limit)
    assert population._first_chunk(*arguments) == chunk
    each = population.student_bytes(program, students(4), data, execution)
    resident = population.memory.size((data, tests))
    monkeypatch.setattr(population.memory, "limit", lambda device: (resident + 7.5 * each) / population.MEMORY_SHARE)
    assert population._first_chunk(*arguments) == 7


def test_a_students_memory_grows_with_its_batch_and_its_weights(data):
    def needed(**changes):
        program = Program.of(Protocol(**{**vars(PROTOCOL), **changes}), 3)
        return population.student_bytes(program, students(2), data, Execution("vmap", test_batch=1))

    assert needed(batch_size=16) == pytest.approx(2 * needed(batch_size=8), rel=0.1)
    assert needed(width=400) > 10 * needed(width=40) > 50 * needed(width=4)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_sets_that_fill_up_a_power_of_two_are_read_by_nobody(count):
    sets = np.arange(count)
    filled = feed._filled_up(sets)
    assert len(filled) in (1, 2, 4, 8)
    np.testing.assert_array_equal(filled[:count], sets)


def test_tf32_is_refused_on_cpus(real, data):
    program, tests = Program.of(PROTOCOL, 3), _held_out(real)
    execution = Execution("serial", precision="tf32")
    with pytest.raises(InputError, match="choose float32 or bfloat16"):
        next(train_population(program, (3,), students(1), data, tests, execution=execution))


def test_the_default_on_a_cpu_is_one_student_at_a_time_in_float32():
    assert devices.default_execution() == Execution("serial", None, None, 32, "float32")


@pytest.mark.parametrize(("execution", "grouped"), [(SERIAL, False), (Execution("vmap"), True)])
def test_one_student_at_a_time_as_a_cpu_trains_them_has_no_grouped_convolutions(data, execution, grouped):
    program, count = Program.of(PROTOCOL, 3), 2
    devices = execution.local_devices()[:1]
    run = population._compiled(program, execution.mode, execution.test_batch, execution.precision, devices)
    part, placed = run.feed(data)(jax.tree.map(lambda leaf: leaf[: count if grouped else 1], students(count)))
    text = run.train.lower(run.start(part, placed), part, placed, jnp.int32(0), jnp.int32(1)).as_text()
    groups = {int(number) for number in re.findall(r"feature_group_count = (\d+)", text)}
    assert groups
    assert (max(groups) > 1) == grouped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serail",), "did you mean 'serial'"),
        (("serial", None, None, 256, "bf16"), "Unknown precision 'bf16'"),
        (("vmap", 0), "chunk is 0"),
        (("vmap", 5, 0), "devices is 0"),
        (("serial", 5), "choose mode 'vmap'"),
        (("shared", 5), "choose mode 'vmap'"),
        (("serial", 1, None, 100), "test_batch is 100; expected a divisor of 256"),
    ],
)
def test_an_impossible_execution_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Execution(*arguments)


def test_cores_can_only_be_chosen_before_jax_starts():
    jax.local_devices()
    with pytest.raises(InputError, match="before any computation"):
        devices.use_cpu_cores(7)
