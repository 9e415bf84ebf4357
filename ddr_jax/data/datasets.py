"""Real data: the bundled digits, `.npz` files, folders and tensorflow-datasets, checked, normalised or whitened."""

from __future__ import annotations

import os
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddr_jax.data import folders, spaces, tfds
from ddr_jax.data.folders import Tree
from ddr_jax.data.readers import read_npz
from ddr_jax.data.spaces import Normalised
from ddr_jax.types import InputError, InputWarning, RealData, Split, nearest

MAX_VALIDATION = 5_000  # images held out at most
_DIGITS = Path(__file__).parent / "bundled" / "digits.npz"
_SPLITS = ("train", "validation", "test")
_OPTIONAL = ("x_validation", "y_validation", "mean", "std", "flips", "white")
_HOLD_OUT_SEED = 20_220
_SAME_MEAN = 2e-3  # published constants have three or four digits


@dataclass(frozen=True)
class _Known:
    """What is fixed about a published dataset: constants per channel, mirroring, images per split."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flips: bool
    train: int
    test: int
    folder: str = ""  # that its files are published in
    tree: Tree | None = None


def _imagenet(*chosen: int, size: int = 128, classes: int = 1000, folder: str = "") -> _Known:
    """A dataset of ImageNet's family, whose images cannot be counted: copies differ."""
    return _Known((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), True, 0, 0, folder, Tree(size, classes, chosen or None))


