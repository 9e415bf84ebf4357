"""Dataclasses as knobs: fields with types, ranges, defaults and docstrings; checked; to and from plain data.

A knob is written once, as an annotated attribute with a docstring under it. The command line, configuration files,
presets, results and the option reference read it from there:

    momentum: Annotated[float, Must("in [0, 1)", lambda m: 0 <= m < 1)] = 0.9
    \"\"\"Of SGD, without Nesterov.\"\"\"

Plain data are numbers, text, truth values, None, lists and dictionaries, as JSON, YAML and TOML hold them.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import math
import numbers
import os
import textwrap
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from ddr_jax.types import InputError, nearest


class Must(NamedTuple):
    """A condition on a field's value: in words that follow "expected", and as a test. None always passes."""

    expected: str
    holds: Callable[[Any], bool]


class OfArms(NamedTuple):
    """Marks a field that matters only where there is an arm whose name begins so, such as ``rdm-``."""

    prefix: str


POSITIVE = Must("finite and above 0", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Must("finite and 0 or more", lambda x: 0 <= x < math.inf)
COUNT = Must("a whole number, 1 or more", lambda x: x >= 1)
PROBABILITY = Must("a probability, from 0 to 1", lambda x: 0 <= x <= 1)


class Knob(NamedTuple):
    """One field of a dataclass: `hint` is its type, `marks` what its annotation says besides, `doc` its docstring."""

    name: str
    hint: Any
    marks: tuple[Any, ...]
    default: Any
    doc: str


@functools.cache
def knobs(kind: type[Any]) -> tuple[Knob, ...]:
    """The fields of a dataclass in their order; `default` is `dataclasses.MISSING` where one has to be given."""
    hints, docs = get_type_hints(kind, include_extras=True), _docs(kind)
    found = []
    for field in dataclasses.fields(kind):
        annotated = get_origin(hints[field.name]) is Annotated
        hint, *marks = get_args(hints[field.name]) if annotated else (hints[field.name],)
        found.append(Knob(field.name, hint, tuple(marks), field.default, docs.get(field.name, "")))
    return tuple(found)


def _docs(kind: type[Any]) -> dict[str, str]:
    """The docstrings under the attributes of a dataclass and of those it extends."""
    found = {}
    for base in kind.__mro__:
        if not dataclasses.is_dataclass(base):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for field, text in pairwise(getattr(tree, "body", [])):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found.setdefault(ast.unparse(field.target), " ".join(str(text.value.value).split()))
    return found


def check(instance: Any) -> None:
    """Checks every field of a dataclass against its annotation.

    Raises:
        InputError: for a value of another type, outside its range or none of its choices; it names the field.
    """
    for knob in knobs(type(instance)):
        verify(knob.name, Annotated[knob.hint, None, *knob.marks], getattr(instance, knob.name))


def verify(name: str, hint: Any, value: Any) -> None:
    """Raises InputError, in which `name` is the value's, unless the value is as the annotation says."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        verify(name, parts[0], value)
        for must in parts[1:]:
            if isinstance(must, Must) and value is not None and not must.holds(value):
                raise InputError(f"{name} is {value}; expected {must.expected}")
    elif origin in (Union, UnionType):
        _first_of(name, hint, value, verify)
    elif origin is Literal:
        if value not in parts:
            raise InputError(f"Unknown {name} {value!r}: {nearest(str(value), parts)}")
    elif origin is tuple:
        _verify_tuple(name, hint, value)
    elif not _is(hint, value):
        raise InputError(f"{name} is {value!r}; expected {words(hint)}")


def _verify_tuple(name: str, hint: Any, value: Any) -> None:
    parts = get_args(hint)
    variadic = parts[-1] is Ellipsis
    if not isinstance(value, tuple) or not (variadic or len(value) == len(parts)):
        raise InputError(f"{name} is {value!r}; expected {words(hint)}")
    for place, entry in enumerate(value):
        verify(name, parts[0] if variadic else parts[place], entry)


def _first_of(name: str, hint: Any, value: Any, attempt: Callable[[str, Any, Any], Any]) -> Any:
    """What the first part of a union that raises no InputError gives; raises one where there is none."""
    errors = []
    for part in get_args(hint):
        try:
            return attempt(name, part, value)
        except InputError as error:
            errors += [] if part is NoneType else [error]
    raise errors[0] if len(errors) == 1 else InputError(f"{name} is {value!r}; expected {words(hint)}")


def _is(hint: Any, value: Any) -> bool:
    if hint is Any:
        return True
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool)
    return isinstance(value, get_origin(hint) or hint)


def words(hint: Any) -> str:
    """What values of a type are, in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return words(parts[0])
    if origin is tuple and parts[-1] is Ellipsis:
        return f"{words(parts[0])}, or a list of such"
    if origin is tuple:
        return f"a list of {len(parts)}"
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(words(part) for part in parts if part is not NoneType))
    if origin is Literal:
        return ", ".join(map(str, parts))
    named = {int: "a whole number", float: "a number", bool: "true or false", Path: "a path", dict: "a table"}
    named |= {str: "text (in quotes if need be)", os.PathLike: "a path"}
    if hasattr(hint, "kind"):
        return "a table with a kind, such as {kind: cutmix}"
    return named.get(origin or hint, f"an instance of {hint.__name__}")


