"""Optimizers and schedules as optax transformations of numbers that may be traced, one per student.

A schedule is a function of the time passed, in epochs, that gives the factor of the learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[..., jax.Array]
Scalar = jax.Array | float


def schedule(name: str, *, epochs: int, step_size: int, warmup: int = 0) -> Schedule:
    """The schedule of that name over `epochs`; `step_size`, in epochs, is read by ``step`` alone.

    With a `warmup`, the factor is (passed + tick) / warmup over the first epochs, and the schedule has the rest.
    """
    after = partial(SCHEDULES[name], epochs=epochs - warmup, step_size=step_size)

    def factor(passed: Any, tick: float = 1.0) -> jax.Array:
        passed = jnp.asarray(passed, float)
        if not warmup:
            return after(passed)
        return jnp.where(passed < warmup, (passed + tick) / warmup, after(jnp.maximum(passed - warmup, 0)))

    return factor


def optimizer(
    name: str,
    *,
    lr: Scalar,
    momentum: Scalar,
    weight_decay: Scalar,
    schedule: Schedule,
    steps_per_epoch: int,
    clock: str = "epoch",
    fresh_every: int | None = None,
) -> optax.GradientTransformation:
    """The optimizer of that name, whose rate is `lr` times the schedule's factor.

    `lr`, `momentum` and `weight_decay` are scalars and may be traced; only SGD reads `momentum`, Adam's β are fixed.
    `update` needs the parameters. The factor changes once per epoch, or with every step if `clock` is ``step``. Every
    `fresh_every` epochs the optimizer forgets what it has gathered (momentum, averages).
    """

    def rate(step: Any) -> Any:
        if clock == "step":
            return lr * schedule(step / steps_per_epoch, 1 / steps_per_epoch)
        return lr * schedule(step // steps_per_epoch)

    gathering, decay = OPTIMIZERS[name](momentum, weight_decay)
    if fresh_every is not None:
        gathering = _forgetful(gathering, fresh_every * steps_per_epoch)
    return optax.chain(gathering, decay, optax.scale_by_learning_rate(rate))


def _forgetful(inner: optax.GradientTransformation, every: int) -> optax.GradientTransformation:
    """`inner`, its state as at the start before the steps `every`, 2 · `every`, …"""

    def init(params: Any) -> Any:
        return jnp.zeros((), jnp.int32), inner.init(params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        step, gathered = state
        drop = (step > 0) & (step % every == 0)
        gathered = jax.tree.map(lambda now, new: jnp.where(drop, new, now), gathered, inner.init(params))
        updates, gathered = inner.update(updates, gathered, params)
        return updates, (step + 1, gathered)

    return optax.GradientTransformation(init, update)


# What gathers gradients, and the decay that follows it.
Parts = tuple[optax.GradientTransformation, optax.GradientTransformation]


def _sgd(momentum: Scalar, weight_decay: Scalar) -> Parts:
    """PyTorch's SGD: g ← g + weight_decay · w, v ← momentum · v + g, w ← w − rate · v."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.trace(momentum)), optax.identity()


def _adam(momentum: Scalar, weight_decay: Scalar) -> Parts:
    """PyTorch's Adam (arXiv 1412.6980): g ← g + weight_decay · w, then Adam with β = (0.9, 0.999), ε = 1e-8."""
    return optax.chain(optax.add_decayed_weights(weight_decay), _moments()), optax.identity()


def _adamw(momentum: Scalar, weight_decay: Scalar) -> Parts:
    """PyTorch's AdamW (arXiv 1711.05101): w ← (1 − rate · weight_decay) · w, then Adam's step; β and ε as above."""
    return _moments(), optax.add_decayed_weights(weight_decay)


def _moments() -> optax.GradientTransformation:
    """Adam's averages, corrected."""
    inner = optax.scale_by_adam()

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # optax takes a float to the power of an integer count
            return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


def _step(passed: Any, epochs: int, step_size: int) -> jax.Array:
    return 0.1 ** (passed // step_size)


def _constant(passed: Any, epochs: int, step_size: int) -> jax.Array:
    return jnp.ones_like(passed, jnp.float32)


def _cosineannealing(passed: Any, epochs: int, step_size: int) -> jax.Array:
    """½ (1 + cos(π · passed / epochs)), which would reach 0 after the last epoch (SGDR, arXiv 1608.03983)."""
    # the same as a square, because in float32 1 + cos loses its digits near −1
    return jnp.sin(jnp.pi * (epochs - passed) / (2 * epochs)) ** 2


def _cosine(passed: Any, epochs: int, step_size: int) -> jax.Array:
    """½ (1 + cos(π · passed / (2 · epochs))), which falls to a half only, as in ddranking 0.2.0."""
    return 0.5 * (1 + jnp.cos(jnp.pi * passed / (2 * epochs)))


OPTIMIZERS = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}
SCHEDULES = {"step": _step, "constant": _constant, "cosineannealing": _cosineannealing, "cosine": _cosine}
