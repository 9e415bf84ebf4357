"""Values of images (B, H, W, K) at other points than their pixels: nearest, bilinear, cubic.

Points are rows and columns in pixels, 0 the centre of the first, given as two arrays that broadcast to (B, H, W).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def pick(images: jax.Array, rows: jax.Array, cols: jax.Array, fill: jax.Array | float = 0) -> jax.Array:
    """The pixels at whole (rows, cols); `fill`, a number or (1, 1, 1, K), outside the image."""
    _, h, w, _ = images.shape
    inside = (rows >= 0) & (rows < h) & (cols >= 0) & (cols < w)
    pixels = _at(images, jnp.clip(rows, 0, h - 1), jnp.clip(cols, 0, w - 1))
    return jnp.where(inside[..., None], pixels, fill)


def bilinear(images: jax.Array, rows: jax.Array, cols: jax.Array) -> jax.Array:
    """Bilinear values; outside the image, pixels are 0."""
    top, left = jnp.floor(rows), jnp.floor(cols)
    below, right = (part[..., None].astype(images.dtype) for part in (rows - top, cols - left))
    above = (1 - right) * pick(images, top, left) + right * pick(images, top, left + 1)
    beneath = (1 - right) * pick(images, top + 1, left) + right * pick(images, top + 1, left + 1)
    return (1 - below) * above + below * beneath


def cubic(images: jax.Array, rows: jax.Array, cols: jax.Array, fill: jax.Array | float = 0) -> jax.Array:
    """Values (B, H, W, K) float32 of the cubic B-spline through the pixels; `fill` beyond the outer pixels' centres.

    The edges are mirrored, as in scipy.ndimage with order 3 and mode "constant".
    """
    _, h, w, _ = images.shape
    filters = (jnp.asarray(_spline_filter(side), jnp.float32) for side in (h, w))
    # full float32: accelerators would multiply such small matrices in fewer bits
    coefficients = jnp.einsum("rh,cw,bhwk->brck", *filters, images, precision=jax.lax.Precision.HIGHEST)
    inside = (rows >= 0) & (rows <= h - 1) & (cols >= 0) & (cols <= w - 1)
    taps = [
        down * across * _at(coefficients, row, col) for row, down in _taps(rows, h) for col, across in _taps(cols, w)
    ]
    return jnp.where(inside[..., None], sum(taps), fill)


def _at(images: jax.Array, rows: jax.Array, cols: jax.Array) -> jax.Array:
    """The pixels at whole (rows, cols), which are inside."""
    b, h, w, k = images.shape
    index = (rows * w + cols).astype(jnp.int32)
    flat = images.reshape(b, h * w, k)
    pixels = jnp.take_along_axis(flat, index.reshape(b, h * w, 1), axis=1, mode="promise_in_bounds")
    return pixels.reshape(images.shape)


def _spline_filter(side: int) -> np.ndarray:
    """The matrix (side, side) from pixels to B-spline coefficients: a spline has 1/6, 4/6, 1/6 of three of them."""
    pixels = np.arange(side)
    values = np.zeros((side, side))
    for offset, weight in ((-1, 1 / 6), (0, 4 / 6), (1, 1 / 6)):
        np.add.at(values, (pixels, _mirrored(pixels + offset, side)), weight)
    return np.linalg.inv(values)


def _taps(places: jax.Array, side: int) -> list[tuple[jax.Array, jax.Array]]:
    """The four coefficients that a place between pixels sees: index and weight of each."""
    first = jnp.floor(jnp.clip(places, 0, side - 1))
    after = jnp.clip(places, 0, side - 1) - first
    before = 1 - after
    near = [4 / 6 - (2 - distance) * distance**2 / 2 for distance in (after, before)]
    weights = [before**3 / 6, *near, after**3 / 6]
    return [
        (_mirrored(first + tap, side), weight[..., None]) for tap, weight in zip((-1, 0, 1, 2), weights, strict=True)
    ]


def _mirrored(index, side: int):
    """Whole indices beyond a side's ends, reflected about its outer pixels."""
    last = side - 1
    return last - abs(index % max(2 * last, 1) - last)
