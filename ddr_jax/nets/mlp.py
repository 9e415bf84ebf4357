"""MLP, the student without convolutions: two hidden layers."""

from __future__ import annotations

import jax
from flax import linen as nn

from ddr_jax.nets import layers


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
