"""Operations equal the original's given its draws; what is drawn from a key keeps to its ranges and invariants."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args, get_type_hints

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from absl.testing import parameterized

from ddr_jax.augment import apply, crop, dc, dsa, mix
from ddr_jax.protocols import augmentations
from ddr_jax.protocols.augmentations import (
    DSA,
    Chain,
    Crop,
    CutMix,
    DCAugmentation,
    Mixup,
    PatchShuffle,
    RandAugment,
    ResizedCrop,
)
from ddr_jax.types import InputError

# two of the original's six images; per image: NCHW, at the strengths of DSA's defaults
GOLDEN = np.load(Path(__file__).parent / "goldens" / "dsa.npz")
STRENGTHS = DSA()


def _golden(key):
    return jnp.asarray(GOLDEN[key].transpose(0, 2, 3, 1))


def _draws(*names):
    return [jnp.asarray(GOLDEN[name]) for name in names]


def _crop(images, rows, cols, share):
    return crop.crop(images, rows, cols)


GOLDEN_OPERATIONS = [
    ("_brightness", dsa.brightness, ["brightness/u"], STRENGTHS.brightness),
    ("_saturation", dsa.saturation, ["saturation/u"], STRENGTHS.saturation),
    ("_contrast", dsa.contrast, ["contrast/u"], STRENGTHS.contrast),
    ("_flip", crop.flip, ["flip/u"], STRENGTHS.flip),
    ("_rotate", dsa.rotate, ["rotate/u"], STRENGTHS.rotate),
    ("_scale", dsa.scale, ["scale/u", "scale/v"], STRENGTHS.scale),
    ("_crop", _crop, ["crop/shift_rows", "crop/shift_cols"], STRENGTHS.crop),
    ("_cutout", dsa.cutout, ["cutout/offset_rows", "cutout/offset_cols"], STRENGTHS.cutout),
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
        augmented = self.variant(lambda key: dsa.dsa(key, images, DSA(operations=("color",))))
        first, again, other = (augmented(jax.random.key(seed)) for seed in (3, 3, 4))
        chex.assert_trees_all_equal(first, again)
        assert np.abs(first - other).max() > 0.1


_apply = jax.jit(apply.apply, static_argnames="config")
_dsa = jax.jit(dsa.dsa, static_argnames="config")


def _images(*shape):
    return jax.random.normal(jax.random.key(99), shape)


def _only(operation, **strengths):
    return DSA(operations=(operation,), **strengths)


def test_registries_hold_the_protocols_operations_and_modes():
    assert tuple(dsa.OPERATIONS) == augmentations.OPERATIONS
    assert tuple(dsa.MODES) == get_args(get_type_hints(DSA)["mode"])


@pytest.mark.parametrize("name", augmentations.AUGMENTATIONS)
def test_every_augmentation_changes_images_and_only_mixtures_change_targets(name):
    images, targets = _images(6, 8, 8, 3), jnp.eye(6)
    config = Chain((Crop(), PatchShuffle())) if name == "chain" else augmentations.AUGMENTATIONS[name]()
    changed, mixed = _apply(jax.random.key(2), images, targets, config)
    chex.assert_equal_shape([images, changed])
    assert np.abs(changed - images).max() > 0.1
    np.testing.assert_allclose(mixed.sum(-1), 1, atol=1e-6)
    assert np.array_equal(mixed, targets) == (name not in ("mixup", "cutmix"))


def test_batch_gets_one_operation_and_each_equally_often():
    # flip always, so that no operation leaves a whole batch as it was
    images, keys = _images(6, 6, 6, 3), jax.random.split(jax.random.key(0), 1200)
    config = DSA(flip=1.0, crop=0.5)

    @jax.jit
    @jax.vmap
    def is_it(key):
        one_of_six = dsa.dsa(key, images, config)
        alone = [dsa.dsa(key, images, replace(config, operations=(name,))) for name in config.operations]
        return jnp.array([jnp.abs(one_of_six - images).max() < 1e-5 for images in alone])

    matches = is_it(keys)
    np.testing.assert_array_equal(matches.sum(axis=1), 1)
    counts = np.asarray(matches).sum(axis=0)  # binomial: 200 ± 12.9
    assert (abs(counts - 200) < 4 * 12.9).all()


def test_vmapped_batch_equals_lone_batch():
    # enough keys for every operation to come up
    images, keys = _images(24, 5, 9, 6, 2), jax.random.split(jax.random.key(1), 24)
    together = jax.jit(jax.vmap(lambda key, x: dsa.dsa(key, x, DSA())))(keys, images)
    alone = [_dsa(key, x, DSA()) for key, x in zip(keys, images, strict=True)]
    chex.assert_trees_all_close(together, np.stack(alone), atol=1e-5)


@pytest.mark.parametrize("operation", augmentations.OPERATIONS)
def test_every_image_of_a_batch_has_its_own_draws(operation):
    images = jnp.tile(_images(1, 8, 8, 3), (32, 1, 1, 1))
    augmented = _dsa(jax.random.key(2), images, _only(operation, crop=0.5))
    distinct = len(np.unique(np.round(augmented, 4).reshape(32, -1), axis=0))
    assert distinct == 2 if operation == "flip" else distinct > 16


@pytest.mark.parametrize(("shape", "dtype"), [((4, 28, 28, 1), jnp.float32), ((2, 7, 1, 3), jnp.bfloat16)])
def test_any_shape_and_dtype_is_kept_with_finite_values_and_gradients(shape, dtype):
    images = _images(*shape).astype(dtype)

    def total(x, operation):
        augmented = dsa.dsa(jax.random.key(3), x, _only(operation))
        chex.assert_equal_shape([augmented, images])
        chex.assert_type(augmented, dtype)
        return augmented.sum()

    @jax.jit
    def by_operation(x):
        return {name: jax.value_and_grad(total)(x, name) for name in augmentations.OPERATIONS}

    chex.assert_tree_all_finite(by_operation(images))


def test_saturation_leaves_one_channel_as_it_is():
    images = _images(4, 6, 6, 1)
    chex.assert_trees_all_close(dsa.saturation(images, jnp.full(4, 0.9), 2.0), images)


def test_contrast_is_about_the_mean_of_each_image_alone():
    images = _images(3, 5, 5, 2)
    changed = dsa.contrast(images.at[1:].multiply(7), jnp.full(3, 0.2), 0.5)
    chex.assert_trees_all_close(changed[0], dsa.contrast(images, jnp.full(3, 0.2), 0.5)[0])
    np.testing.assert_allclose(changed[0].mean(), images[0].mean(), atol=1e-6)


def test_neutral_draws_of_the_resampling_operations_leave_images_as_they_are():
    images, half, none = _images(2, 5, 8, 3), jnp.full(2, 0.5), jnp.zeros(2, jnp.int32)
    chex.assert_trees_all_close(jax.jit(dsa.rotate)(images, half, 15.0), images, atol=1e-5)
    chex.assert_trees_all_close(jax.jit(dsa.scale)(images, half, half, 1.0), images, atol=1e-5)
    chex.assert_trees_all_equal(crop.crop(images, none, none), images)


def test_rotation_by_180_degrees_reverses_rows_and_columns():
    images = _images(2, 5, 8, 3)
    turned = jax.jit(dsa.rotate)(images, jnp.ones(2), 180.0)
    chex.assert_trees_all_close(turned, images[:, ::-1, ::-1], atol=1e-4)


def test_what_enters_from_outside_is_zero():
    images = jnp.ones((1, 4, 6, 1))
    shifted = crop.crop(images, jnp.array([1]), jnp.array([-2]))[0, :, :, 0]
    np.testing.assert_array_equal(shifted, [[0, 0, 1, 1, 1, 1]] * 3 + [[0] * 6])
    # factor 2: the corners are read from twice as far out
    shrunk = dsa.scale(images, jnp.ones(1), jnp.ones(1), 2.0)[0, :, :, 0]
    assert shrunk[0, 0] == 0
    assert shrunk[1, 2] == 1


def test_cutout_is_clamped_to_the_image():
    images = jnp.ones((2, 4, 6, 1))  # a hole of 2 × 3: from the centre minus (1, 1)
    cut = dsa.cutout(images, jnp.array([0, 2]), jnp.array([5, 1]), 0.5)[..., 0]
    np.testing.assert_array_equal(cut[0], [[1, 1, 1, 1, 0, 0]] + [[1] * 6] * 3)
    np.testing.assert_array_equal(cut[1], [[1] * 6, [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [1] * 6])


@pytest.mark.parametrize(
    ("draw", "side", "share", "expected"),
    [
        (dsa.crop_shifts, 32, 0.125, range(-4, 5)),
        (dsa.crop_shifts, 28, 0.125, range(-4, 5)),  # 3.5 rounds up
        (dsa.crop_shifts, 31, 0.08, range(-2, 3)),  # 2.48 rounds down
        (dsa.crop_shifts, 8, 0.0, range(1)),
        (dsa.cutout_centres, 8, 0.5, range(9)),  # an even hole: the side itself too
        (dsa.cutout_centres, 6, 0.5, range(6)),  # an odd hole
    ],
)
def test_whole_draws_are_uniform_over_their_range(draw, side, share, expected):
    values, counts = np.unique(draw(jax.random.key(4), 4000, side, share), return_counts=True)
    assert values.tolist() == list(expected)
    mean = 4000 / len(expected)
    assert (abs(counts - mean) <= 5 * np.sqrt(mean)).all()


STRONG = DSA(flip=0.3, rotate=40.0, saturation=1.7, brightness=0.8, contrast=0.6, scale=1.4, crop=0.2, cutout=0.4)


def _in_numpy(name, key, images, config=STRONG):
    """One of DSA's operations in float64, its draws made of the key."""
    b, h, w, _ = images.shape
    u = np.asarray(jax.random.uniform(key, ({"color": 3, "scale": 2}.get(name, 1), b), jnp.float64))
    row_key, col_key = jax.random.split(key)
    if name == "color":
        for image, (bright, saturated, contrasted) in zip(images, u.T, strict=True):
            image += (bright - 0.5) * config.brightness
            grey = image.mean(-1, keepdims=True)
            image[:] = grey + (image - grey) * saturated * config.saturation
            image[:] = image.mean() + (image - image.mean()) * (contrasted + config.contrast)
    elif name == "flip":
        images[u[0] < config.flip] = images[u[0] < config.flip, :, ::-1]
    elif name == "crop":
        most = [int(side * config.crop + 0.5) for side in (h, w)]
        drawn = (jax.random.randint(k, (b,), -m, m + 1) for k, m in zip((row_key, col_key), most, strict=True))
        shifts = np.stack([np.asarray(shift) for shift in drawn], 1)
        images = _read(images, lambda i, r, c: (r + shifts[i, 0], c + shifts[i, 1]))
    elif name == "cutout":
        rows, cols = (_hole(*axis, config.cutout, b) for axis in ((row_key, h), (col_key, w)))
        images[rows[:, :, None] & cols[:, None, :]] = 0
    elif name == "scale":
        factors = 1 / config.scale + u * (config.scale - 1 / config.scale)
        images = _read(images, lambda i, r, c: _about_centre(h, w, r * factors[1, i], c * factors[0, i]), centred=True)
    else:
        angle = np.deg2rad((2 * u[0] - 1) * config.rotate)
        turns = [np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) for a in angle]

        def turned(i, r, c):
            y, x = turns[i] @ np.stack([r / (h - 1), c / (w - 1)]).reshape(2, -1)
            return _about_centre(h, w, (y * (h - 1)).reshape(h, w), (x * (w - 1)).reshape(h, w))

        images = _read(images, turned, centred=True)
    return images


