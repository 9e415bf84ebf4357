import gzip
import importlib.util
import io
import pickle
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from ddr_jax.data import folders
from ddr_jax.data.datasets import DATASETS, as_real, load_dataset, random_subset, with_validation, without_validation
from ddr_jax.data.spaces import Normalised, fit
from ddr_jax.types import InputError, InputWarning, RealData, Split, fingerprint

CIFAR_MEAN = np.float32([0.4914, 0.4822, 0.4465])
CIFAR_STD = np.float32([0.2023, 0.1994, 0.2010])


def arrays(shape=(4, 4, 3), classes=3, per_class=4, seed=0):
    """What an .npz holds: uint8 images of every class, in train and in test."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(classes), per_class)
    train, test = rng.integers(0, 256, (2, len(labels), *shape)).astype(np.uint8)
    return {"x_train": train, "y_train": labels, "x_test": test, "y_test": labels}


@pytest.fixture
def saved(tmp_path):
    def save(stem="mine", **changes):
        path = tmp_path / f"{stem}.npz"
        content = arrays() | changes
        np.savez(path, **{key: value for key, value in content.items() if value is not None})
        return path

    return save


def real_data(labels, classes=3):
    labels = np.asarray(labels, np.int32)
    images = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
    split = Split(images, labels)
    return RealData("made", split, None, split, Normalised(np.zeros(1), np.ones(1)), classes, False)


# digits


def test_digits_are_those_of_uci_in_a_fixed_stratified_split():
    real = load_dataset("digits")
    assert [len(split) for split in (real.train, real.validation, real.test)] == [1000, 300, 497]
    assert real.image_shape == (8, 8, 1)
    assert (real.num_classes, real.flips) == (10, False)
    counts = [np.bincount(split.labels) for split in (real.train, real.validation, real.test)]
    assert all(np.ptp(count) <= 5 for count in counts)
    np.testing.assert_array_equal(sum(counts), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    images = np.concatenate([s.images for s in (real.train, real.validation, real.test)])
    levels = images * real.space.std * 16 + real.space.mean * 16
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    assert np.rint(levels).sum() == 561_718  # of all 1,797 images


def test_real_data_may_be_a_name_a_path_or_loaded(saved):
    path, digits = saved(), load_dataset("digits")
    assert as_real(digits) is digits
    assert as_real("digits").name == "digits"
    assert as_real(path).name == as_real(str(path)).name == "mine"
    for given in (5, None, [digits], arrays()):
        with pytest.raises(InputError, match=f"real is a {type(given).__name__}; expected a name, a path, or what"):
            as_real(given)
    with pytest.raises(InputError, match="real is a int; expected a name, a path"):
        load_dataset(5)


def test_repr_is_one_line(saved):
    mean = [0.5, 0.25, 0.5]
    assert repr(load_dataset(saved(mean=mean, std=mean))) == (
        "RealData(name='mine', train=Split(images=float32 (12, 4, 4, 3), labels=int32 (12,)), "
        "test=Split(images=float32 (12, 4, 4, 3), labels=int32 (12,)), "
        "space=Normalised(mean=[0.5 , 0.25, 0.5 ], std=[0.5 , 0.25, 0.5 ]), num_classes=3, flips=True)"
    )
    assert "\n" not in repr(load_dataset(saved(), zca="kornia"))


# .npz


def test_uint8_images_become_normalised_float32(saved):
    path = saved("cifar10")
    real = load_dataset(path)
    x = arrays()["x_train"].astype(np.float64) / 255
    assert real.train.images.dtype == np.float32
    assert real.train.labels.dtype == np.int32
    np.testing.assert_allclose(real.train.images, (x - CIFAR_MEAN) / CIFAR_STD, atol=1e-6)
    assert (real.name, real.num_classes, real.validation) == ("cifar10", 3, None)


def test_float_images_are_taken_as_they_are(saved):
    pixels = {key: np.float64(arrays()[key] / 255) for key in ("x_train", "x_test")}
    floats, ints = load_dataset(saved("a", **pixels)), load_dataset(saved("b"))
    np.testing.assert_allclose(floats.test.images, ints.test.images, atol=1e-6)


def test_channels_may_be_absent_first_or_last(saved):
    nhwc = load_dataset(saved("nhwc"))
    nchw = {key: arrays()[key].transpose(0, 3, 1, 2) for key in ("x_train", "x_test")}
    np.testing.assert_array_equal(load_dataset(saved("nchw", **nchw)).train.images, nhwc.train.images)
    grey = arrays((4, 5))
    assert load_dataset(saved("grey", **grey)).image_shape == (4, 5, 1)


def test_labels_may_be_a_column(saved):
    real = load_dataset(saved(y_train=arrays()["y_train"][:, None]))
    np.testing.assert_array_equal(real.train.labels, arrays()["y_train"])


def test_validation_of_the_file_is_kept(saved):
    extra = arrays(seed=1)
    real = load_dataset(saved(x_validation=extra["x_train"], y_validation=extra["y_train"]))
    assert len(real.validation) == 12


def test_constants_are_of_the_train_pixels_when_nobody_states_them(saved):
    real = load_dataset(saved())
    pixels = arrays()["x_train"] / 255
    np.testing.assert_allclose(real.space.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(real.space.std, pixels.std((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(real.train.images.std((0, 1, 2)), 1, rtol=1e-4)
    assert real.flips


def test_constants_of_the_file_win_over_its_name(saved):
    real = load_dataset(saved("cifar10", mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25], flips=False))
    np.testing.assert_array_equal(real.space.mean, np.float32([0.5, 0.5, 0.5]))
    np.testing.assert_array_equal(real.space.std, np.float32([0.25, 0.25, 0.25]))
    assert not real.flips


@pytest.mark.parametrize(
    ("stem", "mean", "flips"),
    [
        ("CIFAR-10_small", 0.4914, True),
        ("my_cifar100", 0.5071, True),
        ("svhn", 0.4377, False),
        ("svhn_cropped-2", 0.4377, False),
    ],
)
def test_name_of_a_file_brings_its_datasets_constants(saved, stem, mean, flips):
    real = load_dataset(saved(stem))
    assert real.space.mean[0] == np.float32(mean)
    assert real.flips == flips


@pytest.mark.parametrize(("stem", "mean"), [("mnist", 0.1307), ("Fashion-MNIST", 0.2860)])
def test_name_of_a_grey_file_brings_its_datasets_constants(saved, stem, mean):
    assert load_dataset(saved(stem, **arrays((4, 4, 1)))).space.mean == np.float32(mean)


def test_a_published_dataset_under_another_name_is_told_by_its_content(saved, monkeypatch):
    content = arrays()
    mean = tuple(content["x_train"].mean((0, 1, 2)) / 255 + 1e-4)
    monkeypatch.setitem(folders.PUBLISHED, "cifar10", folders.Known(mean, (0.5,) * 3, False, 12, 12))
    with pytest.warns(InputWarning, match="this is cifar10"):
        real = load_dataset(saved("downloaded"))
    np.testing.assert_allclose(real.space.std, 0.5)
    assert not real.flips


@pytest.mark.parametrize(("stem", "shape"), [("kmnist", (4, 4, 1)), ("cifar10", (4, 4, 1))])
def test_another_name_or_number_of_channels_brings_no_constants(saved, stem, shape):
    content = arrays(shape)
    real = load_dataset(saved(stem, **content))
    np.testing.assert_allclose(real.space.mean, [content["x_train"].mean() / 255], rtol=1e-5)


BLACK = np.zeros((12, 4, 4, 3), np.uint8)
FLOATS = np.full((12, 4, 4, 3), 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None, "y_test": None}, r"no x_test, y_test; it holds x_train, y_train"),
        ({"x_validation": BLACK}, "one of x_validation and y_validation"),
        ({"mean": [0.5, 0.5, 0.5]}, "one of mean and std"),
        ({"mean": [0.5], "std": [0.5]}, "each of 3 channels, got 1 and 1"),
        ({"mean": [125.0, 123, 114], "std": [63.0, 62, 67]}, "divide by 255"),
        ({"mean": [0.5] * 3, "std": [0.5, 0, 0.5]}, "std positive up to 1"),
        ({"white": 256}, "white must be one whole number"),
        ({"white": 16}, r"pixels must lie in \[0, 1\]"),
        ({"x_train": FLOATS * 4}, r"train: pixels must lie in \[0, 1\], got 2 to 2"),
        ({"x_train": FLOATS - 1}, r"got -0.5 to -0.5.*normalised"),
        ({"x_train": FLOATS * np.nan}, "got nan to nan.*NaN"),
        ({"x_train": BLACK.astype(np.int64)}, "uint8 or floats, got int64"),
        ({"x_train": BLACK[..., :2]}, r"got shape \(12, 4, 4, 2\)"),
        ({"x_train": BLACK[0, 0]}, r"got shape \(4, 3\)"),
        ({"x_test": BLACK[:0], "y_test": np.arange(0)}, "test: no images"),
        ({"x_test": BLACK[:, :2]}, r"images of test are \(2, 4, 3\), of train \(4, 4, 3\)"),
        ({"x_train": BLACK}, "constant"),
        ({"y_train": np.arange(11) % 3}, r"12 images need labels \(12,\), got shape \(11,\)"),
        ({"y_train": np.eye(3)[np.arange(12) % 3]}, r"got shape \(12, 3\)"),
        ({"y_train": np.arange(12) / 4}, "whole numbers"),
        ({"y_train": np.arange(12) % 3 - 1}, "count classes from 0, got values from -1"),
        ({"y_train": np.arange(12) % 3 * 2}, "go up to 4, but none is 1"),
        ({"y_test": np.arange(12) % 4}, "test has label 3, which train lacks"),
        ({"y_train": np.array(["cat", "dog", "eel"] * 4)}, "whole numbers"),
        ({"y_train": np.array([0, 1, None] * 4)}, "y_train cannot be read without unpickling"),
    ],
)
def test_inconsistent_file_is_refused(saved, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(saved(**changes))
    assert "mine.npz" in str(caught.value)


def test_missing_file_offers_the_nearest_one(saved):
    path = saved("cifar_small")
    with pytest.raises(InputError, match=r"no such file; did you mean .*cifar_small\.npz"):
        load_dataset(path.with_name("cifar_smal.npz"))
    with pytest.raises(InputError, match="no folder"):
        load_dataset(path.parent / "absent" / "cifar.npz")


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"x" * 100])
def test_file_that_is_no_npz_is_refused(saved, damage):
    path = saved()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"not an \.npz file, or cut short"):
        load_dataset(path)


def test_damaged_array_is_refused(saved):
    path = saved()
    raw = bytearray(path.read_bytes())
    raw[400:420] = bytes(20)  # inside x_train, where only the checksum can tell
    path.write_bytes(raw)
    with pytest.raises(InputError, match="x_train is damaged"):
        load_dataset(path)


def test_other_kinds_of_file_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"only \.npz files"):
        load_dataset(tmp_path / "cifar.pt")


def test_unknown_name_offers_the_nearest_one():
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        load_dataset("cifar-10")


# Folders


def write_idx(path, array):
    header = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def idx_folder(tmp_path):
    """MNIST's four files, small, in a folder whose name says nothing."""
    content, folder = arrays((4, 5)), tmp_path / "raw"
    folder.mkdir()
    for stem, split in (("train", "train"), ("t10k", "test")):
        write_idx(folder / f"{stem}-images-idx3-ubyte.gz", content[f"x_{split}"])
        write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", np.uint8(content[f"y_{split}"]))
    return folder


