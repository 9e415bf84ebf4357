"""The layers students are made of, with the parameters and the default initialisation of PyTorch's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from ddr_jax.nets import kernels

Initialiser = Callable[..., jax.Array]  # (key, shape, dtype) to an array


def torch_uniform(fan_in: int):
    """Initialiser U(−1/√fan_in, 1/√fan_in): PyTorch's default for weights and biases.

    `torch.nn.Linear` and `Conv2d` call it kaiming-uniform with a = √5, which is the same interval.
    """
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


# torchvision's start of convolutions: normal with variance 2 / (outputs · kernel pixels).
HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """Square convolution: (N, H, W, I) to (N, H', W', features), H' = ⌊(H + 2·padding − size) / stride⌋ + 1.

    `kernel_init` and `bias_init` are PyTorch's defaults where None. `followed_by` is a norm: one that
    cancels the bias leaves it a parameter that is not added.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: int = 1
    use_bias: bool = True
    kernel_init: Initialiser | None = None
    bias_init: Initialiser | None = None
    followed_by: str = "NN"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve."""
        start = torch_uniform(self.size**2 * x.shape[-1])
        kernel = self.param("kernel", self.kernel_init or start, (self.size, self.size, x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init or start, (self.features,)) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias)
        x = kernels.convolve(x, kernel, self.stride, self.padding)
        # Adding a bias that instance norm takes away again cost 7 % of a step of ConvNet-3, width 128.
        return x if bias is None or self.followed_by == "IN" else x + jax.lax.broadcast_to_rank(bias, x.ndim)


class Linear(nn.Module):
    """Dense layer with bias: (…, F) to (…, features); `kernel_init` and `bias_init` as in `Conv`."""

    features: int
    kernel_init: Initialiser | None = None
    bias_init: Initialiser | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Multiply and add."""
        start = torch_uniform(x.shape[-1])
        kernel = self.param("kernel", self.kernel_init or start, (x.shape[-1], self.features))
        bias = self.param("bias", self.bias_init or start, (self.features,))
        return x @ kernel.astype(x.dtype) + jax.lax.broadcast_to_rank(bias.astype(x.dtype), x.ndim)


class Classifier(nn.Module):
    """A network that is an embedding and a linear head; subclasses define `embed(images, train)`.

    `torch_head` is the head's name in PyTorch, empty where it has no such network; `needs_key` says whether
    training draws random numbers (dropout).
    """

    num_classes: int

    torch_head: ClassVar[str] = "classifier"
    needs_key: ClassVar[bool] = False

    def setup(self):
        """Declare the head."""
        self.head = Linear(self.num_classes)

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Logits (N, C) of (N, H, W, K) images, of which the layers must leave a pixel: see `names.check`."""
        return self.head(self.embed(images, train))

    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """The head's inputs (N, F), flattened."""
        raise NotImplementedError

    @nn.nowrap
    def torch_module(self, place: str) -> str:
        """PyTorch's name of the layer at `place`, our names joined by dots: features_3 is features.3, fc_1 stays."""
        return self.torch_head if place == "head" else re.sub(r"(?<!fc)_(\d+)", r".\1", place)


def scale_and_bias(norm: nn.Module, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The parameters of a norm, ones and zeros at first."""
    return norm.param("scale", nn.initializers.ones, shape), norm.param("bias", nn.initializers.zeros, shape)


class InstanceNorm(nn.Module):
    """Each image's channels to mean 0 and variance 1, then scale and shift (Ulyanov et al. 2016)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise; the mode makes no difference."""
        return kernels.normalise(x, *kernels.moments(x, (1, 2)), *scale_and_bias(self, x.shape[-1:]))


class InstanceNormReluPool(nn.Module):
    """`InstanceNorm`, ReLU and 2×2 means, together: (N, H, W, K) to (N, ⌊H/2⌋, ⌊W/2⌋, K).

    Computed in float32 or wider, given back in x's type.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise, rectify and pool."""
        return kernels.norm_relu_pool(x, *scale_and_bias(self, x.shape[-1:]))


class GroupNorm(nn.Module):
    """Each image's four groups of channels to mean 0 and variance 1, then scale and shift (Wu & He 2018)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise; the mode makes no difference."""
        return kernels.normalise(x, *group_moments(x, 4), *scale_and_bias(self, x.shape[-1:]))


def group_moments(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance of each image's groups of channels, repeated for each channel (N, 1, 1, K).

    Merged from the channels' own moments: reducing neighbouring channels directly took 1.3 times as long.
    """
    means, variances = (m.reshape(len(x), groups, -1) for m in kernels.moments(x, (1, 2)))
    mean = means.mean(-1, keepdims=True)
    variance = (variances + (means - mean) ** 2).mean(-1, keepdims=True)
    mean, variance = (jnp.broadcast_to(m, means.shape).reshape(len(x), 1, 1, -1) for m in (mean, variance))
    return mean, variance


class LayerNorm(nn.Module):
    """Each image to mean 0 and variance 1, then scale and shift per pixel and channel (Ba et al. 2016)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise; the mode makes no difference."""
        return kernels.normalise(x, *kernels.moments(x, (1, 2, 3)), *scale_and_bias(self, x.shape[1:]))


class BatchNorm(nn.Module):
    """Each channel to mean 0 and variance 1 over the batch, then scale and shift (Ioffe & Szegedy 2015).

    In training mode `batch_stats` moves a tenth of the way to the batch's mean and unbiased variance; in
    evaluation mode they are what normalises.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise, and in training mode update the running statistics."""
        shape = x.shape[-1:]
        scale, bias = scale_and_bias(self, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if not train:
            return kernels.normalise(x, running_mean.value, running_var.value, scale, bias)
        mean, var = kernels.moments(x, (0, 1, 2))
        count = x.size // x.shape[-1]
        running_mean.value += 0.1 * (mean.reshape(shape) - running_mean.value)
        # One value per channel (a last batch of one image, 1×1 maps) has no unbiased variance: 0, not 0/0.
        running_var.value += 0.1 * (var.reshape(shape) * count / max(count - 1, 1) - running_var.value)
        return kernels.normalise(x, mean, var, scale, bias)


class NoNorm(nn.Module):
    """Nothing: x as it comes."""

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return x."""
        return x


NORMS = {"IN": InstanceNorm, "BN": BatchNorm, "LN": LayerNorm, "GN": GroupNorm, "NN": NoNorm}


def flatten(x: jax.Array) -> jax.Array:
    """(N, …) to (N, F)."""
    return x.reshape(len(x), -1)
