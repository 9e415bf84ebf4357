"""ddr_jax: robust scores for distilled datasets (DD-Ranking, arXiv 2505.13300), in JAX.

Names are imported when they are first used, so that the command line can answer mistakes before JAX has started.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Chain": "protocol",
    "Crop": "protocol",
    "CutMix": "protocol",
    "DCAugmentation": "protocol",
    "DSA": "protocol",
    "Distilled": "distilled",
    "Execution": "population",
    "InputError": "types",
    "Mixup": "protocol",
    "PatchShuffle": "protocol",
    "Protocol": "protocol",
    "RandAugment": "protocol",
    "ResizedCrop": "protocol",
    "Result": "result",
    "Runner": "arms",
    "Settings": "result",
    "Store": "store",
    "accuracy": "evaluate",
    "augmentation_robust_score": "evaluate",
    "compare_results": "comparison",
    "cross_architecture": "cross",
    "label_robust_score": "evaluate",
    "load_dataset": "datasets",
    "load_distilled": "distilled",
    "load_result": "result",
    "load_results": "comparison",
    "load_teachers": "teachers",
    "preset": "presets",
    "save_distilled": "distilled",
    "score": "evaluate",
    "use_compilation_cache": "compilation",
    "use_cpu_cores": "population",
}

__all__ = [
    "DSA",
    "Chain",
    "Crop",
    "CutMix",
    "DCAugmentation",
    "Distilled",
    "Execution",
    "InputError",
    "Mixup",
    "PatchShuffle",
    "Protocol",
    "RandAugment",
    "ResizedCrop",
    "Result",
    "Runner",
    "Settings",
    "Store",
    "accuracy",
    "augmentation_robust_score",
    "compare_results",
    "cross_architecture",
    "label_robust_score",
    "load_dataset",
    "load_distilled",
    "load_result",
    "load_results",
    "load_teachers",
    "preset",
    "save_distilled",
    "score",
    "use_compilation_cache",
    "use_cpu_cores",
]

if TYPE_CHECKING:
    from ddr_jax.arms import Runner
    from ddr_jax.comparison import compare_results, load_results
    from ddr_jax.compilation import use_compilation_cache
    from ddr_jax.cross import cross_architecture
    from ddr_jax.datasets import load_dataset
    from ddr_jax.distilled import Distilled, load_distilled, save_distilled
    from ddr_jax.evaluate import accuracy, augmentation_robust_score, label_robust_score, score
    from ddr_jax.population import Execution, use_cpu_cores
    from ddr_jax.presets import preset
    from ddr_jax.protocol import (
        DSA,
        Chain,
        Crop,
        CutMix,
        DCAugmentation,
        Mixup,
        PatchShuffle,
        Protocol,
        RandAugment,
        ResizedCrop,
    )
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
