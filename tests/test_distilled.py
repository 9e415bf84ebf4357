import dataclasses
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from ddr_jax.data.datasets import load_dataset
from ddr_jax.data.distilled import Distilled, load_distilled, prepare, save_distilled
from ddr_jax.data.spaces import Normalised, fit
from ddr_jax.types import InputError, InputWarning, RealData, Split

MEAN, STD = np.float32([0.5, 0.4, 0.3]), np.float32([0.2, 0.25, 0.1])
LABELS = np.repeat(np.arange(3), 2)
ONE_HOT = np.eye(3)[LABELS]
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(6, 4, 5, 3)).astype(np.float32)  # NHWC, normalised: some are negative
PIXELS = RNG.uniform(size=(6, 4, 5, 3)).astype(np.float32)
PIXELS[0, 0, 0], PIXELS[0, 0, 1] = 0, 1
LOGITS = (5 * ONE_HOT - RNG.uniform(size=(6, 3))).astype(np.float32)


def real_data(shape=(4, 5, 3), classes=3, mean=MEAN, std=STD):
    split = Split(np.zeros((classes, *shape), np.float32), np.arange(classes, dtype=np.int32))
    return RealData("made", split, None, split, Normalised(np.float32(mean), np.float32(std)), classes, False)


REAL = real_data()


def made(images=IMAGES, labels=LABELS, soft_labels=None, name="made", **declared):
    return Distilled(name, images, labels, soft_labels, **declared)


@pytest.fixture
def saved(tmp_path):
    def save(stem="dc", folder=".", **content):
        path = tmp_path / folder / f"{stem}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **({"images": IMAGES, "labels": LABELS} | content))
        return path

    return save


# Reading


def test_file_is_read_as_declared(saved):
    content = {"soft_labels": LOGITS, "space": "normalised", "layout": "NHWC", "soft": "logits"}
    (file,) = load_distilled(saved(**content, mean=MEAN, std=STD))
    assert (file.name, file.space, file.layout, file.soft) == ("dc", "normalised", "NHWC", "logits")
    for stored, expected in ((file.images, IMAGES), (file.labels, LABELS), (file.soft_labels, LOGITS)):
        np.testing.assert_array_equal(stored, expected)
    np.testing.assert_array_equal((file.mean, file.std), (MEAN, STD))


def test_undeclared_stays_undeclared(saved):
    (file,) = load_distilled(saved())
    assert (file.space, file.layout, file.soft, file.soft_labels, file.mean) == (None,) * 5


def test_users_declaration_wins_with_a_warning_where_the_file_contradicts(saved):
    path = saved(space="pixels", layout="NHWC")
    with pytest.warns(InputWarning, match=r"dc\.npz.*space 'pixels', you say 'normalised': yours is used"):
        (file,) = load_distilled(path, space="normalised", layout="NHWC", soft="logits")
    assert (file.space, file.layout, file.soft) == ("normalised", "NHWC", "logits")


@pytest.mark.parametrize("declared", [{"space": "pixel"}, {"layout": "NWHC"}, {"soft": "logit"}])
def test_unknown_declaration_offers_the_nearest_word(saved, declared):
    with pytest.raises(InputError, match=r"dc: unknown .*did you mean"):
        load_distilled(saved(), **declared)
    with pytest.raises(InputError, match=r"dc: unknown .*did you mean"):
        load_distilled(saved(**declared))


def test_file_without_images_is_refused(tmp_path):
    np.savez(tmp_path / "dc.npz", data=IMAGES, labels=LABELS)
    with pytest.raises(InputError, match=r"dc\.npz: no images; it holds data, labels"):
        load_distilled(tmp_path / "dc.npz")


def test_files_of_one_stem_get_names_apart(saved):
    first, second, third = load_distilled(saved(folder="a"), saved(folder="b"), saved("dm"))
    assert first.name.endswith("a/dc")
    assert second.name.endswith("b/dc")
    assert third.name == "dm"


def test_one_name_twice_is_refused(saved):
    path = saved()
    with pytest.raises(InputError, match="dc is the name of several sets"):
        prepare(load_distilled(path, path), REAL)
    with pytest.raises(InputError, match="no distilled sets given"):
        prepare([], REAL)


