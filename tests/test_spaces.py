from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from ddr_jax.data import spaces
from ddr_jax.data.spaces import Normalised
from ddr_jax.results import pictures
from ddr_jax.types import DistilledSets, InputError, RealData, Split

GOLDEN = {  # of ddranking 0.2.0, whose features are in the order of (K, H, W)
    key: np.moveaxis(array, 1, -1) for key, array in np.load(Path(__file__).parent / "goldens" / "zca.npz").items()
}
RNG = np.random.default_rng(0)
SMOOTH = np.cumsum(RNG.normal(size=(200, 5, 4, 3)), axis=1)  # features that depend on each other, as pixels do
PIXELS = ((SMOOTH - SMOOTH.min()) / np.ptp(SMOOTH)).astype(np.float32)
GREY = PIXELS[..., :1]
HALF = Normalised(np.zeros(3, np.float32), np.full(3, 0.5, np.float32))


def fit(pixels, kind):
    return spaces.fit(pixels, kind, HALF, "made")


def test_kornias_whitening_is_that_of_ddranking():
    fitted = fit(GOLDEN["train"], "kornia")
    np.testing.assert_allclose(fitted.images(GOLDEN["test"]), GOLDEN["test_out"], atol=1e-5)


def test_kips_whitening_is_that_of_its_paper():
    x = (PIXELS - PIXELS.mean((0, 1, 2))) / PIXELS.std((0, 1, 2))
    x = x.reshape(len(x), -1).astype(np.float64)
    x -= x.mean(1, keepdims=True)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    moments = x.T @ x / len(x)
    u, s, _ = np.linalg.svd(moments + 0.1 * np.trace(moments) / len(moments) * np.eye(len(moments)))
    whitened = fit(PIXELS, "kip").images(PIXELS)
    np.testing.assert_allclose(whitened.reshape(len(x), -1), x @ u @ np.diag(s**-0.5) @ u.T, atol=1e-5)
    assert whitened.dtype == np.float32


def test_kips_whitening_forgets_brightness_and_contrast():
    fitted = fit(GREY, "kip")
    np.testing.assert_allclose(fitted.images(0.5 * GREY + 0.2), fitted.images(GREY), atol=1e-4)
    np.testing.assert_allclose(fitted.images(np.full((1, 5, 4, 1), 0.3, np.float32)), 0, atol=1e-4)


def test_pixels_come_back_from_kornias_whitening():
    fitted = fit(PIXELS, "kornia")
    np.testing.assert_allclose(fitted.pixels(fitted.images(PIXELS[:9])), PIXELS[:9], atol=1e-5)


def test_pixels_come_back_from_kips_whitening_but_for_brightness_and_contrast():
    fitted = fit(GREY, "kip")
    back = fitted.pixels(fitted.images(GREY)).reshape(200, -1)
    for ours, original in zip(back, GREY.reshape(200, -1), strict=True):
        assert np.corrcoef(ours, original)[0, 1] > 0.9999
    np.testing.assert_allclose(back.mean(), GREY.mean(), rtol=1e-3)
    np.testing.assert_allclose(np.sqrt(np.square(back - GREY.mean()).mean()), GREY.std(), rtol=1e-3)


@pytest.mark.parametrize("kind", spaces.KINDS)
def test_chunks_do_not_change_the_result(monkeypatch, kind):
    whole = fit(PIXELS, kind).images(PIXELS)
    monkeypatch.setattr(spaces, "_CHUNK", 7)
    np.testing.assert_allclose(fit(PIXELS, kind).images(PIXELS), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("pixels", "kind", "message"),
    [
        (PIXELS[:1], "kornia", "two train images at least"),
        (np.zeros((2, 128, 128, 3), np.float32), "kornia", "at most 64×64×3 numbers, got 49152"),
        (PIXELS * np.float32([1, 0, 1]), "kip", "made: a channel of the train images is constant"),
    ],
)
def test_whitening_that_cannot_be_fitted_is_refused(pixels, kind, message):
    with pytest.raises(InputError, match=message):
        fit(pixels, kind)


def test_images_may_be_written_over_their_pixels():
    for space in (HALF, fit(PIXELS, "kornia"), fit(PIXELS, "kip")):
        expected, pixels = space.images(PIXELS), PIXELS.copy()
        assert space.images(pixels, out=pixels) is pixels
        np.testing.assert_array_equal(pixels, expected)


def test_axes_before_the_image_do_not_matter():
    for space in (HALF, fit(PIXELS, "kornia"), fit(PIXELS, "kip")):
        runs = PIXELS.reshape(2, 100, 5, 4, 3)
        np.testing.assert_allclose(space.images(runs).reshape(PIXELS.shape), space.images(PIXELS), atol=1e-5)
        images = space.images(PIXELS)
        np.testing.assert_allclose(
            space.pixels(images.reshape(runs.shape)).reshape(PIXELS.shape), space.pixels(images), atol=1e-5
        )


def test_normalised_images_are_pixels_less_the_mean_over_the_deviation():
    space = Normalised(np.float32([0.1, 0.2, 0.3]), np.float32([0.5, 0.25, 0.2]))
    expected = (PIXELS.astype(np.float64) - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.2]
    np.testing.assert_allclose(space.images(PIXELS), expected, atol=1e-6)
    np.testing.assert_allclose(space.pixels(space.images(PIXELS)), PIXELS, atol=1e-6)


def test_digests_tell_spaces_apart():
    other = Normalised(HALF.mean, HALF.std * np.float32(1.5))
    whitened = [spaces.fit(PIXELS, kind, constants, "made") for kind in spaces.KINDS for constants in (HALF, other)]
    digests = [space.digest for space in (HALF, other, *whitened, fit(PIXELS[:100], "kornia"))]
    assert len(set(digests)) == len(digests)
    assert fit(PIXELS, "kornia").digest == whitened[0].digest


def test_the_picture_shows_whitened_images_as_pixels():
    fitted, labels = fit(PIXELS, "kornia"), np.arange(3, dtype=np.int32)
    split = Split(fitted.images(PIXELS[:3]), labels)
    real = RealData("made", split, None, split, fitted, 3, True)
    axes = Figure().subplots()
    pictures._draw_images(axes, DistilledSets(("a",), split.images[None], labels[None], None), real)
    np.testing.assert_allclose(axes.images[0].get_array()[:5, :4], PIXELS[0], atol=1e-5)
