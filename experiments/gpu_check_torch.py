"""The training loops of gpu_check.py in PyTorch, as its users write them: channels-last, autocast to bfloat16.

Command:   none; gpu_check_case.py calls `training`.
Expected:  the same networks, batches, augmentation and optimizers as ours; data on the device, no transfers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gpu_check import Workload
from torch import nn
from torch.nn import functional

STAGES = (64, 128, 256, 512)


class Block(nn.Module):
    """Two 3×3 convolutions with batch norm beside a shortcut."""

    def __init__(self, inputs: int, features: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(features), nn.BatchNorm2d(features)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != features:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, features, 1, stride, bias=False), nn.BatchNorm2d(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, I, H, W) to (N, features, ~H/stride, ~W/stride)."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet18(side: int, classes: int) -> nn.Module:
    """ResNet-18 with batch norm: ImageNet's stem for large images, a 3×3 convolution for small ones."""
    large = side > 64
    stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False) if large else nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    parts = [stem, nn.BatchNorm2d(64), nn.ReLU(), *([nn.MaxPool2d(3, 2, 1)] if large else [])]
    for inputs, features in zip((64, *STAGES), STAGES, strict=False):
        parts += [Block(inputs, features, 1 if features == 64 else 2), Block(features, features, 1)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def convnet3(side: int, classes: int, width: int = 128) -> nn.Module:
    """ConvNet-3 with instance norm."""
    parts: list[nn.Module] = []
    for inputs in (3, width, width):
        parts += [nn.Conv2d(inputs, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(width * (side // 8) ** 2, classes))


def network(load: Workload) -> nn.Module:
    """The network of a workload."""
    return (resnet18 if "ResNet" in load.net else convnet3)(load.side, load.classes)


def optimizer(load: Workload, net: nn.Module, device: str) -> torch.optim.Optimizer:
    """The optimizer of a workload, fused where there is a GPU."""
    fused = device == "cuda"
    if load.optimizer == "adamw":
        return torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=5e-4, fused=fused)
    return torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=fused)


def cutmix(images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A random box of each image is another's, and so is a share of its target."""
    height, width = images.shape[2:]
    side = np.sqrt(1 - np.random.beta(1.0, 1.0))
    row, column = np.random.randint(height), np.random.randint(width)
    down, across = int(height * side) // 2, int(width * side) // 2
    rows, columns = slice(max(row - down, 0), row + down), slice(max(column - across, 0), column + across)
    order = torch.randperm(len(images), device=images.device)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[order][:, :, rows, columns]
    share = mixed[0, 0, rows, columns].numel() / (height * width)
    return mixed, (1 - share) * targets + share * targets[order]


def training(load: Workload, device: str, compiled: bool) -> Callable[[int], None]:
    """A function that trains a student for some steps and waits for them."""
    torch.backends.cudnn.benchmark = True
    net, teacher = (network(load).to(device, memory_format=torch.channels_last) for _ in range(2))
    teacher.eval()
    optim, forward, label = optimizer(load, net, device), net, teacher
    if compiled:
        forward, label = torch.compile(net), torch.compile(teacher)
    images = torch.randn(load.batch, 3, load.side, load.side, device=device).to(memory_format=torch.channels_last)
    targets = functional.one_hot(torch.arange(load.batch, device=device) % load.classes, load.classes).float()

    def step() -> None:
        batch, wanted = cutmix(images, targets) if load.cutmix else (images, targets)
        with torch.autocast(device, torch.bfloat16):
            if load.teacher:
                with torch.no_grad():
                    wanted = label(batch).float().softmax(-1)
            logits = forward(batch)
        optim.zero_grad(set_to_none=True)
        loss(load, logits.float(), wanted).backward()
        optim.step()

    def train(steps: int) -> None:
        for _ in range(steps):
            step()
        wait(device)

    return train


def loss(load: Workload, logits: torch.Tensor, targets: torch.Tensor) -> Any:
    """KL divergence from a teacher's labels, or cross entropy."""
    if load.teacher:
        return functional.kl_div(logits.log_softmax(-1), targets, reduction="batchmean")
    return functional.cross_entropy(logits, targets)


def wait(device: str) -> None:
    """Waits for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def sees_a_gpu() -> bool:
    """Whether this PyTorch can use the GPU."""
    return torch.cuda.is_available()


def peak_bytes() -> int:
    """The most memory that tensors took of the GPU."""
    return torch.cuda.max_memory_allocated()
