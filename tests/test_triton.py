"""The GPU's kernels, interpreted: equal to the textbook formulas in float64; and what a GPU would be given to run."""

import re
from functools import partial
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddr_jax.nets import kernels, triton
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.train import devices
from ddr_jax.train import student as training
from ddr_jax.train.student import Program, Student, TrainingData

STUDENTS = 2


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def any_numbers(monkeypatch):
    """Products by our kernels whatever the type, as if all were bfloat16."""
    monkeypatch.setattr(triton, "_multiplies", lambda x: True)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def value_and_pullback(f, *inputs):
    """A function's values and the gradients of a weighted sum of them: the weights tell every output apart."""
    values, pullback = jax.vjp(f, *inputs)
    return values, pullback(jnp.sin(jnp.arange(values.size, dtype=values.dtype)).reshape(values.shape))


def assert_students_alike(ours, plain, *inputs):
    """Values and gradients of students side by side, with inputs of their own, are the plain function's of each."""
    found, expected = (jax.jit(jax.vmap(partial(value_and_pullback, f)))(*inputs) for f in (ours, plain))
    chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(
    ("window", "map_size", "channels"),
    [
        ((3, 1, 1), (8, 8), (3, 32)),  # all of a window at once, forward too
        ((3, 1, 3), (5, 6), (1, 16)),
        ((5, 4, 5), (9, 8), (3, 48)),
        ((3, 1, 1), (6, 5), (32, 16)),  # one position of a window at a time
        ((3, 2, 1), (9, 8), (16, 160)),
        ((5, 1, 2), (4, 4), (144, 16)),
        ((2, 2, 0), (7, 6), (48, 80)),
        ((1, 1, 0), (5, 4), (32, 16)),
        ((1, 2, 0), (5, 4), (32, 16)),  # a ResNet's shortcut
        ((7, 2, 3), (9, 8), (3, 32)),
        ((3, 1, 1), (4, 4), (6, 16)),  # neither: few channels, more than one product takes
        ((5, 1, 0), (6, 6), (6, 16)),
        ((3, 1, 1), (4, 4), (20, 10)),
    ],
)
@pytest.mark.parametrize("kernels_of_ours", [True, False])
def test_a_gpus_convolution_equals_the_plain_one_with_both_gradients(
    float64, monkeypatch, kernels_of_ours, window, map_size, channels
):
    monkeypatch.setattr(triton, "_multiplies", lambda x: kernels_of_ours)
    (size, stride, padding), (inputs, outputs) = window, channels
    x = normal(STUDENTS, 3, *map_size, inputs)
    kernel = normal(STUDENTS, size, size, inputs, outputs, seed=1)
    ours, plain = (
        partial(f, stride=stride, padding=padding) for f in (kernels.gpu_convolution, kernels.plain_convolution)
    )
    assert_students_alike(ours, plain, x, kernel)


