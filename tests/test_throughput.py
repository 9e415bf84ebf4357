"""The benchmark of whole evaluations, at the smallest sizes and without its times."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

TINY = {"width": 4, "epochs": 2, "test_every": 1, "test_images": 40, "real_images": 100, "runs": 1}
MODULES = ("measuring", "throughput", "original_loop")


@pytest.fixture(scope="module", autouse=True)
def _on_the_path():
    folder = str(Path(__file__).parents[1] / "experiments")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def throughput():
    return importlib.import_module("throughput")


@pytest.fixture
def measuring():
    return importlib.import_module("measuring")


@pytest.fixture
def original_loop():
    pytest.importorskip("torch")
    return importlib.import_module("original_loop")


@pytest.mark.slow
def test_it_writes_a_table_and_finds_the_work_in_the_compiled_text(throughput, tmp_path, capsys):
    sizes = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    throughput.main([*sizes, "--parts", "e", "f", "--out", str(tmp_path)])
    table = (tmp_path / "throughput.md").read_text()
    assert table in capsys.readouterr().out
    assert "In the compiled training loop" in table
    assert not (tmp_path / "throughput.png").exists()  # nothing to compare with, no growth


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
def test_ours_trains_as_many_students_as_the_original(measuring, full):
    sizes = measuring.Sizes(**TINY, full=full)
    record = measuring.Ours(sizes, 2).lrs(tests=True)  # it raises if there are more or fewer
    assert set(record["accuracy"]) == set(sizes.arms)
    assert (record["real"] > 0) is not full


@pytest.mark.parametrize(
    "shown",
    [{"ratios": {"b": (5.0, 4.0, 5.0)}}, {"growth": {"students": [(4, 1.0), (8, 1.9), (16, 3.7)]}}],
)
def test_a_picture_shows_what_was_measured(throughput, tmp_path, shown):
    throughput.draw(shown, "a device", tmp_path / "throughput.png")
    assert (tmp_path / "throughput.png").stat().st_size > 10_000


def test_operations_of_a_step_are_three_forward_passes_less_the_gradient_of_the_images(measuring):
    forward, step = measuring.operations((8, 8, 1), 2)
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
    assert throughput.ratios({"PyTorch": theirs, "a": ours}) == {"a": (2.0, 1.5, 2.0)}


def test_distilled_and_real_images_are_balanced_and_share_none(measuring):
    pixels = measuring.load(measuring.Sizes(**TINY))
    (real, real_labels), (syn, syn_labels) = pixels.train, pixels.distilled
    assert set(np.bincount(real_labels)) == set(np.bincount(syn_labels)) == {10}
    assert not (syn[:, None] == real[None]).all((2, 3, 4)).any()


def test_the_loop_in_pytorch_trains_and_tests_every_arm(original_loop, measuring, monkeypatch):
    monkeypatch.setattr(original_loop, "WORKERS", 0)
    sizes = measuring.Sizes(**TINY)
    record = original_loop.Original(sizes, measuring.load(sizes)).run(0)
    assert set(record["accuracy"]) == set(record["seconds"]) == {"syn", "real", "random"}
    assert all(0 <= accuracy <= 1 for accuracy in record["accuracy"].values())


def test_operations_of_dsa_in_pytorch_agree_with_ours(original_loop, monkeypatch):
    import torch

    from ddr_jax.augment import crop, dsa

    images = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32)
    u = np.linspace(0, 0.95, 6).astype(np.float32)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    monkeypatch.setattr(original_loop, "uniform", lambda x: torch.from_numpy(u)[:, None, None, None])
    coloured = dsa.contrast(dsa.saturation(dsa.brightness(images, u, 1.0), u, 2.0), u, 0.5)
    ours = {"scale": dsa.scale(images, u, u, 1.2), "rotate": dsa.rotate(images, u, 15.0)}
    ours |= {"flip": crop.flip(images, u, 0.5), "color": coloured}
    for name, expected in ours.items():
        got = getattr(original_loop, name)(x).numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(got, np.asarray(expected), atol=2e-5, err_msg=name)
    for name in ("crop", "cutout"):
        assert getattr(original_loop, name)(x).shape == x.shape
