"""Students equal PyTorch's, start like PyTorch's, and answer to the names of the registry and no others."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from ddr_jax import nets
from ddr_jax.nets import layers
from ddr_jax.types import InputError

FOLDER = Path(__file__).parent / "goldens"
GOLDEN = np.load(FOLDER / "nets.npz")
TENSORS = json.loads((FOLDER / "nets.json").read_text())
INIT, APPLY, APPLY_TRAIN, EMBED = (
    jax.jit(f, static_argnums=static)
    for f, static in ((nets.init, (0, 2)), (nets.apply, 0), (nets.apply_train, 0), (nets.embed, 0))
)
LEAVES = {"weight": "kernel", "scale": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


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


def place(name):
    """Where a PyTorch tensor's module sits in our variables."""
    module, *number = name.split(".")[:-1]
    if module == "features":
        block, layer = divmod(int(number[0]), 4)
        return f"blocks_{block}", ("conv", "norm")[layer]
    return ("head",) if module in ("classifier", "fc_3") else (f"hidden_{int(module[-1]) - 1}",)


def convert(value, rows, channels):
    """A PyTorch weight in our layout; `rows` is the square map a linear layer's F = channels·rows² come from."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if value.ndim == 2:
        return value.reshape(-1, channels, rows, rows).transpose(0, 2, 3, 1).reshape(len(value), -1).T
    return value


def reference(key):
    """(net, variables, image_shape) of a golden key, filled by the goldens' rule."""
    name, _, size = key.partition("@")
    side, channels = map(int, size.split("x"))
    variables = {}
    for k, (path, shape, kind) in enumerate(TENSORS[key]):
        collection = "batch_stats" if kind.startswith("running") else "params"
        branch = variables.setdefault(collection, {})
        for step in place(path):
            branch = branch.setdefault(step, {})
        if path.startswith("fc_"):
            layout = (side, channels) if path.startswith("fc_1") else (1, shape[-1])
        else:
            layout = (4, 128)
        branch[LEAVES[kind]] = jnp.asarray(convert(fill(kind, shape, k), *layout))
    net = nets.build(name, num_classes=TENSORS[key][-1][1][0])
    return net, variables, (side, side, channels)


def plain_step(net, loss_of_logits, images):
    """One SGD step (0.01, momentum 0.9, weight decay 5e-4) as PyTorch makes it."""
    optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.01, momentum=0.9))

    def loss(params, variables):
        logits, variables = nets.apply_train(net, {**variables, "params": params}, images)
        return loss_of_logits(logits), variables

    def step(state, _):
        variables, opt_state = state
        (value, updated), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"], variables)
        updates, opt_state = optimizer.update(grads, opt_state, variables["params"])
        params = optax.apply_updates(variables["params"], updates)
        return ({**updated, "params": params}, opt_state), value

    return step, optimizer


@pytest.mark.parametrize("key", TENSORS)
def test_logits_and_running_statistics_equal_pytorchs(key):
    net, variables, (h, w, k) = reference(key)
    expected = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), (h, w, k)))
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, expected)
    images = np.random.RandomState(1000).standard_normal((4, k, h, w)).astype(np.float32).transpose(0, 2, 3, 1)
    chex.assert_trees_all_close(APPLY(net, variables, images), GOLDEN[f"{key}/eval"], rtol=1e-4, atol=1e-4)
    logits, updated = APPLY_TRAIN(net, variables, images)
    chex.assert_trees_all_close(logits, GOLDEN[f"{key}/train"], rtol=1e-4, atol=1e-4)
    statistics = jax.tree.leaves(updated.get("batch_stats", {}))
    for name, power in (("running_sum", 1), ("running_sq", 2)):
        total = sum((float((s**power).sum()) for s in statistics), 0.0)
        chex.assert_trees_all_close(np.float32(total), GOLDEN[f"{key}/{name}"], rtol=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("ConvNet-3", "hard"), ("ConvNet-3", "kl"), ("ConvNet-3-BN", "hard")])
