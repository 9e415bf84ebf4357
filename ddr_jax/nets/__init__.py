"""The students' networks, by name; nothing outside this room imports flax.linen.

Names are read and checked without jax (`check`, `names.NETS`); the rest is loaded at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ddr_jax.nets.names import NETS, Entry, check

if TYPE_CHECKING:
    from ddr_jax.nets.students import Variables, apply, apply_train, build, embed, init
    from ddr_jax.nets.torch_weights import from_torch, to_torch

__all__ = [
    "NETS",
    "Entry",
    "Variables",
    "apply",
    "apply_train",
    "build",
    "check",
    "embed",
    "from_torch",
    "init",
    "to_torch",
]


def __getattr__(name: str):
    if name in __all__:
        room = "torch_weights" if name.endswith("_torch") else "students"
        return getattr(import_module(f"ddr_jax.nets.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
