"""Scores equal values worked by hand, broadcast, and refuse what is not a fraction."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from ddr_jax.scores import metrics
from ddr_jax.types import InputError


def test_hard_label_recovery_is_what_the_hard_set_loses():
    np.testing.assert_allclose(metrics.hard_label_recovery([0.84, 0.5], [0.54, 0.6]), [0.3, -0.1])


def test_improvement_over_random_is_what_the_set_gains():
    np.testing.assert_allclose(metrics.improvement_over_random([0.62, 0.3], [0.42, 0.4]), [0.2, -0.1])


def test_label_robust_score_worked_by_hand():
    # HLR = 0.84 − 0.54 = 0.30, IOR = 0.62 − 0.42 = 0.20, α = 0.25 · 0.20 − 0.75 · 0.30 = −0.175
    # e^−0.175 = 0.8394570, e^−1 = 0.3678794, e = 2.7182818: LRS = 0.4715776 / 2.3504024 = 0.2006369
    score = metrics.label_robust_score(0.84, 0.54, 0.62, 0.42, weight=0.25)
    np.testing.assert_allclose(score, 0.2006369, atol=1e-7)


def test_augmentation_robust_score_worked_by_hand():
    # with augmentation 0.60 − 0.40 = 0.20, without 0.45 − 0.35 = 0.10, β = 0.8 · 0.20 + 0.2 · 0.10 = 0.18
    # e^0.18 = 1.1972174: ARS = (1.1972174 − 0.3678794) / 2.3504024 = 0.3528493
    score = metrics.augmentation_robust_score(0.60, 0.40, 0.45, 0.35, weight=0.8)
    np.testing.assert_allclose(score, 0.3528493, atol=1e-7)


def test_weights_are_a_half_if_nobody_says_otherwise():
    arms = (0.9, 0.3, 0.6, 0.5)
    for score in (metrics.label_robust_score, metrics.augmentation_robust_score):
        assert score(*arms) == score(*arms, weight=0.5)


def test_scores_reach_their_limits_and_the_middle():
    worst = metrics.label_robust_score(1, 0, 0, 1)
    best = metrics.label_robust_score(0, 1, 1, 0)
    neutral = metrics.label_robust_score(0.7, 0.7, 0.4, 0.4)
    # at α = 0: (1 − 0.3678794) / 2.3504024 = 0.2689414
    np.testing.assert_allclose([worst, neutral, best], [0, 0.2689414, 1], atol=1e-7)
    limits = metrics.augmentation_robust_score([0, 1], [1, 0], [0, 1], [1, 0])
    np.testing.assert_allclose(limits, [0, 1], atol=1e-15)


def test_extreme_weights_read_one_side_only():
    # w = 1 is IOR alone, w = 0 is −HLR alone
    label = metrics.label_robust_score(0.9, 0.6, 0.5, 0.4, weight=[1, 0])
    np.testing.assert_allclose(label, metrics.normalise([0.1, -0.3]))
    augmentation = metrics.augmentation_robust_score(0.5, 0.4, 0.3, 0.1, weight=[1, 0])
    np.testing.assert_allclose(augmentation, metrics.normalise([0.1, 0.2]))


@pytest.mark.parametrize("score", [metrics.label_robust_score, metrics.augmentation_robust_score])
def test_weights_and_leading_axes_broadcast(score):
    arms = np.random.default_rng(0).uniform(size=(4, 2, 5))  # arm, set, seed
    shared = arms[0, :1]  # one real-hard accuracy per seed serves all sets
    weights = np.array([0.2, 0.5, 0.8])[:, None, None]
    together = score(shared, *arms[1:], weight=weights)
    assert together.shape == (3, 2, 5)
    alone = score(shared[0, 4], *(arm[1, 4] for arm in arms[1:]), weight=0.8)
    np.testing.assert_allclose(together[2, 1, 4], alone)


@pytest.mark.parametrize(
    ("score", "directions"),
    [(metrics.label_robust_score, (-1, 1, 1, -1)), (metrics.augmentation_robust_score, (1, -1, 1, -1))],
)
def test_scores_rise_and_fall_with_each_arm(score, directions):
    for arm, direction in enumerate(directions):
        arms = [0.5] * 4
        arms[arm] = np.linspace(0, 1, 11)
        assert (direction * np.diff(score(*arms)) > 0).all()


def test_jax_arrays_give_float64_numpy():
    score = metrics.label_robust_score(*jnp.full((4, 3), 0.5))
    assert isinstance(score, np.ndarray)
    assert score.dtype == np.float64


CALLS = {
    "hard_label_recovery": (metrics.hard_label_recovery, 2),
    "improvement_over_random": (metrics.improvement_over_random, 2),
    "label_robust_score": (metrics.label_robust_score, 4),
    "augmentation_robust_score": (metrics.augmentation_robust_score, 4),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("bad", [84.2, -0.1, np.nan, np.inf])
def test_no_arm_may_leave_the_unit_interval(name, bad):
    score, arity = CALLS[name]
    for arm in range(arity):
        arms = [0.5] * arity
        arms[arm] = bad
        with pytest.raises(InputError, match=r"expected a fraction in \[0, 1\]"):
            score(*arms)


def test_percentages_are_named_with_their_place():
    with pytest.raises(InputError, match=r"syn_hard\[1, 0\] is 84\.2; .* percentage, divide by 100"):
        metrics.hard_label_recovery(0.9, [[0.5, 0.5], [84.2, 0.5]])


def test_weight_outside_the_unit_interval_is_not_called_a_percentage():
    with pytest.raises(InputError, match=r"^weight is 1\.5; expected a fraction in \[0, 1\]$"):
        metrics.label_robust_score(0.5, 0.5, 0.5, 0.5, weight=1.5)


def test_shapes_that_do_not_broadcast_are_named():
    with pytest.raises(InputError, match=r"syn_any \(3,\), rdm_any \(2,\)"):
        metrics.improvement_over_random([0.1] * 3, [0.1] * 2)


def test_the_joint_score_is_the_mean_of_both_seed_by_seed():
    np.testing.assert_allclose(metrics.joint([0.2, 0.4], [0.4, 0.8]), [0.3, 0.6])


def test_importing_metrics_does_not_import_jax():
    code = "import sys, ddr_jax.scores.metrics; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
