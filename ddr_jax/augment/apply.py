"""Any of the protocol's augmentations of a batch: a new one is a function and a row of a table."""

from __future__ import annotations

from collections.abc import Callable

import jax

from ddr_jax.augment.crop import patch_shuffle, random_crop, random_resized_crop
from ddr_jax.augment.dc import dc
from ddr_jax.augment.dsa import dsa
from ddr_jax.augment.mix import cutmix, mixup
from ddr_jax.augment.randaugment import Channels, randaugment
from ddr_jax.protocols import augmentations as kinds
from ddr_jax.protocols.augmentations import Augmentation

Batch = tuple[jax.Array, jax.Array]  # images (B, H, W, K) and targets (B, C)

OF_IMAGES: dict[type, Callable[..., jax.Array]] = {
    kinds.DSA: dsa,
    kinds.DCAugmentation: dc,
    kinds.Crop: random_crop,
    kinds.ResizedCrop: random_resized_crop,
    kinds.PatchShuffle: patch_shuffle,
}
OF_IMAGES_AND_TARGETS: dict[type, Callable[..., Batch]] = {kinds.Mixup: mixup, kinds.CutMix: cutmix}


def apply(
    key: jax.Array, images: jax.Array, targets: jax.Array, config: Augmentation, mean: Channels = 0, std: Channels = 1
) -> Batch:
    """Images (B, H, W, K) and targets (B, C) after an augmentation; only mixtures change targets.

    `mean` and `std` (K,), in units of pixels in [0, 1], say how the images were normalised; RandAugment needs them.

    Raises:
        InputError: where a side is not a multiple of a patch shuffle's factor, or images of RandAugment are neither
            grey nor RGB.
    """
    if isinstance(config, kinds.Chain):
        for step, step_key in zip(config.steps, jax.random.split(key, len(config.steps)), strict=True):
            images, targets = apply(step_key, images, targets, step, mean, std)
        return images, targets
    if type(config) in OF_IMAGES_AND_TARGETS:
        return OF_IMAGES_AND_TARGETS[type(config)](key, images, targets, config)
    if isinstance(config, kinds.RandAugment):
        return randaugment(key, images, config, mean, std), targets
    return OF_IMAGES[type(config)](key, images, config), targets
