"""Augmentation of a training batch by any of the protocol's augmentations."""

from __future__ import annotations

import jax
import numpy as np

from ddr_jax.augment.crop import horizontal_flip, patch_shuffle, random_crop, random_resized_crop
from ddr_jax.augment.dc import dc
from ddr_jax.augment.dsa import dsa
from ddr_jax.augment.mix import cutmix, mixup
from ddr_jax.augment.randaugment import randaugment
from ddr_jax.protocols.protocol import (
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