def test_idx_files_are_read_with_the_constants_of_their_name(idx_folder):
    content = arrays((4, 5))
    real = load_dataset("fashion_mnist", data_dir=idx_folder)
    expected = (content["x_test"][..., None] / 255 - 0.2860) / 0.3530
    np.testing.assert_allclose(real.test.images, expected, atol=1e-5)
    np.testing.assert_array_equal(real.train.labels, content["y_train"])
    assert (real.name, real.flips) == ("fashion_mnist", True)
    by_path = load_dataset(idx_folder)
    np.testing.assert_allclose(by_path.space.mean, [content["x_train"].mean() / 255], rtol=1e-5)
    assert by_path.name == "raw"


@pytest.mark.parametrize("place", ["MNIST/raw", "mnist", "."])
def test_published_folder_is_found_below_data_dir(idx_folder, tmp_path, place):
    root = tmp_path / "root"
    shutil.copytree(idx_folder, root / place)
    assert load_dataset("mnist", data_dir=root).space.mean == np.float32(0.1307)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[: len(raw) // 2], "damaged idx file"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:-1]), "damaged idx file"),
        (lambda raw: gzip.compress(b"hello"), "does not begin as an idx file"),
        (lambda raw: b"", "damaged idx file"),
    ],
)
def test_damaged_idx_file_is_refused(idx_folder, damage, message):
    path = idx_folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"t10k-images-idx3-ubyte\.gz: .*{message}"):
        load_dataset(idx_folder)
    path.unlink()
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte\.gz: no such file"):
        load_dataset(idx_folder)


