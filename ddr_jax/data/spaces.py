"""ZCA whitening of images: in the space of pixels, as kornia does it, and of images of one length, as KIP does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ddr_jax.types import InputError, nearest

KINDS = ("kornia", "kip")
_EPS = 0.1  # kornia: added to each eigenvalue; kip: times the mean eigenvalue
_CHUNK = 4096  # images at a time, so that no copy of all of them is made in float64
_NO_CONTRAST = 1e-6  # an image with less has none but rounding's
_MAX_FEATURES = 64 * 64 * 3  # the matrix of more would take hours and many gigabytes


@dataclass(frozen=True, eq=False)
class Whitening:
    """A whitening fitted to images of F = H·W·K features, in the order of an (H, W, K) array; made by `fit`.

    Pixels become (pixel − `shift`) / `scale` per channel; of kind "kip" each image is then centred and divided by
    its norm; and its features f become (f − `mean`) `matrix`. `shift` and `scale` are (K,), `mean` is (F,),
    `matrix` is (F, F) and symmetric, all float64.
    """

    kind: str
    shift: np.ndarray
    scale: np.ndarray
    mean: np.ndarray
    matrix: np.ndarray

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (N, H, W, K) in [0, 1], whitened: float32."""
        whitened = np.empty(pixels.shape, np.float32)
        rows, matrix = whitened.reshape(len(pixels), -1), self.matrix.astype(np.float32)
        for where, features in _chunks(pixels, self.kind, self.shift, self.scale):
            np.matmul((features - self.mean).astype(np.float32), matrix, out=rows[where])
        return whitened

    def pixels(self, whitened: np.ndarray) -> np.ndarray:
        """The pixels (N, H, W, K) that become these images: float64, not clipped.

        Kind "kip" forgets each image's brightness and contrast, so all get those of the train images' mean.
        """
        features = np.linalg.solve(self.matrix, whitened.reshape(len(whitened), -1).T).T + self.mean
        if self.kind == "kip":
            features *= math.sqrt(features.shape[1])  # standardised pixels have a mean square of 1
        return features.reshape(whitened.shape) * self.scale + self.shift


def check_kind(kind: str) -> None:
    """Raises `InputError` unless `kind` is one of `KINDS`."""
    if kind not in KINDS:
        raise InputError(f"unknown ZCA whitening {kind!r}: {nearest(kind, KINDS)}")


def fit(pixels: np.ndarray, kind: str) -> Whitening:
    """The whitening of train images: pixels (N, H, W, K) in [0, 1].

    "kornia" is kornia's ZCAWhitening with eps = 0.1, which DD-Ranking, MTT and DC-BENCH use: where U diag(s) Uᵀ is
    the unbiased covariance of the pixels, the matrix is U diag(1 / sqrt(s + 0.1)) Uᵀ.
    "kip" is that of KIP (Nguyen et al. 2021, arXiv 2107.13034): channels are standardised, each image is centred
    and divided by its norm, XᵀX / N takes the covariance's place, and a tenth of its mean eigenvalue that of 0.1.
    Raises `InputError` for an unknown kind, a single image, images that are too large, and for kind "kip" a channel
    that is constant.
    """
    check_kind(kind)
    size, channels = math.prod(pixels.shape[1:]), pixels.shape[-1]
    if size > _MAX_FEATURES:
        raise InputError(
            f"ZCA whitening of images of {size} numbers is out of reach (at most {_MAX_FEATURES}, 64×64×3); give a "
            "smaller size, or leave zca out"
        )
    if len(pixels) < 2:
        raise InputError("ZCA whitening needs two train images at least; give more real data")
    if kind == "kip":
        shift, scale = _channels(pixels)
        mean = np.zeros(size)
    else:
        shift, scale = np.zeros(channels), np.ones(channels)
        mean = pixels.mean(0, dtype=np.float64).ravel()
    return Whitening(kind, shift, scale, mean, _matrix(pixels, kind, shift, scale, mean))


def _matrix(pixels: np.ndarray, kind: str, shift: np.ndarray, scale: np.ndarray, mean: np.ndarray) -> np.ndarray:
    moments = np.zeros((len(mean), len(mean)))
    for _, features in _chunks(pixels, kind, shift, scale):
        features -= mean
        moments += features.T @ features
    moments /= len(pixels) - (kind == "kornia")
    variances, directions = np.linalg.eigh(moments)
    eps = _EPS * (variances.mean() if kind == "kip" else 1)
    # Rounding makes variances of nothing slightly negative.
    return directions / np.sqrt(np.maximum(variances, 0) + eps) @ directions.T


def _channels(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (K,) of the channels."""
    mean = pixels.mean((0, 1, 2), dtype=np.float64)
    squares = [np.square(rows).sum(0) for _, rows in _chunks(pixels, "kornia", mean, np.ones(len(mean)))]
    std = np.sqrt(np.sum(squares, axis=0).reshape(-1, len(mean)).mean(0) / len(pixels))
    if (std < 1e-6).any():
        raise InputError("ZCA whitening of kind 'kip' standardises channels, and one of the train images' is constant")
    return mean, std


def _chunks(pixels: np.ndarray, kind: str, shift: np.ndarray, scale: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Features before `mean` is taken off, chunk by chunk: which images, and theirs (n, F) float64."""
    for first in range(0, len(pixels), _CHUNK):
        where = slice(first, first + _CHUNK)
        features = ((pixels[where] - shift) / scale).reshape(-1, math.prod(pixels.shape[1:]))
        if kind == "kip":
            features -= features.mean(1, keepdims=True)
            norms = np.linalg.norm(features, axis=1, keepdims=True)
            features /= np.maximum(norms, _NO_CONTRAST)
        yield where, features
