"""Teachers: networks trained on real data that label images. Their weights are kept as .safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save

from ddr_jax import nets
from ddr_jax.types import fingerprint

SEPARATOR = "."


def stack(teachers: list[Any]) -> Any:
    """Stacks the variables of T teachers of one architecture along a new first axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *teachers)


def mean_logits(net: Any, teachers: Any, images: jax.Array) -> jax.Array:
    """The mean over T teachers (stacked variables) of their logits in evaluation mode, (B, C), not differentiated."""
    logits = jax.lax.map(lambda variables: nets.apply(net, variables, images), teachers)
    return jax.lax.stop_gradient(logits.mean(0))


def label(net: Any, teachers: Any, images: np.ndarray, batch: int = 256) -> np.ndarray:
    """The teachers' mean logits (N, C) for images on the host (N, H, W, K), `batch` at a time."""
    forward = jax.jit(mean_logits, static_argnums=0)
    padded = np.pad(images, [(0, -len(images) % batch)] + [(0, 0)] * (images.ndim - 1))
    logits = [forward(net, teachers, jnp.asarray(part)) for part in np.split(padded, len(padded) // batch)]
    return np.concatenate(jax.device_get(logits))[: len(images)]


def digest(teachers: Any) -> str:
    """A fingerprint of the weights of stacked teachers."""
    return fingerprint(*jax.tree.leaves(teachers))


def to_bytes(variables: Any) -> bytes:
    """Nested variables as the bytes of a .safetensors file, names joined by dots."""
    return save({k: np.ascontiguousarray(v) for k, v in _flatten(variables).items()})


def load(path: Path) -> Any:
    """Reads nested variables from a .safetensors file written by `to_bytes`."""
    variables: dict[str, Any] = {}
    for name, array in load_file(path).items():
        *parents, leaf = name.split(SEPARATOR)
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return variables


def _flatten(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    if not isinstance(tree, dict):
        return {prefix: np.asarray(tree)}
    flat = {}
    for name, child in tree.items():
        flat |= _flatten(child, f"{prefix}{SEPARATOR}{name}" if prefix else name)
    return flat
