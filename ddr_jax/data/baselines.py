"""Baselines of a distilled set's size: random images, noise, and coresets of real images (letters as in `types`).

A baseline maps real data, images per class `counts` (C,), `features` (N, F) of the real train images or None for their
pixels, and a NumPy generator to images (n, H, W, K) float32, normalised, and labels (n,) int32 in order of class, where
n = sum of counts. It is a pure function of its arguments, except that the generator moves on. Only train is looked
at, so a validation split that was held out stays unseen. Distances are Euclidean, within a class, and no image is
chosen twice:

    random    real images, drawn without replacement. Varies with the generator.
    noise     N(0, 1) for every channel of every pixel, in normalised space: images of no class. Varies.
    herding   greedy: each image keeps the mean of the chosen features nearest to the class's (Welling 2009; Rebuffi et
              al. 2017, arXiv 1611.07725, without their unit norm). The same for every generator.
    k-center  greedy: each image is the farthest from all chosen before (Sener & Savarese 2018, arXiv 1708.00489),
              the first one the nearest to the class's mean. The same for every generator.
    k-means   Lloyd's iterations from a start by k-means++ (Arthur & Vassilvitskii 2007), then for each centre the
              nearest image not yet chosen, so that images are real, as in DC-BENCH (Cui et al. 2022, arXiv 2207.09639).
              Its start varies with the generator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from ddr_jax.data.datasets import class_members, random_subset
from ddr_jax.data.readers import Labelled
from ddr_jax.types import InputError, RealData

LLOYD = 50  # iterations of k-means, unless no image changes its centre before

Baseline = Callable[[RealData, np.ndarray, np.ndarray | None, Generator], Labelled]
_Choice = Callable[[np.ndarray, int, Generator], np.ndarray]  # features of one class, count → indices


def _random(real: RealData, counts: np.ndarray, features: np.ndarray | None, rng: Generator) -> Labelled:
    index = random_subset(real.train, counts, rng)
    return real.train.images[index], real.train.labels[index]


def _noise(real: RealData, counts: np.ndarray, features: np.ndarray | None, rng: Generator) -> Labelled:
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return rng.standard_normal((len(labels), *real.image_shape), np.float32), labels


def _chosen_by(choice: _Choice) -> Baseline:
    """The baseline whose images `choice` selects in every class."""

    def baseline(real: RealData, counts: np.ndarray, features: np.ndarray | None, rng: Generator) -> Labelled:
        points = real.train.images.reshape(len(real.train), -1) if features is None else features
        if not np.isfinite(points).all():
            raise InputError(f"features of {real.name} hold NaN or infinity: did the teacher's training diverge?")
        members = zip(class_members(real.train.labels, counts), counts, strict=True)
        index = np.concatenate([own[choice(_centred(points[own]), int(n), rng)] for own, n in members if n])
        return real.train.images[index], real.train.labels[index]

    return baseline


def _centred(points: np.ndarray) -> np.ndarray:
    """Points about their mean, so that float32 distances lose no digits to a common offset."""
    return points - points.mean(0, dtype=np.float64).astype(np.float32)


def _herding(points: np.ndarray, count: int, rng: Generator) -> np.ndarray:
    squares, total = _squares(points), np.zeros(points.shape[1], np.float32)
    chosen: list[int] = []
    for _ in range(count):
        # |total + x|² up to a constant: the mean of the chosen is as far from 0, the class's mean, as their sum is.
        away = squares + 2 * (points @ total)
        away[chosen] = np.inf
        chosen.append(int(away.argmin()))
        total += points[chosen[-1]]
    return np.array(chosen)


def _k_center(points: np.ndarray, count: int, rng: Generator) -> np.ndarray:
    squares = _squares(points)
    chosen, nearest = [int(squares.argmin())], np.full(len(points), np.inf, np.float32)
    for _ in range(count - 1):
        nearest = np.minimum(nearest, _distances(points, squares, chosen[-1]))
        nearest[chosen] = -np.inf
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)


def _k_means(points: np.ndarray, count: int, rng: Generator) -> np.ndarray:
    centres, owner = points[_spread(points, count, rng)], np.full(len(points), -1)
    for _ in range(LLOYD):
        before, owner = owner, _from_centres(points, centres).argmin(1)
        if (owner == before).all():
            break
        for centre in np.unique(owner):  # one that is nearest to no image stays
            centres[centre] = points[owner == centre].mean(0)
    distance, chosen = _from_centres(points, centres), []
    for centre in range(count):
        distance[chosen] = np.inf
        chosen.append(int(distance[:, centre].argmin()))
    return np.array(chosen)


def _spread(points: np.ndarray, count: int, rng: Generator) -> list[int]:
    """Indices of k-means++: each is drawn with a chance proportional to its squared distance from those before."""
    squares = _squares(points)
    chosen, nearest = [int(rng.integers(len(points)))], np.full(len(points), np.inf)
    for _ in range(count - 1):
        nearest = np.minimum(nearest, _distances(points, squares, chosen[-1]))
        total = nearest.sum()  # 0 if the class has fewer different images than centres
        chosen.append(int(rng.choice(len(points), p=nearest / total if total > 0 else None)))
    return chosen


def _squares(points: np.ndarray) -> np.ndarray:
    return np.einsum("nf,nf->n", points, points)


def _distances(points: np.ndarray, squares: np.ndarray, index: int) -> np.ndarray:
    """Squared distances from one of the points, (N,) float64, itself at 0 exactly."""
    apart = np.maximum(squares + squares[index] - 2 * (points @ points[index]), 0).astype(np.float64)
    apart[index] = 0
    return apart


def _from_centres(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances (N, centres)."""
    return _squares(points)[:, None] + _squares(centres) - 2 * (points @ centres.T)


BASELINES: dict[str, Baseline] = {
    "random": _random,
    "noise": _noise,
    "herding": _chosen_by(_herding),
    "k-center": _chosen_by(_k_center),
    "k-means": _chosen_by(_k_means),
}
VARYING = ("random", "noise", "k-means")  # by the generator; the others are drawn once for all seeds
IN_FEATURES = ("herding", "k-center", "k-means")  # look at features
