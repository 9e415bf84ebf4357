"""Methods compared over the same seeds: paired tests, groups that cannot be told apart, rankings at every weight.

Scores are arrays (methods, S) float64. Methods are paired by seed: what a seed does to all methods, such as its real
and random students, cancels in their differences. Pairing by position is still valid where each method had its own
seeds, but gains nothing.

A score with a weight goes straight from `start`, its α or β at weight 0, to `end`, that at weight 1, before it is
normalised (`metrics.weighted`); both are arrays (methods, S).
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ddr_jax.scores.intervals import Interval, t_interval
from ddr_jax.scores.metrics import weighted
from ddr_jax.types import InputError

LEVEL, POWER = 0.05, 0.8
WEIGHTS = tuple(i / 10 for i in range(11))
MANY_SEEDS = 1_000_000
CERTAIN = 9.0  # standard deviations: a normal variable is beyond them with probability 1e-19
HALVINGS = 60


@dataclass(frozen=True)
class Chance:
    """A probability in [0, 1] and its interval, (...) float64 each."""

    value: np.ndarray | np.float64
    low: np.ndarray | np.float64
    high: np.ndarray | np.float64


@dataclass(frozen=True)
class Pair:
    """Two methods, by their positions; the mean of `better` is the better one, or both are equal.

    Attributes:
        difference: of their means, 0 or more, with the interval of this pair alone.
        p: of the two-sided paired t-test of this pair alone.
        p_holm: the same after Holm's correction for all pairs.
        distinct: whether `p_holm` is at most the level.
        chance: that `better` scores better on a new seed (see `chance_of_better`).
        seeds_to_separate: see there; each pair has an equal share of the level.
    """

    better: int
    worse: int
    difference: Interval
    p: float
    p_holm: float
    distinct: bool
    chance: Chance
    seeds_to_separate: int | None


@dataclass(frozen=True)
class Ranking:
    """Methods in order of their means.

    Attributes:
        order: positions of the methods, the best mean first.
        means: (methods,) with an interval each, in the order in which the scores were given.
        pairs: all of them, in order of rank.
        letters: (methods,) of each method's groups: two share a letter exactly where they cannot be told apart.
    """

    order: tuple[int, ...]
    means: tuple[Interval, ...]
    pairs: tuple[Pair, ...]
    letters: tuple[str, ...]


def rank(scores: ArrayLike, level: float = LEVEL, *, lower_is_better: bool = False) -> Ranking:
    """Ranks methods by their mean scores (methods, S) and tests every pair.

    The probability that any two equal methods are called distinct is at most `level`; intervals cover 1 − level.

    Raises:
        InputError: if there are fewer than two seeds, a score is not finite, or `level` is not in (0, 1).
    """
    scores = np.asarray(scores, np.float64)
    means = tuple(t_interval(row, 1 - level) for row in scores)
    sign = -1 if lower_is_better else 1
    quality = sign * scores
    order = tuple(sorted(range(len(means)), key=lambda method: -sign * means[method].mean))
    couples = list(combinations(order, 2))
    p = np.array([paired_t_test(quality[a], quality[b]) for a, b in couples])
    adjusted = holm(p)
    pairs = tuple(
        Pair(
            better=a,
            worse=b,
            difference=t_interval(quality[a] - quality[b], 1 - level),
            p=float(p[i]),
            p_holm=float(adjusted[i]),
            distinct=bool(adjusted[i] <= level),
            chance=chance_of_better(quality[a], quality[b], 1 - level),
            seeds_to_separate=seeds_to_separate(quality[a], quality[b], level=level / len(couples)),
        )
        for i, (a, b) in enumerate(couples)
    )
    found = groups(order, ((pair.better, pair.worse) for pair in pairs if pair.distinct))
    return Ranking(order, means, pairs, letters(found, len(order)))


def paired_t_test(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """The two-sided p-value (...) of Student's t-test that a and b (..., S), paired by seed, have equal means.

    1 where a and b are equal seed by seed, 0 where they differ by the same amount on every seed.
    """
    effect, n = _effect(a, b)
    return 2 * special.stdtr(n - 1, -np.sqrt(n) * np.abs(effect))


def holm(p: ArrayLike) -> np.ndarray:
    """The p-values (..., m) of m tests, adjusted so that they hold their level together, however they depend.

    Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6.
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p, axis=-1)
    factors = np.arange(p.shape[-1], 0, -1)
    rising = np.maximum.accumulate(np.take_along_axis(p, order, -1) * factors, axis=-1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(rising, 1), -1)
    return adjusted


