"""MLP, the student without convolutions: two hidden layers."""

from __future__ import annotations

import jax
from flax import linen as nn

from ddr_jax.nets import layers


class MLP(nn.Module):
    """Flattened pixels, two hidden layers of `width` units with ReLU, and a linear layer."""

    num_classes: int
    width: int

    def setup(self):
        """Declare the hidden layers and the head."""
        self.hidden = [layers.Linear(self.width) for _ in range(2)]
        self.head = layers.Linear(self.num_classes)

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Logits (N, C) of (N, H, W, K) images."""
        return self.head(self.embed(images, train))

    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The second hidden layer's activations (N, width)."""
        x = images.reshape(len(images), -1)
        for layer in self.hidden:
            x = nn.relu(layer(x))
        return x
