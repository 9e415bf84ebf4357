"""Kernels equal the textbook formulas, values and gradients, in float64; and stay fast and exact in float32."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as Spec

from ddr_jax.nets import kernels


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def value_and_pullback(f, *inputs):
    """A function's values and the gradients of a weighted sum of them: the weights tell every output apart."""
    values, pullback = jax.vjp(f, *inputs)
    weights = jax.tree.map(lambda v: jnp.sin(jnp.arange(v.size, dtype=v.dtype)).reshape(v.shape), values)
    return values, pullback(weights)


def textbook_moments(x, axes):
    return x.mean(axes, keepdims=True), x.var(axes, keepdims=True)


@pytest.mark.parametrize("norm_relu_pool", [kernels.norm_relu_pool, kernels.gpu_norm_relu_pool])
def test_a_norm_of_bfloat16_has_the_statistics_of_float32(norm_relu_pool):
    x = (50 + normal(2, 8, 8, 16)).astype(jnp.bfloat16)  # steps of 1/4, which sums of bfloat16 would not hold
    parameters = jnp.ones(16), jnp.zeros(16)
    narrow, pullback = jax.vjp(norm_relu_pool, x, *parameters)
    wide, wide_pullback = jax.vjp(norm_relu_pool, x.astype(jnp.float32), *parameters)
    assert narrow.dtype == jnp.bfloat16
    g = jnp.ones_like(narrow)
    found, expected = ((narrow, pullback(g)), (wide, wide_pullback(g.astype(jnp.float32))))
    found = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), found)
    chex.assert_trees_all_close(found, expected, rtol=2**-7, atol=2**-6)


def assert_fast_equals_plain(x, kernel, stride=1, padding=1):
    fast, plain = (
        jax.jit(partial(value_and_pullback, partial(f, stride=stride, padding=padding)))(x, kernel)
        for f in (kernels.fast_convolution, kernels.plain_convolution)
    )
    chex.assert_trees_all_close(fast, plain, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(("side", "inputs", "outputs"), [(32, 2, 3), (6, 3, 128)])
def test_gradient_of_every_size_of_chunk_equals_the_plain_convolutions(float64, side, inputs, outputs):
    assert_fast_equals_plain(normal(7, side, side, inputs), normal(3, 3, inputs, outputs, seed=1))


@pytest.mark.parametrize("batch", [1, kernels.CHUNK, 2 * kernels.CHUNK + 3])
def test_fast_convolution_equals_the_plain_one_with_both_gradients(float64, batch):
    assert_fast_equals_plain(normal(batch, 6, 5, 3), normal(3, 3, 3, 4, seed=1))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 5), (4, 2), (3, 3)])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 3), (3, 5), (4, 128), (3, 128)])
def test_convolution_of_every_formulation_equals_the_plain_one_with_both_gradients(float64, size, inputs, outputs):
    assert_fast_equals_plain(normal(kernels.CHUNK + 3, *size, inputs), normal(3, 3, inputs, outputs, seed=1))


@pytest.mark.parametrize(
    ("window", "map_size"),
    [
        ((1, 2, 0), (5, 4)),
        ((2, 1, 1), (1, 3)),
        ((2, 4, 0), (7, 6)),  # pixels between the windows, and after the last
        ((3, 2, 1), (6, 5)),
        ((3, 2, 1), (2, 1)),
        ((3, 1, 3), (6, 5)),
        ((4, 4, 0), (9, 8)),
        ((5, 1, 0), (6, 6)),
        ((5, 1, 2), (2, 3)),
        ((5, 2, 4), (8, 7)),
        ((7, 2, 3), (9, 8)),
        ((7, 2, 3), (4, 4)),
        ((11, 4, 2), (12, 15)),
        ((11, 4, 5), (13, 1)),
    ],
)
def test_convolution_of_every_window_equals_the_plain_one_with_both_gradients(float64, window, map_size):
    size, stride, padding = window
    x, kernel = normal(kernels.CHUNK + 1, *map_size, 2), normal(size, size, 2, 3, seed=1)
    assert_fast_equals_plain(x, kernel, stride, padding)


