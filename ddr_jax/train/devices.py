"""Devices: their memory, what a computation may need of it, and compiled programs kept between starts."""

from __future__ import annotations

import hashlib
import platform
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def limit(device: Any) -> int | None:
    """Bytes that JAX may use of a device, or None where the device does not say (CPUs)."""
    return (device.memory_stats() or {}).get("bytes_limit")


def peak_memory() -> int | None:
    """The most bytes in use so far: on the fullest device, or of this process where devices do not say.

    None where neither is known (CPUs on Windows).
    """
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in peaks if peak is not None]
    if known:
        return max(known)
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def exhausted(error: Exception) -> bool:
    """Whether an error of JAX's runtime says that a device is out of memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def size(tree: Any) -> int:
    """Bytes of all arrays of a tree, which may be shapes alone."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def intermediates(function: Callable[..., Any], *arguments: Any) -> int:
    """Bytes of every value that a function computes on arguments of these shapes, as if each were kept."""
    return _computed(jax.make_jaxpr(function)(*arguments))


def _computed(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        # What a kernel of our own computes for itself is in registers.
        parts = {} if equation.primitive.name == "pallas_call" else equation.params
        inner = [value for value in parts.values() if hasattr(value, "eqns")]
        total += sum(map(_computed, inner)) or size([variable.aval for variable in equation.outvars])
    return total
