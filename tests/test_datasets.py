import gzip
import io
import shutil
import sys

import numpy as np
import pytest

from ddr_jax import datasets
from ddr_jax.datasets import load_dataset, random_subset, with_validation, without_validation
from ddr_jax.types import InputError, InputWarning, RealData, Split

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
    return RealData("made", split, None, split, np.zeros(1), np.ones(1), classes, False)


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
    levels = images * real.std * 16 + real.mean * 16
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    assert np.rint(levels).sum() == 561_718  # of all 1,797 images


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
    np.testing.assert_allclose(real.mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(real.std, pixels.std((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(real.train.images.std((0, 1, 2)), 1, rtol=1e-4)
    assert real.flips


def test_constants_of_the_file_win_over_its_name(saved):
    real = load_dataset(saved("cifar10", mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25], flips=False))
    np.testing.assert_array_equal(real.mean, np.float32([0.5, 0.5, 0.5]))
    np.testing.assert_array_equal(real.std, np.float32([0.25, 0.25, 0.25]))
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
    assert real.mean[0] == np.float32(mean)
    assert real.flips == flips


@pytest.mark.parametrize(("stem", "mean"), [("mnist", 0.1307), ("Fashion-MNIST", 0.2860)])
def test_name_of_a_grey_file_brings_its_datasets_constants(saved, stem, mean):
    assert load_dataset(saved(stem, **arrays((4, 4, 1)))).mean == np.float32(mean)


def test_a_published_dataset_under_another_name_is_told_by_its_content(saved, monkeypatch):
    content = arrays()
    mean = tuple(content["x_train"].mean((0, 1, 2)) / 255 + 1e-4)
    monkeypatch.setitem(datasets._KNOWN, "cifar10", datasets._Known(mean, (0.5,) * 3, False, 12, 12))
    with pytest.warns(InputWarning, match="this is cifar10"):
        real = load_dataset(saved("downloaded"))
    np.testing.assert_allclose(real.std, 0.5)
    assert not real.flips


@pytest.mark.parametrize(("stem", "shape"), [("kmnist", (4, 4, 1)), ("cifar10", (4, 4, 1))])
def test_another_name_or_number_of_channels_brings_no_constants(saved, stem, shape):
    content = arrays(shape)
    real = load_dataset(saved(stem, **content))
    np.testing.assert_allclose(real.mean, [content["x_train"].mean() / 255], rtol=1e-5)


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
        ({"mean": [0.5] * 3, "std": [0.5, 0, 0.5]}, "std positive"),
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
        ({"y_train": np.arange(12) % 3 * 2}, "go up to 4, but no image has class 1"),
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


@pytest.mark.shared
def test_mnists_test_images_are_normalised_to_its_published_constants(shared, tmp_path):
    def idx(name, header):
        raw = gzip.decompress((shared / "data" / "mnist" / f"{name}-ubyte.gz").read_bytes())
        return np.frombuffer(raw, np.uint8, offset=header)

    x, y = idx("t10k-images-idx3", 16).reshape(-1, 28, 28), idx("t10k-labels-idx1", 8)
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    real = load_dataset(tmp_path / "mnist.npz")
    assert abs(real.train.images.mean()) < 0.02
    assert abs(real.train.images.std() - 1) < 0.02


# validation and random subsets


def test_validation_is_stratified_disjoint_and_always_the_same():
    real = real_data(np.repeat(np.arange(3), (10, 20, 40)))
    held = with_validation(real, 0.2)
    np.testing.assert_array_equal(np.bincount(held.validation.labels), [2, 4, 8])
    both = np.concatenate([held.train.images, held.validation.images]).ravel()
    np.testing.assert_array_equal(np.sort(both), np.arange(70))
    assert held.validation.images.ravel().tolist() == [0, 6, 10, 13, 16, 26, 30, 36, 42, 43, 44, 54, 57, 62]


def test_validation_holds_each_class_and_at_most_5000_images():
    tiny = with_validation(real_data(np.repeat(np.arange(3), 2)))
    np.testing.assert_array_equal(np.bincount(tiny.validation.labels), [1, 1, 1])
    large = with_validation(real_data(np.arange(60_000) % 3))
    assert 4_990 <= len(large.validation) <= 5_000


def test_validation_of_the_dataset_itself_is_kept():
    real = load_dataset("digits")
    assert with_validation(real) is real


def test_validation_needs_a_share_and_two_images_per_class():
    with pytest.raises(InputError, match=r"between 0 and 1, got 1\.5"):
        with_validation(real_data([0, 0, 1, 1, 2, 2]), 1.5)
    with pytest.raises(InputError, match="class 2 has a single train image"):
        with_validation(real_data([0, 0, 1, 1, 2]))


def test_without_validation_train_has_all_images():
    real = real_data(np.repeat(np.arange(3), 10))
    merged = without_validation(with_validation(real))
    assert merged.validation is None
    assert len(merged.train.images) == 30
    np.testing.assert_array_equal(merged.train.labels, real.train.labels[merged.train.images.ravel().astype(int)])
    assert without_validation(real) is real


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
    with pytest.raises(InputError, match="needs 11 images of class 1, and the real data has 10"):
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
    small = datasets._Known((0.1307,), (0.3081,), False, 40, 20)
    monkeypatch.setitem(datasets._KNOWN, "mnist", small)
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
    found = datasets.importlib.util.find_spec
    monkeypatch.setattr(
        datasets.importlib.util, "find_spec", lambda name: None if name == "tensorflow" else found(name)
    )
    with pytest.raises(InputError, match=r"needs TensorFlow: pip install 'ddr-jax\[tf\]'"):
        load_dataset("cifar10", data_dir=tmp_path, download=True)


class Builder:
    """Stands for the builder of tensorflow-datasets that downloads."""

    def __init__(self, name, data_dir, file_format):
        self.arguments = data_dir, {"train": 40, "test": 20}, file_format

    def download_and_prepare(self):
        prepare_tfds(*self.arguments)


@pytest.fixture
def download(monkeypatch, tmp_path):
    """Loads MNIST with download=True as if TensorFlow were there, with a given class as the builder."""
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: name)

    def load(builder):
        monkeypatch.setattr(tfds, "builder", builder)
        return load_dataset("mnist", data_dir=tmp_path, download=True)

    return load


def test_download_prepares_files_that_are_then_read(download, monkeypatch):
    monkeypatch.setitem(datasets._KNOWN, "mnist", datasets._Known((0.1307,), (0.3081,), False, 40, 20))
    assert len(download(Builder).train) == 40


def test_download_that_fails_is_one_message(download):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to host")

    with pytest.raises(InputError, match=r"mnist could not be downloaded and prepared in .*no route to host"):
        download(unreachable)


def test_names_without_tensorflow_datasets_are_refused(prepared, monkeypatch):
    monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install tensorflow-datasets"):
        load_dataset("mnist", data_dir=prepared)
