"""Real data: the bundled digits, `.npz` files, folders and tensorflow-datasets, checked, normalised or whitened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddr_jax.data import folders, spaces, tfds
from ddr_jax.data.folders import PUBLISHED, Arrays, Known
from ddr_jax.data.readers import Sides, read_npz
from ddr_jax.data.spaces import Normalised
from ddr_jax.types import AnyPath, InputError, RealData, Split, is_path, nearest

DATASETS = ("digits", *PUBLISHED)
MAX_VALIDATION = 5_000  # images held out at most
_DIGITS = Path(__file__).parent / "bundled" / "digits.npz"
_STATED = ("mean", "std", "flips", "white")
_HOLD_OUT_SEED = 20_220


def load_dataset(
    name_or_path: AnyPath,
    *,
    size: int | Sides | None = None,
    data_dir: AnyPath | None = None,
    download: bool = False,
    zca: str | None = None,
) -> RealData:
    """Reads a real dataset and brings its images into one space.

    An `.npz` holds `x_train`, `y_train`, `x_test`, `y_test`, and may hold `x_validation`, `y_validation`. Images are
    (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W), floats in [0, 1] or uint8, which are divided by 255, or by
    `white` if the file holds that number; labels are class indices (N,). The file may also hold `mean` and `std` (K,),
    in units of pixels in [0, 1], and `flips`, a bool. Where it does not, they are the usual ones of a published dataset
    that the file's name names (`cifar10_small.npz`), or whose sizes and mean pixel the images have. Otherwise mean and
    std are those of the train images, and flips is true.

    A folder holds the files of MNIST or Fashion-MNIST (idx, gzipped), those of cifar-10-batches-py or cifar-100-python,
    or images as torchvision's ImageFolder reads them: `train/CLASS/...` and `val/CLASS/...` or `test/CLASS/...`. Where
    it has both, `val` is the validation split. As in Tiny ImageNet, val may also be `val/images/...` with
    val_annotations.txt.

    Args:
        name_or_path: a name of `DATASETS`, or the path of an `.npz` or of a folder. Datasets of ImageNet's family are
            read from a folder that `data_dir` names or contains; `val` is their test split, and the subsets of ten
            classes are taken out of a complete ImageNet. MNIST, Fashion-MNIST, SVHN and CIFAR are read from such a
            folder if there is one, and otherwise from files that tensorflow-datasets prepared.
        size: side, or height and width, to which folders of images are resized: bilinear, with antialiasing, without
            keeping proportions. None is 64, 128 or 224 for the names of ImageNet's family, and the size of the images
            in other folders.
        data_dir: where data named by `name_or_path` are. None is $TFDS_DATA_DIR or ~/tensorflow_datasets.
        download: whether tensorflow-datasets may fetch and prepare what is missing, which needs TensorFlow.
        zca: None to normalise images; "kornia" (DD-Ranking, MTT, DC-BENCH) or "kip" (KIP, RFAD) to whiten them by a
            matrix that is fitted to the train split as it is stored (see `spaces.fit`).

    Returns:
        Images (N, H, W, K) float32 and labels (N,) int32 of each split.

    Raises:
        InputError: for anything missing, unreadable or inconsistent, and arguments of other types.
    """
    if not is_path(name_or_path):
        kind = type(name_or_path).__name__
        raise InputError(f"real is a {kind}; expected a name, a path, or what load_dataset gave")
    if zca not in (None, *spaces.KINDS):
        raise InputError(f"unknown ZCA whitening {zca!r}: {nearest(zca, spaces.KINDS)}")
    return _real_data(_find(os.fspath(name_or_path), _sides(size), data_dir, download), zca)


def as_real(real: RealData | AnyPath) -> RealData:
    """Real data given by a name or a path, which `load_dataset` reads, or loaded already, which come back as they are.

    Raises `InputError` as `load_dataset` does.
    """
    return real if isinstance(real, RealData) else load_dataset(real)


def with_validation(real: RealData) -> RealData:
    """`real` with a validation split: the one it has, or else a tenth of every class of train.

    Equal train splits hold out the same images: at most 5,000, and at least one per class.

    Raises:
        InputError: unless every class has two train images.
    """
    if real.validation is not None:
        return real
    labels = real.train.labels
    share = min(0.1, MAX_VALIDATION / len(labels))
    held = np.zeros(len(labels), bool)
    # Raw draws of the bit generator: NumPy promises that versions agree on them, unlike on permutations.
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
    images = np.concatenate([real.train.images, real.validation.images])
    labels = np.concatenate([real.train.labels, real.validation.labels])
    return replace(real, train=Split(images, labels), validation=None)


def random_subset(labels: np.ndarray | Split, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws `counts[c]` images of each class c without replacement: indices (sum of counts,), class-major.

    `labels` are (N,) class indices, or the split that holds them. Raises `InputError` if a class has too few.
    """
    members = class_members(labels.labels if isinstance(labels, Split) else labels, counts)
    return np.concatenate([rng.choice(own, n, replace=False) for own, n in zip(members, counts, strict=True)])


