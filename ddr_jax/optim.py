"""Optimizers and schedules as optax transformations of numbers that may be traced, one per student.

A schedule is a function of the epoch (an integer array, from 0) that gives the factor of the learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddr_jax.types import InputError, nearest

Schedule = Callable[[Any], jax.Array]
Scalar = jax.Array | float


def schedule(name: str, *, epochs: int, step_size: int) -> Schedule:
    """The schedule of that name over `epochs`; `step_size`, in epochs, is read by ``step`` alone.

    Raises:
        InputError: if the name is not one of `SCHEDULES`.
    """
    if name not in SCHEDULES:
        raise InputError(f"Unknown schedule {name!r}: {nearest(name, SCHEDULES)}")
    return SCHEDULES[name](epochs, step_size)


def optimizer(
    name: str, *, lr: Scalar, momentum: Scalar, weight_decay: Scalar, schedule: Schedule, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The optimizer of that name, whose rate is `lr` times the schedule's factor and changes once per epoch.

    `lr`, `momentum` and `weight_decay` are scalars and may be traced; `momentum` is SGD's alone, for Adam's β are
    fixed. `update` needs the parameters.

    Raises:
        InputError: if the name is not one of `OPTIMIZERS`.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"Unknown optimizer {name!r}: {nearest(name, OPTIMIZERS)}")

    def rate(step: jax.Array) -> jax.Array:
        return lr * schedule(step // steps_per_epoch)

    return OPTIMIZERS[name](rate, momentum, weight_decay)


def _sgd(rate: Schedule, momentum: Scalar, weight_decay: Scalar) -> optax.GradientTransformation:
    """PyTorch's SGD: g ← g + weight_decay · w, v ← momentum · v + g, w ← w − rate · v."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(rate, momentum))


def _adam(rate: Schedule, momentum: Scalar, weight_decay: Scalar) -> optax.GradientTransformation:
    """PyTorch's Adam (arXiv 1412.6980): g ← g + weight_decay · w, then Adam with β = (0.9, 0.999), ε = 1e-8."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(rate))


def _adamw(rate: Schedule, momentum: Scalar, weight_decay: Scalar) -> optax.GradientTransformation:
    """PyTorch's AdamW (arXiv 1711.05101): w ← (1 − rate · weight_decay) · w, then Adam's step; β and ε as above."""
    return optax.adamw(rate, weight_decay=weight_decay)


def _step(epochs: int, step_size: int) -> Schedule:
    return lambda epoch: 0.1 ** (epoch // step_size)


def _constant(epochs: int, step_size: int) -> Schedule:
    return jnp.ones_like


def _cosineannealing(epochs: int, step_size: int) -> Schedule:
    """½ (1 + cos(π · epoch / epochs)), which would reach 0 after the last epoch (SGDR, arXiv 1608.03983)."""
    # the same as a square, because in float32 1 + cos loses its digits near −1
    return lambda epoch: jnp.sin(jnp.pi * (epochs - epoch) / (2 * epochs)) ** 2


def _cosine(epochs: int, step_size: int) -> Schedule:
    """½ (1 + cos(π · epoch / (2 · epochs))), which falls to a half only, as in ddranking 0.2.0."""
    return lambda epoch: 0.5 * (1 + jnp.cos(jnp.pi * epoch / (2 * epochs)))


OPTIMIZERS = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}
SCHEDULES = {"step": _step, "constant": _constant, "cosineannealing": _cosineannealing, "cosine": _cosine}
