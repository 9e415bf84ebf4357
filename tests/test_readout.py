import dataclasses

import chex
import numpy as np
import pytest

from ddr_jax.scores.readout import Choice, Rate, choices, optimism, read
from ddr_jax.types import ArmTable, InputError


def table(test, validation=None) -> ArmTable:
    test = np.asarray(test, float)
    sets, rates, seeds, _ = test.shape
    return ArmTable(
        arm="syn-any",
        sets=tuple("ab"[:sets]),
        lrs=tuple(0.1 * (r + 1) for r in range(rates)),
        test=test,
        validation=None if validation is None else np.asarray(validation, float),
        diverged=np.zeros((sets, rates, seeds), bool),
        students=np.full((sets, rates, seeds), "x"),
        augmented=False,
    )


# one set, two rates, two seeds, two test epochs
TEST = [[[[0.9, 0.5], [0.2, 0.6]], [[0.3, 0.7], [0.1, 0.4]]]]
VALIDATION = [[[[0.9, 0.5], [0.9, 0.6]], [[0.1, 0.8], [0.1, 0.4]]]]


def test_last_takes_the_last_epoch_at_the_rate_with_the_best_mean_validation_accuracy():
    reading = read(table(TEST, VALIDATION), "last")  # last epochs: rate 0 has mean 0.55, rate 1 has 0.60
    chex.assert_trees_all_close(reading.accuracy, np.array([[0.7, 0.4]]))
    np.testing.assert_array_equal(reading.rate, [[1, 1]])


def test_last_chooses_a_rate_for_each_set():
    test, validation = np.zeros((2, 2, 1, 1)), np.zeros((2, 2, 1, 1))
    validation[0, 1], validation[1, 0] = 1, 1
    np.testing.assert_array_equal(read(table(test, validation), "last").rate, [[1], [0]])


def test_last_takes_the_first_of_equal_rates():
    np.testing.assert_array_equal(read(table(TEST, np.ones_like(VALIDATION)), "last").rate, [[0, 0]])


def test_last_needs_no_validation_for_a_single_rate():
    chex.assert_trees_all_close(read(table(np.array(TEST)[:, :1]), "last").accuracy, np.array([[0.5, 0.6]]))


def test_last_refuses_a_grid_without_validation():
    with pytest.raises(InputError, match="2 learning rates and no validation"):
        read(table(TEST), "last")


def test_best_takes_the_best_epoch_and_rate_on_test_for_each_seed():
    reading = read(table(TEST), "best")
    chex.assert_trees_all_close(reading.accuracy, np.array([[0.9, 0.6]]))
    np.testing.assert_array_equal(reading.rate, [[0, 0]])


def test_optimism_is_what_choosing_epoch_and_rate_on_test_adds():
    # best over epochs and rates: 0.9 and 0.6; last epoch of the rate that validation chooses: 0.7 and 0.4
    chex.assert_trees_all_close(optimism(table(TEST, VALIDATION)), np.array([[0.2, 0.2]]))


def test_nothing_to_choose_gives_no_optimism():
    np.testing.assert_array_equal(optimism(table(np.array(TEST)[:, :1, :, -1:])), [[0, 0]])


def _grid(means, lrs=(0.1, 0.2, 0.3)) -> ArmTable:
    validation = np.asarray(means, float)[..., None, None]
    return dataclasses.replace(table(np.zeros_like(validation), validation), lrs=lrs)


def test_a_choice_inside_the_grid_has_both_neighbours():
    (choice,) = choices(_grid([[0.5, 0.7, 0.6]]))
    assert choice == Choice("a", Rate(0.2, 0.7), Rate(0.1, 0.5), Rate(0.3, 0.6), None)


@pytest.mark.parametrize(("means", "edge"), [([0.7, 0.6, 0.5], "lowest"), ([0.5, 0.6, 0.7], "highest")])
def test_a_choice_at_an_end_of_the_grid_says_which(means, edge):
    (choice,) = choices(_grid([means]))
    assert choice.edge == edge
    assert (choice.below if edge == "lowest" else choice.above) is None


def test_neighbours_are_those_of_the_sorted_grid_and_each_set_has_its_own():
    first, second = choices(_grid([[0.5, 0.7, 0.6], [0.9, 0.7, 0.6]], lrs=(0.2, 0.3, 0.1)))
    assert (first.chosen.lr, first.edge, first.below) == (0.3, "highest", Rate(0.2, 0.5))
    assert (second.chosen.lr, second.edge, second.above) == (0.2, None, Rate(0.3, 0.7))


def test_a_lone_rate_is_no_grid_and_has_no_edge():
    (choice,) = choices(table(np.array(TEST)[:, :1]))
    assert choice == Choice("a", Rate(0.1, None), None, None, None)
