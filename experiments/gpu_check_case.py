"""One case of gpu_check.py in a process of its own: prints its record, a line of JSON, or ends as it ends.

Command:   python experiments/gpu_check_case.py 'ResNet-18/32px/bfloat16/3' --platform gpu --scratch FOLDER
Expected:  called by gpu_check.py; with --reference it writes the CPU's float64 gradients and labels to FOLDER instead.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gpu_check  # puts the repository on the path
import jax
import jax.numpy as jnp
import numpy as np
from gpu_check import WORKLOADS, Check, Sizes, Speed, Workload
from jax.flatten_util import ravel_pytree

from ddr_jax import nets
from ddr_jax.nets.names import find
from ddr_jax.nets.precision import arithmetic, operands
from ddr_jax.protocols.augmentations import CutMix
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.train import devices, population, teachers
from ddr_jax.train.student import HeldOut, Program, Student, TrainingData

CLASSES = 10
REFERENCES = max(gpu_check.STUDENTS)
OWN = ("float32", "bfloat16")  # precisions that the CPU has too


@contextlib.contextmanager
def device(scratch: Path, *, alone: bool) -> Iterator[None]:
    """Holds the device, beside others that compile and check or alone; who waits to be alone lets no one in before."""
    with (scratch / "gate").open("w") as gate, (scratch / "device").open("w") as held:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(held, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield


def network(name: str, width: int, classes: int = CLASSES) -> Any:
    """A network, `width` filters wide if it lets us choose."""
    return nets.build(name, num_classes=classes, **({"width": width} if find(name).has_width else {}))


def pictures(count: int, shape: tuple[int, ...], classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Random images (N, H, W, K) float32 and their labels (N,) int32."""
    images = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
    return images, np.arange(count, dtype=np.int32) % classes


def students(count: int, lr: float = 0.01) -> Student:
    """Students (P,) that differ by their keys."""
    keys = jax.vmap(jax.random.key)(jnp.arange(count))
    return Student.of([Protocol().row(lr, augmented=True)] * count, keys, [0] * count, [0] * count)


def initial(net: Any, student: int, shape: tuple[int, ...]) -> Any:
    """A student's variables before training, float32."""
    return nets.init(net, jax.random.key(student), shape)


def gradient(net: Any, precision: str, variables: Any, images: jax.Array, labels: jax.Array) -> Any:
    """A student's gradient of its mean cross entropy; in training mode, but for networks with dropout."""

    def loss(params):
        taken = {**variables, "params": operands(precision, params)}
        given = operands(precision, images)
        logits = nets.apply(net, taken, given) if net.needs_key else nets.apply_train(net, taken, given)[0]
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels].mean()

    with arithmetic(precision):
        return jax.grad(loss)(variables["params"])


def label(net: Any, precision: str, variables: Any, images: jax.Array) -> jax.Array:
    """The mean logits (N, C) of teachers (T, …), as wide as the images."""
    taken = {**variables, "params": operands(precision, variables["params"])}
    with arithmetic(precision):
        return teachers.mean_logits(net, taken, operands(precision, images)).astype(images.dtype)


