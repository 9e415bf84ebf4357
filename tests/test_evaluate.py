import dataclasses

import chex
import jax
import numpy as np
import pytest
from flax import linen as nn

import ddr_jax as ddr
from ddr_jax.data.datasets import without_validation
from ddr_jax.data.distilled import Distilled
from ddr_jax.evaluate import evaluate
from ddr_jax.protocols import demo, presets
from ddr_jax.protocols.augmentations import DSA, NAMED_AUGMENTATIONS, augmentation
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.protocols.settings import Settings
from ddr_jax.scores import metrics
from ddr_jax.train import arms, population
from ddr_jax.train import student as training
from ddr_jax.train.arms import Runner
from ddr_jax.train.store import Store
from ddr_jax.types import Split

PROTOCOL = Protocol(student="ConvNet-1", width=4, epochs=2, lr=0.1, augment=DSA())
REAL = Protocol(student="ConvNet-1", width=4, epochs=2, lr=0.1)


def distilled(name="mine", seed=0, soft=False) -> Distilled:
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], 2)
    images = rng.normal(size=(6, 8, 8, 1)).astype(np.float32)
    soft_labels = (rng.normal(size=(6, 3)) + 5 * np.eye(3)[labels]).astype(np.float32) if soft else None
    return Distilled(name, images, labels, soft_labels, space="normalised", soft="logits")


def protocol(**changes) -> Protocol:
    return dataclasses.replace(PROTOCOL, **changes)


def settings(*scores, seeds=2, **options) -> Settings:
    return Settings(scores, **{"protocol": PROTOCOL, "real_protocol": REAL} | options, seeds=seeds)


@pytest.fixture(scope="module")
def few_digits():
    """A hundred real digits of each split, and a set of two per class with both kinds of labels."""
    real = ddr.load_dataset("digits")
    few = {
        name: Split(split.images[:100], split.labels[:100])
        for name, split in vars(real).items()
        if isinstance(split, Split)
    }
    labels = np.repeat(np.arange(10), 2)
    rng = np.random.default_rng(0)
    soft_labels = (rng.normal(size=(20, 10)) + 5 * np.eye(10)[labels]).astype(np.float32)
    images = rng.normal(size=(20, 8, 8, 1)).astype(np.float32)
    sets = Distilled("mine", images, labels, soft_labels, space="normalised", soft="logits")
    return dataclasses.replace(real, **few), sets


@pytest.fixture(scope="module")
def hard(real):
    return evaluate(distilled(), real, settings("lrs", "ars"))


def test_teachers_may_be_of_another_network_than_students(real):
    taught = settings("accuracy", protocol=protocol(labels="teacher"), teachers=2, teacher="MLP")
    result = evaluate(distilled(), real, taught)
    assert result.data["teachers"] == {"count": 2, "parameters": (64 * 4 + 4) + (4 * 4 + 4) + (4 * 3 + 3)}
    deep = settings("accuracy", protocol=protocol(labels="teacher"), teacher="ConvNet-5")
    with pytest.raises(ddr.InputError, match="ConvNet-5 leaves no pixel"):
        evaluate(distilled(), real, deep)


