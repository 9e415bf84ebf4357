"""Datasets that tensorflow-datasets prepared, or prepares where TensorFlow is installed."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ddr_jax.data.folders import Arrays, Known
from ddr_jax.types import AnyPath, InputError


def read(name: str, known: Known, data_dir: AnyPath | None, download: bool) -> tuple[Arrays, Path]:
    """Images (N, H, W, K) uint8 and labels (N,) of the splits of a dataset, and the folder that they were in.

    Raises `InputError`, with all ways to get the data, where it is not prepared and cannot be, or has lost images.
    """
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folder = _prepared_folder(root / name)
    if folder is None and not download:
        raise InputError(_how_to_prepare(name, root))
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise InputError("datasets by name need tensorflow-datasets: pip install tensorflow-datasets")
    folder = folder or _prepare(name, root)
    return {split: _read_split(folder, split, getattr(known, split)) for split in ("train", "test")}, folder


def _how_to_prepare(name: str, root: Path) -> str:
    state, there = "not prepared", ""
    if any((root / name).glob("*/dataset_info.json")):
        state, there = "prepared in another format than array_record", " in another data_dir"
    return (
        f"{name} is {state} under {root}: prepare it{there} with download=True (--download), which needs TensorFlow; "
        "or set data_dir (--data-dir) or TFDS_DATA_DIR to prepared files; or give the path of "
        f"a {name}.npz with x_train, y_train, x_test, y_test"
    )


def _prepared_folder(folder: Path) -> Path | None:
    """The folder of the newest version that tensorflow-datasets finished preparing as array_record."""
    # Without tensorflow-datasets, which takes seconds to import and minutes to give up where there is no network.
    prepared = {file.parent for file in folder.glob("*/*.array_record-*")}
    versions = [path for path in prepared if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    finished = [path for path in versions if (path / "dataset_info.json").is_file()]
    return max(finished, key=lambda path: [int(part) for part in path.name.split(".")], default=None)


def _prepare(name: str, root: Path) -> Path:
    if importlib.util.find_spec("tensorflow") is None:
        raise InputError(f"preparing {name} needs TensorFlow: pip install 'ddr-jax[tf]' (2.5 GB)")
    import tensorflow_datasets as tfds

    # Downloads fail with many kinds of errors.
    try:
        builder = tfds.builder(name, data_dir=root, file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:
        raise InputError(f"{name} could not be downloaded and prepared in {root}: {error}") from error
    return Path(builder.data_path)


def _read_split(folder: Path, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(folder)
    source = builder.as_data_source(split, file_format="array_record")
    if len(source) != count:
        raise InputError(
            f"{folder}: {split} holds {len(source)} images instead of {count}; delete it and prepare it anew"
        )
    images, labels = zip(*((record["image"], record["label"]) for record in source), strict=True)
    return np.stack(images), np.asarray(labels)
