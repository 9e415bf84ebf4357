import dataclasses
import json

import made
import numpy as np
import pytest

from ddr_jax.protocols.augmentations import DSA
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.results.comparison import compare_results, load_results
from ddr_jax.results.result import Result
from ddr_jax.types import InputError

ARMS = ("real-hard", "syn-hard", "syn-any", "rdm-any", "syn-aug", "rdm-aug", "syn-noaug", "rdm-noaug")
SEEDS = 4


def result(quality=0.6, sets=("a",), **asked) -> Result:
    """A result whose real and random students are those of every other one; `quality` is its sets' accuracy."""
    common, own = np.random.default_rng(0), np.random.default_rng(round(1000 * quality))
    asked = {"seeds": SEEDS} | asked
    accuracies = {}
    for arm in ARMS:
        distilled = arm.startswith("syn")
        mean = quality if distilled else 0.9 if arm == "real-hard" else 0.3
        rng, count = (own, len(sets)) if distilled else (common, 1)
        accuracies[arm] = mean + rng.normal(0, 0.01, (count, asked["seeds"]))
    return made.result(accuracies, sets, **asked)


def three(**settings):
    return {name: result(quality, **settings) for name, quality in (("low", 0.5), ("high", 0.7), ("mid", 0.501))}


def test_scores_and_intervals_are_those_of_the_results():
    results = three()
    comparison = compare_results(results)
    assert set(comparison.scores) == {"lrs", "ars", "joint"}
    for score in ("lrs", "ars"):
        means = comparison.rankings[score].means
        for place, entry in enumerate(results.values()):
            expected = entry.scores[score].overall
            np.testing.assert_allclose(
                [means[place].mean, means[place].low, means[place].high], [expected.mean, expected.low, expected.high]
            )
    np.testing.assert_allclose(comparison.scores["joint"], (comparison.scores["lrs"] + comparison.scores["ars"]) / 2)


def test_the_text_ranks_groups_and_says_where_each_is_first():
    text = str(compare_results(three()))
    assert [line.split()[:2] for line in text.splitlines()[2:3]] == [["1", "high"]]
    assert "0.000 … 1.000" in text
    assert "Kendall's τ" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_single_result_is_compared_by_set_and_several_by_their_means_over_sets():
    several = result(sets=("a", "b"))
    by_set = compare_results({"run": several})
    assert by_set.names == ("a", "b")
    by_result = compare_results({"run": several, "other": result(0.5)})
    assert by_result.names == ("run", "other")
    np.testing.assert_allclose(by_result.ends["ars"][0][0], by_set.ends["ars"][0].mean(0))


def test_results_by_set_are_named_by_both():
    assert compare_results(three(sets=("a", "b")), by="set").names[:3] == ("low/a", "low/b", "high/a")


def test_accuracy_alone_has_a_ranking_and_no_weight():
    comparison = compare_results(three(scores=("accuracy",)))
    assert list(comparison.scores) == ["accuracy"]
    assert comparison.ends == {}
    assert "Kendall" not in str(comparison)


def test_a_known_real_accuracy_stands_for_the_real_arm():
    comparison = compare_results(three(real_accuracy=0.95, scores=("lrs",)))
    start = comparison.ends["lrs"][0]
    hard = result(0.5).readings["syn-hard"].accuracy[0]
    np.testing.assert_allclose(start[0], hard - 0.95)


def test_a_method_and_itself_share_a_group():
    comparison = compare_results({"one": result(), "again": result()})
    assert comparison.rankings["lrs"].letters == ("a", "a")


def test_other_keys_are_compared_with_a_note():
    comparison = compare_results({"one": result(), "other": result(key=("fry", (0, 1)))})
    assert any("Keys differ" in note for note in comparison.notes)


def test_sets_of_other_sizes_are_compared_with_a_note():
    comparison = compare_results({"one": result(), "other": result(0.5, images=100)})
    assert any("20, 100 images" in note for note in comparison.notes)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (result(train="another"), "differ in real data, train: digest in one, another in other; use the same data"),
        (result(seeds=5), "differ in seeds: 4 in one, 5 in other"),
        (result(protocol=Protocol(augment=DSA(), epochs=10)), r"protocol\.epochs: 300 in one, 10 in other"),
        (result(scores=("accuracy",)), "share no score"),
    ],
)
def test_evaluations_that_were_not_alike_are_refused(other, message):
    with pytest.raises(InputError, match=message):
        compare_results({"one": result(), "other": other})


def test_a_setting_may_differ_by_name_and_is_noted():
    other = result(0.5, protocol=Protocol(augment=DSA(), width=64))
    comparison = compare_results({"one": result(), "other": other}, may_differ=["protocol.width"])
    assert "Results differ in protocol.width: 128 in one, 64 in other" in comparison.notes


@pytest.mark.parametrize(
    ("results", "options", "message"),
    [
        ({}, {}, "not two methods"),
        ({"one": result()}, {}, "not two methods"),
        (three(seeds=1), {}, "one seed"),
        (three(), {"by": "sets"}, "did you mean 'set'"),
        (three(), {"may_differ": ["protocol.widht"]}, r"did you mean 'protocol\.width'"),
        (three(), {"may_differ": ["real data, train"]}, "Unknown setting"),
    ],
)
def test_impossible_comparisons_are_refused(results, options, message):
    with pytest.raises(InputError, match=message):
        compare_results(results, **options)


def test_results_read_from_files_compare_alike_and_the_json_traces_every_score(tmp_path):
    results = three()
    for name, entry in results.items():
        entry.save(tmp_path / f"{name}.json")
    loaded = compare_results(load_results(*(tmp_path / f"{name}.json" for name in results)))
    assert loaded.to_json() == compare_results(results).to_json()
    loaded.save(tmp_path / "comparison.json")
    content = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    top = content["scores"]["lrs"]["ranking"][0]
    assert (top["method"], top["rank"], len(top["seeds"])) == ("high", 1, SEEDS)
    np.testing.assert_allclose(np.mean(top["seeds"]), top["mean"])
    assert content["methods"][1] == {"name": "high", "result": "high", "sets": ["a"], "digests": ["d-a"]}
    assert len(content["scores"]["joint"]["pairs"]) == 3


def test_files_of_one_name_are_told_apart_by_their_folders_and_none_is_read_twice(tmp_path):
    for folder in ("x", "y"):
        result().save(tmp_path / folder / "r.json")
    assert set(load_results(tmp_path / "x" / "r.json", tmp_path / "y" / "r.json")) == {
        str(tmp_path / folder / "r") for folder in ("x", "y")
    }
    with pytest.raises(InputError, match="named twice"):
        load_results(tmp_path / "x" / "r.json", tmp_path / "x" / ".." / "x" / "r.json")


def test_many_methods_are_shown_by_neighbours_and_a_tie_at_all_weights_ranks_nothing():
    alike = compare_results({f"m{i}": result() for i in range(7)})
    text = str(alike)
    assert "neighbours in rank, of 21 pairs" in text
    assert alike.to_json()["scores"]["lrs"]["stability"]["kendall_tau"][0] is None


def test_diverged_students_are_noted():
    lost = result()
    arm = lost.tables["syn-any"]
    lost.tables["syn-any"] = dataclasses.replace(arm, diverged=np.ones_like(arm.diverged))
    comparison = compare_results({"one": lost, "other": result(0.5)})
    assert any("4 of one" in note for note in comparison.notes)