def test_safetensors_are_read_as_npz_with_words_in_the_metadata(tmp_path):
    tensors = {"images": IMAGES, "labels": LABELS, "soft_labels": LOGITS, "mean": MEAN, "std": STD}
    words = {"space": "normalised", "soft": "logits", "author": "somebody"}
    safetensors.numpy.save_file(tensors, tmp_path / "dc.safetensors", words)
    (file,) = load_distilled(tmp_path / "dc.safetensors")
    assert (file.name, file.space, file.layout, file.soft) == ("dc", "normalised", None, "logits")
    for key, expected in tensors.items():
        np.testing.assert_array_equal(getattr(file, key), expected)


@pytest.fixture
def bare(tmp_path):
    """Saves bare arrays as `.npy`: their paths in order."""

    def save(*given):
        paths = [tmp_path / f"set{i}.npy" for i in range(len(given))]
        for path, array in zip(paths, given, strict=True):
            np.save(path, array)
        return paths

    return save


@pytest.mark.parametrize(
    ("images", "labels", "field"),
    [
        (IMAGES, LABELS, "labels"),
        (IMAGES, LOGITS, "soft_labels"),
        (np.stack([IMAGES] * 2), np.stack([LABELS] * 2), "labels"),
        (np.stack([IMAGES] * 2), np.stack([LOGITS] * 2), "soft_labels"),
    ],
)
def test_labels_beside_bare_images_are_classes_or_rows_of_soft_labels(bare, images, labels, field):
    images_path, labels_path = bare(images, labels)
    (file,) = load_distilled(images_path, labels=labels_path)
    np.testing.assert_array_equal(file.images, images)
    np.testing.assert_array_equal(getattr(file, field), labels)
    assert (file.labels is None) == (field == "soft_labels")


def test_labels_files_are_one_for_all_or_one_for_each(bare):
    a, b, of_a, of_b = bare(IMAGES, IMAGES, LABELS, LABELS[::-1])
    each = load_distilled(a, b, labels=[of_a, of_b])
    np.testing.assert_array_equal([file.labels for file in each], [LABELS, LABELS[::-1]])
    both = load_distilled(a, b, labels=of_a)
    np.testing.assert_array_equal([file.labels for file in both], [LABELS, LABELS])
    with pytest.raises(InputError, match="2 labels files for 1 distilled sets"):
        load_distilled(a, labels=[of_a, of_b])


def test_images_without_labels_and_labels_twice_are_refused(bare, saved):
    images, labels = bare(IMAGES, LABELS)
    with pytest.raises(InputError, match=r"set0: has neither labels nor soft_labels; .*name them.*--labels-file"):
        load_distilled(images)
    with pytest.raises(InputError, match=r"dc\.npz: holds labels of its own, so .*set1\.npy cannot be used"):
        load_distilled(saved(), labels=labels)


def test_unknown_kind_of_file_and_missing_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"dc\.mat: not a kind of file that is read: \.npz, \.safetensors"):
        load_distilled(tmp_path / "dc.mat")
    with pytest.raises(InputError, match="dc: no such file"):
        load_distilled(tmp_path / "dc")