def _hole(key, side, share, count):
    """Which of a side's pixels the hole of each image covers: (count, side)."""
    size = int(side * share + 0.5)
    first = np.asarray(jax.random.randint(key, (count,), 0, side + 1 - size % 2)) - size // 2
    return (np.arange(side) >= first[:, None]) & (np.arange(side) < first[:, None] + size)


def _about_centre(h, w, rows, cols):
    return rows + (h - 1) / 2, cols + (w - 1) / 2


def _read(images, where, centred=False):
    """Each image at the places `where(i, r, c)` of its own, bilinear, 0 outside."""
    b, h, w, k = images.shape
    r, c = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    r, c = (r - (h - 1) / 2, c - (w - 1) / 2) if centred else (r, c)
    padded, read = np.zeros((b, 3 * h, 3 * w, k)), np.zeros_like(images)
    padded[:, h : 2 * h, w : 2 * w] = images
    for i in range(b):
        rows, cols = where(i, r, c)
        top, left = np.floor(rows).astype(int), np.floor(cols).astype(int)
        for down in (0, 1):
            for right in (0, 1):
                share = abs(1 - down - (rows - top)) * abs(1 - right - (cols - left))
                read[i] += share[..., None] * padded[i, top + down + h, left + right + w]
    return read


@pytest.mark.parametrize("shape", [(5, 6, 6, 3), (4, 7, 10, 3), (3, 9, 5, 1)])
@pytest.mark.parametrize("mode", [*augmentations.OPERATIONS, "S", "M"])
def test_operations_alone_and_composed_equal_a_float64_reference(mode, shape):
    images, key = np.random.default_rng(0).normal(size=shape), jax.random.key(17)
    operations = augmentations.OPERATIONS if mode in "SM" else (mode,)
    config = replace(STRONG, operations=operations, mode="M" if mode == "M" else "S")
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # the places that are read are float32
        found = _dsa(key, jnp.asarray(images), config)
        if mode == "M":
            expected = images
            for name, its_key in zip(operations, jax.random.split(key, len(operations)), strict=True):
                expected = _in_numpy(name, its_key, expected.copy())
        else:
            which_key, its_key = jax.random.split(key)
            which = int(jax.random.randint(which_key, (), 0, len(operations)))
            expected = _in_numpy(operations[which], its_key, images.copy())
    places = mode in ("scale", "rotate", "M") or (mode == "S" and operations[which] in ("scale", "rotate"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if places else 1e-13)


@pytest.mark.parametrize("mode", dsa.MODES)
def test_siamese_images_share_one_draw(mode):
    images = jnp.tile(_images(1, 8, 8, 3), (5, 1, 1, 1))
    augmented = _dsa(jax.random.key(6), images, DSA(crop=0.5, flip=1.0, mode=mode, siamese=True))
    assert np.abs(augmented - images).max() > 0.1
    chex.assert_trees_all_close(augmented, jnp.tile(augmented[:1], (5, 1, 1, 1)), atol=1e-6)


def _targets(images):
    return jnp.eye(len(images))


TRANSFORMS = {
    "dsa_m": partial(dsa.dsa, config=DSA(operations=("color", "crop"), mode="M")),
    "dsa_siamese": partial(dsa.dsa, config=DSA(operations=("color", "crop"), siamese=True)),
    "mixup": lambda key, x: mix.mixup(key, x, _targets(x), Mixup(0.8))[0],
    "cutmix": lambda key, x: mix.cutmix(key, x, _targets(x), CutMix())[0],
    "random_crop": partial(crop.random_crop, config=Crop(2)),
    "random_resized_crop": partial(crop.random_resized_crop, config=ResizedCrop()),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_jitted_vmap_over_keys_equals_one_key_after_another(name):
    images, keys = _images(5, 6, 8, 3), jax.random.split(jax.random.key(7), 3)
    together = jax.jit(jax.vmap(TRANSFORMS[name], in_axes=(0, None)))(keys, images)
    transform = jax.jit(TRANSFORMS[name])
    alone = jnp.stack([transform(key, images) for key in keys])
    chex.assert_trees_all_close(together, alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.01


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_keeps_shape_and_dtype_with_finite_gradients(name):
    images = _images(2, 6, 8, 1).astype(jnp.bfloat16)

    def total(x):
        transformed = TRANSFORMS[name](jax.random.key(8), x)
        chex.assert_equal_shape([transformed, images])
        chex.assert_type(transformed, jnp.bfloat16)
        return transformed.sum()

    chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(total))(images))


def test_mix_weighs_each_image_with_its_partner():
    images, order = _images(3, 2, 2, 1), jnp.array([1, 2, 0])
    chex.assert_trees_all_equal(mix.mix(images, order, 1.0), images)
    chex.assert_trees_all_equal(mix.mix(images, order, 0.0), images[order])
    chex.assert_trees_all_close(mix.mix(images, order, 0.25)[0], 0.25 * images[0] + 0.75 * images[1])


@pytest.mark.parametrize(("mixture", "config"), [(mix.mixup, Mixup()), (mix.cutmix, CutMix())])
def test_targets_are_mixed_like_the_pixels(mixture, config):
    # every image is of one value and of a class of its own, so targets say how much of which value is in it
    values = jnp.arange(1.0, 9.0)
    images = jnp.broadcast_to(values[:, None, None, None], (8, 7, 10, 1))
    for key in jax.random.split(jax.random.key(9), 5):
        mixed, targets = mixture(key, images, _targets(images), config)
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), targets @ values, rtol=1e-5)