class Python2Pickler(pickle._Pickler):
    """Pickles as Python 2 did for CIFAR: its str, bytes here, in opcodes that Python 3 no longer writes."""

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)

    def save_str(self, value):
        self.save_bytes(value.encode())

    dispatch = pickle._Pickler.dispatch | {bytes: save_bytes, str: save_str}


def write_batch(path, **content):
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump({key.encode(): value for key, value in content.items()})
    path.write_bytes(buffer.getvalue().replace(b"numpy._core", b"numpy.core"))


@pytest.fixture
def cifar_folders(tmp_path):
    """cifar-10-batches-py and cifar-100-python, two images in each file: the images and labels in order."""
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    labels = np.arange(12) % 2
    rows = images.transpose(0, 3, 1, 2).reshape(12, -1)
    ten, hundred = tmp_path / "cifar-10-batches-py", tmp_path / "cifar-100-python"
    ten.mkdir()
    hundred.mkdir()
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        part = slice(2 * i, 2 * i + 2)
        write_batch(ten / name, batch_label=name, labels=labels[part].tolist(), data=rows[part], filenames=["a", "b"])
    for name, part in (("train", slice(10)), ("test", slice(10, 12))):
        coarse = [0] * len(labels[part])
        write_batch(hundred / name, fine_labels=labels[part].tolist(), coarse_labels=coarse, data=rows[part])
    write_batch(hundred / "meta", fine_label_names=["apple", "aquarium_fish"])
    return tmp_path, images, labels


