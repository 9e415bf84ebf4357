"""How fast whole evaluations are here and in PyTorch, how time grows, what compiling and memory take.

Command:   python experiments/throughput.py --data cifar10.npz            all parts, ConvNet-3 of width 32
           python experiments/throughput.py --data cifar10.npz --width 128 --runs 1 --parts a b    the original's width
           python experiments/throughput.py --data cifar10.npz --full --precision bfloat16 --out experiments/h100
                                                        on a GPU: 1,000 epochs, 10,000 test images
           (cifar10.npz holds x_train, y_train, x_test, y_test; "noise" needs no file; --ours-only needs no torch)
Time:      20 minutes on two idle cores, 11 of them the original's loop; one run at width 128 takes 6; with --full on an
           H100 parts a, b, c and f take 2.
Hardware:  CPU (two cores were planned for), or one GPU.
Expected:  the 35 trainings of a label-robust score at 1.8 times the speed of the original's loop with its test passes,
           and the 30 on small sets at 6 times with ours (issue 4); on an H100 137 and 648 times as fast, with compiling
           98 and 226. The tables go to throughput.md, the picture to throughput.png, beside this file.

Parts:
  a  LRS with hard labels, `--runs` times, as PyTorch ddranking 0.2.0 runs it: per run one training on the distilled
     set, one on real data, five on a random set (a grid of rates), each tested every `--test-every` epochs. Its package
     takes no smaller test set, so its training and test loop is written anew in PyTorch from a specification: one
     student after another, batches from a DataLoader that starts its workers anew in every epoch, images decoded
     again in every pass. Epochs and test images are fewer than the original's, the same on both sides and in its
     proportion: 1,000 test images per epoch of training.
  b  the same, ours, tested after the last epoch only.
  c  images and operations per second, and their share of a matrix product's in the same process.
  d  how time grows with students P, sets D, images N and epochs.
  e  a process from its start to its first trained and tested epoch, without and with a compilation cache; and that no
     work was optimised away: the convolutions and products in the compiled text of the training loop are counted.
  f  peak memory of the processes that ran the other parts.

Every timed call returns all final weights or all accuracies, which are summed into a checksum.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import glob
import importlib.metadata
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RATES = (0.001, 0.005, 0.01, 0.05, 0.1)  # of the random sets: the original's grid
SYN_RATE, REAL_RATE, MOMENTUM, DECAY = 0.01, 0.01, 0.9, 5e-4
BATCH, CLASSES, LAYERS = 256, 10, 3
PARTS = "abcdef"
REAL_STEP = 100  # epochs after which the real-data training drops its rate
SHORTER = 20  # with --full, the original is timed on one training of so many times fewer epochs
MATRIX = {"cpu": 2048, "gpu": 8192}
WORK = r"\bconvolution\(|\bdot\(|__cudnn\$conv|__cublas\$|__triton_gemm|conv/(?:convolve|gradient)/pallas_call"
# Of the weights' gradients and the logits: three convolutions and the head forward, their weights' gradients, and
# those of their inputs but for the first layer's.
LEAST_WORK = 3 * (LAYERS + 1) - 1


@dataclass(frozen=True)
class Sizes:
    """What is trained: the options of the command line that the workers need."""

    data: str = "noise"
    width: int = 32
    runs: int = 5
    epochs: int = 20
    test_every: int = 2
    test_images: int = 2000
    real_images: int = 1000
    ipc: int = 10
    workers: int = 4
    known_real: bool = False
    precision: str = "float32"
    full: bool = False

    @property
    def arms(self) -> dict[str, int]:
        """Trainings per run."""
        return {"syn": 1, "random": len(RATES)} | ({} if self.known_real else {"real": 1})


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images (N, H, W, K) uint8 of both sides, classes balanced in train and distilled, and how to normalise them."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    distilled: tuple[np.ndarray, np.ndarray]
    mean: np.ndarray
    std: np.ndarray

    def normalised(self, images: np.ndarray) -> np.ndarray:
        return (images.astype(np.float32) / 255 - self.mean) / self.std


def load(sizes: Sizes) -> Pixels:
    """The first images of each class for training, the next ones as a distilled set, the first of test."""
    mean = np.array([0.4914, 0.4822, 0.4465], np.float32)
    std = np.array([0.2023, 0.1994, 0.2010], np.float32)
    if sizes.data == "noise":
        rng = np.random.default_rng(0)
        count = sizes.real_images + CLASSES * sizes.ipc
        train = rng.integers(0, 256, (count, 32, 32, 3), np.uint8), np.arange(count) % CLASSES
        test = rng.integers(0, 256, (sizes.test_images, 32, 32, 3), np.uint8), np.arange(sizes.test_images) % CLASSES
    elif sizes.data == "digits":
        import ddr_jax as ddr

        real = ddr.load_dataset("digits")
        mean, std = real.space.mean, real.space.std
        splits = [(split.images, split.labels) for split in (real.train, real.test)]
        train, test = (((np.rint((x * std + mean) * 255)).astype(np.uint8), y) for x, y in splits)
    else:
        with np.load(sizes.data) as file:
            train, test = ((file[f"x_{split}"], file[f"y_{split}"].astype(int)) for split in ("train", "test"))
    per_class = sizes.real_images // CLASSES
    order = [np.flatnonzero(train[1] == c) for c in range(CLASSES)]
    if min(map(len, order)) < per_class + sizes.ipc or len(test[1]) < sizes.test_images:
        raise SystemExit(f"throughput: error: {sizes.data} has too few images for {sizes}")
    real_index = np.concatenate([places[:per_class] for places in order])
    syn_index = np.concatenate([places[per_class:][: sizes.ipc] for places in order])
    real, syn = ((train[0][index], train[1][index]) for index in (real_index, syn_index))
    return Pixels(real, (test[0][: sizes.test_images], test[1][: sizes.test_images]), syn, mean, std)


# The original's loop, in PyTorch.


@dataclass
class Decoded:
    """A dataset that decodes and normalises an image whenever it is asked for it, as torchvision's do."""

    images: np.ndarray
    labels: np.ndarray
    mean: Any
    std: Any

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        import torch

        image = torch.from_numpy(self.images[index]).permute(2, 0, 1).contiguous().float().div(255)
        return image.sub(self.mean).div(self.std), int(self.labels[index])


