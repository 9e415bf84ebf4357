"""Puts students, and what they learn from, on the devices that train them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from ddr_jax.train.devices import Execution, mesh_of
from ddr_jax.train.student import HeldOut, Student, TrainingData

Feed = Callable[[Student], tuple[Student, TrainingData]]


def place(mesh: Mesh, spec: Spec, tree: Any) -> Any:
    """The arrays of a tree on a mesh's devices, split as `spec` says."""
    return jax.device_put(tree, NamedSharding(mesh, spec))


def everywhere(tests: HeldOut, execution: Execution) -> HeldOut:
    """The test images on every device that is used; populations then need not send them again."""
    return place(mesh_of(execution.local_devices()), Spec(), tests)


def feed_all_sets(mesh: Mesh, spec: Spec, data: TrainingData) -> Feed:
    """Every device has all sets, and `spec` splits the students.

    The number of sets is filled up to a power of two, so that not every number of sets compiles anew.
    """
    data = place(mesh, Spec(), data._replace(images=_filled_up(data.images), targets=_filled_up(data.targets)))
    return lambda students: (place(mesh, spec, students), data)


def feed_own_sets(mesh: Mesh, spec: Spec, data: TrainingData) -> Feed:
    """Every device has the set of the student that it trains next, (1, N, …) there; `spec` splits the students."""
    shared = place(mesh, Spec(), data._replace(images=None, targets=None))

    @functools.cache
    def put(pool: str, position: int, device: Any) -> jax.Array:
        return jax.device_put(getattr(data, pool)[position][None], device)

    def gather(pool: str, positions: Any) -> jax.Array:
        of_devices = np.resize(positions, len(mesh.devices))  # one for all where they share a student
        parts = [put(pool, int(p), device) for p, device in zip(of_devices, mesh.devices, strict=True)]
        whole = (len(positions), *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(whole, NamedSharding(mesh, spec), parts)

    def feed(students: Student) -> tuple[Student, TrainingData]:
        images, targets = (gather(p, np.asarray(getattr(students, p))) for p in ("images", "targets"))
        only = np.zeros(len(images), np.int32)  # the one set that a device has
        students = place(mesh, spec, students._replace(images=only, targets=only))
        return students, shared._replace(images=images, targets=targets)

    return feed


def _filled_up(sets: Any) -> Any:
    size = 1 << (len(sets) - 1).bit_length()
    return sets if size == len(sets) else sets[np.minimum(np.arange(size), len(sets) - 1)]
