"""The students' networks, by name; nothing outside this room imports flax.linen.

Names are read and checked without jax (`check`, `names.NETS`); the rest is loaded at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ddr_jax.nets.names import NETS, Entry, check

if TYPE_CHECKING:
    from ddr_jax.nets.students import Variables, apply, apply_train, build, embed, init

__all__ = ["NETS", "Entry", "Variables", "apply", "apply_train", "build", "check", "embed", "init"]


def __getattr__(name: str):
    if name in __all__:
        return getattr(import_module("ddr_jax.nets.students"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
