"""Differentiable siamese augmentation of normalised images (B, H, W, K) (Zhao & Bilen 2021, arXiv 2102.08259).

An operation is a pure function of images and of its draws, (B,) each, one per image. u and v are uniform in [0, 1);
strengths are those of `kinds.DSA`. Outside an image all is 0, the mean colour.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from ddr_jax.augment import interpolate
from ddr_jax.augment.crop import crop, flip, per_image, per_side
from ddr_jax.protocols.augmentations import DSA


def brightness(images: jax.Array, u: jax.Array, strength: float) -> jax.Array:
    """x + (u − ½) · strength."""
    return images + (per_image(u) - 0.5) * strength


def saturation(images: jax.Array, u: jax.Array, strength: float) -> jax.Array:
    """m + (x − m) · u · strength, m the mean of a pixel's channels: one channel stays as it is."""
    grey = images.mean(axis=3, keepdims=True)
    return grey + (images - grey) * (per_image(u) * strength)


def contrast(images: jax.Array, u: jax.Array, strength: float) -> jax.Array:
    """m + (x − m) · (u + strength), m the mean of the whole image."""
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (images - mean) * (per_image(u) + strength)


def scale(images: jax.Array, u: jax.Array, v: jax.Array, ratio: float) -> jax.Array:
    """Resized about the centre, bilinear: width by u and height by v, from 1 / ratio (enlarged) to ratio."""
    _, h, w, _ = images.shape
    factors = ((1 / ratio + draw * (ratio - 1 / ratio)).astype(jnp.float32)[:, None, None] for draw in (u, v))
    factors_w, factors_h = factors
    rows = factors_h * _centred(h)[None, :, None] + (h - 1) / 2
    cols = factors_w * _centred(w)[None, None] + (w - 1) / 2
    return interpolate.bilinear(images, rows, cols)


def rotate(images: jax.Array, u: jax.Array, degrees: float) -> jax.Array:
    """Turned about the centre by (2u − 1) · degrees, bilinear.

    The turn is in coordinates from −1 to 1 on either side, so an image of unequal sides is sheared too.
    """
    _, h, w, _ = images.shape
    angles = jnp.deg2rad((2 * u - 1) * degrees).astype(jnp.float32)[:, None, None]
    y, x = _centred(h)[None, :, None] / max(h - 1, 1), _centred(w)[None, None] / max(w - 1, 1)
    rows = (jnp.sin(angles) * x + jnp.cos(angles) * y) * (h - 1) + (h - 1) / 2
    cols = (jnp.cos(angles) * x - jnp.sin(angles) * y) * (w - 1) + (w - 1) / 2
    return interpolate.bilinear(images, rows, cols)


def cutout(images: jax.Array, rows: jax.Array, cols: jax.Array, share: float) -> jax.Array:
    """Sets a rectangle of `share` of either side to 0, centred on pixel (row, col), clipped by the image."""
    _, h, w, _ = images.shape
    hole = _covered(rows, h, share)[:, :, None] & _covered(cols, w, share)[:, None, :]
    return jnp.where(hole[..., None], 0, images)


def crop_shifts(key: jax.Array, batch: int, side: int, share: float) -> jax.Array:
    """Shifts (batch,) for `crop`: uniform from −s to s with s = `share` of the side, to the nearest pixel."""
    most = _pixels(side, share)
    return jax.random.randint(key, (batch,), -most, most + 1)


def cutout_centres(key: jax.Array, batch: int, side: int, share: float) -> jax.Array:
    """Centres (batch,) for `cutout`: uniform on 0 … side − 1, and on `side` too for a hole of even size."""
    even = 1 - _pixels(side, share) % 2
    return jax.random.randint(key, (batch,), 0, side + even)


def dsa(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    """Images (B, H, W, K) after `config.operations`: one of them per batch (mode S), or all in their order (mode M).

    Strengths are drawn per image, or once for the whole batch (`config.siamese`).
    """
    operate = MODES[config.mode]
    if config.siamese:  # the same key for batches of one: the same draws
        return jax.vmap(lambda image: operate(key, image[None], config)[0])(images)
    return operate(key, images, config)


def _one_operation(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    which_key, draw_key = jax.random.split(key)
    which = jax.random.randint(which_key, (), 0, len(config.operations))
    branches = [OPERATIONS[name] for name in config.operations]
    return jax.lax.switch(which, [partial(branch, config=config) for branch in branches], draw_key, images)


def _all_operations(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    for name, operation_key in zip(config.operations, jax.random.split(key, len(config.operations)), strict=True):
        images = OPERATIONS[name](operation_key, images, config)
    return images


def _color(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    u = _uniforms(key, 3, images)
    images = brightness(images, u[0], config.brightness)
    images = saturation(images, u[1], config.saturation)
    return contrast(images, u[2], config.contrast)


def _cutout(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    return cutout(images, *per_side(partial(cutout_centres, share=config.cutout), key, images), config.cutout)


OPERATIONS: dict[str, Callable[..., jax.Array]] = {
    "scale": lambda key, images, config: scale(images, *_uniforms(key, 2, images), ratio=config.scale),
    "rotate": lambda key, images, config: rotate(images, *_uniforms(key, 1, images), degrees=config.rotate),
    "flip": lambda key, images, config: flip(images, *_uniforms(key, 1, images), probability=config.flip),
    "color": _color,
    "crop": lambda key, images, config: crop(images, *per_side(partial(crop_shifts, share=config.crop), key, images)),
    "cutout": _cutout,
}
MODES = {"S": _one_operation, "M": _all_operations}


def _uniforms(key: jax.Array, count: int, images: jax.Array) -> jax.Array:
    return jax.random.uniform(key, (count, len(images)), images.dtype)


def _centred(side: int) -> jax.Array:
    # float32 whatever the images are: positions in half precision would be off by parts of a pixel
    return jnp.arange(side, dtype=jnp.float32) - (side - 1) / 2


def _pixels(side: int, share: float) -> int:
    return int(side * share + 0.5)


def _covered(centres: jax.Array, side: int, share: float) -> jax.Array:
    """Which of a side's pixels the hole covers: (B, side)."""
    size = _pixels(side, share)
    first = centres[:, None] - size // 2
    pixels = jnp.arange(side)[None]
    return (pixels >= first) & (pixels < first + size)
