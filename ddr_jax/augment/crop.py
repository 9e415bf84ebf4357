"""Crops, mirror images and shuffled patches of images (B, H, W, K)."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddr_jax.augment import interpolate
from ddr_jax.protocols.augmentations import Crop, PatchShuffle, ResizedCrop
from ddr_jax.types import InputError


def crop(images: jax.Array, row_shifts: jax.Array, col_shifts: jax.Array, fill: jax.Array | float = 0) -> jax.Array:
    """Pixel (r, c) is read from (r + row shift, c + column shift), whole pixels (B,); `fill` (1, 1, 1, K) outside."""
    _, h, w, _ = images.shape
    rows = row_shifts[:, None, None] + jnp.arange(h)[None, :, None]
    cols = col_shifts[:, None, None] + jnp.arange(w)[None, None]
    return interpolate.pick(images, rows, cols, fill)


def flip(images: jax.Array, u: jax.Array, probability: jax.Array | float) -> jax.Array:
    """Mirrored left to right where u < probability."""
    return jnp.where(per_image(u) < probability, images[:, :, ::-1], images)


def resized_crop(
    images: jax.Array, tops: jax.Array, lefts: jax.Array, heights: jax.Array, widths: jax.Array
) -> jax.Array:
    """The boxes of whole pixels that begin at (top, left), each enlarged to (H, W), bilinear, edges repeated."""
    _, h, w, _ = images.shape
    rows, cols = _stretched(tops, heights, h), _stretched(lefts, widths, w)
    return interpolate.bilinear(images, rows[:, :, None], cols[:, None, :])


def crop_sides(
    key: jax.Array, batch: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[jax.Array, jax.Array]:
    """Heights and widths (batch,) for `resized_crop`, in whole pixels, as torchvision's RandomResizedCrop draws them.

    The share of the area is uniform in `scale`, the logarithm of width / height in that of `ratio`; of ten draws the
    first that fits the image counts, else the largest box whose width / height is in `ratio`.
    """
    area_key, aspect_key = jax.random.split(key)
    areas = height * width * jax.random.uniform(area_key, (10, batch), minval=scale[0], maxval=scale[1])
    low, high = (math.log(bound) for bound in ratio)
    aspects = jnp.exp(jax.random.uniform(aspect_key, (10, batch), minval=low, maxval=high))
    heights, widths = jnp.round(jnp.sqrt(areas / aspects)), jnp.round(jnp.sqrt(areas * aspects))
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    largest = min(height, round(width / aspect)), min(width, round(height * aspect))
    first = fits.argmax(axis=0), jnp.arange(batch)
    sides = (jnp.where(fits[first], x[first], most) for x, most in zip((heights, widths), largest, strict=True))
    heights, widths = (side.astype(jnp.int32) for side in sides)
    return heights, widths


def random_crop(key: jax.Array, images: jax.Array, config: Crop) -> jax.Array:
    """Images padded by `config.padding` pixels of 0 on every side and cropped to (H, W) anywhere, then `mirrored`."""
    crop_key, flip_key = jax.random.split(key)
    most = config.padding
    shifts = per_side(lambda key, batch, side: jax.random.randint(key, (batch,), -most, most + 1), crop_key, images)
    return mirrored(flip_key, crop(images, *shifts), config.flip)


def random_resized_crop(key: jax.Array, images: jax.Array, config: ResizedCrop) -> jax.Array:
    """A box of each image, its sides by `crop_sides`, anywhere in the image, enlarged to (H, W), then `mirrored`."""
    b, h, w, _ = images.shape
    crop_key, flip_key = jax.random.split(key)
    sides_key, top_key, left_key = jax.random.split(crop_key, 3)
    heights, widths = crop_sides(sides_key, b, h, w, config.scale, config.ratio)
    tops = jax.random.randint(top_key, (b,), 0, h - heights + 1)
    lefts = jax.random.randint(left_key, (b,), 0, w - widths + 1)
    return mirrored(flip_key, resized_crop(images, tops, lefts, heights, widths), config.flip)


def mirrored(key: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Images, each mirrored left to right with that probability."""
    return flip(images, jax.random.uniform(key, (len(images),)), probability)


def patch_shuffle(key: jax.Array, images: jax.Array, config: PatchShuffle) -> jax.Array:
    """Images cut into `config.factor` columns and as many rows, which change places; each image has its own order.

    RDED (Sun et al. 2024, arXiv 2312.03526) trains so: columns are shuffled whole, then rows.

    Raises:
        InputError: if a side is not a multiple of the factor.
    """
    _, h, w, _ = images.shape
    factor = config.factor
    if h % factor or w % factor:
        raise InputError(
            f"Images of {h} × {w} pixels cannot be cut into {factor} × {factor} equal patches: choose a factor of "
            "the patch shuffle that divides both sides"
        )
    column_key, row_key = jax.random.split(key)
    return _shuffle_strips(row_key, _shuffle_strips(column_key, images, factor, axis=2), factor, axis=1)


def per_side(draw: Callable[..., jax.Array], key: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What `draw(key, B, side)` gives for the rows and for the columns of images (B, H, W, K)."""
    b, h, w, _ = images.shape
    row_key, col_key = jax.random.split(key)
    return draw(row_key, b, h), draw(col_key, b, w)


def per_image(draws: jax.Array) -> jax.Array:
    """Draws (B,) as an array that broadcasts to images: (B, 1, 1, 1)."""
    return draws[:, None, None, None]


def _stretched(first: jax.Array, sizes: jax.Array, side: int) -> jax.Array:
    """Where a side's pixels are read when a box of `sizes` (B,) from pixel `first` (B,) fills it: (B, side)."""
    first, sizes = (pixels.astype(jnp.float32)[:, None] for pixels in (first, sizes))
    within = (jnp.arange(side, dtype=jnp.float32)[None] + 0.5) * sizes / side - 0.5
    return first + jnp.clip(within, 0, sizes - 1)


def _shuffle_strips(key: jax.Array, images: jax.Array, factor: int, axis: int) -> jax.Array:
    side = images.shape[axis]
    places = jnp.tile(jnp.arange(factor), (len(images), 1))
    order = jax.random.permutation(key, places, axis=1, independent=True)
    pixels = (order[:, :, None] * (side // factor) + jnp.arange(side // factor)[None, None]).reshape(len(images), side)
    return jnp.take_along_axis(images, jnp.expand_dims(pixels, (3 - axis, 3)), axis=axis)
