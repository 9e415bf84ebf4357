"""Any of the protocol's augmentations of a batch: a new one is a function and a row of `AUGMENTATIONS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ddr_jax.augment.crop import patch_shuffle, random_crop, random_resized_crop
from ddr_jax.augment.dc import dc
from ddr_jax.augment.dsa import dsa
from ddr_jax.augment.mix import cutmix, mixup
from ddr_jax.augment.randaugment import randaugment
from ddr_jax.protocols import augmentations as kinds
from ddr_jax.protocols.augmentations import Augmentation

Batch = tuple[jax.Array, jax.Array]  # images (B, H, W, K) and targets (B, C)


def apply(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    config: Augmentation,
    mean: jax.Array | np.ndarray | float = 0.0,
    std: jax.Array | np.ndarray | float = 1.0,
) -> Batch:
    """Images (B, H, W, K) and targets (B, C) after an augmentation; only mixtures change targets.

    `mean` and `std` (K,), in units of pixels in [0, 1], say how the images were normalised; RandAugment needs them.

    Raises:
        InputError: where a side is not a multiple of a patch shuffle's factor, or images of RandAugment are neither
            grey nor RGB.
    """
    return AUGMENTATIONS[type(config)](key, images, targets, config, mean, std)


def _chain(key, images, targets, config, mean, std) -> Batch:
    for step, step_key in zip(config.steps, jax.random.split(key, len(config.steps)), strict=True):
        images, targets = apply(step_key, images, targets, step, mean, std)
    return images, targets


def _of_images(function: Callable[..., jax.Array]) -> Callable[..., Batch]:
    return lambda key, images, targets, config, mean, std: (function(key, images, config), targets)


def _of_pixels(function: Callable[..., jax.Array]) -> Callable[..., Batch]:
    return lambda key, images, targets, config, mean, std: (function(key, images, config, mean, std), targets)


def _of_both(function: Callable[..., Batch]) -> Callable[..., Batch]:
    return lambda key, images, targets, config, mean, std: function(key, images, targets, config)


AUGMENTATIONS: dict[type[Any], Callable[..., Batch]] = {
    kinds.DSA: _of_images(dsa),
    kinds.DCAugmentation: _of_images(dc),
    kinds.Crop: _of_images(random_crop),
    kinds.ResizedCrop: _of_images(random_resized_crop),
    kinds.PatchShuffle: _of_images(patch_shuffle),
    kinds.RandAugment: _of_pixels(randaugment),
    kinds.Mixup: _of_both(mixup),
    kinds.CutMix: _of_both(cutmix),
    kinds.Chain: _chain,
}
