"""In float64, where rounding hides nothing, students' gradients, statistics and trainings equal plain PyTorch's.

The goldens are those of experiments/goldens/make.py, whose docstring says what they hold.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from ddr_jax import nets
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.train import student as training
from ddr_jax.train.losses import soften
from ddr_jax.train.student import Program, State, Student, TrainingData

FOLDER = Path(__file__).parent / "goldens"
NETWORKS, TRAJECTORIES = (np.load(FOLDER / f"{name}64.npz") for name in ("networks", "trajectories"))
CASES = json.loads(str(TRAJECTORIES["cases"]))
STREAM = ("patches", "positions", "token", "out_proj.weight", "output.weight")
CLASSES = 3


@pytest.fixture(autouse=True)
def float64():
    # what starts a network or tells the time is float32, whatever it meets
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def fill(shapes):
    """Tensor number k of the sorted names, by the goldens' rule."""
    return {name: _fill(name, shapes[name], k) for k, name in enumerate(sorted(shapes))}


def _fill(name, shape, k):
    z = np.random.RandomState(k).standard_normal(shape).astype(np.float32)
    if name.startswith(STREAM) or name.endswith(STREAM):
        return z * np.float32(1e-3)
    if len(shape) in (2, 4):
        return z * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    if name.endswith("running_var"):
        return 1 + np.float32(0.1) * np.abs(z)
    return np.float32(0.1) * z + np.float32(name.endswith("weight"))


def inputs(count, side):
    """Images (N, S, S, 3), labels (N,) and label logits (N, C), by the goldens' rule."""
    g = np.random.RandomState(1000)
    images = g.standard_normal((count, 3, side, side)).astype(np.float32).transpose(0, 2, 3, 1)
    labels = g.randint(0, CLASSES, size=count)
    return images.astype(np.float64), labels, (2 * g.standard_normal((count, CLASSES))).astype(np.float32)


def built(name, width=4):
    return nets.build(name, num_classes=CLASSES, width=width)


def in_torch(net, variables, shape):
    """Variables, or gradients, by PyTorch's names and in its layout."""
    if net.torch_head:
        return nets.to_torch(net, variables, shape)
    flat = traverse_util.flatten_dict(variables["params"], sep=".")
    return dict(_vit_tensor(name, np.asarray(value)) for name, value in flat.items())


def _vit_tensor(name, value):
    """What PyTorch's transformer calls a tensor of ours, and how it lays it out."""
    name = name.replace("blocks_", "blocks.").replace("attention.output", "attention.out_proj")
    name = name.replace("attention.inputs.kernel", "attention.in_proj_weight")
    name = name.replace("attention.inputs.bias", "attention.in_proj_bias")
    value = value.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, range(value.ndim)))
    return name.replace("kernel", "weight").replace("scale", "weight"), value


def started(net, shape):
    """The network's variables in float64, filled by the goldens' rule."""
    variables = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape), jax.eval_shape(lambda: nets.init(net, jax.random.key(0), shape))
    )
    filled = fill({name: value.shape for name, value in in_torch(net, variables, shape).items()})
    if net.torch_head:
        variables = nets.from_torch(net, filled, shape)
    else:
        for path in (flat := traverse_util.flatten_dict(variables["params"], sep=".")):
            name, like = _vit_tensor(path, np.arange(flat[path].size).reshape(flat[path].shape))
            flat[path] = filled[name].ravel()[np.argsort(like.ravel())].reshape(flat[path].shape)
        variables = {"params": traverse_util.unflatten_dict(flat, sep=".")}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)


def assert_equal_tensors(found, goldens, key, tolerance=1e-11):
    """Names are the golden's, and so is each tensor by its norm and its two products.

    A norm cancels the bias of the convolution before it, whose gradient is rounding; Adam makes more of it.
    """
    assert sorted(found) == goldens[f"{key}/names"].tolist()
    for name, expected in zip(sorted(found), goldens[f"{key}/digests"], strict=True):
        flat = np.asarray(found[name], np.float64).ravel()
        place = np.arange(flat.size)
        digest = [np.linalg.norm(flat), flat @ np.sin(place), flat @ np.cos(place)]
        cancelled = re.fullmatch(r"features\.[04]\.bias|features\.[15]\.running_mean", name)
        allowed = max(1e-8 if cancelled else 0, tolerance) * expected[0] + 1e-14
        np.testing.assert_allclose(digest, expected, rtol=0, atol=allowed, err_msg=name)


