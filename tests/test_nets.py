"""Students equal PyTorch's, start like PyTorch's, and answer to the names of the registry and no others."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from ddr_jax import nets
from ddr_jax.nets import layers
from ddr_jax.nets.vit import Attention
from ddr_jax.protocols.protocol import Described
from ddr_jax.types import InputError

FOLDER = Path(__file__).parent / "goldens"
GOLDEN = np.load(FOLDER / "nets.npz")
TENSORS = json.loads((FOLDER / "nets.json").read_text())
SLOW = {"torchvision-ResNet-18@224x3", "torchvision-VGG-11-BN@64x3"}
INIT, APPLY, APPLY_TRAIN, EMBED = (
    jax.jit(f, static_argnums=static)
    for f, static in ((nets.init, (0, 2)), (nets.apply, 0), (nets.apply_train, 0), (nets.embed, 0))
)


def fill(kind, shape, k):
    """Tensor number k of a reference network, by the rule of the goldens' README."""
    z = np.random.RandomState(k).standard_normal(shape).astype(np.float32)
    return {
        "weight": lambda: z * np.float32(np.sqrt(2 / np.prod(shape[1:]))),
        "scale": lambda: 1 + np.float32(0.1) * z,
        "bias": lambda: np.float32(0.1) * z,
        "running_mean": lambda: np.float32(0.1) * z,
        "running_var": lambda: 1 + np.float32(0.1) * np.abs(z),
    }[kind]()


def reference(key):
    """(net, variables, image_shape) of a golden key, filled by the goldens' rule."""
    name, _, size = key.partition("@")
    side, channels = map(int, size.split("x"))
    net = nets.build(name, num_classes=TENSORS[key][-1][1][0])
    state_dict = {path: fill(kind, shape, k) for k, (path, shape, kind) in enumerate(TENSORS[key])}
    return net, nets.from_torch(net, state_dict, (side, side, channels)), (side, side, channels)


def build_small(name, num_classes):
    """A network of the registry, narrow where its width is free."""
    width = {"width": 8} if nets.NETS[name].has_width else {}
    return nets.build(name, num_classes=num_classes, **width)


@pytest.mark.parametrize("key", [pytest.param(key, marks=pytest.mark.slow if key in SLOW else ()) for key in TENSORS])
def test_logits_and_running_statistics_equal_pytorchs(key):
    net, variables, (h, w, k) = reference(key)
    expected = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), (h, w, k)))
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, expected)
    images = np.random.RandomState(1000).standard_normal((4, k, h, w)).astype(np.float32).transpose(0, 2, 3, 1)
    expect = partial(chex.assert_trees_all_close, rtol=1e-4)
    logits, updated = nets.apply_train(net, variables, images, jax.random.key(0))
    modes = {"eval": nets.apply(net, variables, images)}
    if not net.needs_key:  # dropout's draws differ from PyTorch's
        modes["train"] = logits
    for mode, found in modes.items():
        golden = GOLDEN[f"{key}/{mode}"]
        expect(found, golden, atol=1e-4 * np.abs(golden).max())
    statistics = jax.tree.leaves(updated.get("batch_stats", {}))
    for name, power in (("running_sum", 1), ("running_sq", 2)):
        total = sum((float((s**power).sum()) for s in statistics), 0.0)
        expect(np.float32(total), GOLDEN[f"{key}/{name}"])


def different_networks():
    """Names of the registry, one of each group that means the same."""
    seen = {(entry.target, *entry.settings.items()): name for name, entry in reversed(nets.NETS.items())}
    return sorted(seen.values())


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if "101" in n or "152" in n else ()) for n in different_networks()],
)
def test_every_registered_network_gives_logits_and_embeddings(name):
    net = build_small(name, num_classes=7)
    images = jax.ShapeDtypeStruct((5, 64, 64, 3), jnp.float32)
    nets.check(name, images.shape[1:])
    variables = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), images.shape[1:]))
    (logits, updated), embedding = jax.eval_shape(
        lambda v, x: (nets.apply_train(net, v, x, jax.random.key(0)), nets.embed(net, v, x)), variables, images
    )
    chex.assert_shape(logits, (5, 7))
    chex.assert_trees_all_equal_shapes_and_dtypes(updated, variables)
    chex.assert_shape(embedding, (5, variables["params"]["head"]["kernel"].shape[0]))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("torchvision-AlexNet", 61.100840),
        ("torchvision-VGG-11", 132.863336),
        ("torchvision-VGG-13-BN", 133.053736),
        ("torchvision-VGG-16", 138.357544),
        ("torchvision-VGG-19-BN", 143.678248),
        ("torchvision-ResNet-34", 21.797672),
        ("torchvision-ResNet-101", 44.549160),
        ("torchvision-ResNet-152-BN", 60.192808),
    ],
)
def test_torchvisions_networks_have_the_published_numbers_of_parameters(name, millions):
    net = nets.build(name, num_classes=1000)
    params = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), (224, 224, 3)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == round(millions * 1e6)


