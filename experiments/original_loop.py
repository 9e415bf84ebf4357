"""PyTorch ddranking 0.2.0's training and test loop, written anew from its specification: throughput.py times it.

One student after another, batches from a DataLoader that starts its workers anew in every epoch, images decoded again
in every pass, a test every `test_every` epochs whose best accuracy counts.
"""

from __future__ import annotations

import os
import resource
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from measuring import (
    BATCH,
    CLASSES,
    DECAY,
    IPC,
    LAYERS,
    MEAN,
    MOMENTUM,
    RATES,
    REAL_RATE,
    REAL_STEP,
    STD,
    SYN_RATE,
    Labelled,
    Pixels,
    Sizes,
    normalised,
)
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

WORKERS = 4  # processes of each DataLoader
SHORTER = 20  # with Sizes.full, one training of so many times fewer epochs is timed


class Decoded(NamedTuple):
    """A dataset that decodes and normalises an image whenever it is asked for it, as torchvision's do."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        mean, std = (torch.from_numpy(constants).view(-1, 1, 1) for constants in (MEAN, STD))
        image = torch.from_numpy(self.images[index]).permute(2, 0, 1).contiguous().float().div(255)
        return image.sub(mean).div(std), int(self.labels[index])


def tensors(data: Labelled) -> TensorDataset:
    images = normalised(data[0]).transpose(0, 3, 1, 2).copy()
    return TensorDataset(torch.from_numpy(images), torch.as_tensor(data[1], dtype=torch.long))


# DSA in mode S for images (B, K, H, W): one operation per batch, strengths per image.


def uniform(x):
    return torch.rand(len(x), 1, 1, 1, device=x.device)


def sampled(x, *rows):
    """`rows` are the two rows of each image's map from its own coordinates to those it is read from."""
    zero = torch.zeros_like(rows[0][0])
    maps = torch.stack([torch.cat((*row, zero), 1).flatten(1) for row in rows], 1)
    grid = functional.affine_grid(maps, list(x.shape), align_corners=True)
    return functional.grid_sample(x, grid, align_corners=True)


def scale(x):
    across, down = (1 / 1.2 + uniform(x) * (1.2 - 1 / 1.2) for _ in range(2))
    return sampled(x, (across, 0 * across), (0 * down, down))


def rotate(x):
    angle = (2 * uniform(x) - 1) * np.pi * 15 / 180
    return sampled(x, (angle.cos(), -angle.sin()), (angle.sin(), angle.cos()))


def flip(x):
    return x.flip(3).where(uniform(x) < 0.5, x)


