"""Building, initialising and applying a student: the functions by which other rooms see networks."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddr_jax.nets.names import find
from ddr_jax.types import InputError

# {"params": tree} and, with batch norm, {"batch_stats": tree}; all float32 as `init` makes them.
Variables = dict[str, Any]

DEFAULT_WIDTH = 128


def build(name: str, *, num_classes: int, width: int = DEFAULT_WIDTH) -> nn.Module:
    """The network of a name, hashable by value: equal networks share a compiled program.

    `width` is the number of filters (ConvNet), of hidden units (MLP) or of features per token (ViT); the
    other networks have widths of their own and take no other than the default. Raises InputError for an
    unknown name, naming the nearest one, and for sizes that make no network.
    """
    entry = find(name)
    if num_classes < 2 or width < 1:
        raise InputError(f"{name} needs num_classes ≥ 2 and width ≥ 1, got {num_classes} and {width}")
    if not entry.has_width and width != DEFAULT_WIDTH:
        raise InputError(f"{name} has widths of its own, got width {width}: leave width at {DEFAULT_WIDTH}")
    if width % 4 and (entry.settings.get("norm") == "GN" or name.startswith("ViT")):
        parts = "heads" if name.startswith("ViT") else "groups of channels"
        raise InputError(f"{name} has 4 {parts}: width must be a multiple of 4, got {width}")
    module, _, attribute = entry.target.partition(":")
    settings = {**entry.settings, "width": width} if entry.has_width else entry.settings
    return getattr(import_module(module), attribute)(num_classes=num_classes, **settings)


def init(net: nn.Module, key: jax.Array, image_shape: tuple[int, ...]) -> Variables:
    """A student's variables before training, by PyTorch's default initialisation, for (H, W, K) images."""
    return dict(net.init(key, jnp.zeros((1, *image_shape)), train=False))


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