class TorchDSA:
    """DSA in mode S for images (B, K, H, W): one operation per batch, strengths per image."""

    operations = ("scale", "rotate", "flip", "color", "crop", "cutout")

    def __call__(self, x):
        import torch

        return getattr(self, self.operations[torch.randint(6, ()).item()])(x)

    def uniform(self, x):
        import torch

        return torch.rand(len(x), 1, 1, 1, device=x.device)

    def sampled(self, x, rows):
        """`rows` are the two rows of each image's map from its own coordinates to those it is read from."""
        import torch
        from torch.nn import functional

        zero = torch.zeros_like(rows[0][0])
        maps = torch.stack([torch.cat((*row, zero), 1).flatten(1) for row in rows], 1)
        grid = functional.affine_grid(maps, list(x.shape), align_corners=True)
        return functional.grid_sample(x, grid, align_corners=True)

    def scale(self, x):
        across, down = (1 / 1.2 + self.uniform(x) * (1.2 - 1 / 1.2) for _ in range(2))
        return self.sampled(x, ((across, 0 * across), (0 * down, down)))

    def rotate(self, x):
        angle = (2 * self.uniform(x) - 1) * np.pi * 15 / 180
        return self.sampled(x, ((angle.cos(), -angle.sin()), (angle.sin(), angle.cos())))

    def flip(self, x):
        return x.flip(3).where(self.uniform(x) < 0.5, x)

    def color(self, x):
        x = x + (self.uniform(x) - 0.5)
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * (self.uniform(x) * 2)
        mean = x.mean((1, 2, 3), keepdim=True)
        return mean + (x - mean) * (self.uniform(x) + 0.5)

    def crop(self, x):
        import torch
        from torch.nn import functional

        shifts = [int(side * 0.125 + 0.5) for side in x.shape[2:]]
        padded = functional.pad(x, [shifts[1]] * 2 + [shifts[0]] * 2).permute(0, 2, 3, 1)
        rows, columns = (
            torch.randint(2 * shift + 1, (len(x), 1), device=x.device) + torch.arange(side, device=x.device)
            for shift, side in zip(shifts, x.shape[2:], strict=True)
        )
        image = torch.arange(len(x), device=x.device)[:, None, None]
        return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    def cutout(self, x):
        import torch

        inside = []
        for side in x.shape[2:]:
            hole = int(side * 0.5 + 0.5)
            first = torch.randint(side + 1 - hole % 2, (len(x), 1), device=x.device) - hole // 2
            place = torch.arange(side, device=x.device)
            inside.append((place >= first) & (place < first + hole))
        return x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)


