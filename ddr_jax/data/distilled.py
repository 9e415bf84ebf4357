"""Distilled sets: reading, checking against the real data they stand for, saving.

Letters as in `ddr_jax.types`, and R here for the runs (repetitions of a method) that one file holds.
"""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ddr_jax.data import readers
from ddr_jax.data.datasets import class_indices
from ddr_jax.data.files import write_atomically
from ddr_jax.data.readers import host_array
from ddr_jax.data.spaces import Normalised
from ddr_jax.types import DistilledSets, InputError, InputWarning, RealData, Space, nearest

SPACES = ("pixels", "normalised", "zca")
LAYOUTS = ("NHWC", "NCHW")
SOFT_LABELS = ("logits", "probabilities")
_ARRAYS = ("labels", "soft_labels", "mean", "std")
_DECLARATIONS = ("space", "layout", "soft")
_SUM_TOLERANCE = 1e-3  # of a row of probabilities


@dataclass(frozen=True, eq=False)
class Distilled:
    """Distilled images and labels as somebody stored them: what they declare is all that is known of them.

    `images` (N, ...) or (R, N, ...), uint8 or floats; `labels` (N,) or (R, N) class indices; `soft_labels`
    (N, C) or (R, N, C). At least one kind of label is needed. `space` says what the numbers are: "pixels"
    (uint8, or floats in [0, 1]), "normalised", by `mean` and `std` (K,) if given, else by the real data's, or
    "zca", whitened as the real data they are scored against.
    `layout` is "NHWC" or "NCHW", `soft` "logits" or "probabilities"; None where nobody said.
    Arrays may be given as NumPy's, JAX's or PyTorch's, on any device; they are kept as NumPy's.
    Raises `InputError` for any other word.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray | None = None
    soft_labels: np.ndarray | None = None
    space: str | None = None
    layout: str | None = None
    soft: str | None = None
    mean: np.ndarray | None = None
    std: np.ndarray | None = None

    def __post_init__(self):
        for field in ("images", *_ARRAYS):
            if (value := getattr(self, field)) is not None:
                object.__setattr__(self, field, host_array(value))
        for field, valid in (("space", SPACES), ("layout", LAYOUTS), ("soft", SOFT_LABELS)):
            value = getattr(self, field)
            if value is not None and value not in valid:
                raise InputError(f"{self.name}: unknown {field} {value!r}: {nearest(str(value), valid)}")
        if (self.mean is None) != (self.std is None):
            raise InputError(f"{self.name}: has one of mean and std; give both or neither")


def load_distilled(
    *paths: str | os.PathLike,
    labels: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    space: str | None = None,
    layout: str | None = None,
    soft: str | None = None,
) -> tuple[Distilled, ...]:
    """Read one or more distilled sets as people store them; `prepare` checks them against real data.

    A path is one of these:
        `.npz` or `.safetensors` (text in its metadata) with `images` and `labels` or `soft_labels` or both; it may
            also hold `space`, `layout`, `soft`, `mean` and `std`: shapes and meanings as in `Distilled`;
        `.pt`, which needs PyTorch: a dictionary with the same keys, or that of the DC family, {"data": [[images,
            labels], one per run], ...}, or a bare tensor of images; only tensors, numbers and text are unpickled;
        `.npy`: images;
        a folder with one sub-folder of images (PNG, JPEG, ...) for each class, in the order of their names: pixels.

    Images that come alone have their labels in another file, `.npy` or `.pt`: `labels` is its path, or one path for
    each of `paths`. One number per image is its class, one row per image its soft label.
    What is declared here wins over the file, with an `InputWarning` where they contradict. Raises `InputError` for
    a file that is missing or unreadable, for images without labels, and for `labels` where a file holds its own.
    """
    files = [Path(path).expanduser() for path in paths]
    names = [path.resolve().name if path.is_dir() else path.stem for path in files]
    said = {"space": space, "layout": layout, "soft": soft}
    return tuple(
        _load(path, name if names.count(name) == 1 else path.with_name(name).as_posix(), beside, said)
        for path, name, beside in zip(files, names, _labels_files(files, labels), strict=True)
    )


def prepare(files: Sequence[Distilled] | Distilled, real: RealData) -> DistilledSets:
    """Check distilled sets and bring them into one form: float32, NHWC, in the space of `real`.

    Against whitened real data, sets of pixels and normalised ones are whitened as it was, and floats must say what
    they are. All sets must have the same number of images in each class. Stored probabilities become their
    logarithms. Hard labels that are missing are the classes with the largest soft label.
    Raises `InputError` for whatever cannot be right or cannot be told, and gives an `InputWarning` for
    whatever is allowed but probably not meant; each names the set.
    """
    files = [files] if isinstance(files, Distilled) else list(files)
    if not files:
        raise InputError("no distilled sets given")
    ready = [_prepare(_with_runs(file), real) for file in files]
    names = [name for file in files for name in _run_names(file)]
    _check_alike(names, ready, real.num_classes)
    images, labels, soft_labels = zip(*ready, strict=True)
    return DistilledSets(
        names=tuple(names),
        images=np.concatenate(images),
        labels=np.concatenate(labels),
        soft_labels=None if soft_labels[0] is None else np.concatenate(soft_labels),
    )


def save_distilled(
    path: str | os.PathLike,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    soft_labels: np.ndarray | None = None,
    *,
    space: str,
    soft: str | None = None,
    mean: np.ndarray | None = None,
    std: np.ndarray | None = None,
) -> None:
    """Write images (N, H, W, K) or (R, N, H, W, K) and their labels to an `.npz` that `load_distilled` reads.

    The file appears whole or not at all. Meanings are those of `Distilled`; `soft` is required with
    `soft_labels`. Raises `InputError` if the labels do not fit the images.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"{path}: distilled sets are saved as .npz; end the name in .npz")
    if soft_labels is not None and soft is None:
        raise InputError(f"{path}: say whether the soft labels are {' or '.join(SOFT_LABELS)}")
    content = Distilled(path.stem, images, labels, soft_labels, space, "NHWC", soft, mean, std)
    _with_runs(content)
    arrays = {key: getattr(content, key) for key in ("images", *_ARRAYS, *_DECLARATIONS)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{key: value for key, value in arrays.items() if value is not None})
    write_atomically(path, buffer.getvalue())


