"""How fast students side by side train on a GPU, by formulation of their layers and by precision.

Command:   python experiments/gpu_kernels.py [--out FOLDER]
Time:      3 minutes on one H100 (estimated: the runs behind h100/gpu_kernels.md were made by its forerunners).
Hardware:  one GPU. On a CPU, where none of this is chosen, small sizes show that the script runs, and nothing else.
Expected:  in bfloat16 a step of 25 students of ConvNet-3, width 128, takes a third of the time that XLA alone needs
           (H100: 14.2 ms and 4.4). The table goes to gpu_kernels.md in the folder named.

"XLA alone" is the textbook network under vmap; each other line changes one thing. A step is an epoch of one batch with
DSA, its time the slope between 20 and 60 epochs of the compiled loop that trains populations. Before anything is timed,
each formulation's gradients are compared with XLA's in float32: `error` is the norm of the difference over the norm.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from measuring import matrix_peak, operations, row

from ddr_jax.nets import kernels, triton
from ddr_jax.protocols.augmentations import DSA
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.train import population
from ddr_jax.train import student as training
from ddr_jax.train.student import HeldOut, Program, State, Student, TrainingData

CLASSES, EPOCHS = 10, (20, 60)


def nothing(*_: Any) -> bool:
    """No shape is taken."""
    return False


FORMULATIONS = {
    "XLA alone": {
        "gpu_convolution": (kernels, kernels.plain_convolution),
        "differentiates_norm": (triton, nothing),
    },
    "gradients of kernels as products": {"sums_kernel_gradients": (triton, nothing)},
    "first layer as a product": {"convolves": (triton, nothing)},
    "norm's derivative by XLA": {"differentiates_norm": (triton, nothing)},
    "all as chosen": {},
}


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    formulation: str
    mode: str
    precision: str
    students: int


@dataclass(frozen=True)
class Compiled:
    """The compiled loop and test of a case, and what they are called with."""

    train: Any
    test: Any
    state: State
    arguments: tuple[Any, ...]
    tests: HeldOut


@contextlib.contextmanager
def formulated(name: str) -> Iterator[None]:
    """Inside, networks are traced in that formulation."""
    with contextlib.ExitStack() as stack:
        for attribute, (module, function) in FORMULATIONS[name].items():
            stack.enter_context(mock.patch.object(module, attribute, function))
        yield


def students(count: int) -> Student:
    """Students that differ by their keys."""
    keys = jax.vmap(jax.random.key)(jnp.arange(count))
    return Student.of([Protocol().row(lr=0.01, augmented=True)] * count, keys, [0] * count, [0] * count)


def lowered(case: Case, program: Program, data: TrainingData, tests: HeldOut) -> Compiled:
    """The case's functions, traced in its formulation and not yet compiled."""
    population._compiled.cache_clear()
    jax.clear_caches()
    with formulated(case.formulation):
        run = population._compiled(program, case.mode, 256, case.precision, tuple(jax.local_devices()[:1]))
        part, placed = run.feed(data)(students(case.students))
        held = run.everywhere(tests)
        state = run.start(part, placed)
        training = run.train.lower(state, part, placed, jnp.int32(0), jnp.int32(1))
        return Compiled(training, run.test.lower(state, held), state, (part, placed), held)


def compiled(case: Compiled) -> Compiled:
    return Compiled(case.train.compile(), case.test.compile(), case.state, case.arguments, case.tests)