def different_geometries():
    """Names of the registry, one of each that shrinks images in a way of its own."""
    shapes = ((28, 28, 1), (32, 32, 3), (64, 64, 3), (128, 128, 3))
    seen = {(entry.target, *map(entry.windows, shapes)): name for name, entry in reversed(nets.NETS.items())}
    return sorted(seen.values())


def adaptive_pool_of_pixels(x, side):
    """The shape of an adaptive pool, which would make something of nothing."""
    if 0 in x.shape:
        raise ValueError("no pixel")
    return jnp.zeros((len(x), side, side, x.shape[-1]))


@pytest.mark.parametrize("name", different_geometries())
def test_usual_image_sizes_give_logits_exactly_where_the_layers_leave_a_pixel(name, monkeypatch):
    net = build_small(name, num_classes=3)
    sizes = [(28, 28, 1), (28, 28, 3), (32, 32, 1), (32, 32, 3), (64, 64, 3), (128, 128, 3), (224, 224, 3)]

    def refusal(shape):
        """Why the checked network refuses images, or nothing."""
        with pytest.raises(InputError) if not nets.names.fits(nets.NETS[name], shape) else nullcontext() as refused:
            nets.check(name, shape)
        return refused and str(refused.value)

    def shape_of_logits(shape):
        """What the unchecked network gives, or nothing."""
        try:
            return jax.eval_shape(
                lambda: nets.apply(net, nets.init(net, jax.random.key(0), shape), jnp.zeros((2, *shape)))
            ).shape
        except (ZeroDivisionError, ValueError, TypeError):  # weights of no pixel
            return None

    refusals = [refusal(shape) for shape in sizes]
    monkeypatch.setattr("ddr_jax.nets.kernels.adaptive_average_pool", adaptive_pool_of_pixels)
    assert [shape_of_logits(shape) for shape in sizes] == [None if refused else (2, 3) for refused in refusals]
    assert all(refused is None or "leaves no pixel of" in refused for refused in refusals)
    assert refusals[-1] is None


@pytest.mark.parametrize(
    ("name", "smallest"),
    [
        ("LeNet", 16),
        ("AlexNet", 8),
        ("VGG-11", 32),
        ("ResNet-18", 25),
        ("ResNet-18-AP", 8),
        ("ResNet-10-ImageNet", 1),
        ("torchvision-VGG-11", 32),
        ("ViT-6", 4),
    ],
)
def test_too_small_images_are_refused_with_the_size_that_works(name, smallest):
    nets.check(name, (smallest, smallest, 3))
    if smallest > 1:
        with pytest.raises(InputError, match=f"use .*, or images of at least {smallest}×{smallest}$"):
            nets.check(name, (smallest, smallest - 1, 3))


def test_networks_halve_images_first_from_33_pixels_on():
    assert [nets.names.first_stride((side, 64, 3)) for side in (32, 33)] == [1, 2]


def test_networks_that_first_halve_larger_images_say_from_which_size_on():
    with pytest.raises(InputError, match="use ConvNet-5 or a shallower one, or images of at least 49×49"):
        nets.check("ResNet-18-BN", (48, 48, 3))
    with pytest.raises(InputError, match="at least 63×63"):
        nets.check("torchvision-AlexNet", (33, 33, 3))


