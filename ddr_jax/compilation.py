"""Compiled programs kept on disk, so that a second start compiles none of them again."""

from __future__ import annotations

import hashlib
import platform
import warnings
from pathlib import Path

import jax

from ddr_jax.types import InputWarning

MIN_SECONDS = 0.2  # what compiles faster is not worth a file


def use_compilation_cache(folder: Path) -> None:
    """Makes JAX keep its compiled programs in `folder`, and load them from there; results stay the same bit for bit.

    Call it before any computation. Where JAX was already told of a folder (`JAX_COMPILATION_CACHE_DIR`), that one
    stays. A folder that cannot be made gives an InputWarning, and programs are compiled at every start.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    own = folder / _processor()
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        warnings.warn(f"Cannot keep compiled programs in {own} ({error}); give another folder", InputWarning, 2)
        return
    jax.config.update("jax_compilation_cache_dir", str(own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)


def _processor() -> str:
    """A name for the processor's instruction set, because machines of different ones may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
