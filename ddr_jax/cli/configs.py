"""Configuration files: our own (YAML, TOML, JSON), and PyTorch ddranking's (YAML, JSON) as they are."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ddr_jax.cli import ddranking
from ddr_jax.data.files import write_atomically
from ddr_jax.data.readers import require_file
from ddr_jax.protocols.protocol import AUGMENTATIONS, augmentation_from_dict, augmentation_to_dict
from ddr_jax.types import InputError, nearest

OF_THE_DATA = ("data_dir", "size", "real_accuracy", "real_recipe")  # go when the real data are replaced
OF_THE_STUDENT = ("real_accuracy", "real_recipe", "teacher_weights")


@dataclass(frozen=True)
class Config:
    """What a configuration file asks for.

    Attributes:
        command: lrs, ars or accuracy; None where the file does not say.
        options: by the names of the command line's options, with values of their types.
        notes: what was left out or read in a sense of its own, a line each.
    """

    command: str | None
    options: dict[str, Any]
    notes: tuple[str, ...] = field(default=())

    def merged(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The file's options under those `given` elsewhere.

        What the file says of its own dataset or student alone, such as a known accuracy, goes with them when another
        is given.
        """
        lost: set[str] = set()
        for name, dependent in (("real", (*OF_THE_DATA, "teacher_weights")), ("student", OF_THE_STUDENT)):
            if name in given and given[name] != self.options.get(name):
                lost.update(dependent)
        return {name: value for name, value in self.options.items() if name not in lost} | dict(given)


def read(path: str | Path, valid: Collection[str]) -> Config:
    """The configuration in a file: .yaml, .yml, .toml or .json.

    `valid` are the names of the command's options. A file of PyTorch ddranking's is told by its keys; an option that
    follows from it and that the command does not have is left out with a note.

    Raises:
        InputError: if the file is missing or no such file, a key is unknown (the nearest is offered), a value has the
            wrong type, or keys contradict one another; it names the file and the keys.
    """
    path = Path(path)
    content = _load(path)
    theirs = [key for key in content if key in ddranking.MARKS and key not in valid]
    ours = [key for key in content if key == "command" or (key in valid and key not in ddranking.KEYS)]
    if theirs and ours:
        raise InputError(
            f"{path}: {theirs[0]} is a key of PyTorch ddranking's files and {ours[0]} of ours: use one kind"
        )
    if not theirs:
        return _own(content, path, valid)
    command, options, notes = ddranking.translate(content, str(path))
    kept = {name: value for name, value in options.items() if name in valid}
    dropped = tuple(f"{name}: this command has no such option" for name in options if name not in kept)
    return Config(command, kept, notes + dropped)


def write(path: str | Path, command: str, options: Mapping[str, Any]) -> None:
    """Writes options as YAML, whole or not at all, so that `read` gives them back; those that are None are left out.

    Raises:
        InputError: if an option has no plain form, such as a network that is a module, or the place cannot be written.
    """
    path = Path(path)
    plain = {name: _plain(name, value) for name, value in options.items() if value is not None}
    header = f"# Run this again, where relative paths hold: ddr-jax {command} --config {path.name}\n"
    text = yaml.dump({"command": command} | plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    write_atomically(path, (header + text).encode())


# Files of our own


def _own(content: dict[str, Any], path: Path, valid: Collection[str]) -> Config:
    options = dict(content)
    command = options.pop("command", None)
    if command is not None and not isinstance(command, str):
        raise InputError(f"{path}: command is {command!r}; expected a name, such as lrs")
    for key in options:
        if key not in valid:
            raise InputError(f"{path}: unknown key {key!r}: {nearest(str(key), sorted(valid))}")
    return Config(command, {key: _typed(path, key, value) for key, value in options.items() if value is not None})


def _typed(path: Path, key: str, value: Any) -> Any:
    """The value as the command line's options hold it."""
    if key not in _KINDS:
        return tuple(value) if isinstance(value, list) else value
    convert, expected = _KINDS[key]
    try:
        return convert(value)
    except InputError as error:
        raise InputError(f"{path}: {key}: {error}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {key} is {value!r}; expected {expected}") from error


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _path(value: Any) -> Path:
    return Path(_text(value))


def _many(convert: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Several of a kind, or one, which makes a tuple of one."""
    return lambda value: tuple(convert(entry) for entry in (value if isinstance(value, list) else [value]))


def _augmentation(value: Any) -> Any:
    return augmentation_from_dict(_table(value))


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return {key: tuple(entry) if isinstance(entry, list) else entry for key, entry in value.items()}


def _accuracy(value: Any) -> float | str:
    return value if value == "known" else _number(value)


_KINDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    name: (convert, expected)
    for convert, expected, names in (
        (_whole, "a whole number", "seeds key devices size width epochs batch_size step_size teachers test_every"),
        (_whole, "a whole number", "real_epochs real_batch_size warmup ipc extend_grid"),
        (_number, "a number", "weight_decay momentum temperature level weight mse_weight ce_weight"),
        (_flag, "true or false", "store scale_loss download fresh_at_drop percent original_formula hard_augment"),
        (_flag, "true or false", "real_recipe halving"),
        (_text, "text (in quotes if need be)", "real space layout soft_labels student optimizer schedule augment"),
        (
            _text,
            "text (in quotes if need be)",
            "dsa_strategy labels loss readout interval real_augment preset clock zca",
        ),
        (_text, "text (in quotes if need be)", "baseline teacher precision execution"),
        (_path, "a path", "out cache data_dir config"),
        (_many(_path), "paths", "sets labels_file teacher_weights"),
        (_many(_number), "a rate, or a list of rates", "lr real_lr hard_lr random_lr"),
        (_many(_text), "names", "students"),
        (_accuracy, "a fraction, or known", "real_accuracy"),
        (_table, "a table", "real_options"),
        (_augmentation, "a table with a kind, such as {kind: cutmix}", "augmentation real_augmentation"),
    )
    for name in names.split()
}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple(AUGMENTATIONS.values())):
        return _plain(name, augmentation_to_dict(value))
    if isinstance(value, (tuple, list)):
        return [_plain(name, entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: _plain(name, entry) for key, entry in value.items()}
    if isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"{name} is {value!r}, which no configuration file can hold: use names and numbers")


# Text to plain data

_EXPONENT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$")  # YAML 1.1 takes 1e-3 for text


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number, and a key given twice with two values is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is not plain text", key.start_mark)
            built = self.construct_object(value, deep=True)
            if key.value in seen and seen[key.value] != built:
                twice = f"{key.value} is given twice, as {seen[key.value]!r} and {built!r}"
                raise yaml.constructor.ConstructorError(None, None, twice, key.start_mark)
            seen[key.value] = built
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Safe YAML that quotes text like 1e-3."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _load(path: Path) -> dict[str, Any]:
    """The file's top table."""
    readers = {".yaml": _yaml, ".yml": _yaml, ".toml": tomllib.loads, ".json": _json}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: a configuration ends in one of {', '.join(readers)}")
    require_file(path)
    try:
        content = readers[path.suffix.lower()](path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1})"
        raise InputError(f"{path}: not read as YAML: {error.problem}{line}") from error
    except (OSError, ValueError, yaml.YAMLError) as error:  # TOML's and JSON's errors, and of encoding, are ValueErrors
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: holds no keys; expected lines such as epochs: 300")
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
