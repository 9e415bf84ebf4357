"""Published evaluation recipes by name, as plain data; each says where its values were read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from ddr_jax.protocols.protocol import DSA, Chain, CutMix, DCAugmentation, PatchShuffle, Protocol, ResizedCrop
from ddr_jax.types import InputError, nearest

DDRANKING_GRID = (0.001, 0.005, 0.01, 0.05, 0.1)  # the same for every optimizer, network and dataset


@dataclass(frozen=True)
class Preset:
    """A published way to train students.

    No preset names a student: that goes with the images.

    Attributes:
        name: as in `PRESETS`.
        summary: what it is, in a line.
        source: where the values were read, and what its code does that a `Protocol` does not say.
        protocol: fields of `protocol.Protocol` that it sets.
        settings: fields of `result.Settings`, other than the protocols, that it sets.
        real: fields of the real-hard students' `Protocol` that differ from `protocol.real` of the preset's.
    """

    name: str
    summary: str
    source: str
    protocol: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    real: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def preset(name: str, **overrides: Any) -> Protocol:
    """The protocol of a preset, any field of `Protocol` replaced by an argument of that name.

    Raises:
        InputError: if the preset or a field is unknown, or the fields contradict one another.
    """
    valid = [entry.name for entry in fields(Protocol)]
    for given in overrides:
        if given not in valid:
            raise InputError(f"Unknown field {given!r} for the preset {name!r}: {nearest(given, valid)}")
    return Protocol(**{**find(name).protocol, **overrides})


def find(name: str) -> Preset:
    """The preset of that name; raises InputError with the nearest if there is none."""
    if name not in PRESETS:
        raise InputError(f"Unknown preset {name!r}: {nearest(name, PRESETS)}")
    return PRESETS[name]


_DC_CODE = "github.com/VICO-UoE/DatasetCondensation"
_DROP = (
    "Its code makes one pass more than the epochs it names (301, 1,001); the rate drops, and the optimizer starts "
    "afresh, two passes after half of them."
)
_FEW_DECAY = "its weight decay spares biases and norms; it reports the best of its tests."

_DC_FAMILY: dict[str, Any] = {
    "epochs": 1000,
    "batch_size": 256,
    "optimizer": "sgd",
    "lr": (0.01,),
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",  # to a tenth at half
    "fresh_at_drop": True,
    "labels": "hard",
    "loss": "ce",
}
_RELABELLED: dict[str, Any] = {
    "epochs": 300,
    "optimizer": "adamw",
    "lr": (0.001,),
    "weight_decay": 0.01,
    "schedule": "cosineannealing",
    "augment": Chain((ResizedCrop(scale=(0.08, 1.0)), CutMix())),
    "labels": "teacher",
    "loss": "kl",
    "temperature": 20.0,
}
_SHUFFLED = Chain((PatchShuffle(2), ResizedCrop(scale=(0.5, 1.0)), CutMix()))

_DDRANKING = "ddranking 0.2.0 (PyPI, github.com/NUS-HPC-AI-Lab/DD-Ranking)"
_DDRANKING_HARD: dict[str, Any] = {
    "epochs": 300,
    "batch_size": 256,
    "optimizer": "sgd",
    "lr": DDRANKING_GRID,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "augment": DSA(),
    "labels": "hard",
    "loss": "ce",
    "readout": "best",
    "test_every": 10,
}
_DDRANKING_SOFT: dict[str, Any] = {
    "epochs": 300,
    "batch_size": 1024,
    "optimizer": "adamw",
    "lr": DDRANKING_GRID,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "augment": CutMix(beta=1.0, mix_targets=False),
    "labels": "teacher",
    "loss": "kl",
    "temperature": 1.0,
    "readout": "best",
    "test_every": 20,
}
_DDRANKING_REAL: dict[str, Any] = {  # of CIFAR's ConvNet-3; `recipes` has the others
    "epochs": 300,
    "batch_size": 256,
    "optimizer": "sgd",
    "lr": (0.01,),
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "step_size": 100,
    "augment": None,
}


def _ddranking_hard(name: str) -> Preset:
    return Preset(
        name,
        "PyTorch ddranking's label-robust score, hard labels",
        f"{_DDRANKING}: LabelRobustScoreHard's defaults and configs/Demo_LRS_Hard_Label.yaml's augmentation; the best "
        "of five rates and of a test every 10 epochs, on the test set. A known rate (--lr) replaces the grid of the "
        "distilled set alone. Its class has no default for step_size, here half of the epochs.",
        _DDRANKING_HARD,
        {"random_lr": DDRANKING_GRID, "percent": True, "seeds": 5},
        _DDRANKING_REAL,
    )


_PRESETS = (
    _ddranking_hard("ddranking-0.2.0"),
    _ddranking_hard("ddranking-0.2.0-hard"),
    Preset(
        "ddranking-0.2.0-soft",
        "PyTorch ddranking's label-robust score, teachers' labels; syn-hard searches rates and is not augmented",
        f"{_DDRANKING}: LabelRobustScoreSoft and configs/Demo_LRS_Soft_Label.yaml, whose crops of image files are left "
        "to the file; a test every 20 epochs; mixtures leave stored labels as they are (mix_targets false).",
        _DDRANKING_SOFT,
        {
            "hard_lr": DDRANKING_GRID,
            "random_lr": DDRANKING_GRID,
            "hard_augment": False,
            "percent": True,
            "seeds": 5,
        },
        _DDRANKING_REAL,
    ),
    Preset(
        "ddranking-0.2.0-ars",
        "PyTorch ddranking's augmentation-robust score, teachers' labels",
        f"{_DDRANKING}: AugmentationRobustScore and configs/Demo_ARS.yaml, whose crops of image files are left to the "
        "file; a test every 20 epochs.",
        _DDRANKING_SOFT,
        {"random_lr": DDRANKING_GRID, "percent": True, "seeds": 5},
        _DDRANKING_REAL,
    ),
    Preset(
        "dc",
        "Dataset condensation with gradient matching (Zhao et al. 2021)",
        f"{_DC_CODE}: main.py (300 epochs without augmentation, batches of 256, rate 0.01) and utils.py "
        f"(evaluate_synset). {_DROP}",
        _DC_FAMILY | {"epochs": 300},
    ),
    Preset(
        "dc-mnist",
        "DC on MNIST: longer, with crops, scales and turns",
        f"{_DC_CODE}: main.py (1,000 epochs with augmentation) and utils.py (get_daparam, evaluate_synset). {_DROP}",
        _DC_FAMILY | {"augment": DCAugmentation()},
    ),
    Preset(
        "dsa",
        "Differentiable siamese augmentation (Zhao and Bilen 2021)",
        f"{_DC_CODE}: main.py (method DSA: 1,000 epochs) and utils.py (ParamDiffAug, evaluate_synset). Its paper does "
        f"not flip digits. {_DROP}",
        _DC_FAMILY | {"augment": DSA()},
    ),
    Preset(
        "dm",
        "Distribution matching (Zhao and Bilen 2023)",
        f"{_DC_CODE}: main_DM.py (1,000 epochs, strategy of all six operations) and utils.py (evaluate_synset). "
        f"{_DROP}",
        _DC_FAMILY | {"augment": DSA()},
    ),
    Preset(
        "mtt",
        "Matching training trajectories (Cazenavette et al. 2022)",
        "github.com/GeorgeCazenavette/mtt-distillation: distill.py (defaults) and utils.py (evaluate_synset). Students "
        "learn at the rate that was distilled with the set: give it (0.01 is where it starts). Its CIFAR sets are "
        f"whitened unless said otherwise. {_DROP}",
        _DC_FAMILY | {"augment": DSA()},
    ),
    Preset(
        "datm",
        "Difficulty-aligned trajectory matching (Guo et al. 2024), stored soft labels",
        "github.com/NUS-HPC-AI-Lab/DATM: distill/evaluation.py (soft cross-entropy of logits, DSA), utils/cfg.py, "
        "utils/utils_baseline.py (evaluate_synset) and configs/CIFAR-10/ConvIN/IPC10.yaml (batches of 128, ZCA). "
        f"Students learn at the rate that was distilled with the set: give it. {_DROP}",
        _DC_FAMILY | {"batch_size": 128, "augment": DSA(), "labels": "soft"},
    ),
    Preset(
        "sre2l",
        "Squeeze, recover and relabel (Yin et al. 2023), ImageNet-1K",
        "github.com/VILA-Lab/SRe2L: SRe2L/validate/train_FKD.py and train_FKD.sh (full cosine, T 20, CutMix of crops, "
        f"batches of 1,024 in two halves); {_FEW_DECAY}",
        _RELABELLED | {"batch_size": 1024},
    ),
    Preset(
        "cda",
        "Curriculum data augmentation (Yin and Shen 2024), ImageNet-1K",
        "github.com/VILA-Lab/SRe2L: CDA/README.md refers to SRe2L's relabelling and validation (SRe2L/validate). "
        "Batches of 128: arXiv 2311.18838, appendix, from memory; it could not be read here. As in SRe2L, "
        f"{_FEW_DECAY}",
        _RELABELLED | {"batch_size": 128},
    ),
    Preset(
        "rded",
        "Diversity and realism of distilled data (Sun et al. 2024), ImageNet-1K, 10 per class",
        "github.com/LINs-lab/RDED: argument.py (AdamW 0.001 for ResNet-18, T 20, batches of 50 × 2 at 10 per class; "
        "for 10 classes 10, 50 and 100 at 1, 10 and 50 per class), validation/main.py (half cosine, patches shuffled, "
        f"crops of at least half) and validation/utils.py; {_FEW_DECAY}",
        _RELABELLED | {"batch_size": 100, "schedule": "cosine", "augment": _SHUFFLED},
    ),
    Preset(
        "gvbsm",
        "Generalized various backbone and statistical matching (Shao et al. 2024), ImageNet-1K",
        "github.com/shaoshitong/G_VBSM_Dataset_Condensation: Branch_full_ImageNet_1k/train/train.sh and "
        "train_FKD_parallel.py (squared error of logits + 0.1 × cross-entropy, batches of 1,024; its T of 20 is unused "
        f"by that loss). Its labels are of several teachers; {_FEW_DECAY}",
        _RELABELLED | {"batch_size": 1024, "loss": "mse_gt", "ce_weight": 0.1, "temperature": 1.0},
    ),
    Preset(
        "edc",
        "Elucidating the design space of dataset condensation (Shao et al. 2024), ImageNet-1K",
        "github.com/shaoshitong/EDC: Branch_full_ImageNet_1k/train/train.sh and train_FKD_parallel.py (squared error "
        "+ 0.025 × cross-entropy, batches of 100, cosine stretched by 2: the half cosine; patches shuffled, crops of "
        "at least half). Later versions test an average of weights (--ema-dr 0.99), which is not done here. Its labels "
        f"are of several teachers; {_FEW_DECAY}",
        _RELABELLED
        | {
            "batch_size": 100,
            "schedule": "cosine",
            "augment": _SHUFFLED,
            "loss": "mse_gt",
            "ce_weight": 0.025,
            "temperature": 1.0,
        },
    ),
    Preset(
        "d4m",
        "Dataset distillation via disentangled diffusion model (Su et al. 2024), ImageNet-1K",
        "github.com/suduo94/D4M: validate/train_FKD.sh and train_FKD.py (full cosine, T 20, CutMix of crops, batches "
        f"of 1,024 in two halves); {_FEW_DECAY}",
        _RELABELLED | {"batch_size": 1024},
    ),
    Preset(
        "dwa",
        "Diversity-driven synthesis by directed weight adjustment (Du et al. 2024), ImageNet-1K",
        "github.com/AngusDujw/Diversity-Driven-Synthesis: readme.md and validation/validation_imgnet.py (full cosine, "
        "T 20, CutMix of crops, batches of 128); CIFAR has another recipe (validation_cifar.py: 400 epochs, T 30, "
        f"mixup of padded crops); {_FEW_DECAY}",
        _RELABELLED | {"batch_size": 128},
    ),
)
PRESETS: dict[str, Preset] = {entry.name: entry for entry in _PRESETS}
