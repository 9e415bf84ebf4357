"""Where the time of a training step and of a test pass goes, against what the device could do.

Command:   python experiments/profile_step.py --data cifar10.npz [--width 32 128] [--students 25 on a GPU]
Time:      4 minutes on a CPU, 2 of them for width 128.
Hardware:  CPU or one GPU. On a CPU everything runs on one core, as a student does when each core has its own.
Expected:  convolutions and their gradients take about three quarters at width 128. The tables go to profile_step.md.
           What is computed anew for the backward pass counts as forward, and not in the floor.

JAX's profiler says when each compiled operation ran, the compiled text which line of the program it came from. An
operation's time excludes what it contains (loops, branches); a fused one counts where its last part belongs. The
floor is the larger of operations over a matrix product's speed and bytes over a copy's, both measured in the same
process. Bytes are operands and results of each operation: slices of large arrays are overestimated, and what is still
in a cache costs less, so a floor of bytes is cut at the time measured.
"""

from __future__ import annotations

import argparse
import datetime
import glob
import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import BATCH, CLASSES, IPC, LAYERS, Ours, Sizes, busy, device_name, matrix_peak, operations, row

INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
ARRAY = re.compile(r"\b([a-z]+)(\d+)[a-z\d]*\[([\d,]*)\]")  # f32[100,10], pred has no bits and is left out
CONTAINERS = {"while", "conditional", "call", "tuple", "get-tuple-element", "parameter", "constant", "bitcast"}
CONVOLUTION, OF_KERNEL, OF_INPUT = "convolution", "gradient of convolution kernels", "gradient of convolution inputs"
COPY_BYTES = {"cpu": 2**28, "gpu": 2**32}
REPEATS = 2  # trainings of each population that Ours runs
TOP = 12


@dataclass(frozen=True)
class Operation:
    """One operation of a compiled program: the line it came from, its text, the bytes it reads and writes."""

    source: str
    text: str
    bytes: int


def program(path: Path) -> dict[str, Operation]:
    """The operations of a compiled text by name."""
    types, found, windows, computation = {}, {}, {}, ""
    for line in path.read_text().splitlines():
        match = INSTRUCTION.match(line)
        if not match:
            head = re.match(r"%?([\w.\-]+) \(.*{$", line)
            computation = head.group(1) if head else computation
            continue
        name, kind, opcode, rest = match.groups()
        types[name] = size(kind)
        operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
        source = re.search(r'op_name="([^"]*)"', rest)
        if opcode == "convolution":
            windows[computation] = re.search(r"window={size=\w+", rest).group()
        called = re.search(r"calls=%([\w.\-]+)", rest)
        rest += " " + windows.get(called.group(1), "") if called else ""
        moved = 0 if opcode in CONTAINERS else types[name] + sum(types.get(operand, 0) for operand in operands)
        found[name] = Operation(source.group(1) if source else "", f"{opcode}({rest}", moved)
    return found


def size(kind: str) -> int:
    """Bytes of a type as the compiled text writes it, tuples included."""
    total = 0
    for _, bits, dimensions in ARRAY.findall(kind):
        count = 1
        for length in dimensions.split(","):
            count *= int(length or 1)
        total += count * int(bits) // 8
    return total


def category(operation: Operation) -> str:
    """Which part of a step or of a test an operation belongs to, by the names of modules in its source."""
    source, text = operation.source, operation.text
    backward = "transpose(" in source and "rematted_computation" not in source
    if "/conv/" in source:
        window = re.search(r"window={size=(\w+)", text)
        if "conv/convolve" in source:  # kernels of our own have names, not windows
            return CONVOLUTION
        if (
            "conv/while" in source
            or "conv/gradient" in source
            or (backward and source.endswith("conv/dot_general"))
            or (window and window.group(1) != "3x3")
        ):
            return OF_KERNEL
        if not window:
            return "convolution: layouts"
        return OF_INPUT if backward else CONVOLUTION
    way = ", backward" if backward else ""
    for scope, name in (("/blocks_", "normalisation, ReLU and pooling"), ("/head/", "head")):
        if scope in source:
            return name + way
    if "/cond/" in source:
        return "augmentation"
    return "loss" if "jvp(" in source else "optimizer, batches, random draws and copies"