# One file


def _labels_files(
    files: list[Path], labels: str | os.PathLike | Sequence[str | os.PathLike] | None
) -> Sequence[Path | None]:
    """The labels file of each images file, or None."""
    if labels is None:
        return [None] * len(files)
    paths = [labels] if isinstance(labels, str | os.PathLike) else labels
    given = [Path(path).expanduser() for path in paths]
    if len(given) not in (1, len(files)):
        raise InputError(
            f"{len(given)} labels files for {len(files)} distilled sets; give one for all, or one for each in order"
        )
    return given * len(files) if len(given) == 1 else given


def _load(path: Path, name: str, beside: Path | None, said: dict[str, str | None]) -> Distilled:
    raw = _content(path)
    own = [key for key in ("labels", "soft_labels") if key in raw]
    if beside is not None and own:
        raise InputError(f"{path}: holds {' and '.join(own)} of its own, so {beside} cannot be used; leave it out")
    if beside is not None:
        raw |= _labels_entry(host_array(raw["images"]), readers.read_array(beside))
    elif not own:
        raise InputError(
            f"{path}: has neither labels nor soft_labels; name the file that holds them (labels=..., --labels-file ...)"
        )
    for field in _DECLARATIONS:
        stored = str(raw[field]) if field in raw else None
        if None not in (stored, said[field]) and stored != said[field]:
            _warn(f"{path}: the file declares {field} {stored!r}, you say {said[field]!r}: yours is used")
        raw[field] = said[field] or stored
    return Distilled(name, **raw)


