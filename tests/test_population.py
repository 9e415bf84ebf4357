import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddr_jax import population, train
from ddr_jax.arms import _held_out
from ddr_jax.population import Execution, train_population
from ddr_jax.protocol import DSA, Protocol
from ddr_jax.train import Program, Student, TrainingData
from ddr_jax.types import InputError

SERIAL = Execution("serial")
PROTOCOL = Protocol(student="ConvNet-2", width=4, epochs=3, batch_size=8, augment=DSA())


def students(count: int) -> Student:
    """Students that differ in everything that may: seed, set, labels, rate, decay, momentum, augmentation."""
    ramp = jnp.linspace(0, 1, count)
    return Student(
        key=jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(count) % 5),
        images=jnp.arange(count) % 2,
        targets=jnp.arange(count) % 3,
        lr=0.01 + 0.1 * ramp,
        weight_decay=1e-3 * ramp,
        momentum=0.9 * ramp,
        temperature=1 + ramp,
        loss_scale=1 + ramp,
        mse_weight=ramp,
        ce_weight=1 - ramp,
        augment=jnp.arange(count) % 2 == 0,
    )


@pytest.fixture(scope="module")
def data() -> TrainingData:
    images, targets = jax.random.split(jax.random.key(1))
    return TrainingData(
        jax.random.normal(images, (2, 20, 8, 8, 1)), jax.nn.softmax(jax.random.normal(targets, (3, 20, 3)))
    )


@pytest.fixture(scope="module")
def trained(real, data):
    """Trains some of 25 students and gives their hits and final weights, in order."""
    program, tests = Program.of(PROTOCOL, 3), _held_out(real)[0]

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


def test_equal_programs_compile_once(real, data, monkeypatch):
    chex.clear_trace_counter()
    population._compiled.cache_clear()
    monkeypatch.setattr(train, "train_epochs", chex.assert_max_traces(train.train_epochs, n=1))
    tests = _held_out(real)[0]
    for protocol, count in (
        (PROTOCOL, 2),
        (Protocol(**{**vars(PROTOCOL), "lr": (0.5,), "momentum": 0.1}), 5),
    ):
        list(train_population(Program.of(protocol, 3), (3,), students(count), data, tests, execution=SERIAL))


def test_progress_adds_up_to_all_students_epochs(real, data):
    done = []
    program, tests = Program.of(PROTOCOL, 3), _held_out(real)[0]
    list(train_population(program, (3,), students(3), data, tests, execution=SERIAL, on_progress=done.append))
    assert sum(done) == 3 * PROTOCOL.epochs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serail",), "did you mean 'serial'"),
        (("vmap", 0), "chunk is 0"),
        (("vmap", 5, 0), "devices 0"),
        (("serial", 5), "choose mode 'vmap'"),
        (("serial", 1, None, 100), "test_batch is 100; expected a divisor of 256"),
    ],
)
def test_an_impossible_execution_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Execution(*arguments)


def test_cores_can_only_be_chosen_before_jax_starts():
    jax.local_devices()
    with pytest.raises(InputError, match="before any computation"):
        population.use_cpu_cores(7)