@pytest.mark.parametrize(
    ("name", "folder", "mean", "std"),
    [
        ("cifar10", "cifar-10-batches-py", CIFAR_MEAN, CIFAR_STD),
        ("cifar100", "cifar-100-python", [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    ],
)
def test_cifars_batches_are_read_by_name_and_by_path(cifar_folders, name, folder, mean, std):
    root, images, labels = cifar_folders
    by_name, by_path = load_dataset(name, data_dir=root), load_dataset(root / folder)
    for real in (by_name, by_path):
        np.testing.assert_allclose(real.train.images, (images[:10] / 255 - mean) / std, atol=1e-5)
        np.testing.assert_allclose(real.test.images, (images[10:] / 255 - mean) / std, atol=1e-5)
        np.testing.assert_array_equal(np.concatenate([real.train.labels, real.test.labels]), labels)
    assert (by_name.name, by_path.name) == (name, folder)


def test_batch_in_an_unexpected_form_is_refused(cifar_folders):
    root, _, _ = cifar_folders
    folder = root / "cifar-10-batches-py"
    write_batch(folder / "test_batch", data=np.zeros((2, 3072)), labels=[0, 1])
    with pytest.raises(InputError, match=r"test_batch: data must be uint8 of shape \(N, 3072\), got float64"):
        load_dataset(folder)
    write_batch(folder / "test_batch", data=np.zeros((2, 3072), np.uint8))
    with pytest.raises(InputError, match=r"test_batch: no b'labels'; it holds b'data'"):
        load_dataset(folder)
    (folder / "test_batch").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"test_batch: damaged, or not the pickle"):
        load_dataset(folder)
    (folder / "test_batch").unlink()
    with pytest.raises(InputError, match=r"test_batch: no such file"):
        load_dataset(folder)


def write_tree(folder, images, splits=("train", "val"), classes=("cat", "dog", "eel")):
    """Images (N, H, W, K) dealt out to classes in turn, the same ones in every split."""
    for split in splits:
        for i, image in enumerate(images):
            path = folder / split / classes[i % len(classes)] / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return folder


COLOURS = arrays()["x_train"]
CLASS_MAJOR = np.argsort(np.arange(12) % 3, kind="stable")


@pytest.mark.parametrize("split", ["val", "test"])
def test_images_by_split_and_class_are_read(tmp_path, split):
    real = load_dataset(write_tree(tmp_path / "pets", COLOURS, ("train", split)))
    assert (real.name, real.num_classes, real.validation) == ("pets", 3, None)
    np.testing.assert_array_equal(real.train.labels, np.repeat(np.arange(3), 4))
    pixels = real.test.images * real.space.std + real.space.mean
    np.testing.assert_allclose(pixels, COLOURS[CLASS_MAJOR] / 255, atol=1e-6)
    np.testing.assert_allclose(real.train.images.std((0, 1, 2)), 1, rtol=1e-4)


def test_val_is_the_validation_split_where_test_has_classes_too(tmp_path):
    folder = write_tree(tmp_path / "pets", COLOURS, ("train", "val"))
    (folder / "test" / "images").mkdir(parents=True)
    assert load_dataset(folder).validation is None
    write_tree(folder, COLOURS[:6], ("test",))
    real = load_dataset(folder)
    assert (len(real.validation), len(real.test)) == (12, 6)


@pytest.mark.parametrize(("size", "sides"), [(2, (2, 2)), ((3, 2), (3, 2))])
def test_images_are_resized_to_a_side_or_to_height_and_width(tmp_path, size, sides):
    real = load_dataset(write_tree(tmp_path / "pets", COLOURS), size=size)
    assert real.image_shape == (*sides, 3)


def test_images_that_differ_in_size_need_one(tmp_path):
    folder = write_tree(tmp_path / "pets", COLOURS)
    Image.fromarray(np.zeros((7, 9, 3), np.uint8)).save(folder / "val" / "cat" / "large.png")
    assert load_dataset(folder, size=4).image_shape == (4, 4, 3)
    with pytest.raises(InputError, match=r"one size, got .*large\.png 7×9; .*give a size"):
        load_dataset(folder)


def test_val_that_lacks_classes_is_refused(tmp_path):
    folder = write_tree(tmp_path / "pets", COLOURS)
    shutil.move(folder / "val" / "dog", folder / "val" / "images")
    with pytest.raises(InputError, match=r"val: has no folder for 1 of 3 classes, first dog"):
        load_dataset(folder)


def write_class_positions(folder, classes):
    """An image, 9×6, for each class in train and val: its red and green say the class's position."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 6, 3), np.uint8)
    for split in ("train", "val"):
        for i in range(classes):
            (folder / split / f"n{i:08d}").mkdir(parents=True)
            pixels[..., :2] = divmod(i, 256)
            Image.fromarray(pixels).save(folder / split / f"n{i:08d}" / "a.png")


def class_positions(split):
    red, green, _ = np.moveaxis(split.images[:, 1, 1] * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406], -1, 0)
    return np.rint(255 * (256 * red + green)).astype(int).tolist()


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    write_class_positions(root, 1000)
    return root


# Every dataset as it is published, against the table of DD-Ranking 0.2.0

IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TREES = {  # side, classes
    "tinyimagenet": (64, range(200)),
    "imagenet1k": (224, range(1000)),
    "imagenette": (128, (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)),
    "imagewoof": (128, (193, 182, 258, 162, 155, 167, 159, 273, 207, 229)),
    "imagemeow": (128, (281, 282, 283, 284, 285, 291, 292, 290, 289, 287)),
    "imagesquawk": (128, (84, 130, 88, 144, 145, 22, 96, 9, 100, 89)),
    "imagefruit": (128, (953, 954, 949, 950, 951, 957, 952, 945, 943, 948)),
    "imageyellow": (128, (309, 986, 954, 951, 987, 779, 599, 291, 72, 11)),
}
SMALL = {  # shape, mean, std, mirrored images keep their class
    "digits": ((8, 8, 1), None, None, False),
    "mnist": ((28, 28, 1), [0.1307], [0.3081], False),
    "fashion_mnist": ((28, 28, 1), [0.2860], [0.3530], True),
    "svhn_cropped": ((32, 32, 3), [0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970], False),
    "cifar10": ((32, 32, 3), CIFAR_MEAN, CIFAR_STD, True),
    "cifar100": ((32, 32, 3), [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762], True),
}


def test_the_tables_below_name_every_dataset():
    assert {*TREES, *SMALL} == set(DATASETS)


@pytest.fixture
def published(tmp_path, idx_folder, cifar_folders, imagenet):
    """Brings a small dataset of a name into its published form: the arguments of `load_dataset` that find it."""

    def place(name):
        if name == "tinyimagenet":
            write_class_positions(tmp_path / "tiny-imagenet-200", 200)
        if name.endswith("mnist"):
            content = arrays((28, 28))
            write_idx(idx_folder / "train-images-idx3-ubyte.gz", content["x_train"])
            write_idx(idx_folder / "t10k-images-idx3-ubyte.gz", content["x_test"])
            return name, {"data_dir": idx_folder}
        if name == "svhn_cropped":  # published as .mat; tensorflow-datasets reads it
            np.savez(tmp_path / "svhn_cropped.npz", **arrays((32, 32, 3)))
            return tmp_path / "svhn_cropped.npz", {}
        return name, {"data_dir": imagenet if name in TREES and name != "tinyimagenet" else tmp_path}

    return place


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_is_read_with_its_size_constants_and_classes(published, name):
    source, arguments = published(name)
    if name == "imagenet1k":  # at 224 pixels a second and a gigabyte
        assert folders.PUBLISHED[name].tree.size == TREES[name][0]
        arguments["size"] = 3
    real = load_dataset(source, **arguments)
    if name in TREES:
        side, classes = TREES[name]
        side = arguments.get("size", side)
        (mean, std), shape, flips = IMAGENET, (side, side, 3), True
        assert class_positions(real.train) == class_positions(real.test) == list(classes)
        np.testing.assert_array_equal(real.test.labels, np.arange(len(classes)))
    else:
        shape, mean, std, flips = SMALL[name]
    assert (real.name, real.image_shape, real.flips) == (name, shape, flips)
    if mean is not None:
        np.testing.assert_array_equal([real.space.mean, real.space.std], np.float32([mean, std]))


def lay_out_as_published(folder):
    """`val` as Tiny ImageNet's archive has it: all images in one folder, their classes in a list."""
    (folder / "val" / "images").mkdir()
    lines = []
    for i, path in enumerate(sorted(folder.glob("val/*/*.png"))):
        path.rename(folder / "val" / "images" / f"val_{i}.png")
        lines.insert(0, f"val_{i}.png\t{path.parent.name}\t0\t32\t44\t62\n")
    for empty in set(folder.glob("val/*")) - {folder / "val" / "images"}:
        empty.rmdir()
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "test" / "images").mkdir(parents=True)


