"""What several measurements share: the sizes and data, evaluations by ddr_jax, operations and their speed, tables."""

from __future__ import annotations

import dataclasses
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

MEAN, STD = np.array([[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]], np.float32)
RATES = (0.001, 0.005, 0.01, 0.05, 0.1)  # of the random sets: the original's grid
SYN_RATE, REAL_RATE, MOMENTUM, DECAY = 0.01, 0.01, 0.9, 5e-4
BATCH, CLASSES, IPC, LAYERS = 256, 10, 10, 3
REAL_STEP = 100  # epochs after which the real-data training drops its rate
MATRIX = {"cpu": 2048, "gpu": 8192}

Labelled = tuple[np.ndarray, np.ndarray]  # images (N, H, W, K) uint8, labels (N,)


@dataclass(frozen=True)
class Sizes:
    """What is trained: options of the command line."""

    data: str = "noise"
    width: int = 32
    runs: int = 5
    epochs: int = 20
    test_every: int = 2
    test_images: int = 2000
    real_images: int = 1000
    precision: str = "float32"
    full: bool = False

    @property
    def arms(self) -> dict[str, int]:
        """Trainings per run; the accuracy on all real data is taken as known."""
        return {"syn": 1, "random": len(RATES)} | ({} if self.full else {"real": 1})


class Pixels(NamedTuple):
    """What both sides train and test on; classes are balanced in train and distilled."""

    train: Labelled
    test: Labelled
    distilled: Labelled


def load(sizes: Sizes) -> Pixels:
    """The first images of each class for training, the next ones as a distilled set, the first of test."""
    if sizes.data == "noise":
        rng, counts = np.random.default_rng(0), (sizes.real_images + CLASSES * IPC, sizes.test_images)
        train, test = ((rng.integers(0, 256, (n, 32, 32, 3), np.uint8), np.arange(n) % CLASSES) for n in counts)
    else:
        with np.load(sizes.data) as file:
            train, test = ((file[f"x_{split}"], file[f"y_{split}"].astype(int)) for split in ("train", "test"))
    per_class = sizes.real_images // CLASSES
    order = [np.flatnonzero(train[1] == c) for c in range(CLASSES)]
    if min(map(len, order)) < per_class + IPC or len(test[1]) < sizes.test_images:
        raise SystemExit(f"throughput: error: {sizes.data} has too few images for {sizes}")
    real = np.concatenate([places[:per_class] for places in order])
    syn = np.concatenate([places[per_class:][:IPC] for places in order])
    first = slice(sizes.test_images)
    return Pixels((train[0][real], train[1][real]), (test[0][first], test[1][first]), (train[0][syn], train[1][syn]))


def normalised(images: np.ndarray) -> np.ndarray:
    return (images.astype(np.float32) / 255 - MEAN) / STD


