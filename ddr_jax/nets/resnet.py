"""ResNet (He et al. 2016): the small-image students of dataset distillation, ImageNet's form, and torchvision's."""

from __future__ import annotations

import jax
from flax import linen as nn

from ddr_jax.nets import kernels, layers, names

BLOCKS = {10: (1,) * 4, 18: (2,) * 4, 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
STAGE_FEATURES = (64, 128, 256, 512)


class Block(nn.Module):
    """Convolutions with norms and ReLUs beside a shortcut: two 3×3, or as a bottleneck 1×1, 3×3, 1×1.

    `halve` makes the first 3×3 convolution's stride 2, or, if `pooled`, follows it by a 2×2 average pool.
    """

    features: int
    norm: str
    bottleneck: bool
    halve: bool
    pooled: bool
    kernel_init: layers.Initialiser | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(N, H, W, I) to (N, ~H/2 or H, ~W/2 or W, features, or 4·features of a bottleneck)."""
        sizes, halving = ((1, 3, 1), 2) if self.bottleneck else ((3, 3), 1)
        out = self.features * (4 if self.bottleneck else 1)
        y = x
        for index, size in enumerate(sizes, start=1):
            last = index == len(sizes)
            halve = self.halve and index == halving
            y = self._conv(f"conv{index}", y, out if last else self.features, size, halve)
            y = layers.NORMS[self.norm](name=f"norm{index}")(y, train)
            y = y if last else nn.relu(y)
            y = kernels.average_pool(y) if halve and self.pooled else y
        if self.halve or x.shape[-1] != out:
            x = self._conv("shortcut_conv", x, out, 1, self.halve)
            x = kernels.average_pool(x) if self.halve and self.pooled else x
            x = layers.NORMS[self.norm](name="shortcut_norm")(x, train)
        return nn.relu(x + y)

    def _conv(self, name: str, x: jax.Array, features: int, size: int, halve: bool) -> jax.Array:
        stride = 2 if halve and not self.pooled else 1
        return layers.Conv(features, size, stride, size // 2, False, self.kernel_init, name=name)(x)


class ResNet(layers.Classifier):
    """ResNet of `depth` layers, bottlenecks from 50 on; `norm` is IN or BN. The `variant` is one of

    - small: a 3×3 first convolution, of stride 2 over 32 pixels, and a 4×4 average pool before the head;
    - pooled: the same, of stride 1 everywhere, halved by average pools, and the whole last map for the head;
    - imagenet: a 7×7 first convolution of stride 2, a 3×3 max pool of stride 2, and a global average pool;
    - torchvision: the same with torchvision's start, but for 32 and 64 pixels without max pool and with a
      3×3 first convolution of stride 1.
    """

    depth: int
    norm: str
    variant: str

    @nn.compact
    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The pooled last map (N, F), flattened: F = 512, or 2048 with bottlenecks, for 32 and 64 pixels."""
        x = self._stem(images, train)
        for stage, (count, features) in enumerate(zip(BLOCKS[self.depth], STAGE_FEATURES, strict=True), start=1):
            for index in range(count):
                block = Block(
                    features=features,
                    norm=self.norm,
                    bottleneck=self.depth >= 50,
                    halve=stage > 1 and index == 0,
                    pooled=self.variant == "pooled",
                    kernel_init=self._kernel_init,
                    name=f"layer{stage}_{index}",
                )
                x = block(x, train)
        return self._pool(x)

    def _stem(self, images: jax.Array, train: bool) -> jax.Array:
        shape = images.shape[1:]
        plain = self.variant in ("small", "pooled") or (self.variant == "torchvision" and names.keeps_detail(shape))
        if plain:
            # What PyTorch ddranking puts in place of torchvision's convolution starts by PyTorch's default.
            stride = names.first_stride(shape) if self.variant == "small" else 1
            conv = layers.Conv(64, stride=stride, use_bias=False, name="conv1")
        else:
            conv = layers.Conv(64, 7, 2, 3, use_bias=False, kernel_init=self._kernel_init, name="conv1")
        x = nn.relu(layers.NORMS[self.norm](name="norm1")(conv(images), train))
        return x if plain else kernels.max_pool(x, 3, 2, 1)

    def _pool(self, x: jax.Array) -> jax.Array:
        if self.variant == "pooled":
            return layers.flatten(x)
        if self.variant != "small":
            return x.mean((1, 2))
        window = (1, 4, 4, 1)
        return layers.flatten(jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "VALID") / 16)

    @property
    def _kernel_init(self) -> layers.Initialiser | None:
        return layers.HE_NORMAL if self.variant == "torchvision" else None

    @nn.nowrap
    def torch_module(self, place: str) -> str:
        """PyTorch calls every norm bn, and numbers the shortcut's layers, an average pool among them."""
        if place == "head":
            return "fc" if self.variant == "torchvision" else "classifier"
        shortcut = "downsample" if self.variant == "torchvision" else "shortcut"
        place = place.replace("shortcut_conv", f"{shortcut}.0")
        place = place.replace("shortcut_norm", f"{shortcut}.{2 if self.variant == 'pooled' else 1}")
        return super().torch_module(place.replace("norm", "bn"))
