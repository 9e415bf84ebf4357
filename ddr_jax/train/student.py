"""One student, as pure functions: start, train some epochs, test.

`population` batches them over students. Everything static is in `Program`; everything that varies across
students is in `Student`, whose fields gain a leading students axis there. `precision`, one of
`nets.precision.PRECISIONS`, is that of the networks alone: weights, optimizer, augmentation and losses are float32.
`axis` is the mesh axis over which devices share one student's batches, None where each trains students of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from ddr_jax import nets
from ddr_jax.augment import apply
from ddr_jax.nets.precision import arithmetic, operands
from ddr_jax.protocols.protocol import Protocol, Static
from ddr_jax.train import optim, teachers
from ddr_jax.train.losses import LOSSES, mse_gt, soften

Array = jax.Array | np.ndarray

INIT, SHUFFLE, AUGMENT = range(3)  # independent streams of a student's randomness
DROPOUT = 2**31 - 1  # and one of a batch's, whose other draws come from splits
HELD_OUT_MULTIPLE = 256  # images; every size of a test batch divides it


@dataclass(frozen=True)
class Program:
    """The static part of a training: equal programs, on data of equal shapes, compile once.

    `net` and `teacher` are flax modules, which hash by value; `teacher` is None unless it labels batches.
    """

    net: Any
    static: Static
    teacher: Any = None

    @classmethod
    def of(cls, protocol: Protocol, num_classes: int, teacher: Any = None) -> Program:
        """The program that trains a protocol's students on `num_classes` classes."""
        student: Any = protocol.student  # no `Described`, which `nets.check` refuses
        net = nets.build(student, width=protocol.width, num_classes=num_classes)
        return cls(net, protocol.static, teacher if protocol.labels == "teacher" else None)

    def facts(self, image_shape: tuple[int, ...]) -> dict[str, Any]:
        """Everything as text, the same for equal programs in every process; networks by what they compute."""
        teacher = None if self.teacher is None else nets.digest(self.teacher, image_shape)
        return {"net": nets.digest(self.net, image_shape), "static": repr(self.static), "teacher": teacher}


class Student(NamedTuple):
    """What varies across students; scalars here, (P,) in a population.

    `images` and `targets` are positions in `TrainingData`; `numbers` are those of `Protocol.row`, float32 but for
    `augmented`, a bool that switches the program's augmentation on.
    """

    key: jax.Array
    images: Array  # int32
    targets: Array  # int32
    numbers: Mapping[str, Array]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], keys: jax.Array, images: Any, targets: Any) -> Student:
        """P students of as many rows and keys, which learn from the sets at `images` and `targets` (P,)."""
        names = rows[0]
        dtypes = {name: bool if isinstance(rows[0][name], bool) else np.float32 for name in names}
        numbers = {name: np.array([row[name] for row in rows], dtypes[name]) for name in names}
        return cls(keys, np.asarray(images, np.int32), np.asarray(targets, np.int32), numbers)


class TrainingData(NamedTuple):
    """What students learn from, shared by all of them.

    `images` (D, N, H, W, K) and `targets` (D', N, C) probabilities, each student taking one of each. Where the loss
    is MSE-GT targets are (D', N, 2 C): probabilities of the true class, and after them label logits.
    `teachers` are the stacked variables of the networks that label batches, or None. `mean` and `std` (K,) say how
    the images were normalised, for augmentations of pixels.
    """

    images: Array
    targets: Array
    teachers: Any = None
    mean: Array | float = 0.0
    std: Array | float = 1.0


class HeldOut(NamedTuple):
    """What no student trains on and all are tested on: images (M, H, W, K), labels (M,), splits (splits, M) bool.

    `splits` says which images each split holds; padding, which makes M a multiple of `HELD_OUT_MULTIPLE`, is in none.
    """

    images: Array
    labels: Array
    splits: Array


class State(NamedTuple):
    """A student in training."""

    variables: Any
    opt_state: Any


def start(program: Program, student: Student, data: TrainingData) -> State:
    """A freshly initialised student."""
    variables = nets.init(program.net, jax.random.fold_in(student.key, INIT), data.images.shape[-3:])
    return State(variables, _optimizer(program, student, data).init(variables["params"]))


def train_epochs(
    program: Program,
    state: State,
    student: Student,
    data: TrainingData,
    first: jax.Array,
    last: jax.Array,
    precision: str = "float32",
    axis: str | None = None,
) -> State:
    """Trains epochs first, …, last − 1 (0-based, traced), each a fresh shuffle of the set without replacement.

    The last batch of an epoch holds what is left, and counts as one step like any other.
    """
    n = data.images.shape[1]
    size = min(program.static.batch_size, n)
    whole, left = divmod(n, size)
    key = jax.random.fold_in(student.key, AUGMENT)

    def epoch(number, state):
        order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(student.key, SHUFFLE), number), n)
        keys = jax.random.split(jax.random.fold_in(key, number), whole + 1)

        def batch(i, state):
            index = jax.lax.dynamic_slice_in_dim(order, i * size, size)
            return train_step(program, state, student, data, index, keys[i], precision, axis)

        state = jax.lax.fori_loop(0, whole, batch, state)
        if not left:
            return state
        return train_step(program, state, student, data, order[-left:], keys[whole], precision, axis)

    return jax.lax.fori_loop(first, last, epoch, state)


