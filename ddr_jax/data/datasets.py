"""Real data: the bundled digits, `.npz` files, folders and tensorflow-datasets, checked, normalised or whitened."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ddr_jax.data import folders, spaces, tfds
from ddr_jax.data.readers import read_npz
from ddr_jax.data.spaces import Normalised
from ddr_jax.types import InputError, RealData, Split, nearest

MAX_VALIDATION = 5_000  # images held out at most
_DIGITS = Path(__file__).parent / "bundled" / "digits.npz"
_SPLITS = ("train", "validation", "test")
_OPTIONAL = ("x_validation", "y_validation", "mean", "std", "flips", "white")
_HOLD_OUT_SEED = 20_220


DATASETS = ("digits", *folders.PUBLISHED)


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
    known: folders.Known | None


def _found(text: str, sides: tuple[int, int] | None, data_dir: str | os.PathLike | None, download: bool) -> _Found:
    path = _DIGITS if text == "digits" else Path(text).expanduser()
    if text in folders.PUBLISHED:
        return _find_known(text, sides, data_dir, download)
    if path.is_dir():
        name = path.resolve().name
        known = folders.PUBLISHED.get(folders.kind(path) or "") or folders.named_by(name)
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
    known = folders.PUBLISHED[name]
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
    return _Found(path.stem, raw, str(path), folders.named_by(path.stem))


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
        known = folders.told_by(splits, where)
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


def _constants(
    splits: dict[str, Split], raw: dict[str, np.ndarray], where: str, known: folders.Known | None
) -> Normalised:
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
