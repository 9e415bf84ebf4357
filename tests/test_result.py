import dataclasses
import json

import made
import numpy as np
import pytest

from ddr_jax.protocols.augmentations import DSA
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.protocols.settings import Settings
from ddr_jax.results import pictures
from ddr_jax.results.result import Result, load_result
from ddr_jax.scores import metrics
from ddr_jax.types import ArmTable, DistilledSets, InputError

ACCURACIES = {  # by arm: sets × seeds
    "real-hard": [[0.8, 0.9]],
    "syn-hard": [[0.5, 0.7], [0.4, 0.4]],
    "syn-any": [[0.6, 0.7], [0.5, 0.5]],
    "rdm-any": [[0.3, 0.3]],
    "syn-aug": [[0.6, 0.7], [0.5, 0.5]],
    "rdm-aug": [[0.3, 0.3]],
    "syn-noaug": [[0.5, 0.6], [0.4, 0.4]],
    "rdm-noaug": [[0.2, 0.3]],
}


def result(scores=("lrs", "ars"), sets=2, lost=0, **settings) -> Result:
    accuracies = {arm: rows[:sets] for arm, rows in ACCURACIES.items()}
    return made.result(accuracies, "ab"[:sets], scores=scores, lost=lost, **settings)


def lrs(alpha):
    return (np.exp(alpha) - np.exp(-1)) / (np.exp(1) - np.exp(-1))


def chosen_last(arm, accuracies) -> ArmTable:
    """Two rates, two test epochs: validation chooses the second rate; only at its last epoch test is `accuracies`."""
    (rows,) = accuracies
    test = np.full((1, 2, len(rows), 2), 0.95)
    test[0, 1, :, 1] = rows
    validation = np.broadcast_to(np.array([[0.9, 0.3], [0.1, 0.6]])[None, :, None], test.shape)  # by rate and epoch
    lost, names = np.zeros(test.shape[:3], bool), np.full(test.shape[:3], arm)
    return ArmTable(arm, ("a",), (0.01, 0.1), test, validation, lost, names, augmented=arm.endswith("-aug"))


def test_scores_and_their_intervals_are_those_worked_by_hand():
    """Of two seeds, at weight 1/4.

    HLR 0.8 − 0.5 = 0.3 and 0.9 − 0.7 = 0.2; IOR 0.6 − 0.3 = 0.3 and 0.7 − 0.3 = 0.4.
    α = 0.25 · 0.3 − 0.75 · 0.3 = −0.15 and 0.25 · 0.4 − 0.75 · 0.2 = −0.05; e^−0.15 = 0.8607080, e^−0.05 = 0.9512294.
    LRS = (0.8607080 − 0.3678794) / 2.3504024 = 0.2096784 and (0.9512294 − 0.3678794) / 2.3504024 = 0.2481916.
    β = 0.25 · 0.3 + 0.75 · 0.3 = 0.3 and 0.25 · 0.4 + 0.75 · 0.3 = 0.325; e^0.3 = 1.3498588, e^0.325 = 1.3840307.
    ARS = (1.3498588 − 0.3678794) / 2.3504024 = 0.4177920 and (1.3840307 − 0.3678794) / 2.3504024 = 0.4323308.
    Joint: (0.2096784 + 0.4177920) / 2 = 0.3137352 and (0.2481916 + 0.4323308) / 2 = 0.3402612.
    Of two seeds the half width is t(0.975; 1) / 2 = 6.3531024 times their difference.
    """
    found = result(sets=1, weight=0.25, protocol=Protocol(lr=(0.01, 0.1), augment=DSA(), test_every=1))
    found.tables.update({arm: chosen_last(arm, rows[:1]) for arm, rows in ACCURACIES.items()})
    by_seed = {
        "hlr": (0.3, 0.2),
        "ior": (0.3, 0.4),
        "lrs": (0.2096784, 0.2481916),
        "ars": (0.4177920, 0.4323308),
        "joint": (0.3137352, 0.3402612),
    }
    assert found.scores.keys() == by_seed.keys()
    for name, (first, second) in by_seed.items():
        interval, half = found.scores[name].overall, 6.3531024 * abs(first - second)
        expected = (first + second) / 2 + half * np.array([-1, 0, 1])
        np.testing.assert_allclose([interval.low, interval.mean, interval.high], expected, atol=2e-6, err_msg=name)


def test_only_what_was_asked_for_is_scored():
    assert set(result(("accuracy",)).scores) == {"accuracy"}
    assert set(result(("lrs",)).scores) == {"hlr", "ior", "lrs"}


