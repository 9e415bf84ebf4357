"""Distilled sets: reading, checking against the real data they stand for, saving.

Letters as in `ddr_jax.types`, and R here for the runs (repetitions of a method) that one file holds.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np

from ddr_jax.data import readers
from ddr_jax.data.datasets import as_floats, class_indices
from ddr_jax.data.files import write_atomically
from ddr_jax.data.readers import as_array, host_array
from ddr_jax.data.spaces import Normalised
from ddr_jax.types import AnyPath, DistilledSets, InputError, OneLine, RealData, is_path, nearest, warn

_WORDS = {"space": ("pixels", "normalised", "zca"), "layout": ("NHWC", "NCHW"), "soft": ("logits", "probabilities")}
_LABELS = {"labels": "(N,) or (runs, N)", "soft_labels": "(N, classes) or (runs, N, classes)"}
_OPTIONAL = (*_LABELS, "mean", "std", *_WORDS)
_SUM_TOLERANCE = 1e-3  # of a row of probabilities


@dataclass(frozen=True, eq=False, repr=False)
class Distilled(OneLine):
    """Distilled images and labels as they are stored, in R runs of a method or in one, and what is declared of them.

    Arrays may be NumPy's, JAX's or PyTorch's, on any device; they are kept as NumPy's. What is not declared is None.

    Attributes:
        name: of the set, in tables and messages. Where there are several runs, run i is the set `name[i]`.
        images: (N, ...) or (R, N, ...), uint8 or floats.
        labels: class indices (N,) or (R, N). At least one kind of label is needed.
        soft_labels: (N, C) or (R, N, C).
        space: "pixels" (uint8, or floats in [0, 1]); "normalised", by `mean` and `std` if they are given and otherwise
            as the real data; or "zca", whitened as the real data.
        layout: "NHWC" or "NCHW".
        soft: whether soft labels are "logits" or "probabilities".
        mean, std: (K,), in units of pixels in [0, 1].

    Raises:
        InputError: for any other word, arrays of other things than numbers, and labels that do not fit the images.
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
        for field, valid in _WORDS.items():
            if (word := getattr(self, field)) is not None:
                if (word := str(word)) not in valid:
                    raise InputError(f"{self.name}: unknown {field} {word!r}: {nearest(word, valid)}")
                object.__setattr__(self, field, word)
        for field in ("images", *_LABELS, "mean", "std"):
            if (value := getattr(self, field)) is not None:
                object.__setattr__(self, field, as_array(value, f"{self.name}: {field}"))
        if (self.mean is None) != (self.std is None):
            raise InputError(f"{self.name}: has one of mean and std; give both or neither")
        if self.labels is None and self.soft_labels is None:
            raise InputError(f"{self.name}: has neither labels nor soft_labels; store or name them (--labels-file)")
        images = _with_axis(self.images, 5)
        if images.ndim != 5 or not images.size:
            forms = "(N, H, W, K), (N, K, H, W) or one of these after an axis of runs, and not empty"
            raise InputError(f"{self.name}: images must be {forms}; got shape {self.images.shape}")
        for ndim, (field, form) in enumerate(_LABELS.items(), 2):
            labels = _with_axis(getattr(self, field), ndim)
            if labels is not None and (labels.ndim != ndim or labels.shape[:2] != images.shape[:2]):
                need, got = f"{len(images)} run(s) of {images.shape[1]} images need", getattr(self, field).shape
                raise InputError(f"{self.name}: {need} {field} of shape {form}, got {got}")


OneSet: TypeAlias = AnyPath | Mapping[str, Any] | Distilled
Sets: TypeAlias = OneSet | Sequence[OneSet] | DistilledSets


