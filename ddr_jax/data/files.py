"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ddr_jax.types import InputError


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never a part.

    Raises:
        InputError: if the folder cannot be made or written to; an earlier file is left as it was.
    """
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(draft).chmod(0o644)  # mkstemp's files are private
        Path(draft).replace(path)
    except OSError as error:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)
        raise InputError(f"Cannot write {path}: {error.strerror}; choose another place") from error


def check_writable(folder: Path) -> None:
    """Makes a folder and tries a file in it, so that hours of work do not end in a failed write.

    Raises:
        InputError: if either is impossible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"Cannot write in {folder}: {error.strerror}; choose another place") from error