# The ten-class subsets are those of MTT (arXiv 2203.11932), their classes in the order of DD-Ranking 0.2.0.
_KNOWN = {
    "mnist": _Known((0.1307,), (0.3081,), False, 60_000, 10_000, "MNIST/raw"),
    "fashion_mnist": _Known((0.2860,), (0.3530,), True, 60_000, 10_000, "FashionMNIST/raw"),
    "svhn_cropped": _Known((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), False, 73_257, 26_032),
    "cifar10": _Known((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), True, 50_000, 10_000, "cifar-10-batches-py"),
    "cifar100": _Known((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), True, 50_000, 10_000, "cifar-100-python"),
    "tinyimagenet": _imagenet(size=64, classes=200, folder="tiny-imagenet-200"),
    "imagenet1k": _imagenet(size=224),
    "imagenette": _imagenet(0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "imagewoof": _imagenet(193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "imagemeow": _imagenet(281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "imagesquawk": _imagenet(84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "imagefruit": _imagenet(953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "imageyellow": _imagenet(309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
}

DATASETS = ("digits", *_KNOWN)


def load_dataset(
    name_or_path: str | os.PathLike,
    *,
    size: int | tuple[int, int] | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    zca: str | None = None,
) -> RealData:
    """Read a real dataset: a name of `DATASETS`, or the path of an `.npz` or of a folder.

    An `.npz` holds `x_train`, `y_train`, `x_test`, `y_test` and may hold `x_validation`, `y_validation`.
    Images are (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W); uint8 (pixel = value / 255, or / `white` if
    the file holds that number) or floats in [0, 1]; labels are class indices (N,).
    It may also hold `mean` and `std` (K,) in units of pixels in [0, 1], and `flips` (a bool). Without them, a
    stem that names a published dataset (`cifar10_small.npz`), or all of its images under another name, bring that
    one's; otherwise mean and std are those of the train images, and `flips` is true.

    A folder is told by its content: the files of MNIST and Fashion-MNIST (idx, gzipped), cifar-10-batches-py,
    cifar-100-python (only arrays, numbers and text are unpickled), or images as for torchvision's ImageFolder,
    `train/CLASS/...` and `val/CLASS/...` or `test/CLASS/...`; with both, `val` is the validation split. `val` may
    also be as in Tiny ImageNet, `val/images/...` and val_annotations.txt. Images are resized to `size`, a side or
    (H, W), bilinear with antialiasing and without keeping proportions; by default they stay as they are.

    A name other than `digits` is read from such a folder if `data_dir` is or contains it: ImageNet's family always
    (with `val` to test on; resized to 64, 128 or 224; the ten-class subsets from a complete ImageNet), the others
    else with tensorflow-datasets from files prepared under `data_dir` (by default $TFDS_DATA_DIR or
    ~/tensorflow_datasets); only `download` fetches and prepares those, which needs TensorFlow.

    `zca` whitens the images instead of normalising them, as `spaces.fit` does for "kornia" (DD-Ranking, MTT,
    DC-BENCH) and "kip" (KIP, RFAD): fitted to the train split as it is stored, applied to every split.
    Raises `InputError` for anything missing, unreadable or inconsistent.
    """
    if zca is not None:
        spaces.check_kind(zca)
    return _real_data(_found(os.fspath(name_or_path), _sides(size), data_dir, download), zca)


class _Found(NamedTuple):
    """Real data as it is stored: its name, arrays as in an `.npz`, where it was, and what it is known to be."""

    name: str
    raw: dict[str, np.ndarray]
    where: str
    known: _Known | None


def _found(text: str, sides: tuple[int, int] | None, data_dir: str | os.PathLike | None, download: bool) -> _Found:
    path = _DIGITS if text == "digits" else Path(text).expanduser()
    if text in _KNOWN:
        return _find_known(text, sides, data_dir, download)
    if path.is_dir():
        name = path.resolve().name
        known = _KNOWN.get(folders.kind(path) or "") or _known_by_stem(name)
        return _Found(name, folders.read_folder(path, sides), str(path), known)
    if sides is not None:
        raise InputError(f"{text}: {folders.NO_SIZE}")
    if path.suffix or os.sep in text:
        return _find_npz(path)
    raise InputError(f"unknown dataset {text!r}: {nearest(text, DATASETS)} Or give a path: an .npz file or a folder")


def _sides(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    sides = (size, size) if isinstance(size, int) else size
    if sides is not None and (len(sides) != 2 or min(sides) < 1):
        raise InputError(f"size must be a side or (height, width) in pixels, got {size}")
    return sides


def _find_known(name: str, size: tuple[int, int] | None, data_dir: str | os.PathLike | None, download: bool) -> _Found:
    """A dataset by name: from a folder in its published form if `data_dir` leads to one, else tensorflow-datasets."""
    known = _KNOWN[name]
    if data_dir is not None:
        root = Path(data_dir).expanduser()
        forms = ("images", "idx" if name.endswith("mnist") else name)
        for folder in (root, root / known.folder, root / name):
            if folders.kind(folder) in forms:
                return _Found(name, folders.read_folder(folder, size, known.tree), str(folder), known)
    if known.tree is not None:
        where = "set data_dir (--data-dir) to" if data_dir is None else f"{data_dir} is not"
        raise InputError(f"{name} is read from images on disk: {where} a folder with train/CLASS/... and val/CLASS/...")
    if size is not None:
        raise InputError(f"{name}: {folders.NO_SIZE}")
    raw, folder = tfds.read(name, data_dir, download, {"train": known.train, "test": known.test})
    return _Found(name, raw, str(folder), known)


def with_validation(real: RealData, share: float = 0.1) -> RealData:
    """`real` with a validation split: its own, else a stratified `share` of train.

    The same images are held out whenever train is the same: at most 5,000, and one per class at least.
    Raises `InputError` unless 0 < share < 1 and every class has two train images.
    """
    if real.validation is not None:
        return real
    if not 0 < share < 1:
        raise InputError(f"the share of train to hold out must lie between 0 and 1, got {share}")
    labels = real.train.labels
    share = min(share, MAX_VALIDATION / len(labels))
    held = np.zeros(len(labels), bool)
    # Raw draws of the bit generator: NumPy promises them across versions, as it does not its permutations.
    rank = np.random.PCG64(_HOLD_OUT_SEED).random_raw(len(labels))
    for c in range(real.num_classes):
        members = np.flatnonzero(labels == c)
        if len(members) < 2:
            raise InputError(f"{real.name}: class {c} has a single train image, so none can be held out")
        shuffled = members[np.argsort(rank[members], kind="stable")]
        held[shuffled[: max(1, int(share * len(members)))]] = True
    train, validation = (Split(real.train.images[mask], labels[mask]) for mask in (~held, held))
    return replace(real, train=train, validation=validation)


def without_validation(real: RealData) -> RealData:
    """`real` with its validation split, if it has one, appended to train."""
    if real.validation is None:
        return real
    images, labels = (
        np.concatenate([getattr(real.train, field), getattr(real.validation, field)]) for field in ("images", "labels")
    )
    return replace(real, train=Split(images, labels), validation=None)


def random_subset(labels: np.ndarray | Split, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw `counts[c]` images of each class c without replacement: indices (sum of counts,), class-major.

    `labels` are (N,) class indices, or the split that holds them. Raises `InputError` if a class has too few.
    """
    labels = labels.labels if isinstance(labels, Split) else np.asarray(labels)
    drawn = []
    for c, count in enumerate(counts):
        members = np.flatnonzero(labels == c)
        if count > len(members):
            raise InputError(
                f"a random subset needs {count} images of class {c}, and the real data has {len(members)}: "
                "use a smaller distilled set or more real data"
            )
        drawn.append(rng.choice(members, count, replace=False))
    return np.concatenate(drawn)


# Checks that distilled.py shares


def class_indices(labels: np.ndarray, where: str) -> np.ndarray:
    """`labels` as int32, of the same shape; raises `InputError` unless they are whole and not negative."""
    labels = np.asarray(labels)
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.rint(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iu":
        raise InputError(f"{where}: labels must be whole numbers (class indices), got {labels.dtype} values")
    if labels.size and (labels.min() < 0 or labels.max() > np.iinfo(np.int32).max):
        raise InputError(f"{where}: labels must count classes from 0, got values from {labels.min()} to {labels.max()}")
    return labels.astype(np.int32)


# .npz


def _find_npz(path: Path) -> _Found:
    if path.suffix != ".npz":
        raise InputError(f"{path}: no such folder, and only .npz files are read; save the arrays with numpy.savez")
    raw = read_npz(path, tfds.REQUIRED, _OPTIONAL)
    for half, other in (("mean", "std"), ("x_validation", "y_validation")):
        if (half in raw) != (other in raw):
            raise InputError(f"{path}: holds one of {half} and {other}; store both or neither")
    return _Found(path.stem, raw, str(path), _known_by_stem(path.stem))


def _known_by_stem(stem: str) -> _Known | None:
    """The published dataset that whole words of the stem name, as in CIFAR-10_small; kmnist is not mnist."""
    words = re.split(r"[-_. ]+", stem.lower())
    spans = {"".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
    named = [name for name in _KNOWN if name.removesuffix("_cropped").replace("_", "") in spans]
    return _KNOWN[max(named, key=len)] if named else None


def _known_by_content(splits: dict[str, Split], where: str) -> _Known | None:
    """The published dataset whose sizes and mean pixel these are, whatever the file is called."""
    images = splits["train"].images
    total = len(images) + len(splits.get("validation", ()))
    for name, known in _KNOWN.items():
        if (total, len(splits["test"])) != (known.train, known.test) or images.shape[-1] != len(known.mean):
            continue
        if np.allclose(images.mean(axis=(0, 1, 2), dtype=np.float64), known.mean, atol=_SAME_MEAN):
            warnings.warn(
                f"{where}: by its sizes and mean pixel this is {name}, whose usual mean and std are used; store "
                "mean and std in the file to use others",
                InputWarning,
                stacklevel=2,
            )
            return known
    return None


def _real_data(found: _Found, zca: str | None) -> RealData:
    name, raw, where, known = found
    white = _white(raw, where)
    splits = {}
    for split in _SPLITS:
        if f"x_{split}" in raw:
            here = f"{where}: {split}"
            images = _pixels(raw.pop(f"x_{split}"), white, here)
            splits[split] = Split(images, _labels(raw.pop(f"y_{split}"), len(images), here))
    num_classes = _check_classes(splits, where)
    if known is None and "mean" not in raw:
        known = _known_by_content(splits, where)
    constants = _constants(splits, raw, where, known)
    space = constants if zca is None else spaces.fit(splits["train"].images, zca, constants)
    for split in splits.values():
        space.images(split.images, out=split.images)
    flips = bool(raw["flips"]) if "flips" in raw else known is None or known.flips
    return RealData(name, splits["train"], splits.get("validation"), splits["test"], space, num_classes, flips)


def _white(raw: dict[str, np.ndarray], where: str) -> int:
    white = raw.get("white", np.int64(255))
    if white.ndim or white.dtype.kind not in "iu" or not 1 <= white <= 255:
        raise InputError(f"{where}: white must be one whole number from 1 to 255, the value of a pixel of 1")
    return int(white)


def _pixels(images: np.ndarray, white: int, where: str) -> np.ndarray:
    """(N, H, W, K) float32 in [0, 1], in C order; the array itself if it is that already."""
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(f"{where}: images must be (N, H, W), (N, H, W, 1) or (N, H, W, 3), got shape {images.shape}")
    if not images.size:
        raise InputError(f"{where}: no images (shape {images.shape})")
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise InputError(f"{where}: images must be uint8 or floats, got {images.dtype}")
    pixels = images.astype(np.float32, order="C", copy=False)
    if images.dtype == np.uint8:
        pixels /= white
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"{where}: pixels must lie in [0, 1], got {low:g} to {high:g}; store uint8 0..{white}, or floats "
            "that are neither normalised nor NaN"
        )
    return pixels


def _labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    if labels.shape not in ((count,), (count, 1)):
        raise InputError(f"{where}: {count} images need labels ({count},), got shape {labels.shape}")
    return class_indices(labels.reshape(count), where)


def _check_classes(splits: dict[str, Split], where: str) -> int:
    """The number of classes, once the splits agree on it and on the shape of an image."""
    train = splits["train"]
    classes = np.unique(train.labels)
    if classes[-1] != len(classes) - 1:
        raise InputError(
            f"{where}: train labels go up to {classes[-1]}, but no image has class "
            f"{np.flatnonzero(classes != np.arange(len(classes)))[0]}; number the classes without gaps"
        )
    for name, split in splits.items():
        if split.images.shape[1:] != train.images.shape[1:]:
            raise InputError(
                f"{where}: images of {name} are {split.images.shape[1:]}, of train {train.images.shape[1:]}"
            )
        if split.labels.max() > classes[-1]:
            raise InputError(f"{where}: {name} has label {split.labels.max()}, which train lacks (0 to {classes[-1]})")
    return len(classes)


def _constants(splits: dict[str, Split], raw: dict[str, np.ndarray], where: str, known: _Known | None) -> Normalised:
    pixels = splits["train"].images
    channels = pixels.shape[-1]
    if "mean" in raw:
        return Normalised.of(raw["mean"], raw["std"], channels, where)
    if known is not None and len(known.mean) == channels:
        return Normalised(np.array(known.mean, np.float32), np.array(known.std, np.float32))
    mean = pixels.mean(axis=(0, 1, 2), dtype=np.float64)
    # Image by image, since a squared copy of all of them would double the memory.
    squares = sum(np.square(image, dtype=np.float64).mean(axis=(0, 1)) for image in pixels) / len(pixels)
    std = np.sqrt(np.maximum(squares - mean**2, 0))
    if (std < 1e-6).any():
        raise InputError(f"{where}: a channel of the train images is constant, so it cannot be normalised")
    return Normalised(mean.astype(np.float32), std.astype(np.float32))
