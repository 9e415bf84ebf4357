"""Lines of known.toml that do not agree, by PyTorch: is it we or the published figure that is off?

Command:   python experiments/known/in_pytorch.py vgg11|alexnet|kip --data FOLDER --real cifar10.npz [--networks 3]
           python experiments/known/in_pytorch.py alexnet-mnist --data FOLDER --real mnist.npz [--networks 3]
           (FOLDER holds distilled/, as for run.py; the environment needs torch and scipy)
Time:      vgg11 seven minutes, alexnet five, kip ten, on two idle CPU cores; alexnet-mnist nine beside other work, with
           --networks 4 --epochs 502 and 500 test images (of all 10,000 the tests take longer than training)
Gives:     the mean test accuracy and each network's, by variant; known/README.md holds what was found

The protocol is that of the known list: SGD 0.01, momentum 0.9, weight decay 5e-4, 301 epochs of one batch, the rate
times 0.1 and a new optimizer after epoch 152 of them, no augmentation, accuracy after the last epoch.

vgg11, alexnet: "DC again, CIFAR-10, 1 per class"; VGG-11 with instance norm, as DC's code has it, and with batch norm;
each also with convolutions whose operands are rounded to TF32's ten bits, as PyTorch's are by default on many GPUs.
kip: ConvNet-3 of width 128 on KIP's images, whitened as KIP does, as DC-BENCH does (the same without standardised
channels: data_loader/kip_data_loader.py of justincui03/dc_benchmark at 071901d), and as kornia does; labelled by the
largest soft label, as DC-BENCH does, and by position, as the images were begun: ten of each class in turn.
alexnet-mnist: "DC with an MLP, MNIST, 1 per class, AlexNet", on each of the five sets: 1,001 epochs, drop after 502,
and DC's augmentation. A network whose loss is no longer finite is tested as it is: it says 0, which 9.80 % of the test
images are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.ndimage
import torch
from torch import nn

WIDTHS = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
STD = np.array([0.2023, 0.1994, 0.2010], np.float32)
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081

Labelled = tuple[torch.Tensor, torch.Tensor]


class Variant(NamedTuple):
    """What is trained, on what and how; `augment` takes a batch and a generator of draws."""

    name: str
    network: Callable[[], nn.Module]
    train: Labelled
    test: Labelled
    epochs: int = 301
    drop: int = 152
    augment: Callable[[torch.Tensor, np.random.Generator], torch.Tensor] | None = None


class Tf32(torch.autograd.Function):
    """A convolution of stride 1 in both directions as TF32 has it: operands of ten bits, sums in float32."""

    @staticmethod
    def rounded(x: torch.Tensor) -> torch.Tensor:
        bits = x.contiguous().view(torch.int32)
        return (bits + 0xFFF + (bits >> 13 & 1) & ~0x1FFF).view(torch.float32)

    @staticmethod
    def forward(context, x, weight, bias, padding):
        x, weight = Tf32.rounded(x), Tf32.rounded(weight)
        context.save_for_backward(x, weight)
        context.padding = padding
        return nn.functional.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(context, gradient):
        (x, weight), g = context.saved_tensors, Tf32.rounded(gradient)
        of_x = (
            nn.grad.conv2d_input(x.shape, weight, g, padding=context.padding) if context.needs_input_grad[0] else None
        )
        of_weight = nn.grad.conv2d_weight(x, weight.shape, g, padding=context.padding)
        return of_x, of_weight, gradient.sum((0, 2, 3)), None


class Tf32Conv2d(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Tf32.apply(x, self.weight, self.bias, self.padding)


def vgg11(norm: str, convolution: type[nn.Conv2d] = nn.Conv2d) -> nn.Module:
    layers, inputs = [], 3
    for width in WIDTHS:
        if width == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        normalise = nn.GroupNorm(width, width) if norm == "instance" else nn.BatchNorm2d(width)
        layers += [convolution(inputs, width, 3, padding=1), normalise, nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def alexnet(convolution: type[nn.Conv2d] = nn.Conv2d, channels: int = 3) -> nn.Module:
    border = 2 if channels == 1 else 0  # 28 pixels become 32
    layers = [convolution(channels, 128, 5, padding=2 + border), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [convolution(128, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    for inputs, width in ((192, 256), (256, 192), (192, 192)):
        layers += [convolution(inputs, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192 * 4 * 4, 10))


def convnet() -> nn.Module:
    layers, inputs = [], 3
    for _ in range(3):
        layers += [nn.Conv2d(inputs, 128, 3, padding=1), nn.GroupNorm(128, 128), nn.ReLU(), nn.AvgPool2d(2)]
        inputs = 128
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, 10))


def augmented(images: torch.Tensor, draws: np.random.Generator) -> torch.Tensor:
    """Each image (N, 1, 28, 28) after one operation of DC's on MNIST: crop, scale or rotate."""
    pixels, side = images.numpy()[:, 0], images.shape[-1]
    mean, out = float(pixels.mean()), np.zeros((len(images), side, side), np.float32)
    for image, result in zip(pixels, out, strict=True):
        operation = draws.integers(3)
        if operation == 0:
            row, column = draws.integers(8, size=2)
            result[:] = np.pad(image, 4, constant_values=mean)[row : row + side, column : column + side]
        elif operation == 1:
            height, width = (draws.uniform(0.8, 1.2, 2) * side).astype(int)
            resized = image[np.arange(height)[:, None] * side // height, np.arange(width) * side // width]
            result[:] = centred(resized, side)
        else:
            turned = scipy.ndimage.rotate(image, int(draws.integers(-45, 45)), cval=mean)
            result[:] = centred(turned, side)
    return torch.tensor(out[:, None])


def centred(image: np.ndarray, side: int) -> np.ndarray:
    """The middle of an image, (side, side), with zeros where it is smaller."""
    most = max(side, *image.shape)
    canvas = np.zeros((most, most), np.float32)
    row, column = ((most - length) // 2 for length in image.shape)
    canvas[row : row + image.shape[0], column : column + image.shape[1]] = image
    first = (most - side) // 2
    return canvas[first : first + side, first : first + side]


def trained(variant: Variant, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    draws = np.random.default_rng(seed)
    net, (images, labels) = variant.network().train(), variant.train
    for epoch in range(variant.epochs):
        if epoch in (0, variant.drop):
            rate = 0.01 if epoch == 0 else 0.001
            optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
        optimizer.zero_grad()
        shown = images if variant.augment is None else variant.augment(images, draws)
        loss = nn.functional.cross_entropy(net(shown), labels)
        loss.backward()
        optimizer.step()
        if not torch.isfinite(loss):
            break
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    hits = [(net(x).argmax(1) == y).sum() for x, y in zip(images.split(250), labels.split(250), strict=True)]
    return float(sum(hits)) / len(labels)


def normalised(pixels: np.ndarray) -> torch.Tensor:
    return torch.tensor(((pixels.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2).copy())


def whitened(kind: str, train: np.ndarray, test: np.ndarray) -> torch.Tensor:
    """Test images (N, 3, 32, 32), whitened by what the train images give; pixels are (N, 32, 32, 3) uint8."""
    train, test = (torch.tensor(pixels.astype(np.float32) / 255) for pixels in (train, test))
    if kind == "KIP":
        mean, std = train.mean((0, 1, 2)), train.std((0, 1, 2))
        train, test = (train - mean) / std, (test - mean) / std
    train, test = train.flatten(1), test.flatten(1)
    if kind == "kornia":
        train, test, eps = train - train.mean(0), test - train.mean(0), 0.1
    else:
        train, test = (x - x.mean(1, keepdim=True) for x in (train, test))
        train, test = (x / x.norm(dim=1, keepdim=True) for x in (train, test))
        eps = 0.1 * float(train.square().sum(1).mean()) / train.shape[1]
    variances, directions = torch.linalg.eigh(train.T @ train / len(train))
    matrix = directions / (variances.clamp(min=0) + eps).sqrt() @ directions.T
    return (test @ matrix).reshape(-1, 32, 32, 3).permute(0, 3, 1, 2).contiguous()


def dc_again(data: Path, real: dict[str, np.ndarray]) -> tuple[Labelled, Labelled]:
    """Train and test images of the known lines called "DC again, CIFAR-10, 1 per class"."""
    with np.load(data / "distilled" / "dgg_dc_cifar10_ipc1.npz") as file:
        train = torch.tensor(file["images"][0]), torch.tensor(file["labels"][0])
    return train, (normalised(real["x_test"]), torch.tensor(real["y_test"]))


def variants(line: str, data: Path, real: dict[str, np.ndarray]) -> Iterator[Variant]:
    """What to train of a line."""
    if line == "alexnet":
        yield Variant("AlexNet", alexnet, *dc_again(data, real))
        yield Variant("AlexNet in TF32", lambda: alexnet(Tf32Conv2d), *dc_again(data, real))
    if line == "alexnet-mnist":
        pixels = torch.tensor(real["x_test"].reshape(-1, 1, 28, 28).astype(np.float32) / 255)
        test = (pixels - MNIST_MEAN) / MNIST_STD, torch.tensor(real["y_test"])
        with np.load(data / "distilled" / "dgg_dc_mnist_ipc1_mlp.npz") as file:
            sets = list(zip(torch.tensor(file["images"]), torch.tensor(file["labels"]), strict=True))
        for run, train in enumerate(sets):
            yield Variant(f"AlexNet, set {run}", lambda: alexnet(channels=1), train, test, 1001, 502, augmented)
    if line == "vgg11":
        for norm in ("instance", "batch"):
            yield Variant(f"{norm} norm", lambda norm=norm: vgg11(norm), *dc_again(data, real))
        yield Variant("instance norm in TF32", lambda: vgg11("instance", Tf32Conv2d), *dc_again(data, real))
    if line == "kip":
        with np.load(data / "distilled" / "dcbench_kip_cifar10_ipc10.npz") as file:
            images, soft = torch.tensor(file["images"][0]), torch.tensor(file["soft_labels"][0])
        for kind in ("DC-BENCH", "KIP", "kornia"):
            test = whitened(kind, real["x_train"], real["x_test"]), torch.tensor(real["y_test"])
            yield Variant(f"{kind}'s whitening, largest label", convnet, (images, soft.argmax(1)), test)
            yield Variant(f"{kind}'s whitening, by position", convnet, (images, torch.arange(100) // 10), test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("line", choices=["vgg11", "alexnet", "kip", "alexnet-mnist"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--real", type=Path, required=True, help=".npz with x_train, x_test and y_test of CIFAR-10, or MNIST"
    )
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="stop after so many; default: the protocol's")
    options = parser.parse_args()
    with np.load(options.real) as file:
        real = {name: file[name] for name in ("x_train", "x_test", "y_test")}
    real["y_test"] = real["y_test"].astype(np.int64).ravel()
    for variant in variants(options.line, options.data, real):
        if options.epochs is not None:
            variant = variant._replace(epochs=options.epochs)
        found = [accuracy(trained(variant, seed), *variant.test) for seed in range(options.networks)]
        print(f"{variant.name}: {np.mean(found):.4f} of {', '.join(f'{value:.4f}' for value in found)}", flush=True)


if __name__ == "__main__":
    main()