@dataclass
class Theirs:
    """The original's evaluation, one student after another, in the memory format that is faster here."""

    sizes: Sizes
    device: str = ""
    layout: Any = None
    pixels: Any = None

    def __post_init__(self) -> None:
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.pixels = load(self.sizes)
        self.augment = TorchDSA()
        layouts = {layout: self._try(layout) for layout in (torch.contiguous_format, torch.channels_last)}
        self.layout = min(layouts, key=lambda layout: layouts[layout])

    def _try(self, layout) -> float:
        """Seconds of the proportion of steps and tests that an evaluation has."""
        self.layout = layout
        x, y, _, _ = dataclasses.astuple(self._decoded(self.pixels.distilled))
        batch = self._tensor(x), self._tensor(y)
        net, optimizer, _ = self.start(SYN_RATE, 1)
        for timed in (False, True):
            start = time.perf_counter()
            for _ in range(3):
                self.step(net, optimizer, self.augment(batch[0].to(self.device)), batch[1])
                self.test(net, [batch] * 10)
            if timed:
                return time.perf_counter() - start
        raise AssertionError

    def _tensor(self, x: np.ndarray):
        import torch

        if x.ndim == 1:
            return torch.as_tensor(x, dtype=torch.long)
        return torch.from_numpy(self.pixels.normalised(x).transpose(0, 3, 1, 2).copy())

    def _decoded(self, split: tuple[np.ndarray, np.ndarray]) -> Decoded:
        import torch

        mean, std = (torch.from_numpy(a).view(-1, 1, 1) for a in (self.pixels.mean, self.pixels.std))
        return Decoded(*split, mean, std)

    def loader(self, dataset):
        from torch.utils.data import DataLoader

        return DataLoader(dataset, BATCH, shuffle=True, num_workers=self.sizes.workers)

    def start(self, rate: float, step_size: int):
        """A fresh ConvNet-3, its optimizer and its schedule."""
        import torch
        from torch import nn

        _, height, width, channels = self.pixels.test[0].shape
        blocks: list[Any] = []
        for _ in range(LAYERS):
            blocks += [nn.Conv2d(channels, self.sizes.width, 3, padding=1), nn.GroupNorm(*[self.sizes.width] * 2)]
            blocks += [nn.ReLU(), nn.AvgPool2d(2)]
            channels, height, width = self.sizes.width, height // 2, width // 2
        net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(channels * height * width, CLASSES))
        net = net.to(self.device, memory_format=self.layout)
        optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=DECAY)
        return net, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size)

    def step(self, net, optimizer, images, labels) -> None:
        from torch.nn import functional

        logits = net(images.to(memory_format=self.layout))
        functional.cross_entropy(logits, labels.to(self.device)).backward()
        optimizer.step()
        optimizer.zero_grad()

    def test(self, net, loader) -> float:
        import torch

        net.eval()
        right = total = 0
        with torch.no_grad():
            for images, labels in loader:
                logits = net(images.to(self.device, memory_format=self.layout))
                right += (logits.argmax(1) == labels.to(self.device)).sum().item()
                total += len(labels)
        net.train()
        return right / total

    def train(self, dataset, rate: float, augment, epochs: int, step_size: int) -> float:
        """One training: the best accuracy of its tests."""
        net, optimizer, schedule = self.start(rate, step_size)
        loader, tests = self.loader(dataset), self.loader(self._decoded(self.pixels.test))
        best = 0.0
        for epoch in range(1, epochs + 1):
            for images, labels in loader:
                images = images.to(self.device)
                self.step(net, optimizer, augment(images) if augment else images, labels)
            schedule.step()
            if epoch % self.sizes.test_every == 0:
                best = max(best, self.test(net, tests))
        return best

    def small(self, images: np.ndarray, labels: np.ndarray):
        from torch.utils.data import TensorDataset

        return TensorDataset(self._tensor(images), self._tensor(labels))

    def run(self, number: int) -> dict[str, Any]:
        """One of the runs of LRS: seconds and accuracy of each arm."""
        import torch

        torch.manual_seed(number)
        rng = np.random.default_rng(number)
        sizes, real = self.sizes, self.pixels.train
        drawn = np.concatenate([rng.choice(np.flatnonzero(real[1] == c), sizes.ipc, False) for c in range(CLASSES)])
        syn, random = self.small(*self.pixels.distilled), self.small(real[0][drawn], real[1][drawn])
        half, epochs = max(sizes.epochs // 2, 1), sizes.epochs
        arms = {
            "syn": lambda: self.train(syn, SYN_RATE, self.augment, epochs, half),
            "real": lambda: self.train(self._decoded(real), REAL_RATE, None, epochs, REAL_STEP),
            "random": lambda: max(self.train(random, rate, self.augment, epochs, half) for rate in RATES),
        }
        return timed({name: arms[name] for name in sizes.arms})

    def one(self) -> dict[str, Any]:
        """One training on the distilled set, of so many times fewer epochs, and what all would take at that speed."""
        epochs = max(self.sizes.epochs // SHORTER, self.sizes.test_every)
        syn = self.small(*self.pixels.distilled)
        record = timed({"syn": lambda: self.train(syn, SYN_RATE, self.augment, epochs, epochs)})
        times = self.sizes.epochs / epochs * self.sizes.runs
        seconds = {arm: record["seconds"]["syn"] * times * count for arm, count in self.sizes.arms.items()}
        return {"seconds": seconds, "accuracy": record["accuracy"]}

    def facts(self) -> dict[str, Any]:
        import torch

        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        device = torch.cuda.max_memory_allocated() if self.device == "cuda" else 0
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"layout": str(self.layout), "host": host, "children": children, "device": device}


def timed(tasks: dict[str, Callable[[], float]]) -> dict[str, Any]:
    seconds, accuracy = {}, {}
    for name, task in tasks.items():
        start = time.perf_counter()
        accuracy[name] = task()
        seconds[name] = time.perf_counter() - start
    return {"seconds": seconds, "accuracy": accuracy}


# Ours.


class Ours:
    """The same evaluation by ddr_jax, and its own measurements."""

    def __init__(self, sizes: Sizes, cores: int):
        import jax

        import ddr_jax as ddr

        ddr.use_cpu_cores(cores)
        self.sizes, self.pixels, self.compiling = sizes, load(sizes), 0.0
        self.execution = execution(sizes.precision)
        jax.monitoring.register_event_duration_secs_listener(self._heard)

    def _heard(self, event: str, duration_secs: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.compiling += duration_secs

    def real(self):
        """The real data, decoded and normalised from its pixels."""
        from ddr_jax.data.spaces import Normalised
        from ddr_jax.types import RealData, Split

        def split(images, labels):
            return Split(self.pixels.normalised(images), labels.astype(np.int32))

        train, test = split(*self.pixels.train), split(*self.pixels.test)
        space = Normalised(self.pixels.mean, self.pixels.std)
        return RealData("subset", train, None, test, space, CLASSES, flips=True)

    def protocol(self, **changes):
        import ddr_jax as ddr

        half = max(self.sizes.epochs // 2, 1)
        fields = {"width": self.sizes.width, "epochs": self.sizes.epochs, "batch_size": BATCH, "lr": (SYN_RATE,)}
        fields |= {"step_size": half, "augment": ddr.augmentations.DSA(), "momentum": MOMENTUM, "weight_decay": DECAY}
        return ddr.Protocol(student=f"ConvNet-{LAYERS}", **fields | changes)

    def lrs(self, tests: bool) -> dict[str, Any]:
        """The whole of LRS; `tests` says whether as often as the original tests, or after the last epoch only."""
        import ddr_jax as ddr
        from ddr_jax.types import DistilledSets

        start, compiled = time.perf_counter(), self.compiling
        real = self.real()
        images, labels = self.pixels.distilled
        sets = DistilledSets(("set",), self.pixels.normalised(images)[None], labels[None].astype(np.int32), None)
        asked = {"test_every": self.sizes.test_every if tests else None, "readout": "best"}
        settings = ddr.Settings(
            ("lrs",),
            self.protocol(**asked),
            self.protocol(**asked, lr=(REAL_RATE,), augment=None, step_size=REAL_STEP),
            real_accuracy=0.5 if self.sizes.known_real else None,
            random_lr=RATES,
            seeds=self.sizes.runs,
        )
        stamps: list[float] = []  # of the real data's trainings, without compiling

        def stamp(trained: str, done: int, total: int) -> None:
            if trained.startswith("real-hard"):
                stamps.append(time.perf_counter() - self.compiling)

        result = ddr.score(sets, real, settings, runner=ddr.Runner(execution=self.execution, on_progress=stamp))
        trained = result.times["students_trained"]
        if trained != self.sizes.runs * sum(self.sizes.arms.values()):
            raise AssertionError(f"{trained} students were trained, not one per training of the original")
        names = {"syn-any": "syn", "rdm-any": "random", "real-hard": "real"}
        return {
            "seconds": time.perf_counter() - start,
            "compiling": self.compiling - compiled,
            "real": stamps[-1] - stamps[0] if stamps else 0.0,
            "accuracy": {names[a]: s.overall.mean for a, s in result.accuracies.items() if a in names},
            "checksum": float(sum(table.test.sum() for table in result.tables.values())),
        }

    def population(
        self, students: int, sets: int, images: int, epochs: int, tests: int | None = None
    ) -> tuple[float, float]:
        """Seconds of a warm population tested every so many epochs, and the checksum of all its final weights."""
        import jax

        import ddr_jax as ddr
        from ddr_jax.train.arms import Arm, TrainingSet, train_arms

        protocol = self.protocol(epochs=epochs, step_size=1, test_every=tests)
        labels = np.arange(images) % CLASSES
        rng = np.random.default_rng(0)
        shape = (images, *self.pixels.test[0].shape[1:])

        def drawn(number: int) -> TrainingSet:
            return TrainingSet(
                str(number), rng.normal(size=shape).astype(np.float32), np.eye(CLASSES, dtype="f4")[labels]
            )

        rows = tuple((drawn(number),) * (students // sets) for number in range(sets))
        arm = Arm("growth", protocol, rows, augmented=True, keep=True)
        runner, real = ddr.Runner(execution=self.execution), self.real()
        seconds, checksum = 0.0, 0.0
        for _ in range(2):  # the first time compiles
            start = time.perf_counter()
            done = train_arms([arm], real, key=jax.random.key(0), runner=runner)
            checksum = checksum_of(jax.tree.leaves(done.weights))
            seconds = time.perf_counter() - start
        return seconds, checksum

    def speed(self) -> dict[str, float]:
        """Images and floating-point operations per second of training and of testing, and of a matrix product."""
        import jax

        students, images, passes = self._students(), CLASSES * self.sizes.ipc, 10
        epochs = passes * (20 if jax.default_backend() != "cpu" else 1)  # else what the host does counts too much
        once, checksum = self.population(students, 1, images, epochs)
        often, _ = self.population(students, 1, images, epochs, epochs // passes)
        test = max(often - once, 1e-9) / (passes - 1)
        train = max(once - test, 1e-9)
        forward, step = operations(self.pixels.test[0].shape[1:], self.sizes.width)
        trained, tested = students * images * epochs / train, students * len(self.pixels.test[0]) / test
        values = {"trained": trained, "tested": tested, "train_flops": trained * step, "test_flops": tested * forward}
        return values | {"peak": matrix_peak(self.sizes.precision), "checksum": checksum, "students": students}

    def growth(self) -> dict[str, list[tuple[int, float]]]:
        """Seconds by P, D, N and epochs, the others held."""
        base = (self._students(), 1, CLASSES * self.sizes.ipc, 4)
        start = self.population(*base)[0]
        found = {}
        for place, name in enumerate(("students", "sets", "images", "epochs")):
            found[name] = [(base[place], start)]
            for factor in (2, 4):
                students, sets, images, epochs = (n * factor if i == place else n for i, n in enumerate(base))
                seconds = self.population(students, sets, images, epochs)[0]
                found[name].append((base[place] * factor, seconds))
        return found

    def _students(self) -> int:
        import jax

        return 4 * (25 if jax.default_backend() != "cpu" else 1)

    def first(self) -> dict[str, Any]:
        """A student's first epoch and its test, in a process that has done nothing else."""
        small = dataclasses.replace(self.sizes, test_images=BATCH)
        self.pixels = load(small)
        import jax

        import ddr_jax as ddr
        from ddr_jax.train.arms import Arm, TrainingSet, train_arms

        images, labels = self.pixels.distilled
        data = TrainingSet("set", self.pixels.normalised(images), np.eye(CLASSES, dtype="f4")[labels])
        arm = Arm("first", self.protocol(epochs=1, step_size=1), ((data,),), augmented=True, keep=True)
        done = train_arms([arm], self.real(), key=jax.random.key(0), runner=ddr.Runner(execution=self.execution))
        return {"checksum": checksum_of(jax.tree.leaves(done.weights)), "compiling": self.compiling}

    def facts(self) -> dict[str, Any]:
        import jax

        devices = jax.local_devices()
        stats = [device.memory_stats() or {} for device in devices]
        device = sum(s.get("peak_bytes_in_use", 0) for s in stats)
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kind = f"{len(devices)} × {devices[0].device_kind}"
        return {"kind": kind, "execution": str(self.execution), "host": host, "children": 0, "device": device}


def execution(precision: str):
    """The default execution, in another precision if it has that choice."""
    from ddr_jax.train.devices import default_execution

    chosen = default_execution()
    if precision == "float32":
        return chosen
    if "precision" not in {entry.name for entry in dataclasses.fields(chosen)}:
        raise SystemExit("throughput: error: this version's Execution has no precision: leave --precision at float32")
    return dataclasses.replace(chosen, **{"precision": precision})


def checksum_of(leaves: Sequence[Any]) -> float:
    """The sum of the sizes of all numbers; raises if one is not finite."""
    total = float(sum(np.abs(np.asarray(leaf), dtype=np.float64).sum() for leaf in leaves))
    if not np.isfinite(total):
        raise AssertionError("a weight is not finite")
    return total


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

    size = MATRIX["cpu" if jax.default_backend() == "cpu" else "gpu"]
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    mode = {"tf32": "tensorfloat32", "float32": "float32"}.get(precision, "default")
    times = 3
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


# Workers: one process for each side, which waits while the other measures.


def work(side: str, sizes: Sizes) -> None:
    """Answers each line of its input, a method and its arguments, with what the method returns."""
    engine: Any = Theirs(sizes) if side == "theirs" else Ours(sizes, os.cpu_count() or 1)
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        print(json.dumps(getattr(engine, method)(*arguments)), flush=True)


@dataclass
class Worker:
    """A process that measures when it is asked."""

    side: str
    sizes: Sizes
    environment: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Worker:
        command = [sys.executable, __file__, "--worker", self.side, json.dumps(dataclasses.asdict(self.sizes))]
        root = str(Path(__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | self.environment
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, method: str, *arguments: Any) -> Any:
        print(json.dumps([method, *arguments]), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"throughput: error: the worker {self.side} failed in {method}; its message is above")
        return json.loads(answer)


# Parts: each gives sections of the table, and what the picture shows.


def whole(sizes: Sizes, theirs: Worker | None, ours: Worker, repeats: int, wanted: str) -> tuple[list[str], dict]:
    """LRS on both sides, ours between the runs of the original."""
    runs = [["one"]] if sizes.full else [["run", number] for number in range(sizes.runs)]
    turns: list[tuple[str, list[Any]]] = [("theirs", request) for request in runs] if theirs else []
    variants = [part for part in "ab" if part in wanted]
    for count, part in enumerate(variants * repeats):
        turns.insert(min(2 * count + 2, len(turns)), (part, ["lrs", part == "a"]))
    answers: dict[str, list[dict]] = {}
    for name, request in turns:
        worker = theirs if theirs and name == "theirs" else ours
        answers.setdefault(name, []).append(worker.ask(*request))
        print(f"{name}: {answers[name][-1]}", flush=True)
    compiling = max(
        answer["compiling"] for part in variants for answer in answers[part]
    )  # the same programs serve both
    entries = {part: middle(answers[part]) | {"compiling": compiling} for part in variants}
    if theirs:
        entries = {"theirs": original(answers["theirs"])} | entries
    return lrs_table(sizes, entries), {"ratios": ratios(entries)}


def original(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """All runs of the original together."""
    arms = runs[0]["accuracy"]
    return {
        "seconds": sum(sum(run["seconds"].values()) for run in runs),
        "real": sum(run["seconds"].get("real", 0.0) for run in runs),
        "compiling": 0.0,
        "accuracy": {arm: float(np.mean([run["accuracy"][arm] for run in runs])) for arm in arms},
    }


def middle(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The median by seconds without compiling, which are left out."""
    runs = [answer | {"seconds": answer["seconds"] - answer["compiling"]} for answer in answers]
    return sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]


def ratios(entries: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Theirs over ours: all trainings, with compilation too, and those on small sets alone."""
    found = {}
    for part in "ab":
        if part in entries and "theirs" in entries:
            theirs, ours = entries["theirs"], entries[part]
            alone = (theirs["seconds"] - theirs["real"]) / (ours["seconds"] - ours["real"])
            with_compiling = theirs["seconds"] / (ours["seconds"] + ours["compiling"])
            found[part] = (theirs["seconds"] / ours["seconds"], with_compiling, alone)
    return found


def lrs_table(sizes: Sizes, entries: dict[str, Any]) -> list[str]:
    names = {
        "theirs": "the original's loop, in PyTorch",
        "a": "ours, with its test passes",
        "b": "ours, tested after the last epoch",
    }
    small, real = sizes.arms["syn"] + sizes.arms["random"], sizes.arms.get("real", 0)
    said = (
        f"Runs: {sizes.runs}. ConvNet-{LAYERS} of width {sizes.width}, {CLASSES * sizes.ipc} images with DSA, "
        f"{sizes.epochs} epochs, {sizes.test_images} test images every {sizes.test_every} epochs. "
        + (
            f"Real-data trainings: {sizes.real_images // CLASSES * CLASSES} images. "
            if real
            else "Accuracy on real data taken as known. "
        )
        + (f"The original: one training of a {SHORTER}th of the epochs, multiplied. " if sizes.full else "")
        + "The original's loop is written anew from its specification. Its DataLoader starts "
        f"{sizes.workers} workers an epoch. Seconds exclude compiling, which stands beside them.\n"
    )
    lines = ["## a, b: label-robust score, hard labels, as the original runs it", "", said]
    header = ["", f"all {sizes.runs * (small + real)} trainings, s", "compiling, s", "real data's part, s"]
    header += [
        "accuracy syn",
        "random, best rate",
        "real",
        "times as fast",
        "with compiling",
        f"{sizes.runs * small} on small sets",
    ]
    lines += row(header), row(["---"] * len(header))
    found = ratios(entries)
    for name, entry in entries.items():
        cells = [names[name], *(f"{entry[key]:.1f}" for key in ("seconds", "compiling", "real"))]
        accuracy = entry["accuracy"]
        cells += [f"{accuracy[arm]:.3f}" if arm in accuracy else "" for arm in ("syn", "random", "real")]
        cells += [f"{ratio:.2f}×" for ratio in found.get(name, ())] or [""] * 3
        lines.append(row(cells))
    return lines


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def speed_table(values: dict[str, float], precision: str) -> list[str]:
    lines = [
        "## c: speed of the arithmetic",
        "",
        f"{values['students']} students; operations counted from the network's shapes (convolutions and the head; "
        f"norms, pools and augmentation take time but do not count). Peak: a square matrix product, {precision}.\n",
        row(["", "images/s", "GFLOP/s", "of the peak"]),
        row(["---"] * 4),
    ]
    for name, task in (("training", "train"), ("testing", "test")):
        share = values[f"{task}_flops"] / values["peak"]
        cells = [name, f"{values[f'{task}ed']:.0f}", f"{values[f'{task}_flops'] / 1e9:.1f}", f"{share:.0%}"]
        lines.append(row(cells))
    return [*lines, row(["matrix product", "", f"{values['peak'] / 1e9:.1f}", "100%"])]


def growth_table(found: dict[str, list[tuple[int, float]]]) -> list[str]:
    lines = ["## d: growth", "", "Seconds of warm populations, DSA on, tested once, one quantity doubled at a time.\n"]
    lines += [row(["quantity", "value: seconds", "4 times the quantity takes"]), row(["---"] * 3)]
    for name, points in found.items():
        cells = [name, "; ".join(f"{value}: {seconds:.2f}" for value, seconds in points)]
        lines.append(row([*cells, f"{points[-1][1] / points[0][1]:.2f} times as long"]))
    return lines


def start_table(sizes: Sizes) -> list[str]:
    """Two fresh processes that share a compilation cache; the first one's compiled text is kept and counted."""
    lines = ["## e: start", "", "From the process's start to one epoch trained and tested.\n"]
    lines += [row(["start", "seconds", "of which compiling or reading the cache"]), row(["---"] * 3)]
    with tempfile.TemporaryDirectory() as folder:
        dump = f"--xla_dump_to={folder}/text --xla_dump_hlo_as_text"
        flags = f"{os.environ.get('XLA_FLAGS', '')} {dump}".strip()
        environment = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache", "XLA_FLAGS": flags}
        sums = []
        for name in ("first", "second"):
            start = time.perf_counter()
            with Worker("ours", sizes, environment) as worker:
                answer = worker.ask("first")
                seconds = time.perf_counter() - start
            sums.append(answer["checksum"])
            lines.append(row([name, f"{seconds:.1f}", f"{answer['compiling']:.1f}"]))
        counts = counted(Path(folder) / "text")
    if sums[0] != sums[1]:
        raise AssertionError(f"two processes gave weights of different checksums: {sums}")
    told = ", ".join(f"{count} × {name}" for name, count in sorted(counts.items()))
    return [
        *lines,
        "",
        f"In the compiled training loop: {told}; at least {LEAST_WORK} were expected. Checksum {sums[0]:.6g}.",
    ]


def counted(folder: Path) -> dict[str, int]:
    """Convolutions and products by kind, in the compiled text that has most; raises if there are too few."""
    found: dict[str, int] = {}
    for path in glob.glob(f"{folder}/*after_optimizations.txt"):
        kinds = [match.strip("(") for match in re.findall(WORK, Path(path).read_text())]
        counts = {kind: kinds.count(kind) for kind in kinds}
        found = max(found, counts, key=lambda c: sum(c.values()))
    if sum(found.values()) < LEAST_WORK:
        raise AssertionError(f"the compiled training holds {found}: work was optimised away, or is named otherwise")
    return found


def memory_table(facts: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["## f: peak memory", "", "Of the processes that ran the parts above, data and libraries included.\n"]
    lines += [row(["", "host, MB", "largest data worker, MB", "device, MB"]), row(["---"] * 4)]
    for name, values in facts.items():
        amounts = [values["host"] / 1024, values["children"] / 1024, values["device"] / 1e6]
        lines.append(row([name, *(f"{amount:.0f}" if amount else "" for amount in amounts)]))
    return lines


def draw(shown: dict[str, Any], title: str, path: Path) -> None:
    """Bars of the ratios, and curves of growth: those that were measured."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = [draw_panel for draw_panel, part in ((_ratios, "ratios"), (_growth, "growth")) if shown.get(part)]
    if not panels:
        return
    size = (5.5 * len(panels), 4.2)
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for draw_panel, axis in zip(panels, axes[0], strict=True):
        draw_panel(shown, axis)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _ratios(shown: dict[str, Any], axis: Any) -> None:
    found = shown["ratios"]
    places = np.arange(len(found))
    names = {"a": "with the original's\ntest passes", "b": "tested after\nthe last epoch"}
    kinds = {"without compiling": 0, "compiling included": 1, "small sets only": 2}
    if all(ratios[0] == ratios[2] for ratios in found.values()):  # no training on real data
        del kinds["small sets only"]
    width = 0.8 / len(kinds)
    for number, (label, index) in enumerate(kinds.items()):
        heights = [ratios[index] for ratios in found.values()]
        drawn = axis.bar(places + number * width, heights, 0.95 * width, label=label)
        axis.bar_label(drawn, [f"{height:.1f}×" for height in heights], fontsize=8)
    axis.set_xticks(places + width * (len(kinds) - 1) / 2, [names[part] for part in found])
    axis.set(ylabel="times as fast as PyTorch", title="Label-robust score, hard labels")
    axis.legend(frameon=False)


def _growth(shown: dict[str, Any], axis: Any) -> None:
    from matplotlib import ticker

    for name, points in shown["growth"].items():
        factors, seconds = zip(*((value / points[0][0], seconds) for value, seconds in points), strict=True)
        axis.plot(factors, np.array(seconds) / seconds[0], "o-", label=f"{name} (from {points[0][0]})")
    axis.plot([1, 4], [1, 4], "k:", lw=1, label="in proportion")
    axis.set(xscale="log", yscale="log", xlabel="times as much", ylabel="times as long", title="Growth")
    for line in (axis.xaxis, axis.yaxis):
        line.set_major_locator(ticker.FixedLocator([1, 2, 4]))
        line.set_major_formatter(ticker.ScalarFormatter())
        line.set_minor_locator(ticker.NullLocator())
    axis.legend(frameon=False)


def device_name(ours: dict[str, Any]) -> str:
    """The processor, and the accelerator if there is one."""
    from ddr_jax.train.store import processor

    processors = f"{os.cpu_count()} × {processor()}"
    return processors if "cpu" in ours["kind"].lower() else f"{ours['kind']} ({processors})"


def head(facts: dict[str, dict[str, Any]], load_before: float, options: argparse.Namespace) -> list[str]:
    names = ["jax", "flax", "numpy"] + (["torch"] if "PyTorch" in facts else [])
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    today = datetime.date.today().isoformat()
    lines = [
        "# Throughput",
        "",
        f"{device_name(facts['ours'])}; {versions}; {today}; load average {load_before:.1f} at the start. "
        f"{options.precision}; data: {Path(options.data).name}; ours runs as {facts['ours']['execution']}"
        + (f"; PyTorch in its faster format, {facts['PyTorch']['layout']}" if "PyTorch" in facts else "")
        + f". Made by experiments/throughput.py --parts {' '.join(options.parts)}.",
    ]
    if busy(load_before):
        lines += ["", "**The machine was busy: these times are not to be relied on.**"]
    return lines


def busy(load_average: float) -> bool:
    return load_average > 0.3 * (os.cpu_count() or 1)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--data", default="noise", help='.npz of CIFAR-10, "noise" of its shape, or "digits"')
    for entry in dataclasses.fields(Sizes):
        if entry.type == "int":
            parser.add_argument(f"--{entry.name.replace('_', '-')}", type=int, default=None)
    parser.add_argument("--known-real", action="store_true", help="do not train on real data")
    parser.add_argument("--precision", default="float32", choices=["float32", "tf32", "bfloat16"])
    parser.add_argument("--full", action="store_true", help="issue 4's evaluation on a GPU")
    parser.add_argument("--ours-only", action="store_true", help="without PyTorch")
    parser.add_argument("--repeats", type=int, default=1, help="times that a and b measure ours")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the table and the picture")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.worker and not options.ours_only and importlib.util.find_spec("torch") is None:
        parser.error("torch cannot be imported: put it on PYTHONPATH, or measure --ours-only")
    return options


def sizes_of(options: argparse.Namespace) -> Sizes:
    """The defaults, or issue 4's sizes with --full, and what was asked for."""
    full = {"width": 128, "epochs": 1000, "test_every": 10, "test_images": 10000, "real_images": 40000}
    fields = {"full": True, "known_real": True, **full} if options.full else {}
    given = {e.name: getattr(options, e.name) for e in dataclasses.fields(Sizes) if e.name != "full"}
    fields |= {name: value for name, value in given.items() if value is not None and value is not False}
    return Sizes(**fields)


def measure(options: argparse.Namespace) -> tuple[list[list[str]], dict[str, Any], dict[str, dict[str, Any]]]:
    """Sections of the table, what the picture shows, and facts about the workers."""
    sizes, sections, shown, facts = sizes_of(options), [], {}, {}
    compare = not options.ours_only and bool(set("ab") & set(options.parts))
    with Worker("ours", sizes) as ours:
        if set("ab") & set(options.parts):
            with Worker("theirs", sizes) if compare else contextlib.nullcontext() as theirs:
                table, found = whole(sizes, theirs, ours, options.repeats, options.parts)
                facts |= {"PyTorch": theirs.ask("facts")} if theirs else {}
            sections.append(table)
            shown |= found
        if "c" in options.parts:
            sections.append(speed_table(ours.ask("speed"), sizes.precision))
        if "d" in options.parts:
            shown["growth"] = ours.ask("growth")
            sections.append(growth_table(shown["growth"]))
        facts["ours"] = ours.ask("facts")
    if "e" in options.parts:
        sections.append(start_table(sizes))
    if "f" in options.parts:
        sections.append(memory_table(facts))
    return sections, shown, facts


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    if options.worker:
        return work(options.worker[0], Sizes(**json.loads(options.worker[1])))
    load_before = os.getloadavg()[0]
    if busy(load_before):
        print(f"throughput: warning: the load average is {load_before:.1f}: the machine is busy", file=sys.stderr)
    sections, shown, facts = measure(options)
    top = head(facts, load_before, options)
    text = "\n\n".join("\n".join(section) for section in (top, *sections)) + "\n"
    (options.out / "throughput.md").write_text(text)
    draw(shown, f"{device_name(facts['ours'])}, {options.precision}", options.out / "throughput.png")
    print(text)


if __name__ == "__main__":
    main()
