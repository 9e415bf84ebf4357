"""DSA's operations equal the original's given its draws, and a batch gets one of them, drawn from its key."""

from dataclasses import replace
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from ddr_jax import augment, protocol
from ddr_jax.protocol import DSA

# two of the original's six images; per image: NCHW, at the strengths of DSA's defaults
GOLDEN = np.load(Path(__file__).parent / "goldens" / "dsa.npz")
STRENGTHS = DSA()


def _golden(key):
    return jnp.asarray(GOLDEN[key].transpose(0, 2, 3, 1))


def _draws(*names):
    return [jnp.asarray(GOLDEN[name]) for name in names]


def _crop(images, rows, cols, share):
    return augment.crop(images, rows, cols)


GOLDEN_OPERATIONS = [
    ("_brightness", augment.brightness, ["brightness/u"], STRENGTHS.brightness),
    ("_saturation", augment.saturation, ["saturation/u"], STRENGTHS.saturation),
    ("_contrast", augment.contrast, ["contrast/u"], STRENGTHS.contrast),
    ("_flip", augment.flip, ["flip/u"], STRENGTHS.flip),
    ("_rotate", augment.rotate, ["rotate/u"], STRENGTHS.rotate),
    ("_scale", augment.scale, ["scale/u", "scale/v"], STRENGTHS.scale),
    ("_crop", _crop, ["crop/shift_rows", "crop/shift_cols"], STRENGTHS.crop),
    ("_cutout", augment.cutout, ["cutout/offset_rows", "cutout/offset_cols"], STRENGTHS.cutout),
]


