"""Float64 goldens by plain PyTorch: gradients, batch statistics, optimizers, and trainings of several epochs.

Command:   python experiments/goldens/make.py [tests/goldens]
           in an environment of its own: python -m venv V && V/bin/pip install torch==2.13.0 numpy
Time:      20 seconds on two busy cores
Expected:  the arrays of the committed tests/goldens/{networks64,trajectories64,optimizers}.npz, to about 1e-13; nothing
           of ddr_jax is imported, so what they say is PyTorch's word

Numbers are float64 and inputs are given by rule (`fill`, `inputs`), so the files hold outcomes alone, and of each
tensor three numbers (`digests`): its norm and its products with sin(0, 1, 2, …) and cos(0, 1, 2, …) in PyTorch's order.
Rounding moves them by 1e-14 of the norm; experiments/mutations.md lists what constants a tenth off do.

networks64.npz holds, per network, the logits in evaluation and then in training mode of `inputs`, the gradients of the
mean cross-entropy in training mode, and the running statistics after it. trajectories64.npz holds every tensor of a
student after six epochs of `CASES`, whose batches follow `ORDERS`. optimizers.npz holds the weights after each of ten
steps, weights and gradients being (5, 3), by decay and by what the gradients are multiplied with: at a millionth,
Adam's ε shows.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EPOCHS, BATCH, IMAGES, CLASSES = 6, 4, 10, 3
# Of each epoch: jax.random.permutation(fold_in(fold_in(key(0), 1), epoch), 10), as `train.student.train_epochs` draws.
ORDERS = """
5 3 4 6 1 0 8 7 9 2
6 1 9 2 4 3 7 5 8 0
8 9 4 3 5 0 1 2 6 7
0 4 5 3 2 1 8 6 9 7
3 2 8 6 0 1 7 4 5 9
3 2 8 7 5 4 6 1 0 9
"""

# What a transformer adds up is tiny, so that the ε of its norms counts.
STREAM = ("patches", "positions", "token", "out_proj.weight", "output.weight")


def fill(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Tensor number k of the sorted names is made of RandomState(k)'s normal numbers, exact in float32."""
    return {name: _fill(name, shapes[name], k) for k, name in enumerate(sorted(shapes))}


def _fill(name: str, shape: tuple[int, ...], k: int) -> np.ndarray:
    z = np.random.RandomState(k).standard_normal(shape).astype(np.float32)
    if name.startswith(STREAM) or name.endswith(STREAM):
        return z * np.float32(1e-3)
    if len(shape) in (2, 4):
        return z * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if name.endswith("running_var"):
        return 1 + np.float32(0.1) * np.abs(z)
    return np.float32(0.1) * z + np.float32(name.endswith("weight"))


def inputs(count: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, 3, S, S), labels (N,) and label logits (N, C), exact in float32."""
    g = np.random.RandomState(1000)
    images = g.standard_normal((count, 3, side, side)).astype(np.float32)
    labels = g.randint(0, CLASSES, size=count)
    return images, labels, (2 * g.standard_normal((count, CLASSES))).astype(np.float32)


def digests(key: str, tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The tensors' names, sorted, and three numbers of each."""
    rows = []
    for name in sorted(tensors):
        flat = tensors[name].detach().numpy().ravel()
        place = np.arange(flat.size)
        rows.append([np.linalg.norm(flat), flat @ np.sin(place), flat @ np.cos(place)])
    return {f"{key}/names": np.array(sorted(tensors)), f"{key}/digests": np.array(rows)}


class ConvNet(nn.Module):
    def __init__(self, depth: int, norm: str, width: int = 4, side: int = 8, activation=nn.ReLU, pool=nn.AvgPool2d):
        super().__init__()
        layers, channels = [], 3
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), *_norm(norm, width, side), activation(), pool(2)]
            channels, side = width, side // 2
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * side * side, CLASSES)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def _norm(kind: str, width: int, side: int) -> list[nn.Module]:
    return {
        "IN": lambda: [nn.GroupNorm(width, width)],
        "GN": lambda: [nn.GroupNorm(4, width)],
        "BN": lambda: [nn.BatchNorm2d(width)],
        "LN": lambda: [nn.LayerNorm([width, side, side])],
        "NN": lambda: [],
    }[kind]()


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc_1, self.fc_2, self.fc_3 = nn.Linear(3 * 64, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.fc_3(F.relu(self.fc_2(F.relu(self.fc_1(x.flatten(1))))))


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        pool = nn.MaxPool2d(2)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU(), pool, nn.Conv2d(6, 16, 5), nn.ReLU(), pool)
        self.fc_1, self.fc_2, self.fc_3 = nn.Linear(16, 120), nn.Linear(120, 84), nn.Linear(84, CLASSES)

    def forward(self, x):
        return self.fc_3(F.relu(self.fc_2(F.relu(self.fc_1(self.features(x).flatten(1))))))


