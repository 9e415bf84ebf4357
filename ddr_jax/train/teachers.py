"""Teachers: networks trained on real data that label images. Their weights are kept as .safetensors."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ddr_jax import nets
from ddr_jax.data.readers import as_array, read_pt
from ddr_jax.nets.precision import arithmetic
from ddr_jax.types import InputError, RealData, fingerprint


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
    init = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), real.image_shape))
    expected, each = _shapes(init), [_read(Path(path), net, real.image_shape) for path in paths]
    for path, shapes in zip(paths, map(_shapes, each), strict=True):
        for name in sorted(expected.keys() | shapes.keys()):
            want, got = expected.get(name, "none"), shapes.get(name, "none")
            if want != got:
                raise InputError(
                    f"{path}: the teacher's {name} has shape {got}, but {name_of_student} of width {width} for "
                    f"{real.name} has {want}: name the architecture and data that it was trained with"
                )
    return Teachers.of(net, each)


def _shapes(variables: Any) -> dict[str, Any]:
    return {name: leaf.shape for name, leaf in nets.flatten(variables).items()}


def _read(path: Path, net: Any, image_shape: tuple[int, ...]) -> Any:
    """The variables in a file of ours, or in a PyTorch state dict."""
    if path.suffix != ".pt":
        variables = load(path)
        return variables if "params" in variables else nets.from_torch(net, nets.flatten(variables), image_shape)
    content = read_pt(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; expected a state dict, names with tensors")
    return nets.from_torch(net, {name: as_array(tensor, path) for name, tensor in content.items()}, image_shape)


def mean_logits(net: Any, teachers: Any, images: jax.Array) -> jax.Array:
    """The mean over T teachers (stacked variables) of their logits in evaluation mode, (B, C), not differentiated."""
    logits = jax.lax.map(lambda variables: nets.apply(net, variables, images), teachers)
    return jax.lax.stop_gradient(logits.mean(0))


def label(net: Any, teachers: Any, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """The teachers' mean logits (N, C) float32 for images on the host (N, H, W, K), `batch` at a time."""
    return _in_batches(mean_logits, net, teachers, images, batch)


def features(net: Any, variables: Any, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """A network's activations before its last layer (N, F) float32 for images on the host, `batch` at a time."""
    return _in_batches(nets.embed, net, variables, images, batch)


def _in_batches(function: Any, net: Any, variables: Any, images: np.ndarray, batch: int) -> np.ndarray:
    forward, found = jax.jit(function, static_argnums=0), []
    for first in range(0, len(images), batch):
        part = images[first : first + batch]
        padded = np.pad(part, [(0, batch - len(part))] + [(0, 0)] * (images.ndim - 1))
        with arithmetic("float32"):
            found.append(np.asarray(forward(net, variables, padded), np.float32)[: len(part)])
    return np.concatenate(found)


def teacher_features(teachers: Teachers, images: np.ndarray) -> np.ndarray:
    """The features of the images by all T teachers, side by side (N, T · F)."""
    each = [jax.tree.map(lambda leaf: leaf[t], teachers.variables) for t in range(teachers.count)]  # noqa: B023
    return np.concatenate([features(teachers.net, variables, images) for variables in each], axis=1)


def to_bytes(variables: Any) -> bytes:
    """Nested variables as the bytes of a .safetensors file, names joined by dots."""
    return save({name: np.ascontiguousarray(leaf) for name, leaf in nets.flatten(variables).items()})


def load(path: Path) -> Any:
    """Reads nested variables from a .safetensors file written by `to_bytes`.

    Raises:
        InputError: if the file is missing or is not .safetensors.
    """
    try:
        return nets.unflatten(load_file(path))
    except (OSError, SafetensorError) as error:
        raise InputError(f"Cannot read weights from {path}: {error}; give a .safetensors file") from error
