"""The benchmark of whole evaluations, at the smallest sizes and without its times."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "throughput.py"
TINY = {"data": "digits", "width": 4, "epochs": 2, "test_every": 1, "test_images": 40, "real_images": 40, "ipc": 2}


@pytest.fixture(scope="module")
def throughput():
    spec = importlib.util.spec_from_file_location("throughput", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def options() -> list[str]:
    return [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.mark.slow
def test_it_measures_ours_and_writes_a_table(throughput, tmp_path, capsys):
    throughput.main([*options(), "--parts", "b", "e", "f", "--known-real", "--ours-only", "--out", str(tmp_path)])
    table = (tmp_path / "throughput.md").read_text()
    assert table in capsys.readouterr().out
    assert "all 30 trainings" in table
    assert "ours, tested after the last epoch" in table
    assert "In the compiled training loop" in table
    assert not (tmp_path / "throughput.png").exists()  # nothing to compare with, no growth


@pytest.mark.parametrize(
    "shown",
    [{"ratios": {"b": (5.0, 4.0, 5.0)}}, {"growth": {"students": [(4, 1.0), (8, 1.9), (16, 3.7)]}}],
)
def test_a_picture_shows_what_was_measured(throughput, tmp_path, shown):
    throughput.draw(shown, "a device", tmp_path / "throughput.png")
    assert (tmp_path / "throughput.png").stat().st_size > 10_000


def test_operations_of_a_step_are_three_forward_passes_less_the_gradient_of_the_images(throughput):
    forward, step = throughput.operations((8, 8, 1), 2)
    convolutions = 2 * 9 * (64 * 1 * 2 + 16 * 2 * 2 + 4 * 2 * 2)
    assert forward == convolutions + 2 * 2 * 10
    assert step == 3 * forward - 2 * 9 * 64 * 1 * 2


def test_a_text_without_its_convolutions_is_found_out(throughput, tmp_path):
    text = tmp_path / "module_0001.after_optimizations.txt"
    text.write_text("%a = f32[1] convolution(%x, %y)\n" * throughput.LEAST_WORK)
    assert throughput.counted(tmp_path) == {"convolution": throughput.LEAST_WORK}
    text.write_text("%a = f32[1] convolution(%x, %y)\n" * (throughput.LEAST_WORK - 1))
    with pytest.raises(AssertionError, match="optimised away"):
        throughput.counted(tmp_path)


def test_ratios_are_theirs_over_ours_with_and_without_compiling_and_real_data(throughput):
    theirs = {"seconds": 120.0, "real": 20.0, "compiling": 0.0}
    ours = {"seconds": 60.0, "real": 10.0, "compiling": 20.0}
    assert throughput.ratios({"theirs": theirs, "a": ours}) == {"a": (2.0, 1.5, 2.0)}


def test_distilled_and_real_images_are_balanced_and_share_none(throughput):
    pixels = throughput.load(throughput.Sizes(**TINY))
    (real, real_labels), (syn, syn_labels) = pixels.train, pixels.distilled
    assert set(np.bincount(real_labels)) == {4}
    assert set(np.bincount(syn_labels)) == {2}
    assert not (syn[:, None] == real[None]).all((2, 3, 4)).any()


def test_the_loop_in_pytorch_trains_and_tests_every_arm(throughput):
    pytest.importorskip("torch")
    theirs = throughput.Theirs(throughput.Sizes(**TINY, workers=0))
    record = theirs.run(0)
    assert set(record["accuracy"]) == {"syn", "real", "random"}
    assert all(0 <= accuracy <= 1 for accuracy in record["accuracy"].values())


def test_operations_of_dsa_in_pytorch_agree_with_ours(throughput, monkeypatch):
    torch = pytest.importorskip("torch")
    from ddr_jax.augment import crop
    from ddr_jax.augment import dsa as siamese

    images = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)
    u = np.linspace(0, 0.95, 6).astype(np.float32)
    dsa, x = throughput.TorchDSA(), torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    monkeypatch.setattr(dsa, "uniform", lambda x: torch.from_numpy(u)[:, None, None, None])
    coloured = siamese.contrast(siamese.saturation(siamese.brightness(images, u, 1.0), u, 2.0), u, 0.5)
    ours = {"scale": siamese.scale(images, u, u, 1.2), "rotate": siamese.rotate(images, u, 15.0)}
    ours |= {"flip": crop.flip(images, u, 0.5), "color": coloured}
    for name, expected in ours.items():
        got = getattr(dsa, name)(x).numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(got, np.asarray(expected), atol=2e-5, err_msg=name)
    for name in ("crop", "cutout"):
        assert getattr(dsa, name)(x).shape == x.shape
