"""Differentiable siamese augmentation (DSA; Zhao & Bilen 2021, arXiv 2102.08259) of normalised images.

An operation is a pure function of images (B, H, W, K) and of its draws, (B,) each, one per image; `dsa` draws
them from a key. u and v are uniform in [0, 1); strengths are those of `protocol.DSA`. Outside an image all is
0, the mean colour.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:  # the type alone: at run time this room lies below protocol
    from ddr_jax.protocol import DSA


def brightness(images: jax.Array, u: jax.Array, strength: float) -> jax.Array:
    """x + (u − ½) · strength."""
    return images + (_per_image(u) - 0.5) * strength


def saturation(images: jax.Array, u: jax.Array, strength: float) -> jax.Array:
    """m + (x − m) · u · strength, m the mean of a pixel's channels: one channel stays as it is."""
    grey = images.mean(axis=3, keepdims=True)
    return grey + (images - grey) * (_per_image(u) * strength)


def contrast(images: jax.Array, u: jax.Array, strength: float) -> jax.Array:
    """m + (x − m) · (u + strength), m the mean of the whole image."""
    mean = images.mean(axis=(1, 2, 3), keepdims=True)
    return mean + (images - mean) * (_per_image(u) + strength)


def flip(images: jax.Array, u: jax.Array, probability: float) -> jax.Array:
    """Mirrored left to right where u < probability."""
    return jnp.where(_per_image(u) < probability, images[:, :, ::-1], images)


def scale(images: jax.Array, u: jax.Array, v: jax.Array, ratio: float) -> jax.Array:
    """Resized about the centre, bilinear: width by u and height by v, from 1 / ratio (enlarged) to ratio."""
    _, h, w, _ = images.shape
    factors_w, factors_h = (1 / ratio + draw * (ratio - 1 / ratio) for draw in (u, v))
    rows = factors_h[:, None, None] * _centred(h)[:, None] + (h - 1) / 2
    cols = factors_w[:, None, None] * _centred(w) + (w - 1) / 2
    return _sample(images, rows, cols)


def rotate(images: jax.Array, u: jax.Array, degrees: float) -> jax.Array:
    """Turned about the centre by (2u − 1) · degrees, bilinear.

    The turn is in coordinates from −1 to 1 on either side, so an image of unequal sides is sheared too.
    """
    _, h, w, _ = images.shape
    angles = jnp.deg2rad((2 * u - 1) * degrees)[:, None, None]
    y, x = _centred(h)[:, None] / max(h - 1, 1), _centred(w)[None, :] / max(w - 1, 1)
    rows = (jnp.sin(angles) * x + jnp.cos(angles) * y) * (h - 1) + (h - 1) / 2
    cols = (jnp.cos(angles) * x - jnp.sin(angles) * y) * (w - 1) + (w - 1) / 2
    return _sample(images, rows, cols)


def crop(images: jax.Array, row_shifts: jax.Array, col_shifts: jax.Array) -> jax.Array:
    """Pixel (r, c) is read from (r + row shift, c + column shift); shifts (B,) are whole pixels."""
    _, h, w, _ = images.shape
    rows = row_shifts[:, None, None] + jnp.arange(h)[:, None]
    cols = col_shifts[:, None, None] + jnp.arange(w)
    return _pick(images, rows, cols)


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
    """Images (B, H, W, K) after one of `config.operations`: one per batch, its strength drawn per image."""
    which_key, draw_key = jax.random.split(key)
    which = jax.random.randint(which_key, (), 0, len(config.operations))
    branches = [partial(OPERATIONS[name], config=config) for name in config.operations]
    return jax.lax.switch(which, branches, draw_key, images)


def _random_color(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    u = _uniforms(key, 3, images)
    images = brightness(images, u[0], config.brightness)
    images = saturation(images, u[1], config.saturation)
    return contrast(images, u[2], config.contrast)


def _random_flip(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    (u,) = _uniforms(key, 1, images)
    return flip(images, u, config.flip)


def _random_scale(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    u, v = _uniforms(key, 2, images)
    return scale(images, u, v, config.scale)


def _random_rotate(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    (u,) = _uniforms(key, 1, images)
    return rotate(images, u, config.rotate)


def _random_crop(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    shifts = _per_side(crop_shifts, key, images, config.crop)
    return crop(images, *shifts)


def _random_cutout(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    centres = _per_side(cutout_centres, key, images, config.cutout)
    return cutout(images, *centres, config.cutout)


OPERATIONS = {
    "scale": _random_scale,
    "rotate": _random_rotate,
    "flip": _random_flip,
    "color": _random_color,
    "crop": _random_crop,
    "cutout": _random_cutout,
}


def _uniforms(key: jax.Array, count: int, images: jax.Array) -> jax.Array:
    return jax.random.uniform(key, (count, len(images)), images.dtype)


def _per_side(draw: Callable, key: jax.Array, images: jax.Array, share: float) -> tuple[jax.Array, jax.Array]:
    b, h, w, _ = images.shape
    row_key, col_key = jax.random.split(key)
    return draw(row_key, b, h, share), draw(col_key, b, w, share)


def _per_image(draws: jax.Array) -> jax.Array:
    return draws[:, None, None, None]


def _centred(side: int) -> jax.Array:
    # float32 whatever the images are: positions in half precision would be off by parts of a pixel
    return jnp.arange(side, dtype=jnp.float32) - (side - 1) / 2


def _pixels(side: int, share: float) -> int:
    return int(side * share + 0.5)


def _covered(centres: jax.Array, side: int, share: float) -> jax.Array:
    """Which of a side's pixels the hole covers: (B, side)."""
    size = _pixels(side, share)
    first = centres[:, None] - size // 2
    pixels = jnp.arange(side)
    return (pixels >= first) & (pixels < first + size)


def _sample(images: jax.Array, rows: jax.Array, cols: jax.Array) -> jax.Array:
    """Bilinear values at the points (rows, cols), which broadcast to (B, H, W)."""
    top, left = jnp.floor(rows), jnp.floor(cols)
    below, right = (part[..., None].astype(images.dtype) for part in (rows - top, cols - left))
    above = (1 - right) * _pick(images, top, left) + right * _pick(images, top, left + 1)
    beneath = (1 - right) * _pick(images, top + 1, left) + right * _pick(images, top + 1, left + 1)
    return (1 - below) * above + below * beneath


def _pick(images: jax.Array, rows: jax.Array, cols: jax.Array) -> jax.Array:
    """The pixels at whole (rows, cols), which broadcast to (B, H, W)."""
    b, h, w, k = images.shape
    inside = (rows >= 0) & (rows < h) & (cols >= 0) & (cols < w)
    index = (jnp.clip(rows, 0, h - 1) * w + jnp.clip(cols, 0, w - 1)).astype(jnp.int32)
    flat = images.reshape(b, h * w, k)
    pixels = jnp.take_along_axis(flat, index.reshape(b, h * w, 1), axis=1, mode="promise_in_bounds")
    return jnp.where(inside[..., None], pixels.reshape(images.shape), 0)