def train_step(
    program: Program,
    state: State,
    student: Student,
    data: TrainingData,
    index: jax.Array,
    key: jax.Array,
    precision: str = "float32",
    axis: str | None = None,
) -> State:
    """One step on the images at `index` (B,); `key` is for their augmentation, and for dropout where a net has it.

    Devices that share the batch augment all of it, so that the draws are the same ones, and differentiate a part.
    """
    images, targets = data.images[student.images, index], data.targets[student.targets, index]
    if program.static.augment is not None:
        augmented = partial(apply.apply, key, config=program.static.augment, mean=data.mean, std=data.std)
        with arithmetic("float32"):
            images, targets = jax.lax.cond(
                student.numbers["augmented"], augmented, lambda *batch: batch, images, targets
            )
    images, targets, share = _own_part(images, targets, axis)
    key = jax.random.fold_in(key, DROPOUT)
    key = key if axis is None else jax.random.fold_in(key, jax.lax.axis_index(axis))

    def loss(params, targets):
        variables = {**state.variables, "params": params}
        logits, variables = forward(program, variables, images, key, precision)
        return student.numbers["loss_scale"] * share(_losses(program, student, logits, targets)), variables

    with arithmetic(precision):  # around the derivative, whose products are not all traced by the forward pass
        if program.teacher is not None:
            targets = _relabelled(program, student, data, images, targets, precision)
        gradients, variables = jax.grad(loss, has_aux=True)(state.variables["params"], targets)
    gradients = gradients if axis is None else _summed(gradients, axis)
    optimizer = _optimizer(program, student, data)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.variables["params"])
    params = optax.apply_updates(state.variables["params"], updates)
    return State({**variables, "params": params}, opt_state)


def _own_part(images, targets, axis):
    """This device's images and targets, and its share of the batch's mean loss as a function of its losses."""
    if axis is None:
        return images, targets, jnp.mean
    batch, devices = len(images), jax.lax.axis_size(axis)
    size = -(-batch // devices)
    own = jax.lax.axis_index(axis) * size + jnp.arange(size)
    there = own < batch  # the last devices may have fewer images
    index = jnp.minimum(own, batch - 1)
    return images[index], targets[index], lambda losses: jnp.where(there, losses, 0).sum() / batch


def _summed(tree, axis):
    """The sum over devices, exchanged as one array: every exchange makes them wait for each other."""
    flat, restore = ravel_pytree(tree)
    return restore(jax.lax.psum(flat, axis))


def forward(
    program: Program, variables: Any, images: jax.Array, key: jax.Array, precision: str
) -> tuple[jax.Array, Any]:
    """Logits (B, C) in training mode, as float32 or wider, and the variables as the forward pass leaves them."""
    taken = {**variables, "params": operands(precision, variables["params"])}
    with arithmetic(precision):
        logits, variables = nets.apply_train(program.net, taken, operands(precision, images), key)
    return _at_least_float32(logits), variables


def _at_least_float32(x):
    return x.astype(np.promote_types(x.dtype, np.float32))


def _relabelled(program, student, data, images, targets, precision):
    """What the teachers say of a batch, as targets of the program's loss."""
    variables = {**data.teachers, "params": operands(precision, data.teachers["params"])}
    logits = _at_least_float32(teachers.mean_logits(program.teacher, variables, operands(precision, images)))
    if program.static.loss != "mse_gt":
        return soften(logits, student.numbers["temperature"])
    truth, _ = jnp.split(targets, 2, axis=-1)
    return jnp.concatenate([truth, logits], axis=-1)


def _losses(program, student, logits, targets):
    if program.static.loss != "mse_gt":
        return LOSSES[program.static.loss](logits, targets, student.numbers["temperature"])
    truth, label_logits = jnp.split(targets, 2, axis=-1)
    return mse_gt(logits, label_logits, truth, student.numbers["mse_weight"], student.numbers["ce_weight"])


def test(
    program: Program, state: State, data: HeldOut, batch_size: int, precision: str, axis: str | None
) -> tuple[jax.Array, jax.Array]:
    """How many images of each split are classified right (splits,) int32, and whether any weight is not finite."""
    variables = {**state.variables, "params": operands(precision, state.variables["params"])}

    def correct(batch):
        images, labels = batch
        with arithmetic(precision):
            return nets.apply(program.net, variables, operands(precision, images)).argmax(-1) == labels

    batches = jax.tree.map(lambda x: x.reshape(-1, batch_size, *x.shape[1:]), (data.images, data.labels))
    hits = (jax.lax.map(correct, batches) if axis is None else _map_shared(correct, batches, axis)).reshape(-1)
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state.variables)]).all()
    return (data.splits & hits[None]).sum(-1, dtype=jnp.int32), ~finite


def _map_shared(function, batches, axis):
    """`jax.lax.map` over batches that devices take in turns; every device gets all results."""
    count, devices = len(jax.tree.leaves(batches)[0]), jax.lax.axis_size(axis)
    own = jnp.arange(-(-count // devices)) * devices + jax.lax.axis_index(axis)
    found = jax.lax.map(lambda i: function(jax.tree.map(lambda x: x[i], batches)), jnp.minimum(own, count - 1))
    return jax.lax.all_gather(found, axis, axis=1).reshape(-1, *found.shape[1:])[:count]


def _optimizer(program: Program, student: Student, data: TrainingData) -> optax.GradientTransformation:
    return optim.optimizer(program.static, student.numbers, -(-data.images.shape[1] // program.static.batch_size))
