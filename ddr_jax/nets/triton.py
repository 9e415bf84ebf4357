"""What an NVIDIA GPU computes faster by kernels of our own, written in Pallas and compiled by Triton.

XLA leaves three things of a population's step slow there: a convolution's gradient with respect to its kernels, when
every student has kernels of its own; a first layer of few channels; and the derivative of norm, ReLU and pooling, which
it takes through memory again and again. Measured by experiments/gpu_kernels.py. Where there is no GPU the kernels are
interpreted, for tests. All are pure functions of NHWC arrays and may be vmapped.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

ROWS = 64  # pixels that a step of a kernel takes at once
LEAST, MOST = 16, 128  # channels of a block: what a product of matrix units needs, what registers hold
PARTS = 4  # programs that share the pixels of one window position; their sums are added afterwards
FEW_PARTS = 32  # the same where one program takes all window positions
HELD = 2**14  # values of maps in the registers of one program
PER_WARP = 2**11  # and of one warp


def _block(channels: int) -> int:
    """The widest block, a power of two, that divides the channels; 0 if it were under `LEAST`."""
    widest = min(channels & -channels, MOST)
    return widest if widest >= LEAST else 0


def _range(count: int) -> jax.Array:
    return jnp.arange(count, dtype=jnp.int32)


def _divided(number, divisor: int):
    """Quotient and remainder of integers that are not negative: without the tests for signs that // and % take."""
    by = np.int32(divisor)
    return lax.div(number, by), lax.rem(number, by)


def _call(kernel, out_shape, grid, **options):
    return pl.pallas_call(
        kernel,
        out_shape=out_shape,
        grid=grid,
        compiler_params=triton.CompilerParams(**options),
        interpret=jax.default_backend() != "gpu",
        name=kernel.__name__,
    )