def test_folder_of_images_by_class_holds_pixels(tmp_path):
    pixels = np.uint8(255 * PIXELS)
    folder = tmp_path / "rded_v1.0"
    for i, (image, label) in enumerate(zip(pixels, LABELS, strict=True)):
        path = folder / ("cat", "dog", "eel")[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (file,) = load_distilled(folder)
    assert (file.name, file.space) == ("rded_v1.0", "pixels")
    np.testing.assert_array_equal(file.images, pixels)
    np.testing.assert_array_equal(file.labels, LABELS)
    np.testing.assert_allclose(prepare(file, REAL).images[0], (pixels / 255 - MEAN) / STD, atol=1e-5)


def test_arrays_of_jax_are_taken():
    sets = prepare(made(jnp.asarray(IMAGES), jnp.asarray(LABELS), mean=jnp.asarray(MEAN), std=jnp.asarray(STD)), REAL)
    np.testing.assert_array_equal(sets.images[0], IMAGES)
    np.testing.assert_array_equal(sets.labels[0], LABELS)


def test_bfloat16_of_jax_is_taken():
    sets = prepare(made(soft_labels=jnp.asarray(LOGITS, jnp.bfloat16)), REAL)
    np.testing.assert_allclose(sets.soft_labels[0], LOGITS, rtol=2**-8)


# Given as paths, dictionaries or loaded


def test_sets_may_be_paths_dictionaries_or_loaded_in_one_sequence(saved):
    content = {"images": jnp.asarray(IMAGES), "labels": LABELS, "author": "somebody"}
    sets = prepare([saved("dm"), content, made(), str(saved("mtt"))], REAL)
    assert sets.names == ("dm", "set[1]", "made", "mtt")
    np.testing.assert_array_equal(sets.images, [IMAGES] * 4)
    np.testing.assert_array_equal(sets.labels, [LABELS] * 4)


def test_one_set_may_stand_alone(saved):
    for given, name in ((saved("dm"), "dm"), (str(saved("dm")), "dm"), (dict(np.load(saved("dm"))), "set")):
        assert prepare(given, REAL).names == (name,)


def test_words_of_a_dictionary_are_those_of_a_file(saved):
    path = saved(images=PIXELS, space="pixels", layout="NHWC")
    np.testing.assert_array_equal(prepare(dict(np.load(path)), REAL).images, prepare(path, REAL).images)


def test_prepared_sets_come_back_as_they_are_if_they_fit():
    sets = prepare(made(), REAL)
    assert prepare(sets, REAL) is sets
    with pytest.raises(InputError, match=r"made: was prepared for other real data: .*\(4, 5, 3\)"):
        prepare(sets, real_data((3, 3, 3)))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (5, "sets is a int; expected a path, a dictionary of arrays or a Distilled"),
        (IMAGES, "sets is a ndarray; expected"),
        (None, "sets is a NoneType; expected"),
        ([made(), IMAGES], r"sets\[1\] is a ndarray; expected"),
        ([], "no distilled sets given"),
        ({"labels": LABELS}, "set: no images; it holds labels"),
        ([{"images": IMAGES}], r"set\[0\]: has neither labels nor soft_labels"),
        ({"images": "many", "labels": LABELS}, "set: images: holds a str where an array of numbers is expected"),
        ({"images": IMAGES, "labels": LABELS, "space": 3}, "set: unknown space '3'"),
    ],
)
def test_sets_of_other_types_are_refused_by_the_name_of_the_argument(sets, message):
    with pytest.raises(InputError, match=message):
        prepare(sets, REAL)


def test_paths_of_other_types_are_refused():
    with pytest.raises(InputError, match=r"paths\[0\] is a list; expected a path"):
        load_distilled(["a.npz"])


def test_repr_is_one_line_without_numbers():
    assert repr(made(space="pixels")) == (
        "Distilled(name='made', images=float32 (6, 4, 5, 3), labels=int64 (6,), space='pixels')"
    )
    assert repr(prepare(made(), REAL)) == (
        "DistilledSets(names=('made',), images=float32 (1, 6, 4, 5, 3), labels=int32 (1, 6))"
    )


# PyTorch


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def test_tensors_that_need_gradients_are_taken(torch):
    images = torch.tensor(IMAGES, requires_grad=True)
    sets = prepare(made(images, torch.tensor(LABELS), torch.tensor(LOGITS, dtype=torch.bfloat16)), REAL)
    np.testing.assert_array_equal(sets.images[0], IMAGES)
    np.testing.assert_array_equal(sets.labels[0], LABELS)
    np.testing.assert_allclose(sets.soft_labels[0], LOGITS, rtol=2**-8)
    by_keys = prepare({"images": images, "labels": torch.tensor(LABELS)}, REAL)
    np.testing.assert_array_equal(by_keys.images, sets.images)


@pytest.mark.parametrize("runs", [1, 2])
def test_dictionary_of_the_dc_family_is_read_run_by_run(torch, tmp_path, runs):
    data = [[torch.tensor((r + 1) * IMAGES), torch.tensor(LABELS)] for r in range(runs)]
    accuracies = {"ConvNet": [np.float64(0.25), np.mean([0.5], dtype=np.float32)]}
    torch.save({"data": data, "accs_all_exps": accuracies}, tmp_path / "res_DC.pt")
    (file,) = load_distilled(tmp_path / "res_DC.pt")
    np.testing.assert_array_equal(file.images, [(r + 1) * IMAGES for r in range(runs)])
    np.testing.assert_array_equal(file.labels, [LABELS] * runs)


