"""The scores of DD-Ranking (arXiv 2505.13300), equation by equation, from accuracies of any origin.

Accuracies are fractions in [0, 1], arrays with any leading axes that broadcast (numpy or jax); weights
broadcast with them. Scores are float64 on the host. Every score raises InputError for an accuracy or a weight
that is outside [0, 1] or not a number, and for shapes that do not broadcast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ddr_jax.types import InputError

Values = np.ndarray | np.float64


def accuracy(syn_any: ArrayLike) -> Values:
    """The accuracy itself, once it is checked."""
    return _fractions(syn_any=syn_any)[0]


def hard_label_recovery(real_hard: ArrayLike, syn_hard: ArrayLike) -> Values:
    """HLR = acc(real, hard) − acc(syn, hard), in [−1, 1]; lower is better."""
    real_hard, syn_hard = _fractions(real_hard=real_hard, syn_hard=syn_hard)
    return real_hard - syn_hard


def improvement_over_random(syn_any: ArrayLike, rdm_any: ArrayLike) -> Values:
    """IOR = acc(syn, any) − acc(random, any), in [−1, 1]; higher is better."""
    syn_any, rdm_any = _fractions(syn_any=syn_any, rdm_any=rdm_any)
    return syn_any - rdm_any


def alpha(hlr: Values, ior: Values) -> tuple[Values, Values]:
    """α = w · IOR − (1 − w) · HLR at w = 0 and at w = 1."""
    return -hlr, ior


def beta(syn_aug: ArrayLike, rdm_aug: ArrayLike, syn_noaug: ArrayLike, rdm_noaug: ArrayLike) -> tuple[Values, Values]:
    """β at γ = 0 and at γ = 1: the gain over random images without augmentation, and with it.

    β = γ · (acc(syn, aug) − acc(random, aug)) + (1 − γ) · (acc(syn, no aug) − acc(random, no aug)).
    """
    syn_aug, rdm_aug, syn_noaug, rdm_noaug = _fractions(
        syn_aug=syn_aug, rdm_aug=rdm_aug, syn_noaug=syn_noaug, rdm_noaug=rdm_noaug
    )
    return syn_noaug - rdm_noaug, syn_aug - rdm_aug


def label_robust_score(
    real_hard: ArrayLike, syn_hard: ArrayLike, syn_any: ArrayLike, rdm_any: ArrayLike, weight: ArrayLike = 0.5
) -> Values:
    """LRS = normalise(α), in [0, 1], higher is better; `weight` is w (see `alpha`)."""
    ends = alpha(hard_label_recovery(real_hard, syn_hard), improvement_over_random(syn_any, rdm_any))
    return weighted(*ends, weight)


def augmentation_robust_score(
    syn_aug: ArrayLike, rdm_aug: ArrayLike, syn_noaug: ArrayLike, rdm_noaug: ArrayLike, weight: ArrayLike = 0.5
) -> Values:
    """ARS = normalise(β), in [0, 1], higher is better; `weight` is γ (see `beta`)."""
    return weighted(*beta(syn_aug, rdm_aug, syn_noaug, rdm_noaug), weight)


def weighted(start: ArrayLike, end: ArrayLike, weight: ArrayLike) -> Values:
    """The normalised score of an α or β that goes straight from `start` at weight 0 to `end` at weight 1."""
    start, end, weight = np.asarray(start), np.asarray(end), _fractions(weight=weight)[0]
    _check_shapes(start=start, end=end, weight=weight)
    return normalise((1 - weight) * start + weight * end)


def joint(lrs: ArrayLike, ars: ArrayLike) -> Values:
    """One number for those who want one: the mean of LRS and ARS, seed by seed (...), in [0, 1], higher is better.

    Our definition; the paper (arXiv 2505.13300) keeps the two apart.
    """
    return (np.asarray(lrs, np.float64) + np.asarray(ars, np.float64)) / 2


def normalise(alpha: ArrayLike) -> Values:
    """(e^α − e⁻¹) / (e − e⁻¹): increasing, 0 at α = −1 and 1 at α = 1; α of fractions, not percentages."""
    return (np.exp(np.asarray(alpha, np.float64)) - np.exp(-1)) / (np.exp(1) - np.exp(-1))


def of_percentages(score: ArrayLike) -> Values:
    """What ddranking 0.2.0 prints for an LRS or ARS: its formula takes α or β in percentage points.

    It leaves [0, 1]: −0.157 is its floor, 0.269 still stands for α = 0, and α = 0.05 gives 62.9.
    """
    alpha = np.log(np.asarray(score, np.float64) * (np.exp(1) - np.exp(-1)) + np.exp(-1))
    return normalise(100 * alpha)


def _fractions(**named: ArrayLike) -> list[np.ndarray]:
    """The arrays as float64, after every check that the scores share."""
    arrays = {name: np.asarray(values, np.float64) for name, values in named.items()}
    for name, array in arrays.items():
        invalid = np.argwhere(~((array >= 0) & (array <= 1))).tolist()  # so that NaN is invalid too
        if invalid:
            where, value = invalid[0], array[tuple(invalid[0])]
            advice = ": it looks like a percentage, divide by 100" if name != "weight" and value > 1 else ""
            raise InputError(f"{name}{where or ''} is {value:g}; expected a fraction in [0, 1]{advice}")
    _check_shapes(**arrays)
    return list(arrays.values())


def _check_shapes(**arrays: np.ndarray) -> None:
    try:
        np.broadcast_shapes(*(array.shape for array in arrays.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise InputError(f"Shapes do not broadcast: {shapes}; give every arm the same leading axes") from None
