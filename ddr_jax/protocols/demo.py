"""The demonstration: handwritten digits, 10 per class distilled by distribution matching, both bundled."""

from __future__ import annotations

from pathlib import Path

from ddr_jax.data.distilled import Distilled, load_distilled
from ddr_jax.protocols.augmentations import augmentation
from ddr_jax.protocols.protocol import Protocol, real
from ddr_jax.protocols.settings import Settings

SET = Path(__file__).parents[1] / "data" / "bundled" / "digits_dm_ipc10.npz"
PROTOCOL = Protocol(width=32, epochs=200, lr=(0.1, 0.3, 1.0), augment=augmentation("dsa", flips=False))
REAL_EPOCHS = 60  # of 1,000 images


def distilled_set() -> tuple[Distilled, ...]:
    """The bundled set; `experiments/digits/distill.py` made it."""
    return load_distilled(SET)


def settings(seeds: int) -> Settings:
    """LRS and ARS with hard labels, DSA and a grid of three rates."""
    return Settings(("lrs", "ars"), PROTOCOL, real(PROTOCOL, REAL_EPOCHS), seeds=seeds)
