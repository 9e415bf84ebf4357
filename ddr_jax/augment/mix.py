"""Mixtures of images (B, H, W, K) and of their targets (B, C): mixup and CutMix."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ddr_jax.protocols.augmentations import CutMix, Mixup


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
    return rows[:, None] & cols[None]


def mixup(key: jax.Array, images: jax.Array, targets: jax.Array, config: Mixup) -> tuple[jax.Array, jax.Array]:
    """Images and targets (B, C), each mixed with another of the batch (Zhang et al. 2018, arXiv 1710.09412).

    One share ~ Beta(alpha, alpha) and one permutation per batch. Without `config.mix_targets` the targets stay as they
    are, as in ddranking 0.2.0.
    """
    share, order = _mixing(key, len(images), config.alpha)
    return mix(images, order, share), mix(targets, order, share) if config.mix_targets else targets


def cutmix(key: jax.Array, images: jax.Array, targets: jax.Array, config: CutMix) -> tuple[jax.Array, jax.Array]:
    """Images with one box filled from another of the batch, targets (B, C) mixed by its area (arXiv 1905.04899).

    One `cutmix_box` for a share ~ Beta(beta, beta) and one permutation per batch; `config.mix_targets` as in `mixup`.
    """
    _, h, w, _ = images.shape
    mixing_key, row_key, col_key = jax.random.split(key, 3)
    share, order = _mixing(mixing_key, len(images), config.beta)
    row, col = jax.random.randint(row_key, (), 0, h), jax.random.randint(col_key, (), 0, w)
    box = cutmix_box(h, w, row, col, share)
    filled = jnp.where(box[None, :, :, None], images[order], images)
    return filled, mix(targets, order, 1 - box.mean()) if config.mix_targets else targets


def _mixing(key: jax.Array, batch: int, concentration: float) -> tuple[jax.Array, jax.Array]:
    """A share ~ Beta(concentration, concentration) and a permutation (batch,)."""
    share_key, order_key = jax.random.split(key)
    share = jax.random.beta(share_key, concentration, concentration)
    return share, jax.random.permutation(order_key, batch)


def _about(centre: jax.Array, side: int, share: jax.Array) -> jax.Array:
    """Which of a side's pixels lie within half of `share` of it from the centre: (side,)."""
    half = (side * share).astype(jnp.int32) // 2
    pixels = jnp.arange(side)
    return (pixels >= centre - half) & (pixels < centre + half)
