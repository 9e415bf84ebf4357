import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ddr_jax import nets
from ddr_jax.train import teachers
from ddr_jax.train.teachers import Teachers, load_teachers
from ddr_jax.types import InputError


def test_weights_survive_a_round_trip(tmp_path):
    net = nets.build("ConvNet-1-BN", width=4, num_classes=3)
    variables = jax.device_get(nets.init(net, jax.random.key(0), (8, 8, 1)))
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(teachers.to_bytes(variables))
    chex.assert_trees_all_equal(teachers.load(path), variables)


def test_labels_are_the_mean_logits_whatever_the_batch():
    net = nets.build("MLP", width=4, num_classes=3)
    pair = [jax.device_get(nets.init(net, jax.random.key(seed), (8, 8, 1))) for seed in (0, 1)]
    images = np.random.default_rng(0).normal(size=(10, 8, 8, 1)).astype(np.float32)
    expected = np.mean([nets.apply(net, variables, images) for variables in pair], 0)
    for batch in (4, 10, 64):
        chex.assert_trees_all_close(
            teachers.label(net, Teachers.of(net, pair).variables, images, batch), expected, atol=1e-5
        )


@pytest.mark.parametrize("of", ["logits", "features"])
def test_teachers_compute_in_float32_where_products_are_faster_and_less_precise(of, monkeypatch):
    net = nets.build("MLP", width=4, num_classes=2)
    variables = jax.device_get(nets.init(net, jax.random.key(0), (8, 8, 1)))
    images, seen = np.ones((3, 8, 8, 1), np.float32), []
    embed = type(net).embed
    monkeypatch.setattr(
        type(net), "embed", lambda *a, **k: seen.append(jax.config.jax_default_matmul_precision) or embed(*a, **k)
    )
    with jax.default_matmul_precision("tensorfloat32"):
        if of == "logits":
            teachers.label(net, Teachers.of(net, [variables]).variables, images, batch=3)
        else:
            teachers.features(net, variables, images, batch=3)
    assert set(seen) == {"float32"}


@pytest.fixture
def kept(tmp_path, real):
    net = nets.build("ConvNet-1", width=4, num_classes=3)
    for seed in (0, 1):
        variables = jax.device_get(nets.init(net, jax.random.key(seed), real.image_shape))
        (tmp_path / f"{seed}.safetensors").write_bytes(teachers.to_bytes(variables))
    return [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]


def test_given_teachers_are_stacked_in_order(kept, real):
    given = load_teachers(*kept, real=real, student="ConvNet-1", width=4)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(given.variables)} == {2}
    chex.assert_trees_all_equal(jax.tree.map(lambda leaf: leaf[1], given.variables), teachers.load(kept[1]))
    assert given.digest != load_teachers(kept[0], real=real, student="ConvNet-1", width=4).digest


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_pytorch_state_dict_is_a_teacher_too(kept, real, tmp_path, suffix):
    variables = teachers.load(kept[0])
    state = nets.to_torch(nets.build("ConvNet-1", width=4, num_classes=3), variables, real.image_shape)
    path = tmp_path / f"torch{suffix}"
    if suffix == ".pt":
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(array) for name, array in state.items()}, path)
    else:
        save_file(state, path)
    given = load_teachers(path, real=real, student="ConvNet-1", width=4)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], given.variables), variables)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"student": "ConvNet-1", "width": 8}, r"shape \(4,\), but ConvNet-1 of width 8 for blobs has \(8,\)"),
        ({"student": "ConvNet-1-NN", "width": 4}, "has none: name the architecture"),
        ({"student": "ConvNet1", "width": 4}, "did you mean 'ConvNet-1'"),
    ],
)
def test_teachers_of_another_architecture_are_refused(kept, real, architecture, message):
    with pytest.raises(InputError, match=message):
        load_teachers(*kept, real=real, **architecture)


def test_a_file_that_holds_no_weights_is_refused(tmp_path, real):
    (tmp_path / "t.safetensors").write_bytes(b"no")
    for path in (tmp_path / "t.safetensors", tmp_path / "absent.safetensors"):
        with pytest.raises(InputError, match="Cannot read weights from"):
            load_teachers(path, real=real, student="ConvNet-1", width=4)