def self_times(folder: str) -> Iterator[tuple[int, str, float]]:
    """Program, operation and nanoseconds of every run of an operation, without those inside it."""
    from jax.profiler import ProfileData

    path = max(glob.glob(f"{folder}/**/*.xplane.pb", recursive=True), key=os.path.getmtime)
    planes = list(ProfileData.from_file(path).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in devices or planes:
        for line in plane.lines:
            if not devices or line.name.startswith("Stream"):
                yield from nested(line.events)


def nested(events: Any) -> Iterator[tuple[int, str, float]]:
    """The events of one thread, which begin and end inside one another."""
    runs = []
    for event in events:
        stats = dict(event.stats)
        if "hlo_op" in stats:
            runs.append((event.start_ns, -event.duration_ns, int(stats.get("program_id", 0)), str(stats["hlo_op"])))
    open_runs: list[list[Any]] = []  # end, program, operation, own time
    for start, negative, number, name in sorted(runs):
        while open_runs and open_runs[-1][0] <= start:
            yield tuple(open_runs.pop()[1:])  # pyright: ignore
        if open_runs:
            open_runs[-1][3] += negative
        open_runs.append([start - negative, number, name, -negative])
    for run in open_runs:
        yield tuple(run[1:])  # pyright: ignore


def traced(ours: Ours, students: int, epochs: int, folder: str) -> float:
    """Runs a population under the profiler; the seconds of one training of it without the profiler."""
    import jax

    images = CLASSES * IPC
    seconds, _ = ours.population(students, 1, images, epochs, 1)
    settings = jax.profiler.ProfileOptions()
    settings.python_tracer_level = 0
    jax.profiler.start_trace(folder, profiler_options=settings)
    ours.population(students, 1, images, epochs, 1)
    jax.profiler.stop_trace()
    return seconds


def gathered(folder: str, texts: str) -> dict[str, dict[str, list[tuple[str, Operation, float]]]]:
    """Operations with their milliseconds, by program (train or test) and category."""
    times: dict[tuple[int, str], list[float]] = defaultdict(list)
    for number, name, nanoseconds in self_times(folder):
        times[number, name].append(nanoseconds / 1e6)
    programs = {}
    for path in glob.glob(f"{texts}/*after_optimizations.txt"):
        match = re.match(r"module_(\d+)", Path(path).name)
        programs[int(match.group(1))] = program(Path(path)) if match else {}
    found: dict[str, dict[str, list]] = {"train": defaultdict(list), "test": defaultdict(list)}
    for (number, name), values in times.items():
        operations_ = programs.get(number, {})
        sources = " ".join(operation.source for operation in operations_.values())
        which = "train" if "transpose(jvp" in sources else "test" if "/conv/" in sources else None
        if which and name in operations_:
            operation = operations_[name]
            moved = Operation(operation.source, operation.text, operation.bytes * len(values))
            found[which][category(operation)].append((name, moved, sum(values)))
    return found


def copy_speed() -> float:
    """Bytes per second read and written by adding one to a large array in place."""
    import jax
    import jax.numpy as jnp

    count = COPY_BYTES["cpu" if jax.default_backend() == "cpu" else "gpu"]
    x, add = jnp.zeros(count // 4, jnp.float32), jax.jit(lambda x: x + 1, donate_argnums=0)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        x = jax.block_until_ready(add(x))
        best = max(best, 2 * count / (time.perf_counter() - start))
    return best


def flops(which: str, name: str, shape: Sequence[int], width: int, images: int) -> float:
    """Operations of a category, from the network's shapes."""
    forward, _ = operations(shape, width)
    first = 2 * 9 * shape[2] * width * shape[0] * shape[1]
    head = 2 * width * (shape[0] >> LAYERS) * (shape[1] >> LAYERS) * CLASSES
    convolutions = forward - head
    counts = {CONVOLUTION: convolutions, OF_KERNEL: convolutions, OF_INPUT: convolutions - first}
    counts |= {"head": head, "head, backward": 2 * head}
    return images * counts.get(name, 0.0)


def table(which: str, found: dict[str, list], runs: int, floors: dict[str, float], work: dict[str, float]) -> list[str]:
    """Milliseconds of each category in one step or pass, and its floor."""
    import jax

    lines = [row(["part", "ms", "share", "floor, ms", "bound by", "times the floor"]), row(["---"] * 6)]
    milliseconds = {name: sum(ms for *_, ms in entries) / runs for name, entries in found.items()}
    total, floor_total = sum(milliseconds.values()), 0.0
    for name, value in sorted(milliseconds.items(), key=lambda item: -item[1]):
        moved = sum(operation.bytes for _, operation, _ in found[name]) / runs
        bounds = {"operations": work[name] / floors["peak"] * 1e3, "bytes": moved / floors["copy"] * 1e3}
        if work[name] and jax.default_backend() == "cpu":
            bounds["bytes"] = 0.0  # loops over chunks name whole arrays as operands
        bound = max(bounds, key=lambda key: bounds[key])
        floor = bounds[bound] if bound == "operations" else min(bounds[bound], value)
        floor_total += floor
        times = f"{value / floor:.1f}" if floor else ""
        lines.append(row([name, f"{value:.2f}", f"{value / total:.0%}", f"{floor:.2f}", bound, times]))
    ratio = f"{total / floor_total:.1f}" if floor_total else ""
    return [*lines, row(["all", f"{total:.2f}", "100%", f"{floor_total:.2f}", "", ratio])]


def slowest(found: dict[str, list], runs: int) -> list[str]:
    """The operations that take longest."""
    entries = [entry for entries in found.values() for entry in entries]
    lines = [row(["operation", "ms", "from"]), row(["---"] * 3)]
    for name, operation, ms in sorted(entries, key=lambda entry: -entry[2])[:TOP]:
        source = "/".join(operation.source.split("/")[-4:])
        lines.append(row([f"`{name}`", f"{ms / runs:.2f}", f"`{source}`"]))
    return lines


def profile(sizes: Sizes, students: int, epochs: int, texts: str) -> list[str]:
    """The sections of one width."""
    ours = Ours(sizes, 1)
    shape = ours.pixels.test[0].shape[1:]
    batch, tests, runs = CLASSES * IPC, len(ours.pixels.test[0]), REPEATS * epochs
    padded = -(-tests // BATCH) * BATCH
    with tempfile.TemporaryDirectory() as folder:
        seconds = traced(ours, students, epochs, folder)
        found = gathered(folder, texts)
    floors = {"peak": matrix_peak(sizes.precision), "copy": copy_speed()}
    lines = [
        f"## Width {sizes.width}, {shape[0]}×{shape[1]}×{shape[2]}, {students} students",
        "",
        f"Matrix product {floors['peak'] / 1e9:.0f} GFLOP/s, copy {floors['copy'] / 1e9:.1f} GB/s. Without the "
        f"profiler, a step and a test pass took {1e3 * seconds / epochs:.1f} ms together.",
    ]
    for which, images, title in (
        ("train", batch, f"A training step, {batch} images"),
        ("test", padded, f"A test pass, {padded} images"),
    ):
        work = {name: flops(which, name, shape, sizes.width, images * students) for name in found[which]}
        lines += ["", f"### {title}", "", *table(which, found[which], runs, floors, work)]
        lines += ["", *slowest(found[which], runs)]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="noise", help='.npz of CIFAR-10, or "noise" of its shape')
    parser.add_argument("--width", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--students", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10, help="steps and test passes, of which means are taken")
    parser.add_argument("--test-images", type=int, default=1024)
    parser.add_argument("--precision", default="float32", choices=["float32", "tf32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the tables")
    options = parser.parse_args(arguments)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as texts:
        flags = f"--xla_dump_to={texts} --xla_dump_hlo_as_text --xla_cpu_multi_thread_eigen=false"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags} --xla_gpu_enable_command_buffer=".strip()
        import jax

        sections = []
        for width in options.width:
            given = {"width": width, "test_images": options.test_images, "real_images": CLASSES * IPC}
            sizes = Sizes(data=options.data, precision=options.precision, **given)
            sections.append(profile(sizes, options.students, options.epochs, texts))
    kind = f"{len(jax.local_devices())} × {jax.local_devices()[0].device_kind}"
    top = (
        f"# Where the time goes\n\n{device_name(kind)}; jax {jax.__version__}; {datetime.date.today()}; "
        f"load average {load_before:.1f} at the start; {options.precision}, DSA. On a CPU, one core. "
        "Made by experiments/profile_step.py, whose head says how to read this."
    )
    if busy(load_before):
        top += "\n\n**The machine was busy: these times are not to be relied on.**"
    text = "\n\n".join([top, *("\n".join(section) for section in sections)]) + "\n"
    (options.out / "profile_step.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