def chance_of_better(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Chance:
    """P(A > B) + ½ P(A = B) on a new seed, from a and b (..., S): Φ(d) of their differences' mean / deviation d.

    It is about one seed, not about means: a small difference that every seed shows has chance 1. Differences are
    assumed to be normal. The interval inverts the noncentral t distribution of √S · d; it has no width where all
    seeds differ by the same amount other than 0.
    Cumming & Finch 2001, Educational and Psychological Measurement 61.
    """
    effect, n = _effect(a, b)
    size = np.abs(effect)
    tails = [(1 - level) / 2, (1 + level) / 2]
    near, far = (np.where(np.isfinite(size), _effect_exceeded(size, n, tail), size) for tail in tails)
    low, high = np.where(effect < 0, -far, near), np.where(effect < 0, -near, far)
    return Chance(special.ndtr(effect), special.ndtr(low), special.ndtr(high))


def _effect_exceeded(size: np.ndarray, n: int, tail: float) -> np.ndarray:
    """The true effect, within ± CERTAIN, at which an observed one of `size` or more (...) has probability `tail`."""
    statistic = np.sqrt(n) * np.where(np.isfinite(size), size, 0)
    low, high = np.full_like(statistic, -CERTAIN), np.full_like(statistic, CERTAIN)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        rare = special.nctdtr(n - 1, np.sqrt(n) * middle, statistic) > 1 - tail
        low, high = np.where(rare, middle, low), np.where(rare, high, middle)
    return (low + high) / 2


def power_of(effect: ArrayLike, n: ArrayLike, level: float = LEVEL) -> np.ndarray:
    """The probability (...) that the two-sided paired t-test over n seeds finds a true effect.

    `effect` is the differences' mean / standard deviation over seeds. Cohen 1988, Statistical Power Analysis for the
    Behavioral Sciences, chapter 2.
    """
    n = np.asarray(n, np.float64)
    critical = special.stdtrit(n - 1, 1 - level / 2)
    shift = np.sqrt(n) * np.minimum(np.abs(effect), 100)  # finite, and enough for two seeds
    # P(T(δ) < −c) as P(T(−δ) > c): nctdtr gives nothing for far negative values
    found = 2 - special.nctdtr(n - 1, shift, critical) - special.nctdtr(n - 1, -shift, critical)
    return np.where(shift > critical + CERTAIN, 1.0, found)  # where nctdtr gives nothing at some n


def seeds_to_separate(a: ArrayLike, b: ArrayLike, power: float = POWER, level: float = LEVEL) -> int | None:
    """How many seeds, 2 or more, let the paired t-test find a difference such as that of a and b (S,) with `power`.

    It takes the observed mean and deviation for the true ones, and is as uncertain as they are. None where the
    means are equal or a million seeds are too few.

    Raises:
        InputError: if there are fewer than two seeds.
    """
    effect, _ = _effect(a, b)
    if effect == 0 or power_of(effect, MANY_SEEDS, level) < power:
        return None
    few, enough = 1, MANY_SEEDS
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if power_of(effect, middle, level) >= power else (middle, enough)
    return enough


def groups(order: Sequence[int], distinct: Iterable[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """The largest groups of methods without a distinct pair, each in the order given, the best group first.

    Found by insertion and absorption (Piepho 2004, Journal of Computational and Graphical Statistics 13): a group
    with a distinct pair becomes two, each without one of the pair, and groups within others are dropped.
    """
    place = {method: i for i, method in enumerate(order)}
    found = [frozenset(order)]
    for a, b in distinct:
        whole = [group for group in found if not {a, b} <= group]
        split = [group - {out} for group in found if {a, b} <= group for out in (a, b)]
        split = [group for group in split if not any(group < other for other in split + whole)]
        found = list(dict.fromkeys(whole + [group for group in split if group not in whole]))
    ordered = (tuple(sorted(group, key=place.__getitem__)) for group in found)
    return tuple(sorted(ordered, key=lambda group: [place[method] for method in group]))


def letters(found: Sequence[Sequence[int]], methods: int) -> tuple[str, ...]:
    """Each method's groups as letters, a for the best group; numbers in brackets where the alphabet ends."""
    names = [string.ascii_letters[i] if i < len(string.ascii_letters) else f"({i + 1})" for i in range(len(found))]
    return tuple(
        "".join(name for name, group in zip(names, found, strict=True) if method in group) for method in range(methods)
    )


def over_weights(start: ArrayLike, end: ArrayLike, weights: ArrayLike = WEIGHTS) -> np.ndarray:
    """Each method's mean score over seeds at each weight (methods, weights).

    Raises:
        InputError: if a weight is outside [0, 1].
    """
    return weighted(np.asarray(start)[..., None], np.asarray(end)[..., None], weights).mean(-2)


def kendall(scores: ArrayLike, others: ArrayLike) -> np.ndarray:
    """Kendall's τ-b between two scores of the same methods, last axis (..., methods); NaN where one ranks nothing.

    1 for equal orders, −1 for reversed ones; ties count for neither. Kendall 1945, The Treatment of Ties in Ranking
    Problems, Biometrika 33.
    """
    both = np.broadcast_arrays(np.asarray(scores, np.float64), np.asarray(others, np.float64))
    first, second = (np.sign(values[..., :, None] - values[..., None, :]) for values in both)
    pairs = np.sqrt((first**2).sum((-2, -1)) * (second**2).sum((-2, -1)))
    return np.divide((first * second).sum((-2, -1)), pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)


def agreement(start: ArrayLike, end: ArrayLike, weights: ArrayLike = WEIGHTS, reference: float = 0.5) -> np.ndarray:
    """Kendall's τ-b (weights,) between the ranking at each weight and that at `reference`; see `over_weights`."""
    return kendall(over_weights(start, end, weights).T, over_weights(start, end, [reference]).T)


def first_between(start: ArrayLike, end: ArrayLike) -> tuple[tuple[float, float] | None, ...]:
    """For each method, from which weight to which its mean α or β over seeds (methods, S) is the highest.

    The upper envelope of straight lines, hence exact. None where another method is higher at all weights, or where a
    method draws level at a single weight only. The order of the mean *scores* may turn at a slightly different weight,
    because the normalisation is slightly convex: different by the size of the variance over seeds, not of the
    deviation.
    """
    means = (np.asarray(ends, np.float64).mean(-1) for ends in (start, end))
    left, right = (mean[:, None] - mean for mean in means)  # each method's leads over all, at both ends
    with np.errstate(divide="ignore", invalid="ignore"):  # leads that never change are never 0
        turns = left / (left - right)
    low, high = np.where(left < 0, turns, 0).max(1), np.where(right < 0, turns, 1).min(1)
    return tuple((a, b) if a < b else None for a, b in zip(low.tolist(), high.tolist(), strict=True))


def _effect(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, int]:
    """Mean / standard deviation (...) of the differences over seeds, infinite where they are equal and not 0."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if difference.ndim == 0 or difference.shape[-1] < 2:
        raise InputError(f"scores have shape {difference.shape}; a comparison needs two seeds or more on the last axis")
    offsets = difference - difference[..., :1]  # exactly 0 where all are equal
    mean, deviation = difference[..., 0] + offsets.mean(-1), offsets.std(-1, ddof=1)
    constant = np.where(mean == 0, 0.0, np.copysign(np.inf, mean))
    return np.divide(mean, deviation, out=constant, where=deviation > 0), difference.shape[-1]
