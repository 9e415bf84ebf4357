"""How students of a whole real dataset are trained, and accuracies of such students that others measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

RECIPES_SOURCE = "ddranking 0.2.0 (PyPI), its table of settings for real data, by dataset and network"
_DDRANKING_CACHE = "ddranking 0.2.0 (PyPI), the accuracy it takes unless eval_full_data is set; it names no origin"
_DC_PAPER = "Zhao, Mopuri and Bilen 2021 (arXiv 2006.05929), whole dataset, ConvNet-3: {}"


@dataclass(frozen=True)
class Known:
    """A test accuracy of students of all real data, a fraction, and who measured it."""

    accuracy: float
    source: str


_SMALL: dict[str, Any] = {
    "optimizer": "sgd",
    "schedule": "step",
    "weight_decay": 5e-4,
    "momentum": 0.9,
    "lr": (0.01,),
    "step_size": 100,
    "epochs": 200,
    "batch_size": 512,
}
_RECIPES: dict[tuple[str, str], Mapping[str, Any]] = {
    ("imagenet1k", "ResNet-18-BN"): _SMALL | {"weight_decay": 1e-4, "lr": (0.1,), "step_size": 30, "epochs": 90},
    ("tinyimagenet", "ResNet-18-BN"): {
        "optimizer": "adamw",
        "schedule": "cosine",
        "weight_decay": 0.01,
        "lr": (0.01,),
        "epochs": 100,
        "batch_size": 512,
    },
    ("tinyimagenet", "ConvNet-4-BN"): _SMALL | {"step_size": 50, "epochs": 100},
    **{(dataset, student): _SMALL for dataset in ("cifar10", "cifar100") for student in ("ConvNet-3", "ConvNet-3-BN")},
}
CACHED: dict[tuple[str, str], Known] = {
    ("imagenet1k", "ResNet-18-BN"): Known(0.565, _DDRANKING_CACHE),
    ("tinyimagenet", "ResNet-18-BN"): Known(0.464, _DDRANKING_CACHE),
}
_PUBLISHED: dict[tuple[str, str], Known] = {
    ("cifar10", "ConvNet-3"): Known(0.848, _DC_PAPER.format("84.8 ± 0.1 %")),
    ("fashion_mnist", "ConvNet-3"): Known(0.935, _DC_PAPER.format("93.5 ± 0.1 %")),
    ("mnist", "ConvNet-3"): Known(0.996, _DC_PAPER.format("99.6 %")),
}


def real_recipe(dataset: str, student: str) -> Mapping[str, Any] | None:
    """Fields of the `Protocol` that ddranking 0.2.0 lists for students of all of `dataset`, or None.

    Epochs and batch size are those its table lists. Its code trains for as many epochs as the distilled set's students
    instead, the listed ones being the horizon of the cosine schedule alone, and takes `real_batch_size`.
    """
    recipe = _RECIPES.get((dataset, listed_name(student)))
    return None if recipe is None else MappingProxyType(dict(recipe))


def known_accuracy(dataset: str, student: str) -> Known | None:
    """A published accuracy of `student` trained on all of `dataset`, or None: ddranking's own where it has one."""
    key = (dataset, listed_name(student))
    return CACHED.get(key) or _PUBLISHED.get(key)


def listed_name(student: str) -> str:
    """The name by which ddranking 0.2.0 lists a network: torchvision's ResNets are those with batch norm."""
    name = student.removeprefix("torchvision-")
    unnamed = name != student and name.startswith("ResNet") and not name.endswith("-BN")
    return f"{name}-BN" if unnamed else name
