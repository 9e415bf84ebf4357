"""Losses equal PyTorch's, keep finite gradients, and mean the same for every origin of the targets."""

from pathlib import Path
from typing import get_args, get_type_hints

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from ddr_jax.protocols import protocol
from ddr_jax.train import losses

GOLDEN = np.load(Path(__file__).parent / "goldens" / "losses.npz")
STUDENT, TEACHER = GOLDEN["student"], GOLDEN["teacher"]
HARD = jax.nn.one_hot(GOLDEN["label"], STUDENT.shape[1])


class TestLossesAgainstPyTorch(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(loss=["kl", "ce"], temperature=[1.0, 1.2, 20.0], scaled=[0, 1])
    def test_soft_loss_equals_pytorch(self, loss, temperature, scaled):
        @self.variant
        def values(student, teacher, temperature):
            targets = losses.soften(teacher, temperature)
            return losses.LOSSES[loss](student, targets, temperature)

        per_example = values(STUDENT, TEACHER, temperature)
        chex.assert_shape(per_example, (8,))
        key = f"{'sce' if loss == 'ce' else 'kl'}/T{temperature}/scale{scaled}"
        factor = temperature**2 if scaled else 1.0
        chex.assert_trees_all_close(factor * per_example.mean(), GOLDEN[key], rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters("kl", "ce")
    def test_one_hot_targets_give_pytorchs_hard_cross_entropy(self, loss):
        per_example = self.variant(losses.LOSSES[loss])(STUDENT, HARD, 1.0)
        chex.assert_trees_all_close(per_example.mean(), GOLDEN["hard_ce"], rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters((1.0, 0.0), (1.0, 0.025), (0.5, 0.5))
    def test_squared_error_with_ground_truth_equals_pytorch(self, mse_weight, ce_weight):
        per_example = self.variant(losses.mse_gt)(STUDENT, TEACHER, HARD, mse_weight, ce_weight)
        chex.assert_shape(per_example, (8,))
        chex.assert_trees_all_close(per_example.mean(), GOLDEN[f"mse_gt/mse{mse_weight}/ce{ce_weight}"], rtol=1e-5)


def test_without_a_temperature_it_is_one():
    chex.assert_trees_all_equal(losses.soften(TEACHER), losses.soften(TEACHER, 1.0))
    for loss in losses.LOSSES.values():
        chex.assert_trees_all_equal(loss(STUDENT, HARD), loss(STUDENT, HARD, 1.0))


def test_registry_holds_the_protocols_losses():
    # but the one that takes label logits, and so is called by itself
    assert (*losses.LOSSES, "mse_gt") == get_args(get_type_hints(protocol.Protocol)["loss"])


def test_gradient_with_respect_to_logits_is_that_of_cross_entropy_even_at_zero_probabilities():
    # d/ds of both losses is (softmax(s / T) − p) / T
    temperature = 1.5
    expected = (jax.nn.softmax(STUDENT / temperature) - HARD) / temperature
    for loss in losses.LOSSES.values():
        gradient = jax.grad(lambda s, loss=loss: loss(s, HARD, temperature).sum())(STUDENT)
        chex.assert_trees_all_close(gradient, expected, atol=1e-6)


def test_every_gradient_of_kl_is_finite_at_zero_probabilities():
    gradients = jax.grad(lambda *x: losses.kl_divergence(*x).sum(), argnums=(0, 1, 2))(jnp.asarray(STUDENT), HARD, 1.5)
    chex.assert_tree_all_finite(gradients)


def test_extreme_logits_keep_loss_and_gradient_finite():
    logits = jnp.array([[1e4, -1e4, 0.0]])
    targets = losses.soften(jnp.array([[-1e4, 1e4, 0.0]]))
    for loss in losses.LOSSES.values():
        value, gradient = jax.value_and_grad(lambda s, loss=loss: loss(s, targets).sum())(logits)
        chex.assert_tree_all_finite((value, gradient))
        np.testing.assert_allclose(value, 2e4)


def test_kl_is_zero_only_where_student_and_targets_agree():
    targets = losses.soften(TEACHER, 2.0)
    np.testing.assert_allclose(losses.kl_divergence(TEACHER, targets, 2.0), 0, atol=1e-6)
    assert (losses.kl_divergence(STUDENT, targets, 2.0) > 1e-3).all()


def test_rows_of_a_vmap_may_differ_in_labels_and_temperature():
    temperatures = jnp.array([1.0, 4.0])
    targets = jnp.stack([HARD, losses.soften(TEACHER, 4.0)])
    students = jnp.stack([STUDENT, STUDENT])
    together = jax.vmap(losses.kl_divergence)(students, targets, temperatures)
    alone = [losses.kl_divergence(*row) for row in zip(students, targets, (1.0, 4.0), strict=True)]
    chex.assert_trees_all_close(together, jnp.stack(alone), rtol=1e-5)


def test_offset_of_label_logits_counts_in_the_squared_error():
    shifted = losses.mse_gt(STUDENT, STUDENT + 3, HARD, 1.0, 0.0)
    np.testing.assert_allclose(shifted, 9, rtol=1e-5)
