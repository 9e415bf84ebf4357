"""The table of scores: one row is enough for a score to be computed, printed, saved and compared."""

import json
from dataclasses import replace

import made
import numpy as np
import pytest

from ddr_jax.results.comparison import compare_results
from ddr_jax.results.cross import CrossArchitecture
from ddr_jax.results.result import Result, load_result
from ddr_jax.scores.table import SCORES, Score, arms_of, shown, values

ARMS = {  # by arm: sets × seeds
    "real-hard": [[0.9, 0.9]],
    "syn-hard": [[0.5, 0.6], [0.4, 0.3]],
    "syn-any": [[0.7, 0.8], [0.6, 0.4]],
    "rdm-any": [[0.3, 0.2]],
}
GAP = Score(("syn-any", "syn-hard"), np.subtract, "what soft labels add", of_accuracies=True, lower_is_better=True)
BLEND = Score(("rdm-any", "gap"), lambda random, gap: (-random, gap), "a blend, higher is better", letter="v")


def result(*scores: str, better: float = 0.0, **options) -> Result:
    """A result whose sets have syn-any accuracies `better` by that."""
    arms = {arm: np.array(rows) + (better if arm == "syn-any" else 0) for arm, rows in ARMS.items()}
    return made.result(arms, "ab", scores=scores, **options)


@pytest.fixture
def made_up(monkeypatch):
    """Two scores that nothing but the table knows: `gap`, lower is better, and `blend`, with a weight."""
    monkeypatch.setitem(SCORES, "gap", GAP)
    monkeypatch.setitem(SCORES, "blend", BLEND)


@pytest.mark.usefixtures("made_up")
def test_a_made_up_score_is_computed():
    found = result("blend", weight=0.25)
    assert set(found.scores) == {"gap", "blend"}
    np.testing.assert_allclose(found.values["gap"], [[0.2, 0.2], [0.2, 0.1]])
    ends = 0.25 * np.array([[0.2, 0.2], [0.2, 0.1]]) - 0.75 * np.array([0.3, 0.2])
    np.testing.assert_allclose(found.values["blend"], (np.exp(ends) - np.exp(-1)) / (np.exp(1) - np.exp(-1)))


@pytest.mark.usefixtures("made_up")
def test_a_made_up_score_is_printed_with_its_meaning_and_saved(tmp_path):
    shown = str(result("blend", "gap", percent=True))
    assert ["GAP", "a", "20.00", "%"] in [line.split()[:4] for line in shown.splitlines()]
    assert GAP.meaning in shown
    assert BLEND.meaning in shown
    found = result("blend", "gap", original_formula=True)
    assert "BLEND of 0.2.0" in str(found)
    found.save(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert set(content["scores"]) == {"gap", "blend", "blend_of_percentages"}
    np.testing.assert_allclose(content["scores"]["gap"]["mean"], (0.2 + 0.15) / 2)
    assert load_result(tmp_path / "r.json").to_json() == found.to_json()


@pytest.mark.usefixtures("made_up")
def test_a_made_up_score_is_compared():
    results = {"worse": result("gap", "blend", better=0.1), "better": result("gap", "blend")}
    comparison = compare_results(results)
    assert set(comparison.scores) == {"gap", "blend"}
    assert comparison.rankings["gap"].order == (1, 0)  # lower is better
    assert comparison.rankings["blend"].order == (0, 1)
    np.testing.assert_allclose(comparison.ends["blend"][1], comparison.scores["gap"])
    for title in ("GAP: what soft labels add", "BLEND at v = 0.5: a blend, higher is better", "BLEND, v"):
        assert title in str(comparison)


@pytest.mark.usefixtures("made_up")
def test_a_made_up_score_is_crossed_over_students():
    crossed = CrossArchitecture({"one": result("gap"), "other": result("gap", better=0.1)})
    np.testing.assert_allclose(crossed.worst("gap"), [0.3, 0.25])  # the greatest of the means over seeds


def test_scores_are_shown_after_those_that_they_are_made_of():
    assert list(shown(["lrs"])) == ["hlr", "ior", "lrs"]
    assert list(shown(["ars", "lrs"], original_formula=True)) == [
        *("ars", "hlr", "ior", "lrs", "joint"),
        *("ars_of_percentages", "lrs_of_percentages"),
    ]


def test_the_arms_of_a_score_are_those_of_its_parts():
    assert arms_of(["accuracy"]) == {"syn-any"}
    assert arms_of(["lrs", "accuracy"]) == {"real-hard", "syn-hard", "syn-any", "rdm-any"}
    assert arms_of(["joint"]) == arms_of(["lrs"]) | {"syn-aug", "rdm-aug", "syn-noaug", "rdm-noaug"}


@pytest.mark.parametrize("name", SCORES)
def test_a_score_needs_its_arms_and_no_others(name):
    arms = {arm: np.full((2, 3), 0.5) for arm in arms_of([name])}
    assert values(shown([name]), arms, 0.5)[name].shape == (2, 3)
    for arm in arms:
        with pytest.raises(KeyError, match=arm):
            values(shown([name]), {other: each for other, each in arms.items() if other != arm}, 0.5)


def test_only_a_weighted_score_depends_on_the_weight():
    rng = np.random.default_rng(0)
    arms = {arm: rng.uniform(size=(2, 3)) for arm in arms_of(list(SCORES))}
    low, high = (values(shown(list(SCORES)), arms, weight) for weight in (0.2, 0.7))
    moved = {name for name in SCORES if not np.allclose(low[name], high[name])}
    assert moved == {name for name, score in SCORES.items() if score.letter} | {"joint"}


def test_a_row_with_another_meaning_is_shown_so(monkeypatch):
    monkeypatch.setitem(SCORES, "accuracy", replace(SCORES["accuracy"], meaning="top-1"))
    assert "top-1" in str(result("accuracy"))
