"""What a student depends on, and finished students on disk by the hash of it.

A student is found again when its protocol, data, seed, key, code, JAX version and kind of device are the same;
anything else trains anew. Files are written whole or not at all.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import ddr_jax
from ddr_jax.data.files import write_atomically
from ddr_jax.train import teachers
from ddr_jax.types import InputError, warn

PACKAGE = Path(ddr_jax.__file__).parent
NUMERICS = ("augment", "nets", "protocols", "train")  # folders that decide what a student computes


@functools.cache
def code_digest(root: Path = PACKAGE) -> str:
    """A fingerprint of the files of a package that decide what a student computes."""
    files = [file for name in NUMERICS for file in sorted((root / name).rglob("*.py"))]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def environment(execution: str, precision: str = "float32") -> dict[str, Any]:
    """What may change a student's last digits: code, JAX, kind of device, precision, how students are batched.

    JAX calls every processor "cpu", but compiles for the one that it finds: the IOR of the bundled digits was 0.0390 on
    an Intel Xeon and 0.0427 on an AMD EPYC.

    `execution` is `devices.Execution.arithmetic`, `precision` its precision. The number of devices counts only where
    they share batches; the chunk never counts.
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
def processor(*fields: str) -> str:
    """The processor's name, or what else the operating system says of it first under one of these names."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    said = (line.partition(":")[2].strip() for line in lines if line.startswith(fields or "model name"))
    return next(said, "") or platform.processor() or platform.machine()


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


def identity(facts: dict[str, Any]) -> str:
    """The name of a student: 32 hex digits of SHA-256 over its facts as canonical JSON."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Store:
    """A folder of finished students: ``students/<identity>.json``, and of teachers ``weights/<identity>.safetensors``.

    Its files may be deleted at any time; what is missing is trained anew.
    """

    folder: Path

    def record(self, student: str) -> dict[str, Any] | None:
        """What training the student gave, or None if it is not here."""
        path = self._record_path(student)
        try:
            return json.loads(path.read_text())["record"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError) as error:
            warn(f"{path} is unreadable ({error}); training that student anew")
            return None

    def weights(self, student: str) -> Any:
        """The variables of the trained student, or None if they were not kept."""
        path = self._weights_path(student)
        try:
            return teachers.load(path) if path.exists() else None
        except InputError as error:
            warn(f"{error}; training that student anew")
            return None

    def put(self, student: str, facts: dict[str, Any], record: dict[str, Any], variables: Any = None) -> None:
        """Keeps a finished student; its weights first, so that a record never promises what is not there."""
        if variables is not None:
            write_atomically(self._weights_path(student), teachers.to_bytes(variables))
        content = json.dumps({"facts": facts, "record": record}, allow_nan=False)
        write_atomically(self._record_path(student), content.encode())

    def _record_path(self, student: str) -> Path:
        return self.folder / "students" / f"{student}.json"

    def _weights_path(self, student: str) -> Path:
        return self.folder / "weights" / f"{student}.safetensors"