def test_weights_start_uniform_in_pytorchs_interval():
    net = nets.build("ConvNet-2-BN", num_classes=200, width=64)
    params = INIT(net, jax.random.key(0), (16, 16, 3))["params"]
    fan_ins = {"blocks_0": 9 * 3, "blocks_1": 9 * 64, "head": 4 * 4 * 64}
    for place, fan_in in fan_ins.items():
        layer = params[place].get("conv", params[place])
        for values in layer.values():
            bound = 1 / np.sqrt(fan_in)
            assert np.abs(values).max() <= bound
            deviation = bound / np.sqrt(3)
            chex.assert_trees_all_close(values.mean() / deviation, 0.0, atol=5 / np.sqrt(values.size))
            chex.assert_trees_all_close(values.std() / deviation, 1.0, atol=3 / np.sqrt(values.size))


@pytest.mark.parametrize("kind", ["IN", "BN", "LN", "GN"])
def test_norms_start_as_identity(kind):
    x = jnp.zeros((2, 4, 4, 8))
    variables = layers.NORMS[kind](name=None).init(jax.random.key(0), x, train=False)
    shape = (4, 4, 8) if kind == "LN" else (8,)
    chex.assert_trees_all_equal(variables["params"], {"scale": jnp.ones(shape), "bias": jnp.zeros(shape)})
    statistics = {"mean": jnp.zeros(8), "var": jnp.ones(8)} if kind == "BN" else {}
    chex.assert_trees_all_equal(variables.get("batch_stats", {}), statistics)


def assert_spread(values, deviation):
    """Values of mean 0 and standard deviation `deviation`, within five standard errors."""
    chex.assert_trees_all_close(values.mean() / deviation, 0.0, atol=5 / np.sqrt(values.size))
    chex.assert_trees_all_close(values.std() / deviation, 1.0, atol=5 / np.sqrt(values.size))


def start_of(name, places, image_shape):
    """The named layers' parameters as they start; the others are never computed."""
    net = nets.build(name, num_classes=100)

    @jax.jit
    def start(key):
        params = traverse_util.flatten_dict(nets.init(net, key, image_shape)["params"], sep="/")
        return [params[place] for place in places]

    return dict(zip(places, start(jax.random.key(0)), strict=True))


def test_torchvisions_resnet_starts_like_torchvisions():
    places = ("conv1/kernel", "layer2_0/conv2/kernel", "layer2_0/shortcut_conv/kernel", "head/kernel")
    first, second, shortcut, head = start_of("torchvision-ResNet-18", places, (32, 32, 3)).values()
    assert_spread(second, np.sqrt(2 / (9 * 128)))
    assert_spread(shortcut, np.sqrt(2 / 128))
    # The convolution that replaces torchvision's for small images starts by PyTorch's default, as the head does.
    for values, fan_in in ((first, 27), (head, 512)):
        assert np.abs(values).max() <= 1 / np.sqrt(fan_in)
        assert_spread(values, 1 / np.sqrt(3 * fan_in))
    (large,) = start_of("torchvision-ResNet-18", ("conv1/kernel",), (8, 8, 3)).values()
    assert_spread(large, np.sqrt(2 / (49 * 64)))


def test_vision_transformer_starts_like_pytorchs_attention():
    places = ("blocks_0/attention/inputs/kernel", "blocks_0/attention/output/kernel", "positions")
    inputs, output, positions = start_of("ViT-6", places, (32, 32, 3)).values()
    for values, bound in ((inputs, np.sqrt(6 / (128 + 3 * 128))), (output, 1 / np.sqrt(128))):
        assert np.abs(values).max() <= bound
        assert_spread(values, bound / np.sqrt(3))
    assert_spread(positions, 0.02)
    zero = ("token", "blocks_0/attention/inputs/bias", "blocks_0/attention/output/bias")
    assert not any(np.any(values) for values in start_of("ViT-6", zero, (32, 32, 3)).values())


def test_torchvisions_vgg_starts_without_biases_and_with_small_linear_layers():
    deviations = {"features_0": np.sqrt(2 / (9 * 64)), "features_8": np.sqrt(2 / (9 * 256))}
    deviations |= {"classifier_3": 0.01, "head": 0.01}
    places = [f"{layer}/{leaf}" for layer in deviations for leaf in ("kernel", "bias")]
    params = start_of("torchvision-VGG-11", places, (32, 32, 3))
    for layer, deviation in deviations.items():
        assert_spread(params[f"{layer}/kernel"], deviation)
        assert not np.any(params[f"{layer}/bias"])


