"""How long a student's training step and test pass take, here and in eager PyTorch, on this CPU.

Command:   python experiments/step_time.py --torch-python /path/to/an/environment/with/torch/bin/python
Time:      7 minutes on two idle cores (Xeon, AVX-512), 20 on busy ones.
Expected:  against the faster of PyTorch's memory formats, with glibc's allocator as it comes, a student's step is at
           least 1.4 times as fast (8×8 images: 2.5), two students on two devices or one whose batches two devices
           share; a test pass, 32 images at a time, 1.3 times. The tables are written to experiments/step_time.md.

PyTorch gives its large buffers back to the system after each operation and asks for them again, which costs it much on
some machines. So everything is measured twice: with glibc's allocator as it comes, and with one that keeps its memory.

A step is forward, backward, momentum and weight decay on a batch of 100; ours is an epoch of one shuffled batch, inside
the compiled loop that trains populations. Each engine is a process of its own that waits while another measures;
rounds alternate between them, so that a busy machine slows all alike, and a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

BATCH, TEST_IMAGES, CLASSES = 100, 1024, 10
SHAPES = ((32, 3, 128, 3), (32, 3, 32, 20), (8, 1, 32, 200))  # side, channels, width, steps a round
ALLOCATORS = {
    "With glibc's allocator as it comes": {},
    "With an allocator that keeps its memory": {
        "MALLOC_MMAP_THRESHOLD_": str(2**32),
        "MALLOC_TRIM_THRESHOLD_": str(2**33),
    },
}
TORCH = ("contiguous", "channels_last")
OURS = {  # devices, and how populations use them
    "one device": (1, "serial"),
    "two devices": (2, "serial"),
    "shared by two devices": (2, "shared"),
}


def torch_tasks(side: int, channels: int, width: int, steps: int) -> dict[str, Callable[[], None]]:
    """Eager PyTorch: a round of training steps, and one of testing, in each memory format."""
    import torch

    def tasks(layout):
        blocks, inputs = [], channels
        for _ in range(3):
            blocks += [torch.nn.Conv2d(inputs, width, 3, padding=1), torch.nn.GroupNorm(width, width)]
            blocks += [torch.nn.ReLU(), torch.nn.AvgPool2d(2)]
            inputs = width
        head = torch.nn.Linear(width * (side // 8) ** 2, CLASSES)
        net = torch.nn.Sequential(*blocks, torch.nn.Flatten(), head).to(memory_format=layout)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        images = torch.randn(BATCH, channels, side, side).to(memory_format=layout)
        tests = torch.randn(TEST_IMAGES, channels, side, side).to(memory_format=layout)
        labels = torch.arange(BATCH) % CLASSES

        def train():
            for _ in range(steps):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(net(images), labels).backward()
                optimizer.step()

        def test():
            with torch.no_grad():
                for batch in tests.split(256):
                    net(batch).argmax(1)

        return train, test

    made = {}
    for name, layout in zip(TORCH, (torch.contiguous_format, torch.channels_last), strict=True):
        made[f"train {name}"], made[f"test {name}"] = tasks(layout)
    return made


def our_tasks(side: int, channels: int, width: int, steps: int, engine: str) -> dict[str, Callable[[], None]]:
    """ddr_jax: a round of training steps, and rounds of testing, by the compiled functions that populations run."""
    import jax

    devices, mode = OURS[engine]
    jax.config.update("jax_num_cpu_devices", devices)
    import numpy as np

    from ddr_jax.protocols.protocol import Protocol
    from ddr_jax.train import population
    from ddr_jax.train.student import HeldOut, Program, Student, TrainingData

    protocol, count = Protocol(student="ConvNet-3", width=width, batch_size=BATCH), students_of(engine)
    program, places = Program.of(protocol, CLASSES), [0] * count
    keys = jax.random.split(jax.random.key(0), count)
    chosen = Student.of([protocol.row(lr=0.01, augmented=False)] * count, keys, places, places)
    rng = np.random.default_rng(0)
    labels = np.arange(BATCH) % CLASSES
    images = rng.normal(size=(1, BATCH, side, side, channels)).astype(np.float32)
    tests = HeldOut(
        rng.normal(size=(TEST_IMAGES, side, side, channels)).astype(np.float32),
        np.arange(TEST_IMAGES, dtype=np.int32) % CLASSES,
        np.ones((1, TEST_IMAGES), bool),
    )

    def run(test_batch):
        return population._compiled(program, mode, test_batch, "float32", tuple(jax.local_devices()))

    compiled = run(32)
    students, data = compiled.feed(TrainingData(images, np.eye(CLASSES, dtype=np.float32)[labels][None]))(chosen)
    states = [compiled.start(students, data)]

    def train():  # an epoch is one step; the state goes on from round to round
        states[0] = jax.block_until_ready(compiled.train(states[0], students, data, np.int32(0), np.int32(steps)))

    def test(batch):
        runs, placed = run(batch), compiled.everywhere(tests)
        return lambda: jax.block_until_ready(runs.test(states[0], placed))

    batches = (32, 256) if engine == "one device" else (32,)
    return {"train": train} | {f"test by {batch}": test(batch) for batch in batches}


def students_of(engine: str) -> int:
    """How many students an engine trains at once."""
    devices, mode = OURS.get(engine, (1, ""))
    return devices if mode == "serial" else 1


def work(engine: str, shape: tuple[int, int, int, int]) -> None:
    """A worker: warms its tasks up, says their names, then times whichever task a line of its input names."""
    tasks = torch_tasks(*shape) if engine == "torch" else our_tasks(*shape, engine)
    for task in tasks.values():
        task()
    print(json.dumps(list(tasks)), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        tasks[line.strip()]()
        print(time.perf_counter() - start, flush=True)


def measure(
    pythons: dict[str, str], shape: tuple[int, int, int, int], rounds: int, allocator: dict[str, str]
) -> dict[str, list[float]]:
    """Milliseconds per step of a student, or per test pass, in each round, by engine and task."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers, seconds = {}, {}
    for engine, python in pythons.items():
        command = [python, __file__, "--worker", engine, "--shape", *map(str, shape)]
        workers[engine] = subprocess.Popen(command, env=os.environ | allocator, **pipes)
        for task in json.loads(workers[engine].stdout.readline()):
            seconds[engine, task] = []
    for _ in range(rounds):
        for (engine, task), values in seconds.items():
            print(task, file=workers[engine].stdin, flush=True)
            values.append(float(workers[engine].stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()

    def units(engine, task):
        return students_of(engine) * (shape[3] if task.startswith("train") else 1)

    return {
        f"{engine}: {task}": [1e3 * v / units(engine, task) for v in values]
        for (engine, task), values in seconds.items()
    }


def rows(shape: tuple[int, int, int, int], times: dict[str, list[float]]) -> list[str]:
    """One line of the table per task of ours: medians, and the ratio to the faster of PyTorch's formats."""
    side, channels, width, _ = shape
    lines = []
    for name, ours in times.items():
        engine, task = name.split(": ")
        if engine == "torch":
            continue
        theirs = [times[f"torch: {task.split()[0]} {layout}"] for layout in TORCH]
        faster = min(theirs, key=median)
        ratio = median(t / o for t, o in zip(faster, ours, strict=True))
        cells = [f"{side}×{side}×{channels}, width {width}", f"{task}, {engine}"]
        cells += [f"{median(values):.1f}" for values in (*theirs, ours)] + [f"**{ratio:.2f}×**"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def versions(pythons: dict[str, str]) -> str:
    """The processor and the libraries, for the head of the table."""
    name = "import sys, importlib.metadata as m; print(' '.join(f'{p} {m.version(p)}' for p in sys.argv[1:]))"

    def ask(python, *packages):
        return subprocess.run([python, "-c", name, *packages], capture_output=True, text=True, check=True).stdout

    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(": ")[1] for line in info.splitlines() if line.startswith("model name")]
    processor = f"{len(models)} × {models[0]}" if models else platform.processor()
    return f"{processor}; {ask(sys.executable, 'jax', 'flax').strip()}; {ask(pythons['torch'], 'torch').strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="python of an environment that has torch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, tuple(options.shape))
    if not options.torch_python:
        parser.error("--torch-python is needed: what ours is compared with")
    load = os.getloadavg()[0]
    pythons = {"torch": options.torch_python} | dict.fromkeys(OURS, sys.executable)
    table = []
    for title, allocator in ALLOCATORS.items():
        settings = "".join(f"`{name}={value}` " for name, value in allocator.items())
        table += [f"\n## {title}\n"] + ([f"Both sides with {settings.strip()}.\n"] if settings else [])
        table += ["| images | task | PyTorch contiguous, ms | channels-last, ms | ours, ms | PyTorch's faster / ours |"]
        table += ["| --- | --- | --- | --- | --- | --- |"]
        for shape in SHAPES:
            table += rows(shape, measure(pythons, shape, options.rounds, allocator))
            print("\n".join(table[-4:]), flush=True)
    head = (
        "# A step and a test pass of ConvNet-3\n\n"
        f"{versions(pythons)}; medians of {options.rounds} alternating rounds, float32; "
        f"load average {load:.1f} before the start.\n"
        f"`train`: one student's step on {BATCH} images. One device trains a student alone, two devices train two at "
        "once (wall time over two), or share the batches of one. "
        f"`test by B`: {TEST_IMAGES} images, B at a time (PyTorch: 256).\n"
        "Made by experiments/step_time.py.\n"
    )
    Path(__file__).with_suffix(".md").write_text(head + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
