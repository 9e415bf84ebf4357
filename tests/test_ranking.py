"""Comparisons equal reference values, keep their level, and groups say what the tests said."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ddr_jax.scores.ranking import (
    agreement,
    chance_of_better,
    first_between,
    groups,
    holm,
    kendall,
    letters,
    over_weights,
    paired_t_test,
    power_of,
    rank,
    seeds_to_separate,
)
from ddr_jax.types import InputError

SCORES = np.random.default_rng(0).normal(0.5, 0.01, (2, 6))


def test_the_paired_test_is_students():
    np.testing.assert_allclose(paired_t_test(*SCORES), stats.ttest_rel(*SCORES).pvalue)


def test_equal_seeds_are_not_told_apart_and_a_constant_difference_is():
    assert paired_t_test([0.1, 0.2], [0.1, 0.2]) == 1
    assert paired_t_test([2.0, 3.0], [1.0, 2.0]) == 0


def test_holms_correction_worked_by_hand():
    # sorted 0.01, 0.02, 0.022, 0.5 by 4, 3, 2, 1: 0.04, 0.06, 0.044 raised to 0.06, 0.5
    np.testing.assert_allclose(holm([0.5, 0.02, 0.01, 0.022]), [0.5, 0.06, 0.04, 0.06])
    np.testing.assert_array_equal(holm([0.6, 0.7]), [1, 1])


def test_the_chance_of_being_better_and_its_interval_invert_the_noncentral_t():
    difference = SCORES[0] - SCORES[1]
    effect, n = difference.mean() / difference.std(ddof=1), 6
    chance = chance_of_better(*SCORES, level=0.9)
    np.testing.assert_allclose(chance.value, stats.norm.cdf(effect))
    for bound, tail in ((chance.low, 0.95), (chance.high, 0.05)):
        shift = np.sqrt(n) * stats.norm.ppf(bound)
        np.testing.assert_allclose(stats.nct.cdf(np.sqrt(n) * effect, n - 1, shift), tail, atol=1e-9)


def test_the_chances_of_two_methods_are_complements():
    there, back = chance_of_better(*SCORES), chance_of_better(*SCORES[::-1])
    np.testing.assert_allclose([1 - there.value, 1 - there.high, 1 - there.low], [back.value, back.low, back.high])


def test_a_constant_difference_is_certain():
    for sign, certain in ((1, 1), (-1, 0)):
        chance = chance_of_better([sign * 2.0, sign * 3.0], [sign * 1.0, sign * 2.0])
        assert (chance.value, chance.low, chance.high) == (certain,) * 3
    assert chance_of_better([0.1, 0.2], [0.1, 0.2]).value == 0.5


@pytest.mark.parametrize(("effect", "n", "level"), [(0.5, 34, 0.05), (-1.2, 8, 0.01), (0.0, 5, 0.05)])
def test_power_is_the_noncentral_ts(effect, n, level):
    critical, shift = stats.t.ppf(1 - level / 2, n - 1), np.sqrt(n) * effect
    expected = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    np.testing.assert_allclose(power_of(effect, n, level), expected, atol=1e-9)


def test_power_is_known_for_every_number_of_seeds():
    # nctdtr gives nothing at some n for so large an effect; a search must not take that for too little
    power = power_of(1.736, np.arange(2, 2000), 0.05 / 15)
    assert np.isfinite(power).all()
    assert (np.diff(power) >= -1e-6).all()


def test_seeds_to_separate_are_the_fewest_with_the_power():
    differences = np.array([-1.0, 0.0, 1.0]) / 1.0 + 0.5  # mean 0.5, deviation 1: Cohen's table has 34 for 0.8
    n = seeds_to_separate(differences, np.zeros(3))
    assert n == 34
    assert power_of(0.5, n) >= 0.8 > power_of(0.5, n - 1)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [([1.0, 2.0], [1.0, 2.0], None), ([1.0, 2.0], [2.0, 1.0], None), ([2.0, 3.0], [1.0, 2.0], 2)],
)
def test_no_number_of_seeds_separates_equal_means_and_two_do_a_constant_difference(a, b, expected):
    assert seeds_to_separate(a, b) == expected


def test_a_million_seeds_are_too_many():
    assert seeds_to_separate([1.0, -1.0, 1e-6], [0.0, 0.0, 0.0]) is None


@pytest.mark.parametrize(
    ("distinct", "expected"),
    [
        ([], ((0, 1, 2, 3),)),
        ([(0, 3)], ((0, 1, 2), (1, 2, 3))),
        ([(0, 2), (0, 3), (1, 3)], ((0, 1), (1, 2), (2, 3))),
        ([(0, 1)], ((0, 2, 3), (1, 2, 3))),  # neighbours may differ where those around them do not
        ([(a, b) for a in range(4) for b in range(a + 1, 4)], ((0,), (1,), (2,), (3,))),
    ],
)
def test_groups_are_the_largest_without_a_distinct_pair(distinct, expected):
    assert groups(range(4), distinct) == expected


def test_two_methods_share_a_letter_exactly_where_they_are_not_distinct():
    rng = np.random.default_rng(1)
    for _ in range(50):
        distinct = [(a, b) for a in range(7) for b in range(a + 1, 7) if rng.random() < 0.5]
        named = letters(groups(range(7), distinct), 7)
        shared = {(a, b) for a in range(7) for b in range(a + 1, 7) if set(named[a]) & set(named[b])}
        assert shared == {(a, b) for a in range(7) for b in range(a + 1, 7)} - set(distinct)


def test_a_ranking_orders_names_groups_and_pairs():
    rng = np.random.default_rng(2)
    seeds = rng.normal(0, 0.05, 5)  # shared by all, and so no obstacle
    ranking = rank(np.array([0.5, 0.8, 0.501])[:, None] + seeds + rng.normal(0, 0.01, (3, 5)))
    assert ranking.order[0] == 1
    assert ranking.letters == ("b", "a", "b")
    assert [pair.distinct for pair in ranking.pairs] == [True, True, False]
    assert ranking.pairs[2].seeds_to_separate > 5
    for pair in ranking.pairs:
        assert pair.difference.mean >= 0
        assert pair.p_holm >= pair.p


def test_where_lower_is_better_the_lowest_mean_comes_first():
    scores = np.array([0.5, 0.2, 0.8])[:, None] + np.random.default_rng(3).normal(0, 0.01, (3, 5))
    ranking, mirrored = rank(scores, lower_is_better=True), rank(1 - scores)
    assert ranking.order == mirrored.order == (1, 0, 2)
    np.testing.assert_allclose([mean.mean for mean in ranking.means], scores.mean(-1))
    for pair, other in zip(ranking.pairs, mirrored.pairs, strict=True):
        np.testing.assert_allclose(
            [pair.difference.mean, pair.p, pair.chance.low], [other.difference.mean, other.p, other.chance.low]
        )


def test_a_ranking_is_at_five_percent_with_a_power_of_80_if_nobody_says_otherwise():
    scores = np.random.default_rng(2).normal(0, 0.01, (3, 5)) + np.array([0.5, 0.8, 0.501])[:, None]
    assert rank(scores) == rank(scores, level=0.05)
    differences = scores[0] - scores[2]
    assert seeds_to_separate(*scores[[0, 2]]) == seeds_to_separate(*scores[[0, 2]], power=0.8, level=0.05)
    effect = differences.mean() / differences.std(ddof=1)
    assert power_of(effect, 5) == power_of(effect, 5, level=0.05)


def test_a_lone_method_is_a_group_without_pairs():
    ranking = rank([[0.1, 0.2]])
    assert (ranking.order, ranking.pairs, ranking.letters) == ((0,), (), ("a",))


def test_a_method_and_itself_are_not_told_apart():
    ranking = rank([SCORES[0], SCORES[0]])
    assert ranking.letters == ("a", "a")
    assert (ranking.pairs[0].p_holm, ranking.pairs[0].seeds_to_separate) == (1, None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rank([[0.1], [0.2]]), "two seeds or more"),
        (lambda: rank([[0.1, np.nan]]), "not all finite"),
        (lambda: rank(SCORES, level=5), "level is"),
    ],
)
def test_scores_and_level_are_checked(call, message):
    with pytest.raises(InputError, match=message):
        call()


# A small part of experiments/coverage.py. Bands are four binomial standard errors around what is claimed.
TRIALS = 2000


@pytest.fixture(scope="module")
def experiment():
    path = Path(__file__).parents[1] / "experiments" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_experiment", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def _band(share):
    return 4 * np.sqrt(share * (1 - share) / TRIALS)


def test_default_intervals_of_accuracies_differences_and_scores_cover(experiment):
    found = experiment.coverage(experiment.WORLDS[1], 5, TRIALS, np.random.default_rng(3))
    assert set(found) >= {"accuracy, syn-any", "IOR (difference)", "LRS", "ARS"}
    for student, bootstrap in found.values():
        assert abs(student - 0.95) < _band(0.95)  # 0.93 to 0.97
        assert abs(bootstrap - 0.835) < _band(0.835)


def test_paired_tests_keep_their_level_and_have_the_power_they_claim(experiment):
    rng = np.random.default_rng(4)
    assert abs(experiment.false_finds(2, 5, TRIALS, rng) - 0.05) < _band(0.05)
    assert experiment.false_finds(5, 5, TRIALS, rng) < 0.05 + _band(0.05)
    found, claimed, chance = experiment.finds(0.02, 5, TRIALS, rng)
    assert abs(found - claimed) < _band(claimed)
    assert abs(chance - 0.95) < _band(0.95)


def test_the_estimate_of_optimism_is_unbiased(experiment):
    found = experiment.selection(experiment.RATES["near"], 5, TRIALS, np.random.default_rng(5))
    assert abs(found.bias) < 4 * found.error
    assert found.optimism > 40 * found.error  # large enough for the bias to be seen


def test_over_weights_gives_the_scores_at_each_weight():
    real, hard, syn, rdm = np.random.default_rng(0).uniform(size=(4, 3, 5))  # three methods, five seeds
    scores = over_weights(hard - real, syn - rdm, [0, 0.3, 1])
    assert scores.shape == (3, 3)
    for column, weight in enumerate((0, 0.3, 1)):
        alpha = weight * (syn - rdm) - (1 - weight) * (real - hard)
        expected = (np.exp(alpha) - np.exp(-1)) / (np.exp(1) - np.exp(-1))
        np.testing.assert_allclose(scores[:, column], expected.mean(-1))


def test_weights_outside_the_unit_interval_are_refused():
    with pytest.raises(InputError, match=r"weight\[0\] is 1\.1"):
        over_weights([[0.0]], [[1.0]], [1.1])


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


def test_the_first_agrees_with_many_weights():
    # equal seeds, so that the mean score is the score of the mean
    start, end = np.random.default_rng(2).uniform(-0.5, 0.5, (2, 8, 1))
    weights = np.linspace(0, 1, 1001)
    winners = over_weights(start, end, weights).argmax(0)
    for method, interval in enumerate(first_between(start, end)):
        inside = np.zeros(1001, bool) if interval is None else (weights >= interval[0]) & (weights <= interval[1])
        assert (inside != (winners == method)).sum() <= 2  # the crossings themselves belong to both


def test_equal_methods_are_first_together_and_a_touch_is_no_interval():
    assert first_between([[0.1], [0.1], [0.1]], [[0.2], [0.2], [0.0]]) == ((0.0, 1.0), (0.0, 1.0), None)