@pytest.mark.parametrize("config", [Mixup(mix_targets=False), CutMix(mix_targets=False)])
def test_targets_may_stay_as_they_are(config):
    images, targets = _images(4, 6, 6, 1), jax.random.uniform(jax.random.key(1), (4, 3))
    mixed, kept = apply.apply(jax.random.key(10), images, targets, config)
    chex.assert_trees_all_equal(kept, targets)
    assert np.abs(mixed - images).max() > 0.1


@pytest.mark.parametrize("concentration", [0.5, 4.0])
def test_mixtures_share_is_beta_distributed(concentration):
    images, targets, key = _images(6, 9, 8, 1), jnp.eye(6), jax.random.key(11)
    mixed, weights = _apply(key, images, targets, Mixup(concentration))
    share, order = _mixing(key, 6, concentration)
    np.testing.assert_allclose(mixed, share * images + (1 - share) * images[order], atol=1e-6)
    np.testing.assert_allclose(weights, share * targets + (1 - share) * targets[order], atol=1e-6)

    filled, weights = _apply(key, images, targets, CutMix(concentration))
    mixing_key, row_key, col_key = jax.random.split(key, 3)
    share, order = _mixing(mixing_key, 6, concentration)
    inside = [  # half of a side to the nearest pixel below, from the centre
        abs(np.arange(side) + 0.5 - int(jax.random.randint(k, (), 0, side))) < int(side * np.sqrt(1 - share)) // 2
        for side, k in ((9, row_key), (8, col_key))
    ]
    box = inside[0][:, None] & inside[1]
    np.testing.assert_array_equal(filled, np.where(box[:, :, None], images[order], images))
    np.testing.assert_allclose(weights, (1 - box.mean()) * targets + box.mean() * targets[order], atol=1e-6)


