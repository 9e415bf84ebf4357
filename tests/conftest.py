"""What several test files need: two CPU devices, the shared data of this workplace, small real data."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from ddr_jax.data.spaces import Normalised
from ddr_jax.types import RealData, Split

DEVICES = 2

jax.config.update("jax_num_cpu_devices", DEVICES)
# Shapes and dtypes of operands are written, not promoted: what is promoted silently is often a mistake.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def promoting():
    """For references of flax's and of textbooks, whose operands have fewer axes or narrower types than ours."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the project's shared data, which is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def real() -> RealData:
    """Three classes of 8×8 images that a small network can tell apart: 90 to train on, 30 each to validate and test."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 8, 8, 1))

    def split(count: int) -> Split:
        labels = np.arange(count, dtype=np.int32) % 3
        images = centres[labels] + rng.normal(size=(count, 8, 8, 1))
        return Split(images.astype(np.float32), labels)

    one = np.ones(1, np.float32)
    return RealData("blobs", split(90), split(30), split(30), Normalised(0 * one, one), num_classes=3, flips=True)
