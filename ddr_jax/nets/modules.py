"""A user's own flax modules, made students."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from ddr_jax.nets import layers
from ddr_jax.types import InputError

MODES = ("train", "training", "deterministic")  # arguments by which modules are told training from evaluation


class Own(nn.Module):
    """A user's own module, called as every student is; its variables keep their names."""

    module: nn.Module

    def setup(self):
        """Leave no level of the adaptor's in the variables' names."""
        nn.share_scope(self, self.module)

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """The module's logits, in training mode if it has one."""
        return _call(self.module.__call__, images, train)

    def embed(self, images: jax.Array, train: bool) -> jax.Array:
        """What the module's own method `embed` gives; raises InputError without one."""
        method = getattr(self.module, "embed", None)
        if method is None:
            raise InputError(f"{type(self.module).__name__} has no method embed(images): give it one")
        return _call(method, images, train)


def adapt(module: Any) -> nn.Module:
    """A module that is called as students are and hashes by value; ours and adapted ones are so already.

    Raises InputError for what is no flax.linen module, for fields that do not hash, and for arguments of
    `__call__` beside the images and one of `MODES` that have no default.
    """
    if isinstance(module, layers.Classifier | Own):
        return module
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{module!r} is no student: give a network's name or a flax.linen module, not its class or its text "
            "(a result read from its file knows modules by their text alone)"
        )
    name = type(module).__name__
    try:
        hash(module)
    except TypeError as error:
        raise InputError(f"{name} does not hash by value: in its fields, put tuples for lists and arrays") from error
    needed = [p.name for p in _further(module.__call__) if p.default is p.empty and p.name not in MODES]
    if needed:
        raise InputError(
            f"{name}.__call__ needs {', '.join(needed)}: students are called with images and, where they take it, "
            f"with one of {', '.join(MODES)}; give the others a default"
        )
    return Own(module)


def _further(method: Callable) -> list[inspect.Parameter]:
    """A method's arguments beside the images, without catch-alls."""
    parameters = inspect.signature(method).parameters.values()
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)][1:]


def _call(method: Callable, images: jax.Array, train: bool) -> jax.Array:
    """Call a method of the module, in the mode if it takes one."""
    taken = {p.name for p in _further(method)}
    mode = {"train": train, "training": train, "deterministic": not train}
    return method(images, **{name: value for name, value in mode.items() if name in taken})
