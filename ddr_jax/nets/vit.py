"""A small vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) for images of 28 to 64 pixels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddr_jax.nets import layers

HEADS = 4


class Attention(nn.Module):
    """Self-attention of 4 heads, started as PyTorch's MultiheadAttention: (N, T, F) to (N, T, F)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Attend."""
        width = x.shape[-1]
        zeros = nn.initializers.zeros
        inputs = layers.Linear(3 * width, nn.initializers.xavier_uniform(), zeros, name="inputs")(x)
        query, key, value = jnp.split(inputs.reshape(*x.shape[:2], 3 * HEADS, -1), 3, axis=2)
        with jax.numpy_dtype_promotion("standard"):  # JAX widens bfloat16 here by itself
            heads = jax.nn.dot_product_attention(query, key, value)
        return layers.Linear(width, bias_init=zeros, name="output")(heads.reshape(x.shape))


class Block(nn.Module):
    """Attention, then two layers with GELU, each on normalised inputs and added to them: (N, T, F) to (N, T, F)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply both."""
        width = x.shape[-1]
        x = x + Attention(name="attention")(nn.LayerNorm(1e-5, name="norm1")(x))
        y = layers.Linear(4 * width, name="hidden")(nn.LayerNorm(1e-5, name="norm2")(x))
        return x + layers.Linear(width, name="output")(nn.gelu(y, approximate=False))


class ViT(layers.Classifier):
    """`depth` blocks of `width` features and 4 heads on 4×4-pixel patches and a class token; no dropout.

    Pixels beyond the last whole patch are left out. Positions are learned and start normal with deviation
    0.02, the class token starts at zero, all else as PyTorch starts it. Depth 6 and width 128 have 1.2 million
    parameters.
    """

    width: int
    depth: int

    torch_head = ""

    @nn.compact
    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The class token after the last block, normalised (N, width)."""
        patches = layers.Conv(self.width, 4, 4, padding=0, name="patches")(images)
        patches = patches.reshape(len(images), -1, self.width)
        token = self.param("token", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(images), 1, self.width)), patches], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for index in range(self.depth):
            x = Block(name=f"blocks_{index}")(x)
        return nn.LayerNorm(1e-5, name="norm")(x)[:, 0]