class Mine(nn.Module):
    """A student of somebody's own, which says nothing of training."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(3)(images.reshape(len(images), -1))


def test_a_module_of_the_users_is_a_student_and_known_by_what_it_computes(real, tmp_path):
    cache = tmp_path / "cache"
    result = ddr.accuracy(distilled(), real, protocol(student=Mine()), seeds=2, store=cache)
    result.save(tmp_path / "r.json")
    assert ddr.load_result(tmp_path / "r.json").scores["accuracy"] == result.scores["accuracy"]
    again = ddr.accuracy(distilled(), real, protocol(student=Mine()), seeds=2, store=cache)
    assert (again.times["students_reused"], result.times["students_trained"]) == (2, 2)
    assert again.times["peak_memory_bytes"] > 1e7
    with pytest.raises(ddr.InputError, match="no student"):
        ddr.accuracy(distilled(), real, ddr.load_result(tmp_path / "r.json").settings.protocol, seeds=2)


def test_hard_labels_need_no_teacher_and_one_student_serves_several_arms(hard):
    assert set(hard.tables) == {
        *("real-hard", "syn-hard", "syn-any", "rdm-any", "syn-aug", "rdm-aug", "syn-noaug", "rdm-noaug")
    }
    arm = {name: table.students for name, table in hard.tables.items()}
    np.testing.assert_array_equal(arm["syn-hard"], arm["syn-any"])
    np.testing.assert_array_equal(arm["syn-aug"], arm["syn-any"])
    np.testing.assert_array_equal(arm["rdm-aug"], arm["rdm-any"])
    assert hard.times["students_trained"] == 5 * 2


def test_scores_are_the_equations_of_the_arms_accuracies(hard):
    arm = {name: reading.accuracy for name, reading in hard.readings.items()}
    lrs = metrics.label_robust_score(arm["real-hard"], arm["syn-hard"], arm["syn-any"], arm["rdm-any"])
    ars = metrics.augmentation_robust_score(arm["syn-aug"], arm["rdm-aug"], arm["syn-noaug"], arm["rdm-noaug"])
    np.testing.assert_allclose(hard.scores["lrs"].overall.mean, lrs.mean())
    np.testing.assert_allclose(hard.scores["ars"].overall.mean, ars.mean())


def test_the_order_of_labels_is_recorded_and_said_where_it_is_unusual(real, hard):
    assert hard.data["sets"][0]["label_order"] == "by class"
    assert "order of class" not in str(hard)
    ordered = distilled()
    shuffled = dataclasses.replace(ordered, images=ordered.images[::-1], labels=ordered.labels[::-1])
    result = evaluate(shuffled, real, settings("accuracy"))
    assert result.data["sets"][0]["label_order"] == "mixed"
    assert "not in order of class in mine" in str(result)


def test_an_evaluation_twice_is_the_same_but_for_times(real, hard):
    again = evaluate(distilled(), real, settings("lrs", "ars"))
    assert again.to_json() | {"times": {}} == hard.to_json() | {"times": {}}


def test_where_every_rate_is_given_nothing_is_held_out(hard):
    splits = hard.data["real"]["splits"]
    assert {name: split["images"] for name, split in splits.items()} == {"train": 120, "test": 30}
    assert hard.tables["syn-any"].validation is None


def test_where_a_rate_is_chosen_a_validation_split_is_held_out_of_train(real):
    grid = settings("accuracy", protocol=protocol(lr=(0.01, 0.1)))
    result = evaluate(distilled(), without_validation(real), grid)
    splits = result.data["real"]["splits"]
    assert {name: split["images"] for name, split in splits.items()} == {"train": 108, "validation": 12, "test": 30}
    table, reading = result.tables["syn-any"], result.readings["syn-any"]
    best = table.validation[0, :, :, -1].mean(-1).argmax()
    np.testing.assert_array_equal(reading.accuracy[0], table.test[0, best, :, -1])


def test_a_grid_of_students_that_are_not_trained_holds_nothing_out(real):
    grid = dataclasses.replace(REAL, lr=(0.01, 0.1))
    assert not settings("lrs", real_protocol=grid, real_accuracy=0.9).chooses_on_validation
    assert settings("lrs", real_protocol=grid).chooses_on_validation
    assert settings("ars", real_protocol=grid, protocol=protocol(labels="teacher")).chooses_on_validation


def test_random_baselines_are_drawn_anew_for_each_seed_from_the_key(real, monkeypatch):
    drawn = {}

    def record(group, *_):
        for job in group:
            drawn.setdefault(job.arm.name, {})[job.place[2]] = job.data
            yield job.student, {"test": [0.5], "diverged": False}, None

    monkeypatch.setattr("ddr_jax.train.arms._train_group", record)

    def draw(key):
        evaluate(distilled(), real, settings("lrs"), key=jax.random.key(key))
        return [drawn["rdm-any"][seed].images for seed in (0, 1)]

    first, other = draw(0), draw(1)
    chex.assert_trees_all_equal(draw(0), first)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])
    train_images = {image.tobytes() for image in without_validation(real).train.images}
    assert {image.tobytes() for draws in first for image in draws} <= train_images
    np.testing.assert_array_equal(drawn["rdm-any"][0].targets.sum(0), [2, 2, 2])


def test_sets_of_one_call_score_as_they_do_alone(real):
    together = evaluate([distilled("a", 0), distilled("b", 1)], real, settings("lrs"))
    alone = evaluate(distilled("b", 1), real, settings("lrs"))
    assert together.scores["lrs"].sets["b"] == alone.scores["lrs"].overall
    assert together.tables["syn-any"].sets == ("a", "b")
    assert together.tables["rdm-any"].sets == ("random",)


def test_a_known_real_accuracy_spares_the_real_hard_students(real):
    result = ddr.label_robust_score(distilled(), real, PROTOCOL, seeds=2, real_accuracy=0.9)
    assert "real-hard" not in result.tables
    expected = 0.9 - result.readings["syn-hard"].accuracy.mean()
    np.testing.assert_allclose(result.scores["hlr"].overall.mean, expected)


def test_accuracy_trains_the_set_alone(real):
    result = ddr.accuracy(distilled(), real, PROTOCOL, seeds=2)
    assert set(result.tables) == {"syn-any"}
    np.testing.assert_allclose(result.scores["accuracy"].overall.mean, result.readings["syn-any"].accuracy.mean())


def test_soft_labels_are_softened_logits_and_teachers_label_the_random_baseline(real, monkeypatch):
    targets = {}
    original = arms._train_group

    def record(group, *rest):
        for job in group:
            targets[job.arm.name, job.place[2]] = job.data.targets
        yield from original(group, *rest)

    monkeypatch.setattr("ddr_jax.train.arms._train_group", record)
    soft = settings("lrs", protocol=protocol(labels="soft", loss="kl", temperature=2.0))
    result = evaluate(distilled(soft=True), real, soft)
    stored = distilled(soft=True).soft_labels
    chex.assert_trees_all_close(targets["syn-any", 0], np.asarray(jax.nn.softmax(stored / 2.0)), atol=1e-6)
    np.testing.assert_array_equal(targets["syn-hard", 0], np.eye(3)[distilled().labels])
    labels = targets["rdm-any", 0]
    np.testing.assert_allclose(labels.sum(-1), 1, rtol=1e-5)
    assert ((labels > 0) & (labels < 1)).all()
    assert result.tables["syn-any"].augmented
    assert not result.tables["syn-hard"].augmented


def test_teachers_are_real_hard_students(real):
    teachers = settings("lrs", protocol=protocol(labels="teacher", temperature=2.0), teachers=2)
    result = evaluate(distilled(), real, teachers)
    np.testing.assert_array_equal(result.tables["teacher"].students, result.tables["real-hard"].students)
    assert result.times["students_trained"] == 2 * 4  # real-hard, syn-hard, syn-any, rdm-any


def test_more_teachers_than_seeds_train_more_real_students(real):
    teachers = settings("ars", protocol=protocol(labels="teacher"), teachers=3, seeds=1)
    result = evaluate(distilled(), real, teachers)
    assert result.tables["teacher"].students.shape == (1, 1, 3)
    assert "real-hard" not in result.tables


def test_kept_teachers_are_reused(real, tmp_path):
    runner = Runner(store=Store(tmp_path))
    teacher = settings("accuracy", protocol=protocol(labels="teacher"), seeds=1)
    first = evaluate(distilled("a", 0), real, teacher, runner=runner)
    second = evaluate(distilled("b", 1), real, teacher, runner=runner)
    assert first.times["students_trained"] == 2
    assert (second.times["students_trained"], second.times["students_reused"]) == (1, 1)
    np.testing.assert_array_equal(second.tables["teacher"].students, first.tables["teacher"].students)


def test_given_teachers_are_used_instead_of_training_some(real, tmp_path):
    teacher = settings("accuracy", protocol=protocol(labels="teacher"), seeds=1)
    trained = evaluate(distilled(), real, teacher, runner=Runner(store=Store(tmp_path)))
    (path,) = (tmp_path / "weights").iterdir()
    given = ddr.load_teachers(path, real=real, student="ConvNet-1", width=4)
    again = evaluate(distilled(), real, teacher, given_teachers=given)
    assert set(again.tables) == {"syn-any"}
    np.testing.assert_array_equal(again.tables["syn-any"].students, trained.tables["syn-any"].students)
    np.testing.assert_array_equal(again.tables["syn-any"].test, trained.tables["syn-any"].test)
    assert again.settings.given_teachers == given.digest


def test_another_teacher_makes_other_students(real):
    teacher = settings("accuracy", protocol=protocol(labels="teacher"), seeds=1)
    longer = dataclasses.replace(teacher, real_protocol=dataclasses.replace(REAL, epochs=3))
    ids = {str(evaluate(distilled(), real, s).tables["syn-any"].students) for s in (teacher, longer)}
    assert len(ids) == 2


@pytest.mark.parametrize("labels", ["hard", "teacher"])
def test_lrs_and_ars_together_need_at_most_four_training_programs(labels, real, monkeypatch):
    chex.clear_trace_counter()
    population._compiled.cache_clear()
    monkeypatch.setattr(training, "train_epochs", chex.assert_max_traces(training.train_epochs, n=4))
    given = demo.settings(seeds=1)
    small = {"epochs": 1, "width": 4, "student": "ConvNet-1"}
    shrunk = dataclasses.replace(
        given,
        protocol=dataclasses.replace(given.protocol, labels=labels, **small),
        real_protocol=dataclasses.replace(given.real_protocol, **small),
    )
    result = evaluate(demo.distilled_set(), ddr.load_dataset("digits"), shrunk)
    assert {"lrs", "ars"} <= set(result.scores)


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["hard", "soft", "teacher"])
@pytest.mark.parametrize("name", ["none", *NAMED_AUGMENTATIONS])
def test_every_score_runs_on_digits_with_every_kind_of_labels_and_augmentation(few_digits, labels, name):
    real, sets = few_digits
    scores = ("accuracy", "lrs", "ars")
    cell = protocol(labels=labels, augment=augmentation(name, real.flips), epochs=1)
    result = evaluate(sets, real, settings(*scores, protocol=cell, seeds=1))
    assert set(scores) <= set(result.scores)
    assert result.diverged == 0
    assert ddr.Result.from_json(result.to_json()).to_json() == result.to_json()


@pytest.mark.slow
@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_scores_digits(few_digits, name):
    real, sets = few_digits
    recipe = presets.preset(name, student="ConvNet-1", width=4, epochs=1, warmup=0, step_size=None, test_every=None)
    options = presets.find(name).settings | {"seeds": 1, "random_lr": None, "hard_lr": None}
    result = evaluate(sets, real, Settings(("lrs", "ars"), recipe, REAL, **options))
    assert {"lrs", "ars"} <= set(result.scores)
    assert result.diverged == 0


@pytest.mark.parametrize(("labels", "loss"), [("soft", "mse_gt"), ("teacher", "mse_gt"), ("soft", "kl")])
def test_every_loss_scores(few_digits, labels, loss):
    real, sets = few_digits
    cell = protocol(labels=labels, loss=loss, epochs=1)
    result = evaluate(sets, real, settings("lrs", protocol=cell, seeds=1))
    assert set(result.scores) == {"hlr", "ior", "lrs"}
    assert result.diverged == 0


def test_hard_and_random_arms_may_have_rates_and_augmentation_of_their_own(real):
    soft = settings(
        "lrs",
        protocol=protocol(labels="soft", readout="best"),
        hard_lr=(0.01, 0.1),
        random_lr=(0.01, 0.1, 0.2),
        hard_augment=True,
    )
    result = evaluate(distilled(soft=True), real, soft)
    assert {name: len(table.lrs) for name, table in result.tables.items() if name[:4] in ("syn-", "rdm-")} == {
        "syn-any": 1,
        "syn-hard": 2,
        "rdm-any": 3,
    }
    assert result.tables["syn-hard"].augmented
    assert ddr.Result.from_json(result.to_json()).settings == result.settings


def test_hard_arms_of_hard_labels_may_go_without_augmentation(real):
    result = evaluate(distilled(), real, settings("lrs", hard_augment=False))
    assert (result.tables["syn-any"].augmented, result.tables["syn-hard"].augmented) == (True, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": protocol(labels="soft")}, "mine holds no soft_labels"),
        ({"protocol": protocol(student="ConvNet-5")}, "use ConvNet-3"),
        ({"real_protocol": dataclasses.replace(REAL, labels="soft")}, "learn from hard ones"),
    ],
)
def test_settings_that_do_not_fit_the_set_are_refused_before_training(real, options, message, monkeypatch):
    monkeypatch.setattr("ddr_jax.evaluate.train_arms", lambda *_, **__: pytest.fail("it trained"))
    with pytest.raises(ddr.InputError, match=message):
        evaluate(distilled(), real, settings("lrs", **options))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"seeds": "x"}, "seeds is 'x'; expected a whole number"),
        ({"key": "a"}, "key is 'a'; expected a seed, or one key of jax.random.key"),
        ({"store": 3}, "store is 3; expected"),
        ({"scores": 3}, "scores is 3; expected text"),
        ({"scores": ("lsr",)}, "Unknown score 'lsr': did you mean 'lrs'"),
        ({"protocol": "das"}, "Unknown preset 'das': did you mean"),
        ({"protocol": 3}, "protocol is 3; expected an instance of Protocol"),
        ({"execution": "serial"}, "execution is 'serial'; expected an instance of Execution"),
        ({"on_progress": 3}, "on_progress is 3"),
        ({"teachers": "x"}, "teachers is 'x'; expected a whole number"),
        ({"real_accuracy": "knwn"}, "real_accuracy is 'knwn'; expected a number or known"),
        ({"real_protocol": "dsa"}, "real_protocol is 'dsa'; expected an instance of Protocol"),
        ({"weight": 2}, r"weight is 2; expected a number in \[0, 1\]"),
        ({"seed": 3}, "Unknown argument 'seed': did you mean 'seeds'"),
        ({"sets": 3}, "sets is a int; expected"),
        ({"real": 3}, "real is a int; expected a name, a path"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_argument_of_a_wrong_type_is_refused_by_name(real, argument, message):
    with pytest.raises(ddr.InputError, match=message):
        ddr.score(**{"sets": distilled(), "real": real} | argument)


def test_sets_and_real_data_may_be_named_and_a_preset_is_a_protocol(tmp_path):
    train = ddr.load_dataset("digits").train
    index = [int(np.flatnonzero(train.labels == c)[0]) for c in range(10)]
    content = {"images": train.images[index], "labels": train.labels[index], "space": "normalised"}
    np.savez(tmp_path / "mine.npz", **content)
    protocol = ddr.preset("dc", student="MLP", width=4, epochs=2)
    found = ddr.score(tmp_path / "mine.npz", "digits", protocol, ["accuracy"], seeds=2, key=3, store=tmp_path / "s")
    again = ddr.accuracy(content, ddr.load_dataset("digits"), protocol, seeds=2, key=jax.random.key(3))
    chex.assert_trees_all_equal(found.values["accuracy"], again.values["accuracy"])
    assert len(list((tmp_path / "s" / "students").iterdir())) == 2