@pytest.mark.parametrize("name", ["torchvision-AlexNet", "torchvision-VGG-11"])
def test_dropout_drops_half_of_each_hidden_layers_inputs(name):
    net, rates = nets.build(name, num_classes=3), []

    def note(call, arguments, options, context):
        rates.extend([context.module.rate] if isinstance(context.module, nn.Dropout) else [])
        return call(*arguments, **options)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda: nets.init(net, jax.random.key(0), (32, 32, 3)))
    assert rates == [0.5, 0.5]


def test_dropout_follows_the_key_in_training_only():
    net = nets.build("torchvision-AlexNet", num_classes=3)
    shapes = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), (32, 32, 1)))
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1e-2), shapes)
    images = jnp.ones((2, 32, 32, 1))
    one, same, other = (nets.apply_train(net, variables, images, jax.random.key(seed))[0] for seed in (1, 1, 2))
    chex.assert_trees_all_equal(one, same)
    assert not np.allclose(one, other, rtol=1e-3)
    assert not np.allclose(one[0], one[1], rtol=1e-3)  # each image drops its own
    chex.assert_trees_all_close(one.mean() / nets.apply(net, variables, images).mean(), 1.0, atol=0.2)
    with pytest.raises(InputError, match=r"dropout: nets\.apply_train needs a key"):
        nets.apply_train(net, variables, images)


def test_attention_equals_flaxs():
    ours, flax = Attention(), nn.MultiHeadDotProductAttention(num_heads=4)
    x = jax.random.normal(jax.random.key(0), (2, 5, 16))
    params = ours.init(jax.random.key(1), x)["params"]
    names = ("query", "key", "value")
    kernels = jnp.split(params["inputs"]["kernel"], 3, axis=1)
    theirs = {
        name: {"kernel": kernel.reshape(16, 4, 4), "bias": jnp.zeros((4, 4))}
        for name, kernel in zip(names, kernels, strict=True)
    }
    theirs["out"] = {"kernel": params["output"]["kernel"].reshape(4, 4, 16), "bias": params["output"]["bias"]}
    expected = flax.apply({"params": theirs}, x)
    chex.assert_trees_all_close(ours.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("promoting")
def test_vision_transformer_reads_every_whole_patch_and_its_position():
    net = nets.build("ViT-6", num_classes=3, width=8)
    images = jax.random.normal(jax.random.key(1), (1, 10, 14, 1))  # 2×3 patches, and two rows and columns left
    variables = nets.init(net, jax.random.key(0), images.shape[1:])
    chex.assert_shape(variables["params"]["positions"], (1, 1 + 2 * 3, 8))
    pixels = jnp.eye(10 * 14).reshape(10 * 14, 10, 14, 1)
    logits = nets.apply(net, variables, jnp.concatenate([images, images + pixels]))
    influence = np.abs(logits[1:] - logits[0]).max(-1).reshape(10, 14)
    assert np.all(influence[:8, :12] > 1e-6)
    chex.assert_trees_all_close((influence[8:], influence[:, 12:]), (np.zeros((2, 14)), np.zeros((10, 2))), atol=1e-6)
    swapped = images.at[:, :4].set(images[:, 4:8]).at[:, 4:8].set(images[:, :4])
    assert not np.allclose(nets.apply(net, variables, swapped), nets.apply(net, variables, images), rtol=1e-5)


@pytest.mark.parametrize(
    ("ours", "flax"),
    [
        (layers.GroupNorm(), nn.GroupNorm(num_groups=4, epsilon=1e-5)),
        (layers.LayerNorm(), nn.LayerNorm(epsilon=1e-5, reduction_axes=(1, 2, 3), feature_axes=(1, 2, 3))),
    ],
)
@pytest.mark.usefixtures("promoting")
def test_group_and_layer_norm_equal_flaxs(ours, flax):
    keys = jax.random.split(jax.random.key(0), 3)
    x = 1 + jax.random.normal(keys[0], (3, 6, 6, 8)) * jnp.arange(1, 9)
    shapes = jax.eval_shape(lambda: ours.init(keys[0], x, train=False))["params"]
    params = {name: jax.random.normal(key, shapes[name].shape) for name, key in zip(shapes, keys[1:], strict=True)}
    chex.assert_trees_all_close(
        ours.apply({"params": params}, x, train=True), flax.apply({"params": params}, x), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["ConvNet-2", "MLP"])
@pytest.mark.usefixtures("promoting")
def test_head_of_the_embedding_is_the_logits(name):
    net = nets.build(name, num_classes=4, width=8)
    variables = INIT(net, jax.random.key(0), (8, 8, 1))
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))
    head = variables["params"]["head"]
    logits = EMBED(net, variables, images) @ head["kernel"] + head["bias"]
    chex.assert_trees_all_close(logits, APPLY(net, variables, images), rtol=1e-6)


