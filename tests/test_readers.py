import importlib.util
import pickle

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from ddr_jax.data import readers
from ddr_jax.types import InputError, InputWarning

RNG = np.random.default_rng(0)


class Stranger:
    """Pickles as a call of a stranger's choice, which leaves a mark if it is ever made."""

    calls = 0

    def __reduce__(self):
        return mark, ()


def mark():
    Stranger.calls += 1


# NumPy and safetensors


def test_damaged_or_missing_files_are_one_message(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match=r"a\.npy: not an array"):
        readers.read_npy(tmp_path / "a.npy")
    with pytest.raises(InputError, match=r"no such file; did you mean .*a\.npy"):
        readers.read_npy(tmp_path / "aa.npy")
    safetensors.numpy.save_file({"x": np.zeros(3)}, tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"b\.safetensors: no images; it holds x"):
        readers.read_safetensors(tmp_path / "b.safetensors", ["images"])
    (tmp_path / "b.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(InputError, match=r"b\.safetensors: cannot be read"):
        readers.read_safetensors(tmp_path / "b.safetensors", ["images"])


def test_npy_of_objects_is_never_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Stranger()]), allow_pickle=True)
    with pytest.raises(InputError, match="without unpickling"):
        readers.read_npy(tmp_path / "a.npy")
    assert Stranger.calls == 0


# PyTorch


def test_pt_without_pytorch_is_one_message(tmp_path, monkeypatch):
    (tmp_path / "a.pt").touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"a\.pt: .*pip install 'ddr-jax\[torch\]'"):
        readers.read_pt(tmp_path / "a.pt")


def test_pt_runs_nothing_of_a_strangers(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"images": torch.zeros(3), "extra": Stranger()}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt: .*foreign code"):
        readers.read_pt(tmp_path / "a.pt")
    torch.save(np.array([Stranger()], object), tmp_path / "b.pt")
    with pytest.raises(InputError, match=r"b\.pt: .*foreign code"):
        readers.read_pt(tmp_path / "b.pt")
    assert Stranger.calls == 0