def _mixing(key, count, concentration):
    share_key, order_key = jax.random.split(key)
    share = float(jax.random.beta(share_key, concentration, concentration))
    return share, jax.random.permutation(order_key, count)


@pytest.mark.parametrize(
    ("row", "col", "share", "rows", "cols"),
    [
        (4, 3, 0.75, range(2, 6), range(2, 4)),  # half of 8 × 6: 4 × 3, the odd side a pixel less
        (0, 5, 0.75, range(2), range(4, 6)),  # clipped above only: columns 4 and 5 are inside
        (4, 3, 0.0, range(8), range(6)),
        (4, 3, 1.0, range(0), range(0)),
    ],
)
def test_cutmix_box_is_centred_and_clipped(row, col, share, rows, cols):
    expected = np.zeros((8, 6), bool)
    expected[rows.start : rows.stop, cols.start : cols.stop] = True
    np.testing.assert_array_equal(mix.cutmix_box(8, 6, row, col, share), expected)


def test_cutmix_fills_the_same_box_of_every_image_from_its_partner():
    images = jnp.broadcast_to(jnp.arange(8.0)[:, None, None, None], (8, 9, 9, 2))
    mixed, targets = mix.cutmix(jax.random.key(12), images, _targets(images), CutMix())
    partners = np.where(np.diagonal(targets) == 1, np.arange(8), (targets - jnp.diag(jnp.diag(targets))).argmax(axis=1))
    foreign = np.asarray(mixed != images)[partners != np.arange(8)]
    assert foreign.any()
    assert (foreign == foreign[:1]).all()
    np.testing.assert_array_equal(mixed.max(axis=(1, 2, 3)), np.maximum(partners, np.arange(8)))
    np.testing.assert_array_equal(mixed.min(axis=(1, 2, 3)), np.minimum(partners, np.arange(8)))


