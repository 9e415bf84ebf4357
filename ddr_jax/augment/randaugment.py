"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719) of images (B, H, W, K), as torchvision does it with PIL.

An operation is a pure function of levels, whole numbers from 0 to 255 in int32, and gives levels. Factors are (B,), one
per image: 1 leaves an image as it is, 0 gives a black, grey, flat or smooth one.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from ddr_jax.augment import interpolate
from ddr_jax.protocols.augmentations import RandAugment
from ddr_jax.types import InputError

Channels = jax.Array | np.ndarray | float  # a number for each channel, or one for all
WARPS = ("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "color", "contrast", "sharpness")
OPERATIONS = (*WARPS, *BLENDS, "posterize", "solarize", "autocontrast", "equalize")
LUMA = (19595, 38470, 7471)  # of red, green and blue, in 65536ths


def randaugment(
    key: jax.Array, images: jax.Array, config: RandAugment, mean: Channels = 0.0, std: Channels = 1.0
) -> jax.Array:
    """Normalised images after `config.num_ops` operations, each drawn per image with a sign of its own.

    `mean` and `std` (K,), in units of pixels in [0, 1], say how the images were normalised; pixels are rounded to 256
    levels in [0, 1], and what enters from outside is black.

    Raises:
        InputError: if images have neither one nor three channels.
    """
    b, _, _, k = images.shape
    if k not in (1, 3):
        raise InputError(f"RandAugment changes grey or RGB images, of 1 or 3 channels, but these have {k}")
    mean, std = (jax.lax.broadcast_to_rank(jnp.asarray(number, images.dtype), 4) for number in (mean, std))
    levels = jnp.round(255 * jnp.clip(images * std + mean, 0, 1)).astype(jnp.int32)
    for step_key in jax.random.split(key, config.num_ops):
        which_key, sign_key = jax.random.split(step_key)
        which = jax.random.randint(which_key, (b,), 0, len(OPERATIONS))
        levels = operate(levels, which, jax.random.randint(sign_key, (b,), 0, 2), config)
    return ((levels / 255 - mean) / std).astype(images.dtype)


def operate(levels: jax.Array, which: jax.Array, negative: jax.Array, config: RandAugment) -> jax.Array:
    """Each image after operation `which` (B,) of `OPERATIONS`, its magnitude negated where `negative` (B,) is 1."""
    _, h, w, _ = levels.shape
    share = config.magnitude / (config.num_magnitude_bins - 1)
    warps = jnp.asarray([_matrices(sign * share, h, w) for sign in (1, -1)], jnp.float32)
    factors = 1 + 0.9 * share * (1 - 2 * negative).astype(jnp.float32)
    changed = (
        warp(levels, warps[negative, jnp.minimum(which, len(WARPS) - 1)]),
        *(blend(levels, factors) for blend in (brightness, color, contrast, sharpness)),
        posterize(levels, 8 - round(4 * share)),
        solarize(levels, 255 * (1 - share)),
        autocontrast(levels),
        equalize(levels),
    )
    case = jnp.maximum(which - len(WARPS) + 1, 0)
    return jax.lax.select_n(jnp.broadcast_to(case[:, None, None, None], levels.shape), *changed)


def warp(levels: jax.Array, matrices: jax.Array) -> jax.Array:
    """Nearest pixels at `matrices` (B, 2, 3) times (x, y, 1), in pixels from the image's corner; 0 outside."""
    _, h, w, _ = levels.shape
    x, y = (jnp.arange(side, dtype=jnp.float32) + 0.5 for side in (w, h))
    x, y = x[None, None], y[None, :, None]
    cols, rows = (m[:, 0] * x + m[:, 1] * y + m[:, 2] for m in jnp.moveaxis(matrices, 1, 0)[..., None, None])
    return interpolate.pick(levels, jnp.floor(rows), jnp.floor(cols))


def brightness(levels: jax.Array, factors: jax.Array) -> jax.Array:
    """Away from black by the factor."""
    return _blend(jnp.zeros_like(levels), levels, factors)


def color(levels: jax.Array, factors: jax.Array) -> jax.Array:
    """Away from grey by the factor: one channel stays as it is."""
    return _blend(_grey(levels), levels, factors)


def contrast(levels: jax.Array, factors: jax.Array) -> jax.Array:
    """Away from the image's mean grey by the factor."""
    _, h, w, _ = levels.shape
    mean = (2 * _grey(levels).sum(axis=(1, 2, 3), keepdims=True) + h * w) // (2 * h * w)
    return _blend(mean, levels, factors)


def sharpness(levels: jax.Array, factors: jax.Array) -> jax.Array:
    """Away from a smoothed image by the factor; the outer pixels stay as they are."""
    _, h, w, _ = levels.shape
    around = sum(levels[:, r : h - 2 + r, c : w - 2 + c] for r in range(3) for c in range(3))
    smooth = (2 * (around + 4 * levels[:, 1:-1, 1:-1]) + 13) // 26
    return _blend(levels.at[:, 1:-1, 1:-1].set(smooth), levels, factors)


def posterize(levels: jax.Array, bits: int) -> jax.Array:
    """Keeps the highest bits of each level."""
    return levels - levels % 2 ** (8 - bits)


def solarize(levels: jax.Array, threshold: float) -> jax.Array:
    """Inverts what is as bright as the threshold."""
    return jnp.where(levels.astype(jnp.float32) >= threshold, 255 - levels, levels)


def autocontrast(levels: jax.Array) -> jax.Array:
    """Stretches each channel of an image to 0 … 255; a flat one stays as it is."""
    low, high = levels.min(axis=(1, 2), keepdims=True), levels.max(axis=(1, 2), keepdims=True)
    return jnp.where(high > low, (levels - low) * 255 // jnp.maximum(high - low, 1), levels)


def equalize(levels: jax.Array) -> jax.Array:
    """Makes each channel's levels about equally frequent; one of too few pixels stays as it is."""
    b, h, w, k = levels.shape
    channels = jnp.moveaxis(levels, 3, 1).reshape(b * k, h * w)
    counts = jax.vmap(lambda channel: jnp.bincount(channel, length=256))(channels)
    brightest = jnp.take_along_axis(counts, channels.max(axis=1, keepdims=True), axis=1)
    step = (h * w - brightest) // 255
    darker = jnp.cumsum(counts, axis=1) - counts
    table = jnp.clip((darker + step // 2) // jnp.maximum(step, 1), 0, 255)
    equal = jnp.where(step > 0, jnp.take_along_axis(table, channels, axis=1), channels)
    return jnp.moveaxis(equal.reshape(b, k, h, w), 1, 3)


def _matrices(share: float, height: int, width: int) -> list[list[list[float]]]:
    """For each of `WARPS` where an image reads (x, y): torchvision's magnitudes times `share`, from −1 to 1."""
    shear, turn = 0.3 * share, math.radians(30 * share)
    right, down = (int(150 / 331 * side * share) for side in (width, height))
    sin, cos, x, y = math.sin(turn), math.cos(turn), width / 2, height / 2
    return [
        [[1, 0, 0], [0, 1, 0]],
        [[1, shear, 0], [0, 1, 0]],
        [[1, 0, 0], [shear, 1, 0]],
        [[1, 0, -right], [0, 1, 0]],
        [[1, 0, 0], [0, 1, -down]],
        [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]],
    ]


def _grey(levels: jax.Array) -> jax.Array:
    if levels.shape[3] == 1:
        return levels
    weighted = (levels * jnp.array([[[LUMA]]])).sum(axis=3, keepdims=True)
    return (weighted + 2**15) // 2**16


def _blend(start: jax.Array, levels: jax.Array, factors: jax.Array) -> jax.Array:
    """From `start` towards, and beyond, the levels, cut off to whole levels."""
    blended = start.astype(jnp.float32) + factors[:, None, None, None] * (levels - start).astype(jnp.float32)
    return jnp.clip(blended, 0, 255).astype(jnp.int32)