@pytest.mark.parametrize("name", ["ConvNet-2", "ConvNet-1-BN", "MLP"])
def test_vmapped_student_equals_lone_student(name):
    net = nets.build(name, num_classes=4, width=8)
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))

    def student(key):
        variables = nets.init(net, key, images.shape[1:])

        def loss(params):
            logits, updated = nets.apply_train(net, {**variables, "params": params}, images)
            return (logits**2).mean(), updated

        gradient, updated = jax.grad(loss, has_aux=True)(variables["params"])
        return nets.apply(net, variables, images), gradient, updated

    keys, lone = jax.random.split(jax.random.key(0), 3), jax.jit(student)
    alone = [lone(key) for key in keys]
    together = jax.jit(jax.vmap(student))(keys)
    chex.assert_trees_all_close(together, jax.tree.map(lambda *a: jnp.stack(a), *alone), rtol=1e-4, atol=1e-5)


def test_embedding_has_the_right_gradient_with_respect_to_images():
    with jax.enable_x64(True):
        net = nets.build("ConvNet-2", num_classes=4, width=4)
        variables = jax.tree.map(lambda a: a.astype(jnp.float64), INIT(net, jax.random.key(0), (8, 8, 2)))
        images = jax.random.normal(jax.random.key(1), (11, 8, 8, 2), jnp.float64)
        direction = jax.random.normal(jax.random.key(2), images.shape, jnp.float64)

        def statistic(images):
            return (EMBED(net, variables, images).mean(0) ** 2).sum()

        step = 1e-6
        difference = (statistic(images + step * direction) - statistic(images - step * direction)) / (2 * step)
        slope = (jax.jit(jax.grad(statistic))(images) * direction).sum()
        chex.assert_trees_all_close(slope, difference, rtol=1e-6)


@pytest.mark.parametrize(("norm", "width", "count"), [("IN", 128, 4), ("IN", 128, 3), ("GN", 128, 2), ("IN", 8, 3)])
@pytest.mark.usefixtures("promoting")
def test_block_of_every_formulation_equals_its_layers_in_turn_with_all_gradients(norm, width, count):
    with jax.enable_x64(True):
        net = nets.build(f"ConvNet-1-{norm}", num_classes=2, width=width)
        variables = jax.tree.map(lambda a: a.astype(jnp.float64), INIT(net, jax.random.key(0), (32, 32, 3)))
        images = jax.random.normal(jax.random.key(1), (count, 32, 32, 3), jnp.float64)

        def in_turn(variables, images):
            conv, norm_ = (variables["params"]["blocks_0"][layer] for layer in ("conv", "norm"))
            layout = ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(images, conv["kernel"], (1, 1), "SAME", dimension_numbers=layout)
            groups = (x + conv["bias"]).reshape(count, 32, 32, 4 if norm == "GN" else width, -1)
            mean, var = (f(groups, (1, 2, 4), keepdims=True) for f in (jnp.mean, jnp.var))
            x = ((groups - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape) * norm_["scale"] + norm_["bias"]
            return nn.avg_pool(nn.relu(x), (2, 2), (2, 2)).reshape(count, -1)

        def with_gradients(embed):
            total, gradients = jax.value_and_grad(lambda *a: jnp.sin(embed(*a)).sum(), (0, 1))(variables, images)
            return embed(variables, images), total, gradients

        ours, textbook = (jax.jit(partial(with_gradients, f))() for f in (partial(EMBED, net), in_turn))
        chex.assert_trees_all_close(ours, textbook, rtol=1e-12, atol=1e-11)


@pytest.mark.usefixtures("promoting")
def test_computation_follows_the_wider_type_of_weights_and_images():
    net = nets.build("ConvNet-1", num_classes=3, width=4)
    variables = INIT(net, jax.random.key(0), (8, 8, 1))
    assert APPLY(net, variables, jnp.ones((2, 8, 8, 1))).dtype == jnp.float32
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(jnp.float64), variables)
        assert APPLY(net, wide, jnp.ones((2, 8, 8, 1), jnp.float32)).dtype == jnp.float64