def _content(path: Path) -> dict[str, Any]:
    """Fields of `Distilled` by name, as a file or a folder holds them: `images` at least."""
    optional = (*_ARRAYS, *_DECLARATIONS)
    if path.is_dir():
        images, labels = readers.read_classes(path)
        return {"images": images, "labels": labels, "space": "pixels", "layout": "NHWC"}
    if path.suffix == ".npz":
        return dict(readers.read_npz(path, ("images",), optional))
    if path.suffix == ".safetensors":
        return readers.read_safetensors(path, ("images",), optional)
    if path.suffix != ".pt":
        return {"images": readers.read_array(path)}
    content = readers.read_pt(path)
    if not isinstance(content, Mapping):
        return {"images": readers.as_array(content, path)}
    if "images" not in content and "data" in content:
        return _runs_of_dc(content["data"], path)
    entries = readers.pick(content, ("images",), optional, path)
    return {key: value if key in _DECLARATIONS else readers.as_array(value, path) for key, value in entries.items()}


def _runs_of_dc(runs: Any, path: Path) -> dict[str, np.ndarray]:
    """The DC family's list of [images, labels], one for each run, stacked."""
    try:
        images, labels = (np.stack([host_array(part) for part in parts]) for parts in zip(*runs, strict=True))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: data must be a list with [images, labels] of each run, all of one shape ({error})"
        ) from error
    return {"images": images, **_labels_entry(images, labels)}