def load_distilled(
    *paths: AnyPath,
    labels: AnyPath | Sequence[AnyPath] | None = None,
    space: str | None = None,
    layout: str | None = None,
    soft: str | None = None,
) -> tuple[Distilled, ...]:
    """Reads distilled sets; `prepare` checks them against real data.

    A path is one of these:
        `.npz` or `.safetensors` (text in its metadata) with `images` and `labels` or `soft_labels` or both; it may
            also hold `space`, `layout`, `soft`, `mean` and `std`: shapes and meanings as in `Distilled`;
        `.pt`, which needs PyTorch: a dictionary with the same keys, or that of the DC family, {"data": [[images,
            labels], one per run], ...}, or a bare tensor of images; only tensors, numbers and text are unpickled;
        `.npy`: images;
        a folder with one sub-folder of images (PNG, JPEG, ...) for each class, in the order of their names: pixels.

    Args:
        *paths: of the sets. Sets of one file name are told apart by their folders.
        labels: path of a `.npy` or `.pt` with the labels of images that are stored alone, or one path for each of
            `paths`. One number per image is its class, one row per image its soft label.
        space: as in `Distilled`, like the next two; it wins over what a file declares.
        layout: of the images.
        soft: of the soft labels.

    Raises:
        InputError: for a file that is missing or unreadable, images without labels, or `labels` for a file that holds
            labels. An `InputWarning` says where a declaration contradicts the file.
    """
    for i, path in enumerate(paths):
        if not is_path(path):
            raise InputError(f"paths[{i}] is a {type(path).__name__}; expected a path")
    files = [Path(path).expanduser() for path in paths]
    beside = [labels] * len(files) if labels is None or isinstance(labels, str | os.PathLike) else labels
    if len(beside) != len(files):
        raise InputError(f"{len(beside)} labels files for {len(files)} distilled sets; give one for all or for each")
    names = [path.resolve().name if path.is_dir() else path.stem for path in files]
    said = {"space": space, "layout": layout, "soft": soft}
    return tuple(
        _load(path, name if names.count(name) == 1 else path.with_name(name).as_posix(), one, said)
        for path, name, one in zip(files, names, beside, strict=True)
    )


def as_distilled(sets: OneSet | Sequence[OneSet]) -> tuple[Distilled, ...]:
    """Distilled sets given as paths, dictionaries of arrays or `Distilled`, one of them or a sequence.

    A dictionary has the keys of an `.npz` (see `load_distilled`) and NumPy's, JAX's or PyTorch's arrays. Its set is
    named "set", or "set[i]" at place i of a sequence.

    Raises:
        InputError: for anything else, for an empty sequence, and as `load_distilled` does.
    """
    alone = isinstance(sets, str) or not isinstance(sets, Sequence)
    given = {"sets": sets} if alone else {f"sets[{i}]": one for i, one in enumerate(cast(Sequence[Any], sets))}
    loaded = iter(load_distilled(*(one for one in given.values() if is_path(one))))
    if not given:
        raise InputError("no distilled sets given")
    return tuple(next(loaded) if is_path(one) else _from_memory(one, place) for place, one in given.items())


