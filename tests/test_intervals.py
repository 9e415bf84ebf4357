"""Intervals equal reference values, cover as often as they say, and stay quiet where nothing varies."""

import numpy as np
import pytest
from scipy import stats

from ddr_jax.scores.intervals import Components, bootstrap_interval, t_interval, variance_components
from ddr_jax.types import InputError

BOTH = pytest.mark.parametrize(
    "interval",
    [t_interval, lambda x, **options: bootstrap_interval(x, seed=0, **options)],
    ids=["t", "bootstrap"],
)


def _coverage(interval, truth):
    return np.mean((interval.low < truth) & (truth < interval.high))


def test_t_interval_worked_by_hand():
    # mean 3, s = √2.5 = 1.5811388, t(0.975; 4) = 2.7764451: half = 2.7764451 · 1.5811388 / √5 = 1.9632432
    interval = t_interval([1, 2, 3, 4, 5])
    np.testing.assert_allclose([interval.mean, interval.low, interval.high], [3, 1.0367568, 4.9632432], atol=1e-7)
    assert interval.n == 5


def test_t_interval_covers_at_its_level():
    values = np.random.default_rng(0).normal(0.7, 0.02, size=(2000, 5))
    assert 0.93 < _coverage(t_interval(values), 0.7) < 0.97
    assert 0.77 < _coverage(t_interval(values, level=0.8), 0.7) < 0.83


def test_bootstrap_interval_covers_as_documented():
    # BCa is known to be narrow for few values: the band of its docstring's figures, ± 3 standard errors
    values = np.random.default_rng(1).normal(0.7, 0.02, size=(2000, 20))
    assert 0.91 < _coverage(bootstrap_interval(values, seed=0, resamples=2000), 0.7) < 0.95
    few = bootstrap_interval(values[:, :5], seed=0, resamples=2000)
    assert 0.82 < _coverage(few, 0.7) < 0.88


@pytest.mark.parametrize("n", [5, 20])
def test_bootstrap_interval_equals_scipys_bca_of_skewed_values(n):
    # sums of 1024ths are exact, so that scipy too sees every tie between a resample and the sample
    values = np.round(1024 * np.random.default_rng(2).lognormal(size=n)) / 1024
    ours = bootstrap_interval(values, seed=0, level=0.9, resamples=200_000)
    scipys = stats.bootstrap(
        (values,), np.mean, n_resamples=200_000, batch=10_000, confidence_level=0.9, method="BCa", rng=1
    ).confidence_interval
    width = scipys.high - scipys.low
    np.testing.assert_allclose([ours.low, ours.high], scipys, atol=0.01 * width)
    asymmetry = ours.low + ours.high - 2 * ours.mean
    assert asymmetry > 0.05 * width  # skewed enough for the correction to matter


def test_bootstrap_interval_is_of_ten_thousand_resamples_at_95_percent_if_nobody_says_otherwise():
    values = np.random.default_rng(3).normal(size=10)
    said = bootstrap_interval(values, seed=7, level=0.95, resamples=10_000)
    assert (said.low, said.high) == ((it := bootstrap_interval(values, seed=7)).low, it.high)


def test_resamples_that_equal_the_sample_count_half_on_either_side():
    # of two values a half of all resamples has their mean, a quarter each is below and above: the quantiles at 0.27
    # and 0.73 are the mean where nothing is biased
    interval = bootstrap_interval([0.0, 1.0], seed=0, level=0.46)
    assert (interval.low, interval.mean, interval.high) == (0.5, 0.5, 0.5)


def test_bootstrap_interval_is_set_by_its_seed():
    values = np.random.default_rng(3).normal(size=10)
    one, again, other = (bootstrap_interval(values, seed=seed) for seed in (7, 7, 8))
    assert (one.low, one.high) == (again.low, again.high)
    assert one.low != other.low


@BOTH
def test_entry_among_many_has_the_interval_it_has_alone(interval):
    values = np.random.default_rng(4).uniform(size=(2, 3, 6))
    together, alone = interval(values), interval(values[1, 2])
    assert together.mean.shape == together.low.shape == together.high.shape == (2, 3)
    np.testing.assert_allclose(
        [together.mean[1, 2], together.low[1, 2], together.high[1, 2]], [alone.mean, alone.low, alone.high]
    )


@BOTH
def test_interval_shifts_and_scales_with_its_values(interval):
    values = np.random.default_rng(5).exponential(size=8)
    before, after = interval(values), interval(100 * values - 3)
    np.testing.assert_allclose([after.low, after.high], [100 * before.low - 3, 100 * before.high - 3])


@BOTH
def test_equal_values_give_zero_width(interval):
    result = interval(np.full((2, 3), 0.1))  # 0.1 + 0.1 + 0.1 is not 0.3 in binary
    for bound in (result.mean, result.low, result.high):
        np.testing.assert_array_equal(bound, [0.1, 0.1])


@BOTH
def test_single_seed_has_a_mean_and_no_interval(interval):
    result = interval([[0.3], [0.4]])
    np.testing.assert_array_equal(result.mean, [0.3, 0.4])
    assert (result.low, result.high, result.n) == (None, None, 1)


@BOTH
@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        ([], 0.95, "one value per seed"),
        (0.5, 0.95, "one value per seed"),
        ([0.5, np.nan], 0.95, "not all finite"),
        ([0.5, 0.6], 95, "level is 95"),
        ([0.5, 0.6], 1.0, r"level is 1\.0"),
    ],
)
def test_values_and_level_are_checked(interval, values, level, message):
    with pytest.raises(InputError, match=message):
        interval(values, level=level)


def test_variance_components_worked_by_hand():
    # effects of sets ∓ 2, of seeds ∓ 1, rest ± 0.5: mean squares 2·(4 + 4) = 16, 2·(1 + 1) = 4, 4·0.25 = 1
    values = [[-3 + 0.5, -1 - 0.5], [1 - 0.5, 3 + 0.5]]
    assert variance_components(values) == Components(seed=1.5, set=7.5, rest=1.0)
    # between seeds the sets vary by 1 / 2 and 9 / 2, the draws by 8, which is 5.5 more than the sets' mean
    assert variance_components(values, random=[0, 4]).draw == 5.5


def test_variance_components_recover_those_of_many_sets_and_seeds():
    rng = np.random.default_rng(6)
    values = rng.normal(0, 3, (400, 1)) + rng.normal(0, 2, (1, 400)) + rng.normal(0, 1, (400, 400))
    found = variance_components(values, random=rng.normal(0, np.sqrt(4 + 1 + 16), 400))
    # a variance of n normal values has the relative standard error √(2 / n) = 7 %: four of them
    np.testing.assert_allclose([found.set, found.seed, found.draw], [9, 4, 16], rtol=0.37)
    np.testing.assert_allclose(found.rest, 1, rtol=0.02)


def test_variance_components_are_never_negative():
    # seeds differ in opposite directions on two sets: less between seeds' means than rest alone would give
    found = variance_components([[0, 1], [1, 0]], random=[0.5, 0.5])
    assert (found.seed, found.set, found.draw) == (0, 0, 0)
    assert found.rest == 1


@pytest.mark.parametrize(("lost", "drawn"), [(np.inf, 0.5), (0.5, np.nan)])
def test_variance_components_need_finite_values(lost, drawn):
    with pytest.raises(InputError, match="not all finite"):
        variance_components([[0.1, 0.2], [0.3, lost]], random=[0.1, drawn])
