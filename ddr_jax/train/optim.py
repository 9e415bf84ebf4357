"""Optimizers and schedules as optax transformations of numbers that may be traced, one per student.

A schedule is a function of the time passed, in epochs, that gives the factor of the learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ddr_jax.protocols.protocol import Static

Schedule = Callable[..., jax.Array]
Scalar = jax.Array | float


def schedule(static: Static) -> Schedule:
    """The schedule that the static part names, over its epochs; only ``step`` reads how long it waits for a drop.

    With a warm-up, the factor is (passed + tick) / warmup over the first epochs, and the schedule has the rest.
    """
    warmup = static.warmup
    after = partial(SCHEDULES[static.schedule], epochs=static.epochs - warmup, step_size=static.drop_every)

    def factor(passed: Any, tick: float = 1.0) -> jax.Array:
        passed = jnp.asarray(passed, float)
        if not warmup:
            return after(passed)
        return jnp.where(passed < warmup, (passed + tick) / warmup, after(jnp.maximum(passed - warmup, 0)))

    return factor


def optimizer(static: Static, numbers: Mapping[str, Any], steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer that the static part names, whose rate is `lr` times the schedule's factor.

    The `numbers` lr, momentum and weight_decay are scalars and may be traced; only SGD reads the momentum, Adam's β
    are fixed. `update` needs the parameters. The factor changes once per epoch, or with every step if the clock is
    ``step``. With `fresh_at_drop` the optimizer forgets what it has gathered (momentum, averages) at every drop.
    """
    factor = schedule(static)

    def rate(step: Any) -> Any:
        if static.clock == "step":
            return numbers["lr"] * factor(step / steps_per_epoch, 1 / steps_per_epoch)
        return numbers["lr"] * factor(step // steps_per_epoch)

    gathering, decay = OPTIMIZERS[static.optimizer](numbers["momentum"], numbers["weight_decay"])
    if static.fresh_at_drop:
        gathering = _forgetful(gathering, static.drop_every * steps_per_epoch)
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