def test_random_crops_are_all_windows_of_the_padded_image():
    image = 1 + np.arange(12.0).reshape(3, 4, 1)
    cropped = crop.random_crop(jax.random.key(13), jnp.tile(image, (200, 1, 1, 1)), Crop(1, flip=0))
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    windows = np.stack([padded[r : r + 3, c : c + 4] for r in range(3) for c in range(3)])
    matches = (np.asarray(cropped)[:, None] == windows).all(axis=(2, 3, 4))
    np.testing.assert_array_equal(matches.sum(axis=1), 1)
    assert matches.any(axis=0).all()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flips_come_where_draws_are_below_their_probability(probability):
    images, key = jnp.tile(_images(1, 2, 3, 1), (2000, 1, 1, 1)), jax.random.key(14)
    draws = jax.random.uniform(key, (2000,))[:, None, None, None]
    expected = np.where(draws < probability, images[:, :, ::-1], images)
    np.testing.assert_array_equal(crop.mirrored(key, images, probability), expected)
    draws = jax.random.uniform(jax.random.split(key)[1], (2000,))[:, None, None, None]
    expected = np.where(draws < probability, images[:, :, ::-1], images)
    np.testing.assert_array_equal(dsa.dsa(key, images, _only("flip", flip=probability)), expected)


