"""How tables are built and shown, on a terminal or as text, and how JSON is saved."""

from __future__ import annotations

import abc
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ddr_jax.data.files import write_atomically
from ddr_jax.scores.intervals import Interval

WIDTH = 120  # characters, where there is no terminal to ask
# columns that are not numbers
WORDS = ("line", "student", "arm", "set", "score", "of", "meaning", "method", "better", "worse", "group", "distinct")
Part: TypeAlias = Table | Text


class Document(abc.ABC):
    """What is printed as tables and notes, and saved as JSON."""

    @abc.abstractmethod
    def parts(self) -> Iterable[Part]:
        """What is printed, from top to bottom."""

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""

    def __str__(self) -> str:
        buffer = io.StringIO()
        _print(self, Console(file=buffer, width=WIDTH, color_system=None))
        return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())

    def show(self) -> None:
        """Prints it: as wide as the terminal, or as `str` gives it into a file or a pipe."""
        console = Console()
        _print(self, console) if console.is_terminal else print(self)

    def save(self, path: str | Path) -> None:
        """Writes `to_json`, whole or not at all."""
        text = json.dumps(self.to_json(), indent=1, allow_nan=False)
        write_atomically(Path(path), (text + "\n").encode())


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table. Columns that are named in `WORDS` may wrap; all others are numbers, which stay on one line."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        words = column in WORDS
        made.add_column(column, justify="left" if words else "right", no_wrap=not words)
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def note(text: str, style: str = "yellow") -> Text:
    """What a reader must know besides the numbers."""
    return Text(text, style=style)


def number(value: Any, percent: bool = False) -> str:
    """A fraction to four digits, or a percentage to two; a dash for None."""
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if percent else f"{value:.4f}"


def span(low: Any, high: Any, percent: bool = False) -> str:
    """The bounds of an interval, or a dash where there is none."""
    return "–" if low is None else f"{number(low, percent)} … {number(high, percent)}"


def cells(interval: Interval, percent: bool = False) -> tuple[str, str, str]:
    """A mean, its interval, and over how many seeds."""
    return number(interval.mean, percent), span(interval.low, interval.high, percent), str(interval.n)


def _print(document: Document, console: Console) -> None:
    for part in document.parts():
        console.print(part)
        if isinstance(part, Table):
            console.print()