@pytest.mark.parametrize(("window", "channels"), [((3, 2, 1), (3, 32)), ((2, 2, 0), (48, 80)), ((5, 4, 5), (3, 48))])
def test_our_kernels_take_strides_too(float64, window, channels):
    (size, stride, padding), (inputs, outputs) = window, channels
    x, kernel = normal(3, 9, 8, inputs), normal(size, size, inputs, outputs, seed=1)
    values, pullback = jax.vjp(lambda kernel: kernels.plain_convolution(x, kernel, stride, padding), kernel)
    g = normal(*values.shape, seed=2)
    gradient = triton.kernel_gradient(x, g, size, stride, padding)
    chex.assert_trees_all_close(gradient, *pullback(g), rtol=1e-12, atol=1e-11)
    if inputs < triton.LEAST:
        chex.assert_trees_all_close(triton.convolution(x, kernel, stride, padding), values, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("places", [1, triton.ROWS, triton.PARTS * triton.ROWS + 1])
@pytest.mark.parametrize("inputs", [1, 16])
def test_pixels_that_fill_no_block_are_left_out(float64, any_numbers, places, inputs):
    x, kernel = normal(STUDENTS, places, 1, 1, inputs), normal(STUDENTS, 3, 3, inputs, 16, seed=1)
    ours, plain = (partial(f, stride=1, padding=1) for f in (kernels.gpu_convolution, kernels.plain_convolution))
    assert_students_alike(ours, plain, x, kernel)


@pytest.mark.parametrize("shape", [(3, 8, 8, 32), (1, 2, 2, 16), (2, 4, 16, 48), (2, 32, 32, 128)])
def test_the_norms_derivative_equals_autodiffs(float64, shape):
    x = 3 + normal(STUDENTS, *shape)
    scale, bias = normal(STUDENTS, shape[-1], seed=1), normal(STUDENTS, shape[-1], seed=2)
    assert triton.differentiates_norm(x[0])
    assert_students_alike(kernels.gpu_norm_relu_pool, kernels.norm_relu_pool, x, scale, bias)


@pytest.mark.parametrize("shape", [(3, 7, 8, 32), (3, 12, 12, 32), (3, 8, 8, 20), (3, 64, 64, 16), (3, 8, 1, 16)])
def test_maps_that_registers_do_not_hold_are_left_to_xla(shape):
    assert not triton.differentiates_norm(jnp.zeros(shape))


def test_products_of_32_bits_are_left_to_xla():
    x, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 16))
    assert not triton.convolves(x, kernel)
    assert not triton.sums_kernel_gradients(x, kernel.shape)
    narrow = x.astype(jnp.bfloat16)
    assert triton.convolves(narrow, kernel)
    assert triton.sums_kernel_gradients(narrow, kernel.shape)


def traced(precision):
    """A step of students side by side, as a GPU would be given it."""
    program = Program.of(Protocol(width=16, epochs=1), 10)
    data = TrainingData(jnp.zeros((1, 4, 32, 32, 3)), jnp.zeros((1, 4, 10)))
    keys = jax.vmap(jax.random.key)(jnp.arange(STUDENTS))
    places = np.zeros(STUDENTS)
    students = Student.of([Protocol().row(lr=0.01, augmented=True)] * STUDENTS, keys, places, places)
    state = jax.vmap(lambda student: training.start(program, student, data))(students)

    def train_all(state, students):
        return jax.vmap(lambda s, t: training.train_epochs(program, s, t, data, 0, 1, precision))(state, students)

    with mock.patch.object(jax, "default_backend", return_value="gpu"):
        return jax.jit(train_all).trace(state, students)


@pytest.mark.parametrize(("precision", "gradients", "firsts"), [("bfloat16", 3, 1), ("tf32", 0, 0), ("float32", 0, 0)])
def test_a_gpu_is_given_these_kernels_and_grouped_convolutions(precision, gradients, firsts):
    text = str(traced(precision).jaxpr)
    found = {name: len(re.findall(rf"\b{name}$", text, re.M)) for name in ("name=gradient", "name=convolve")}
    assert found == {"name=gradient": gradients, "name=convolve": firsts}
    assert len(re.findall(r"name=norm_gradient$", text, re.M)) == 3
    # The second and third block's forward, and every block's for its input's gradient; the images' is not compiled.
    assert text.count("conv_general_dilated[") == text.count(f"feature_group_count={STUDENTS}") == 5


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")  # since JAX 0.11; see ARCHITECTURE.md
@pytest.mark.skipif(
    jax.__version_info__ >= (0, 12), reason="JAX 0.12 lowers Triton's kernels where there is a GPU only"
)
def test_a_gpus_kernels_are_lowered_for_it():
    text = traced("bfloat16").lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 7


def test_of_a_kernel_its_results_alone_need_memory():
    x, parameter, statistic = jnp.zeros((64, 8, 8, 16)), jnp.zeros(16), jnp.zeros((64, 16))
    pooled = jnp.zeros((64, 4, 4, 16))
    needed = devices.intermediates(
        triton.norm_relu_pool_gradient, x, parameter, parameter, statistic, statistic, pooled
    )
    flattened = devices.size((x, pooled))
    assert flattened + 2 * devices.size((x, statistic)) < needed < flattened + 2 * devices.size((x, statistic)) + 10_000