@pytest.mark.parametrize("window", [(3, 1, 3), (5, 1, 4), (5, 2, 4), (3, 2, 2)])
def test_zeros_put_around_beforehand_change_nothing(float64, window):
    size, stride, padding = window
    x, kernel = normal(kernels.CHUNK + 1, 7, 6, 1), normal(size, size, 1, 3, seed=1)
    ours, plain = (
        jax.jit(partial(value_and_pullback, partial(f, stride=stride, padding=padding)))(x, kernel)
        for f in (kernels.convolve, kernels.plain_convolution)
    )
    chex.assert_trees_all_close(ours, plain, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(
    ("side", "inputs", "outputs", "operation"), [(2, 32, 32, "dot("), (3, 32, 32, "b01f_01io"), (8, 3, 32, "8,8,4]")]
)
def test_each_shape_gets_its_formulation(side, inputs, outputs, operation):
    images, kernel = jnp.ones((4, side, side, inputs)), jnp.ones((3, 3, inputs, outputs))
    fast, plain = (
        jax.jit(f, static_argnums=(2, 3)).lower(images, kernel, 1, 1).compile().as_text()
        for f in (kernels.fast_convolution, kernels.plain_convolution)
    )
    assert operation in fast
    assert (operation in plain) == (operation == "b01f_01io")


@pytest.mark.parametrize("side", [2, 4])
def test_gradient_of_a_gradient_equals_the_plain_convolutions(float64, side):
    x, kernel = normal(13, side, side, 2), normal(3, 3, 2, 3, seed=1)

    def sharpness(conv):
        slope = jax.grad(lambda x, k: (conv(x, k, 1, 1) ** 3).sum(), argnums=1)
        return jax.jit(jax.grad(lambda x, k: (slope(x, k) ** 2).sum(), argnums=(0, 1)))(x, kernel)

    chex.assert_trees_all_close(*map(sharpness, (kernels.fast_convolution, kernels.plain_convolution)), rtol=1e-11)


@pytest.mark.parametrize("axes", [(1, 2), (0, 1, 2)])
def test_moments_equal_the_textbook_with_gradients(float64, axes):
    x = 2 + 3 * normal(4, 6, 5, 3)
    ours = value_and_pullback(lambda x: kernels.moments(x, axes), x)
    chex.assert_trees_all_close(
        ours, value_and_pullback(lambda x: textbook_moments(x, axes), x), rtol=1e-12, atol=1e-13
    )


def test_normalise_equals_the_textbook_with_gradients(float64):
    x, scale, bias = 2 + 3 * normal(4, 6, 5, 3), 1 + normal(3, seed=1), normal(3, seed=2)

    def textbook(x, scale, bias):
        mean, variance = textbook_moments(x, (1, 2))
        return (x - mean) / jnp.sqrt(variance + 1e-5) * scale[None, None, None] + bias[None, None, None]

    def ours(x, scale, bias):
        return kernels.normalise(x, *kernels.moments(x, (1, 2)), scale, bias)

    chex.assert_trees_all_close(
        value_and_pullback(ours, x, scale, bias), value_and_pullback(textbook, x, scale, bias), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(("height", "width"), [(6, 4), (7, 5), (2, 3)])
def test_average_pool_equals_a_window_reduction_with_gradient(float64, height, width):
    def windows(x):
        return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4

    x = normal(3, height, width, 2)
    ours, theirs = (value_and_pullback(f, x) for f in (kernels.average_pool, windows))
    chex.assert_shape(ours[0], (3, height // 2, width // 2, 2))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(6, 4), (7, 5), (2, 3)])
def test_max_pool_equals_a_window_reduction_and_the_first_of_equal_values_gets_the_gradient(height, width):
    def windows(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (8, height, width, 2)), jnp.float32)  # many are equal
    values, (gradient,) = value_and_pullback(kernels.max_pool, x)
    # select_and_scatter's rule, which is PyTorch's too.
    chex.assert_trees_all_equal((values, (gradient,)), value_and_pullback(windows, x))
    first = jax.grad(lambda x: kernels.max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    chex.assert_trees_all_equal(first.ravel(), jnp.array([1.0, 0, 0, 0]))


def test_variance_survives_a_mean_far_larger_than_the_deviation():
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)) + 1e3
    x = x.astype(np.float32)
    _, variance = kernels.moments(x, (1, 2))
    chex.assert_trees_all_close(variance, x.astype(np.float64).var((1, 2), keepdims=True), rtol=1e-4)
    mean_of_squares = (x * x).mean((1, 2)) - x.mean((1, 2)) ** 2
    assert np.abs(mean_of_squares - variance.squeeze()).max() > 0.01  # what the pivot is there for


@pytest.mark.parametrize("window", [(3, 1, 1), (5, 1, 0), (3, 2, 1), (7, 2, 3), (11, 4, 2)])
def test_gradients_inside_a_loop_keep_the_convolution_layout_that_is_fast(window):
    size, stride, padding = window
    x, kernel = jnp.ones((20, 64, 64, 4)), jnp.ones((size, size, 4, 4))

    def descend(conv):
        def loss(k):
            return (conv(jnp.tanh(conv(x, k, stride, padding)), k, stride, padding) ** 2).sum()

        program = jax.jit(lambda k: lax.fori_loop(0, 5, lambda _, k: k - jax.grad(loss)(k), k))
        return set(re.findall(r"dim_labels=(\S+?)[,\s]", program.lower(kernel).compile().as_text()))

    assert descend(kernels.fast_convolution) == {"b01f_01io->b01f"}


def test_gradients_on_a_mesh_equal_those_of_one_device():
    mesh = jax.make_mesh((2,), ("students",), axis_types=(jax.sharding.AxisType.Auto,))
    images, kernel = normal(2, 23, 4, 4, 2), normal(2, 3, 3, 2, 3, seed=1)

    def gradients(images, kernel):
        def loss(images, kernel):
            return (kernels.fast_convolution(images[0], kernel[0], 1, 1) ** 2).sum()

        return jax.grad(loss, argnums=(0, 1))(images, kernel)

    spec = Spec("students")
    sharded = jax.jit(jax.shard_map(gradients, mesh=mesh, in_specs=spec, out_specs=spec))(images, kernel)
    lone = [gradients(images[i : i + 1], kernel[i : i + 1]) for i in range(2)]
    chex.assert_trees_all_close(sharded, jax.tree.map(lambda *g: jnp.concatenate(g), *lone), rtol=1e-5, atol=1e-5)