def test_runs_of_different_shapes_are_refused(torch, tmp_path):
    data = [[torch.tensor(IMAGES[r:]), torch.tensor(LABELS[r:])] for r in range(2)]
    torch.save({"data": data}, tmp_path / "res_DC.pt")
    with pytest.raises(InputError, match=r"res_DC\.pt: data must be a list with \[images, labels\] of each run"):
        load_distilled(tmp_path / "res_DC.pt")


def test_dictionary_of_tensors_arrays_and_words_is_read(torch, tmp_path):
    content = {"images": torch.tensor(IMAGES), "labels": LABELS, "soft_labels": LOGITS.tolist(), "soft": "logits"}
    torch.save(content, tmp_path / "datm.pt")
    (file,) = load_distilled(tmp_path / "datm.pt")
    np.testing.assert_array_equal(file.images, IMAGES)
    np.testing.assert_array_equal(file.labels, LABELS)
    np.testing.assert_allclose(file.soft_labels, LOGITS, rtol=1e-6)
    assert file.soft == "logits"


@pytest.mark.parametrize("suffix", [".pt", ".npy"])
def test_bare_tensor_has_its_labels_in_another_file(torch, tmp_path, suffix):
    torch.save(torch.tensor(IMAGES), tmp_path / "images.pt")
    torch.save(torch.tensor(LABELS), tmp_path / "labels.pt")
    np.save(tmp_path / "labels.npy", LABELS)
    (file,) = load_distilled(tmp_path / "images.pt", labels=tmp_path / f"labels{suffix}")
    np.testing.assert_array_equal(file.images, IMAGES)
    np.testing.assert_array_equal(file.labels, LABELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pictures": [1]}, r"no images; it holds pictures"),
        (["cat", "dog"], "holds a list where an array of numbers is expected"),
        ({"images": "many", "labels": [1]}, "images: holds a str where an array of numbers is expected"),
    ],
)
def test_file_of_other_things_is_refused(torch, tmp_path, content, message):
    torch.save(content, tmp_path / "dc.pt")
    with pytest.raises(InputError, match=rf"dc(\.pt)?: {message}"):
        load_distilled(tmp_path / "dc.pt")


# Runs and shapes


def test_runs_become_several_sets():
    runs, labels = np.stack([IMAGES, 2 * IMAGES]), np.stack([LABELS, LABELS[::-1]])
    sets = prepare([made(runs, labels), made(name="other")], REAL)
    assert sets.names == ("made[0]", "made[1]", "other")
    np.testing.assert_array_equal(sets.images, np.stack([IMAGES, 2 * IMAGES, IMAGES]))
    np.testing.assert_array_equal(sets.labels, np.stack([LABELS, LABELS[::-1], LABELS]))
    assert (sets.images.dtype, sets.labels.dtype) == (np.float32, np.int32)
    assert sets.soft_labels is None


def test_single_run_keeps_the_name():
    sets = prepare(made(IMAGES[None], LABELS[None]), REAL)
    assert sets.names == ("made",)
    np.testing.assert_array_equal(sets.images, IMAGES[None])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": IMAGES[..., 0]}, r"got shape \(6, 4, 5\)"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "not empty"),
        ({"labels": None}, "neither labels nor soft_labels"),
        ({"labels": LABELS[:5]}, r"6 images need labels of shape \(N,\) or \(runs, N\), got \(5,\)"),
        ({"labels": ONE_HOT}, r"need labels of shape .*got \(6, 3\)"),
        ({"images": np.stack([IMAGES] * 2)}, r"2 run\(s\) of 6 images need labels"),
        ({"soft_labels": LOGITS[:5]}, r"need soft_labels of shape .*got \(5, 3\)"),
        ({"images": IMAGES.astype(np.int64)}, "uint8 or floats, got int64"),
        ({"images": IMAGES.astype(str)}, "images: holds an array of <U32 where an array of numbers is expected"),
    ],
)
def test_misshapen_set_is_refused(changes, message):
    with pytest.raises(InputError, match=f"made: .*{message}"):
        prepare(made(**changes), REAL)


def test_mean_without_std_is_refused():
    with pytest.raises(InputError, match="made: has one of mean and std"):
        made(mean=MEAN)


