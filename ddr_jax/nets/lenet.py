"""LeNet, the student of the first convolutional experiments on digits (LeCun et al. 1998)."""

from __future__ import annotations

import jax
from flax import linen as nn

from ddr_jax.nets import kernels, layers, names


class LeNet(layers.Classifier):
    """Two 5×5 convolutions, each with ReLU and 2×2 max pool, two hidden layers and a linear layer.

    Images over 32 pixels meet a first convolution of stride 2; one-channel ones from 28 on get a border of 2 pixels.
    """

    torch_head = "fc_3"

    @nn.compact
    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The second hidden layer's activations (N, 84)."""
        shape = images.shape[1:]
        names.check("LeNet", shape)
        first = layers.Conv(6, 5, names.first_stride(shape), names.border(shape), name="features_0")
        x = kernels.max_pool(nn.relu(first(images)))
        x = kernels.max_pool(nn.relu(layers.Conv(16, 5, padding=0, name="features_3")(x)))
        x = nn.relu(layers.Linear(120, name="fc_1")(layers.flatten(x)))
        return nn.relu(layers.Linear(84, name="fc_2")(x))

    @nn.nowrap
    def torch_module(self, place: str) -> str:
        """Our names, but for the list's dots and the head."""
        return place if place.startswith("fc_") else super().torch_module(place)