def _labels_entry(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Labels under their name: soft where they have an axis more than the images have before (H, W, K)."""
    return {"soft_labels" if labels.ndim == images.ndim - 2 else "labels": labels}


def _with_runs(file: Distilled) -> Distilled:
    """The same with a leading axis of runs, once the numbers of runs, images and labels agree."""
    images = file.images
    if images.ndim not in (4, 5) or not images.size:
        raise InputError(
            f"{file.name}: images must be (N, H, W, K), (N, K, H, W) or one of these after an axis of runs, "
            f"and not empty; got shape {images.shape}"
        )
    images = images if images.ndim == 5 else images[None]
    if file.labels is None and file.soft_labels is None:
        raise InputError(f"{file.name}: has neither labels nor soft_labels; store one of them for each image")
    labels = _labels_with_runs(file, "labels", images.shape[:2], 2)
    soft_labels = _labels_with_runs(file, "soft_labels", images.shape[:2], 3)
    return replace(file, images=images, labels=labels, soft_labels=soft_labels)


def _labels_with_runs(file: Distilled, field: str, shape: tuple[int, int], ndim: int) -> np.ndarray | None:
    if getattr(file, field) is None:
        return None
    given = getattr(file, field)
    labels = given[None] if given.ndim == ndim - 1 else given
    if labels.ndim != ndim or labels.shape[:2] != shape:
        form = "(N,) or (runs, N)" if field == "labels" else "(N, classes) or (runs, N, classes)"
        raise InputError(
            f"{file.name}: {shape[0]} run(s) of {shape[1]} images need {field} of shape {form}, got {given.shape}"
        )
    return labels


def _run_names(file: Distilled) -> list[str]:
    if file.images.ndim == 5 and len(file.images) > 1:
        return [f"{file.name}[{i}]" for i in range(len(file.images))]
    return [file.name]


def _prepare(file: Distilled, real: RealData) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    images = _images(file, real)
    soft_labels = None if file.soft_labels is None else _soft_labels(file, real.num_classes)
    return images, _hard_labels(file, soft_labels, real.num_classes), soft_labels


# Images (R, N, ...)


def _images(file: Distilled, real: RealData) -> np.ndarray:
    if file.images.dtype != np.uint8 and file.images.dtype.kind != "f":
        raise InputError(f"{file.name}: images must be uint8 or floats, got {file.images.dtype}")
    _check_finite(file.images, "images", file.name)
    _check_whitened(file, real)
    space = _space(file)
    # A copy even of float32, since normalising works in place and the array is the caller's.
    images = np.moveaxis(file.images, 2, -1) if _layout(file, real.image_shape) == "NCHW" else file.images
    images = images.astype(np.float32, order="C")
    if file.images.dtype == np.uint8:
        images /= 255
    if space == "normalised":
        constants = _constants(file, real.space)
        if real.space.name == "normalised" and _close(constants, real.space):
            return images
        images = constants.pixels(images)
    return images if space == "zca" else real.space.images(images, out=images)


def _constants(file: Distilled, space: Space) -> Normalised:
    """What the set was normalised by: its own constants, else the real data's."""
    if file.mean is None or file.std is None:
        return Normalised(space.mean, space.std)
    return Normalised.of(file.mean, file.std, len(space.mean), file.name)


def _close(constants: Normalised, space: Space) -> bool:
    return np.allclose(constants.mean, space.mean, rtol=1e-6) and np.allclose(constants.std, space.std, rtol=1e-6)


def _check_whitened(file: Distilled, real: RealData) -> None:
    whitened = real.space.name == "zca"
    if file.space == "zca" and not whitened:
        raise InputError(
            f"{file.name}: declares ZCA-whitened images, but the real data {real.name} is not whitened; load it with "
            "zca='kornia' (--zca kornia), or 'kip' for sets of KIP and RFAD"
        )
    if whitened and file.space is None and file.images.dtype != np.uint8:
        raise InputError(
            f"{file.name}: images do not say their space, and the real data {real.name} is ZCA-whitened; declare the "
            f"space (--space zca, if the set was whitened as well; else {' or '.join(SPACES[:-1])})"
        )


def _check_finite(values: np.ndarray, what: str, name: str) -> None:
    if not (bad := ~np.isfinite(values)).any():
        return
    first = tuple(int(i[0]) for i in np.nonzero(bad))
    raise InputError(
        f"{name}: {what} hold NaN or infinity {bad.sum()} times, first at {first} of shape {values.shape}; "
        "did the distillation diverge?"
    )


def _layout(file: Distilled, image_shape: tuple[int, int, int]) -> str:
    height, width, channels = image_shape
    got = file.images.shape[2:]
    shapes = {"NHWC": (height, width, channels), "NCHW": (channels, height, width)}
    fitting = [layout for layout, shape in shapes.items() if shape == got]
    if not fitting:
        raise InputError(
            f"{file.name}: one image has shape {got}, the real data's are {shapes['NHWC']} (NHWC) or "
            f"{shapes['NCHW']} (NCHW); is it another dataset, size or number of channels?"
        )
    if file.layout is None and len(fitting) > 1:
        raise InputError(f"{file.name}: an image of shape {got} is NHWC and NCHW alike; declare the layout")
    if file.layout is not None and file.layout not in fitting:
        raise InputError(f"{file.name}: declares {file.layout}, but an image of shape {got} is {fitting[0]}")
    return file.layout or fitting[0]


def _space(file: Distilled) -> str:
    low, high = float(file.images.min()), float(file.images.max())
    values = f"{file.images.dtype} values from {low:g} to {high:g}"
    if file.space is None:
        return _guess_space(file, low, high, values)
    if file.space == "pixels":
        _check_pixels(file, low, high, values)
    elif file.images.dtype == np.uint8:
        raise InputError(f"{file.name}: declares {file.space} images, which cannot be uint8; declare pixels")
    elif low >= 0 and high <= 1:
        _warn(f"{file.name}: declares {file.space} images, but has {values}, as pixels have; check the space")
    return file.space


def _check_pixels(file: Distilled, low: float, high: float, values: str) -> None:
    if file.images.dtype == np.uint8:
        return
    if low < -0.5 or high > 1.5:
        raise InputError(
            f"{file.name}: declares pixels, which must lie in [0, 1], but has {values}; declare normalised, "
            "or divide 0..255 by 255"
        )
    if low < 0 or high > 1:
        _warn(f"{file.name}: declares pixels, which lie in [0, 1], but has {values}; used as they are")


def _guess_space(file: Distilled, low: float, high: float, values: str) -> str:
    """What undeclared numbers must be: only uint8 and negative numbers are beyond doubt."""
    if file.images.dtype == np.uint8:
        return "pixels"
    if low < -0.05:
        return "normalised"
    if low >= 0 and high <= 1:
        _warn(f"{file.name}: images do not say their space; {values} are taken for pixels: declare it")
        return "pixels"
    if low >= 0 and high > 20:
        raise InputError(f"{file.name}: images have {values}, as if pixels were 0..255; store uint8, or divide by 255")
    raise InputError(
        f"{file.name}: images have {values}, which could be pixels or normalised; declare the space "
        "(--space pixels or --space normalised)"
    )


# Labels (R, N) and soft labels (R, N, C)


def _hard_labels(file: Distilled, soft_labels: np.ndarray | None, num_classes: int) -> np.ndarray:
    if file.labels is None:
        _warn(f"{file.name}: no hard labels; the class with the largest soft label serves")
        return soft_labels.argmax(-1).astype(np.int32)
    labels = class_indices(file.labels, file.name)
    if labels.max() >= num_classes:
        from_one = labels.min() == 1 and labels.max() == num_classes
        raise InputError(
            f"{file.name}: has label {labels.max()}, but the real data's classes are 0 to {num_classes - 1}"
            f"{'; they seem to count from 1: subtract 1' if from_one else ''}"
        )
    if soft_labels is not None and (share := np.mean(soft_labels.argmax(-1) != labels)) > 0.5:
        _warn(
            f"{file.name}: in {share:.0%} of the images the largest soft label is not the hard label; "
            "are the two in the same order?"
        )
    return labels


def _soft_labels(file: Distilled, num_classes: int) -> np.ndarray:
    """Logits (R, N, C) float32."""
    stored = np.asarray(file.soft_labels)
    if stored.shape[-1] != num_classes:
        raise InputError(f"{file.name}: soft labels have {stored.shape[-1]} classes, the real data has {num_classes}")
    if stored.dtype.kind not in "fiu":
        raise InputError(f"{file.name}: soft labels must be numbers, got {stored.dtype}")
    _check_finite(stored, "soft labels", file.name)
    soft_labels = stored.astype(np.float32)
    wrong = (soft_labels < 0).any(-1) | (np.abs(soft_labels.sum(-1) - 1) > _SUM_TOLERANCE)
    if file.soft is None and not wrong.any():
        raise InputError(
            f"{file.name}: soft labels could be probabilities or logits (every row sums to 1, nothing is "
            "negative); declare them (--soft-labels probabilities or --soft-labels logits)"
        )
    if file.soft != "probabilities":
        return soft_labels
    if wrong.any():
        raise InputError(
            f"{file.name}: soft labels are declared probabilities, but {wrong.sum()} rows are negative or do "
            f"not sum to 1, first {soft_labels[wrong][0].tolist()[:10]}; are they logits?"
        )
    return np.log(np.maximum(soft_labels, np.finfo(np.float32).tiny))


# All files together


def _check_alike(names: list[str], ready: list[tuple], num_classes: int) -> None:
    """One number of images in each class, one kind of labels, no name twice."""
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{repeated[0]} is the name of several sets; give each set once, under its own name")
    counts = [np.bincount(run, minlength=num_classes) for _, labels, _ in ready for run in labels]
    soft = [soft_labels is not None for _, labels, soft_labels in ready for _ in labels]
    for name, count, has_soft in zip(names, counts, soft, strict=True):
        if not np.array_equal(count, counts[0]):
            raise InputError(
                f"{names[0]} has {_per_class(counts[0])}, {name} has {_per_class(count)}: sets scored "
                "together share a random baseline; score these in separate calls"
            )
        if has_soft != soft[0]:
            raise InputError(f"of {names[0]} and {name} only one has soft labels; score them in separate calls")
    _check_balance(names, counts[0])


def _check_balance(names: list[str], count: np.ndarray) -> None:
    who = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    if (count == 0).any():
        absent = ", ".join(map(str, np.flatnonzero(count == 0)))
        _warn(f"{who}: no image of class {absent}, which students thus never see; are the labels right?")
    elif count.min() != count.max():
        _warn(f"{who}: {_per_class(count)}; the random baseline has the same")


def _per_class(count: np.ndarray) -> str:
    if count.min() == count.max():
        return f"{count.sum()} images, {count[0]} per class"
    shown = ", ".join(map(str, count[:10])) + (", ..." if len(count) > 10 else "")
    return f"{count.sum()} images, unequally many per class ({shown})"


def _warn(message: str) -> None:
    warnings.warn(message, InputWarning, stacklevel=3)