def fastest(call: Callable[[], Any], rounds: int = 3) -> float:
    """Seconds of the fastest of some calls, after one that is not timed."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times[1:])


def step_seconds(case: Compiled) -> float:
    def train_for(epochs: int) -> State:
        return case.train(jax.tree.map(jnp.copy, case.state), *case.arguments, jnp.int32(0), jnp.int32(epochs))

    few, many = (fastest(partial(train_for, epochs)) for epochs in EPOCHS)
    return (many - few) / (EPOCHS[1] - EPOCHS[0])


def error(formulation: str, precision: str, program: Program, data: TrainingData) -> float:
    """How far a student's gradients are from XLA's in float32, relative to their norm."""
    student = jax.tree.map(lambda leaf: leaf[0], students(1))
    state = training.start(program, student, data)
    images, labels = data.images[0], data.targets[0]

    def gradients(formulation, precision):
        def loss(params):
            logits, _ = training.forward(program, {"params": params}, images, student.key, precision)
            return -(labels * jax.nn.log_softmax(logits)).sum(-1).mean()

        with formulated(formulation), training.arithmetic(precision):
            found = jax.jit(lambda params: jax.grad(loss)(params))(state.variables["params"])
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(found)])

    found, expected = gradients(formulation, precision), gradients("XLA alone", "float32")
    return float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected))


def cases(count: int, precisions: tuple[str, ...]) -> list[Case]:
    """All formulations vmapped, and what is chosen one after another, in each precision."""
    side_by_side = [Case(name, "vmap", precision, count) for precision in precisions for name in FORMULATIONS]
    more = [Case("all as chosen", "vmap", precisions[0], 4 * count)]
    return side_by_side + more + [Case("all as chosen", "serial", precision, 1) for precision in precisions]


def measure(count: int, width: int, images: int, test_images: int, precisions: tuple[str, ...]) -> str:
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(1, images, 32, 32, 3)).astype(np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[np.arange(images) % CLASSES][None]
    data = TrainingData(jnp.asarray(pixels), jnp.asarray(labels))
    unseen = rng.normal(size=(test_images, 32, 32, 3)).astype(np.float32)
    tests = HeldOut(unseen, np.arange(test_images, dtype=np.int32) % CLASSES, np.ones((1, test_images), bool))
    program = Program.of(Protocol(width=width, epochs=1000, augment=DSA()), CLASSES)
    peaks = {precision: matrix_peak(precision) for precision in precisions}
    work = images * operations((32, 32, 3), width)[1]

    header = ["layers", "students", "step, ms", "per student", "TFLOP/s", "of the peak", "test, µs per image", "error"]
    sections = []
    with ThreadPoolExecutor(8) as pool:
        waiting: list[tuple[Case, Future[Compiled]]] = []
        for case in cases(count, precisions):
            waiting.append((case, pool.submit(compiled, lowered(case, program, data, tests))))
        done = {case: future.result() for case, future in waiting}
    for precision in precisions:
        lines = [f"## {precision}: matrix product {peaks[precision] / 1e12:.0f} TFLOP/s", "", row(header)]
        lines.append(row(["---"] * len(header)))
        for case, functions in done.items():
            if case.precision != precision:
                continue
            step, test = step_seconds(functions), fastest(lambda f=functions: f.test(f.state, f.tests))
            speed = work * case.students / step
            many = f"{case.students} side by side" if case.mode == "vmap" else "one after another"
            cells = [case.formulation, many, f"{1e3 * step:.2f}", f"{1e3 * step / case.students:.3f}"]
            cells += [f"{speed / 1e12:.1f}", f"{speed / peaks[precision]:.0%}"]
            cells += [f"{1e6 * test / case.students / test_images:.2f}"]
            lines.append(row([*cells, f"{error(case.formulation, precision, program, data):.0e}"]))
            print(lines[-1], flush=True)
        sections.append("\n".join(lines))
    device = jax.local_devices()[0].device_kind
    top = (
        f"# Formulations on a GPU\n\n{device}; jax {jax.__version__}. ConvNet-3 of width {width}, {images} images of "
        "32×32×3. Made by experiments/gpu_kernels.py, whose head says what is compared."
    )
    return "\n\n".join([top, *sections]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=25)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--test-images", type=int, default=2048)
    parser.add_argument("--precision", nargs="+", default=["bfloat16", "tf32", "float32"])
    parser.add_argument("--out", type=Path, help="folder of the table")
    options = parser.parse_args()
    text = measure(options.students, options.width, options.images, options.test_images, tuple(options.precision))
    print(text)
    if options.out:
        (options.out / "gpu_kernels.md").write_text(text)


if __name__ == "__main__":
    main()
