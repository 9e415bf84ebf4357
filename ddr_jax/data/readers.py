"""Arrays from files of NumPy, safetensors, PyTorch and images, without running code that a file may hold."""

from __future__ import annotations

import difflib
import gzip
import importlib
import importlib.util
import os
import pickle
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ddr_jax.types import InputError, warn

Labelled: TypeAlias = tuple[np.ndarray, np.ndarray]  # images (N, ...) and their classes (N,)
Sides: TypeAlias = tuple[int, int]  # height and width in pixels
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
_GREY = ("1", "L", "LA")
_DEEP = ("I", "F")  # first letters of Pillow's modes with more than 8 bits


def host_array(value: Any) -> np.ndarray:
    """A NumPy array of an array of NumPy, JAX or PyTorch (also on a GPU), of a list or a number."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def require_file(path: Path) -> None:
    """Raises `InputError`, with the nearest name, unless `path` is a file."""
    if path.is_file():
        return
    if not path.parent.is_dir():
        raise InputError(f"{path}: no such file, and no folder {path.parent}")
    close = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
    raise InputError(f"{path}: no such file" + (f"; did you mean {path.with_name(close[0])}?" if close else ""))


@contextmanager
def _reading(path: Path, problem: str, *causes: type[Exception]) -> Iterator[None]:
    """Turns the `causes` that arise while a file is read into an `InputError` with the file and the problem."""
    require_file(path)
    try:
        yield
    except InputError:
        raise
    except causes as error:
        raise InputError(f"{path}: {problem} ({error})") from error


def pick(content: Mapping[Any, Any], required: Iterable[Any], optional: Iterable[Any], where: Any) -> dict[Any, Any]:
    """The named entries of a file's content; raises `InputError` if a required one is missing."""
    if missing := [key for key in required if key not in content]:
        held = ", ".join(map(str, content)) or "nothing"
        raise InputError(f"{where}: no {', '.join(map(str, missing))}; it holds {held}")
    return {key: content[key] for key in (*required, *optional) if key in content}


# NumPy and safetensors


def read_npz(path: Path, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The named arrays of an `.npz`, never unpickling; raises `InputError` if missing or unreadable."""
    with _reading(path, "cannot be read", OSError, EOFError, zipfile.BadZipFile):
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path}: not an .npz file, or cut short; copy or make it again")
        with np.load(path, allow_pickle=False) as file:
            keys = pick({key: key for key in file}, required, optional, path)
            return {key: _member(file, key, path) for key in keys}


def _member(file: Mapping[str, np.ndarray], key: str, path: Path) -> np.ndarray:
    objects = f"{key} cannot be read without unpickling, which could run foreign code; save numbers or text"
    damaged = f"{key} is damaged; copy or make the file again"
    with (
        _reading(path, objects, ValueError),
        _reading(path, damaged, zlib.error, zipfile.BadZipFile, EOFError, OSError),
    ):
        return file[key]


def read_npy(path: Path) -> np.ndarray:
    """The array of an `.npy`, never unpickling; raises `InputError` if missing or unreadable."""
    problem = "not an array that can be read without unpickling"
    with _reading(path, problem, OSError, EOFError, ValueError), path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def read_safetensors(path: Path, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
    """The named tensors, or metadata, of a `.safetensors`; raises `InputError` if missing or unreadable."""
    from safetensors import SafetensorError, safe_open

    problems = SafetensorError, OSError, TypeError
    with _reading(path, "cannot be read", *problems), safe_open(path, framework="np") as file:
        tensors = {key: key for key in file.keys()}  # noqa: SIM118 - it is no mapping
        entries = pick((file.metadata() or {}) | tensors, required, optional, path)
        return {key: file.get_tensor(key) if key in tensors else text for key, text in entries.items()}


def read_idx(path: Path) -> np.ndarray:
    """The bytes of a gzipped idx file, in MNIST's form: uint8; raises `InputError` if missing or damaged."""
    problem = "a damaged idx file; copy or download it again"
    with _reading(path, problem, OSError, EOFError, zlib.error, ValueError, IndexError):
        raw = gzip.decompress(path.read_bytes())
        if raw[:3] != b"\0\0\x08":
            raise ValueError("it does not begin as an idx file of bytes does")
        shape = np.frombuffer(raw, ">u4", raw[3], offset=4)
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


# PyTorch and pickles


def read_pt(path: Path) -> Any:
    """What `torch.save` wrote: tensors, on the CPU, in dictionaries and lists, with numbers, text and NumPy arrays.

    Nothing else is unpickled. Raises `InputError` if the file is missing, unreadable or holds anything else, or if
    PyTorch is not installed.
    """
    require_file(path)
    if importlib.util.find_spec("torch") is None:
        raise InputError(f"{path}: reading PyTorch's files needs PyTorch: pip install 'ddr-jax[torch]'")
    torch: Any = importlib.import_module("torch")
    # PyTorch's parser raises many kinds of errors for damaged files.
    try:
        with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in _STAND_INS.items()]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        problem = (
            f"damaged, or more than tensors, numbers and text, which could run foreign code ({type(error).__name__})"
        )
        raise InputError(f"{path}: {problem}; save a dictionary of tensors with torch.save") from error


