"""AlexNet (Krizhevsky et al. 2012): the small-image student of dataset distillation, and torchvision's."""

from __future__ import annotations

import jax
from flax import linen as nn

from ddr_jax.nets import kernels, layers, names


class AlexNet(layers.Classifier):
    """Five convolutions, ReLU after each, 2×2 max pools after the first, second and fifth, and a linear layer.

    Images over 32 pixels meet a first convolution of stride 2; one-channel ones from 28 on get a border of 2 pixels.
    """

    torch_head = "fc"

    @nn.compact
    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The last pool's map (N, F), flattened: F = 192·4·4 for 32 and 64 pixels."""
        shape = images.shape[1:]
        names.check("AlexNet", shape)
        first = layers.Conv(128, 5, names.first_stride(shape), 2 + names.border(shape), name="features_0")
        x = kernels.max_pool(nn.relu(first(images)))
        x = kernels.max_pool(nn.relu(layers.Conv(192, 5, padding=2, name="features_3")(x)))
        for index, features in ((6, 256), (8, 192), (10, 192)):
            x = nn.relu(layers.Conv(features, name=f"features_{index}")(x))
        return layers.flatten(kernels.max_pool(x))


class TorchvisionAlexNet(layers.Classifier):
    """torchvision's AlexNet: overlapping max pools, 6×6 adaptive pool, two hidden layers of 4096 with dropout.

    The first convolution is 11×11 with stride 4, but for 32 and 64 pixels 3×3 with stride 1 and no bias.
    """

    torch_head = "classifier.6"
    needs_key = True

    @nn.compact
    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The second hidden layer's activations (N, 4096)."""
        shape = images.shape[1:]
        names.check("torchvision-AlexNet", shape)
        if names.keeps_detail(shape):
            first = layers.Conv(64, use_bias=False, name="features_0")
        else:
            first = layers.Conv(64, 11, stride=4, padding=2, name="features_0")
        x = nn.relu(first(images))
        x = nn.relu(layers.Conv(192, 5, padding=2, name="features_3")(kernels.max_pool(x, 3)))
        x = kernels.max_pool(x, 3)
        for index, features in ((6, 384), (8, 256), (10, 256)):
            x = nn.relu(layers.Conv(features, name=f"features_{index}")(x))
        x = layers.flatten(kernels.adaptive_average_pool(kernels.max_pool(x, 3), 6))
        for index in (1, 4):
            x = nn.Dropout(0.5, deterministic=not train)(x)
            x = nn.relu(layers.Linear(4096, name=f"classifier_{index}")(x))
        return x
