"""The students' networks, by name or as flax modules that a user gives; nothing outside this room imports flax.linen.

Names are read and checked without jax (`check`, `names.NETS`); the rest is loaded at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ddr_jax.nets import names
from ddr_jax.nets.names import NETS

if TYPE_CHECKING:
    from ddr_jax.nets.students import apply, apply_train, build, digest, embed, flatten, init, unflatten
    from ddr_jax.nets.torch_weights import from_torch, to_torch

__all__ = ["NETS", "apply", "apply_train", "build", "check", "digest", "embed", "flatten", "from_torch", "init"]
__all__ += ["to_torch", "unflatten"]


def check(student: Any, image_shape: tuple[int, ...], num_classes: int | None = None) -> None:
    """Raise InputError unless `student`, a network's name or a flax.linen module, takes (H, W, K) images.

    Nothing is computed. A module must also give as many logits as there are classes, if their number is given.
    """
    if isinstance(student, str):
        names.check(student, image_shape)
    else:
        import_module("ddr_jax.nets.students").check_module(student, image_shape, num_classes)


def __getattr__(name: str):
    if name in __all__:
        room = "torch_weights" if name.endswith("_torch") else "students"
        return getattr(import_module(f"ddr_jax.nets.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