# Layout


@pytest.mark.parametrize("declared", [None, "NCHW"])
def test_channels_first_images_are_recognised(declared):
    sets = prepare(made(IMAGES.transpose(0, 3, 1, 2), layout=declared), REAL)
    np.testing.assert_array_equal(sets.images[0], IMAGES)
    assert sets.images.flags.c_contiguous


@pytest.mark.parametrize("shape", [(4, 5, 1), (5, 4, 3), (8, 8, 3), (3, 5, 4)])
def test_images_of_another_size_or_number_of_channels_are_refused(shape):
    images = RNG.normal(size=(6, *shape))
    with pytest.raises(InputError, match=r"made: one image has shape .*the real data's are \(4, 5, 3\)"):
        prepare(made(images), REAL)


def test_layout_that_the_shape_leaves_open_must_be_declared():
    images, cube = RNG.normal(size=(6, 3, 3, 3)).astype(np.float32), real_data((3, 3, 3))
    with pytest.raises(InputError, match="fits NHWC and NCHW; declare the layout"):
        prepare(made(images), cube)
    np.testing.assert_array_equal(prepare(made(images, layout="NHWC"), cube).images[0], images)
    channels_last = images.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(prepare(made(images, layout="NCHW"), cube).images[0], channels_last)


def test_layout_that_contradicts_the_shape_is_refused():
    with pytest.raises(
        InputError, match=r"one image has shape \(4, 5, 3\), the real data's are \(3, 4, 5\) \(NCHW\); .* layout"
    ):
        prepare(made(layout="NCHW"), REAL)


# Values and space


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_refused(value):
    images = np.stack([IMAGES, IMAGES])
    images[1, 2, 3, 4, 0] = images[1, 4, 0, 0, 0] = value
    with pytest.raises(InputError, match=r"made: images hold NaN or infinity 2 times, first at \(1, 2, 3, 4, 0\)"):
        prepare(made(images, np.stack([LABELS] * 2)), REAL)


@pytest.mark.parametrize("space", [None, "pixels"])
def test_uint8_images_are_pixels(space):
    images = np.uint8(255 * PIXELS)
    sets = prepare(made(images, space=space), REAL)
    np.testing.assert_allclose(sets.images[0], (images / 255 - MEAN) / STD, atol=1e-5)


def test_pixels_are_normalised_as_the_real_data():
    sets = prepare(made(PIXELS, space="pixels"), REAL)
    np.testing.assert_allclose(sets.images[0], (PIXELS - MEAN) / STD, atol=1e-5)


def test_undeclared_pixels_are_normalised_with_a_warning():
    with pytest.warns(InputWarning, match="made: images do not say their space.*taken for pixels"):
        sets = prepare(made(PIXELS), REAL)
    np.testing.assert_allclose(sets.images[0], (PIXELS - MEAN) / STD, atol=1e-5)


@pytest.mark.parametrize("space", [None, "normalised"])
def test_normalised_images_stay_as_they_are(space):
    np.testing.assert_array_equal(prepare(made(space=space), REAL).images[0], IMAGES)


def test_preparing_leaves_the_callers_images_alone():
    images = PIXELS.copy()
    prepare(made(images, space="pixels"), REAL)
    np.testing.assert_array_equal(images, PIXELS)


def test_images_normalised_by_other_constants_are_normalised_anew():
    mean, std = np.float32([0.1, 0.2, 0.6]), np.float32([0.3, 0.2, 0.4])
    sets = prepare(made((PIXELS - mean) / std, mean=mean, std=std, space="normalised"), REAL)
    np.testing.assert_allclose(sets.images[0], (PIXELS - MEAN) / STD, atol=1e-5)
    same = prepare(made(mean=MEAN, std=STD), REAL)
    np.testing.assert_array_equal(same.images[0], IMAGES)


@pytest.mark.parametrize(
    ("images", "space", "message"),
    [
        (255 * PIXELS, None, "as if pixels were 0..255; store uint8"),
        (3 * PIXELS, None, "pixels or normalised; declare the space"),
        (PIXELS - 0.01, None, "pixels or normalised; declare the space"),
        (255 * PIXELS, "pixels", "declares pixels.*float32 values from 0 to 255.*divide 0..255 by 255"),
        (IMAGES, "pixels", "declares pixels.*declare normalised"),
        (np.uint8(255 * PIXELS), "normalised", "cannot be uint8"),
    ],
)
def test_images_that_cannot_be_of_their_space_are_refused(images, space, message):
    with pytest.raises(InputError, match=f"made: .*{message}"):
        prepare(made(images, space=space), REAL)