def test_evaluation_ignores_the_batch_and_training_moves_the_statistics():
    net = nets.build("ConvNet-1-BN", num_classes=3, width=4)
    variables = INIT(net, jax.random.key(0), (8, 8, 1))
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))
    chex.assert_trees_all_close(APPLY(net, variables, images)[:2], APPLY(net, variables, images[:2]), rtol=1e-5)
    _, updated = APPLY_TRAIN(net, variables, images)
    chex.assert_trees_all_equal(updated["params"], variables["params"])
    assert not np.allclose(updated["batch_stats"]["blocks_0"]["norm"]["var"], 1)


class Mine(nn.Module):
    """A user's network, with batch norm and dropout."""

    classes: int = 3
    activation: Callable = nn.relu

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(images))
        x = self.activation(x).mean((1, 2))
        return nn.Dense(self.classes)(nn.Dropout(0.5, deterministic=not train)(x))


class Told(nn.Module):
    """A user's network that is told its mode by `mode`, and answers with whether it trains."""

    mode: str = "training"

    def setup(self):
        self.scale = self.param("scale", nn.initializers.ones, ())

    def __call__(self, images, training=None, deterministic=None):
        answer = training if self.mode == "training" else not deterministic
        return self.scale * jnp.full((len(images), 3), answer, jnp.float32)


def test_module_of_the_users_is_a_student():
    net = nets.build(Mine(), num_classes=3, width=7)
    nets.check(Mine(), (8, 8, 1), num_classes=3)
    images = jax.random.normal(jax.random.key(1), (6, 8, 8, 1))
    variables = INIT(net, jax.random.key(0), (8, 8, 1))
    chex.assert_trees_all_equal_structs(variables, dict(Mine().init(jax.random.key(0), images)))
    chex.assert_trees_all_close(APPLY(net, variables, images), Mine().apply(variables, images), rtol=1e-5)
    one, same, other = (nets.apply_train(net, variables, images, jax.random.key(seed)) for seed in (1, 1, 2))
    chex.assert_trees_all_equal(one, same)
    assert not np.allclose(one[0], other[0], rtol=1e-3)
    chex.assert_trees_all_equal_shapes_and_dtypes(one[1], variables)
    assert not np.allclose(one[1]["batch_stats"]["BatchNorm_0"]["var"], 1)


@pytest.mark.parametrize("mode", ["training", "deterministic"])
def test_module_is_told_its_mode_by_the_argument_it_takes(mode):
    net = nets.build(Told(mode), num_classes=3)
    variables, images = {"params": {"scale": jnp.ones(())}}, jnp.zeros((2, 4, 4, 1))
    chex.assert_trees_all_equal(nets.apply(net, variables, images), jnp.zeros((2, 3)))
    chex.assert_trees_all_equal(nets.apply_train(net, variables, images)[0], jnp.ones((2, 3)))


def test_module_without_a_mode_is_a_student_too():
    module = nn.Sequential((layers.flatten, nn.Dense(3)))
    nets.check(module, (4, 4, 1), num_classes=3)
    net = nets.build(module, num_classes=3)
    variables = nets.init(net, jax.random.key(0), (4, 4, 1))
    chex.assert_shape(nets.apply_train(net, variables, jnp.zeros((2, 4, 4, 1)))[0], (2, 3))
    with pytest.raises(InputError, match="Sequential has no method embed"):
        nets.embed(net, variables, jnp.zeros((2, 4, 4, 1)))


def test_equal_modules_are_equal_students_and_ours_are_left_as_they_are():
    assert nets.build(Mine(3), num_classes=3) == nets.build(Mine(), num_classes=3) != nets.build(Mine(4), num_classes=3)
    assert hash(nets.build(Mine(3), num_classes=3)) == hash(nets.build(Mine(), num_classes=3))
    ours = nets.build("ConvNet-2", num_classes=3)
    assert nets.build(ours, num_classes=3) is ours
    nets.check(ours, (8, 8, 1), num_classes=3)