def test_tiny_imagenet_is_read_as_it_is_published(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    write_class_positions(folder, 200)
    for path in folder.glob("train/*"):
        (path / "images").mkdir()
        (path / "a.png").rename(path / "images" / "a.png")
        (path / "boxes.txt").touch()
    sorted_by_hand = load_dataset("tinyimagenet", data_dir=tmp_path)
    lay_out_as_published(folder)
    real = load_dataset("tinyimagenet", data_dir=tmp_path)
    assert class_positions(real.test) == real.test.labels.tolist() == list(range(200))[::-1]
    np.testing.assert_array_equal(real.train.images, sorted_by_hand.train.images)
    by_path = load_dataset(folder)
    assert (by_path.image_shape, by_path.validation) == ((9, 6, 3), None)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", r"val_annotations\.txt: lists no images"),
        (lambda text: text + "val_3.png\n", r"line 13 must begin with .* got 'val_3.png'"),
        (lambda text: text.replace("eel", "fox"), r"line 1 must begin with .*a class of train, got .*png fox'"),
        (lambda text: text.replace("val_7", "val_77"), r"val_77\.png: no such file"),
    ],
)
def test_list_of_classes_that_does_not_fit_is_refused(tmp_path, damage, message):
    folder = write_tree(tmp_path / "pets", COLOURS)
    lay_out_as_published(folder)
    listed = folder / "val" / "val_annotations.txt"
    listed.write_text(damage(listed.read_text()))
    with pytest.raises(InputError, match=message):
        load_dataset(folder)


