"""The option reference, made of the fields that commands are made of.

All options of `ddr-jax`; `python -m ddr_jax.cli.reference > OPTIONS.md` makes this page. A configuration file has the
same names without dashes in front and with _ between words: `--batch-size` is `batch_size`. The command line wins over
the file (`--config`), the file over the preset (`--preset`), and the preset over the default. Values of a list stand
one after another, with spaces between them. What is true or false is a switch: `--halving` or `--no-halving`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_type_hints

from tyro.conf import Positional, Suppress, arg

from ddr_jax.cli.options import COMMANDS
from ddr_jax.protocols.plain import Must, knobs, words


def page() -> str:
    """The reference as Markdown: the commands, then each option under the commands that have it in the same form."""
    about = str(__doc__).split("\n\n")[1]
    lines = ["# Options\n", about, *(f"- `{name}`: {kind.__doc__}" for name, kind in COMMANDS.items())]
    owners: dict[str, list[str]] = {}
    for command, row in ((name, row) for name, kind in COMMANDS.items() for row in _rows(kind)):
        owners.setdefault(row, []).append(command)
    for together in dict.fromkeys(map(tuple, owners.values())):
        rows = [row for row, commands in owners.items() if tuple(commands) == together]
        lines += [f"\n## {', '.join(together)}\n", "| option | value | default | meaning |", "| --- " * 4 + "|", *rows]
    return "\n".join(lines) + "\n"


def _rows(kind: type[Any]) -> Iterator[str]:
    """The options of a command, a row of a table each."""
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        marks: tuple[Any, ...] = getattr(hints[field.name], "__metadata__", ())
        said: Any = next((mark for mark in marks if hasattr(mark, "metavar")), arg())
        if Suppress not in marks:
            doc = said.help or next(knob.doc for knob in knobs(kind) if knob.name == field.name)
            name = (said.name or field.name).replace("_", "-")
            shown = (said.metavar or name.upper()) if Positional in marks else f"--{name}"
            cells = (f"`{shown}`", _values(hints[field.name], marks), _default(field), doc)
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _values(hint: Any, marks: tuple[Any, ...]) -> str:
    """The type, or the choices, and the condition on the value."""
    kind = words(hint).replace(" (in quotes if need be)", "")
    musts = [mark.expected for mark in marks if isinstance(mark, Must)]
    return ", ".join(musts if musts and musts[0].startswith(kind) else [kind, *musts])


def _default(field: dataclasses.Field[Any]) -> str:
    """As it is written on the command line; empty where the meaning says what it is."""
    if field.default is field.default_factory:  # both are missing
        return "required"
    value = "" if field.default in (None, dataclasses.MISSING) else field.default
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    print(page(), end="")
