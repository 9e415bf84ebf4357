"""Published recipes by name, and what is known of students of all real data; `presets.toml` holds them."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ddr_jax.protocols.plain import fields_from_plain
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.protocols.settings import Settings
from ddr_jax.types import InputError, nearest

FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Preset:
    """A published way to train students; see `presets.toml` for its form.

    `protocol` and `settings` hold the fields that it sets, as values of their types; `real` those of the real-hard
    students' protocol that differ from `protocol.real` of its own.
    """

    name: str
    summary: str
    source: str
    protocol: Mapping[str, Any]
    settings: Mapping[str, Any]
    real: Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """A test accuracy of students of all real data, a fraction; `cached` by ddranking 0.2.0 as its reference."""

    dataset: str
    student: str
    accuracy: float
    source: str
    cached: bool = False


def preset(name: str, **overrides: Any) -> Protocol:
    """The protocol of a preset, any field of `Protocol` replaced by an argument of that name.

    With other `epochs`, the rate drops at half of them unless `step_size` is given too.

    Raises:
        InputError: if the preset or a field is unknown, or the fields contradict one another.
    """
    valid = [entry.name for entry in fields(Protocol)]
    for given in overrides:
        if given not in valid:
            raise InputError(f"Unknown field {given!r} for the preset {name!r}: {nearest(given, valid)}")
    own = find(name).protocol
    return Protocol(**{**for_epochs(own, overrides.get("epochs", own["epochs"])), **overrides})


def find(name: str) -> Preset:
    """The preset of that name; raises InputError with the nearest if there is none."""
    if name not in PRESETS:
        raise InputError(f"Unknown preset {name!r}: {nearest(name, PRESETS)}")
    return PRESETS[name]


def real_recipe(dataset: str, student: str) -> dict[str, Any] | None:
    """Fields of the `Protocol` that ddranking 0.2.0 lists for students of all of `dataset`, or None."""
    for recipe in _content()["recipe"]:
        if dataset in recipe["datasets"] and listed_name(student) in recipe["students"]:
            return fields_from_plain(Protocol, recipe["protocol"], "recipe")
    return None


def known_accuracy(dataset: str, student: str) -> Known | None:
    """A published accuracy of `student` trained on all of `dataset`, or None: ddranking's own where it has one."""
    entries = (Known(**entry) for entry in _content()["accuracy"])
    return next((e for e in entries if (e.dataset, e.student) == (dataset, listed_name(student))), None)


def with_known_accuracy(settings: Settings, dataset: str) -> Settings:
    """The settings with the number that a known real-hard accuracy stands for.

    Raises:
        InputError: if none is known for this data and student.
    """
    if settings.real_accuracy != "known":
        return settings
    student = settings.protocol.student
    known = known_accuracy(dataset, student) if isinstance(student, str) else None
    if known is None:
        raise InputError(
            f"No accuracy of {student} on all of {dataset} is known here: give a number to real_accuracy "
            "(--real-accuracy), or leave it out to train"
        )
    return replace(settings, real_accuracy=known.accuracy)


def for_epochs(fields: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Fields of a preset's protocol for another number of epochs: tests come in time, and a drop at half of them."""
    if epochs == fields.get("epochs", epochs):
        return dict(fields)
    every = fields.get("test_every")
    return {**fields, "epochs": epochs, "step_size": None, "test_every": every and min(every, epochs)}


def listed_name(student: str) -> str:
    """The name by which ddranking 0.2.0 lists a network: torchvision's ResNets are those with batch norm."""
    name = student.removeprefix("torchvision-")
    unnamed = name != student and name.startswith("ResNet") and not name.endswith("-BN")
    return f"{name}-BN" if unnamed else name


@functools.cache
def _content() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def _read(name: str) -> Preset:
    tables = _whole(name)
    typed = (fields_from_plain(kind, tables[key], key) for key, kind in TABLES.items())
    return Preset(name, tables["summary"], tables["source"], *typed)


def _whole(name: str) -> dict[str, Any]:
    """What a preset says, over what the one says that it extends."""
    own = _content()["preset"][name]
    base = _whole(own["extends"]) if "extends" in own else {}
    tables = {key: {**base.get(key, {}), **own.get(key, {})} for key in TABLES}
    return {**base, **own, **tables}


TABLES = {"protocol": Protocol, "settings": Settings, "real": Protocol}
PRESETS: dict[str, Preset] = {name: _read(name) for name in _content()["preset"] if not name.startswith("_")}