def test_pixels_slightly_outside_their_range_are_used_with_a_warning():
    images = 1.4 * PIXELS - 0.2
    with pytest.warns(InputWarning, match=r"made: declares pixels.*from -0\.2 to 1\.2; used as they are"):
        sets = prepare(made(images, space="pixels"), REAL)
    np.testing.assert_allclose(sets.images[0], (images - MEAN) / STD, atol=1e-5)


def test_normalised_images_that_look_like_pixels_give_a_warning():
    with pytest.warns(InputWarning, match="made: declares normalised images, but.*from 0 to 1, as pixels have"):
        sets = prepare(made(PIXELS, space="normalised"), REAL)
    np.testing.assert_array_equal(sets.images[0], PIXELS)


# Whitened real data


WHITENING = fit(RNG.uniform(size=(50, 4, 5, 3)), "kornia", REAL.space, "made")
WHITENED = dataclasses.replace(REAL, space=WHITENING)


def test_whitened_sets_stay_as_they_are_against_whitened_data():
    np.testing.assert_array_equal(prepare(made(space="zca"), WHITENED).images[0], IMAGES)


@pytest.mark.parametrize("pixels", [PIXELS, np.uint8(255 * PIXELS)])
def test_pixels_are_whitened_as_the_real_data(pixels):
    twice = np.stack([pixels, pixels[::-1]])
    sets = prepare(made(twice, [LABELS, LABELS], space="pixels"), WHITENED)
    expected = WHITENING.images(pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels)
    np.testing.assert_allclose(sets.images, [expected, expected[::-1]], atol=1e-5)
    np.testing.assert_array_equal(twice[0], pixels)


@pytest.mark.parametrize("constants", [{}, {"mean": np.float32([0.1, 0.2, 0.6]), "std": np.float32([0.3, 0.2, 0.4])}])
def test_normalised_sets_become_pixels_and_then_whitened(constants):
    mean, std = constants.get("mean", MEAN), constants.get("std", STD)
    images = np.moveaxis((PIXELS - mean) / std, -1, 1)
    sets = prepare(made(images, space="normalised", **constants), WHITENED)
    np.testing.assert_allclose(sets.images[0], WHITENING.images(PIXELS), atol=1e-5)


def test_undeclared_uint8_images_are_pixels_against_whitened_data_too():
    images = np.uint8(255 * PIXELS)
    np.testing.assert_array_equal(
        prepare(made(images), WHITENED).images, prepare(made(images, space="pixels"), WHITENED).images
    )


@pytest.mark.parametrize(
    ("file", "real", "message"),
    [
        (
            made(space="zca"),
            REAL,
            "declares ZCA-whitened images, but the real data is not whitened; load made with --zca kornia",
        ),
        (made(), WHITENED, "made is ZCA-whitened; declare the space.*--space zca, or pixels or normalised"),
        (made(PIXELS), WHITENED, "made is ZCA-whitened; declare the space"),
        (made(np.uint8(255 * PIXELS), space="zca"), WHITENED, "declares zca images, which cannot be uint8"),
    ],
)
def test_sets_and_real_data_that_are_not_whitened_alike_are_refused(file, real, message):
    with pytest.raises(InputError, match=f"made: .*{message}"):
        prepare(file, real)


# Labels


