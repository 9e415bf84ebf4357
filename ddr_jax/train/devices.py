"""Devices: how a population uses them, what their memory holds, and compiled programs kept between starts."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from ddr_jax.nets.precision import PRECISIONS
from ddr_jax.protocols.plain import COUNT, Must, check
from ddr_jax.train.store import processor
from ddr_jax.train.student import HELD_OUT_MULTIPLE
from ddr_jax.types import InputError, warn

MODES = ("serial", "vmap", "shared")
AXIS = "students"
DIVISOR = Must(f"a divisor of {HELD_OUT_MULTIPLE}", lambda x: HELD_OUT_MULTIPLE % x == 0)
MIN_SECONDS = 0.2  # what compiles faster is not worth a file


@dataclass(frozen=True)
class Execution:
    """How a population runs.

    The mode is one of three, chosen per backend by what was measured (`default_execution`):

    - ``serial``: each device trains one student at a time, and sees that student's set alone. The compiled program
      knows neither the size of the population nor the number of sets, so a student's result is the same bit for bit
      alone, among others and in any order.
    - ``vmap``: each device trains `chunk` students at once; the last digits depend on the chunk.
    - ``shared``: all devices train one student after another, each on its part of every batch, and add their
      gradients; the last digits depend on the number of devices. It is for fewer students than devices.

    Where batches are not shared, devices split the students axis of a mesh and exchange nothing.

    Attributes:
        mode: one of `MODES`.
        chunk: students per device and call; None takes as many as the device's memory should hold (one unless
            vmapped), and fewer when it turns out not to.
        devices: how many to use at most; None uses all local ones.
        test_batch: images per forward pass of a test.
        precision: of the networks' arithmetic, "float32", "tf32" (GPUs) or "bfloat16"; weights stay float32.

    Raises:
        InputError: if a name is unknown, a number is out of range, or students that are not vmapped are to share
            a call.
    """

    mode: Literal[MODES]  # type: ignore[valid-type]
    chunk: Annotated[int | None, COUNT] = None
    devices: Annotated[int | None, COUNT] = None
    test_batch: Annotated[int, COUNT, DIVISOR] = 256
    precision: Literal[tuple(PRECISIONS)] = "float32"  # type: ignore[valid-type]

    def __post_init__(self) -> None:
        check(self)
        if self.mode != "vmap" and self.chunk not in (None, 1):
            raise InputError(
                f"chunk is {self.chunk}, but {self.mode} execution trains one student at a time: "
                "leave chunk out, or choose mode 'vmap'"
            )

    @property
    def arithmetic(self) -> str:
        """The mode, and how many devices share a batch: a student's last digits depend on both; starts JAX."""
        return f"shared by {len(self.local_devices())}" if self.mode == "shared" else self.mode

    def local_devices(self) -> tuple[Any, ...]:
        """The devices that it uses."""
        return tuple(jax.local_devices()[: self.devices])


def default_execution() -> Execution:
    """Serial with small test batches on CPUs, as experiments/step_time.md measured; vmapped elsewhere.

    On an H100 25 students side by side took 0.38 (bfloat16), 0.66 (tf32) and 0.75 (float32) of the time that they took
    one after another (experiments/h100/gpu_kernels.md). TPUs were not measured.
    """
    return Execution("serial", test_batch=32) if jax.default_backend() == "cpu" else Execution("vmap")


def use_cpu_cores(cores: int) -> None:
    """Makes JAX see `cores` CPU devices, so that as many students train side by side.

    Raises:
        InputError: if JAX has already started its CPU device; call this before any JAX computation.
    """
    try:
        jax.config.update("jax_num_cpu_devices", cores)
    except RuntimeError as error:
        raise InputError(
            f"Cannot use {cores} CPU cores: JAX has started already; call use_cpu_cores before any computation"
        ) from error


def use_compilation_cache(folder: Path) -> None:
    """Makes JAX keep its compiled programs in `folder`, and load them from there; results stay the same bit for bit.

    Call it before any computation. Where JAX was already told of a folder (`JAX_COMPILATION_CACHE_DIR`), that one
    stays. Each instruction set has a folder of its own, because machines of different ones may share a home folder. A
    folder that cannot be made gives an InputWarning, and programs are compiled at every start.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    features = hashlib.sha256(processor("flags", "Features").encode()).hexdigest()[:8]
    own = folder / f"{platform.machine()}-{features}"
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return warn(f"Cannot keep compiled programs in {own} ({error}); give another folder")
    jax.config.update("jax_compilation_cache_dir", str(own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)


def mesh_of(devices: tuple[Any, ...]) -> Mesh:
    """The devices as a mesh of one axis, `AXIS`."""
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def limit(device: Any) -> int | None:
    """Bytes that JAX may use of a device, or None where the device does not say (CPUs)."""
    return (device.memory_stats() or {}).get("bytes_limit")


def peak_memory() -> int | None:
    """The most bytes in use so far: on the fullest device, or of this process where devices do not say.

    None where neither is known (CPUs on Windows).
    """
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    known = [peak for peak in peaks if peak is not None]
    if known:
        return max(known)
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def exhausted(error: Exception) -> bool:
    """Whether an error of JAX's runtime says that a device is out of memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def size(tree: Any) -> int:
    """Bytes of all arrays of a tree, which may be shapes alone."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def intermediates(function: Callable[..., Any], *arguments: Any) -> int:
    """Bytes of every value that a function computes on arguments of these shapes, as if each were kept."""
    return _computed(jax.make_jaxpr(function)(*arguments))


def _computed(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        # What a kernel of our own computes for itself is in registers.
        parts = {} if equation.primitive.name == "pallas_call" else equation.params
        inner = [value for value in parts.values() if hasattr(value, "eqns")]
        total += sum(map(_computed, inner)) or size([variable.aval for variable in equation.outvars])
    return total
