"""Results of given accuracies, for tests of what follows from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddr_jax.protocols.augmentations import DSA
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.protocols.settings import Settings
from ddr_jax.results.result import Result
from ddr_jax.types import ArmTable


def table(arm: str, accuracies: Any, sets: Sequence[str], lost: int = 0) -> ArmTable:
    """An arm at one rate and one test epoch, of accuracies by set and seed; the first `lost` students diverged."""
    test = np.array(accuracies)[:, None, :, None]
    diverged = np.zeros(test.shape[:3], bool)
    diverged.flat[:lost] = True
    names = tuple(sets) if arm.startswith("syn") else ("other",)
    students = np.array([f"{arm}{i}" for i in range(test.size)]).reshape(diverged.shape)
    return ArmTable(arm, names, (0.01,), test, None, diverged, students, augmented=arm.endswith("-aug"))


def result(
    accuracies: Mapping[str, Any],
    sets: Sequence[str],
    *,
    lost: int = 0,
    train: str = "digest",
    images: int = 20,
    **asked,
) -> Result:
    """A result of accuracies by arm; `train` is the digest of the real data, `asked` are settings."""
    about_sets = [
        {"name": name, "images": images, "shape": [images, 8, 8, 1], "label_order": "by class", "digest": f"d-{name}"}
        for name in sets
    ]
    data = {
        "real": {"name": "other", "classes": 10, "splits": {"train": {"digest": train}}},
        "sets": about_sets,
        "teachers": None,
    }
    defaults = {"scores": ("lrs", "ars"), "protocol": Protocol(augment=DSA()), "real_protocol": Protocol()}
    settings = Settings(**defaults | {"seeds": 2, "key": ("fry", (0, 0))} | asked)
    return Result(settings, {arm: table(arm, rows, sets, lost) for arm, rows in accuracies.items()}, data, {"jax": "0"})
