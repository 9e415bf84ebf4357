import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddr_jax import nets
from ddr_jax.protocols.augmentations import DSA, Mixup
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.train import student as training
from ddr_jax.train.optim import OPTIMIZERS, SCHEDULES
from ddr_jax.train.student import HeldOut, Program, Student, TrainingData


class OneRowPerImage(nn.Module):
    """Logits of a one-hot image are one row of the weights, so that a row shows its image's steps alone."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, images, train):
        x = images.reshape(len(images), -1)
        return x @ self.param("rows", nn.initializers.zeros, (x.shape[-1], self.num_classes))


ZERO, ZERO_WEIGHTS = OneRowPerImage(), {"params": {"rows": np.zeros((1, 10, 2), np.float32)}}


def student(**changes) -> Student:
    """A student whose numbers are neutral but for the changes."""
    numbers = Protocol(weight_decay=0.0, momentum=0.0).row(lr=1.0, augmented=False) | changes
    return jax.tree.map(lambda leaf: leaf[0], Student.of([numbers], jax.random.key(0)[None], [0], [0]))


def one_hot_images(count: int) -> TrainingData:
    images = np.eye(count, dtype=np.float32).reshape(1, count, 1, count, 1)
    return TrainingData(images, np.tile(np.float32([1, 0]), (1, count, 1)))


def program(protocol: Protocol, net=None, classes: int = 2) -> Program:
    made = Program.of(protocol, classes)
    return made if net is None else Program(**{**vars(made), "net": net})


def run(prog, who, data, epochs):
    state = training.start(prog, who, data)
    return jax.jit(training.train_epochs, static_argnums=0)(prog, state, who, data, 0, epochs)


def test_an_epoch_uses_every_image_once_and_the_ragged_batch_at_its_own_size():
    # from zero weights, the gradient of image i in a batch of b images is (1/2 − 1, 1/2) / b in row i alone
    prog = program(Protocol(epochs=1, batch_size=4, schedule="constant"), OneRowPerImage())
    rows = run(prog, student(), one_hot_images(10), 1).variables["params"]["rows"]
    np.testing.assert_allclose(rows.sum(-1), 0, atol=1e-6)
    chex.assert_trees_all_close(np.sort(rows[:, 0]), np.repeat([0.125, 0.25], [8, 2]), atol=1e-6)


def test_a_batch_size_beyond_the_set_takes_the_whole_set():
    prog = program(Protocol(epochs=1, batch_size=256, schedule="constant"), OneRowPerImage())
    rows = run(prog, student(), one_hot_images(10), 1).variables["params"]["rows"]
    chex.assert_trees_all_close(rows[:, 0], np.full(10, 0.05), atol=1e-6)


def test_epochs_are_shuffled_anew():
    # with a rate that grows the order of batches matters; the two small batches must not hold the same images twice
    prog = program(Protocol(epochs=2, batch_size=4, schedule="constant"), OneRowPerImage())
    first = run(prog, student(), one_hot_images(10), 1).variables["params"]["rows"][:, 0] > 0.2
    both = run(prog, student(lr=1e-3), one_hot_images(10), 2).variables["params"]["rows"][:, 0]
    twice_small = np.isclose(both, 2 * 1e-3 * 0.25, rtol=1e-2)
    assert not np.array_equal(first, twice_small)


def test_training_in_two_calls_equals_training_in_one():
    protocol = Protocol(student="ConvNet-2", width=4, epochs=4, batch_size=4, augment=DSA())
    prog, who = program(protocol), student(lr=0.1, augmented=True)
    data = TrainingData(
        jax.random.normal(jax.random.key(1), (1, 10, 8, 8, 1)), jax.nn.one_hot(jnp.arange(10) % 2, 2)[None]
    )
    part = jax.jit(training.train_epochs, static_argnums=0)
    state = training.start(prog, who, data)
    halves = part(prog, part(prog, state, who, data, 0, 2), who, data, 2, 4)
    chex.assert_trees_all_equal(halves, part(prog, state, who, data, 0, 4))


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [*((name, "constant") for name in OPTIMIZERS), *(("sgd", name) for name in SCHEDULES if name != "constant")],
)
def test_every_optimizer_and_schedule_learns(optimizer, schedule):
    data, who = one_hot_images(10), student(lr=0.1)
    rows = run(program(Protocol(epochs=4, optimizer=optimizer, schedule=schedule), OneRowPerImage()), who, data, 4)
    assert (rows.variables["params"]["rows"][:, 0] > 0).all()  # towards the one class that is there


def test_the_rate_drops_to_a_tenth_after_step_size_epochs():
    protocol = Protocol(epochs=4, batch_size=10, step_size=2)
    prog, data = program(protocol, OneRowPerImage()), one_hot_images(10)
    tiny = student(lr=1e-3)  # so small that gradients stay those at zero weights
    after = [float(run(prog, tiny, data, epochs).variables["params"]["rows"][0, 0]) for epochs in (2, 4)]
    np.testing.assert_allclose(after[1] / after[0], 1.1, rtol=1e-3)


def test_a_student_with_its_augmentation_off_trains_as_one_without():
    data = TrainingData(
        jax.random.normal(jax.random.key(1), (1, 10, 8, 8, 1)), jax.nn.one_hot(jnp.arange(10) % 2, 2)[None]
    )
    protocol = Protocol(student="ConvNet-2", width=4, epochs=2)
    plain = run(program(protocol), student(lr=0.1), data, 2)
    with_dsa = Protocol(student="ConvNet-2", width=4, epochs=2, augment=DSA())
    off, on = (run(program(with_dsa), student(lr=0.1, augmented=bool(b)), data, 2) for b in (0, 1))
    chex.assert_trees_all_close(off.variables, plain.variables, atol=1e-5)
    difference = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), off.variables, on.variables)
    assert max(jax.tree.leaves(difference)) > 1e-3


def test_the_teacher_labels_the_augmented_batch_at_the_students_temperature():
    teacher = OneRowPerImage()
    logits = np.float32([[3.0, -1.0]] * 10)
    variables = {"params": {"rows": logits[None]}}
    protocol = Protocol(epochs=1, labels="teacher", schedule="constant", temperature=2.0)
    prog = Program(**{**vars(Program.of(protocol, 2)), "net": OneRowPerImage(), "teacher": teacher})
    data = one_hot_images(10)._replace(teachers=variables)
    rows = run(prog, student(temperature=2.0), data, 1).variables["params"]["rows"]
    # gradient of the cross-entropy at zero logits: (softmax(0) − softmax(teacher / 2)) / 2, averaged over ten images
    expected = -(0.5 - jax.nn.softmax(logits / 2)) / 2 / 10
    chex.assert_trees_all_close(rows, expected, atol=1e-6)


def test_squared_errors_of_logits_are_weighed_against_the_true_classes():
    # at zero logits s: d/ds of w · mean_c (s − t)² is −w t (two classes), of v · cross-entropy v (1/2 − p)
    truth, logits = np.float32([[1, 0]] * 10), np.float32([[3.0, -1.0]] * 10)
    protocol = Protocol(epochs=1, labels="soft", loss="mse_gt", schedule="constant")
    who = student(mse_weight=0.5, ce_weight=2.0)
    data = one_hot_images(10)._replace(targets=np.concatenate([truth, logits], -1)[None])
    rows = run(program(protocol, OneRowPerImage()), who, data, 1).variables["params"]["rows"]
    expected = (0.5 * logits - 2 * (0.5 - truth)) / 10
    chex.assert_trees_all_close(rows, expected, atol=1e-6)
    labelled = Program(**{**vars(program(protocol, OneRowPerImage())), "teacher": OneRowPerImage()})
    by_teacher = data._replace(
        targets=np.concatenate([truth, 0 * logits], -1)[None], teachers={"params": {"rows": logits[None]}}
    )
    rows = run(labelled, who, by_teacher, 1).variables["params"]["rows"]
    chex.assert_trees_all_close(rows, expected, atol=1e-6)


def test_momentum_is_forgotten_at_the_drop_if_asked():
    protocol = Protocol(epochs=3, batch_size=10, step_size=2, fresh_at_drop=True)
    tiny = student(lr=1e-3, momentum=0.9)  # gradients stay those at zero weights
    rows = [
        run(program(p, OneRowPerImage()), tiny, one_hot_images(10), 3).variables["params"]["rows"][0, 0]
        for p in (protocol, dataclasses.replace(protocol, fresh_at_drop=False))
    ]
    # two steps of 1 and 1.9, then a tenth of 1, or of 2.71
    np.testing.assert_allclose(rows[0] / rows[1], (2.9 + 0.1) / (2.9 + 0.271), rtol=1e-3)


def test_mixtures_mix_targets_that_teachers_then_replace():
    mixing = {"epochs": 1, "schedule": "constant", "augment": Mixup()}
    data = one_hot_images(10)._replace(targets=np.eye(2, dtype=np.float32)[None, [0, 1] * 5])
    on = student(augmented=True)
    mixed = run(program(Protocol(**mixing), OneRowPerImage()), on, data, 1).variables["params"]["rows"]
    assert not np.allclose(np.abs(mixed), 0.05, atol=1e-3)
    labelled = Program(**{**vars(program(Protocol(**mixing, labels="teacher"), OneRowPerImage())), "teacher": ZERO})
    rows = run(labelled, on, data._replace(teachers=ZERO_WEIGHTS), 1).variables["params"]["rows"]
    chex.assert_trees_all_close(rows, np.zeros((10, 2)), atol=1e-7)  # the teacher's even labels are the student's own


def test_teachers_are_averaged_as_logits():
    variables = {"params": {"rows": np.float32([[[4.0, 0.0]] * 3, [[0.0, 2.0]] * 3])}}
    images = np.eye(3, dtype=np.float32).reshape(3, 1, 3, 1)
    logits = training.teachers.mean_logits(OneRowPerImage(), variables, images)
    chex.assert_trees_all_close(logits, np.float32([[2.0, 1.0]] * 3))


def test_test_counts_the_images_of_each_split_that_are_right():
    prog = program(Protocol(student="ConvNet-2", width=4), classes=3)
    data = TrainingData(np.zeros((1, 3, 8, 8, 1), np.float32), np.eye(3, dtype=np.float32)[None])
    state = training.start(prog, student(), data)
    images = np.asarray(jax.random.normal(jax.random.key(1), (2 * training.HELD_OUT_MULTIPLE, 8, 8, 1)))
    labels = np.arange(len(images)) % 3
    splits = np.stack([np.arange(len(images)) < 100, np.arange(len(images)) >= 300])
    hits, diverged = training.test(prog, state, HeldOut(images, labels, splits), 32, "float32", None)
    right = np.asarray(nets.apply(prog.net, state.variables, images).argmax(-1)) == labels
    np.testing.assert_array_equal(hits, [right[:100].sum(), right[300:].sum()])
    assert not diverged


def test_a_student_whose_weights_are_not_finite_has_diverged():
    prog = program(Protocol(epochs=3, batch_size=10), OneRowPerImage())
    state = run(prog, student(lr=1e30, weight_decay=1e10), one_hot_images(10), 3)
    images = np.zeros((training.HELD_OUT_MULTIPLE, 1, 10, 1), np.float32)
    tests = HeldOut(images, np.zeros(len(images), np.int32), np.ones((1, len(images)), bool))
    assert training.test(prog, state, tests, 256, "float32", None)[1]
