"""Augmentation of normalised images (B, H, W, K): DSA, DC's, mixtures of images, crops, flips and shuffled patches.

An operation is a pure function of images and of its draws, (B,) each, one per image, unless it says otherwise.
`dsa` (differentiable siamese augmentation; Zhao & Bilen 2021, arXiv 2102.08259) and the functions below it draw
from a key and apply. u and v are uniform in [0, 1); strengths are those of `protocol.DSA`. Outside an image all
is 0, the mean colour, unless a `fill` is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ddr_jax.augment import interpolate
from ddr_jax.augment.randaugment import randaugment
from ddr_jax.protocols.augmentations import (
    DSA,
    Augmentation,
    Chain,
    Crop,
    CutMix,
    DCAugmentation,
    Mixup,
    PatchShuffle,
    RandAugment,
)
from ddr_jax.types import InputError

SINES = np.round(np.sin(np.deg2rad(np.arange(360))), 15)  # of whole degrees; rounded, so that those of 0 and 180 are 0


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


def flip(images: jax.Array, u: jax.Array, probability: jax.Array | float) -> jax.Array:
    """Mirrored left to right where u < probability."""
    return jnp.where(_per_image(u) < probability, images[:, :, ::-1], images)


def scale(images: jax.Array, u: jax.Array, v: jax.Array, ratio: float) -> jax.Array:
    """Resized about the centre, bilinear: width by u and height by v, from 1 / ratio (enlarged) to ratio."""
    _, h, w, _ = images.shape
    factors_w, factors_h = (1 / ratio + draw * (ratio - 1 / ratio) for draw in (u, v))
    rows = factors_h[:, None, None] * _centred(h)[:, None] + (h - 1) / 2
    cols = factors_w[:, None, None] * _centred(w) + (w - 1) / 2
    return interpolate.bilinear(images, rows, cols)


def rotate(images: jax.Array, u: jax.Array, degrees: float) -> jax.Array:
    """Turned about the centre by (2u − 1) · degrees, bilinear.

    The turn is in coordinates from −1 to 1 on either side, so an image of unequal sides is sheared too.
    """
    _, h, w, _ = images.shape
    angles = jnp.deg2rad((2 * u - 1) * degrees)[:, None, None]
    y, x = _centred(h)[:, None] / max(h - 1, 1), _centred(w)[None, :] / max(w - 1, 1)
    rows = (jnp.sin(angles) * x + jnp.cos(angles) * y) * (h - 1) + (h - 1) / 2
    cols = (jnp.cos(angles) * x - jnp.sin(angles) * y) * (w - 1) + (w - 1) / 2
    return interpolate.bilinear(images, rows, cols)


def crop(images: jax.Array, row_shifts: jax.Array, col_shifts: jax.Array, fill: jax.Array | float = 0) -> jax.Array:
    """Pixel (r, c) is read from (r + row shift, c + column shift); shifts (B,) are whole pixels, `fill` (K,)."""
    _, h, w, _ = images.shape
    rows = row_shifts[:, None, None] + jnp.arange(h)[:, None]
    cols = col_shifts[:, None, None] + jnp.arange(w)
    return interpolate.pick(images, rows, cols, fill)


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


def mix(x: jax.Array, order: jax.Array, share: jax.Array | float) -> jax.Array:
    """share · x + (1 − share) · x[order], for images or targets x (B, ...) and a permutation `order` (B,)."""
    share = jnp.asarray(share, x.dtype)
    return share * x + (1 - share) * x[order]


def cutmix_box(height: int, width: int, row: jax.Array, col: jax.Array, share: jax.Array | float) -> jax.Array:
    """The pixels (height, width) bool that another image fills: 1 − `share` of the area, about (row, col).

    The sides are rounded down to even numbers of pixels and clipped by the image, so that the true share is larger.
    """
    side = jnp.sqrt(1 - share)
    rows, cols = _about(row, height, side), _about(col, width, side)
    return rows[:, None] & cols


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


def apply(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    config: Augmentation,
    mean: jax.Array | np.ndarray | float = 0.0,
    std: jax.Array | np.ndarray | float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Images (B, H, W, K) and targets (B, C) after an augmentation; only mixtures change targets.

    `mean` and `std` (K,), in units of pixels in [0, 1], say how the images were normalised; RandAugment needs them.

    Raises:
        InputError: where a side is not a multiple of a patch shuffle's factor, or images of RandAugment are neither
            grey nor RGB.
    """
    match config:
        case Chain():
            for step, step_key in zip(config.steps, jax.random.split(key, len(config.steps)), strict=True):
                images, targets = apply(step_key, images, targets, step, mean, std)
            return images, targets
        case Mixup():
            return mixup(key, images, targets, config.alpha, mix_targets=config.mix_targets)
        case CutMix():
            return cutmix(key, images, targets, config.beta, mix_targets=config.mix_targets)
        case DSA():
            return dsa(key, images, config), targets
        case DCAugmentation():
            return dc(key, images, config), targets
        case RandAugment():
            return randaugment(key, images, config, mean, std), targets
        case PatchShuffle():
            return patch_shuffle(key, images, config.factor), targets
    crop_key, flip_key = jax.random.split(key)
    if isinstance(config, Crop):
        images = random_crop(crop_key, images, config.padding)
    else:
        images = random_resized_crop(crop_key, images, config.scale, config.ratio)
    return horizontal_flip(flip_key, images, config.flip), targets


