"""ConvNet-d, the field's small convolutional student (Gidaris & Komodakis 2018, arXiv 1804.09458)."""

from __future__ import annotations

import jax
from flax import linen as nn

from ddr_jax.nets import kernels, layers, names


class Block(nn.Module):
    """3×3 convolution, norm, ReLU, 2×2 average pool: (N, H, W, I) to (N, ~H/2, ~W/2, width)."""

    width: int
    norm: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, padding: int) -> jax.Array:
        """Apply the four in order; `padding` is the convolution's."""
        x = layers.Conv(self.width, padding=padding, name="conv")(x)
        x = layers.make_norm(self.norm, name="norm")(x, train)
        return kernels.average_pool(nn.relu(x))


class ConvNet(layers.Classifier):
    """`depth` blocks of `width` filters and a linear layer; `norm` is IN, BN, LN, GN or NN."""

    width: int
    depth: int
    norm: str

    def setup(self):
        """Declare the blocks and the head; the first block's padding waits for the images."""
        super().setup()
        self.blocks = [Block(self.width, self.norm) for _ in range(self.depth)]

    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The last block's activations (N, F), flattened."""
        names.check(f"ConvNet-{self.depth}-{self.norm}", images.shape[1:])
        x = images
        for index, block in enumerate(self.blocks):
            x = block(x, train, padding=1 + (names.border(images.shape[1:]) if index == 0 else 0))
        return layers.flatten(x)

    @nn.nowrap
    def torch_module(self, place: str) -> str:
        """PyTorch numbers all layers of all blocks in one list; without a norm there is one less in each."""
        if place == "head":
            return self.torch_head
        block, layer = place.removeprefix("blocks_").split(".")
        return f"features.{int(block) * (3 if self.norm == 'NN' else 4) + (layer == 'norm')}"
