"""Files that appear whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddr_jax.types import InputError


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never a part.

    Raises:
        InputError: if the folder cannot be made or written to; an earlier file is left as it was.
    """
    with _draft(path, path.parent) as draft:
        draft.write_bytes(content)
        draft.replace(path)


def check_writable(folder: Path) -> None:
    """Makes a folder and tries a file in it, so that hours of work do not end in a failed write.

    Raises:
        InputError: if either is impossible.
    """
    with _draft(folder, folder) as draft:
        draft.touch()


@contextmanager
def _draft(place: Path, folder: Path) -> Iterator[Path]:
    """A path in a hidden folder inside `folder`, which goes away with all that is still in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".ddr-jax-") as hidden:
            yield Path(hidden, "draft")
    except OSError as error:
        raise InputError(f"Cannot write {place}: {error.strerror}; choose another place") from error
