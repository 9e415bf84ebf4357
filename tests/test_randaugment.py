"""RandAugment's operations equal PIL's, through which torchvision does them; draws are per image and even."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from PIL import Image, ImageEnhance, ImageOps

from ddr_jax.augment import randaugment
from ddr_jax.protocols.augmentations import RandAugment
from ddr_jax.types import InputError

CONFIG = RandAugment(magnitude=9)  # of 30: three tenths
SIDES = 21, 18
SHIFTS = {"translate_x": int(150 / 331 * 18 * 0.3), "translate_y": int(150 / 331 * 21 * 0.3)}


_operate = jax.jit(randaugment.operate, static_argnames="config")


def _number(operation):
    return np.array([randaugment.OPERATIONS.index(operation)])


def _levels(channels, count=2):
    """Noise, the second half of it within a few levels."""
    rng = np.random.default_rng(channels)
    wide = rng.integers(0, 256, (count, *SIDES, channels))
    wide[count // 2 :] = 90 + wide[count // 2 :] // 4
    return wide


def _affine(a, b, c, d, e, f):
    return lambda image, sign: image.transform(
        image.size, Image.Transform.AFFINE, (a, sign * b, sign * c, sign * d, e, sign * f)
    )


def _enhance(kind):
    return lambda image, sign: kind(image).enhance(1 + sign * 0.27)


PIL = {
    "identity": lambda image, sign: image,
    "shear_x": _affine(1, 0.09, 0, 0, 1, 0),
    "shear_y": _affine(1, 0, 0, 0.09, 1, 0),
    "translate_x": _affine(1, 0, -SHIFTS["translate_x"], 0, 1, 0),
    "translate_y": _affine(1, 0, 0, 0, 1, -SHIFTS["translate_y"]),
    "rotate": lambda image, sign: image.rotate(sign * 9),
    "brightness": _enhance(ImageEnhance.Brightness),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "posterize": lambda image, sign: ImageOps.posterize(image, 7),
    "solarize": lambda image, sign: ImageOps.solarize(image, 178.5),
    "autocontrast": lambda image, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, sign: ImageOps.equalize(image),
}


def _by_pil(operation, levels, sign):
    pixels = levels.astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return np.asarray(PIL[operation](image, sign)).reshape(pixels.shape)


class TestOperationsAgainstPIL(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(1, 3)
    def test_every_operation_of_either_sign_is_within_one_level(self, channels):
        cases = [(name, sign, image) for name in PIL for sign in (1, -1) for image in _levels(channels)]
        names, signs, levels = zip(*cases, strict=True)
        which = np.concatenate([_number(name) for name in names])
        operate = self.variant(partial(randaugment.operate, config=CONFIG))
        ours = operate(jnp.asarray(levels), jnp.asarray(which), (jnp.asarray(signs) < 0).astype(int))
        for (name, sign, image), changed in zip(cases, np.asarray(ours), strict=True):
            np.testing.assert_allclose(changed, _by_pil(name, image, sign), atol=1, err_msg=f"{name}, {sign}")


def test_operations_are_torchvisions_fourteen():
    assert tuple(PIL) == randaugment.OPERATIONS


def test_flat_and_tiny_images_stay_as_they_are_where_pil_leaves_them():
    for levels in (np.full((1, 6, 6, 1), 77), _levels(3)[:1, :2, :2]):
        for name in ("autocontrast", "equalize", "sharpness"):
            changed = _operate(levels, _number(name), np.zeros(1, int), CONFIG)
            np.testing.assert_allclose(changed[0], _by_pil(name, levels[0], 1), atol=1, err_msg=name)


def test_equalize_of_few_levels_in_large_images_equals_pils():
    levels = np.random.default_rng(0).integers(0, 5, (1, 64, 64, 3)) ** 2 * 15
    np.testing.assert_array_equal(
        randaugment.equalize(jnp.asarray(levels))[0], ImageOps.equalize(Image.fromarray(levels[0].astype(np.uint8)))
    )


def test_grey_is_pils():
    levels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3))
    grey = np.asarray(Image.fromarray(levels[0].astype(np.uint8)).convert("L"))
    found = randaugment.color(jnp.asarray(levels, jnp.int32), jnp.zeros(1))
    np.testing.assert_array_equal(found[0], np.repeat(grey[:, :, None], 3, axis=2))


def test_bits_that_are_posterized_away_are_rounded():
    changed = _operate(_levels(1), _number("posterize").repeat(2), np.zeros(2, int), RandAugment(magnitude=11))
    np.testing.assert_array_equal(changed, _levels(1) & 0b11111110)  # 4 · 11 / 30 = 1.47


@pytest.mark.parametrize("operation", ["posterize", "solarize"])
def test_greatest_magnitude_is_torchvisions(operation):
    levels = _levels(1)
    changed = _operate(levels, _number(operation).repeat(2), np.zeros(2, int), RandAugment(magnitude=30))
    expected = {"posterize": levels & 0b11110000, "solarize": 255 - levels}[operation]
    np.testing.assert_array_equal(changed, expected)


def test_each_image_gets_one_operation_of_either_sign_and_each_equally_often():
    # every operation, and sign where it has one, gives another image of this noise: 14 + 9
    image = np.clip(_levels(3)[:1], 10, 240)
    number = len(randaugment.OPERATIONS)
    which, negative = np.tile(np.arange(number), 2), np.repeat([0, 1], number)
    outcomes = _operate(np.tile(image, (2 * number, 1, 1, 1)), which, negative, CONFIG)
    distinct, kinds = np.unique(np.asarray(outcomes).reshape(2 * number, -1), axis=0, return_inverse=True)
    assert len(distinct) == 14 + 9

    draws = 2800
    drawn = jax.jit(partial(randaugment.randaugment, config=RandAugment(num_ops=1)))(
        jax.random.key(0), jnp.tile(image / 255, (draws, 1, 1, 1)).astype(jnp.float32)
    )
    drawn = np.round(np.asarray(drawn) * 255).astype(np.int32).reshape(draws, -1)
    seen = {row.tobytes(): kind for kind, row in enumerate(distinct.astype(np.int32))}
    counts = np.bincount([seen[row.tobytes()] for row in drawn], minlength=len(distinct))
    expected = np.bincount(kinds.ravel()) / (2 * number) * draws
    assert (abs(counts - expected) < 4.5 * np.sqrt(expected)).all()


def test_pixels_are_whole_levels_in_range_after_operations():
    images = 3 * jax.random.normal(jax.random.key(1), (40, 8, 8, 3))  # many pixels beyond 0 and 1
    mean, std = np.array([0.1, 0.5, 0.9], np.float32), np.array([0.2, 0.3, 0.4], np.float32)
    changed = jax.jit(partial(randaugment.randaugment, config=CONFIG))(jax.random.key(2), images, mean=mean, std=std)
    chex.assert_equal_shape([images, changed])
    chex.assert_type(changed, images.dtype)
    levels = (np.asarray(changed) * std + mean) * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert levels.min() > -0.5
    assert levels.max() < 255.5


def test_images_neither_grey_nor_rgb_are_refused():
    with pytest.raises(InputError, match="1 or 3 channels, but these have 2"):
        randaugment.randaugment(jax.random.key(0), jnp.zeros((1, 4, 4, 2)), CONFIG)