def test_twenty_steps_of_training_follow_pytorchs(name, kind):
    net, variables, _ = reference(f"{name}@32x3")
    g = np.random.RandomState(5)
    images = g.standard_normal((16, 3, 32, 32)).astype(np.float32).transpose(0, 2, 3, 1)
    labels = g.randint(0, 10, size=16)
    teacher = jax.nn.softmax(np.float32(2 * g.standard_normal((16, 10))))
    losses = {
        "hard": lambda z: optax.losses.softmax_cross_entropy_with_integer_labels(z, labels).mean(),
        "kl": lambda z: optax.losses.kl_divergence(jax.nn.log_softmax(z), teacher).mean(),
    }
    step, optimizer = plain_step(net, losses[kind], images)

    @jax.jit
    def train(variables):
        start = (variables, optimizer.init(variables["params"]))
        (variables, _), values = jax.lax.scan(step, start, length=20)
        return values, nets.apply(net, variables, images)

    values, logits = train(variables)
    chex.assert_trees_all_close(values, GOLDEN[f"trajectory/{name}/{kind}/losses"], rtol=1e-3, atol=1e-3)
    # Single ReLU gates may flip between correct float32 formulations: hence the wider absolute tolerance.
    chex.assert_trees_all_close(logits, GOLDEN[f"trajectory/{name}/{kind}/final_logits"], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", nets.NETS)
def test_every_registered_network_gives_logits_and_embeddings(name):
    net = nets.build(name, num_classes=7, width=8)
    images = jax.ShapeDtypeStruct((5, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), images.shape[1:]))
    logits, updated = jax.eval_shape(lambda v, x: nets.apply_train(net, v, x), variables, images)
    chex.assert_shape(logits, (5, 7))
    chex.assert_trees_all_equal_shapes_and_dtypes(updated, variables)
    embedding = jax.eval_shape(lambda v, x: nets.embed(net, v, x), variables, images)
    chex.assert_shape(embedding, (5, variables["params"]["head"]["kernel"].shape[0]))


def test_weights_start_uniform_in_pytorchs_interval_and_norms_as_identity():
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
    norm = params["blocks_1"]["norm"]
    chex.assert_trees_all_equal(norm, {"scale": jnp.ones(64), "bias": jnp.zeros(64)})


@pytest.mark.parametrize(
    ("ours", "flax"),
    [
        (layers.GroupNorm(), nn.GroupNorm(num_groups=4, epsilon=1e-5)),
        (layers.LayerNorm(), nn.LayerNorm(epsilon=1e-5, reduction_axes=(1, 2, 3), feature_axes=(1, 2, 3))),
    ],
)
def test_group_and_layer_norm_equal_flaxs(ours, flax):
    keys = jax.random.split(jax.random.key(0), 3)
    x = 1 + jax.random.normal(keys[0], (3, 6, 6, 8)) * jnp.arange(1, 9)
    shapes = jax.eval_shape(lambda: ours.init(keys[0], x, train=False))["params"]
    params = {name: jax.random.normal(key, shapes[name].shape) for name, key in zip(shapes, keys[1:], strict=True)}
    chex.assert_trees_all_close(
        ours.apply({"params": params}, x, train=True), flax.apply({"params": params}, x), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", ["ConvNet-2", "MLP"])
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
    ],
)
def test_misread_name_is_refused_with_the_right_one(wrong, right):
    with pytest.raises(InputError, match=f"{wrong!r}: did you mean {right!r}"):
        nets.build(wrong, num_classes=10)


@pytest.mark.parametrize(
    ("name", "shape", "offer"),
    [
        ("ConvNet-4", (8, 8, 1), "ConvNet-3 "),
        ("ConvNet-4-BN", (8, 12, 1), "ConvNet-3-BN "),
        ("ConvNet-5", (28, 28, 3), "ConvNet-4 "),
        ("ConvNet-1", (1, 1, 3), "MLP"),
    ],
)
def test_too_deep_network_is_refused_with_the_deepest_that_works(name, shape, offer):
    with pytest.raises(InputError, match=f"leaves no pixel of {shape[0]}×{shape[1]} images: use {offer}"):
        nets.check(name, shape)
    nets.check(offer.strip(), shape)
    net = nets.build(name, num_classes=2, width=4)
    with pytest.raises(InputError, match="no pixel"):
        nets.init(net, jax.random.key(0), shape)


def test_digits_of_28_pixels_are_padded_to_32():
    nets.check("ConvNet-5", (28, 28, 1))
    net = nets.build("ConvNet-5", num_classes=10, width=4)
    variables = jax.eval_shape(lambda: nets.init(net, jax.random.key(0), (28, 28, 1)))
    chex.assert_shape(variables["params"]["head"]["kernel"], (4, 10))


@pytest.mark.parametrize(
    ("name", "sizes", "reason"),
    [
        ("MLP", {"num_classes": 1}, "num_classes ≥ 2"),
        ("MLP", {"num_classes": 10, "width": 0}, "width ≥ 1"),
        ("ConvNet-3-GN", {"num_classes": 10, "width": 30}, "multiple of 4, got 30"),
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
