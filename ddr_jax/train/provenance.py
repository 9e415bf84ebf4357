"""What a result depends on besides its settings: code, versions, device, key."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ddr_jax

NUMERICS = ("augment", "nets", "protocols", "train")


@functools.cache
def code_digest() -> str:
    """A fingerprint of the package's files that decide what a student computes."""
    root = Path(ddr_jax.__file__).parent
    files = [file for name in NUMERICS for file in sorted((root / name).rglob("*.py"))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def environment(execution: str, precision: str = "float32") -> dict[str, Any]:
    """What may change a student's last digits: code, JAX, kind of device, precision, how students are batched.

    JAX calls every processor "cpu", but compiles for the one that it finds: those of an Intel Xeon and of an AMD EPYC
    gave the bundled digits' IOR as 0.0390 and 0.0427.

    `execution` is `population.Execution.arithmetic`, `precision` its precision. The number of devices is not among
    them unless they share batches, nor is the chunk.
    """
    device = jax.local_devices()[0]
    return {
        "code": code_digest(),
        "jax": jax.__version__,
        "platform": device.platform,
        "device": processor() if device.platform == "cpu" else device.device_kind,
        "precision": precision,
        "execution": execution,
    }


@functools.cache
def processor() -> str:
    """The processor's name, as the operating system gives it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def key_facts(key: jax.Array) -> tuple[str, tuple[int, ...]]:
    """The key's implementation and its words."""
    return str(jax.random.key_impl(key)), tuple(np.asarray(jax.random.key_data(key)).tolist())


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that computed a result."""
    libraries = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy")
    return {
        "python": platform.python_version(),
        "ddr_jax": ddr_jax.__version__,
        **{name: importlib.metadata.version(name) for name in libraries},
    }