def test_resized_crop_is_the_bilinear_enlargement_of_its_box():
    images = _images(4, 8, 10, 2)
    boxes = np.array([(0, 0, 8, 10), (2, 3, 5, 4), (7, 9, 1, 1), (3, 0, 2, 10)])
    enlarged = jax.jit(crop.resized_crop)(images, *jnp.asarray(boxes.T))
    expected = [
        jax.image.resize(image[top : top + height, left : left + width], (8, 10, 2), "linear")
        for image, (top, left, height, width) in zip(images, boxes, strict=True)
    ]
    chex.assert_trees_all_close(enlarged, jnp.stack(expected), atol=1e-5)


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0), (1.0, 1.6)])  # that nearly always fit, often, seldom
def test_sides_of_crops_are_torchvisions_given_their_draws(scale):
    key, h, w, ratio = jax.random.key(15), 100, 128, (0.75, 4 / 3)
    found = np.stack(crop.crop_sides(key, 500, h, w, scale, ratio), 1)
    keys = jax.random.split(key)
    areas = h * w * jax.random.uniform(keys[0], (10, 500), minval=scale[0], maxval=scale[1])
    bounds = np.log(ratio)
    aspects = np.exp(jax.random.uniform(keys[1], (10, 500), minval=bounds[0], maxval=bounds[1]))
    sides = np.stack([np.round(np.sqrt(areas / aspects)), np.round(np.sqrt(areas * aspects))], -1)
    fits = ((sides >= 1) & (sides <= (h, w))).all(-1)
    expected = np.where(fits.any(0)[:, None], sides[fits.argmax(0), np.arange(500)], (h, w))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("ratio", "expected"), [((0.5, 1.0), (8, 8)), ((2.0, 2.0), (6, 12)), ((1.0, 2.0), (8, 12))])
def test_box_that_never_fits_becomes_the_largest_of_an_allowed_aspect(ratio, expected):
    heights, widths = crop.crop_sides(jax.random.key(16), 5, 8, 12, (3.0, 4.0), ratio)
    assert set(zip(heights.tolist(), widths.tolist(), strict=True)) == {expected}


def test_random_resized_crops_stay_inside_and_go_everywhere():
    # a quarter of the area: boxes of 4 × 4 in 8 × 8, and a pixel's value says where it is from
    coordinates = jnp.stack(jnp.meshgrid(jnp.arange(8.0), jnp.arange(8.0), indexing="ij"), axis=-1)
    config = ResizedCrop(scale=(0.25, 0.25), ratio=(1.0, 1.0), flip=0)
    quarter = jax.jit(partial(crop.random_resized_crop, config=config))
    cropped = quarter(jax.random.key(17), jnp.tile(coordinates, (300, 1, 1, 1)))
    first, last = cropped[:, 0, 0], cropped[:, -1, -1]
    np.testing.assert_array_equal(last - first, 3)
    assert {tuple(corner) for corner in first.astype(int).tolist()} == {(r, c) for r in range(5) for c in range(5)}