def test_order_and_number_type_of_labels_do_not_matter():
    labels = np.float64([2, 0, 1, 2, 1, 0])
    np.testing.assert_array_equal(prepare(made(labels=labels), REAL).labels, [labels])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS + 0.5, "whole numbers"),
        (LABELS * np.nan, "whole numbers"),
        (LABELS - 1, "count classes from 0, got values from -1 to 1"),
        (LABELS * 2, r"has label 4, but classes are 0 to 2$"),
        (LABELS + 1, "has label 3, .*count from 1: subtract 1"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    with pytest.raises(InputError, match=f"made: .*{message}"):
        prepare(made(labels=labels), REAL)


def test_unequal_images_per_class_give_a_warning():
    with pytest.warns(InputWarning, match=r"made: 6 images, unequally many per class \(1, 3, 2\)"):
        prepare(made(labels=[0, 1, 1, 1, 2, 2]), REAL)


def test_class_without_images_gives_a_warning():
    runs = np.stack([IMAGES, IMAGES])
    with pytest.warns(InputWarning, match=r"made\[0\] and 1 more: no image of class 1, which"):
        prepare(made(runs, [[0, 0, 0, 2, 2, 2]] * 2), REAL)


# Soft labels


def test_missing_labels_are_the_largest_soft_labels_with_a_warning():
    with pytest.warns(InputWarning, match="made: no hard labels; the class with the largest soft label"):
        sets = prepare(made(labels=None, soft_labels=LOGITS), REAL)
    np.testing.assert_array_equal(sets.labels, [LABELS])
    np.testing.assert_array_equal(sets.soft_labels, [LOGITS])


def test_probabilities_become_their_logarithms():
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    sets = prepare(made(soft_labels=probabilities, soft="probabilities"), REAL)
    np.testing.assert_allclose(np.exp(sets.soft_labels[0]), probabilities, rtol=1e-5)
    certain = prepare(made(soft_labels=ONE_HOT, soft="probabilities"), REAL).soft_labels[0]
    assert np.isfinite(certain).all()
    np.testing.assert_allclose(np.exp(certain), ONE_HOT, atol=1e-30)


@pytest.mark.parametrize("soft", [None, "logits"])
def test_logits_stay_as_they_are(soft):
    np.testing.assert_array_equal(prepare(made(soft_labels=LOGITS, soft=soft), REAL).soft_labels, [LOGITS])


def test_declared_logits_may_look_like_probabilities():
    np.testing.assert_array_equal(prepare(made(soft_labels=ONE_HOT, soft="logits"), REAL).soft_labels, [ONE_HOT])


@pytest.mark.parametrize(
    ("soft_labels", "soft", "message"),
    [
        (ONE_HOT, None, "could be probabilities or logits.*--soft-labels"),
        (LOGITS, "probabilities", "declared probabilities, but 6 rows.*are they logits"),
        (ONE_HOT * 1.01, "probabilities", "6 rows are negative or do not sum to 1"),
        (ONE_HOT + np.array([0.1, -0.1, 0]), "probabilities", "4 rows are negative"),
        (LOGITS[:, :2], None, "soft labels have 2 classes, the real data has 3"),
        (LOGITS * np.inf, None, r"soft labels hold NaN or infinity 18 times, first at \(0, 0, 0\)"),
        (LOGITS.astype(str), None, "soft_labels: holds an array of <U32 where an array of numbers is expected"),
    ],
)
def test_soft_labels_that_cannot_be_used_are_refused(soft_labels, soft, message):
    with pytest.raises(InputError, match=f"made: .*{message}"):
        prepare(made(soft_labels=soft_labels, soft=soft), REAL)


def test_soft_labels_that_contradict_the_hard_ones_give_a_warning():
    with pytest.warns(InputWarning, match="made: in 67% of the images the largest soft label is not"):
        prepare(made(labels=LABELS[[2, 3, 0, 1, 4, 5]], soft_labels=LOGITS), REAL)


# Several sets


def test_sets_that_differ_in_images_per_class_are_refused():
    fewer = made(IMAGES[::2], LABELS[::2], name="fewer")
    message = "made has 6 images, 2 per class, fewer has 3 images, 1 per class.*separate calls"
    with pytest.raises(InputError, match=message):
        prepare([made(), fewer], REAL)
    with pytest.raises(InputError, match=r"skewed has 6 images, unequally many per class.*separate calls"):
        prepare([made(), made(labels=[0, 0, 0, 1, 1, 2], name="skewed")], REAL)


def test_sets_with_and_without_soft_labels_are_refused():
    with pytest.raises(InputError, match="of made and soft only one has soft labels"):
        prepare([made(), made(soft_labels=LOGITS, name="soft")], REAL)


# Saving


def test_saved_set_is_read_back_equal(tmp_path):
    path = tmp_path / "new" / "mine.npz"
    save_distilled(path, IMAGES, LABELS, LOGITS, space="normalised", soft="logits", mean=MEAN, std=STD)
    sets = prepare(load_distilled(path), REAL)
    assert sets.names == ("mine",)
    np.testing.assert_array_equal(sets.images[0], IMAGES)
    np.testing.assert_array_equal(sets.labels[0], LABELS)
    np.testing.assert_array_equal(sets.soft_labels[0], LOGITS)
    assert [file.name for file in path.parent.iterdir()] == ["mine.npz"]


@pytest.mark.parametrize(
    ("name", "labels", "soft_labels", "message"),
    [
        ("mine.pt", LABELS, None, r"saved as \.npz"),
        ("mine.npz", LABELS[:5], None, "6 images need labels"),
        ("mine.npz", None, None, "neither labels nor soft_labels"),
        ("mine.npz", LABELS, LOGITS, "say whether the soft labels are logits or probabilities"),
    ],
)
def test_set_that_could_not_be_read_back_is_not_saved(tmp_path, name, labels, soft_labels, message):
    with pytest.raises(InputError, match=message):
        save_distilled(tmp_path / name, IMAGES, labels, soft_labels, space="normalised")
    assert not list(tmp_path.iterdir())


# Sets that their authors published


CIFAR = real_data((32, 32, 3), 10, [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
MNIST = real_data((28, 28, 1), 10, [0.1307], [0.3081])


@pytest.mark.shared
def test_every_published_set_is_accepted(shared):
    paths = sorted((shared / "data" / "distilled").glob("*.npz"))
    assert len(paths) >= 13
    for path in paths:
        real = MNIST if "mnist" in path.stem else CIFAR
        (file,) = load_distilled(path)
        with warnings.catch_warnings():
            if file.labels is None:
                warnings.simplefilter("ignore", InputWarning)
            sets = prepare(file, real)
        np.testing.assert_array_equal(sets.images, np.moveaxis(file.images, 2, -1))
        assert (file.soft_labels is None) == (sets.soft_labels is None)
        assert sets.labels.shape == file.images.shape[:2]


def same_when_prepared(file, twin, real):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # KIP's sets have no hard labels
        ours, theirs = prepare(file, real), prepare(twin, real)
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    if theirs.soft_labels is not None:
        np.testing.assert_array_equal(ours.soft_labels, theirs.soft_labels)


@pytest.mark.shared
@pytest.mark.parametrize("stem", ["dcbench_dc_cifar10_ipc1", "dhelle_dc_mnist_ipc1"])
def test_published_dictionaries_hold_what_their_npz_holds(shared, torch, stem):
    folder = shared / "data" / "distilled"
    file, twin = load_distilled(folder / "original" / f"{stem}.pt")[0], load_distilled(folder / f"{stem}.npz")[0]
    same_when_prepared(file, twin, MNIST if "mnist" in stem else CIFAR)


@pytest.mark.shared
@pytest.mark.parametrize("suffix", ["random_cifar10_ipc10", "tm_cifar10_ipc10_images"])
def test_published_bare_tensors_hold_what_their_npz_holds(shared, torch, tmp_path, suffix):
    folder = shared / "data" / "distilled"
    (twin,) = load_distilled(folder / f"dcbench_{suffix.removesuffix('_images')}.npz")
    torch.save(torch.tensor(twin.labels[0]), tmp_path / "labels.pt")
    (file,) = load_distilled(folder / "original" / f"dcbench_{suffix}.pt", labels=tmp_path / "labels.pt")
    same_when_prepared(file, twin, CIFAR)


@pytest.mark.shared
def test_published_arrays_hold_what_their_npz_holds(shared):
    folder, stem = shared / "data" / "distilled", "dcbench_kip_cifar10_ipc10"
    images, labels = (folder / "original" / f"{stem}_{part}.npy" for part in ("images", "labels"))
    same_when_prepared(*load_distilled(images, labels=labels), *load_distilled(folder / f"{stem}.npz"), CIFAR)


def test_set_made_of_digits_is_accepted_without_a_word():
    digits = load_dataset("digits")
    first = [np.flatnonzero(digits.train.labels == c)[0] for c in range(10)]
    file = made(digits.train.images[first], digits.train.labels[first])
    np.testing.assert_array_equal(prepare(file, digits).images[0], digits.train.images[first])
