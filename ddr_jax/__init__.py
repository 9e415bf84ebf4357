"""ddr_jax: robust scores for distilled datasets (DD-Ranking, arXiv 2505.13300), in JAX.

Names are imported when they are first used, so that the command line can answer mistakes before JAX has started.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Crop": "protocol",
    "CutMix": "protocol",
    "DSA": "protocol",
    "Distilled": "distilled",
    "Execution": "population",
    "InputError": "types",
    "Mixup": "protocol",
    "Protocol": "protocol",
    "ResizedCrop": "protocol",
    "Result": "result",
    "Runner": "arms",
    "Settings": "result",
    "Store": "store",
    "accuracy": "evaluate",
    "augmentation_robust_score": "evaluate",
    "label_robust_score": "evaluate",
    "load_dataset": "datasets",
    "load_distilled": "distilled",
    "load_result": "result",
    "load_teachers": "teachers",
    "save_distilled": "distilled",
    "score": "evaluate",
    "use_cpu_cores": "population",
}

__all__ = [
    "DSA",
    "Crop",
    "CutMix",
    "Distilled",
    "Execution",
    "InputError",
    "Mixup",
    "Protocol",
    "ResizedCrop",
    "Result",
    "Runner",
    "Settings",
    "Store",
    "accuracy",
    "augmentation_robust_score",
    "label_robust_score",
    "load_dataset",
    "load_distilled",
    "load_result",
    "load_teachers",
    "save_distilled",
    "score",
    "use_cpu_cores",
]

if TYPE_CHECKING:
    from ddr_jax.arms import Runner
    from ddr_jax.datasets import load_dataset
    from ddr_jax.distilled import Distilled, load_distilled, save_distilled
    from ddr_jax.evaluate import accuracy, augmentation_robust_score, label_robust_score, score
    from ddr_jax.population import Execution, use_cpu_cores
    from ddr_jax.protocol import DSA, Crop, CutMix, Mixup, Protocol, ResizedCrop
    from ddr_jax.result import Result, Settings, load_result
    from ddr_jax.store import Store
    from ddr_jax.teachers import load_teachers
    from ddr_jax.types import InputError


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ddr_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ddr_jax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