class Ours:
    """The same evaluation by ddr_jax, and its own measurements."""

    def __init__(self, sizes: Sizes, cores: int):
        import jax

        import ddr_jax as ddr
        from ddr_jax.data.spaces import Normalised
        from ddr_jax.train.devices import default_execution
        from ddr_jax.types import RealData, Split

        ddr.use_cpu_cores(cores)
        self.sizes, self.pixels, self.compiling = sizes, load(sizes), 0.0
        self.execution = dataclasses.replace(default_execution(), precision=sizes.precision)
        self.many = 1 if jax.default_backend() == "cpu" else 25  # students of parts c and d, in fours
        train, test = (Split(normalised(x), y.astype(np.int32)) for x, y in self.pixels[:2])
        self.real = RealData("subset", train, None, test, Normalised(MEAN, STD), CLASSES, flips=True)
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.compiling += duration_secs

    def protocol(self, **changes):
        import ddr_jax as ddr

        half = max(self.sizes.epochs // 2, 1)
        fields = {"width": self.sizes.width, "epochs": self.sizes.epochs, "batch_size": BATCH, "lr": (SYN_RATE,)}
        fields |= {"step_size": half, "augment": ddr.augmentations.DSA(), "momentum": MOMENTUM, "weight_decay": DECAY}
        return ddr.Protocol(student=f"ConvNet-{LAYERS}", **fields | changes)

    def lrs(self, tests: bool) -> dict[str, Any]:
        """The whole of LRS; `tests` says whether as often as the original tests, or after the last epoch only."""
        import ddr_jax as ddr

        start, compiled = time.perf_counter(), self.compiling
        images, labels = self.pixels.distilled
        asked = {"test_every": self.sizes.test_every if tests else None, "readout": "best"}
        stamps: list[float] = [0.0]  # of the real data's trainings, without compiling

        def stamp(trained: str, done: int, total: int) -> None:
            if trained.startswith("real-hard"):
                stamps.append(time.perf_counter() - self.compiling)

        result = ddr.score(
            {"images": normalised(images), "labels": labels, "space": "normalised"},
            self.real,
            self.protocol(**asked),
            execution=self.execution,
            on_progress=stamp,
            seeds=self.sizes.runs,
            random_lr=RATES,
            real_protocol=self.protocol(**asked, lr=(REAL_RATE,), augment=None, step_size=REAL_STEP),
            real_accuracy=0.5 if self.sizes.full else None,
        )
        compiled = self.compiling - compiled
        if result.times["students_trained"] != self.sizes.runs * sum(self.sizes.arms.values()):
            raise AssertionError("not one student was trained per training of the original")
        names = {"syn-any": "syn", "rdm-any": "random", "real-hard": "real"}
        return {
            "seconds": time.perf_counter() - start - compiled,
            "compiling": compiled,
            "real": stamps[-1] - stamps[min(1, len(stamps) - 1)],
            "accuracy": {names[a]: s.overall.mean for a, s in result.accuracies.items() if a in names},
            "checksum": float(sum(table.test.sum() for table in result.tables.values())),
        }

    def population(
        self, students: int, sets: int, images: int, epochs: int, tests: int | None = None, trainings: int = 2
    ) -> tuple[float, float]:
        """Seconds of the last training of a population tested every `tests` epochs, and its final weights' checksum."""
        import jax

        from ddr_jax.train.arms import Arm, Runner, TrainingSet, train_arms

        targets = np.eye(CLASSES, dtype=np.float32)[np.arange(images) % CLASSES]
        noise = np.random.default_rng(0).normal(size=(sets, images, *self.pixels.test[0].shape[1:]))
        rows = tuple(
            (TrainingSet(str(number), one.astype(np.float32), targets),) * (students // sets)
            for number, one in enumerate(noise)
        )
        protocol = self.protocol(epochs=epochs, step_size=1, test_every=tests)
        arm = Arm("population", protocol, rows, augmented=True, keep=True)
        seconds = checksum = 0.0
        for _ in range(trainings):
            start = time.perf_counter()
            done = train_arms([arm], self.real, key=jax.random.key(0), runner=Runner(execution=self.execution))
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(done.weights)]
            checksum = float(sum(np.abs(leaf, dtype=np.float64).sum() for leaf in leaves))
            seconds = time.perf_counter() - start
        if not np.isfinite(checksum):
            raise AssertionError("a weight is not finite")
        return seconds, checksum

    def speed(self) -> dict[str, float]:
        """Images and floating-point operations per second of training and of testing, and of a matrix product."""
        students, images, passes = 4 * self.many, CLASSES * IPC, 10
        epochs = passes * (1 if self.many == 1 else 20)  # on a GPU what the host does would count too much
        once, checksum = self.population(students, 1, images, epochs)
        often, _ = self.population(students, 1, images, epochs, epochs // passes)
        test = max(often - once, 1e-9) / (passes - 1)
        train = max(once - test, 1e-9)
        forward, step = operations(self.pixels.test[0].shape[1:], self.sizes.width)
        trained, tested = students * images * epochs / train, students * self.sizes.test_images / test
        values = {"trained": trained, "tested": tested, "train_flops": trained * step, "test_flops": tested * forward}
        return values | {"peak": matrix_peak(self.sizes.precision), "checksum": checksum, "students": students}

    def growth(self) -> dict[str, list[tuple[int, float]]]:
        """Seconds by P, D, N and epochs, the others held."""
        base = (4 * self.many, 1, CLASSES * IPC, 4)
        start, found = self.population(*base)[0], {}
        for place, name in enumerate(("students", "sets", "images", "epochs")):
            found[name] = [(base[place], start)]
            for factor in (2, 4):
                amounts = [n * factor if i == place else n for i, n in enumerate(base)]
                found[name].append((amounts[place], self.population(*amounts)[0]))
        return found

    def facts(self) -> dict[str, Any]:
        import jax

        devices = jax.local_devices()
        device = sum((one.memory_stats() or {}).get("peak_bytes_in_use", 0) for one in devices)
        host, kind = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, f"{len(devices)} × {devices[0].device_kind}"
        memory = {"host": host, "children": 0, "device": device}
        return memory | {"kind": kind, "execution": str(self.execution), "compiling": self.compiling}


def operations(shape: Sequence[int], width: int) -> tuple[float, float]:
    """Floating-point operations per image, of a test and of a step, counted from the network's shapes.

    A product and a sum are two. Norms, pools and augmentation do not count.
    """
    height, breadth, channels = shape
    layers = []
    for _ in range(LAYERS):
        layers.append(2 * 9 * channels * width * height * breadth)
        height, breadth, channels = height // 2, breadth // 2, width
    layers.append(2 * channels * height * breadth * CLASSES)
    return float(sum(layers)), float(3 * sum(layers) - layers[0])


def matrix_peak(precision: str) -> float:
    """Operations per second of square matrix products, on one device or all at once, whichever is more."""
    import jax
    import jax.numpy as jnp

    size, times = MATRIX["cpu" if jax.default_backend() == "cpu" else "gpu"], 3
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    mode = {"tf32": "tensorfloat32", "float32": "float32"}.get(precision, "default")
    factor = np.random.default_rng(0).normal(size=(size, size)) / size**0.5  # of zeros or ones it would be faster

    @jax.jit
    def products(x):
        with jax.default_matmul_precision(mode):
            return jax.lax.fori_loop(0, times, lambda _, y: x @ y, x)

    best = 0.0
    for count in {1, len(jax.local_devices())}:
        inputs = [jax.device_put(jnp.asarray(factor, dtype), device) for device in jax.local_devices()[:count]]
        for _ in range(4):
            start = time.perf_counter()
            jax.block_until_ready([products(x) for x in inputs])
            best = max(best, count * times * 2 * size**3 / (time.perf_counter() - start))
    return best


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def section(title: str, said: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [row(rows[0]), row(["---"] * len(rows[0])), *map(row, rows[1:])]
    return "\n".join([f"## {title}", "", f"{said}\n", *lines])


def device_name(kind: str) -> str:
    """The processor, and the accelerator if there is one."""
    from ddr_jax.train.store import processor

    processors = f"{os.cpu_count()} × {processor()}"
    return processors if "cpu" in kind.lower() else f"{kind} ({processors})"


def busy(load_average: float) -> bool:
    return load_average > 0.3 * (os.cpu_count() or 1)
