"""Teachers: networks trained on real data that label images. Their weights are kept as .safetensors."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ddr_jax import nets
from ddr_jax.data.readers import as_array, read_pt
from ddr_jax.nets.precision import arithmetic
from ddr_jax.types import InputError, RealData, fingerprint

SEPARATOR = "."


@dataclass(frozen=True, eq=False)
class Teachers:
    """T networks of one architecture that label images: `variables` have leaves (T, …)."""

    net: Any
    variables: Any

    @classmethod
    def of(cls, net: Any, each: Sequence[Any]) -> Teachers:
        """Teachers from the variables of each one."""
        return cls(net, jax.tree.map(lambda *leaves: np.stack(leaves), *each))

    @functools.cached_property
    def digest(self) -> str:
        """A fingerprint of all their weights."""
        return fingerprint(*jax.tree.leaves(self.variables))

    @property
    def count(self) -> int:
        """T."""
        return len(jax.tree.leaves(self.variables)[0])

    @property
    def parameters(self) -> int:
        """How many numbers one teacher consists of, running statistics included."""
        return sum(leaf[0].size for leaf in jax.tree.leaves(self.variables))


def load_teachers(*paths: str | os.PathLike, real: RealData, student: Any = "ConvNet-3", width: int = 128) -> Teachers:
    """Reads teachers of one architecture, one from each file.

    A file is a .safetensors as an evaluation keeps it, or a PyTorch state dict of the same network, .safetensors or
    .pt (which needs PyTorch), as PyTorch ddranking and torchvision save them.

    Raises:
        InputError: if a file is missing, is no such file, or holds other weights than the network `student` of
            that width has for the images and classes of the real data.
    """
    nets.check(student, real.image_shape, real.num_classes)
    name_of_student = student if isinstance(student, str) else type(student).__name__
    net = nets.build(student, width=width, num_classes=real.num_classes)
    expected = _flatten(jax.eval_shape(lambda: nets.init(net, jax.random.key(0), real.image_shape)))
    each = [_ours(_read(Path(path)), net, real.image_shape) for path in paths]
    for path, variables in zip(paths, each, strict=True):
        shapes = {name: array.shape for name, array in _flatten(variables).items()}
        for name in sorted(expected.keys() | shapes.keys()):
            want, got = (getattr(expected.get(name), "shape", "none"), shapes.get(name, "none"))
            if want != got:
                raise InputError(
                    f"{path}: the teacher's {name} has shape {got}, but {name_of_student} of width {width} for "
                    f"{real.name} has {want}: name the architecture and data that it was trained with"
                )
    return Teachers.of(net, each)


def _read(path: Path) -> dict[str, Any]:
    """Nested variables, or a flat PyTorch state dict."""
    if path.suffix != ".pt":
        return load(path)
    content = read_pt(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; expected a state dict, names with tensors")
    return {name: as_array(tensor, path) for name, tensor in content.items()}


def _ours(variables: dict[str, Any], net: Any, image_shape: tuple[int, ...]) -> Any:
    """The variables as they are, or made from a PyTorch state dict."""
    return variables if "params" in variables else nets.from_torch(net, _flatten(variables), image_shape)


def mean_logits(net: Any, teachers: Any, images: jax.Array) -> jax.Array:
    """The mean over T teachers (stacked variables) of their logits in evaluation mode, (B, C), not differentiated."""
    logits = jax.lax.map(lambda variables: nets.apply(net, variables, images), teachers)
    return jax.lax.stop_gradient(logits.mean(0))


def label(net: Any, teachers: Any, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """The teachers' mean logits (N, C) float32 for images on the host (N, H, W, K), `batch` at a time."""
    forward = jax.jit(mean_logits, static_argnums=0)
    padded = np.pad(images, [(0, -len(images) % batch)] + [(0, 0)] * (images.ndim - 1))
    with arithmetic("float32"):
        logits = [forward(net, teachers, jnp.asarray(part)) for part in np.split(padded, len(padded) // batch)]
    return np.concatenate(jax.device_get(logits))[: len(images)]


def features(net: Any, variables: Any, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """A network's activations before its last layer (N, F) float32 for images on the host, `batch` at a time."""
    forward = jax.jit(nets.embed, static_argnums=0)
    parts = []
    for first in range(0, len(images), batch):
        part = images[first : first + batch]
        padded = np.pad(part, [(0, batch - len(part))] + [(0, 0)] * (images.ndim - 1))
        with arithmetic("float32"):
            parts.append(np.asarray(forward(net, variables, padded), np.float32)[: len(part)])
    return np.concatenate(parts)


def teacher_features(teachers: Teachers, images: np.ndarray) -> np.ndarray:
    """The features of the images by all T teachers, side by side (N, T · F)."""
    each = [jax.tree.map(lambda leaf: leaf[t], teachers.variables) for t in range(teachers.count)]  # noqa: B023
    return np.concatenate([features(teachers.net, variables, images) for variables in each], axis=1)


def to_bytes(variables: Any) -> bytes:
    """Nested variables as the bytes of a .safetensors file, names joined by dots."""
    return save({name: np.ascontiguousarray(leaf) for name, leaf in _flatten(variables).items()})


def load(path: Path) -> Any:
    """Reads nested variables from a .safetensors file written by `to_bytes`.

    Raises:
        InputError: if the file is missing or is not .safetensors.
    """
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"Cannot read weights from {path}: {error}; give a .safetensors file") from error
    variables: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, leaf = name.split(SEPARATOR)
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return variables


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat = {}
    for name, child in tree.items():
        flat |= _flatten(child, f"{prefix}{SEPARATOR}{name}" if prefix else name)
    return flat