class AlexNet(nn.Module):
    def __init__(self):
        super().__init__()
        relu, pool = nn.ReLU(), nn.MaxPool2d(2)
        first = [nn.Conv2d(3, 128, 5, padding=2), relu, pool, nn.Conv2d(128, 192, 5, padding=2), relu, pool]
        then = [nn.Conv2d(192, 256, 3, padding=1), relu, nn.Conv2d(256, 192, 3, padding=1), relu]
        self.features = nn.Sequential(*first, *then, nn.Conv2d(192, 192, 3, padding=1), relu, pool)
        self.fc = nn.Linear(192, CLASSES)

    def forward(self, x):
        return self.fc(self.features(x).flatten(1))


class VGG(nn.Module):
    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
            if width:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            else:
                layers.append(nn.MaxPool2d(2))
            channels = width or channels
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(512, CLASSES)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class PooledBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, halve: bool):
        super().__init__()
        self.pool = nn.AvgPool2d(2) if halve else nn.Identity()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        own = [nn.Conv2d(inputs, outputs, 1, bias=False), nn.AvgPool2d(2), nn.BatchNorm2d(outputs)] if halve else []
        self.shortcut = nn.Sequential(*own)

    def forward(self, x):
        y = self.pool(F.relu(self.bn1(self.conv1(x))))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class PooledResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for stage, width in enumerate((64, 128, 256, 512), start=1):
            blocks = [PooledBlock(channels, width, stage > 1), PooledBlock(width, width, False)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            channels = width
        self.classifier = nn.Linear(512, CLASSES)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.classifier(self.layer4(self.layer3(self.layer2(self.layer1(x)))).flatten(1))


class ViTBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.hidden, self.output = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.output(F.gelu(self.hidden(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self, width: int = 8, side: int = 8):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (side // 4) ** 2, width))
        self.blocks = nn.Sequential(*(ViTBlock(width) for _ in range(6)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.patches(x).flatten(2).swapaxes(1, 2)
        x = torch.cat([self.token.expand(len(x), 1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


NETWORKS = {  # by name, side of the images and width
    **{f"ConvNet-2-{norm}@8@4": (lambda norm=norm: ConvNet(2, norm)) for norm in ("IN", "BN", "LN", "GN", "NN")},
    "ConvNet-1-BN-leakyrelu@8@4": lambda: ConvNet(1, "BN", activation=nn.LeakyReLU),
    "ConvNet-1-IN-sigmoid-maxpool@8@4": lambda: ConvNet(1, "IN", activation=nn.Sigmoid, pool=nn.MaxPool2d),
    "ConvNet-3-IN@32@128": lambda: ConvNet(3, "IN", width=128, side=32),
    "ConvNet-3-BN@32@128": lambda: ConvNet(3, "BN", width=128, side=32),
    "MLP@8@4": MLP,
    "LeNet@16@128": LeNet,
    "AlexNet@8@128": AlexNet,
    "VGG-11-BN@32@128": VGG,
    "ResNet-18-BN-AP@8@128": PooledResNet,
    "ViT-6@8@8": ViT,
}


def started(make) -> nn.Module:
    """The network in float64, filled by rule."""
    net = make().double()
    state = {name: value for name, value in net.state_dict().items() if value.is_floating_point()}
    filled = fill({name: tuple(value.shape) for name, value in state.items()})
    net.load_state_dict({name: torch.from_numpy(value).double() for name, value in filled.items()}, strict=False)
    return net


def network(name: str) -> dict[str, np.ndarray]:
    net = started(NETWORKS[name])
    images, labels, _ = (torch.from_numpy(array) for array in inputs(7, int(name.split("@")[1])))
    found = {"logits/eval": net.eval()(images.double())}
    found["logits/train"] = net.train()(images.double())
    F.cross_entropy(found["logits/train"], labels).backward()
    found |= {f"grad/{part}": parameter.grad for part, parameter in net.named_parameters()}
    found |= {f"stats/{part}": buffer for part, buffer in net.named_buffers() if buffer.is_floating_point()}
    return digests(name, found)


SGD = {"optimizer": "sgd", "lr": 0.05, "weight_decay": 0.05, "momentum": 0.9}
ADAM, ADAMW = ({"optimizer": name, "lr": 0.01, "weight_decay": 0.5} for name in ("adam", "adamw"))
CASES = {
    "drop": SGD | {"schedule": "step", "step_size": 2},
    "drop-fresh": SGD | {"schedule": "step", "step_size": 2, "fresh_at_drop": True},
    "adam-cosine": ADAM | {"schedule": "cosine"},
    "adamw-annealing": ADAMW | {"schedule": "cosineannealing"},
    "warmup-epochs": SGD | {"schedule": "cosineannealing", "warmup": 2},
    "warmup-steps": ADAMW | {"schedule": "cosine", "warmup": 2, "clock": "step"},
    "instance-norm": ADAMW | {"student": "ConvNet-2", "schedule": "constant"},
    "soft-kl": SGD | {"labels": "soft", "loss": "kl", "temperature": 3.0, "scale_loss": True},
    "soft-ce": SGD | {"labels": "soft", "loss": "ce", "temperature": 1.5},
    "soft-mse": SGD | {"labels": "soft", "loss": "mse_gt", "mse_weight": 0.7, "ce_weight": 0.3},
    "teachers-kl": SGD | {"labels": "teacher", "loss": "kl", "temperature": 4.0, "scale_loss": True},
    "teachers-mse": SGD | {"labels": "teacher", "loss": "mse_gt", "mse_weight": 0.7, "ce_weight": 0.3},
}


def factor(case: dict, passed: float, tick: float) -> float:
    """Of the learning rate after so many epochs."""
    warmup = case.get("warmup", 0)
    if passed < warmup:
        return (passed + tick) / warmup
    passed, epochs = passed - warmup, EPOCHS - warmup
    return {
        "step": lambda: 0.1 ** (passed // case.get("step_size", EPOCHS // 2)),
        "constant": lambda: 1.0,
        "cosineannealing": lambda: (1 + math.cos(math.pi * passed / epochs)) / 2,
        "cosine": lambda: (1 + math.cos(math.pi * passed / epochs / 2)) / 2,
    }[case.get("schedule", "step")]()


def optimizer(case: dict, parameters) -> torch.optim.Optimizer:
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    momentum = {"momentum": case["momentum"]} if case["optimizer"] == "sgd" else {}
    return kinds[case["optimizer"]](parameters, lr=case["lr"], weight_decay=case["weight_decay"], **momentum)


def loss(case: dict, student: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    if case.get("labels", "hard") == "hard":
        return F.cross_entropy(student, labels)
    if case["loss"] == "mse_gt":
        shares = F.mse_loss(student, logits), F.cross_entropy(student, labels)
        return case["mse_weight"] * shares[0] + case["ce_weight"] * shares[1]
    t = case["temperature"]
    if case["loss"] == "kl":
        value = F.kl_div(F.log_softmax(student / t, 1), F.softmax(logits / t, 1), reduction="batchmean")
    else:
        value = F.cross_entropy(student / t, F.softmax(logits / t, 1))
    return value * t * t if case.get("scale_loss") else value


def teachers() -> list[nn.Module]:
    """Two of ConvNet-1-BN; the second one's tensors are the first one's, reversed along their first axis."""
    first, second = (started(lambda: ConvNet(1, "BN")).eval() for _ in range(2))
    second.load_state_dict({name: value.flip(0) if value.ndim else value for name, value in first.state_dict().items()})
    return [first, second]


def trajectory(name: str) -> dict[str, np.ndarray]:
    case, orders = CASES[name], np.array(ORDERS.split(), int).reshape(EPOCHS, IMAGES)
    net = started(lambda: ConvNet(2, "IN" if "student" in case else "BN")).train()
    images, labels, logits = (torch.from_numpy(array) for array in inputs(IMAGES, 8))
    images, logits = images.double(), logits.double()
    if case.get("labels") == "teacher":
        with torch.no_grad():
            logits = torch.stack([teacher(images) for teacher in teachers()]).mean(0)
    by, steps = optimizer(case, net.parameters()), -(-IMAGES // BATCH)
    for epoch in range(EPOCHS):
        if case.get("fresh_at_drop") and epoch and epoch % case["step_size"] == 0:
            by = optimizer(case, net.parameters())
        for step in range(steps):
            whole = case.get("clock", "epoch") == "epoch"
            by.param_groups[0]["lr"] = case["lr"] * (
                factor(case, epoch, 1) if whole else factor(case, epoch + step / steps, 1 / steps)
            )
            batch = torch.from_numpy(orders[epoch, step * BATCH : (step + 1) * BATCH])
            by.zero_grad()
            loss(case, net(images[batch]), labels[batch], logits[batch]).backward()
            by.step()
    tensors = {part: value for part, value in net.state_dict().items() if value.is_floating_point()}
    return digests(name, tensors)


def steps() -> dict[str, np.ndarray]:
    """The weights (10, 5, 3) after each step of every optimizer."""
    g = np.random.RandomState(3)
    start, gradients = g.standard_normal((5, 3)), g.standard_normal((10, 5, 3))
    return {"w0": start, "grads": gradients} | {
        f"{name}/wd{decay}/x{scale}": path(name, decay, start, scale * gradients)
        for name in ("sgd", "adam", "adamw")
        for decay in (0.0, 0.5)
        for scale in (1.0, 1e-6)
    }


def path(name: str, decay: float, start: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    weights = nn.Parameter(torch.from_numpy(start.copy()))
    by = optimizer({"optimizer": name, "lr": 0.01, "weight_decay": decay, "momentum": 0.9}, [weights])
    found = []
    for gradient in gradients:
        weights.grad = torch.from_numpy(gradient)
        by.step()
        found.append(weights.detach().numpy().copy())
    return np.stack(found)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "tests" / "goldens")
    networks = {key: value for name in NETWORKS for key, value in network(name).items()}
    trained = {key: value for name in CASES for key, value in trajectory(name).items()}
    orders = np.array(ORDERS.split(), np.int32).reshape(EPOCHS, IMAGES)
    np.savez_compressed(folder / "networks64.npz", **networks)
    np.savez_compressed(folder / "trajectories64.npz", orders=orders, cases=json.dumps(CASES), **trained)
    np.savez_compressed(folder / "optimizers.npz", **steps())


if __name__ == "__main__":
    main()