def test_digest_of_a_module_is_what_it_computes():
    digests = [nets.digest(nets.build(m, num_classes=3), (8, 8, 1)) for m in (Mine(), Mine(), Mine(activation=nn.gelu))]
    assert digests[0] == digests[1] != digests[2]
    assert " at 0x" not in digests[0]
    ours = [nets.digest(nets.build(name, num_classes=3), (8, 8, 1)) for name in ("ConvNet-3", "ConvNet-3-IN", "MLP")]
    assert ours[0] == ours[1] != ours[2]


class Needy(Mine):
    def __call__(self, images, noise):
        return images


class Keeping(nn.Module):
    @nn.compact
    def __call__(self, images):
        self.variable("cache", "last", jnp.zeros, ())
        return nn.Dense(3)(images.mean((1, 2)))


@pytest.mark.parametrize(
    ("student", "said"),
    [
        (Mine(4), r"Mine gives float32 of shape \(2, 4\) .*: expected floating logits of shape \(2, 3\)"),
        (nn.Dense(3), r"Dense gives float32 of shape \(2, 8, 8, 3\)"),
        (nn.Sequential((lambda x: x.mean((1, 2)), nn.Dense(3), lambda x: x > 0)), r"gives bool of shape \(2, 3\)"),
        (nn.Sequential((layers.flatten, layers.LayerNorm())), r"Sequential fails on images of \(8, 8, 1\): .*train"),
        (nn.Sequential([nn.Dense(3)]), "Sequential does not hash by value: .* tuples"),
        (Needy(), "Needy fails on images .* 'noise'; .* with one of train, training, deterministic"),
        (Keeping(), "keeps variables in cache, params"),
        (nn.Sequential((lambda x: x[:, 0, :3, 0],)), "keeps variables in no collection"),
        (Mine, "is no student: give a network's name or a flax.linen module, not its class"),
        (Described("Mine()"), r"Described\(text='Mine\(\)'\) is no student: .* nor its text"),
    ],
)
def test_module_that_is_no_student_is_refused_with_the_reason(student, said):
    with pytest.raises(InputError, match=said):
        nets.check(student, (8, 8, 1), num_classes=3)


def test_equal_networks_share_one_compiled_program():
    @partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def start(net, key):
        return nets.init(net, key, (8, 8, 1))

    for name in ("ConvNet-3", "ConvNet-3-IN", "ConvNet-3"):
        start(nets.build(name, num_classes=10, width=4), jax.random.key(0))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("ConvNetD3", "ConvNet-3"),
        ("ConvNet", "ConvNet-3"),
        ("ConvNet-3-bn", "ConvNet-3-BN"),
        ("ConvNet-7", "ConvNet-6"),
        ("convnet-3", "ConvNet-3"),
        ("mlp", "MLP"),
        ("LeNet5", "LeNet"),
        ("ResNet-18-bn", "ResNet-18-BN"),
        ("vit-6", "ViT-6"),
        ("resnet18", "ResNet-18"),
        ("ResNet", "ResNet-18"),
        ("ResNet-18-AP-BN", "ResNet-18-BN-AP"),
        ("RestNet-20-AP", "ResNet-18-AP"),
        ("vgg16_bn", "VGG-16-BN"),
        ("VGG-12", "VGG-11"),
        ("torchvision-resnet18", "torchvision-ResNet-18"),
        ("ConvNet-3-", "ConvNet-3"),
        ("ConvNet-9-BN-sigmod-max", "ConvNet-6-BN-sigmoid-maxpool"),
    ],
)
def test_misread_name_is_refused_with_the_right_one(wrong, right):
    with pytest.raises(InputError, match=f"{wrong!r}: did you mean {right!r}"):
        nets.build(wrong, num_classes=10)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("EfficientNet-B0", "there are ConvNet, MLP, LeNet, AlexNet, VGG, ResNet, ViT .* given as flax modules"),
        ("", "there are ConvNet"),
        ("ConvNet-3-tanh", "after its depth a ConvNet's name says some of IN, BN, .*, sigmoid, .*, GAP"),
        ("ConvNet-3-BN-GAP-IN", "names its norm twice"),
    ],
)
def test_name_that_is_near_none_is_refused_with_what_there_is(wrong, said):
    with pytest.raises(InputError, match=said):
        nets.check(wrong, (32, 32, 3))