def write_reference(case: Check, platform: str, scratch: Path) -> dict[str, Any]:
    """Keeps each student's gradient and labels in float64, and the CPU's own errors, for the sizes of a platform."""
    sizes, path = Sizes.of(platform, case.side), gpu_check.reference_file(scratch, case, platform)
    net, (images, labels) = network(case.net, sizes.width), pictures(sizes.compared, case.image_shape)
    each = [initial(net, student, case.image_shape) for student in range(REFERENCES)]
    found = {}
    with jax.enable_x64(True):
        wide = jnp.asarray(images, jnp.float64)
        differentiated = jax.jit(lambda v: gradient(net, "float32", v, wide, labels))
        labelled = jax.jit(lambda v: label(net, "float32", v, wide))
        for student, variables in enumerate(each):
            variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
            found[f"gradient{student}"] = np.asarray(ravel_pytree(differentiated(variables))[0], np.float32)
            found[f"labels{student}"] = np.asarray(labelled(jax.tree.map(lambda leaf: leaf[None], variables)))
    for precision in OWN:
        own = errors(Check(case.net, case.side, precision, REFERENCES), sizes, found)
        found |= {f"{what} in {precision}": np.float64(error) for what, error in own.items()}
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, **found)
    partial.rename(path)
    return {"passed": True}


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """The norm of the difference over the norm of what is expected."""
    found, expected = (np.asarray(array, np.float64).ravel() for array in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def errors(case: Check, sizes: Sizes, reference: Mapping[str, Any]) -> dict[str, float]:
    """How far the gradient of the worst student, and the students' labels, are from the CPU's in float64."""
    net, (images, labels) = network(case.net, sizes.width), pictures(sizes.compared, case.image_shape)
    each = [initial(net, student, case.image_shape) for student in range(case.students)]
    variables = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    images = jnp.asarray(images)
    side_by_side = jax.jit(jax.vmap(lambda v: ravel_pytree(gradient(net, case.precision, v, images, labels))[0]))
    gradients = zip(side_by_side(variables), (reference[f"gradient{i}"] for i in range(case.students)), strict=True)
    logits = jax.jit(lambda v: label(net, case.precision, v, images))(variables)
    expected = np.mean([reference[f"labels{i}"] for i in range(case.students)], axis=0)
    return {"gradient": max(distance(*pair) for pair in gradients), "labels": distance(logits, expected)}


class Loop:
    """The compiled functions that populations run, with something to run them on; an epoch is one batch."""

    def __init__(self, program: Program, count: int, precision: str, data: TrainingData, tests: int):
        images, labels = pictures(tests, data.images.shape[2:])
        self.run = population._compiled(program, "vmap", tests, precision, tuple(jax.local_devices()[:1]))
        self.students, self.data = self.run.feed(data)(students(count))
        self.tests = self.run.everywhere(HeldOut(images, labels, np.ones((1, tests), bool)))
        self.state = self.run.start(self.students, self.data)

    def train(self, steps: int) -> None:
        """Trains, and waits for it."""
        self.state = self.run.train(self.state, self.students, self.data, jnp.int32(0), jnp.int32(steps))
        jax.block_until_ready(self.state)

    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Hits (P, 1) and whether students diverged (P,)."""
        return jax.device_get(self.run.test(self.state, self.tests))


def rate(images: int, work: Callable[[int], Any], least: float) -> float:
    """Images a second of a work that is done a number of times, so often that it takes `least` seconds."""
    count = 1
    while True:
        start = time.perf_counter()
        work(count)
        seconds = time.perf_counter() - start
        if seconds >= least:
            return count * images / seconds
        count = max(count + 1, math.ceil(1.2 * count * least / seconds))


def check(case: Check, platform: str, scratch: Path) -> dict[str, Any]:
    """The record of a case."""
    sizes = Sizes.of(platform, case.side)
    net, (images, labels) = network(case.net, sizes.width), pictures(sizes.batch, case.image_shape)
    width = {"width": sizes.width} if find(case.net).has_width else {}
    program = Program.of(Protocol(student=case.net, epochs=1000, batch_size=sizes.batch, **width), CLASSES)
    data = TrainingData(images[None], np.eye(CLASSES, dtype=np.float32)[labels][None])
    with device(scratch, alone=False):
        reference = np.load(gpu_check.reference_file(scratch, case, platform))
        found = errors(case, sizes, reference)
        loop = Loop(program, case.students, case.precision, data, sizes.tests)
        loop.train(1)
        hits, diverged = loop.test()
        given = jnp.asarray(images)
        variables = jax.tree.map(lambda leaf: jnp.copy(leaf[:1]), loop.state.variables)  # training donates its own
        labelled = jax.jit(lambda variables, images: label(net, case.precision, variables, images))
        logits = jax.device_get(labelled(variables, given))
    with device(scratch, alone=True):
        times = {
            "train": rate(case.students * sizes.batch, loop.train, sizes.seconds),
            "test": rate(case.students * sizes.tests, lambda count: [loop.test() for _ in range(count)], sizes.seconds),
            "label": rate(
                sizes.batch,
                lambda count: [jax.block_until_ready(labelled(variables, given)) for _ in range(count)],
                sizes.seconds,
            ),
        }
    wrong = inexact(case, found, reference) + complaints(case, sizes, hits, diverged, logits)
    return {"passed": not wrong, "reason": "; ".join(wrong), **found, **times, "peak": devices.peak_memory() / 2**20}


def inexact(case: Check, found: Mapping[str, float], reference: Mapping[str, Any]) -> list[str]:
    """Which errors are larger than rounding explains."""
    wrong = []
    for what, error in found.items():
        own = {precision: float(reference[f"{what} in {precision}"]) for precision in OWN}
        most = gpu_check.allowed(case.precision, own)
        if not error <= most:  # a NaN is wrong too
            wrong.append(f"{what} off by {error:.1e}, allowed {most:.1e}")
    return wrong


def complaints(case: Check, sizes: Sizes, hits: np.ndarray, diverged: np.ndarray, logits: np.ndarray) -> list[str]:
    """What is wrong with what a step, a test and labelling gave."""
    wrong = []
    if diverged.any():
        wrong.append("weights are not finite after a step")
    if hits.shape != (case.students, 1) or not ((hits >= 0) & (hits <= sizes.tests)).all():
        wrong.append(f"the test counts {hits.tolist()} hits of {sizes.tests}")
    if logits.shape != (sizes.batch, CLASSES) or not np.isfinite(logits).all():
        wrong.append("labels are not finite")
    return wrong


def speed(case: Speed, platform: str, scratch: Path) -> dict[str, Any]:
    """The record of a training loop that is timed."""
    load = WORKLOADS[case.workload]
    if case.engine == "ours":
        return our_speed(load, platform, scratch)
    if importlib.util.find_spec("torch") is None:
        return {"skipped": "PyTorch is missing"}
    import gpu_check_torch

    if not gpu_check_torch.sees_a_gpu():
        return {"skipped": "PyTorch sees no GPU"}
    with device(scratch, alone=False):
        step = gpu_check_torch.training(load, "cuda", compiled=case.engine == "torch-compiled")
        step(3)
    with device(scratch, alone=True):
        images = rate(load.batch, step, 2.0)
    return {"passed": True, "train": images, "peak": gpu_check_torch.peak_bytes() / 2**20}


def our_speed(load: Workload, platform: str, scratch: Path) -> dict[str, Any]:
    """Images a second of our own loop, with the weights of a fresh network as the teacher's."""
    small = platform == "cpu"
    batch, width = (4, 16) if small else (load.batch, 128)
    shape = (load.side, load.side, 3)
    images, labels = pictures(batch, shape, load.classes)
    net = network(load.net, width, load.classes)
    protocol = Protocol(
        student=load.net,
        width=width if find(load.net).has_width else 128,
        epochs=10**6,
        batch_size=batch,
        optimizer=load.optimizer,
        augment=CutMix() if load.cutmix else None,
        labels="teacher" if load.teacher else "hard",
        loss="kl" if load.teacher else "ce",
    )
    teacher = jax.tree.map(lambda leaf: leaf[None], initial(net, 1, shape)) if load.teacher else None
    data = TrainingData(images[None], np.eye(load.classes, dtype=np.float32)[labels][None], teacher)
    with device(scratch, alone=False):
        program = Program.of(protocol, load.classes, net if load.teacher else None)
        loop = Loop(program, load.students, "bfloat16", data, batch)
        loop.train(3)
    with device(scratch, alone=True):
        images_a_second = rate(load.students * batch, loop.train, 0.0 if small else 2.0)
    return {"passed": True, "train": images_a_second, "peak": devices.peak_memory() / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--platform", required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--reference", action="store_true")
    options = parser.parse_args()
    if options.name == "device":
        first = jax.local_devices()[0]
        print(json.dumps({"platform": first.platform, "kind": first.device_kind, "jax": jax.__version__}))
        return
    case = gpu_check.read(options.name)
    if isinstance(case, Speed):
        record = speed(case, options.platform, options.scratch)
    elif options.reference:
        record = write_reference(case, options.platform, options.scratch)
    else:
        record = check(case, options.platform, options.scratch)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
