"""Real data as it is published in folders: MNIST's idx files, CIFAR's batches, images by split and class.

Readers give `Arrays`: images (N, ...) and class indices (N,) of the splits "train", "test" and perhaps "validation".
A new published dataset is a row of `PUBLISHED`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddr_jax.data import readers
from ddr_jax.data.readers import Labelled, Sides, class_names
from ddr_jax.types import InputError, Split, warn

Arrays = dict[str, Labelled]
_MARKS = {"train-images-idx3-ubyte.gz": "idx", "data_batch_1": "cifar10", "meta": "cifar100"}  # files of each kind
NO_SIZE = "a size is for folders of images by class, which are resized as they are read; leave it out"
SAME_MEAN = 2e-3  # published constants have three or four digits
_TEST_SPLITS = ("val", "test")
_LIST = "val_annotations.txt"  # Tiny ImageNet's, of the classes of val/images


@dataclass(frozen=True)
class Tree:
    """An ImageNet-like folder: how many class folders a complete one has, and which of them make up the dataset.

    `size` is the side that images are resized to by default. `chosen` are positions among the class folders' sorted
    names, in the order of the dataset's classes; None is all of them.
    """

    size: int
    classes: int
    chosen: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Known:
    """What is fixed about a published dataset.

    `mean` and `std` are of each channel of pixels in [0, 1]; `flips` as in `types.RealData`; `train` and `test` count
    images. `folder` is the one that its files are published in; `tree` how images by class lie in it.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flips: bool
    train: int
    test: int
    folder: str = ""
    tree: Tree | None = None


def _imagenet(*chosen: int, size: int = 128, classes: int = 1000, folder: str = "") -> Known:
    """A dataset of ImageNet's family, without numbers of images: published copies differ in them."""
    return Known((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), True, 0, 0, folder, Tree(size, classes, chosen or None))