def color(x):
    x = x + (uniform(x) - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (uniform(x) * 2)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (uniform(x) + 0.5)


def crop(x):
    (down, across), image = (int(side * 0.125 + 0.5) for side in x.shape[2:]), torch.arange(len(x), device=x.device)
    padded = functional.pad(x, [across] * 2 + [down] * 2).permute(0, 2, 3, 1)
    rows, columns = (
        torch.randint(2 * shift + 1, (len(x), 1), device=x.device) + torch.arange(side, device=x.device)
        for shift, side in zip((down, across), x.shape[2:], strict=True)
    )
    return padded[image[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cutout(x):
    inside = []
    for side in x.shape[2:]:
        hole = int(side * 0.5 + 0.5)
        first = torch.randint(side + 1 - hole % 2, (len(x), 1), device=x.device) - hole // 2
        place = torch.arange(side, device=x.device)
        inside.append((place >= first) & (place < first + hole))
    return x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)


OPERATIONS = scale, rotate, flip, color, crop, cutout


def dsa(x):
    return OPERATIONS[int(torch.randint(len(OPERATIONS), ()))](x)


class Original:
    """The original's evaluation."""

    def __init__(self, sizes: Sizes, pixels: Pixels):
        torch.set_num_threads(os.cpu_count() or 1)
        self.sizes, self.pixels = sizes, pixels
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.layout = torch.channels_last if self.device == "cuda" else torch.contiguous_format  # the faster ones

    def _begun(self, rate: float, step_size: int):
        """A fresh ConvNet-3, its optimizer and its schedule."""
        _, height, width, channels = self.pixels.test[0].shape
        blocks: list[nn.Module] = []
        for _ in range(LAYERS):
            blocks += [nn.Conv2d(channels, self.sizes.width, 3, padding=1), nn.GroupNorm(*[self.sizes.width] * 2)]
            blocks += [nn.ReLU(), nn.AvgPool2d(2)]
            channels, height, width = self.sizes.width, height // 2, width // 2
        net = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(channels * height * width, CLASSES))
        net = net.to(self.device, memory_format=self.layout)
        optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=DECAY)
        return net, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size)

    def _step(self, net, optimizer, images, labels) -> None:
        logits = net(images.to(memory_format=self.layout))
        functional.cross_entropy(logits, labels.to(self.device)).backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def _test(self, net, batches) -> float:
        net.eval()
        right = total = 0
        for images, labels in batches:
            logits = net(images.to(self.device, memory_format=self.layout))
            right += (logits.argmax(1) == labels.to(self.device)).sum().item()
            total += len(labels)
        net.train()
        return right / total

    def _loader(self, dataset) -> DataLoader:
        context = "fork" if WORKERS else None  # as on Linux by itself; in a spawned process it would be "spawn"
        return DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, multiprocessing_context=context)

    def _train(self, dataset, rate: float, augment, epochs: int, step_size: int) -> float:
        """One training: the best accuracy of its tests."""
        net, optimizer, schedule = self._begun(rate, step_size)
        batches, tests = self._loader(dataset), self._loader(Decoded(*self.pixels.test))
        best = 0.0
        for epoch in range(1, epochs + 1):
            for images, labels in batches:
                images = images.to(self.device)
                self._step(net, optimizer, augment(images) if augment else images, labels)
            schedule.step()
            if epoch % self.sizes.test_every == 0:
                best = max(best, self._test(net, tests))
        return best

    def run(self, number: int) -> dict[str, Any]:
        """One of the runs of LRS: seconds and best accuracy of each arm."""
        torch.manual_seed(number)
        rng = np.random.default_rng(number)
        (images, labels), epochs = self.pixels.train, self.sizes.epochs
        drawn = np.concatenate([rng.choice(np.flatnonzero(labels == c), IPC, False) for c in range(CLASSES)])
        small = {"syn": tensors(self.pixels.distilled), "random": tensors((images[drawn], labels[drawn]))}
        seconds, accuracy = {}, {}
        for arm in self.sizes.arms:
            start = time.perf_counter()
            if arm == "real":
                accuracy[arm] = self._train(Decoded(images, labels), REAL_RATE, None, epochs, REAL_STEP)
            else:
                rates = RATES if arm == "random" else (SYN_RATE,)
                accuracy[arm] = max(self._train(small[arm], rate, dsa, epochs, max(epochs // 2, 1)) for rate in rates)
            seconds[arm] = time.perf_counter() - start
        return {"seconds": seconds, "accuracy": accuracy}

    def shorter(self) -> dict[str, Any]:
        """One training on the distilled set, of fewer epochs, and what all would take at that speed."""
        epochs = max(self.sizes.epochs // SHORTER, self.sizes.test_every)
        start = time.perf_counter()
        accuracy = self._train(tensors(self.pixels.distilled), SYN_RATE, dsa, epochs, epochs)
        times = (time.perf_counter() - start) * self.sizes.epochs / epochs * self.sizes.runs
        return {"seconds": {a: times * n for a, n in self.sizes.arms.items()}, "accuracy": {"syn": accuracy}}

    def facts(self) -> dict[str, Any]:
        host, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        device = torch.cuda.max_memory_allocated() if self.device == "cuda" else 0
        return {"layout": str(self.layout), "host": host, "children": children, "device": device}