def read_pickle(path: Path) -> Any:
    """What Python 2 or 3 pickled of numbers, text (as bytes where Python 2 wrote it), containers and NumPy arrays.

    Nothing else is unpickled. Raises `InputError` if the file is missing, damaged or holds anything else.
    """
    problem = "damaged, or not the pickle it should be; download it again"
    # The file calls few functions, but chooses their arguments: any error may arise.
    with _reading(path, problem, Exception), path.open("rb") as file:
        return _Unpickler(file, encoding="bytes").load()


def read_array(path: Path) -> np.ndarray:
    """The one array that an `.npy` or a `.pt` holds; raises `InputError` for anything else."""
    if path.suffix == ".npy":
        return read_npy(path)
    if path.suffix == ".pt":
        return as_array(read_pt(path), path)
    if not path.suffix:
        require_file(path)
    kinds = ".npz, .safetensors, .npy and .pt are, and folders of images by class; labels alone as .npy or .pt"
    raise InputError(f"{path}: not a kind of file that is read: {kinds}")


def as_array(value: Any, where: Path | str) -> np.ndarray:
    """`host_array` of a value, once it is an array of numbers; raises `InputError` otherwise."""
    try:
        array = host_array(value)
    except (TypeError, ValueError, RuntimeError):
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        got = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise InputError(
            f"{where}: holds {got} where an array of numbers is expected; store numbers, or name the arrays"
        )
    return array


class _Dtype:
    """Stands for numpy.dtype in a pickle: NumPy's own would take any state that a file asks for."""

    def __init__(self, code: Any, *_: bool):
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"arrays of {self.dtype} values")

    def __setstate__(self, state: tuple):
        order = state[1]
        swapped: Any = order.decode() if isinstance(order, bytes) else order  # bytes where Python 2 wrote it
        self.dtype = self.dtype.newbyteorder(swapped)


class _Array:
    """Stands for numpy.ndarray in a pickle."""

    def __setstate__(self, state: tuple):
        _, shape, kind, fortran, raw = state
        self.values = np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype, copy=copy)


def _scalar(kind: _Dtype, raw: bytes) -> np.generic:
    return np.frombuffer(raw, kind.dtype)[0]


