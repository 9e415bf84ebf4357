"""Finished students on disk, by the hash of everything that determines them.

A student is found again when its protocol, data, seed, key, code, JAX version and kind of device are the same;
anything else trains anew. Files are written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddr_jax.data.files import write_atomically
from ddr_jax.train import teachers
from ddr_jax.types import InputError, InputWarning


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
            warnings.warn(f"{path} is unreadable ({error}); training that student anew", InputWarning, stacklevel=2)
            return None

    def weights(self, student: str) -> Any:
        """The variables of the trained student, or None if they were not kept."""
        path = self._weights_path(student)
        try:
            return teachers.load(path) if path.exists() else None
        except InputError as error:
            warnings.warn(f"{error}; training that student anew", InputWarning, stacklevel=2)
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