class TestOperationsAgainstTheOriginal(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.named_parameters(*GOLDEN_OPERATIONS)
    def test_operation_equals_the_original(self, operation, draws, strength):
        ours = self.variant(operation, static_argnums=len(draws) + 1)(_golden("x"), *_draws(*draws), strength)
        theirs = _golden(draws[0].split("/")[0] + "/out")
        chex.assert_trees_all_close(ours, theirs, atol=1e-4)

    @chex.variants(with_jit=True, without_jit=True)
    def test_same_key_gives_the_same_batch_and_another_key_another(self):
        images = _images(8, 8, 8, 3)
        augmented = self.variant(lambda key: augment.dsa(key, images, DSA(operations=("color",))))
        first, again, other = (augmented(jax.random.key(seed)) for seed in (3, 3, 4))
        chex.assert_trees_all_equal(first, again)
        assert np.abs(first - other).max() > 0.1


_dsa = jax.jit(augment.dsa, static_argnames="config")


def _images(*shape):
    return jax.random.normal(jax.random.key(99), shape)


def _only(operation, **strengths):
    return DSA(operations=(operation,), **strengths)


def test_registry_holds_the_protocols_operations():
    assert tuple(augment.OPERATIONS) == protocol.OPERATIONS


def test_batch_gets_one_operation_and_each_equally_often():
    # flip always, so that no operation leaves a whole batch as it was
    images, keys = _images(6, 6, 6, 3), jax.random.split(jax.random.key(0), 1200)
    config = DSA(flip=1.0, crop=0.5)

    @jax.jit
    @jax.vmap
    def is_it(key):
        one_of_six = augment.dsa(key, images, config)
        alone = [augment.dsa(key, images, replace(config, operations=(name,))) for name in config.operations]
        return jnp.array([jnp.abs(one_of_six - images).max() < 1e-5 for images in alone])

    matches = is_it(keys)
    np.testing.assert_array_equal(matches.sum(axis=1), 1)
    counts = matches.sum(axis=0)  # binomial: 200 ± 12.9
    assert (abs(counts - 200) < 4 * 12.9).all()


def test_vmapped_batch_equals_lone_batch():
    # enough keys for every operation to come up
    images, keys = _images(24, 5, 9, 6, 2), jax.random.split(jax.random.key(1), 24)
    together = jax.jit(jax.vmap(lambda key, x: augment.dsa(key, x, DSA())))(keys, images)
    alone = [_dsa(key, x, DSA()) for key, x in zip(keys, images, strict=True)]
    chex.assert_trees_all_close(together, np.stack(alone), atol=1e-5)


@pytest.mark.parametrize("operation", protocol.OPERATIONS)
def test_every_image_of_a_batch_has_its_own_draws(operation):
    images = jnp.tile(_images(1, 8, 8, 3), (32, 1, 1, 1))
    augmented = _dsa(jax.random.key(2), images, _only(operation, crop=0.5))
    distinct = len(np.unique(np.round(augmented, 4).reshape(32, -1), axis=0))
    assert distinct == 2 if operation == "flip" else distinct > 16


@pytest.mark.parametrize(("shape", "dtype"), [((4, 28, 28, 1), jnp.float32), ((2, 7, 1, 3), jnp.bfloat16)])
def test_any_shape_and_dtype_is_kept_with_finite_values_and_gradients(shape, dtype):
    images = _images(*shape).astype(dtype)

    def total(x, operation):
        augmented = augment.dsa(jax.random.key(3), x, _only(operation))
        chex.assert_equal_shape([augmented, images])
        chex.assert_type(augmented, dtype)
        return augmented.sum()

    @jax.jit
    def by_operation(x):
        return {name: jax.value_and_grad(total)(x, name) for name in protocol.OPERATIONS}

    chex.assert_tree_all_finite(by_operation(images))


def test_saturation_leaves_one_channel_as_it_is():
    images = _images(4, 6, 6, 1)
    chex.assert_trees_all_close(augment.saturation(images, jnp.full(4, 0.9), 2.0), images)


def test_contrast_is_about_the_mean_of_each_image_alone():
    images = _images(3, 5, 5, 2)
    changed = augment.contrast(images.at[1:].multiply(7), jnp.full(3, 0.2), 0.5)
    chex.assert_trees_all_close(changed[0], augment.contrast(images, jnp.full(3, 0.2), 0.5)[0])
    np.testing.assert_allclose(changed[0].mean(), images[0].mean(), atol=1e-6)


def test_neutral_draws_of_the_resampling_operations_leave_images_as_they_are():
    images, half, none = _images(2, 5, 8, 3), jnp.full(2, 0.5), jnp.zeros(2, jnp.int32)
    chex.assert_trees_all_close(jax.jit(augment.rotate)(images, half, 15.0), images, atol=1e-5)
    chex.assert_trees_all_close(jax.jit(augment.scale)(images, half, half, 1.0), images, atol=1e-5)
    chex.assert_trees_all_equal(augment.crop(images, none, none), images)


def test_rotation_by_180_degrees_reverses_rows_and_columns():
    images = _images(2, 5, 8, 3)
    turned = jax.jit(augment.rotate)(images, jnp.ones(2), 180.0)
    chex.assert_trees_all_close(turned, images[:, ::-1, ::-1], atol=1e-4)


def test_what_enters_from_outside_is_zero():
    images = jnp.ones((1, 4, 6, 1))
    shifted = augment.crop(images, jnp.array([1]), jnp.array([-2]))[0, :, :, 0]
    np.testing.assert_array_equal(shifted, [[0, 0, 1, 1, 1, 1]] * 3 + [[0] * 6])
    # factor 2: the corners are read from twice as far out
    shrunk = augment.scale(images, jnp.ones(1), jnp.ones(1), 2.0)[0, :, :, 0]
    assert shrunk[0, 0] == 0
    assert shrunk[1, 2] == 1


def test_cutout_is_clamped_to_the_image():
    images = jnp.ones((2, 4, 6, 1))  # a hole of 2 × 3: from the centre minus (1, 1)
    cut = augment.cutout(images, jnp.array([0, 2]), jnp.array([5, 1]), 0.5)[..., 0]
    np.testing.assert_array_equal(cut[0], [[1, 1, 1, 1, 0, 0]] + [[1] * 6] * 3)
    np.testing.assert_array_equal(cut[1], [[1] * 6, [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [1] * 6])


@pytest.mark.parametrize(
    ("draw", "side", "share", "expected"),
    [
        (augment.crop_shifts, 32, 0.125, range(-4, 5)),
        (augment.crop_shifts, 28, 0.125, range(-4, 5)),  # 3.5 rounds up
        (augment.crop_shifts, 8, 0.0, range(1)),
        (augment.cutout_centres, 8, 0.5, range(9)),  # an even hole: the side itself too
        (augment.cutout_centres, 6, 0.5, range(6)),  # an odd hole
    ],
)
def test_whole_draws_are_uniform_over_their_range(draw, side, share, expected):
    values, counts = np.unique(draw(jax.random.key(4), 4000, side, share), return_counts=True)
    assert values.tolist() == list(expected)
    mean = 4000 / len(expected)
    assert (abs(counts - mean) <= 5 * np.sqrt(mean)).all()
