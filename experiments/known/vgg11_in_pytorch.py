"""VGG-11 on "DC again, CIFAR-10, 1 per class" in PyTorch: is it we or the published figure that is off?

Command:   python experiments/known/vgg11_in_pytorch.py --data FOLDER --real cifar10.npz [--norm instance batch]
           (FOLDER holds distilled/, as for run.py; the environment needs torch)
Time:      a quarter of an hour on two CPU cores that are busy otherwise
Gives:     the mean test accuracy and each network's, by norm; known/README.md holds what was found

The protocol is that of the known list: SGD 0.01, momentum 0.9, weight decay 5e-4, 301 epochs of one batch, the rate
times 0.1 and a new optimizer after epoch 152 of them, no augmentation, accuracy after the last epoch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

WIDTHS = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
EPOCHS, DROP = 301, 152
MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
STD = np.array([0.2023, 0.1994, 0.2010], np.float32)


def vgg11(norm: str) -> nn.Module:
    layers, inputs = [], 3
    for width in WIDTHS:
        if width == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        normalise = nn.GroupNorm(width, width) if norm == "instance" else nn.BatchNorm2d(width)
        layers += [nn.Conv2d(inputs, width, 3, padding=1), normalise, nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def trained(norm: str, seed: int, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    torch.manual_seed(seed)
    net = vgg11(norm).train()
    for epoch in range(EPOCHS):
        if epoch in (0, DROP):
            rate = 0.01 if epoch == 0 else 0.001
            optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    hits = [(net(x).argmax(1) == y).sum() for x, y in zip(images.split(250), labels.split(250), strict=True)]
    return float(sum(hits)) / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--real", type=Path, required=True, help=".npz with x_test and y_test of CIFAR-10")
    parser.add_argument("--norm", nargs="+", default=["instance", "batch"], choices=["instance", "batch"])
    parser.add_argument("--networks", type=int, default=3)
    options = parser.parse_args()
    with np.load(options.data / "distilled" / "dgg_dc_cifar10_ipc1.npz") as file:
        images, labels = torch.tensor(file["images"][0]), torch.tensor(file["labels"][0])
    with np.load(options.real) as file:
        pixels = (file["x_test"].astype(np.float32) / 255 - MEAN) / STD
        tests = torch.tensor(pixels.transpose(0, 3, 1, 2).copy()), torch.tensor(file["y_test"].astype(np.int64).ravel())
    for norm in options.norm:
        found = [accuracy(trained(norm, seed, images, labels), *tests) for seed in range(options.networks)]
        print(f"{norm} norm: {np.mean(found):.4f} of {', '.join(f'{value:.4f}' for value in found)}", flush=True)


if __name__ == "__main__":
    main()