def test_named_tree_needs_all_its_class_folders_and_a_place(tmp_path):
    folder = write_tree(tmp_path / "tiny-imagenet-200", COLOURS)
    message = "holds 3 class folders where 200 are expected.*the folder's own path"
    with pytest.raises(InputError, match=message):
        load_dataset("tinyimagenet", data_dir=tmp_path)
    assert load_dataset(folder).space.mean[0] == np.float32(0.485)
    with pytest.raises(InputError, match=r"read from images on disk: set data_dir \(--data-dir\)"):
        load_dataset("imagenet1k")
    with pytest.raises(InputError, match=r"imagenet1k is read from images on disk: .* is not a folder with train"):
        load_dataset("imagenet1k", data_dir=tmp_path)


def test_folder_of_unknown_content_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no real data in a form that is known: .*data_batch_1"):
        load_dataset(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        load_dataset(tmp_path / "absent")


def test_size_is_for_folders_of_images_and_positive(saved, idx_folder):
    for source in ("digits", "cifar10", saved(), idx_folder):
        with pytest.raises(InputError, match="a size is for folders of images"):
            load_dataset(source, size=8)
    for size in (0, 2.5, (8,), (8, 0), "8"):
        with pytest.raises(InputError, match="size must be a side"):
            load_dataset("imagenette", size=size)


@pytest.mark.shared
def test_mnist_as_published_is_normalised_to_its_constants(shared):
    real = load_dataset("mnist", data_dir=shared / "data")
    assert (len(real.train), len(real.test), real.image_shape) == (60_000, 10_000, (28, 28, 1))
    assert abs(real.train.images.mean()) < 1e-3
    assert abs(real.train.images.std() - 1) < 1e-3


# validation and random subsets


def test_validation_is_stratified_disjoint_and_always_the_same():
    real = real_data(np.repeat(np.arange(3), (10, 20, 40)))
    held = with_validation(real)
    np.testing.assert_array_equal(np.bincount(held.validation.labels), [1, 2, 4])
    both = np.concatenate([held.train.images, held.validation.images]).ravel()
    np.testing.assert_array_equal(np.sort(both), np.arange(70))
    assert held.validation.images.ravel().tolist() == [6, 10, 13, 44, 54, 57, 62]


def test_validation_holds_each_class_and_at_most_5000_images():
    tenth = with_validation(real_data(np.repeat(np.arange(2), 100), classes=2))
    np.testing.assert_array_equal(np.bincount(tenth.validation.labels), [10, 10])
    tiny = with_validation(real_data(np.repeat(np.arange(3), 2)))
    np.testing.assert_array_equal(np.bincount(tiny.validation.labels), [1, 1, 1])
    large = with_validation(real_data(np.arange(60_000) % 3))
    assert 4_990 <= len(large.validation) <= 5_000


def test_validation_of_the_dataset_itself_is_kept():
    real = load_dataset("digits")
    assert with_validation(real) is real


def test_validation_needs_two_images_per_class():
    with pytest.raises(InputError, match="class 2 has a single train image"):
        with_validation(real_data([0, 0, 1, 1, 2]))


def test_without_validation_train_has_all_images():
    real = real_data(np.repeat(np.arange(3), 10))
    merged = without_validation(with_validation(real))
    assert merged.validation is None
    assert len(merged.train.images) == 30
    np.testing.assert_array_equal(merged.train.labels, real.train.labels[merged.train.images.ravel().astype(int)])
    assert without_validation(real) is real


def test_whitened_data_stay_so_when_splits_are_made_and_merged(saved):
    plain, real = load_dataset(saved()), load_dataset(saved(), zca="kornia")
    assert (plain.space.name, real.space.name) == ("normalised", "zca")
    held = with_validation(real)
    assert held.space is without_validation(held).space is real.space
    assert fingerprint(real.train.images) != fingerprint(plain.train.images)


@pytest.mark.parametrize("kind", ["kornia", "kip"])
def test_whitening_of_data_is_fitted_to_train_and_applied_to_every_split(saved, kind):
    extra = arrays(seed=1)
    path = saved("cifar10", x_validation=extra["x_train"], y_validation=extra["y_train"])
    real = load_dataset(path, zca=kind)
    pixels = {
        "train": arrays()["x_train"] / 255,
        "validation": extra["x_train"] / 255,
        "test": arrays()["x_test"] / 255,
    }
    fitted = fit(pixels["train"], kind, real.space, "made")
    for split, images in pixels.items():
        np.testing.assert_allclose(getattr(real, split).images, fitted.images(images), atol=1e-5)
        np.testing.assert_allclose(real.space.images(images), getattr(real, split).images, atol=1e-5)
    np.testing.assert_array_equal(real.space.mean, CIFAR_MEAN)


def test_unknown_whitening_is_refused_before_anything_is_read():
    with pytest.raises(InputError, match="unknown ZCA whitening 'korna': did you mean 'kornia'"):
        load_dataset("nowhere", zca="korna")


def test_random_subset_is_class_major_without_repeats():
    labels = np.arange(30) % 3
    indices = random_subset(labels, np.array([4, 0, 10]), np.random.default_rng(0))
    np.testing.assert_array_equal(labels[indices], [0] * 4 + [2] * 10)
    assert len(set(indices)) == 14
    again = random_subset(Split(np.zeros(30), labels), [4, 0, 10], np.random.default_rng(0))
    np.testing.assert_array_equal(indices, again)
    other = random_subset(labels, [4, 0, 10], np.random.default_rng(1))
    assert set(indices) != set(other)


def test_random_subset_of_too_small_a_class_is_refused():
    with pytest.raises(InputError, match="need 11 images of class 1, and the real data has 10"):
        random_subset(np.arange(30) % 3, [1, 11, 1], np.random.default_rng(0))


# tensorflow-datasets


def prepare_tfds(root, counts, file_format="array_record"):
    """Prepare a small dataset named mnist, in the form that tensorflow-datasets gives the real one."""
    import tensorflow_datasets as tfds
    from PIL import Image

    class Mnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "mnist"
        VERSION = tfds.core.Version("3.0.1")
        pkg_dir_path = None

        def _info(self):
            image = tfds.features.Image(shape=(28, 28, 1))
            features = {"image": image, "label": tfds.features.ClassLabel(num_classes=10)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(count) for split, count in counts.items()}

        def _generate_examples(self, count):
            for i in range(count):
                png = io.BytesIO()  # already encoded: encoding an array would need TensorFlow
                Image.fromarray(np.full((28, 28), 20 * (i % 10), np.uint8)).save(png, "png")
                png.seek(0)
                yield i, {"image": png, "label": i % 10}

    Mnist(data_dir=root, file_format=file_format).download_and_prepare()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp("tfds")
    prepare_tfds(root, {"train": 40, "test": 20})
    return root


def test_prepared_dataset_is_read_without_tensorflow(prepared, monkeypatch):
    small = folders.Known((0.1307,), (0.3081,), False, 40, 20)
    monkeypatch.setitem(folders.PUBLISHED, "mnist", small)
    real = load_dataset("mnist", data_dir=prepared)
    assert (len(real.train), len(real.test), real.image_shape) == (40, 20, (28, 28, 1))
    expected = (20 * real.train.labels / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(real.train.images[:, 3, 5, 0], expected, atol=1e-5)
    assert not real.flips
    assert "tensorflow" not in sys.modules


def test_prepared_dataset_that_lost_images_is_refused(prepared):
    with pytest.raises(InputError, match="train holds 40 images instead of 60000"):
        load_dataset("mnist", data_dir=prepared)


def test_data_dir_may_come_from_the_environment(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    with pytest.raises(InputError, match="instead of 60000"):
        load_dataset("mnist")


def test_dataset_in_another_format_is_refused(prepared, tmp_path):
    shutil.copytree(prepared / "mnist", tmp_path / "mnist")
    for file in tmp_path.glob("mnist/*/*.array_record-*"):
        file.rename(file.with_name(file.name.replace("array_record", "tfrecord")))
    with pytest.raises(InputError, match=r"another format than array_record.*another data_dir"):
        load_dataset("mnist", data_dir=tmp_path)


def test_unprepared_dataset_is_refused_at_once_with_the_ways_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # importing it would fail
    with pytest.raises(InputError, match=r"not prepared under .*download=True.*cifar10\.npz with x_train"):
        load_dataset("cifar10", data_dir=tmp_path)


def test_download_without_tensorflow_is_refused_at_once(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else found(name))
    with pytest.raises(InputError, match=r"needs TensorFlow: pip install 'ddr-jax\[tf\]'"):
        load_dataset("cifar10", data_dir=tmp_path, download=True)


class Builder:
    """Stands for the builder of tensorflow-datasets that downloads."""

    def __init__(self, name, data_dir, file_format):
        self.arguments = data_dir, {"train": 40, "test": 20}, file_format
        self.data_path = data_dir / name / "3.0.1"

    def download_and_prepare(self):
        prepare_tfds(*self.arguments)


@pytest.fixture
def download(monkeypatch, tmp_path):
    """Loads MNIST with download=True as if TensorFlow were there, with a given class as the builder."""
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)

    def load(builder):
        monkeypatch.setattr(tfds, "builder", builder)
        return load_dataset("mnist", data_dir=tmp_path, download=True)

    return load


def test_download_prepares_files_that_are_then_read(download, monkeypatch):
    monkeypatch.setitem(folders.PUBLISHED, "mnist", folders.Known((0.1307,), (0.3081,), False, 40, 20))
    assert len(download(Builder).train) == 40


def test_download_that_fails_is_one_message(download):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to host")

    with pytest.raises(InputError, match=r"mnist could not be downloaded and prepared in .*no route to host"):
        download(unreachable)


def test_names_without_tensorflow_datasets_are_refused(prepared, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install tensorflow-datasets"):
        load_dataset("mnist", data_dir=prepared)
