from dataclasses import replace

import jax
import numpy as np
import pytest

from ddr_jax import nets
from ddr_jax.data.baselines import BASELINES, IN_FEATURES, VARYING
from ddr_jax.data.spaces import Normalised
from ddr_jax.train import teachers
from ddr_jax.types import InputError, RealData, Split

COUNTS = np.array([3, 0, 5])


def draw(name, real, counts=COUNTS, features=None, seed=0):
    return BASELINES[name](real, counts, features, np.random.default_rng(seed))


def line(*values, name="line"):
    """One class of one-pixel images on a line."""
    images = np.array(values, np.float32).reshape(-1, 1, 1, 1)
    split = Split(images, np.zeros(len(images), np.int32))
    one = np.ones(1, np.float32)
    return RealData(name, split, None, split, Normalised(0 * one, one), num_classes=1, flips=False)


def drawn_from_line(name, values, count, seed=0):
    return draw(name, line(*values), np.array([count]), seed=seed)[0].ravel().tolist()


def positions(images, real):
    """Where each image stands in train."""
    same = (images[:, None] == real.train.images[None]).all((2, 3, 4))
    assert (same.sum(1) == 1).all()
    return same.argmax(1)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_have_the_counts_of_each_class(name, real):
    images, labels = draw(name, real)
    assert labels.tolist() == [0] * 3 + [2] * 5
    assert (images.shape, images.dtype, labels.dtype) == ((8, 8, 8, 1), np.float32, np.int32)


@pytest.mark.parametrize("name", sorted(BASELINES.keys() - {"noise"}))
def test_coresets_are_distinct_train_images_of_their_class(name, real):
    images, labels = draw(name, real)
    index = positions(images, real)
    assert len(set(index)) == 8
    assert (real.train.labels[index] == labels).all()


@pytest.mark.parametrize("name", BASELINES)
def test_only_varying_baselines_depend_on_the_generator(name, real):
    draws = [draw(name, real, seed=seed)[0] for seed in (0, 0, 1)]
    assert np.array_equal(draws[0], draws[1])
    assert np.array_equal(draws[0], draws[2]) == (name not in VARYING)


@pytest.mark.parametrize("name", BASELINES)
def test_only_some_baselines_look_at_features(name, real):
    features = np.random.default_rng(1).normal(size=(90, 5)).astype(np.float32)
    same = np.array_equal(draw(name, real)[0], draw(name, real, features=features)[0])
    assert same == (name not in IN_FEATURES)


def test_noise_is_standard_normal(real):
    images, _ = draw("noise", real, np.array([100, 100, 100]))
    assert abs(images.mean()) < 0.03
    assert abs(images.std() - 1) < 0.03


def test_herding_keeps_the_running_mean_nearest_to_the_class_mean(real):
    features = np.random.default_rng(2).normal(3.0, 1.0, size=(90, 6)).astype(np.float32)
    chosen = positions(draw("herding", real, np.array([0, 6, 0]), features)[0], real)
    members = np.flatnonzero(real.train.labels == 1)
    mean = features[members].astype(np.float64).mean(0)
    for t in range(len(chosen)):
        rest = [i for i in members if i not in chosen[:t]]
        off = [np.linalg.norm(features[[*chosen[:t], i]].mean(0) - mean) for i in rest]
        assert rest[np.argmin(off)] == chosen[t]


def test_k_center_goes_from_the_mean_to_the_farthest():
    assert drawn_from_line("k-center", (0, 1, 4, 5, 6, 10, 12), 4) == [5, 12, 0, 10]


def test_k_means_finds_an_image_in_the_middle_of_each_cluster():
    clusters = (0, 1, 2, 100, 101, 102, 200, 201, 202)
    for seed in range(5):
        assert sorted(drawn_from_line("k-means", clusters, 3, seed)) == [1, 101, 201]


def test_k_means_of_one_image_is_the_nearest_to_the_mean():
    assert drawn_from_line("k-means", (0, 1, 5, 14), 1) == drawn_from_line("herding", (0, 1, 5, 14), 1) == [5]


@pytest.mark.parametrize("name", IN_FEATURES)
def test_equal_images_are_chosen_as_often_as_they_are_there(name):
    assert sorted(drawn_from_line(name, (3, 3, 3, 7), 4)) == [3, 3, 3, 7]


@pytest.mark.parametrize("name", IN_FEATURES)
def test_a_common_offset_of_features_changes_nothing(name, real):
    features = np.random.default_rng(3).normal(size=(90, 5)).round(2).astype(np.float32)
    assert np.array_equal(draw(name, real, features=features)[0], draw(name, real, features=features + 1000)[0])


@pytest.mark.parametrize("name", sorted(BASELINES.keys() - {"noise"}))
def test_too_few_images_of_a_class_are_refused(name, real):
    with pytest.raises(InputError, match="31 images of class 1, and the real data has 30"):
        draw(name, real, np.array([1, 31, 1]))


def test_features_of_a_diverged_teacher_are_refused(real):
    with pytest.raises(InputError, match="diverge"):
        draw("k-means", real, features=np.full((90, 4), np.nan, np.float32))


def test_coresets_leave_held_out_images_alone(real):
    without = replace(real, validation=None, test=real.train)
    assert np.array_equal(draw("k-center", real)[0], draw("k-center", without)[0])


def test_features_are_embeddings_whatever_the_batch(real):
    net = nets.build("MLP", width=4, num_classes=3)
    variables = nets.init(net, jax.random.key(0), real.image_shape)
    images = real.train.images[:10]
    expected = nets.embed(net, variables, images)
    for batch in (4, 10, 64):
        np.testing.assert_allclose(teachers.features(net, variables, images, batch), expected, atol=1e-5)
