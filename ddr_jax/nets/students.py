"""Building, initialising and applying a student: the functions by which other rooms see networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from ddr_jax.nets import layers
from ddr_jax.nets.names import check_shape, find
from ddr_jax.types import InputError, fingerprint

# {"params": tree} and, with batch norm, {"batch_stats": tree}; all float32 as `init` makes them.
Variables = dict[str, Any]

# Variables as one dictionary, their names joined by dots, and back.
flatten: Callable[[Any], dict[str, Any]] = partial(flatten_dict, sep=".")
unflatten: Callable[[Any], Variables] = partial(unflatten_dict, sep=".")

DEFAULT_WIDTH = 128
TRIAL = 2  # images, on which a user's own module is tried


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

    Raises InputError for what is no flax.linen module, and for fields that do not hash.
    """
    if isinstance(module, layers.Classifier | Own):
        return module
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{module!r} is no student: give a network's name or a flax.linen module, not its class, nor its text, "
            "which is all that a result's file knows of it"
        )
    try:
        hash(module)
    except TypeError as error:
        raise InputError(
            f"{type(module).__name__} does not hash by value: in its fields, put tuples for lists and arrays"
        ) from error
    return Own(module)


def _call(method: Callable, images: jax.Array, train: bool) -> jax.Array:
    """Call a method of the module, in the mode if it takes one."""
    taken = inspect.signature(method).parameters
    mode = {"train": train, "training": train, "deterministic": not train}
    return method(images, **{name: value for name, value in mode.items() if name in taken})


def build(student: Any, *, num_classes: int, width: int = DEFAULT_WIDTH) -> nn.Module:
    """The network of a name, or a user's own module made a student; equal networks share a compiled program.

    `width` is the number of filters (ConvNet), of hidden units (MLP) or of features per token (ViT); the
    other networks have widths of their own and take no other than the default. A module has its sizes already:
    `check` says whether they are right. Raises InputError for an unknown name, naming the nearest one, for sizes
    that make no network, and for modules that cannot be called as students are (see `adapt`).
    """
    if not isinstance(student, str):
        return adapt(student)
    entry = find(student)
    if num_classes < 2 or width < 1:
        raise InputError(f"{student} needs num_classes ≥ 2 and width ≥ 1, got {num_classes} and {width}")
    if not entry.has_width and width != DEFAULT_WIDTH:
        raise InputError(f"{student} has widths of its own, got width {width}: leave width at {DEFAULT_WIDTH}")
    if width % 4 and (entry.settings.get("norm") == "GN" or student.startswith("ViT")):
        raise InputError(f"{student} has 4 heads or groups of channels: width must be a multiple of 4, got {width}")
    module, _, attribute = entry.target.partition(":")
    settings = {**entry.settings, "width": width} if entry.has_width else entry.settings
    return getattr(import_module(f"ddr_jax.nets.{module}"), attribute)(num_classes=num_classes, **settings)


def init(net: nn.Module, key: jax.Array, image_shape: tuple[int, ...]) -> Variables:
    """A student's variables before training, by PyTorch's default initialisation, for (H, W, K) images."""
    return dict(net.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False))


def apply(net: nn.Module, variables: Variables, images: jax.Array) -> jax.Array:
    """Logits (N, C) of (N, H, W, K) images in evaluation mode: batch norm uses its running statistics."""
    return cast(jax.Array, net.apply(variables, images, train=False))


def apply_train(
    net: nn.Module, variables: Variables, images: jax.Array, key: jax.Array | None = None
) -> tuple[jax.Array, Variables]:
    """Logits (N, C) in training mode, and the variables with batch norm's running statistics updated.

    `key` draws what dropout drops: torchvision's AlexNet and VGG raise InputError without it, others ignore it.
    """
    if key is None and getattr(net, "needs_key", False):
        raise InputError(f"{type(net).__name__} has dropout: nets.apply_train needs a key")
    rngs = None if key is None else {"dropout": key}
    logits, updated = net.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
    return logits, {**variables, **updated}


def embed(net: nn.Module, variables: Variables, images: jax.Array) -> jax.Array:
    """Activations (N, F) before the last linear layer, in evaluation mode."""
    return cast(jax.Array, net.apply(variables, images, train=False, method="embed"))


def check_module(module: nn.Module, image_shape: tuple[int, ...], num_classes: int | None = None) -> None:
    """Raise InputError unless a user's own module is a student of (H, W, K) images and C classes; computes nothing.

    It must give floating logits (N, C) in both modes, and keep no variables but `params` and `batch_stats`.
    """
    net, name = adapt(module), type(module).__name__
    check_shape(name, image_shape)
    try:
        variables, logits, trained = jax.eval_shape(partial(_trial, net, tuple(image_shape)), jax.random.key(0))
    except Exception as error:
        raise InputError(
            f"{name} fails on images of {tuple(image_shape)}: {error}; students are called with images alone, or also "
            "with one of train, training, deterministic"
        ) from error
    if "params" not in variables or not variables.keys() <= {"params", "batch_stats"}:
        raise InputError(
            f"{name} keeps variables in {', '.join(variables) or 'no collection'}: a student has params, and "
            "batch_stats where it has batch norm"
        )
    for out in (logits, trained):
        shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", type(out).__name__)
        classes = num_classes or (shape[-1] if shape else 0)
        if shape != (TRIAL, classes) or not jnp.issubdtype(dtype, jnp.floating):
            raise InputError(
                f"{name} gives {dtype} of shape {shape} for {TRIAL} images of {tuple(image_shape)}: expected floating "
                f"logits of shape ({TRIAL}, {num_classes or 'C'})"
            )


def digest(net: nn.Module, image_shape: tuple[int, ...]) -> str:
    """What a network computes on (H, W, K) images, as text that is the same in every process.

    Our own networks are their fields. A user's own module is what it compiles to, because its fields say nothing
    of its code.
    """
    if not isinstance(net, Own):
        return repr(net)

    def step(key):
        variables, logits, _ = _trial(net, tuple(image_shape), key)

        def total(params, images):
            return apply_train(net, {**variables, "params": params}, images, key)[0].sum()

        images = jnp.zeros((TRIAL, *image_shape), jnp.float32)
        return variables, logits, jax.value_and_grad(total)(variables["params"], images)

    text = jax.jit(step).lower(jax.random.key(0)).as_text()
    return f"{type(net.module).__name__} {fingerprint(np.frombuffer(text.encode(), np.uint8))}"


def _trial(net: nn.Module, image_shape: tuple[int, ...], key: jax.Array) -> tuple[Variables, jax.Array, jax.Array]:
    """A new student's variables, and the logits of some images in evaluation and in training mode."""
    images = jnp.zeros((TRIAL, *image_shape), jnp.float32)
    variables = init(net, key, image_shape)
    return variables, apply(net, variables, images), apply_train(net, variables, images, key)[0]
