"""Losses of a student against target probabilities, one value per example: the caller reduces.

Targets are probabilities whatever their origin (hard labels as one-hot rows, stored or teacher's logits
through `soften`), so that students with different labels are rows of one population.
A temperature T shrinks gradients by about 1 / T²; the caller undoes that by the factor T².
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def soften(label_logits: jax.Array, temperature: jax.Array | float = 1.0) -> jax.Array:
    """softmax(t / T) of label logits t (B, C): target probabilities (B, C) (Hinton, arXiv 1503.02531)."""
    return jax.nn.softmax(label_logits / temperature)


def cross_entropy(logits: jax.Array, targets: jax.Array, temperature: jax.Array | float = 1.0) -> jax.Array:
    """−Σ_c p_c log softmax(s / T)_c of logits s (B, C) and target probabilities p (B, C): (B,) nats."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits / temperature), axis=-1)


def kl_divergence(logits: jax.Array, targets: jax.Array, temperature: jax.Array | float = 1.0) -> jax.Array:
    """Σ_c p_c (log p_c − log softmax(s / T)_c) of logits s and target probabilities p, (B, C): (B,) nats.

    A class of probability 0 contributes 0, and gradients are finite there.
    """
    # log 1 stands for log 0, which would make the gradient's 0 · ∞ not a number
    log_targets = jnp.log(jnp.where(targets > 0, targets, 1.0))
    return jnp.sum(targets * (log_targets - jax.nn.log_softmax(logits / temperature)), axis=-1)


def mse_gt(
    logits: jax.Array,
    label_logits: jax.Array,
    targets: jax.Array,
    mse_weight: jax.Array | float,
    ce_weight: jax.Array | float,
) -> jax.Array:
    """mse_weight · mean_c (s_c − t_c)² + ce_weight · cross-entropy(s, p) of logits s and label logits t, (B, C): (B,).

    The target probabilities p (B, C) are the ground truth's (G-VBSM, arXiv 2311.17950). The label logits' offset
    counts, which probabilities do not keep. There is no temperature.
    """
    squares = jnp.mean((logits - label_logits) ** 2, axis=-1)
    return mse_weight * squares + ce_weight * cross_entropy(logits, targets)


LOSSES = {"ce": cross_entropy, "kl": kl_divergence}