@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"hello" * 100])
def test_damaged_pt_is_one_message(tmp_path, damage):
    torch = pytest.importorskip("torch")
    torch.save(torch.zeros(100), tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(damage((tmp_path / "a.pt").read_bytes()))
    with pytest.raises(InputError, match=r"a\.pt: (damaged|not a file of torch\.save)"):
        readers.read_pt(tmp_path / "a.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_numpy_inside_pt_is_read(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    content = {
        "scalar": np.float64(0.25),
        "big": np.arange(6, dtype=">i4").reshape(2, 3),
        "fortran": np.asfortranarray(RNG.normal(size=(2, 3)).astype(np.float16)),
        "bool": np.array([True, False]),
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    read = readers.read_pt(tmp_path / "a.pt")
    for key, array in content.items():
        np.testing.assert_array_equal(read[key], array)
        assert np.asarray(read[key]).dtype == array.dtype


# Pickles


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickle_runs_nothing_of_a_strangers(tmp_path, protocol):
    (tmp_path / "a").write_bytes(pickle.dumps({"data": Stranger()}, protocol))
    with pytest.raises(InputError, match=r"a: .*it asks to run test_readers\.mark"):
        readers.read_pickle(tmp_path / "a")
    (tmp_path / "b").write_bytes(pickle.dumps(np.array([Stranger()], object), protocol))
    with pytest.raises(InputError, match=r"b: "):
        readers.read_pickle(tmp_path / "b")
    assert Stranger.calls == 0


def test_pickle_of_numbers_and_arrays_is_read(tmp_path):
    content = {"data": RNG.integers(0, 256, (3, 4), np.uint8), "labels": [1, 2, 3]}
    (tmp_path / "a").write_bytes(pickle.dumps(content, 4))
    read = readers.read_pickle(tmp_path / "a")
    np.testing.assert_array_equal(read["data"], content["data"])
    assert read["labels"] == content["labels"]


# Images


def save_images(folder, images, mode=None):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).convert(mode).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def test_images_are_grey_only_if_all_are(tmp_path):
    colours = RNG.integers(0, 256, (2, 4, 5, 3), np.uint8)
    rgb, grey = save_images(tmp_path / "rgb", colours), save_images(tmp_path / "grey", colours[..., 0])
    np.testing.assert_array_equal(readers.read_images(rgb), colours)
    np.testing.assert_array_equal(readers.read_images(grey), colours[..., :1])
    mixed = readers.read_images([rgb[0], grey[1]])
    np.testing.assert_array_equal(mixed[1], np.repeat(colours[1, ..., :1], 3, -1))


def test_images_of_several_sizes_need_one(tmp_path):
    (small,) = save_images(tmp_path / "a", np.zeros((1, 4, 5, 3), np.uint8))
    (large,) = save_images(tmp_path / "b", np.full((1, 9, 7, 3), 255, np.uint8))
    with pytest.raises(InputError, match=r"one size, got .*a/0\.png 4×5 and .*b/0\.png 9×7"):
        readers.read_images([small, large])
    images = readers.read_images([small, large], (4, 4))
    assert (images.shape, images.dtype) == ((2, 4, 4, 3), np.float32)
    np.testing.assert_array_equal(images[1], np.ones((4, 4, 3)))


def test_resizing_is_that_of_torch_with_antialiasing_and_unrounded(tmp_path):
    torch = pytest.importorskip("torch")
    pixels = RNG.integers(0, 256, (1, 37, 53, 3), np.uint8)
    paths = save_images(tmp_path / "a", pixels)
    tensor = torch.tensor(pixels / 255).permute(0, 3, 1, 2)
    for size in ((16, 16), (64, 48)):
        theirs = torch.nn.functional.interpolate(tensor, size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
        np.testing.assert_allclose(readers.read_images(paths, size), theirs, atol=1e-6)


def test_halving_averages_neighbours_with_the_triangles_weights(tmp_path):
    pixels = np.uint8([[0, 0, 100, 201, 0, 0, 0, 0]]).repeat(2, 0)
    resized = readers.read_images(save_images(tmp_path / "a", pixels[None]), (2, 4))
    # Inside, weights 1, 3, 3, 1 over four pixels; at the edge the ones that are left.
    expected = np.array([(0 + 0 + 100) / 7, (0 + 3 * 100 + 3 * 201 + 0) / 8, 201 / 8, 0]) / 255
    np.testing.assert_allclose(resized[0, :, :, 0], [expected] * 2, atol=1e-6)


def test_classes_are_sub_folders_in_the_order_of_their_names(tmp_path):
    images = RNG.integers(0, 256, (6, 4, 5), np.uint8)
    for name, part in (("b", images[:3]), ("a", images[3:4]), ("c/deeper", images[4:]), (".hidden", images)):
        save_images(tmp_path / name, part)
    read, labels = readers.read_classes(tmp_path)
    np.testing.assert_array_equal(labels, [0, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(read[..., 0], images[[3, 0, 1, 2, 4, 5]])


def test_unpadded_numbers_as_class_names_give_a_warning(tmp_path):
    for name in ("2", "10"):
        (tmp_path / name).mkdir()
    with pytest.warns(InputWarning, match=r"order of their names as text, 10, 2.*pad the names"):
        assert readers.class_names(tmp_path) == ["10", "2"]


def test_folders_without_classes_or_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no sub-folders"):
        readers.read_classes(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match=r"cat: holds no images.*\.png"):
        readers.read_classes(tmp_path)


def test_unreadable_and_deep_images_are_refused(tmp_path):
    (path,) = save_images(tmp_path / "a", RNG.integers(0, 256, (1, 40, 50, 3), np.uint8))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InputError, match=r"0\.png: a damaged image"):
        readers.read_images([path])
    path.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"0\.png: not an image"):
        readers.read_images([path])
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    with pytest.raises(InputError, match="8 bits per channel, got Pillow's mode I"):
        readers.read_images([path])


def test_images_beyond_the_machines_memory_are_refused_before_decoding(tmp_path):
    paths = save_images(tmp_path / "train" / "cat", np.zeros((1, 2, 3), np.uint8))
    with pytest.raises(InputError, match=r"1 images of 9000000×9000000 need \d+ GB of memory.*smaller size"):
        readers.read_images(paths, (9_000_000, 9_000_000))
