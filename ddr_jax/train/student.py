"""One student, as pure functions: start, train some epochs, test.

`population` batches them over students. Everything static is in `Program`; everything that varies across
students is in `Student`, whose fields gain a leading students axis there. `precision`, one of
`nets.precision.PRECISIONS`, is that of the networks alone: weights, optimizer, augmentation and losses are float32.
`axis` is the mesh axis over which devices share one student's batches, None where each trains students of its own.
"""

from __future__ import annotations

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
from ddr_jax.protocols.protocol import Augmentation, Protocol
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
    epochs: int
    batch_size: int
    optimizer: str
    schedule: str
    step_size: int
    augment: Augmentation | None
    loss: str
    teacher: Any = None
    clock: str = "epoch"
    warmup: int = 0
    fresh_at_drop: bool = False

    @classmethod
    def of(cls, protocol: Protocol, num_classes: int, teacher: Any = None) -> Program:
        """The program that trains a protocol's students on `num_classes` classes."""
        return cls(
            net=nets.build(protocol.student, width=protocol.width, num_classes=num_classes),
            epochs=protocol.epochs,
            batch_size=protocol.batch_size,
            optimizer=protocol.optimizer,
            schedule=protocol.schedule,
            step_size=protocol.step_size or max(protocol.epochs // 2, 1),
            augment=protocol.augment,
            loss=protocol.loss,
            teacher=teacher if protocol.labels == "teacher" else None,
            clock=protocol.clock,
            warmup=protocol.warmup,
            fresh_at_drop=protocol.fresh_at_drop,
        )

    def facts(self, image_shape: tuple[int, ...]) -> dict[str, str]:
        """Every field as text, the same for equal programs in every process; networks by what they compute."""
        texts = {name: repr(getattr(self, name)) for name in self.__dataclass_fields__}
        texts["net"] = nets.digest(self.net, image_shape)
        if self.teacher is not None:
            texts["teacher"] = nets.digest(self.teacher, image_shape)
        return texts


class Student(NamedTuple):
    """What varies across students; scalars here, (P,) in a population.

    `images` and `targets` are positions in `TrainingData`; `augment` switches the program's augmentation on.
    """

    key: jax.Array
    images: jax.Array  # int32
    targets: jax.Array  # int32
    lr: jax.Array  # per step, before the schedule
    weight_decay: jax.Array
    momentum: jax.Array
    temperature: jax.Array
    loss_scale: jax.Array
    mse_weight: jax.Array
    ce_weight: jax.Array
    augment: jax.Array  # bool


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
    size = min(program.batch_size, n)
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
    if program.augment is not None:
        augmented = partial(apply.apply, key, config=program.augment, mean=data.mean, std=data.std)
        with arithmetic("float32"):
            images, targets = jax.lax.cond(student.augment, augmented, lambda *batch: batch, images, targets)
    images, targets, share = _own_part(images, targets, axis)
    key = jax.random.fold_in(key, DROPOUT)
    key = key if axis is None else jax.random.fold_in(key, jax.lax.axis_index(axis))

    def loss(params, targets):
        variables = {**state.variables, "params": params}
        logits, variables = forward(program, variables, images, key, precision)
        return student.loss_scale * share(_losses(program, student, logits, targets)), variables

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
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _relabelled(program, student, data, images, targets, precision):
    """What the teachers say of a batch, as targets of the program's loss."""
    variables = {**data.teachers, "params": operands(precision, data.teachers["params"])}
    logits = _at_least_float32(teachers.mean_logits(program.teacher, variables, operands(precision, images)))
    if program.loss != "mse_gt":
        return soften(logits, student.temperature)
    truth, _ = jnp.split(targets, 2, axis=-1)
    return jnp.concatenate([truth, logits], axis=-1)


def _losses(program, student, logits, targets):
    if program.loss != "mse_gt":
        return LOSSES[program.loss](logits, targets, student.temperature)
    truth, label_logits = jnp.split(targets, 2, axis=-1)
    return mse_gt(logits, label_logits, truth, student.mse_weight, student.ce_weight)


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
    return (data.splits & hits).sum(-1, dtype=jnp.int32), ~finite


def _map_shared(function, batches, axis):
    """`jax.lax.map` over batches that devices take in turns; every device gets all results."""
    count, devices = len(jax.tree.leaves(batches)[0]), jax.lax.axis_size(axis)
    own = jnp.arange(-(-count // devices)) * devices + jax.lax.axis_index(axis)
    found = jax.lax.map(lambda i: function(jax.tree.map(lambda x: x[i], batches)), jnp.minimum(own, count - 1))
    return jax.lax.all_gather(found, axis, axis=1).reshape(-1, *found.shape[1:])[:count]


def _optimizer(program: Program, student: Student, data: TrainingData) -> optax.GradientTransformation:
    steps = -(-data.images.shape[1] // program.batch_size)
    return optim.optimizer(
        program.optimizer,
        lr=student.lr,
        momentum=student.momentum,
        weight_decay=student.weight_decay,
        schedule=optim.schedule(
            program.schedule, epochs=program.epochs, step_size=program.step_size, warmup=program.warmup
        ),
        steps_per_epoch=steps,
        clock=program.clock,
        fresh_every=program.step_size if program.fresh_at_drop else None,
    )