def dsa(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    """Images (B, H, W, K) after `config.operations`: one of them per batch (mode S), or all in their order (mode M).

    Strengths are drawn per image, or once for the whole batch (`config.siamese`).
    """
    operate = partial(MODES[config.mode], config=config)
    if config.siamese:  # the same key for batches of one: the same draws
        return jax.vmap(lambda image: operate(key, image[None])[0])(images)
    return operate(key, images)


def dc(key: jax.Array, images: jax.Array, config: DCAugmentation) -> jax.Array:
    """Each image (B, H, W, K) after one operation of its own, of `DC_OPERATIONS`: those of DC's code on MNIST."""
    which_key, *keys = jax.random.split(key, 1 + len(DC_OPERATIONS))
    which = jax.random.randint(which_key, (len(images),), 0, len(DC_OPERATIONS))
    changed = [DC_OPERATIONS[name](k, images, config) for name, k in zip(DC_OPERATIONS, keys, strict=True)]
    return jax.lax.select_n(jnp.broadcast_to(_per_image(which), images.shape), *changed)


def patch_shuffle(key: jax.Array, images: jax.Array, factor: int) -> jax.Array:
    """Images cut into `factor` columns and as many rows that change places, each image in its own order.

    RDED (Sun et al. 2024, arXiv 2312.03526) trains so: columns are shuffled whole, then rows.

    Raises:
        InputError: if a side is not a multiple of `factor`.
    """
    _, h, w, _ = images.shape
    if h % factor or w % factor:
        raise InputError(
            f"Images of {h} × {w} pixels cannot be cut into {factor} × {factor} equal patches: choose a factor of "
            "the patch shuffle that divides both sides"
        )
    column_key, row_key = jax.random.split(key)
    return _shuffle_strips(row_key, _shuffle_strips(column_key, images, factor, axis=2), factor, axis=1)


def _shuffle_strips(key: jax.Array, images: jax.Array, factor: int, axis: int) -> jax.Array:
    side = images.shape[axis]
    places = jnp.tile(jnp.arange(factor), (len(images), 1))
    order = jax.random.permutation(key, places, axis=1, independent=True)
    pixels = (order[:, :, None] * (side // factor) + jnp.arange(side // factor)).reshape(len(images), side)
    return jnp.take_along_axis(images, jnp.expand_dims(pixels, (3 - axis, 3)), axis=axis)


def mixup(
    key: jax.Array, images: jax.Array, targets: jax.Array, alpha: jax.Array | float, *, mix_targets: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Images and targets (B, C), each mixed with another of the batch (Zhang et al. 2018, arXiv 1710.09412).

    One share ~ Beta(alpha, alpha), alpha above 0, and one permutation per batch. Without `mix_targets` the targets
    stay as they are, as in ddranking 0.2.0.
    """
    share, order = _mixing(key, len(images), alpha)
    return mix(images, order, share), mix(targets, order, share) if mix_targets else targets


def cutmix(
    key: jax.Array, images: jax.Array, targets: jax.Array, beta: jax.Array | float, *, mix_targets: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Images with one box filled from another of the batch, targets (B, C) mixed by its area (arXiv 1905.04899).

    One `cutmix_box` for a share ~ Beta(beta, beta), beta above 0, and one permutation per batch. Without
    `mix_targets` the targets stay as they are, as in ddranking 0.2.0.
    """
    _, h, w, _ = images.shape
    mixing_key, row_key, col_key = jax.random.split(key, 3)
    share, order = _mixing(mixing_key, len(images), beta)
    row, col = jax.random.randint(row_key, (), 0, h), jax.random.randint(col_key, (), 0, w)
    box = cutmix_box(h, w, row, col, share)
    filled = jnp.where(box[:, :, None], images[order], images)
    return filled, mix(targets, order, 1 - box.mean()) if mix_targets else targets


def random_crop(key: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    """Images padded by that many pixels of 0 on every side and cropped to (H, W), anywhere, each on its own."""

    def shifts(key: jax.Array, batch: int, side: int, padding: int) -> jax.Array:
        return jax.random.randint(key, (batch,), -padding, padding + 1)

    return crop(images, *_per_side(shifts, key, images, padding))


def horizontal_flip(key: jax.Array, images: jax.Array, probability: jax.Array | float) -> jax.Array:
    """Images mirrored left to right with that probability, each on its own."""
    return flip(images, jax.random.uniform(key, (len(images),)), probability)


def random_resized_crop(
    key: jax.Array, images: jax.Array, scale: tuple[float, float], ratio: tuple[float, float]
) -> jax.Array:
    """A box of each image, its sides by `crop_sides`, anywhere in the image, enlarged to (H, W).

    `scale` are the least and greatest shares of the area, in (0, 1]; `ratio` those of width / height, above 0.
    """
    b, h, w, _ = images.shape
    sides_key, top_key, left_key = jax.random.split(key, 3)
    heights, widths = crop_sides(sides_key, b, h, w, scale, ratio)
    tops = jax.random.randint(top_key, (b,), 0, h - heights + 1)
    lefts = jax.random.randint(left_key, (b,), 0, w - widths + 1)
    return resized_crop(images, tops, lefts, heights, widths)


def _one_operation(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    which_key, draw_key = jax.random.split(key)
    which = jax.random.randint(which_key, (), 0, len(config.operations))
    branches = [partial(OPERATIONS[name], config=config) for name in config.operations]
    return jax.lax.switch(which, branches, draw_key, images)


def _all_operations(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    for name, operation_key in zip(config.operations, jax.random.split(key, len(config.operations)), strict=True):
        images = OPERATIONS[name](operation_key, images, config)
    return images


def _dsa_color(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    u = _uniforms(key, 3, images)
    images = brightness(images, u[0], config.brightness)
    images = saturation(images, u[1], config.saturation)
    return contrast(images, u[2], config.contrast)


def _dsa_flip(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    (u,) = _uniforms(key, 1, images)
    return flip(images, u, config.flip)


def _dsa_scale(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    u, v = _uniforms(key, 2, images)
    return scale(images, u, v, config.scale)


def _dsa_rotate(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    (u,) = _uniforms(key, 1, images)
    return rotate(images, u, config.rotate)


def _dsa_crop(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    shifts = _per_side(crop_shifts, key, images, config.crop)
    return crop(images, *shifts)


def _dsa_cutout(key: jax.Array, images: jax.Array, config: DSA) -> jax.Array:
    centres = _per_side(cutout_centres, key, images, config.cutout)
    return cutout(images, *centres, config.cutout)


OPERATIONS = {
    "scale": _dsa_scale,
    "rotate": _dsa_rotate,
    "flip": _dsa_flip,
    "color": _dsa_color,
    "crop": _dsa_crop,
    "cutout": _dsa_cutout,
}
MODES = {"S": _one_operation, "M": _all_operations}


def _dc_crop(key: jax.Array, images: jax.Array, config: DCAugmentation) -> jax.Array:
    def shifts(key: jax.Array, batch: int, side: int, padding: int) -> jax.Array:
        # DC's code never draws the last of the 2 · padding + 1 places
        return jax.random.randint(key, (batch,), -padding, padding)

    return crop(images, *_per_side(shifts, key, images, config.crop), fill=images.mean(axis=(0, 1, 2)))


def _dc_scale(key: jax.Array, images: jax.Array, config: DCAugmentation) -> jax.Array:
    def sides(key: jax.Array, batch: int, side: int, most: float) -> jax.Array:
        factors = jax.random.uniform(key, (batch,), minval=1 - most, maxval=1 + most)
        return jnp.maximum(factors * side, 1).astype(jnp.int32)

    return nearest_scale(images, *_per_side(sides, key, images, config.scale))


def _dc_rotate(key: jax.Array, images: jax.Array, config: DCAugmentation) -> jax.Array:
    degrees = jax.random.randint(key, (len(images),), -config.rotate, max(config.rotate, 1))
    return spline_rotate(images, degrees, images.mean())


DC_OPERATIONS = {"crop": _dc_crop, "scale": _dc_scale, "rotate": _dc_rotate}


def _uniforms(key: jax.Array, count: int, images: jax.Array) -> jax.Array:
    return jax.random.uniform(key, (count, len(images)), images.dtype)


def _per_side(draw: Callable, key: jax.Array, images: jax.Array, size: float) -> tuple[jax.Array, jax.Array]:
    b, h, w, _ = images.shape
    row_key, col_key = jax.random.split(key)
    return draw(row_key, b, h, size), draw(col_key, b, w, size)


def _mixing(key: jax.Array, batch: int, concentration: jax.Array | float) -> tuple[jax.Array, jax.Array]:
    """A share ~ Beta(concentration, concentration) and a permutation (batch,)."""
    share_key, order_key = jax.random.split(key)
    share = jax.random.beta(share_key, concentration, concentration)
    return share, jax.random.permutation(order_key, batch)


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


def _about(centre: jax.Array, side: int, share: jax.Array) -> jax.Array:
    """Which of a side's pixels lie within half of `share` of it from the centre: (side,)."""
    half = (side * share).astype(jnp.int32) // 2
    pixels = jnp.arange(side)
    return (pixels >= centre - half) & (pixels < centre + half)


def _stretched(first: jax.Array, sizes: jax.Array, side: int) -> jax.Array:
    """Where a side's pixels are read when a box of `sizes` (B,) from pixel `first` (B,) fills it: (B, side)."""
    within = (jnp.arange(side) + 0.5) * sizes[:, None] / side - 0.5
    return first[:, None] + jnp.clip(within, 0, sizes[:, None] - 1)


def _resized(sizes: jax.Array, side: int, canvas: jax.Array) -> jax.Array:
    """The old pixels of a side, resized to `sizes` (B,) and centred in `canvas` (B,): (B, side), some outside."""
    first = (canvas - side) // 2 - (canvas - sizes) // 2
    return (first[:, None] + jnp.arange(side)) * side // sizes[:, None]


def _turned_places(side: int, extent: jax.Array) -> jax.Array:
    """The places of a side's pixels, about the centre of a turned image whose side is `extent` (B, 1, 1): (B, side)."""
    turned = jnp.floor(extent[:, 0] + 0.5)
    first = jnp.trunc((turned - side) / 2)
    return first + jnp.arange(side) - (turned - 1) / 2
