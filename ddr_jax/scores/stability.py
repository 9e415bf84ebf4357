"""Whether a ranking hangs on the weight: LRS over all w, ARS over all γ, and who is first where.

LRS is normalise(α) and ARS normalise(β), and both α and β go straight from one value at weight 0 to another at
weight 1: α from −HLR to IOR, β from the gain over random without augmentation to that with it. Those two ends,
`start` and `end`, are all that this room needs of either score.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ddr_jax.scores.metrics import normalise
from ddr_jax.types import InputError

WEIGHTS = tuple(i / 10 for i in range(11))


def sweep(start: ArrayLike, end: ArrayLike, weights: ArrayLike = WEIGHTS) -> np.ndarray:
    """Each method's score at each weight (methods, weights): the mean over seeds of α or β (methods, S), normalised.

    Raises:
        InputError: if a weight is outside [0, 1].
    """
    weights = np.asarray(weights, np.float64)
    if not ((weights >= 0) & (weights <= 1)).all():
        raise InputError(f"weights are {weights.tolist()}; expected numbers in [0, 1]")
    start, end = np.asarray(start, np.float64)[..., None], np.asarray(end, np.float64)[..., None]
    return normalise((1 - weights) * start + weights * end).mean(-2)


def kendall(scores: ArrayLike, others: ArrayLike) -> np.ndarray:
    """Kendall's τ-b between two scores of the same methods, last axis (..., methods); NaN where one ranks nothing.

    1 for equal orders, −1 for reversed ones; ties count for neither. Kendall 1945, The Treatment of Ties in Ranking
    Problems, Biometrika 33.
    """
    signs = []
    for values in (scores, others):
        values = np.asarray(values, np.float64)
        signs.append(np.sign(values[..., :, None] - values[..., None, :]))
    first, second = np.broadcast_arrays(*signs)
    pairs = np.sqrt((first**2).sum((-2, -1)) * (second**2).sum((-2, -1)))
    return np.divide((first * second).sum((-2, -1)), pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)


def agreement(start: ArrayLike, end: ArrayLike, weights: ArrayLike = WEIGHTS, reference: float = 0.5) -> np.ndarray:
    """Kendall's τ-b (weights,) between the ranking at each weight and that at `reference`; arguments as `sweep`'s."""
    return kendall(sweep(start, end, weights).T, sweep(start, end, [reference]).T)


def first_between(start: ArrayLike, end: ArrayLike) -> tuple[tuple[float, float] | None, ...]:
    """For each method, from which weight to which its mean α or β over seeds (methods, S) is the highest.

    The upper envelope of straight lines, hence exact. None where another is higher at all weights, or where a method
    comes level at one weight only. The mean *score* is of a normalisation that is slightly convex, so its order may
    turn at a weight a little to the side: by the size of the variance over seeds, not of the deviation.
    """
    lines = np.stack([np.asarray(ends, np.float64).mean(-1) for ends in (start, end)], -1)
    return tuple(_first(*(line - lines).T) for line in lines)


def _first(at_start: np.ndarray, at_end: np.ndarray) -> tuple[float, float] | None:
    """Where all lines from `at_start` to `at_end` (methods,), one method's leads over all, are 0 or more."""
    low, high = 0.0, 1.0
    for left, right in zip(at_start.tolist(), at_end.tolist(), strict=True):
        if max(left, right) <= 0 and min(left, right) < 0:
            return None
        if left < 0:
            low = max(low, left / (left - right))
        if right < 0:
            high = min(high, left / (left - right))
    return (low, high) if low < high else None
