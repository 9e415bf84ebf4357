"""ConvNet-d, the field's small convolutional student (Gidaris & Komodakis 2018, arXiv 1804.09458)."""

from __future__ import annotations

from functools import partial

import jax
from flax import linen as nn

from ddr_jax.nets import kernels, layers, names

ACTIVATIONS = {"relu": nn.relu, "sigmoid": nn.sigmoid, "leakyrelu": partial(nn.leaky_relu, negative_slope=0.01)}
POOLS = {"avgpool": kernels.average_pool, "maxpool": kernels.max_pool, "nopool": lambda x: x}


class Block(nn.Module):
    """3×3 convolution, norm, activation, 2×2 pool: (N, H, W, I) to (N, ~H/2, ~W/2, width), or H, W without pool."""

    width: int
    norm: str
    activation: str
    pooling: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, padding: int) -> jax.Array:
        """Apply the four in order; `padding` is the convolution's."""

        def in_turn(block, x):
            x = layers.Conv(block.width, padding=padding, followed_by=block.norm, name="conv")(x)
            if (block.norm, block.activation, block.pooling) == ("IN", "relu", "avgpool"):
                return layers.InstanceNormReluPool(name="norm")(x)
            x = layers.NORMS[block.norm](name="norm")(x, train)
            return POOLS[block.pooling](ACTIVATIONS[block.activation](x))

        count = kernels.images_in_cache(x.shape, self.width)
        if self.norm == "BN" or count is None:
            return in_turn(self, x)
        # The backward pass computes the maps anew: less work than to fetch them from memory.
        step = nn.remat(lambda block, _, x: (None, in_turn(block, x)), prevent_cse=False)
        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        _, maps = scan(self, None, x.reshape(-1, count, *x.shape[1:]))
        return maps.reshape(-1, *maps.shape[2:])


class ConvNet(layers.Classifier):
    """`depth` blocks of `width` filters and a linear layer; `norm` is IN, BN, LN, GN or NN.

    `activation` is relu, sigmoid or leakyrelu (0.01), `pooling` avgpool, maxpool or nopool; with `global_pool` the
    linear layer sees each map's mean alone.
    """

    width: int
    depth: int
    norm: str
    activation: str = "relu"
    pooling: str = "avgpool"
    global_pool: bool = False

    def setup(self):
        """Declare the blocks and the head; the first block's padding waits for the images."""
        super().setup()
        self.blocks = [Block(self.width, self.norm, self.activation, self.pooling) for _ in range(self.depth)]

    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The last block's activations (N, F), flattened or averaged per map."""
        x = images
        for index, block in enumerate(self.blocks):
            x = block(x, train, padding=1 + (names.border(images.shape[1:]) if index == 0 else 0))
        return x.mean((1, 2)) if self.global_pool else layers.flatten(x)

    @nn.nowrap
    def torch_module(self, place: str) -> str:
        """PyTorch numbers all layers of all blocks in one list, and norm and pool only where there is one."""
        if place == "head":
            return self.torch_head
        block, layer = place.removeprefix("blocks_").split(".")
        each = 2 + (self.norm != "NN") + (self.pooling != "nopool")
        return f"features.{int(block) * each + (layer == 'norm')}"