@pytest.mark.parametrize(
    ("name", "shape", "offer"),
    [
        ("ConvNet-4", (8, 8, 1), "ConvNet-3 "),
        ("ConvNet-4-BN", (8, 12, 1), "ConvNet-3-BN "),
        ("ConvNet-5", (28, 28, 3), "ConvNet-4 "),
        ("ConvNet-1", (1, 1, 3), "MLP"),
        ("ConvNet-4-LN-maxpool", (8, 8, 3), "ConvNet-3-LN-maxpool "),
    ],
)
def test_too_deep_network_is_refused_with_the_deepest_that_works(name, shape, offer):
    with pytest.raises(InputError, match=f"leaves no pixel of {shape[0]}×{shape[1]} images: use {offer}"):
        nets.check(name, shape)
    nets.check(offer.strip(), shape)


@pytest.mark.parametrize(
    ("side", "channels", "last"), [(28, 1, 2), (42, 1, 2), (44, 1, 3), (60, 1, 4), (28, 3, 1), (27, 1, 1)]
)
def test_one_channel_images_from_28_pixels_on_get_a_border(side, channels, last):
    nets.check("ConvNet-4", (side, side, channels))
    net = nets.build("ConvNet-4", num_classes=10, width=4)
    variables = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), (side, side, channels)))
    chex.assert_shape(variables["params"]["head"]["kernel"], (4 * last**2, 10))


@pytest.mark.parametrize(
    ("name", "activation", "pool"),
    [
        ("ConvNet-1-NN", nn.relu, nn.avg_pool),
        ("ConvNet-1-relu-NN-avgpool", nn.relu, nn.avg_pool),
        ("ConvNet-1-NN-sigmoid", nn.sigmoid, nn.avg_pool),
        ("ConvNet-1-NN-maxpool", nn.relu, nn.max_pool),
        ("ConvNet-1-NN-leakyrelu-nopool", partial(nn.leaky_relu, negative_slope=0.01), None),
        ("ConvNet-1-NN-GAP", nn.relu, nn.avg_pool),
    ],
)
@pytest.mark.usefixtures("promoting")
def test_words_of_a_convnets_name_choose_its_layers(name, activation, pool):
    net = nets.build(name, num_classes=3, width=4)
    images = jax.random.normal(jax.random.key(1), (2, 6, 6, 3))
    variables = nets.init(net, jax.random.key(0), images.shape[1:])
    params = variables["params"]
    x = activation(nn.Conv(4, (3, 3)).apply({"params": params["blocks_0"]["conv"]}, images))
    x = x if pool is None else pool(x, (2, 2), (2, 2))
    x = x.mean((1, 2)) if name.endswith("GAP") else x.reshape(2, -1)
    expected = nn.Dense(3).apply({"params": params["head"]}, x)
    chex.assert_trees_all_close(nets.apply(net, variables, images), expected, rtol=1e-5, atol=1e-5)


def test_words_come_in_any_order_and_what_is_meant_anyway_may_be_said():
    first, *others = (
        nets.build(name, num_classes=3)
        for name in ("ConvNet-2-BN-sigmoid", "ConvNet-2-sigmoid-BN", "ConvNet-2-avgpool-BN-sigmoid")
    )
    assert others == [first, first]


@pytest.mark.parametrize(
    ("name", "sizes", "reason"),
    [
        ("MLP", {"num_classes": 1}, "num_classes ≥ 2"),
        ("MLP", {"num_classes": 10, "width": 0}, "width ≥ 1"),
        ("ConvNet-3-GN", {"num_classes": 10, "width": 30}, "multiple of 4, got 30"),
        ("ViT-6", {"num_classes": 10, "width": 30}, "multiple of 4, got 30"),
        ("ResNet-18", {"num_classes": 10, "width": 64}, "widths of its own, got width 64: leave width at 128"),
    ],
)
def test_sizes_that_make_no_network_are_refused(name, sizes, reason):
    with pytest.raises(InputError, match=reason):
        nets.build(name, **sizes)


@pytest.mark.parametrize("shape", [(8, 8), (8, 0, 1)])
def test_images_without_three_sides_are_refused(shape):
    with pytest.raises(InputError, match="needs images of"):
        nets.check("MLP", shape)


def test_reading_names_imports_no_jax():
    code = "import sys, ddr_jax.nets.names as n; n.check('ConvNet-3', (8, 8, 1)); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