@dataclass(frozen=True)
class _Windows:
    """Where the windows of a square convolution lie: maps (N, height, width), `size`, `stride`, `padding`."""

    height: int
    width: int
    places: tuple[int, int, int]  # N, H', W'
    size: int
    stride: int
    padding: int

    @classmethod
    def of(cls, x, size, stride, padding):
        height, width = x.shape[1:3]
        places = ((length + 2 * padding - size) // stride + 1 for length in (height, width))
        return cls(height, width, (len(x), *places), size, stride, padding)

    @property
    def count(self) -> int:
        return math.prod(self.places)

    def pixel(self, place, tap):
        """The pixel, counted through all maps, at position `tap` of the window at `place`; and whether it exists."""
        _, rows, columns = self.places
        image, rest = _divided(place, rows * columns)
        (row, column), (down, across) = _divided(rest, columns), _divided(tap, self.size)
        row, column = row * self.stride - self.padding + down, column * self.stride - self.padding + across
        there = (place < self.count) & (row >= 0) & (row < self.height) & (column >= 0) & (column < self.width)
        return jnp.where(there, (image * self.height + row) * self.width + column, 0), there

    def few_channels(self, x_ref, place, index, channels):
        """(places, indices): the values under windows, `index` counting taps, and within each its channels."""
        shape = (len(place), len(index))
        tap, channel = (jnp.broadcast_to(part[None, :], shape) for part in _divided(index, channels))
        pixel, there = self.pixel(jnp.broadcast_to(place[:, None], shape), tap)
        there &= tap < self.size**2
        return triton.load(x_ref.at[pixel, channel], mask=there, other=0.0)


def _taken_at_once(size: int, channels: int) -> int:
    """The values under a window, filled up to a power of two, if one product takes them all; else 0."""
    values = max(LEAST, 1 << (size**2 * channels - 1).bit_length())
    return values if values <= MOST and channels < LEAST else 0


def convolves(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether `convolution` takes (N, H, W, I) maps and (S, S, I, O) kernels: few channels to many, in bfloat16."""
    size, _, channels, outputs = kernel.shape
    return _multiplies(x) and bool(_taken_at_once(size, channels) and _block(outputs))


def _multiplies(x):
    """Whether Triton's products of such numbers are fast: with them a float32 step took 2.3 times as long."""
    return x.dtype == jnp.bfloat16


def convolution(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """Convolution, zeros around, of few channels; every value of a window is in one matrix product."""
    size, _, channels, outputs = kernel.shape
    windows, width, values = _Windows.of(x, size, stride, padding), _block(outputs), _taken_at_once(size, channels)

    def convolve(x_ref, kernel_ref, out_ref):
        place = pl.program_id(0) * 2 * ROWS + _range(2 * ROWS)
        output = pl.program_id(1) * width + _range(width)
        index = _range(values)
        under = windows.few_channels(x_ref, place, index, channels)
        inside = (index < size**2 * channels)[:, None]
        weights = triton.load(
            kernel_ref.at[jnp.where(inside, index[:, None], 0), output[None, :]], mask=inside, other=0.0
        )
        out = _product(under, weights)
        triton.store(
            out_ref.at[place[:, None], output[None, :]],
            out.astype(out_ref.dtype),
            mask=(place < windows.count)[:, None],
        )

    shape = jax.ShapeDtypeStruct((windows.count, outputs), x.dtype)
    grid = (pl.cdiv(windows.count, 2 * ROWS), outputs // width)
    out = _call(convolve, shape, grid, num_warps=4, num_stages=2)(x.reshape(-1, channels), kernel.reshape(-1, outputs))
    return out.reshape(*windows.places, outputs)


def sums_kernel_gradients(x: jax.Array, kernel_shape: tuple[int, ...]) -> bool:
    """Whether `kernel_gradient` takes (N, H, W, I) maps and (S, S, I, O) kernels: many outputs, in bfloat16."""
    size, _, channels, outputs = kernel_shape
    return _multiplies(x) and bool((_taken_at_once(size, channels) or _block(channels)) and _block(outputs))


def kernel_gradient(x: jax.Array, g: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    """Gradient (S, S, I, O) of a convolution of x with respect to its kernel, g (N, H', W', O) that of its result."""
    channels, outputs = x.shape[3], g.shape[3]
    windows, width = _Windows.of(x, size, stride, padding), _block(outputs)
    at_once = _taken_at_once(size, channels)
    values = at_once or _block(channels)  # of the gradient's rows, those of one program
    taps, parts = (1, FEW_PARTS) if at_once else (size**2, PARTS)
    steps = pl.cdiv(windows.count, parts * ROWS)
    columns = outputs // width

    def gradient(x_ref, g_ref, out_ref):
        tap, part, block = (pl.program_id(axis) for axis in range(3))
        row, column = _divided(block, columns)
        index, output = row * values + _range(values), column * width + _range(width)

        def step(i, total):
            place = (part * steps + i) * ROWS + _range(ROWS)
            if at_once:
                under = windows.few_channels(x_ref, place, index, channels)
            else:
                pixel, there = windows.pixel(place, tap)
                under = triton.load(x_ref.at[pixel[:, None], index[None, :]], mask=there[:, None], other=0.0)
            there = (place < windows.count)[:, None]
            gradients = triton.load(
                g_ref.at[jnp.where(there, place[:, None], 0), output[None, :]], mask=there, other=0.0
            )
            return total + _product(under.T, gradients)

        total = lax.fori_loop(0, steps, step, jnp.zeros((values, width), out_ref.dtype))
        row = (part * taps + tap) * (values if at_once else channels) + index
        triton.store(out_ref.at[row[:, None], output[None, :]], total)

    rows = values if at_once else size**2 * channels
    shape = jax.ShapeDtypeStruct((parts * rows, outputs), np.promote_types(x.dtype, np.float32))
    grid = (taps, parts, columns * (1 if at_once else channels // values))
    out = _call(gradient, shape, grid, num_warps=4, num_stages=3)(x.reshape(-1, channels), g.reshape(-1, outputs))
    total = out.reshape(parts, rows, outputs).sum(0)[: size**2 * channels]
    return total.reshape(size, size, channels, outputs).astype(x.dtype)


def _product(a, b):
    """A matrix product as precise as the context asks, its sums in float32 or wider."""
    return triton.dot(a, b).astype(np.promote_types(a.dtype, np.float32))


def differentiates_norm(x: jax.Array) -> bool:
    """Whether `norm_relu_pool_gradient` takes (N, H, W, K) maps."""
    _, height, width, _ = x.shape
    powers_of_two = all(side > 1 and side & (side - 1) == 0 for side in (height, width))
    return powers_of_two and bool(_held_channels(x))


def _held_channels(x):
    """The channels of an image that registers hold at once; 0 if there are too few."""
    _, height, width, channels = x.shape
    held = min(_block(channels), HELD // (height * width))
    return held if held >= LEAST else 0


@dataclass(frozen=True)
class _Image:
    """Some channels of one of (N, H, W, K) maps, the maps flattened to (N·H·W, K)."""

    height: int
    width: int
    number: jax.Array
    channel: jax.Array

    @property
    def own(self):
        """The place of its statistics in (N, K)."""
        return jnp.full((1, len(self.channel)), self.number), self.channel[None, :]

    def corners(self, ref):
        """The four pixels of all 2×2 windows, each (windows, channels) when loaded."""
        row, column = _divided(self._windows(), self.width // 2)
        first = (self.number * self.height + 2 * row) * self.width + 2 * column
        return [self._at(ref, first + down * self.width + across) for down in (0, 1) for across in (0, 1)]

    def pooled(self, ref):
        """What stands for the windows in maps of half the size."""
        windows = self._windows()
        return self._at(ref, self.number * len(windows) + windows)

    def _windows(self):
        return _range(self.height * self.width // 4)

    def _at(self, ref, pixel):
        return ref.at[pixel[:, None], self.channel[None, :]]


def _total(parts):
    """(1, channels): the sum of all windows of all parts."""
    return functools.reduce(jnp.add, parts).sum(0)[None, :]


def norm_relu_pool_gradient(
    x: jax.Array, scale: jax.Array, bias: jax.Array, mean: jax.Array, inverse: jax.Array, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients with respect to x (N, H, W, K), scale and bias (K,) of instance norm, ReLU and 2×2 means.

    `mean` and `inverse` are the maps' means and inverse deviations (N, K), float32 or wider, g (N, H/2, W/2, K) is the
    gradient of the pooled maps. An image is read once: registers hold it between its sums and its gradient.
    """
    images, height, width, channels = x.shape
    held, wide = _held_channels(x), mean.dtype

    def norm_gradient(x_ref, scale_ref, bias_ref, mean_ref, inverse_ref, g_ref, dx_ref, dscale_ref, dbias_ref):
        image = _Image(height, width, pl.program_id(0), pl.program_id(1) * held + _range(held))
        mean, inverse = triton.load(mean_ref.at[image.own]), triton.load(inverse_ref.at[image.own])
        scale, bias = (triton.load(ref.at[image.channel[None, :]]).astype(wide) for ref in (scale_ref, bias_ref))
        share = triton.load(image.pooled(g_ref)).astype(wide) * 0.25
        corners = [(triton.load(ref).astype(wide) - mean) * inverse for ref in image.corners(x_ref)]
        passed = [jnp.where(corner * scale + bias > 0, share, 0.0) for corner in corners]
        of_bias = _total(passed)
        of_scale = _total([p * corner for p, corner in zip(passed, corners, strict=True)])
        triton.store(dscale_ref.at[image.own], of_scale)
        triton.store(dbias_ref.at[image.own], of_bias)
        for ref, p, corner in zip(image.corners(dx_ref), passed, corners, strict=True):
            dx = scale * inverse * (p - (of_bias + corner * of_scale) / (height * width))
            triton.store(ref, dx.astype(dx_ref.dtype))

    flat = jax.ShapeDtypeStruct((images * height * width, channels), x.dtype)
    per_image = jax.ShapeDtypeStruct((images, channels), wide)
    warps = max(1, held * height * width // PER_WARP)
    call = _call(norm_gradient, (flat, per_image, per_image), (images, channels // held), num_warps=warps)
    dx, dscale, dbias = call(x.reshape(-1, channels), scale, bias, mean, inverse, g.reshape(-1, channels))
    return dx.reshape(x.shape), dscale.sum(0).astype(scale.dtype), dbias.sum(0).astype(bias.dtype)