@pytest.mark.parametrize(
    "config", [DCAugmentation(), Chain((PatchShuffle(), RandAugment(num_ops=1)))], ids=["dc", "chain"]
)
def test_vmapped_students_augment_like_lone_ones(config):
    images, targets, keys = _images(4, 8, 8, 3), jnp.eye(4), jax.random.split(jax.random.key(20), 3)

    def train(key, augmented):  # as training has it: a traced switch, and steps in a loop
        def step(index, batch):
            change = partial(apply.apply, jax.random.fold_in(key, index), config=config)
            return jax.lax.cond(augmented, change, lambda *batch: batch, *batch)

        return jax.lax.fori_loop(0, 2, step, (images, targets))

    together = jax.jit(jax.vmap(train))(keys, jnp.array([True, True, False]))
    alone = jax.jit(train)(keys[1], True)
    chex.assert_trees_all_close([x[1] for x in together], list(alone), atol=1e-5)
    chex.assert_trees_all_equal([x[2] for x in together], [images, targets])
    chex.assert_type(alone, jnp.float32)
    assert np.abs(alone[0] - images).max() > 0.1


def _like_scipy(image, degrees, fill):
    turned = scipy.ndimage.rotate(image, degrees, axes=(0, 1), cval=fill)
    h, w, _ = image.shape
    top, left = (turned.shape[0] - h) // 2, (turned.shape[1] - w) // 2
    return turned[top : top + h, left : left + w]


@pytest.mark.parametrize("side", [9, 28])
def test_spline_rotation_is_the_centre_of_scipys(side):
    degrees = np.array([-90, -70, -45, -31, -1, 0, 7, 30, 44, 48, 90, 133, 180])
    images = np.asarray(_images(len(degrees), side, side, 2))
    turned = jax.jit(dc.spline_rotate)(images, degrees, 0.7)
    expected = [_like_scipy(image, turn, 0.7) for image, turn in zip(images, degrees.tolist(), strict=True)]
    np.testing.assert_allclose(turned, expected, atol=1e-4)


def test_nearest_scale_is_centred_and_zero_around():
    image = jnp.arange(1.0, 5.0)[None, :, None, None] * jnp.ones((1, 4, 4, 1))

    def column(size):
        return dc.nearest_scale(image, jnp.array([size]), jnp.array([4]))[0, :, 1, 0].tolist()

    assert column(4) == [1, 2, 3, 4]
    assert column(2) == [0, 1, 3, 0]
    assert column(3) == [1, 2, 3, 0]  # old pixels 0, 1 (4/3) and 2 (8/3)
    assert column(8) == [2, 2, 3, 3]  # the middle of 1 1 2 2 3 3 4 4
    assert column(5) == [1, 1, 2, 3]  # of 1 1 2 3 4


def test_each_image_gets_one_of_dcs_operations_equally_often():
    # of these values crops add the mean, 2, scales nothing but 0, turns values between them
    images = jnp.tile(jnp.ones((12, 12, 1)).at[3:9, 3:9].set(5.0), (1500, 1, 1, 1))
    changed = np.asarray(jax.jit(partial(dc.dc, config=DCAugmentation(crop=3)))(jax.random.key(21), images))
    padded = np.pad(images[0, :, :, 0], 3, constant_values=2.0)
    windows = np.stack([padded[r : r + 12, c : c + 12] for r in range(6) for c in range(6)])
    matches = np.isclose(changed[:, None, :, :, 0], windows, atol=1e-5).all(axis=(2, 3))
    assert matches.any(axis=0).all()  # anywhere but the last row and column of places
    unchanged = matches[:, 21]  # a crop in 36, a turn in 90, and a few scales
    cropped = matches.any(axis=1) & ~unchanged
    scaled = np.isin(changed, (0.0, 1.0, 5.0)).all(axis=(1, 2, 3)) & ~unchanged
    turned = ~cropped & ~scaled & ~unchanged
    assert not (cropped & scaled).any()
    for happened, chance in [(cropped, 35 / 36 / 3), (turned, 89 / 90 / 3)]:
        assert abs(happened.mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / 1500)


