"""ddr_jax: robust scores for distilled datasets (DD-Ranking, arXiv 2505.13300), in JAX.

Names are imported when they are first used, so that the command line can answer mistakes before JAX has started.
Augmentations (DSA, CutMix, Chain and so on) are in `ddr_jax.augmentations`.
"""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # the public names, here alone: `_homes` reads them from this block
    from ddr_jax.data.datasets import load_dataset as load_dataset
    from ddr_jax.data.distilled import Distilled as Distilled
    from ddr_jax.data.distilled import load_distilled as load_distilled
    from ddr_jax.data.distilled import save_distilled as save_distilled
    from ddr_jax.evaluate import accuracy as accuracy
    from ddr_jax.evaluate import augmentation_robust_score as augmentation_robust_score
    from ddr_jax.evaluate import cross_architecture as cross_architecture
    from ddr_jax.evaluate import label_robust_score as label_robust_score
    from ddr_jax.evaluate import score as score
    from ddr_jax.protocols import augmentations as augmentations
    from ddr_jax.protocols.presets import preset as preset
    from ddr_jax.protocols.protocol import Protocol as Protocol
    from ddr_jax.results.comparison import compare_results as compare_results
    from ddr_jax.results.comparison import load_results as load_results
    from ddr_jax.results.result import Result as Result
    from ddr_jax.results.result import load_result as load_result
    from ddr_jax.train.devices import Execution as Execution
    from ddr_jax.train.devices import use_compilation_cache as use_compilation_cache
    from ddr_jax.train.devices import use_cpu_cores as use_cpu_cores
    from ddr_jax.train.teachers import load_teachers as load_teachers
    from ddr_jax.types import InputError as InputError


@functools.cache
def _homes() -> dict[str, str]:
    """The module of every public name."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {node.names[0].name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom)}


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return sorted(_homes())
    if name not in _homes():
        raise AttributeError(f"module 'ddr_jax' has no attribute {name!r}")
    home = _homes()[name]
    if name == "augmentations":
        return importlib.import_module(f"{home}.{name}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(_homes())
