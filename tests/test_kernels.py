"""Kernels equal the textbook formulas, values and gradients, in float64; and stay fast and exact in float32."""

import re

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


@pytest.mark.parametrize("batch", [1, kernels.CHUNK, 2 * kernels.CHUNK + 3])
def test_fast_convolution_equals_the_plain_one_with_both_gradients(float64, batch):
    x, kernel = normal(batch, 6, 5, 3), normal(3, 3, 3, 4, seed=1)
    fast, plain = (value_and_pullback(f, x, kernel) for f in (kernels.fast_conv3x3, kernels.plain_conv3x3))
    chex.assert_shape(fast[0], (batch, 6, 5, 4))
    chex.assert_trees_all_close(fast, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 5), (4, 2), (3, 3)])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 3), (3, 5), (4, 128), (3, 128)])
def test_convolution_of_every_formulation_equals_the_plain_one_with_both_gradients(float64, size, inputs, outputs):
    x, kernel = normal(kernels.CHUNK + 3, *size, inputs), normal(3, 3, inputs, outputs, seed=1)
    fast, plain = (value_and_pullback(f, x, kernel) for f in (kernels.fast_conv3x3, kernels.plain_conv3x3))
    chex.assert_trees_all_close(fast, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("side", "inputs", "outputs", "operation"), [(2, 32, 32, "dot("), (3, 32, 32, "b01f_01io"), (8, 3, 32, "8,8,4]")]
)
def test_each_shape_gets_its_formulation(side, inputs, outputs, operation):
    images, kernel = jnp.ones((4, side, side, inputs)), jnp.ones((3, 3, inputs, outputs))
    fast, plain = (
        jax.jit(f).lower(images, kernel).compile().as_text() for f in (kernels.fast_conv3x3, kernels.plain_conv3x3)
    )
    assert operation in fast
    assert (operation in plain) == (operation == "b01f_01io")


@pytest.mark.parametrize("side", [2, 4])
def test_gradient_of_a_gradient_equals_the_plain_convolutions(float64, side):
    x, kernel = normal(13, side, side, 2), normal(3, 3, 2, 3, seed=1)

    def sharpness(conv):
        slope = jax.grad(lambda x, k: (conv(x, k) ** 3).sum(), argnums=1)
        return jax.jit(jax.grad(lambda x, k: (slope(x, k) ** 2).sum(), argnums=(0, 1)))(x, kernel)

    chex.assert_trees_all_close(*map(sharpness, (kernels.fast_conv3x3, kernels.plain_conv3x3)), rtol=1e-11)


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
        return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias

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


def test_variance_survives_a_mean_far_larger_than_the_deviation():
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)) + 1e3
    x = x.astype(np.float32)
    _, variance = kernels.moments(x, (1, 2))
    chex.assert_trees_all_close(variance, x.astype(np.float64).var((1, 2), keepdims=True), rtol=1e-4)
    mean_of_squares = (x * x).mean((1, 2)) - x.mean((1, 2)) ** 2
    assert np.abs(mean_of_squares - variance.squeeze()).max() > 0.01  # what the pivot is there for


def test_gradients_inside_a_loop_keep_the_convolution_layout_that_is_fast():
    x, kernel = jnp.ones((20, 8, 8, 16)), jnp.ones((3, 3, 16, 16))

    def descend(conv):
        gradient = jax.grad(lambda k: (conv(jnp.tanh(conv(x, k)), k) ** 2).sum())
        program = jax.jit(lambda k: lax.fori_loop(0, 5, lambda _, k: k - gradient(k), k))
        return set(re.findall(r"dim_labels=(\S+?)[,\s]", program.lower(kernel).compile().as_text()))

    assert descend(kernels.fast_conv3x3) == {"b01f_01io->b01f"}


def test_gradients_on_a_mesh_equal_those_of_one_device():
    mesh = jax.make_mesh((2,), ("students",), axis_types=(jax.sharding.AxisType.Auto,))
    images, kernel = normal(2, 23, 4, 4, 2), normal(2, 3, 3, 2, 3, seed=1)

    def gradients(images, kernel):
        def loss(images, kernel):
            return (kernels.fast_conv3x3(images[0], kernel[0]) ** 2).sum()

        return jax.grad(loss, argnums=(0, 1))(images, kernel)

    spec = Spec("students")
    sharded = jax.jit(jax.shard_map(gradients, mesh=mesh, in_specs=spec, out_specs=spec))(images, kernel)
    lone = [gradients(images[i : i + 1], kernel[i : i + 1]) for i in range(2)]
    chex.assert_trees_all_close(sharded, jax.tree.map(lambda *g: jnp.concatenate(g), *lone), rtol=1e-5, atol=1e-5)
