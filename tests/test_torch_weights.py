"""PyTorch state dicts go in and come out by name and shape, and every misfit is named."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddr_jax import nets
from ddr_jax.nets.names import find
from ddr_jax.types import InputError

SHAPE = (12, 8, 3)


def student(name, image_shape=SHAPE):
    """A network and variables in which every array differs."""
    width = {"width": 8} if find(name).has_width else {}
    net = nets.build(name, num_classes=4, **width)
    shapes = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), image_shape))
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    return net, structure.unflatten([rng.uniform(0.5, 1, leaf.shape).astype(np.float32) for leaf in leaves])


@pytest.mark.parametrize(
    "name",
    ["MLP", "ConvNet-2-BN", "ConvNet-2-LN", "ConvNet-2-NN", "ConvNet-2-LN-GAP", "AlexNet", "ResNet-10-BN-ImageNet"],
)
def test_variables_come_back_from_a_state_dict_unchanged(name):
    net, variables = student(name)
    state_dict = nets.to_torch(net, variables, SHAPE)
    chex.assert_trees_all_equal(nets.from_torch(net, state_dict, SHAPE), jax.tree.map(jnp.asarray, variables))


@pytest.mark.parametrize(
    ("name", "image_shape", "tensors"),
    [
        ("ConvNet-2-NN", SHAPE, {"features.0.weight": (8, 3, 3, 3), "features.3.weight": (8, 8, 3, 3)}),
        ("ConvNet-2-NN-nopool", SHAPE, {"features.2.weight": (8, 8, 3, 3), "classifier.weight": (4, 8 * 12 * 8)}),
        ("ConvNet-2-BN-sigmoid-GAP", SHAPE, {"features.5.running_var": (8,), "classifier.weight": (4, 8)}),
        ("ConvNet-2-LN", SHAPE, {"features.1.weight": (8, 12, 8), "features.5.bias": (8, 6, 4)}),
        ("LeNet", (32, 32, 3), {"features.3.weight": (16, 6, 5, 5), "fc_1.weight": (120, 400), "fc_3.bias": (4,)}),
        ("ResNet-18-AP", SHAPE, {"layer2.0.shortcut.0.weight": (128, 64, 1, 1), "layer2.0.shortcut.2.bias": (128,)}),
        ("torchvision-ResNet-18", SHAPE, {"layer2.0.downsample.1.running_var": (128,), "fc.weight": (4, 512)}),
    ],
)
def test_tensors_have_pytorchs_names_and_shapes(name, image_shape, tensors):
    net, variables = student(name, image_shape)
    written = {key: value.shape for key, value in nets.to_torch(net, variables, image_shape).items()}
    assert tensors.items() <= written.items()


def test_linear_layer_reads_channels_first():
    net, variables = student("MLP")
    state_dict = nets.to_torch(net, variables, SHAPE)
    images = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    x = images.transpose(0, 3, 1, 2).reshape(2, -1)
    for layer in ("fc_1", "fc_2"):
        x = np.maximum(x @ state_dict[f"{layer}.weight"].T + state_dict[f"{layer}.bias"], 0)
    expected = x @ state_dict["fc_3.weight"].T + state_dict["fc_3.bias"]
    chex.assert_trees_all_close(nets.apply(net, variables, images), expected, rtol=1e-5)


def test_counters_are_ignored_and_other_float_types_read():
    net, variables = student("ConvNet-1-BN")
    state_dict = {name: value.astype(np.float64) for name, value in nets.to_torch(net, variables, SHAPE).items()}
    state_dict["features.1.num_batches_tracked"] = np.int64(7)
    chex.assert_trees_all_equal(nets.from_torch(net, state_dict, SHAPE), jax.tree.map(jnp.asarray, variables))


def test_every_misfit_is_named_at_once():
    net, variables = student("ConvNet-1")
    state_dict = nets.to_torch(net, variables, SHAPE)
    del state_dict["features.1.bias"]
    state_dict |= {"module.extra": np.zeros(1), "classifier.bias": np.zeros(5)}
    with pytest.raises(InputError) as error:
        nets.from_torch(net, state_dict, SHAPE)
    message = str(error.value)
    assert "not one of this ConvNet: missing: features.1.bias; unexpected: module.extra; " in message
    assert "of another shape: classifier.bias (5,) instead of (4,). Build the network with the file's" in message


def test_many_misfits_are_counted():
    net, variables = student("ResNet-18-AP")  # of 62 tensors
    wrapped = {f"module.{name}": value for name, value in nets.to_torch(net, variables, SHAPE).items()}
    with pytest.raises(InputError, match=r"missing: .* and 50 more; unexpected: module\..* and 50 more"):
        nets.from_torch(net, wrapped, SHAPE)


def test_network_that_pytorch_ddranking_lacks_is_refused():
    net = nets.build("ViT-6", num_classes=4, width=8)
    with pytest.raises(InputError, match="ViT has no counterpart"):
        nets.from_torch(net, {}, SHAPE)