def to_plain(value: Any) -> Any:
    """A value as plain data: dataclasses as dictionaries, with their `kind` where they have one; tuples as lists.

    What has no plain form, such as a flax module, becomes {"text": its repr} (see `protocol.Described`).
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [to_plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {key: to_plain(entry) for key, entry in value.items()}
    if dataclasses.is_dataclass(value) and type(value).__module__.startswith("ddr_jax.protocols"):
        kind = {"kind": value.kind} if hasattr(value, "kind") else {}  # type: ignore[attr-defined]
        return kind | {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return {"text": repr(value)}


def from_plain(hint: Any, value: Any, name: str = "value") -> Any:
    """The value of a type that plain data describe: what `to_plain` made of it, or a person wrote.

    One value may stand for a list of one.

    Raises:
        InputError: where the data are not of the type, a key is unknown, or a value is out of range; it says where.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return from_plain(parts[0], value, name)
    if origin in (Union, UnionType):
        return _union(hint, value, name)
    if origin is tuple:
        entries = value if isinstance(value, list | tuple) else [value]
        every = parts[:1] * len(entries) if parts[-1] is Ellipsis else parts
        if len(every) != len(entries):
            raise InputError(f"{name} is {value!r}; expected {words(hint)}")
        return tuple(from_plain(part, entry, name) for part, entry in zip(every, entries, strict=True))
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, name)
    if origin is dict and isinstance(value, Mapping):
        return {key: tuple(entry) if isinstance(entry, list) else entry for key, entry in value.items()}
    if hint is Path and isinstance(value, str):
        return Path(value)
    verify(name, hint, value)
    return float(value) if hint is float else value


def _union(hint: Any, value: Any, name: str) -> Any:
    kinds = {part.kind: part for part in get_args(hint) if hasattr(part, "kind")}
    if kinds and isinstance(value, Mapping):
        verify("kind of augmentation", Literal[tuple(kinds)], value.get("kind"))
        return _dataclass(kinds[value["kind"]], {k: v for k, v in value.items() if k != "kind"}, name)
    return _first_of(name, hint, value, lambda name, part, value: from_plain(part, value, name))


def _dataclass(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is {value!r}; expected {words(kind) if hasattr(kind, 'kind') else 'a table'}")
    return kind(**fields_from_plain(kind, value, name))


def fields_from_plain(kind: Any, value: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Some fields of a dataclass, of plain data; raises InputError as `from_plain` does, `name` being the table's."""
    valid = {knob.name: knob.hint for knob in knobs(kind)}
    for key in value:
        if key not in valid:
            of = f"of the augmentation {kind.kind}" if hasattr(kind, "kind") else f"in {name}"
            raise InputError(f"Unknown field {of} {key!r}: {nearest(str(key), valid)}")
    return {key: from_plain(valid[key], entry, key) for key, entry in value.items()}