def test_several_sets_are_scored_each_and_averaged_within_seeds():
    scores = result().scores["ior"]
    assert {name: interval.n for name, interval in scores.sets.items()} == {"a": 2, "b": 2}
    np.testing.assert_allclose(scores.sets["b"].mean, 0.2)
    # by seed, over sets: (0.3 + 0.2) / 2 and (0.4 + 0.2) / 2; t with one degree of freedom is 12.706
    np.testing.assert_allclose(scores.overall.mean, 0.275)
    half = 12.7062 * np.std([0.25, 0.3], ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(scores.overall.high - scores.overall.mean, half, rtol=1e-4)


def test_a_known_real_accuracy_replaces_the_real_hard_arm():
    known = result(sets=1, real_accuracy=1.0)
    np.testing.assert_allclose(known.scores["hlr"].overall.mean, (0.5 + 0.3) / 2)
    assert "given as 1.0, not measured" in str(known)


def test_intervals_may_be_bootstrapped():
    interval = result(sets=1, interval="bootstrap").scores["hlr"].overall
    np.testing.assert_allclose([interval.low, interval.high], [0.2, 0.3])  # the range of the two seeds


def test_one_seed_has_no_interval():
    lone = result(sets=1, seeds=1)
    for arm, rows in ACCURACIES.items():
        lone.tables[arm] = made.table(arm, [rows[0][:1]], "a")
    assert (lone.scores["lrs"].overall.low, lone.scores["lrs"].overall.n) == (None, 1)
    assert "One seed gives no interval" in str(lone)


def test_the_json_has_a_row_for_each_student_of_each_arm():
    content = result().to_json()
    assert len(content["students"]) == 24
    row = content["students"][2]
    assert {name: row[name] for name in ("arm", "set", "seed", "lr", "accuracy")} == {
        "arm": "syn-hard",
        "set": "a",
        "seed": 0,
        "lr": 0.01,
        "accuracy": 0.5,
    }
    assert set(content["scores"]["lrs"]) == {"mean", "low", "high", "n", "sets"}
    assert [entry["set"] for entry in content["scores"]["lrs"]["sets"]] == ["a", "b"]


def test_a_result_read_back_is_the_same(tmp_path):
    original = result(real_accuracy=0.9)
    original.save(tmp_path / "r.json")
    again = load_result(tmp_path / "r.json")
    assert again.settings == original.settings
    assert again.to_json() == original.to_json()
    assert str(again) == str(original)


def test_best_counts_the_best_epoch_of_each_row():
    best = result(("accuracy",), sets=1)
    settings = dataclasses.replace(best.settings.protocol, readout="best", test_every=1)
    best = dataclasses.replace(best, settings=dataclasses.replace(best.settings, protocol=settings))
    arm = best.tables["syn-any"]
    best.tables["syn-any"] = dataclasses.replace(arm, test=np.concatenate([arm.test + 0.1, arm.test], -1))
    rows = [row["accuracy"] for row in best.rows() if row["arm"] == "syn-any"]
    np.testing.assert_allclose(rows, [0.7, 0.8])
    assert "chosen on the test set" in str(best)


def test_diverged_students_are_counted_once_and_reported():
    lost = result(sets=1, lost=1)
    assert lost.diverged == len(ACCURACIES)
    assert "8 students diverged" in str(lost)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not a result of ddr-jax"), ("[]", "is not a result"), ('{"format": 99}', "format 99")],
)
def test_a_file_that_is_no_result_is_refused(tmp_path, content, message):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load_result(tmp_path / "r.json")


def test_a_missing_result_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_result(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scores": ("lsr",)}, "did you mean 'lrs'"),
        ({"interval": "tt"}, "Unknown interval"),
        ({"seeds": 0}, "seeds is 0"),
        ({"teachers": 0}, "teachers is 0"),
        ({"weight": 1.5}, "weight is 1.5"),
        ({"level": 95}, "level is 95"),
        ({"real_accuracy": 84.8}, "divide percentages by 100"),
        ({"baseline": "herdin"}, "did you mean 'herding'"),
        ({"hard_augment": True, "protocol": Protocol()}, "augment is none"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Settings(**{"scores": ("lrs",), "protocol": Protocol(augment=DSA()), "real_protocol": Protocol()} | options)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_is_a_png(tmp_path, real, channels):
    shape = (2, 6, 8, 8, channels)
    sets = DistilledSets(("a", "b"), np.zeros(shape, np.float32), np.tile(np.arange(6) % 3, (2, 1)), None)
    split = dataclasses.replace(real.train, images=np.zeros((3, *shape[2:]), np.float32))
    pictures.save_picture(result(), sets, dataclasses.replace(real, train=split), tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_json_numbers_are_finite(tmp_path):
    result().save(tmp_path / "r.json")
    json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)


def test_the_cost_of_a_set_stands_under_its_scores():
    assert result().costs.labels_stored == 20
    assert "Cost of a set: images 1.28 kB (uint8) or 5.12 kB (float32); hard labels 20 B" in str(result())


def test_percentages_are_shown_and_fractions_kept():
    percent = result(percent=True)
    assert percent.to_json()["arms"] == result().to_json()["arms"]
    shown = f"{100 * result().accuracies['syn-any'].sets['a'].mean:.2f} %"
    assert shown in str(percent)
    assert shown not in str(result())


def test_the_originals_formula_of_percentages_is_shown_beside_ours():
    scores = result(original_formula=True).scores
    assert set(scores) == {*result().scores, "lrs_of_percentages", "ars_of_percentages"}
    assert "LRS of 0.2.0" in str(result(original_formula=True))
    one = metrics.of_percentages(metrics.normalise(np.float64([-1.0, 0.0, 0.05])))
    np.testing.assert_allclose(one, [lrs(-100), lrs(0), lrs(5)], atol=1e-6)
