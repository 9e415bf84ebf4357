"""Optimizers and schedules equal PyTorch's, and their numbers may be traced."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args, get_type_hints

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddr_jax.protocols.protocol import Protocol, Static
from ddr_jax.train import optim

GOLDENS = Path(__file__).parent / "goldens"
OPTIMIZERS = np.load(GOLDENS / "optimizers.npz")
SCHEDULES = np.load(GOLDENS / "schedules.npz")
CONSTANT = Static(epochs=10, schedule="constant")


def _weights(lr, momentum=0.9, weight_decay=5e-4, static=CONSTANT, steps_per_epoch=1, name="sgd", scale=1.0):
    """The weights after each of the goldens' ten gradients, times `scale`: (10, 5, 3)."""
    numbers = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    optimizer = optim.optimizer(replace(static, optimizer=name), numbers, steps_per_epoch)

    def step(carry, gradient):
        weights, state = carry
        updates, state = optimizer.update(gradient, state, weights)
        weights = optax.apply_updates(weights, updates)
        return (weights, state), weights

    start = jnp.asarray(OPTIMIZERS["w0"])
    return jax.lax.scan(step, (start, optimizer.init(start)), jnp.asarray(scale * OPTIMIZERS["grads"]))[1]


@pytest.mark.parametrize("scale", [1.0, 1e-6])  # of gradients; at the smaller one Adam's ε shows
@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_optimizer_equals_pytorch_at_every_step(name, decay, scale):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # the schedule is float32
        weights = _weights(jnp.float64(0.01), weight_decay=decay, name=name, scale=scale)
    chex.assert_trees_all_close(weights, OPTIMIZERS[f"{name}/wd{decay}/x{scale}"], rtol=1e-11)


@pytest.mark.parametrize(("name", "coupled"), [("adam", True), ("adamw", False)])
def test_decay_is_coupled_when_it_enters_adams_moments(name, coupled):
    # Adam's first step is rate · sign(gradient), so decay turns it round when in the gradient, and shrinks beside it
    weights = _weights(0.1, weight_decay=1e6, name=name)[0]
    start = OPTIMIZERS["w0"]
    expected = start - 0.1 * np.sign(start) if coupled else start * (1 - 1e5) - 0.1 * np.sign(OPTIMIZERS["grads"][0])
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_momentum_is_sgds_alone(name):
    chex.assert_trees_all_equal(_weights(0.01, momentum=0.9, name=name), _weights(0.01, momentum=0.0, name=name))


@pytest.mark.parametrize(
    ("golden", "epochs", "step_size"),
    [
        ("step/epochs300/step100", 300, 100),
        ("step/epochs1000/step500", 1000, 500),
        ("cosineannealing/epochs300", 300, 1),
        ("cosine/epochs300", 300, 1),
    ],
)
def test_schedule_equals_pytorch_in_every_epoch(golden, epochs, step_size):
    factor = jax.jit(optim.schedule(Static(epochs=epochs, schedule=golden.split("/")[0], step_size=step_size)))
    expected = SCHEDULES[golden]
    np.testing.assert_allclose(0.1 * factor(jnp.arange(epochs)), expected, rtol=1e-5)


def test_constant_schedule_stays_at_one():
    np.testing.assert_array_equal(optim.schedule(CONSTANT)(jnp.arange(10)), np.ones(10))


def test_rate_changes_once_per_epoch():
    # two steps an epoch, momentum 0: a step moves the weights by rate · gradient
    static = Static(epochs=5, step_size=2)
    weights = _weights(0.1, momentum=0.0, weight_decay=0.0, static=static, steps_per_epoch=2)
    moves = np.diff(weights, axis=0, prepend=OPTIMIZERS["w0"][None])
    rates = np.array([0.1] * 4 + [0.01] * 4 + [0.001] * 2)[:, None, None]
    np.testing.assert_allclose(moves, -rates * OPTIMIZERS["grads"], atol=1e-6)


def _rates(**static):
    """The rate of each of the ten steps, from what they move (momentum 0)."""
    weights = _weights(1.0, momentum=0.0, weight_decay=0.0, static=Static(epochs=5, **static), steps_per_epoch=2)
    moves = np.diff(weights, axis=0, prepend=OPTIMIZERS["w0"][None])
    return (-moves / OPTIMIZERS["grads"]).reshape(10, -1).mean(-1)


def test_rate_changes_with_every_step_if_that_is_the_clock():
    # five epochs of two steps: half a cosine from 1, at halves of an epoch
    rates = _rates(schedule="cosineannealing", clock="step")
    np.testing.assert_allclose(rates, 0.5 * (1 + np.cos(np.pi * np.arange(10) / 10)), atol=1e-5)


@pytest.mark.parametrize(
    ("clock", "risen"), [("epoch", [0.5, 0.5, 1, 1]), ("step", [0.25, 0.5, 0.75, 1])], ids=["epoch", "step"]
)
def test_warm_up_rises_evenly_and_the_schedule_has_the_rest(clock, risen):
    rates = _rates(step_size=2, warmup=2, clock=clock)
    np.testing.assert_allclose(rates, [*risen, 1, 1, 1, 1, 0.1, 0.1], rtol=1e-4)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_a_forgetful_optimizer_starts_afresh_and_keeps_the_time(name):
    # three steps an epoch, afresh after two epochs: from there on as a new one that starts with those weights
    static, options = Static(epochs=10, step_size=2), {"name": name, "steps_per_epoch": 3}
    forgetful = _weights(0.01, static=replace(static, fresh_at_drop=True), **options)
    usual = _weights(0.01, static=static, **options)
    chex.assert_trees_all_close(forgetful[:6], usual[:6], atol=1e-7)
    assert np.abs(forgetful[6:] - usual[6:]).max() > 1e-5
    numbers = {"lr": 0.001, "momentum": 0.9, "weight_decay": 5e-4}
    fresh = optim.optimizer(replace(CONSTANT, optimizer=name), numbers, 1)
    weights, state = forgetful[5], fresh.init(forgetful[5])
    for gradient, expected in zip(OPTIMIZERS["grads"][6:], forgetful[6:], strict=True):
        updates, state = fresh.update(gradient, state, weights)
        weights = optax.apply_updates(weights, updates)
        chex.assert_trees_all_close(weights, expected, atol=1e-6)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_rows_of_a_vmap_may_differ_in_every_number(name):
    weights = partial(_weights, name=name)
    rows = (jnp.array([0.01, 0.1, 0.01]), jnp.array([0.9, 0.5, 0.0]), jnp.array([5e-4, 0.0, 0.1]))
    together = jax.jit(jax.vmap(weights))(*rows)
    alone = jnp.stack([weights(*(float(x) for x in row)) for row in zip(*rows, strict=True)])
    chex.assert_trees_all_close(together, alone, atol=1e-6, rtol=1e-5)


def test_registries_hold_the_protocols_names():
    chosen = get_type_hints(Protocol)
    assert tuple(optim.OPTIMIZERS) == get_args(chosen["optimizer"])
    assert tuple(optim.SCHEDULES) == get_args(chosen["schedule"])
