"""How DC (Zhao et al. 2021, arXiv 2006.05929) augments MNIST: one operation for each image (H, W, K)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ddr_jax.augment import interpolate
from ddr_jax.augment.crop import crop, per_image, per_side
from ddr_jax.protocols.augmentations import DCAugmentation

SINES = np.round(np.sin(np.deg2rad(np.arange(360))), 15)  # of whole degrees; rounded, so that those of 0 and 180 are 0


def nearest_scale(images: jax.Array, heights: jax.Array, widths: jax.Array) -> jax.Array:
    """Resized to (height, width), whole pixels (B,) of 1 or more, by nearest neighbours, about the centre.

    New pixel r is old pixel ⌊r · H / height⌋, as in PyTorch's interpolate; an odd pixel more or less goes below and
    to the right.
    """
    _, h, w, _ = images.shape
    canvas = jnp.maximum(jnp.maximum(heights, widths), max(h, w))
    rows, cols = _resized(heights, h, canvas), _resized(widths, w, canvas)
    return interpolate.pick(images, rows[:, :, None], cols[:, None, :])


def spline_rotate(images: jax.Array, degrees: jax.Array, fill: jax.Array | float = 0) -> jax.Array:
    """Turned counter-clockwise by whole degrees (B,), cubic splines: the centre of what scipy.ndimage.rotate gives."""
    _, h, w, _ = images.shape
    sines = jnp.asarray(SINES, jnp.float32)
    sin, cos = sines[degrees % 360][:, None, None], sines[(degrees + 90) % 360][:, None, None]
    y = _turned_places(h, h * abs(cos) + w * abs(sin))[:, :, None]
    x = _turned_places(w, h * abs(sin) + w * abs(cos))[:, None, :]
    rows, cols = cos * y + sin * x + (h - 1) / 2, cos * x - sin * y + (w - 1) / 2
    return interpolate.cubic(images, rows, cols, fill).astype(images.dtype)


def dc(key: jax.Array, images: jax.Array, config: DCAugmentation) -> jax.Array:
    """Each image (B, H, W, K) after one operation of its own: a crop, a scaling or a turn, as DC's code draws them."""
    which_key, *keys = jax.random.split(key, 1 + len(OPERATIONS))
    which = jax.random.randint(which_key, (len(images),), 0, len(OPERATIONS))
    changed = [operate(k, images, config) for operate, k in zip(OPERATIONS, keys, strict=True)]
    return jax.lax.select_n(jnp.broadcast_to(per_image(which), images.shape), *changed)


def _crop(key: jax.Array, images: jax.Array, config: DCAugmentation) -> jax.Array:
    most = config.crop
    # DC's code never draws the last of the 2 · padding + 1 places
    shifts = per_side(lambda key, batch, side: jax.random.randint(key, (batch,), -most, most), key, images)
    return crop(images, *shifts, fill=images.mean(axis=(0, 1, 2), keepdims=True))


def _scale(key: jax.Array, images: jax.Array, config: DCAugmentation) -> jax.Array:
    def sides(key: jax.Array, batch: int, side: int) -> jax.Array:
        factors = jax.random.uniform(key, (batch,), minval=1 - config.scale, maxval=1 + config.scale)
        return jnp.maximum(factors * side, 1).astype(jnp.int32)

    return nearest_scale(images, *per_side(sides, key, images))


def _rotate(key: jax.Array, images: jax.Array, config: DCAugmentation) -> jax.Array:
    degrees = jax.random.randint(key, (len(images),), -config.rotate, max(config.rotate, 1))
    return spline_rotate(images, degrees, images.mean())


OPERATIONS = (_crop, _scale, _rotate)


def _resized(sizes: jax.Array, side: int, canvas: jax.Array) -> jax.Array:
    """The old pixels of a side, resized to `sizes` (B,) and centred in `canvas` (B,): (B, side), some outside."""
    first = (canvas - side) // 2 - (canvas - sizes) // 2
    return (first[:, None] + jnp.arange(side)[None]) * side // sizes[:, None]


def _turned_places(side: int, extent: jax.Array) -> jax.Array:
    """The places of a side's pixels, about the centre of a turned image whose side is `extent` (B, 1, 1): (B, side)."""
    turned = jnp.floor(extent[:, 0] + 0.5)
    first = jnp.trunc((turned - side) / 2)
    return first + jnp.arange(side, dtype=jnp.float32)[None] - (turned - 1) / 2
