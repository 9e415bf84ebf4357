import dataclasses
import inspect
import re
from unittest import mock

import chex
import jax
import numpy as np
import pytest

from ddr_jax import nets
from ddr_jax.protocols.augmentations import DSA
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.train import optim
from ddr_jax.train import student as training
from ddr_jax.train.arms import Arm, Runner, TrainingSet, train_arms
from ddr_jax.train.devices import Execution
from ddr_jax.train.store import Store
from ddr_jax.train.student import Student
from ddr_jax.train.teachers import Teachers

PROTOCOL = Protocol(student="ConvNet-1", width=4, epochs=2, lr=(0.01, 0.1), test_every=1)
KEY = jax.random.key(0)


def training_set(name="set", seed=0, count=6) -> TrainingSet:
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, 8, 8, 1)).astype(np.float32)
    return TrainingSet(name, images, np.eye(3, dtype=np.float32)[np.arange(count) % 3])


def arm(name="syn-any", sets=2, seeds=3, protocol=PROTOCOL, **options) -> Arm:
    grid = tuple((training_set(f"set{d}", d),) * seeds for d in range(sets))
    return Arm(name, protocol, grid, **options)


def run(arms, real, **runner):
    return train_arms(arms, real, key=KEY, runner=Runner(**runner))


@pytest.fixture(scope="module")
def finished(real):
    return run([arm()], real)


def test_a_table_has_an_axis_for_sets_rates_seeds_and_test_epochs(finished):
    table = finished.tables["syn-any"]
    chex.assert_shape([table.test, table.validation], (2, 2, 3, 2))
    chex.assert_shape([table.diverged, table.students], (2, 2, 3))
    assert (table.sets, table.lrs) == (("set0", "set1"), (0.01, 0.1))
    assert finished.trained == 12


def test_accuracies_are_fractions_of_the_splits_images(finished):
    test = finished.tables["syn-any"].test
    np.testing.assert_allclose(test * 30, np.rint(test * 30), atol=1e-9)
    assert test.max() > 1 / 3


def test_without_a_validation_split_there_are_no_validation_accuracies(real):
    table = run([arm(sets=1, seeds=1)], dataclasses.replace(real, validation=None)).tables["syn-any"]
    assert table.validation is None


def test_seeds_sets_and_rates_are_different_students(finished):
    assert len(set(finished.tables["syn-any"].students.ravel())) == 12


def test_arms_that_agree_share_their_students(real):
    finished = run([arm("syn-any"), arm("syn-hard")], real)
    assert finished.trained == 12
    np.testing.assert_array_equal(*(table.students for table in finished.tables.values()))
    np.testing.assert_array_equal(*(table.test for table in finished.tables.values()))


def test_augmented_and_plain_arms_share_a_program(real, monkeypatch):
    chex.clear_trace_counter()
    monkeypatch.setattr(training, "train_epochs", chex.assert_max_traces(training.train_epochs, n=1))
    protocol = dataclasses.replace(PROTOCOL, augment=DSA(rotate=14))
    finished = run([arm("syn-aug", 1, 1, protocol, augmented=True), arm("syn-noaug", 1, 1, protocol)], real)
    assert finished.trained == 4
    assert not np.array_equal(*(table.students for table in finished.tables.values()))


def test_a_student_does_not_depend_on_what_is_trained_beside_it(real, finished):
    alone = run([arm(sets=1, seeds=1)], real).tables["syn-any"]
    np.testing.assert_array_equal(alone.test[0, :, 0], finished.tables["syn-any"].test[0, :, 0])
    np.testing.assert_array_equal(alone.students[0, :, 0], finished.tables["syn-any"].students[0, :, 0])


def test_another_key_makes_other_students(real, finished, monkeypatch):
    monkeypatch.setattr("ddr_jax.train.arms._train_group", _no_training)
    other = train_arms([arm()], real, key=jax.random.key(1), runner=Runner()).tables["syn-any"]
    assert not set(other.students.ravel()) & set(finished.tables["syn-any"].students.ravel())