@pytest.mark.parametrize("key", [name.removesuffix("/names") for name in NETWORKS.files if name.endswith("/names")])
def test_logits_gradients_and_batch_statistics_equal_pytorchs_tensor_by_tensor(key):
    name, side, width = key.split("@")
    net, shape = built(name, int(width)), (int(side), int(side), 3)
    images, labels, _ = inputs(7, int(side))
    start = started(net, shape)

    def loss(params):
        logits, variables = nets.apply_train(net, {**start, "params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), (logits, variables)

    evaluated = nets.apply(net, start, images)
    gradients, (logits, moved) = jax.jit(jax.grad(loss, has_aux=True))(start["params"])
    found = {"logits/eval": evaluated, "logits/train": logits}
    for part, value in in_torch(net, {**moved, "params": gradients}, shape).items():
        found[f"{'stats' if 'running' in part else 'grad'}/{part}"] = value
    # JAX's attention takes its softmax in float32
    assert_equal_tensors(found, NETWORKS, key, 1e-6 if name == "ViT-6" else 1e-11)


def test_images_come_in_the_order_of_the_goldens():
    key = jax.random.fold_in(jax.random.key(0), training.SHUFFLE)
    orders = [jax.random.permutation(jax.random.fold_in(key, epoch), 10) for epoch in range(6)]
    np.testing.assert_array_equal(orders, TRAJECTORIES["orders"])


def student(protocol):
    """The protocol's only student, its numbers in float64."""
    row = protocol.row(protocol.lr[0], augmented=False)
    numbers = {
        name: jnp.asarray(value, bool if isinstance(value, bool) else jnp.float64) for name, value in row.items()
    }
    return Student(jax.random.key(0), jnp.int32(0), jnp.int32(0), numbers)


def teachers(net, shape):
    """Two; the second one's tensors are the first one's, reversed along PyTorch's first axis."""
    first = in_torch(net, started(net, shape), shape)
    both = [nets.from_torch(net, tensors, shape) for tensors in (first, {name: t[::-1] for name, t in first.items()})]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves).astype(jnp.float64), *both)


def targets(protocol, labels, logits):
    """What a set's labels are to the protocol."""
    truth = jax.nn.one_hot(labels, CLASSES, dtype=jnp.float64)
    if protocol.loss == "mse_gt":
        return jnp.concatenate([truth, logits], -1)
    return soften(logits, protocol.temperature) if protocol.labels == "soft" else truth


@pytest.mark.parametrize("name", CASES)
def test_students_of_several_epochs_equal_pytorchs(name):
    protocol = Protocol(**{"student": "ConvNet-2-BN", "width": 4, "epochs": 6, "batch_size": 4} | CASES[name])
    teacher = built("ConvNet-1-BN") if protocol.labels == "teacher" else None
    program, who = Program.of(protocol, CLASSES, teacher), student(protocol)
    images, labels, logits = inputs(10, 8)
    shape = images.shape[1:]
    data = TrainingData(images[None], targets(protocol, labels, logits.astype(np.float64))[None])
    data = data if teacher is None else data._replace(teachers=teachers(teacher, shape))
    variables = started(program.net, shape)
    state = State(variables, training._optimizer(program, who, data).init(variables["params"]))
    state = jax.jit(training.train_epochs, static_argnums=0)(program, state, who, data, 0, protocol.epochs)
    # parts of an epoch are float32
    tolerance = 1e-8 if protocol.clock == "step" else 1e-11
    assert_equal_tensors(in_torch(program.net, state.variables, shape), TRAJECTORIES, name, tolerance)
