import numpy as np
import pytest
from scipy import stats

from ddr_jax.scores import metrics
from ddr_jax.scores.stability import agreement, first_between, kendall, sweep
from ddr_jax.types import InputError


def test_a_sweep_holds_the_scores_at_each_weight():
    real, hard, syn, rdm = np.random.default_rng(0).uniform(size=(4, 3, 5))  # three methods, five seeds
    swept = sweep(-metrics.hard_label_recovery(real, hard), metrics.improvement_over_random(syn, rdm), [0, 0.3, 1])
    assert swept.shape == (3, 3)
    for column, weight in enumerate((0, 0.3, 1)):
        expected = metrics.label_robust_score(real, hard, syn, rdm, weight).mean(-1)
        np.testing.assert_allclose(swept[:, column], expected)


def test_weights_outside_the_unit_interval_are_refused():
    with pytest.raises(InputError, match=r"weights are \[1\.1\]"):
        sweep([[0.0]], [[1.0]], [1.1])


@pytest.mark.parametrize("ties", [False, True])
def test_kendalls_tau_equals_scipys(ties):
    scores, others = np.random.default_rng(1).normal(size=(2, 4, 9))
    if ties:
        scores, others = np.round(scores), np.round(others)
    expected = [stats.kendalltau(a, b).statistic for a, b in zip(scores, others, strict=True)]
    np.testing.assert_allclose(kendall(scores, others), expected)


def test_kendalls_tau_is_undefined_where_all_are_equal():
    assert np.isnan(kendall([1, 1, 1], [1, 2, 3]))


def test_agreement_turns_where_the_order_turns():
    start, end = [[0.0], [0.2]], [[0.6], [0.2]]  # equal at 1/3
    np.testing.assert_array_equal(agreement(start, end, [0, 0.3, 0.4, 0.5, 1]), [-1, -1, 1, 1, 1])


def test_the_intervals_of_being_first_are_exact():
    # lines 0 → 0.6, 0.2 → 0.2, 0.3 → −0.3, and one that is below another everywhere
    first = first_between([[0.0], [0.2], [0.3], [-0.1]], [[0.6], [0.2], [-0.3], [0.5]])
    np.testing.assert_allclose(first[2], (0, 1 / 6))
    np.testing.assert_allclose(first[1], (1 / 6, 1 / 3))
    np.testing.assert_allclose(first[0], (1 / 3, 1))
    assert first[3] is None


def test_the_first_agrees_with_a_fine_sweep():
    # equal seeds, so that the mean score is the score of the mean
    start, end = np.random.default_rng(2).uniform(-0.5, 0.5, (2, 8, 1))
    weights = np.linspace(0, 1, 1001)
    winners = sweep(start, end, weights).argmax(0)
    for method, interval in enumerate(first_between(start, end)):
        inside = np.zeros(1001, bool) if interval is None else (weights >= interval[0]) & (weights <= interval[1])
        assert (inside != (winners == method)).sum() <= 2  # the crossings themselves belong to both


def test_equal_methods_are_first_together_and_a_touch_is_no_interval():
    assert first_between([[0.1], [0.1], [0.1]], [[0.2], [0.2], [0.0]]) == ((0.0, 1.0), (0.0, 1.0), None)


def test_the_joint_score_is_the_mean_of_both_seed_by_seed():
    np.testing.assert_allclose(metrics.joint([0.2, 0.4], [0.4, 0.8]), [0.3, 0.6])
