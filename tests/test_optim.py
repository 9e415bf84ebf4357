"""Optimizers and schedules equal PyTorch's, and their numbers may be traced."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddr_jax import optim, protocol
from ddr_jax.types import InputError

GOLDENS = Path(__file__).parent / "goldens"
OPTIMIZERS = np.load(GOLDENS / "optimizers.npz")
SCHEDULES = np.load(GOLDENS / "schedules.npz")
CONSTANT = optim.schedule("constant", epochs=10, step_size=5)


def _weights(lr, momentum=0.9, weight_decay=5e-4, schedule=CONSTANT, steps_per_epoch=1, name="sgd"):
    """The weights after each of the goldens' ten gradients: (10, 5, 3)."""
    optimizer = optim.optimizer(
        name,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        schedule=schedule,
        steps_per_epoch=steps_per_epoch,
    )

    def step(carry, gradient):
        weights, state = carry
        updates, state = optimizer.update(gradient, state, weights)
        weights = optax.apply_updates(weights, updates)
        return (weights, state), weights

    start = jnp.asarray(OPTIMIZERS["w0"])
    return jax.lax.scan(step, (start, optimizer.init(start)), jnp.asarray(OPTIMIZERS["grads"]))[1]


def test_sgd_equals_pytorch_at_every_step():
    expected = OPTIMIZERS["sgd/lr0.01/wd0.0005/mom0.9"]
    chex.assert_trees_all_close(_weights(0.01), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("epochs", "step_size"), [(300, 100), (1000, 500)])
def test_step_schedule_equals_pytorch_in_every_epoch(epochs, step_size):
    factor = jax.jit(optim.schedule("step", epochs=epochs, step_size=step_size))
    expected = SCHEDULES[f"step/epochs{epochs}/step{step_size}"]
    np.testing.assert_allclose(0.1 * factor(jnp.arange(epochs)), expected, rtol=1e-5)


def test_constant_schedule_stays_at_one():
    np.testing.assert_array_equal(CONSTANT(jnp.arange(10)), np.ones(10))


def test_rate_changes_once_per_epoch():
    # two steps an epoch, momentum 0: a step moves the weights by rate · gradient
    schedule = optim.schedule("step", epochs=5, step_size=2)
    weights = _weights(0.1, momentum=0.0, weight_decay=0.0, schedule=schedule, steps_per_epoch=2)
    moves = np.diff(weights, axis=0, prepend=OPTIMIZERS["w0"][None])
    rates = np.array([0.1] * 4 + [0.01] * 4 + [0.001] * 2)[:, None, None]
    np.testing.assert_allclose(moves, -rates * OPTIMIZERS["grads"], atol=1e-6)


def test_rows_of_a_vmap_may_differ_in_every_number():
    rows = (jnp.array([0.01, 0.1, 0.01]), jnp.array([0.9, 0.5, 0.0]), jnp.array([5e-4, 0.0, 0.1]))
    together = jax.jit(jax.vmap(_weights))(*rows)
    alone = jnp.stack([_weights(*(float(x) for x in row)) for row in zip(*rows, strict=True)])
    chex.assert_trees_all_close(together, alone, atol=1e-6, rtol=1e-5)


def test_registries_hold_the_protocols_names():
    assert tuple(optim.OPTIMIZERS) == protocol.OPTIMIZERS
    assert tuple(optim.SCHEDULES) == protocol.SCHEDULES


def test_unknown_names_are_answered_with_the_valid_ones():
    with pytest.raises(InputError, match=r"Unknown optimizer 'sdg': did you mean 'sgd'\?"):
        _weights(0.1, name="sdg")
    with pytest.raises(InputError, match=r"Unknown schedule 'steps': did you mean 'step'\?"):
        optim.schedule("steps", epochs=1, step_size=1)
