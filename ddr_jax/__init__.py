"""ddr_jax: robust scores for distilled datasets (DD-Ranking, arXiv 2505.13300), in JAX.

Names are imported when they are first used, so that the command line can answer mistakes before JAX has started.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Chain": "protocols.protocol",
    "Crop": "protocols.protocol",
    "CutMix": "protocols.protocol",
    "DCAugmentation": "protocols.protocol",
    "DSA": "protocols.protocol",
    "Distilled": "data.distilled",
    "Execution": "train.devices",
    "InputError": "types",
    "Mixup": "protocols.protocol",
    "PatchShuffle": "protocols.protocol",
    "Protocol": "protocols.protocol",
    "RandAugment": "protocols.protocol",
    "ResizedCrop": "protocols.protocol",
    "Result": "results.result",
    "Runner": "train.arms",
    "Settings": "protocols.settings",
    "Store": "train.store",
    "accuracy": "evaluate",
    "augmentation_robust_score": "evaluate",
    "compare_results": "results.comparison",
    "cross_architecture": "evaluate",
    "label_robust_score": "evaluate",
    "load_dataset": "data.datasets",
    "load_distilled": "data.distilled",
    "load_result": "results.result",
    "load_results": "results.comparison",
    "load_teachers": "train.teachers",
    "preset": "protocols.presets",
    "save_distilled": "data.distilled",
    "score": "evaluate",
    "use_compilation_cache": "train.devices",
    "use_cpu_cores": "train.devices",
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
    from ddr_jax.data.datasets import load_dataset
    from ddr_jax.data.distilled import Distilled, load_distilled, save_distilled
    from ddr_jax.evaluate import accuracy, augmentation_robust_score, cross_architecture, label_robust_score, score
    from ddr_jax.protocols.presets import preset
    from ddr_jax.protocols.protocol import (
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
    from ddr_jax.protocols.settings import Settings
    from ddr_jax.results.comparison import compare_results, load_results
    from ddr_jax.results.result import Result, load_result
    from ddr_jax.train.arms import Runner
    from ddr_jax.train.devices import Execution, use_compilation_cache, use_cpu_cores
    from ddr_jax.train.store import Store
    from ddr_jax.train.teachers import load_teachers
    from ddr_jax.types import InputError


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ddr_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ddr_jax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