# The ten-class subsets are those of MTT (arXiv 2203.11932), their classes in the order of DD-Ranking 0.2.0.
PUBLISHED = {
    "mnist": Known((0.1307,), (0.3081,), False, 60_000, 10_000, "MNIST/raw"),
    "fashion_mnist": Known((0.2860,), (0.3530,), True, 60_000, 10_000, "FashionMNIST/raw"),
    "svhn_cropped": Known((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), False, 73_257, 26_032),
    "cifar10": Known((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), True, 50_000, 10_000, "cifar-10-batches-py"),
    "cifar100": Known((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), True, 50_000, 10_000, "cifar-100-python"),
    "tinyimagenet": _imagenet(size=64, classes=200, folder="tiny-imagenet-200"),
    "imagenet1k": _imagenet(size=224),
    "imagenette": _imagenet(0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
    "imagewoof": _imagenet(193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
    "imagemeow": _imagenet(281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
    "imagesquawk": _imagenet(84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
    "imagefruit": _imagenet(953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
    "imageyellow": _imagenet(309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
}


def named_by(stem: str) -> Known | None:
    """The published dataset that whole words of the stem name, as in CIFAR-10_small; kmnist is not mnist."""
    words = re.split(r"[-_. ]+", stem.lower())
    spans = {"".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
    named = [name for name in PUBLISHED if name.removesuffix("_cropped").replace("_", "") in spans]
    return PUBLISHED[max(named, key=len)] if named else None


def told_by(splits: dict[str, Split], where: str) -> Known | None:
    """The published dataset whose sizes and mean pixel these are, whatever the file is called."""
    images = splits["train"].images
    sizes = len(images) + len(splits.get("validation", ())), len(splits["test"]), images.shape[-1]
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64)
    for name, known in PUBLISHED.items():
        same_sizes = sizes == (known.train, known.test, len(known.mean))
        if same_sizes and np.allclose(mean, known.mean, atol=SAME_MEAN):
            warn(
                f"{where}: by its sizes and mean pixel this is {name}, whose usual mean and std are used; store others"
            )
            return known
    return None


def kind(folder: Path) -> str | None:
    """How a folder holds real data: "idx", "cifar10", "cifar100" or "images"; None if none of these."""
    if (folder / "train").is_dir():
        return "images" if any((folder / split).is_dir() for split in _TEST_SPLITS) else None
    return next((kind for mark, kind in _MARKS.items() if (folder / mark).is_file()), None)


def read_folder(folder: Path, size: Sides | None = None, tree: Tree | None = None) -> Arrays:
    """The arrays of a folder of any `kind`; `size` and `tree` are for those of images.

    Raises `InputError` for a folder of no known kind and for files that are missing, damaged or inconsistent.
    """
    found = kind(folder)
    if found == "images":
        return _read_tree(folder, size or (tree and (tree.size, tree.size)), tree)
    if size is not None:
        raise InputError(f"{folder}: {NO_SIZE}")
    if found is None:
        forms = f"{', '.join(_MARKS)} (MNIST's and CIFAR's), or train/CLASS/*.png with val/CLASS or test/CLASS"
        raise InputError(f"{folder}: holds no real data in a form that is known: {forms}")
    return _read_idx(folder) if found == "idx" else _read_cifar(folder, found)


def _read_idx(folder: Path) -> Arrays:
    splits = {}
    for split, stem in (("train", "train"), ("test", "t10k")):
        images = readers.read_idx(folder / f"{stem}-images-idx3-ubyte.gz")
        splits[split] = images, readers.read_idx(folder / f"{stem}-labels-idx1-ubyte.gz")
    return splits


def _read_cifar(folder: Path, name: str) -> Arrays:
    files, key = {"train": ["train"], "test": ["test"]}, b"fine_labels"
    if name == "cifar10":
        files, key = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}, b"labels"
    splits = {}
    for split, names in files.items():
        images, labels = zip(*(_cifar_batch(folder / name, key) for name in names), strict=True)
        splits[split] = np.concatenate(images), np.concatenate(labels)
    return splits


def _cifar_batch(path: Path, key: bytes) -> Labelled:
    """Images (N, 32, 32, 3) uint8 and labels (N,) of one file, whose rows hold one channel after another."""
    content = readers.read_pickle(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a batch of CIFAR, which is a dictionary; download it again")
    batch = readers.pick(content, (b"data", key), (), path)
    pixels = np.asarray(batch[b"data"])
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3 * 32 * 32:
        raise InputError(f"{path}: data must be uint8 of shape (N, 3072), got {pixels.dtype} {pixels.shape}")
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.asarray(batch[key])


def _read_tree(folder: Path, size: Sides | None, tree: Tree | None) -> Arrays:
    """Splits of images by class: `val` is the test split, or the validation split where `test` has classes too.

    Of a `tree`, `val` is always the test split. It may be as Tiny ImageNet's is: `val/images` and a list.
    """
    classes = class_names(folder / "train")
    # The published test images of ImageNet's family have no labels and lie in no folders of classes.
    places = [folder / split for split in _TEST_SPLITS]
    labelled = [place for place in places if _has_class(place, classes) or (place / _LIST).is_file()]
    if tree is not None:
        if len(classes) != tree.classes:
            advice = f"{tree.classes} are expected; give the folder's own path to use it with the classes it has"
            raise InputError(f"{folder / 'train'}: holds {len(classes)} class folders where {advice}")
        classes = [classes[i] for i in tree.chosen or range(tree.classes)]
    if tree is not None or not labelled:
        labelled = places[:1]
    sources = {"train": folder / "train", "test": labelled[-1]}
    if len(labelled) > 1:
        sources["validation"] = labelled[0]
    return {split: _read_split(source, size, classes) for split, source in sources.items()}


def _has_class(folder: Path, classes: Sequence[str]) -> bool:
    return any((folder / name).is_dir() for name in classes)


def _read_split(folder: Path, size: Sides | None, classes: Sequence[str]) -> Labelled:
    if (folder / _LIST).is_file() and not _has_class(folder, classes):
        return _read_listed(folder, size, classes)
    if missing := [name for name in classes if not (folder / name).is_dir()]:
        lack = f"has no folder for {len(missing)} of {len(classes)} classes, first {missing[0]}"
        raise InputError(f"{folder}: {lack}; sort its images into the same class folders as those of train")
    return readers.read_classes(folder, size, classes)


def _read_listed(folder: Path, size: Sides | None, classes: Sequence[str]) -> Labelled:
    """Images and class indices by a list with a line for each image: its file, its class and more, between tabs."""
    lines = [line.split() for line in (folder / _LIST).read_text().splitlines() if line.strip()]
    index = {name: i for i, name in enumerate(classes)}
    for number, line in enumerate(lines, 1):
        if len(line) < 2 or line[1] not in index:
            wrong = f"line {number} must begin with an image's file and a class of train"
            raise InputError(f"{folder / _LIST}: {wrong}, got {' '.join(line[:2])!r}; download the dataset again")
    if not lines:
        raise InputError(f"{folder / _LIST}: lists no images; download the dataset again")
    labels = np.array([index[name] for _, name, *_ in lines])
    return readers.read_images([folder / "images" / file for file, *_ in lines], size), labels
