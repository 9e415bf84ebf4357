"""Spaces of images (`types.Space`): normalised per channel, or ZCA-whitened as kornia or KIP does it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ddr_jax.types import InputError, Space

KINDS = ("kornia", "kip")
_EPS = 0.1  # kornia: added to each eigenvalue; kip: times the mean eigenvalue
_CHUNK = 4096  # images at a time, so that no copy of all of them is made in float64
_NO_CONTRAST = 1e-6  # an image with a smaller norm is constant up to rounding
_MAX_FEATURES = 64 * 64 * 3  # the matrix of more would take hours and many gigabytes


@dataclass(frozen=True, eq=False, repr=False)
class Normalised(Space):
    """Images are (pixel − `mean`) / `std` per channel; `mean` and `std` are (K,) float32."""

    name: ClassVar[str] = "normalised"

    @classmethod
    def of(cls, mean: Any, std: Any, channels: int, where: str) -> Normalised:
        """By given constants; raises `InputError`, which begins with `where`, unless they fit pixels in [0, 1]."""
        mean, std = np.asarray(mean, np.float32).ravel(), np.asarray(std, np.float32).ravel()
        if not len(mean) == len(std) == channels:
            got = f"got {len(mean)} and {len(std)}"
            raise InputError(f"{where}: mean and std must hold a number for each of {channels} channels, {got}")
        if not (np.all((mean >= 0) & (mean <= 1)) and np.all((std > 0) & (std <= 1))):
            got = f"got mean {mean.tolist()}, std {std.tolist()}"
            raise InputError(
                f"{where}: mean must lie in [0, 1], std positive up to 1, {got}; if of 0..255, divide by 255"
            )
        return cls(mean, std)

    def images(self, pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """As in `types.Space`."""
        out = np.empty(pixels.shape, np.float32) if out is None else out
        # Long rows, because numpy broadcasts over three channels several times slower.
        rows, given = (array.reshape(len(array), -1) for array in (out, pixels))
        repeats = rows.shape[1] // len(self.mean)
        np.subtract(given, np.tile(self.mean, repeats), out=rows, casting="same_kind")
        rows /= np.tile(self.std, repeats)
        return out

    def pixels(self, images: np.ndarray) -> np.ndarray:
        """As in `types.Space`."""
        return images * self.std + self.mean


@dataclass(frozen=True, eq=False, repr=False)
class Whitened(Space):
    """A whitening fitted to images of F = H·W·K features, in the order of an (H, W, K) array; made by `fit`.

    Pixels become (pixel − `shift`) / `scale` per channel; of kind "kip" each image is then centred and divided by
    its norm; and its features f become (f − `centre`) `matrix`. `shift` and `scale` are (K,), `centre` is (F,),
    `matrix` is (F, F) and symmetric, all float64. `mean` and `std` (K,) float32 play no part in that: by
    them the same data are normalised where they are not whitened.
    """

    kind: str
    shift: np.ndarray
    scale: np.ndarray
    centre: np.ndarray
    matrix: np.ndarray
    name: ClassVar[str] = "zca"

    def images(self, pixels: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """As in `types.Space`."""
        out = np.empty(pixels.shape, np.float32) if out is None else out
        rows, matrix = out.reshape(-1, len(self.centre)), self.matrix.astype(np.float32)
        for where, features in _chunks(pixels, self.kind, self.shift, self.scale):
            np.matmul((features - self.centre).astype(np.float32), matrix, out=rows[where])
        return out

    def pixels(self, images: np.ndarray) -> np.ndarray:
        """As in `types.Space`, float64.

        Kind "kip" forgets each image's brightness and contrast, so all get those of the train images' mean.
        """
        features = np.linalg.solve(self.matrix, images.reshape(-1, len(self.centre)).T).T + self.centre
        if self.kind == "kip":
            features *= math.sqrt(features.shape[1])  # standardised pixels have a mean square of 1
        return features.reshape(images.shape) * self.scale + self.shift


def fit(pixels: np.ndarray, kind: str, constants: Normalised, where: str) -> Whitened:
    """The whitening fitted to train images: pixels (N, H, W, K) in [0, 1], which `constants` would normalise.

    "kornia" is kornia's ZCAWhitening with eps = 0.1, which DD-Ranking, MTT and DC-BENCH use: where U diag(s) Uᵀ is
    the unbiased covariance of the pixels, the matrix is U diag(1 / sqrt(s + 0.1)) Uᵀ.
    "kip" is that of KIP (Nguyen et al. 2021, arXiv 2107.13034): channels are standardised, each image is centred
    and divided by its norm, XᵀX / N stands for the covariance, and a tenth of its mean eigenvalue for 0.1.

    Raises:
        InputError: for a single image, images that are too large, and for kind "kip" a channel that is constant.
    """
    size, depth = math.prod(pixels.shape[1:]), pixels.shape[-1]
    if size > _MAX_FEATURES:
        raise InputError(f"ZCA whitening takes images of at most 64×64×3 numbers, got {size}; give a smaller size")
    if len(pixels) < 2:
        raise InputError("ZCA whitening needs two train images at least; give more real data")
    if kind == "kip":
        shift, scale = channels(pixels, where)
        centre = np.zeros(size)
    else:
        shift, scale = np.zeros(depth), np.ones(depth)
        centre = pixels.mean(0, dtype=np.float64).ravel()
    matrix = _matrix(pixels, kind, shift, scale, centre)
    return Whitened(constants.mean, constants.std, kind, shift, scale, centre, matrix)


def _matrix(pixels: np.ndarray, kind: str, shift: np.ndarray, scale: np.ndarray, centre: np.ndarray) -> np.ndarray:
    moments = np.zeros((len(centre), len(centre)))
    for _, features in _chunks(pixels, kind, shift, scale):
        features -= centre
        moments += features.T @ features
    moments /= len(pixels) - (kind == "kornia")
    variances, directions = np.linalg.eigh(moments)
    eps = _EPS * (variances.mean() if kind == "kip" else 1)
    # Rounding makes variances that should be 0 slightly negative.
    return directions / np.sqrt(np.maximum(variances, 0) + eps) @ directions.T


def channels(pixels: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (K,) float64 of each channel of pixels (N, H, W, K).

    Raises `InputError`, which begins with `where`, if a channel is constant.
    """
    mean = pixels.mean(axis=(0, 1, 2), dtype=np.float64)
    # Image by image, since a squared copy of all of them would double the memory.
    squares = sum(np.square(image, dtype=np.float64).mean(axis=(0, 1)) for image in pixels) / len(pixels)
    std = np.sqrt(np.maximum(squares - mean**2, 0))
    if (std < 1e-6).any():
        raise InputError(f"{where}: a channel of the train images is constant, so it cannot be normalised")
    return mean, std


def _chunks(pixels: np.ndarray, kind: str, shift: np.ndarray, scale: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Features before `centre` is taken off, chunk by chunk: which images, and their features (n, F) float64."""
    pixels = pixels.reshape(-1, *pixels.shape[-3:])
    for first in range(0, len(pixels), _CHUNK):
        where = slice(first, first + _CHUNK)
        features = ((pixels[where] - shift) / scale).reshape(-1, math.prod(pixels.shape[1:]))
        if kind == "kip":
            features -= features.mean(1, keepdims=True)
            norms = np.linalg.norm(features, axis=1, keepdims=True)
            features /= np.maximum(norms, _NO_CONTRAST)
        yield where, features
