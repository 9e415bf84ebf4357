import contextlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from ddr_jax.nets.layers import InstanceNorm
from ddr_jax.nets.precision import arithmetic
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.train import student as training
from ddr_jax.train.student import HeldOut, Program, Student, TrainingData

ONE = jnp.ones(1)
STUDENTS = ("ConvNet-2-BN", "ConvNet-2", "MLP")


def student(**changes) -> Student:
    row = Protocol(momentum=0.5, weight_decay=1e-4).row(lr=0.05, augmented=False) | changes
    return jax.tree.map(lambda leaf: leaf[0], Student.of([row], jax.random.key(0)[None], [0], [0]))


def program(net: str, epochs: int = 2) -> Program:
    return Program.of(Protocol(student=net, width=8, epochs=epochs, batch_size=30), 3)


@pytest.fixture(scope="module")
def data(real):
    return TrainingData(jnp.asarray(real.train.images[None]), jax.nn.one_hot(real.train.labels, 3)[None])


def trained(prog, data, precision, epochs=2):
    state = training.start(prog, student(), data)
    run = jax.jit(training.train_epochs, static_argnums=(0, 6))
    return run(prog, state, student(), data, 0, epochs, precision).variables


def products(jaxpr):
    """Every convolution and matrix product of a traced function, those of inner functions included."""
    for equation in jaxpr.eqns:
        if equation.primitive in (lax.dot_general_p, lax.conv_general_dilated_p):
            yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            if hasattr(value, "eqns"):
                yield from products(value)


def step(net, data, precision):
    prog = program(net)
    state = jax.eval_shape(lambda: training.start(prog, student(), data))
    traced = jax.make_jaxpr(
        lambda s: training.train_step(prog, s, student(), data, jnp.arange(30), jax.random.key(0), precision)
    )
    return list(products(traced(state)))


@pytest.mark.parametrize("net", STUDENTS)
@pytest.mark.parametrize(("precision", "expected"), [("float32", lax.Precision.HIGHEST), ("tf32", lax.Precision.HIGH)])
def test_every_product_of_a_step_and_of_its_derivative_has_the_precision(data, net, precision, expected):
    found = step(net, data, precision)
    assert len(found) >= 5
    assert {p for equation in found for p in equation.params["precision"]} == {expected}


@pytest.mark.parametrize("net", STUDENTS)
def test_in_bfloat16_all_products_but_the_heads_are_of_bfloat16(data, net):
    dtypes = [equation.invars[0].aval.dtype for equation in step(net, data, "bfloat16")]
    assert dtypes.count(jnp.float32) == 3  # the head, and its two derivatives
    assert dtypes.count(jnp.bfloat16) == len(dtypes) - 3 > 0


def test_float32_is_bit_for_bit_what_a_cpu_computes_anyway(data, monkeypatch):
    stated = trained(program("ConvNet-1-BN"), data, "float32")
    monkeypatch.setattr(training, "arithmetic", lambda precision: contextlib.nullcontext())
    chex.assert_trees_all_equal(stated, trained(program("ConvNet-1-BN", 3), data, "float32"))


def test_bfloat16_trains_about_as_well_and_keeps_weights_and_statistics_in_float32(real, data):
    prog, size = program("ConvNet-1-BN", 10), training.HELD_OUT_MULTIPLE
    images, labels = (np.resize(a, (size, *a.shape[1:])) for a in (real.test.images, real.test.labels))
    tests = HeldOut(images, labels, np.ones((1, size), bool))
    variables = {precision: trained(prog, data, precision, 10) for precision in ("float32", "bfloat16")}
    chex.assert_trees_all_equal_dtypes(*variables.values())
    chex.assert_trees_all_close(*variables.values(), atol=0.1)
    assert not np.array_equal(*(v["params"]["head"]["kernel"] for v in variables.values()))
    accuracies = [
        training.test(prog, training.State(v, None), tests, size, precision, None)[0].item() / size
        for precision, v in variables.items()
    ]
    assert accuracies[0] > 0.8
    assert abs(accuracies[0] - accuracies[1]) < 0.05


def test_norms_take_moments_of_bfloat16_in_float32():
    # of 1024 values near 100, bfloat16's own mean of squares less square of the mean is far from their variance
    x = (100 + jnp.arange(1024) % 2).astype(jnp.bfloat16).reshape(1, 32, 32, 1)

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return InstanceNorm(name="norm")(x, train)

    with arithmetic("bfloat16"):
        normed = Normed().apply({"params": {"norm": {"scale": ONE, "bias": 0 * ONE}}}, x, train=False)
    assert normed.dtype == jnp.bfloat16
    chex.assert_trees_all_close(normed.astype(jnp.float32).ravel()[:2], jnp.array([-1.0, 1.0]), atol=0.01)