_STAND_INS = {"numpy.dtype": _Dtype, "numpy.ndarray": _Array} | {
    f"numpy.{core}.multiarray.{name}": stand_in
    for core in ("core", "_core")
    for name, stand_in in (("_reconstruct", lambda *_: _Array()), ("scalar", _scalar))
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (name := f"{module_name}.{global_name}") in _STAND_INS:
            return _STAND_INS[name]
        raise pickle.UnpicklingError(f"it asks to run {name}")


# Images


def read_classes(folder: Path, size: Sides | None = None, classes: Sequence[str] | None = None) -> Labelled:
    """Images (N, H, W, K) and class indices (N,) from a folder with one sub-folder of images for each class.

    A class is the position of its sub-folder in `classes`, by default all of them in the order of their names.
    `size` and what is raised as for `read_images`; also `InputError` for a class without images.
    """
    classes = class_names(folder) if classes is None else classes
    files = [_image_files(folder / name) for name in classes]
    labels = np.repeat(np.arange(len(files)), [len(paths) for paths in files])
    return read_images([path for paths in files for path in paths], size), labels


def class_names(folder: Path) -> list[str]:
    """The sub-folders' names as sorted text, the order of torchvision's ImageFolder; `InputError` if there are none."""
    names = sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not names:
        raise InputError(f"{folder}: holds no sub-folders; put the images of each class into one of its own")
    if all(name.isdecimal() for name in names) and names != sorted(names, key=int):
        order = f"in the order of their names as text, {', '.join(names[:4])}, ..."
        warn(f"{folder}: classes are numbered {order}; pad the names with zeros if their numbers are meant")
    return names


def read_images(paths: Sequence[Path], size: Sides | None = None) -> np.ndarray:
    """Images (N, H, W, K) in the order of `paths`, grey (K = 1) if all of them are, otherwise RGB.

    They are uint8 if they have one size, which is `size` (H, W) if that is given; else float32 in [0, 1], resized
    without keeping proportions, bilinear with antialiasing, not rounded to 8 bits. Raises `InputError` for images
    that cannot be read, or differ in size while `size` is None, or do not fit into memory.
    """
    modes, sizes = zip(*map(_mode_and_size, paths), strict=True)
    grey = all(mode in _GREY for mode in modes)
    first, *others = dict(zip(sizes, paths, strict=True)).items()
    if size is None and others:
        described = " and ".join(f"{path} {h}×{w}" for (h, w), path in (first, others[0]))
        raise InputError(f"images must have one size, got {described}; resize them, or give a size for all (--size)")
    rounded = not others and size in (None, first[0])
    shape = (len(paths), *(size or first[0]), 1 if grey else 3)
    _check_memory(shape, paths[0])
    images = np.empty(shape, np.uint8 if rounded else np.float32)
    for image, path in zip(images, paths, strict=True):
        image[...] = _decoded(path, grey, None if rounded else size)
    return images


def _image_files(folder: Path) -> list[Path]:
    if files := sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES):
        return files
    raise InputError(f"{folder}: holds no images; a class needs files named {', '.join(IMAGE_SUFFIXES)}")


def _mode_and_size(path: Path) -> tuple[str, Sides]:
    from PIL import Image

    problems = OSError, Image.DecompressionBombError
    with _reading(path, "not an image that can be read", *problems), Image.open(path) as image:
        mode, (width, height) = image.mode, image.size
    if mode.startswith(_DEEP):
        raise InputError(f"{path}: images must have 8 bits per channel, got Pillow's mode {mode}; use .npy for others")
    return mode, (height, width)


def _decoded(path: Path, grey: bool, size: Sides | None) -> np.ndarray:
    """(H, W, K): uint8, or resized to (H, W) as floats in [0, 1]."""
    from PIL import Image

    problem = "a damaged image; copy or make it again"
    with _reading(path, problem, OSError, SyntaxError, ValueError), Image.open(path) as file:
        image = file.convert("L" if grey else "RGB")
    if size is None:
        return np.asarray(image).reshape(*image.size[::-1], -1)
    bands = [
        np.asarray(band.convert("F").resize((size[1], size[0]), Image.Resampling.BILINEAR)) for band in image.split()
    ]
    return np.clip(np.stack(bands, -1) / 255, 0, 1)


def _check_memory(shape: tuple[int, ...], path: Path) -> None:
    """Refuses, before hours of decoding, images that the machine cannot hold as float32."""
    if not hasattr(os, "sysconf"):  # Windows does not say
        return
    need, have = 4 * np.prod(shape, dtype=float), float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        images = f"{shape[0]} images of {shape[1]}×{shape[2]} need {need / 1e9:.0f} GB of memory"
        raise InputError(f"{path.parent.parent}: {images}, not {have / 1e9:.0f}; give a smaller size, or fewer classes")
