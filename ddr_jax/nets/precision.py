"""How precisely networks compute: float32, tf32, or bfloat16 with weights and statistics that stay float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddr_jax.nets import layers

# Each with JAX's name for the precision of products of float32 numbers, whose default on GPUs is tf32.
PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}

NORMS = tuple(layers.NORMS.values())


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Networks that are traced inside, and their derivatives, compute with that precision; see `operands`."""
    narrow = nn.intercept_methods(_widen) if precision == "bfloat16" else contextlib.nullcontext()
    with jax.default_matmul_precision(PRECISIONS[precision]), narrow:
        yield


def operands(precision: str, tree: Any) -> Any:
    """The tree as networks compute with it: in bfloat16 if that is the precision, else as it is."""
    if precision != "bfloat16":
        return tree
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), tree)


def _widen(call, arguments, options, context):
    """Norms take their moments in float32, and logits come from a float32 head: in bfloat16 many would be equal."""
    module = context.module
    norm, head = isinstance(module, NORMS), module.name == "head"
    if isinstance(module, nn.LayerNorm):
        with jax.numpy_dtype_promotion("standard"):  # flax widens by itself, which strict promotion would refuse
            return call(*arguments, **options)
    if context.method_name != "__call__" or not (norm or head):
        return call(*arguments, **options)
    x, *rest = arguments
    y = call(jnp.asarray(x, jnp.float32), *rest, **options)
    return y.astype(x.dtype) if norm else y