def test_dcs_operations_draw_from_their_ranges():
    images, key = _images(40, 12, 9, 1), jax.random.key(26)
    row_key, col_key = jax.random.split(key)
    config = DCAugmentation(crop=3, scale=0.3, rotate=40)
    cropped, scaled, turned = (operate(key, images, config) for operate in dc.OPERATIONS)
    sides = [
        (jax.random.uniform(k, (40,), minval=0.7, maxval=1.3) * side).astype(int)
        for k, side in ((row_key, 12), (col_key, 9))
    ]
    np.testing.assert_array_equal(scaled, dc.nearest_scale(images, *sides))
    degrees = jax.random.randint(key, (40,), -40, 40)
    np.testing.assert_allclose(turned, dc.spline_rotate(images, degrees, images.mean()), atol=1e-5)
    shifts = (jax.random.randint(k, (40,), -3, 3) for k in (row_key, col_key))
    np.testing.assert_array_equal(cropped, crop.crop(images, *shifts, images.mean((0, 1, 2))))


def test_dc_fills_with_means_of_the_batch():
    # flat images, of 0 and of (2, 6): crops fill with their channels' means, turns with the mean of those
    images = jnp.tile(jnp.zeros((2, 9, 9, 2)).at[1].set(jnp.array([2.0, 6.0])), (40, 1, 1, 1))
    changed = jax.jit(partial(dc.dc, config=DCAugmentation()))(jax.random.key(0), images)
    assert set(np.unique(changed[::2].round(4)).tolist()) == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize("factor", [2, 3])
def test_patches_are_permuted_whole_and_anew_for_each_image(factor):
    image, (h, w) = np.arange(72.0).reshape(6, 12, 1), (6 // factor, 12 // factor)
    images = crop.patch_shuffle(jax.random.key(22), jnp.tile(image, (500, 1, 1, 1)), PatchShuffle(factor))

    def patches(image):
        return {image[r : r + h, c : c + w].tobytes() for r in range(0, 6, h) for c in range(0, 12, w)}

    assert all(patches(shuffled) == patches(image.astype(np.float32)) for shuffled in np.asarray(images))
    rows = np.asarray(images)[:, :, 0, 0] // 12  # columns and rows of patches change places whole
    assert (np.asarray(images)[:, :, :, 0] // 12 == rows[:, :, None]).all()
    firsts, counts = np.unique(images[:, 0, 0, 0], return_counts=True)
    assert len(firsts) == factor**2
    assert (abs(counts - 500 / factor**2) < 4 * np.sqrt(500 / factor**2)).all()


def test_sides_that_patches_do_not_divide_are_refused():
    with pytest.raises(InputError, match="8 × 9 pixels cannot be cut into 2 × 2"):
        _apply(jax.random.key(0), _images(2, 8, 9, 1), jnp.eye(2), PatchShuffle())


def test_chain_is_its_steps_with_keys_of_their_own():
    images, targets, key = _images(5, 8, 8, 3), jnp.eye(5), jax.random.key(23)
    first, second = jax.random.split(key)
    one_by_one = apply.apply(second, *apply.apply(first, images, targets, PatchShuffle()), Mixup())
    chained = apply.apply(key, images, targets, Chain((PatchShuffle(), Mixup())))
    chex.assert_trees_all_equal(chained, one_by_one)


def test_normalisation_reaches_randaugment_inside_a_chain():
    pixels = np.asarray(jax.random.uniform(jax.random.key(24), (6, 8, 8, 3)))
    mean, std = np.full(3, 0.5, np.float32), np.array([0.2, 0.3, 0.4], np.float32)
    config = Chain((RandAugment(), Crop()))
    plain, _ = _apply(jax.random.key(25), pixels - 0.5, jnp.eye(6), config, mean, np.ones(3, np.float32))
    changed, _ = _apply(jax.random.key(25), (pixels - mean) / std, jnp.eye(6), config, mean, std)
    chex.assert_trees_all_close(np.asarray(changed) * std, plain, atol=1e-5)