def _no_training(group, *_):
    for job in group:
        yield job.student, {"test": [0.0], "validation": [0.0], "diverged": False}, None


def test_students_in_the_store_are_not_trained_again(real, tmp_path, monkeypatch):
    first = run([arm(seeds=2)], real, store=Store(tmp_path))
    assert first.trained == 8
    second = run([arm(seeds=3)], real, store=Store(tmp_path))
    assert second.trained == 4
    np.testing.assert_array_equal(second.tables["syn-any"].test[:, :, :2], first.tables["syn-any"].test)


def test_an_interrupted_run_keeps_its_finished_students(real, tmp_path):
    class Stop(Exception):
        pass

    calls = []

    def interrupt(label, done, total):
        calls.append(done)
        if sum(calls) > 8 * 6:  # images, so after the second pair of students has begun
            raise Stop

    with pytest.raises(Stop):
        run([arm(sets=1)], real, store=Store(tmp_path), on_progress=interrupt)
    again = run([arm(sets=1)], real, store=Store(tmp_path))
    assert again.trained <= 4
    chex.assert_trees_all_equal(again.tables["syn-any"].test, run([arm(sets=1)], real).tables["syn-any"].test)


def test_one_program_trains_one_set_two_and_three(real, monkeypatch):
    chex.clear_trace_counter()
    monkeypatch.setattr(training, "train_epochs", chex.assert_max_traces(training.train_epochs, n=1))
    protocol = dataclasses.replace(PROTOCOL, width=5)  # of no other test, lest it be compiled already
    for sets in (1, 2, 3):
        assert run([arm(sets=sets, seeds=2, protocol=protocol)], real).trained == 4 * sets


def test_progress_is_the_share_of_all_images_and_says_what_is_trained(real):
    calls = []
    run([arm(sets=1, seeds=1)], real, on_progress=lambda *call: calls.append(call))
    labels, done, totals = zip(*calls, strict=True)
    assert set(labels) == {"syn-any: 2 students × 2 epochs"}
    assert set(totals) == {2 * 2 * 6}
    assert sum(done) == 2 * 2 * 6


def test_finished_says_how_many_students_shared_a_call(real, finished):
    assert finished.chunk == 1
    vmapped = run([arm(sets=1, seeds=3)], real, execution=Execution("vmap", devices=1))
    assert vmapped.chunk == 6


def test_coarser_arithmetic_makes_other_students(real, finished, monkeypatch):
    monkeypatch.setattr("ddr_jax.train.arms._train_group", _no_training)
    other = run([arm()], real, execution=Execution("serial", precision="bfloat16")).tables["syn-any"]
    assert not set(other.students.ravel()) & set(finished.tables["syn-any"].students.ravel())


def test_another_processor_makes_other_students(real, finished, monkeypatch):
    monkeypatch.setattr("ddr_jax.train.arms._train_group", _no_training)
    monkeypatch.setattr("ddr_jax.train.store.processor", lambda: "another")
    other = run([arm()], real).tables["syn-any"]
    assert not set(other.students.ravel()) & set(finished.tables["syn-any"].students.ravel())


def test_the_number_of_devices_is_not_part_of_a_students_identity(real, finished, monkeypatch):
    monkeypatch.setattr("ddr_jax.train.arms._train_group", _no_training)
    other = run([arm()], real, execution=Execution("serial", devices=1, test_batch=64)).tables["syn-any"]
    np.testing.assert_array_equal(other.students, finished.tables["syn-any"].students)


def test_weights_are_kept_for_arms_that_ask_and_found_again(real, tmp_path):
    plain = run([arm(sets=1, seeds=1)], real, store=Store(tmp_path))
    assert plain.weights == {}
    kept = run([arm(sets=1, seeds=1, keep=True)], real, store=Store(tmp_path))
    assert kept.trained == 2  # the store had their accuracies and not their weights
    found = run([arm(sets=1, seeds=1, keep=True)], real, store=Store(tmp_path))
    assert found.trained == 0
    chex.assert_trees_all_equal(found.weights, kept.weights)
    assert set(found.weights) == set(found.tables["syn-any"].students.ravel())


