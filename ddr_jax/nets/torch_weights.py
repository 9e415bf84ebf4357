"""PyTorch state dicts of the same networks, read and written by name and shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from ddr_jax.nets import layers
from ddr_jax.nets.students import Own, Variables, init
from ddr_jax.types import MANY, InputError

KINDS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


@dataclass(frozen=True)
class Leaf:
    """One array of a network: its `path` and `shape` in our variables, and how PyTorch lays it out.

    `channels` of the map that a linear layer reads flattened: PyTorch flattens channels first, we last.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    channels: int

    @property
    def axes(self) -> tuple[int, ...]:
        """Our axes in PyTorch's order: (O, I, S, S) convolutions, (O, F) linear layers, (K, H, W) maps."""
        return {4: (3, 2, 0, 1), 2: (1, 0), 3: (2, 0, 1)}.get(len(self.shape), (0,))

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape in PyTorch."""
        return tuple(self.shape[axis] for axis in self.axes)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Our array in PyTorch's layout."""
        array = array.transpose(self.axes)
        if array.ndim == 2:
            array = array.reshape(len(array), -1, self.channels).swapaxes(1, 2).reshape(array.shape)
        return np.ascontiguousarray(array)

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """PyTorch's array in our layout."""
        if array.ndim == 2:
            array = array.reshape(len(array), self.channels, -1).swapaxes(1, 2).reshape(array.shape)
        return array.transpose(np.argsort(self.axes))


def from_torch(net: nn.Module, state_dict: Mapping[str, np.ndarray], image_shape: tuple[int, ...]) -> Variables:
    """Our variables of a PyTorch state dict, for a network of PyTorch ddranking's or torchvision's.

    `state_dict` maps names to arrays in PyTorch's layout, any float type; batch norm's `num_batches_tracked`
    is ignored. `image_shape` (H, W, K) is what the network was built for. Raises InputError that names every
    tensor that is missing, unexpected or of another shape.
    """
    leaves = _leaves(net, image_shape)
    given = {name: value for name, value in state_dict.items() if not name.endswith("num_batches_tracked")}
    _check(net, leaves, given)
    variables = {
        leaf.path: jnp.asarray(leaf.from_torch(np.asarray(given[name], np.float32))) for name, leaf in leaves.items()
    }
    return traverse_util.unflatten_dict(variables)


def to_torch(net: nn.Module, variables: Variables, image_shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The PyTorch state dict of our variables: what `from_torch` reads, without `num_batches_tracked`."""
    flat = traverse_util.flatten_dict(variables)
    return {name: leaf.to_torch(np.asarray(flat[leaf.path])) for name, leaf in _leaves(net, image_shape).items()}


def _leaves(net: nn.Module, image_shape: tuple[int, ...]) -> dict[str, Leaf]:
    """Every array of the network by its name in PyTorch."""
    if not isinstance(net, layers.Classifier) or not net.torch_head:
        name = type(net.module if isinstance(net, Own) else net).__name__
        raise InputError(f"{name} has no counterpart in PyTorch ddranking or torchvision")
    read: dict[tuple[str, ...], int] = {}  # channels of the map that each linear layer reads
    channels = image_shape[-1]

    def follow(call, args, kwargs, context):
        nonlocal channels
        if isinstance(context.module, layers.Conv | layers.Linear):
            read[context.module.path] = channels
            channels = context.module.features
        return call(*args, **kwargs)

    with nn.intercept_methods(follow):
        shapes = jax.eval_shape(lambda: init(net, jax.random.key(0), image_shape))
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(shapes)
    return {
        f"{net.torch_module('.'.join(module))}.{KINDS[kind]}": Leaf(path, flat[path].shape, read.get(module, 0))
        for path, module, kind in ((path, path[1:-1], path[-1]) for path in flat)
    }


def _check(net: nn.Module, expected: Mapping[str, Leaf], given: Mapping[str, np.ndarray]) -> None:
    """Raise InputError unless the names and shapes are the expected ones."""
    faults = {
        "missing": [name for name in expected if name not in given],
        "unexpected": [name for name in given if name not in expected],
        "of another shape": [
            f"{name} {np.shape(given[name])} instead of {leaf.torch_shape}"
            for name, leaf in expected.items()
            if name in given and np.shape(given[name]) != leaf.torch_shape
        ],
    }
    listed = "; ".join(f"{fault}: {_some(names)}" for fault, names in faults.items() if names)
    if listed:
        raise InputError(
            f"The PyTorch state dict is not one of this {type(net).__name__}: {listed}. "
            "Build the network with the file's depth, norm, number of classes and image size"
        )


def _some(names: list[str]) -> str:
    left = len(names) - MANY
    return ", ".join(names[:MANY]) + (f" and {left} more" if left > 0 else "")
