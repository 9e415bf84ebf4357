"""Configuration files: our own (YAML, TOML, JSON), and those of PyTorch ddranking (YAML, JSON) as they are."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ddr_jax.cli import ddranking
from ddr_jax.data.files import write_atomically
from ddr_jax.data.readers import require_file
from ddr_jax.protocols.plain import from_plain, to_plain
from ddr_jax.types import InputError, nearest, within

OF_THE_DATA = ("data_dir", "size", "real_accuracy", "real_recipe")  # go when the real data are replaced
OF_THE_STUDENT = ("real_accuracy", "real_recipe", "teacher_weights")


@dataclass(frozen=True)
class Config:
    """What a configuration file asks for.

    Attributes:
        command: lrs, ars or accuracy; None where the file does not say.
        options: by the names of the command line's options, with values of their types.
        notes: what was left out or read in another sense, a line each.
    """

    command: str | None
    options: dict[str, Any]
    notes: tuple[str, ...] = field(default=())

    def merged(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The file's options under those `given` elsewhere.

        What holds only for the dataset or the architecture of the file, such as a known accuracy, is left out when
        another one is given.
        """
        lost: set[str] = set()
        for name, dependent in (("real", (*OF_THE_DATA, "teacher_weights")), ("student", OF_THE_STUDENT)):
            if name in given and given[name] != self.options.get(name):
                lost.update(dependent)
        return {name: value for name, value in self.options.items() if name not in lost} | dict(given)


def read(path: str | Path, hints: Mapping[str, Any]) -> Config:
    """The configuration in a file: .yaml, .yml, .toml or .json.

    `hints` are the types of the command's options, by name. A file of PyTorch ddranking is recognised by its keys; an
    option that it asks for and that the command does not have is left out with a note.

    Raises:
        InputError: if the file is missing or no such file, a key is unknown (the nearest is offered), a value has the
            wrong type, or keys contradict one another; it names the file and the keys.
    """
    path = Path(path)
    require_file(path)
    with within(str(path)):
        return _config(_load(path), hints)


def _config(content: dict[str, Any], hints: Mapping[str, Any]) -> Config:
    theirs = [key for key in content if key in ddranking.MARKS and key not in hints]
    ours = [key for key in content if key == "command" or (key in hints and key not in ddranking.KEYS)]
    if theirs and ours:
        raise InputError(f"{theirs[0]} is a key of PyTorch ddranking's files and {ours[0]} of ours: use one kind")
    if not theirs:
        return _own(content, hints)
    command, options, notes = ddranking.translate(content)
    kept = {name: value for name, value in options.items() if name in hints}
    dropped = tuple(f"{name}: this command has no such option" for name in options if name not in kept)
    return Config(command, kept, notes + dropped)


def write(path: str | Path, command: str, options: Mapping[str, Any]) -> None:
    """Writes options as YAML, whole or not at all, so that `read` gives them back; those that are None are left out.

    Raises:
        InputError: if the place cannot be written.
    """
    path = Path(path)
    plain = {name: to_plain(value) for name, value in options.items() if value is not None}
    header = f"# Run this again, where relative paths hold: ddr-jax {command} --config {path.name}\n"
    text = yaml.dump({"command": command} | plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    write_atomically(path, (header + text).encode())


# Files of our own


def _own(content: dict[str, Any], hints: Mapping[str, Any]) -> Config:
    options = dict(content)
    command = options.pop("command", None)
    if command is not None and not isinstance(command, str):
        raise InputError(f"command is {command!r}; expected a name, such as lrs")
    for key in options:
        if key not in hints:
            raise InputError(f"unknown key {key!r}: {nearest(str(key), sorted(hints))}")
    typed = {key: from_plain(hints[key], value, key) for key, value in options.items() if value is not None}
    return Config(command, typed)


# Text to plain data

_EXPONENT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$")  # YAML 1.1 takes 1e-3 for text


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number, and a key given twice with two values is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        _unique([(str(key.value), self.construct_object(value, deep=True)) for key, value in node.value])
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Safe YAML that quotes text like 1e-3."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _load(path: Path) -> dict[str, Any]:
    """The file's top table."""
    readers = {".yaml": _yaml, ".yml": _yaml, ".toml": tomllib.loads, ".json": _json}
    if path.suffix.lower() not in readers:
        raise InputError(f"a configuration ends in one of {', '.join(readers)}")
    try:
        content = readers[path.suffix.lower()](path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1})"
        raise InputError(f"not read as YAML: {error.problem}{line}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:  # TOML's and JSON's errors, and of encoding, are ValueErrors
        raise InputError(f"cannot be read: {error}") from error
    if not isinstance(content, dict) or not content:
        raise InputError("holds no keys; expected lines such as epochs: 300")
    return content


def _yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # a subclass of the safe loader


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table and table[key] != value:
            raise ValueError(f"{key} is given twice, as {table[key]!r} and {value!r}")
        table[key] = value
    return table
