"""The layers students are made of, with the parameters and the default initialisation of PyTorch's."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from ddr_jax.nets import kernels


def torch_uniform(fan_in: int):
    """Initialiser U(−1/√fan_in, 1/√fan_in): PyTorch's default for weights and biases.

    `torch.nn.Linear` and `Conv2d` call it kaiming-uniform with a = √5, which is the same interval.
    """
    bound = 1 / math.sqrt(fan_in)

    def initialise(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialise


class Conv3x3(nn.Module):
    """3×3 convolution with bias, stride 1: (N, H, W, I) to (N, H + 2·padding − 2, W + 2·padding − 2, features)."""

    features: int
    padding: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve."""
        start = torch_uniform(9 * x.shape[-1])
        kernel = self.param("kernel", start, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", start, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias)
        extra = self.padding - 1  # the kernel itself pads by 1
        if extra:
            x = jnp.pad(x, ((0, 0), (extra, extra), (extra, extra), (0, 0)))
        return kernels.conv3x3(x, kernel) + bias


class Linear(nn.Module):
    """Dense layer with bias: (N, F) to (N, features)."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Multiply and add."""
        start = torch_uniform(x.shape[-1])
        kernel = self.param("kernel", start, (x.shape[-1], self.features))
        bias = self.param("bias", start, (self.features,))
        return x @ kernel + bias


class InstanceNorm(nn.Module):
    """Each image's channels to mean 0 and variance 1, then scale and shift (Ulyanov et al. 2016)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise; the mode makes no difference."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return kernels.normalise(x, *kernels.moments(x, (1, 2)), scale, bias)


class GroupNorm(nn.Module):
    """Each image's four groups of channels to mean 0 and variance 1, then scale and shift (Wu & He 2018)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise; the mode makes no difference."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return kernels.normalise(x, *group_moments(x, 4), scale, bias)


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
        scale = self.param("scale", nn.initializers.ones, x.shape[1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[1:])
        return kernels.normalise(x, *kernels.moments(x, (1, 2, 3)), scale, bias)


class BatchNorm(nn.Module):
    """Each channel to mean 0 and variance 1 over the batch, then scale and shift (Ioffe & Szegedy 2015).

    In training mode `batch_stats` moves a tenth of the way to the batch's mean and unbiased variance; in
    evaluation mode they are what normalises.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalise, and in training mode update the running statistics."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        if not train:
            return kernels.normalise(x, running_mean.value, running_var.value, scale, bias)
        mean, var = kernels.moments(x, (0, 1, 2))
        count = x.size // x.shape[-1]
        running_mean.value += 0.1 * (mean.reshape(shape) - running_mean.value)
        running_var.value += 0.1 * (var.reshape(shape) * count / (count - 1) - running_var.value)
        return kernels.normalise(x, mean, var, scale, bias)


class NoNorm(nn.Module):
    """Nothing: x as it comes."""

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Return x."""
        return x


NORMS = {"IN": InstanceNorm, "BN": BatchNorm, "LN": LayerNorm, "GN": GroupNorm, "NN": NoNorm}


def make_norm(kind: str, name: str) -> nn.Module:
    """The norm layer of a name's suffix: IN, BN, LN, GN (4 groups) or NN."""
    return NORMS[kind](name=name)