def class_members(labels: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Where in `labels` (N,) each class is; raises `InputError` unless class c is there `counts[c]` times."""
    members = [np.flatnonzero(labels == c) for c in range(len(counts))]
    for c, (own, count) in enumerate(zip(members, counts, strict=True)):
        if count > len(own):
            raise InputError(f"baselines need {count} images of class {c}, and the real data has {len(own)}; give more")
    return members


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


def as_floats(images: np.ndarray, where: str, white: int = 255) -> np.ndarray:
    """`images` as float32 in C order, uint8 divided by `white`; the array itself if it is that already.

    Raises `InputError` for other numbers than uint8 and floats.
    """
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise InputError(f"{where}: images must be uint8 or floats, got {images.dtype}")
    floats = images.astype(np.float32, order="C", copy=False)
    if images.dtype == np.uint8:
        floats /= white
    return floats


# Reading


class _Found(NamedTuple):
    """Real data as they are stored: `stated` is what an `.npz` says besides the splits."""

    name: str
    where: str
    known: Known | None
    splits: Arrays
    stated: dict[str, np.ndarray]


def _find(text: str, sides: Sides | None, data_dir: AnyPath | None, download: bool) -> _Found:
    path, known = _DIGITS if text == "digits" else Path(text).expanduser(), PUBLISHED.get(text)
    folder = _published_folder(text, known, data_dir) if known else path
    if folder is not None and folder.is_dir():
        arrays = folders.read_folder(folder, sides, known and known.tree)
        name = text if known else folder.resolve().name
        known = known or PUBLISHED.get(folders.kind(folder) or "") or folders.named_by(name)
        return _Found(name, str(folder), known, arrays, {})
    if sides is not None:
        raise InputError(f"{text}: {folders.NO_SIZE}")
    if known:
        splits, folder = tfds.read(text, known, data_dir, download)
        return _Found(text, str(folder), known, splits, {})
    if path.suffix or os.sep in text:
        return _find_npz(path)
    raise InputError(f"unknown dataset {text!r}: {nearest(text, DATASETS)} Or give a path: an .npz file or a folder")


def _published_folder(name: str, known: Known, data_dir: AnyPath | None) -> Path | None:
    """The folder that `data_dir` leads to and that holds a dataset as it is published, or None for one of TFDS."""
    root = None if data_dir is None else Path(data_dir).expanduser()
    forms = ("images", "idx" if name.endswith("mnist") else name)
    for folder in (root, root / known.folder, root / name) if root else ():
        if folders.kind(folder) in forms:
            return folder
    if known.tree is not None:
        where = f"{root} is not" if root else "set data_dir (--data-dir) to"
        raise InputError(f"{name} is read from images on disk: {where} a folder with train/CLASS/... and val/CLASS/...")
    return None


def _sides(size: int | Sides | None) -> Sides | None:
    sides = size if size is None or isinstance(size, Sequence) else (size, size)
    if sides and not (len(sides) == 2 and all(isinstance(side, Integral) and side > 0 for side in sides)):
        raise InputError(f"size must be a side or (height, width) in pixels, got {size}")
    return sides


def _find_npz(path: Path) -> _Found:
    if path.suffix != ".npz":
        raise InputError(f"{path}: no such folder, and only .npz files are read; save the arrays with numpy.savez")
    raw = read_npz(path, ("x_train", "y_train", "x_test", "y_test"), ("x_validation", "y_validation", *_STATED))
    for half, other in (("mean", "std"), ("x_validation", "y_validation")):
        if (half in raw) != (other in raw):
            raise InputError(f"{path}: holds one of {half} and {other}; store both or neither")
    stated = {key: raw.pop(key) for key in _STATED if key in raw}
    splits = {key[2:]: (raw[key], raw[f"y_{key[2:]}"]) for key in raw if key.startswith("x_")}
    return _Found(path.stem, str(path), folders.named_by(path.stem), splits, stated)


# Checking


def _real_data(found: _Found, zca: str | None) -> RealData:
    name, where, known, arrays, stated = found
    white = stated.get("white", np.int64(255))
    if white.ndim or white.dtype.kind not in "iu" or not 1 <= white <= 255:
        raise InputError(f"{where}: white must be one whole number from 1 to 255, the value of a pixel of 1")
    # Popping frees each array as soon as its floats exist.
    splits = {split: _split(*arrays.pop(split), int(white), f"{where}: {split}") for split in list(arrays)}
    num_classes, pixels = _check_classes(splits, where), splits["train"].images
    if known is None and "mean" not in stated:
        known = folders.told_by(splits, where)
    constants = _constants(pixels, stated, where, known)
    space = constants if zca is None else spaces.fit(pixels, zca, constants, where)
    for split in splits.values():
        space.images(split.images, out=split.images)
    flips = bool(stated["flips"]) if "flips" in stated else known is None or known.flips
    return RealData(name, splits["train"], splits.get("validation"), splits["test"], space, num_classes, flips)


def _split(images: np.ndarray, labels: np.ndarray, white: int, where: str) -> Split:
    """Images as pixels (N, H, W, K) float32 in [0, 1] and labels (N,)."""
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise InputError(f"{where}: images must be (N, H, W), (N, H, W, 1) or (N, H, W, 3), got shape {images.shape}")
    if not images.size:
        raise InputError(f"{where}: no images (shape {images.shape})")
    pixels = as_floats(images, where, white)
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 1):
        got = f"got {low:g} to {high:g}; store uint8 0..{white}, or floats neither normalised nor NaN"
        raise InputError(f"{where}: pixels must lie in [0, 1], {got}")
    count = len(images)
    if labels.shape not in ((count,), (count, 1)):
        raise InputError(f"{where}: {count} images need labels ({count},), got shape {labels.shape}")
    return Split(pixels, class_indices(labels.reshape(count), where))


def _check_classes(splits: dict[str, Split], where: str) -> int:
    """The number of classes, once the splits agree on it and on the shape of an image."""
    train = splits["train"]
    classes = np.unique(train.labels)
    if classes[-1] != len(classes) - 1:
        absent = np.flatnonzero(classes != np.arange(len(classes)))[0]
        raise InputError(f"{where}: train labels go up to {classes[-1]}, but none is {absent}; leave no gaps")
    for name, split in splits.items():
        if (shape := split.images.shape[1:]) != train.images.shape[1:]:
            raise InputError(f"{where}: images of {name} are {shape}, of train {train.images.shape[1:]}")
        if split.labels.max() > classes[-1]:
            raise InputError(f"{where}: {name} has label {split.labels.max()}, which train lacks (0 to {classes[-1]})")
    return len(classes)


def _constants(pixels: np.ndarray, stated: dict[str, np.ndarray], where: str, known: Known | None) -> Normalised:
    """What is stated, else what is usual for the dataset, else mean and deviation of the train images' pixels."""
    channels = pixels.shape[-1]
    if "mean" in stated:
        mean, std = stated["mean"], stated["std"]
    elif known is not None and len(known.mean) == channels:
        mean, std = known.mean, known.std
    else:
        mean, std = spaces.channels(pixels, where)
    return Normalised.of(mean, std, channels, where)
