"""VGG (Simonyan & Zisserman 2015): the small-image student of dataset distillation, and torchvision's."""

from __future__ import annotations

import jax
from flax import linen as nn

from ddr_jax.nets import kernels, layers, names

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # per stage
STAGE_FEATURES = (64, 128, 256, 512, 512)


def _features(x: jax.Array, train: bool, depth: int, norm: str, first_padding: int, **inits) -> jax.Array:
    """Five stages of 3×3 convolutions, norm and ReLU, each ended by a 2×2 max pool: (N, ~H/32, ~W/32, 512).

    Called in a compact method, whose module gets the layers, numbered as PyTorch numbers them.
    """
    index = 0
    for count, features in zip(CONVOLUTIONS[depth], STAGE_FEATURES, strict=True):
        for _ in range(count):
            padding = first_padding if index == 0 else 1
            x = layers.Conv(features, padding=padding, followed_by=norm, name=f"features_{index}", **inits)(x)
            if norm != "NN":
                x = layers.NORMS[norm](name=f"features_{index + 1}")(x, train)
            x = nn.relu(x)
            index += 2 if norm == "NN" else 3
        x = kernels.max_pool(x)
        index += 1
    return x


class VGG(layers.Classifier):
    """VGG without hidden layers; `depth` is 11, 13, 16 or 19, `norm` IN or BN.

    Over 32 pixels the head sees every second row and column of the last map, which leaves one pixel of 64.
    One-channel images from 28 pixels on get a border of 2.
    """

    depth: int
    norm: str

    @nn.compact
    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The last map (N, F), flattened: F = 512 for 32 and 64 pixels."""
        shape = images.shape[1:]
        x = _features(images, train, self.depth, self.norm, 1 + names.border(shape))
        stride = names.first_stride(shape)
        return layers.flatten(kernels.before_product(x[:, ::stride, ::stride]))


class TorchvisionVGG(layers.Classifier):
    """torchvision's VGG: 7×7 adaptive pool, two hidden layers of 4096 with dropout; `norm` is BN or NN (none)."""

    depth: int
    norm: str

    torch_head = "classifier.6"
    needs_key = True

    def setup(self):
        """Declare the head, with torchvision's own start."""
        self.head = layers.Linear(self.num_classes, nn.initializers.normal(0.01), nn.initializers.zeros)

    @nn.compact
    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The second hidden layer's activations (N, 4096)."""
        inits = {"kernel_init": layers.HE_NORMAL, "bias_init": nn.initializers.zeros}
        x = _features(images, train, self.depth, self.norm, 1, **inits)
        x = layers.flatten(kernels.adaptive_average_pool(x, 7))
        for index in (0, 3):
            name = f"classifier_{index}"
            x = layers.Linear(4096, nn.initializers.normal(0.01), nn.initializers.zeros, name=name)(x)
            x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        return x
