"""Convolution, moments and pooling, in the formulations that XLA runs fast inside a loop on a CPU.

Each is a pure function of NHWC arrays and equals the textbook formula to rounding; the derivatives are
written out where autodiff's are slow. Measured by experiments/step_time.py.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Images whose kernel gradient is one convolution. For 100 images of 16×16, 128 to 128 channels, CPU time
# was 77 ms by tens, 113 by 25 and 228 all at once; at 32 channels chunks of 5 were the slow ones. Of 2×2
# maps all images at once: 0.07 ms against 0.17 by tens.
CHUNK = 10


def convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Convolution of (N, H, W, I) with (S, S, I, O), zeros around; the fast formulations where they apply."""
    size = kernel.shape[0]
    if size == 3 and stride == 1 and padding >= 1:
        extra = (padding - 1,) * 2  # the kernel itself pads by 1
        return conv3x3(jnp.pad(x, ((0, 0), extra, extra, (0, 0))) if padding > 1 else x, kernel)
    if size == 1 and padding == 0:
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride,) * 2, ((padding, padding),) * 2, dimension_numbers=layout)


def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3×3 convolution, stride 1, padding 1: (N, H, W, I) and (3, 3, I, O) to (N, H, W, O)."""
    # The one place that chooses a formulation. Only the CPU's was measured; elsewhere XLA's own is used.
    return fast_conv3x3(x, kernel) if jax.default_backend() == "cpu" else plain_conv3x3(x, kernel)


def plain_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution with autodiff's derivative, whose layouts are slow inside loops on a CPU."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=layout)


@jax.custom_vjp
def fast_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution as it runs fastest for its shape, with a derivative in the same formulations."""
    return _conv3x3_by_shape(x, kernel)


def _conv3x3_by_shape(x, kernel):
    """The convolution in the formulation that was fastest for the shape.

    CPU time against the plain one: 2×2 maps of 32 channels 0.08 ms and 0.99 (3×3 maps: 0.19 and 0.12); 32×32
    images of 3 channels, to 32 channels 2.0 ms and 7.1, to 128 no less (1 channel: 0.13 and 0.07).
    """
    if _is_tiny(x):
        return _product_conv3x3(x, kernel)
    if kernel.shape[2] == 3 and kernel.shape[3] < 128:
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1)))
        kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 1), (0, 0)))
    return plain_conv3x3(x, kernel)


def _is_tiny(x):
    """Whether a map is so small that XLA leaves its fast convolution: narrower than the kernel, but not 1×1."""
    return min(x.shape[1:3]) == 2


def _product_conv3x3(x, kernel):
    """The convolution as one matrix product, each pixel's nine neighbours side by side."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    neighbours = [x[:, row : row + height, column : column + width] for row in range(3) for column in range(3)]
    return jnp.concatenate(neighbours, -1) @ kernel.reshape(-1, kernel.shape[-1])


def _conv_forward(x, kernel):
    return _conv3x3_by_shape(x, kernel), (x, kernel)


def _conv_backward(saved, g):
    x, kernel = saved
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    return _conv3x3_by_shape(g, flipped), _kernel_gradient(x, g)


fast_conv3x3.defvjp(_conv_forward, _conv_backward)


def _kernel_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """Gradient (3, 3, I, O) with respect to the kernel, summed over chunks of images."""
    size = len(x) if _is_tiny(x) else min(CHUNK, len(x))
    whole, left = divmod(len(x), size)

    def chunk(start, count):
        return _chunk_gradient(*(lax.dynamic_slice_in_dim(a, start, count) for a in (x, g)))

    # Starts from the first chunk, not from zeros: zeros would not vary over the mesh of a shard_map.
    total = lax.fori_loop(1, whole, lambda i, total: total + chunk(i * size, size), chunk(0, size))
    return total + chunk(len(x) - left, left) if left else total


def _chunk_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """The same for a few images, as a convolution in which channels are images and images are channels."""
    return plain_conv3x3(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)).transpose(1, 2, 0, 3)


def moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over `axes`, which are kept with length 1, in one pass over x."""
    mean, variance = cast(Any, _moments)(x, axes)
    return mean, variance


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _moments(x, axes):
    # Distances from one of the values, lest the difference of squares cancel where |mean| ≫ std.
    pivot = x[tuple(slice(1) if axis in axes else slice(None) for axis in range(x.ndim))]
    distance = x - pivot
    mean = distance.mean(axes, keepdims=True)
    variance = (distance * distance).mean(axes, keepdims=True) - mean * mean
    return mean + pivot, variance


def _moments_forward(x, axes):
    mean, variance = moments(x, axes)
    return (mean, variance), (x, mean)


def _moments_backward(axes, saved, gradients):
    x, mean = saved
    of_mean, of_variance = gradients
    count = x.size // mean.size
    return (of_mean / count + (2 / count * of_variance) * (x - mean),)


_moments.defvjp(_moments_forward, _moments_backward)


def normalise(x, mean, variance, scale, bias, eps: float = 1e-5) -> jax.Array:
    """(x − mean) / √(variance + eps) · scale + bias, folded to one product and one sum per value of x."""
    slope = scale * lax.rsqrt(variance + eps)
    return x * slope + (bias - mean * slope)


def average_pool(x: jax.Array) -> jax.Array:
    """Means of 2×2 pixels, an odd last row or column left out: (N, H, W, K) to (N, ⌊H/2⌋, ⌊W/2⌋, K)."""
    # Sums of strided slices: XLA's reduce_window is slower both ways.
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    a, b, c, d = (x[:, row:height:2, column:width:2] for row in (0, 1) for column in (0, 1))
    return (a + b + c + d) * 0.25


def max_pool(x: jax.Array, size: int = 2, stride: int = 2, padding: int = 0) -> jax.Array:
    """Largest values of size×size windows, what does not fill a window left out."""
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)


def adaptive_average_pool(x: jax.Array, side: int) -> jax.Array:
    """Means of side×side windows that cover the map and overlap or repeat as they must: (N, side, side, K)."""
    rows, columns = (jnp.asarray(_shares(length, side), x.dtype) for length in x.shape[1:3])
    return jnp.einsum("ah,nhwk,bw->nabk", rows, x, columns)


def _shares(length: int, side: int) -> np.ndarray:
    """(side, length): the weight of each of `length` pixels in each of `side` means."""
    low = np.arange(side) * length // side
    high = -(-np.arange(1, side + 1) * length // side)
    place = np.arange(length)
    inside = (low[:, None] <= place) & (place < high[:, None])
    return inside / inside.sum(1, keepdims=True)
