"""MLP, LeNet (LeCun et al. 1998), and AlexNet (Krizhevsky et al. 2012) for small images and as torchvision has it."""

from __future__ import annotations

import jax
from flax import linen as nn

from ddr_jax.nets import kernels, layers, names


class MLP(layers.Classifier):
    """Flattened pixels, two hidden layers of `width` units with ReLU, and a linear layer."""

    width: int

    torch_head = "fc_3"

    def setup(self):
        """Declare the hidden layers and the head."""
        super().setup()
        self.hidden = [layers.Linear(self.width) for _ in range(2)]

    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The second hidden layer's activations (N, width)."""
        x = layers.flatten(images)
        for layer in self.hidden:
            x = nn.relu(layer(x))
        return x

    @nn.nowrap
    def torch_module(self, place: str) -> str:
        """PyTorch ddranking counts the linear layers from 1, the head among them."""
        return self.torch_head if place == "head" else f"fc_{int(place.removeprefix('hidden_')) + 1}"


class LeNet(layers.Classifier):
    """Two 5×5 convolutions, each with ReLU and 2×2 max pool, two hidden layers and a linear layer.

    Images over 32 pixels meet a first convolution of stride 2; one-channel ones from 28 on get a border of 2 pixels.
    """

    torch_head = "fc_3"

    @nn.compact
    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The second hidden layer's activations (N, 84)."""
        shape = images.shape[1:]
        first = layers.Conv(6, 5, names.first_stride(shape), names.border(shape), name="features_0")
        x = kernels.max_pool(nn.relu(first(images)))
        x = kernels.max_pool(nn.relu(layers.Conv(16, 5, padding=0, name="features_3")(x)))
        x = nn.relu(layers.Linear(120, name="fc_1")(layers.flatten(x)))
        return nn.relu(layers.Linear(84, name="fc_2")(x))


class AlexNet(layers.Classifier):
    """Five convolutions, ReLU after each, 2×2 max pools after the first, second and fifth, and a linear layer.

    Images over 32 pixels meet a first convolution of stride 2; one-channel ones from 28 on get a border of 2 pixels.
    """

    torch_head = "fc"

    @nn.compact
    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The last pool's map (N, F), flattened: F = 192·4·4 for 32 and 64 pixels."""
        shape = images.shape[1:]
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