def test_a_scaled_loss_is_multiplied_by_the_square_of_the_temperature(real):
    # without momentum and decay a step is rate · scale · gradient, so a scale of 4 is a rate of 4 times as much
    plain = dataclasses.replace(PROTOCOL, labels="soft", loss="kl", momentum=0.0, weight_decay=0.0, temperature=2.0)
    scaled = dataclasses.replace(plain, scale_loss=True)
    kept = []
    for protocol, rate in ((scaled, 0.01), (plain, 0.04)):
        done = run([arm(sets=1, seeds=1, protocol=dataclasses.replace(protocol, lr=(rate,)), keep=True)], real)
        kept += done.weights.values()
    chex.assert_trees_all_close(*kept, rtol=1e-6)


def test_teacher_labels_make_other_students(real, finished):
    first = finished.tables["syn-any"].students[0, 0, 0]
    trained = run([arm(sets=1, seeds=1, keep=True)], real)
    weights = trained.weights[trained.tables["syn-any"].students[0, 1, 0]]
    teachers = Teachers.of(nets.build("ConvNet-1", width=4, num_classes=3), [weights])
    protocol = dataclasses.replace(PROTOCOL, labels="teacher")
    labelled = run([arm(sets=1, seeds=1, protocol=protocol, teachers=teachers)], real)
    assert first not in labelled.tables["syn-any"].students


CHANGES = {  # of every field of Protocol, another value
    "epochs": 3,
    "batch_size": 2,
    "optimizer": "adam",
    "schedule": "constant",
    "step_size": 2,
    "clock": "step",
    "warmup": 1,
    "fresh_at_drop": True,
    "augment": DSA(),
    "loss": "kl",
    "weight_decay": 0.0,
    "momentum": 0.5,
    "mse_weight": 0.5,
    "ce_weight": 0.5,
    "temperature": 2.0,
    "scale_loss": True,
    "student": "MLP",
    "width": 8,
    "lr": (0.02, 0.2),
    "labels": "teacher",
    "test_every": 2,
}
SOFT = dataclasses.replace(PROTOCOL, labels="soft")


def identities(real, protocol, **options) -> set[str]:
    """Of the students of an arm, without training them; teachers are there for protocols that want them."""
    net = nets.build("MLP", width=2, num_classes=3)
    teachers = Teachers.of(net, [jax.device_get(nets.init(net, KEY, (8, 8, 1)))])
    with mock.patch("ddr_jax.train.arms._train_group", _no_training):
        return set(run([arm(protocol=protocol, teachers=teachers, **options)], real).tables["syn-any"].students.ravel())


def test_every_field_of_a_protocol_changes_its_students_identities(real):
    assert set(CHANGES) | {"readout"} == {field.name for field in dataclasses.fields(Protocol)}  # read afterwards
    before = identities(real, SOFT)
    for name, value in CHANGES.items():
        assert not before & identities(real, dataclasses.replace(SOFT, **{name: value})), name
    assert identities(real, dataclasses.replace(SOFT, readout="best")) == before


def test_every_number_that_trains_a_student_is_in_its_identity(real, monkeypatch):
    row, before = Protocol.row, identities(real, SOFT)
    trained = Student.of([SOFT.row(0.1, True)], KEY[None], [0], [0])
    assert set(trained.numbers) == set(SOFT.row(0.1, True))
    for name, value in SOFT.row(0.1, augmented=False).items():
        other = not value if isinstance(value, bool) else value + 0.25

        def changed(protocol, lr, augmented, name=name, other=other):
            return row(protocol, lr, augmented) | {name: other}

        monkeypatch.setattr(Protocol, "row", changed)
        assert not before & identities(real, SOFT), name


def test_what_a_student_computes_with_comes_from_its_row():
    source = inspect.getsource(training) + inspect.getsource(optim)
    read = set(re.findall(r"numbers\[\"(\w+)\"\]", source))
    assert read <= set(SOFT.row(0.1, True))
    assert {"lr", "momentum", "weight_decay", "temperature", "loss_scale", "mse_weight", "ce_weight"} <= read