def prepare(sets: Sets, real: RealData) -> DistilledSets:
    """Checks distilled sets and brings them into one form: float32, NHWC, in the space of `real`.

    Sets of pixels are normalised or whitened like the real data; normalised sets become pixels first where the real
    data are whitened or have other constants. Probabilities become their logarithms. Where hard labels are missing,
    an image's class is that of its largest soft label.

    Args:
        sets: what `as_distilled` takes; sets that are prepared already come back as they are.
        real: the real data that the sets stand for.

    Raises:
        InputError: for images, labels or declarations that cannot be right or leave open what is meant, and for sets
            that differ in the number of images in a class. An `InputWarning` names what is allowed but improbable.
    """
    if isinstance(sets, DistilledSets):
        if sets.images.shape[2:] != real.image_shape:
            raise InputError(f"{sets.names[0]}: was prepared for other real data: images are {sets.images.shape[2:]}")
        return sets
    parts = [_prepare(file, real) for file in as_distilled(sets)]
    _check_together(parts, real.num_classes)
    soft_labels = [part.soft_labels for part in parts if part.soft_labels is not None]
    return DistilledSets(
        names=tuple(name for part in parts for name in part.names),
        images=np.concatenate([part.images for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        soft_labels=np.concatenate(soft_labels) if soft_labels else None,
    )


def save_distilled(
    path: AnyPath,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    soft_labels: np.ndarray | None = None,
    *,
    space: str,
    soft: str | None = None,
    mean: np.ndarray | None = None,
    std: np.ndarray | None = None,
) -> None:
    """Writes images (N, H, W, K) or (R, N, H, W, K) and their labels to an `.npz` that `load_distilled` reads.

    The other arguments are those of `Distilled`; `soft` is required with `soft_labels`. The file appears whole or not
    at all.

    Raises:
        InputError: if the labels do not fit the images, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"{path}: distilled sets are saved as .npz; end the name in .npz")
    if soft_labels is not None and soft is None:
        raise InputError(f"{path}: say whether the soft labels are logits or probabilities")
    file = Distilled(path.stem, images, labels, soft_labels, space, "NHWC", soft, mean, std)
    content: dict[str, Any] = {key: vars(file)[key] for key in ("images", *_OPTIONAL) if vars(file)[key] is not None}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **content)
    write_atomically(path, buffer.getvalue())


# One set as it is given


def _from_memory(given: Any, place: str) -> Distilled:
    if isinstance(given, Distilled):
        return given
    if not isinstance(given, Mapping):
        raise InputError(f"{place} is a {type(given).__name__}; expected a path, a dictionary of arrays or a Distilled")
    name = place.replace("sets", "set")
    return Distilled(name, **readers.pick(given, ("images",), _OPTIONAL, name))


def _load(path: Path, name: str, beside: AnyPath | None, said: dict[str, str | None]) -> Distilled:
    raw = _content(path)
    if beside is not None:
        if own := [key for key in _LABELS if key in raw]:
            raise InputError(f"{path}: holds {' and '.join(own)} of its own, so {beside} cannot be used; leave it out")
        raw |= _labels_entry(as_array(raw["images"], path), readers.read_array(Path(beside).expanduser()))
    for field, word in said.items():
        if word is not None and (stored := str(raw.get(field, word))) != word:
            warn(f"{path}: the file declares {field} {stored!r}, you say {word!r}: yours is used")
        raw[field] = word or raw.get(field)
    return Distilled(name, **raw)


def _content(path: Path) -> dict[str, Any]:
    """Fields of `Distilled` by name, as a file or a folder holds them: `images` at least."""
    if path.is_dir():
        images, labels = readers.read_classes(path)
        return {"images": images, "labels": labels, "space": "pixels", "layout": "NHWC"}
    if path.suffix == ".npz":
        return dict(readers.read_npz(path, ("images",), _OPTIONAL))
    if path.suffix == ".safetensors":
        return readers.read_safetensors(path, ("images",), _OPTIONAL)
    content = readers.read_pt(path) if path.suffix == ".pt" else readers.read_array(path)
    if not isinstance(content, Mapping):
        return {"images": as_array(content, path)}
    if "images" not in content and "data" in content:
        return _runs_of_dc(content["data"], path)
    return readers.pick(content, ("images",), _OPTIONAL, path)


def _runs_of_dc(runs: Any, path: Path) -> dict[str, np.ndarray]:
    """The DC family's list of [images, labels], one for each run, stacked."""
    try:
        images, labels = (np.stack([host_array(part) for part in parts]) for parts in zip(*runs, strict=True))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: data must be a list with [images, labels] of each run, alike ({error})") from error
    return {"images": images, **_labels_entry(images, labels)}


def _labels_entry(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Labels by name: soft labels have one axis more than the images have before (H, W, K)."""
    return {"soft_labels" if labels.ndim == images.ndim - 2 else "labels": labels}


# One set against the real data


def _with_axis(array: Any, ndim: int) -> Any:
    """The array with an axis of one run in front, if it has one axis too few."""
    return array[None] if array is not None and array.ndim == ndim - 1 else array


def _prepare(file: Distilled, real: RealData) -> DistilledSets:
    shaped = {"images": 5, "labels": 2, "soft_labels": 3}
    file = replace(file, **{field: _with_axis(getattr(file, field), ndim) for field, ndim in shaped.items()})
    images = _images(file, real)
    soft_labels = None if file.soft_labels is None else _soft_labels(file, real.num_classes)
    runs = len(images)
    names = (file.name,) if runs == 1 else tuple(f"{file.name}[{i}]" for i in range(runs))
    return DistilledSets(names, images, _hard_labels(file, soft_labels, real.num_classes), soft_labels)


# Images (R, N, ...)


def _images(file: Distilled, real: RealData) -> np.ndarray:
    channels_first = _layout(file, real.image_shape) == "NCHW"
    images = as_floats(np.moveaxis(file.images, 2, -1) if channels_first else file.images, file.name)
    _check_finite(file.images, "images", file.name)
    _check_whitened(file, real)
    space = _space(file)
    if space == "normalised":
        usual = Normalised(real.space.mean, real.space.std)
        given = usual if file.mean is None else Normalised.of(file.mean, file.std, len(usual.mean), file.name)
        if given.digest == real.space.digest:
            return images
        images = given.pixels(images)
    return images if space == "zca" else real.space.images(images)


def _check_whitened(file: Distilled, real: RealData) -> None:
    whitened = real.space.name == "zca"
    if file.space == "zca" and not whitened:
        advice = f"load {real.name} with --zca kornia, or kip for sets of KIP and RFAD"
        raise InputError(f"{file.name}: declares ZCA-whitened images, but the real data is not whitened; {advice}")
    if whitened and file.space is None and file.images.dtype != np.uint8:
        advice = "declare the space of the set (--space zca, or pixels or normalised if it was not whitened)"
        raise InputError(f"{file.name}: the real data {real.name} is ZCA-whitened; {advice}")


def _check_finite(values: np.ndarray, what: str, name: str) -> None:
    if (bad := ~np.isfinite(values)).any():
        first = tuple(np.argwhere(bad)[0].tolist())
        where = f"{bad.sum()} times, first at {first} of shape {values.shape}"
        raise InputError(f"{name}: {what} hold NaN or infinity {where}; did the distillation diverge?")


def _layout(file: Distilled, image_shape: tuple[int, int, int]) -> str:
    height, width, channels = image_shape
    got = file.images.shape[2:]
    shapes = {"NHWC": (height, width, channels), "NCHW": (channels, height, width)}
    possible = {layout: shape for layout, shape in shapes.items() if file.layout in (None, layout)}
    fitting = [layout for layout, shape in possible.items() if shape == got]
    if not fitting:
        real = " or ".join(f"{shape} ({layout})" for layout, shape in possible.items())
        raise InputError(
            f"{file.name}: one image has shape {got}, the real data's are {real}; "
            "is it another dataset, size or layout?"
        )
    if len(fitting) > 1:
        raise InputError(f"{file.name}: an image of shape {got} fits NHWC and NCHW; declare the layout")
    return fitting[0]


def _space(file: Distilled) -> str:
    low, high = float(file.images.min()), float(file.images.max())
    values = f"{file.images.dtype} values from {low:g} to {high:g}"
    within = low >= 0 and high <= 1
    if file.images.dtype == np.uint8:
        if file.space not in (None, "pixels"):
            raise InputError(f"{file.name}: declares {file.space} images, which cannot be uint8; declare pixels")
        return "pixels"
    if file.space is None:
        return _guess_space(file, low, high, values)
    if file.space == "pixels" and (low < -0.5 or high > 1.5):
        raise InputError(f"{file.name}: declares pixels, but has {values}; declare normalised, or divide 0..255 by 255")
    if file.space == "pixels" and not within:
        warn(f"{file.name}: declares pixels, which lie in [0, 1], but has {values}; used as they are")
    if file.space != "pixels" and within:
        warn(f"{file.name}: declares {file.space} images, but has {values}, as pixels have; check the space")
    return file.space


def _guess_space(file: Distilled, low: float, high: float, values: str) -> str:
    """The space of floats that declare none: only negative numbers leave no doubt."""
    if low < -0.05:
        return "normalised"
    if low >= 0 and high <= 1:
        warn(f"{file.name}: images do not say their space; {values} are taken for pixels: declare it")
        return "pixels"
    if low >= 0 and high > 20:
        raise InputError(f"{file.name}: images have {values}, as if pixels were 0..255; store uint8, or divide by 255")
    raise InputError(f"{file.name}: images have {values}, pixels or normalised; declare the space (--space)")


# Labels (R, N) and soft labels (R, N, C)


def _hard_labels(file: Distilled, soft_labels: np.ndarray | None, num_classes: int) -> np.ndarray:
    if file.labels is None:
        warn(f"{file.name}: no hard labels; the class with the largest soft label serves")
        return soft_labels.argmax(-1).astype(np.int32)
    labels = class_indices(file.labels, file.name)
    if labels.max() >= num_classes:
        from_one = (labels.min(), labels.max()) == (1, num_classes)
        advice = "; they seem to count from 1: subtract 1" if from_one else ""
        raise InputError(f"{file.name}: has label {labels.max()}, but classes are 0 to {num_classes - 1}{advice}")
    if soft_labels is not None and (share := float(np.mean(soft_labels.argmax(-1) != labels))) > 0.5:
        warn(f"{file.name}: in {share:.0%} of the images the largest soft label is not the hard one; same order?")
    return labels


def _soft_labels(file: Distilled, num_classes: int) -> np.ndarray:
    """Logits (R, N, C) float32."""
    stored = np.asarray(file.soft_labels)
    if stored.shape[-1] != num_classes:
        raise InputError(f"{file.name}: soft labels have {stored.shape[-1]} classes, the real data has {num_classes}")
    _check_finite(stored, "soft labels", file.name)
    soft_labels = stored.astype(np.float32)
    wrong = (soft_labels < 0).any(-1) | (np.abs(soft_labels.sum(-1) - 1) > _SUM_TOLERANCE)
    if file.soft is None and not wrong.any():
        raise InputError(f"{file.name}: soft labels could be probabilities or logits; declare which (--soft-labels)")
    if file.soft != "probabilities":
        return soft_labels
    if wrong.any():
        rows = f"{wrong.sum()} rows are negative or do not sum to 1, first {soft_labels[wrong][0].tolist()[:10]}"
        raise InputError(f"{file.name}: soft labels are declared probabilities, but {rows}; are they logits?")
    return np.log(np.maximum(soft_labels, np.finfo(np.float32).tiny))


# All sets together


def _check_together(parts: list[DistilledSets], num_classes: int) -> None:
    """Refuses sets that differ in images per class or in kinds of labels, and names that stand twice.

    Warns of classes without images, or with unequally many.
    """
    names = [name for part in parts for name in part.names]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{repeated[0]} is the name of several sets; give each set once, under its own name")
    counts = [np.bincount(run, minlength=num_classes) for part in parts for run in part.labels]
    for name, count in zip(names, counts, strict=True):
        if not np.array_equal(count, counts[0]):
            both = f"{names[0]} has {_per_class(counts[0])}, {name} has {_per_class(count)}"
            raise InputError(f"{both}: sets share a random baseline; score these in separate calls")
    if odd := [part.names[0] for part in parts if (part.soft_labels is None) != (parts[0].soft_labels is None)]:
        raise InputError(f"of {names[0]} and {odd[0]} only one has soft labels; score them in separate calls")
    count, who = counts[0], names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    if (count == 0).any():
        absent = ", ".join(map(str, np.flatnonzero(count == 0)))
        warn(f"{who}: no image of class {absent}, which students thus never see; are the labels right?")
    elif count.min() != count.max():
        warn(f"{who}: {_per_class(count)}; the random baseline has the same")


def _per_class(count: np.ndarray) -> str:
    if count.min() == count.max():
        return f"{count.sum()} images, {count[0]} per class"
    shown = ", ".join(map(str, count[:10])) + (", ..." if len(count) > 10 else "")
    return f"{count.sum()} images, unequally many per class ({shown})"
