"""The table of scores: which arms each one takes, what it makes of their accuracies, and how it is shown.

Whoever computes, compares, prints or asks for scores reads this table; a new score is a row of it (`SCORES`), and a
builder in `evaluate.ARMS` for each arm that is new. Accuracies are fractions; see `metrics` for shapes and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from ddr_jax.scores import metrics
from ddr_jax.scores.metrics import Score as Values

Accuracies = Mapping[str, ArrayLike]  # by arm, any shapes that broadcast, such as (D, S)


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        arms: names of the arms whose accuracies it takes.
        of: from the accuracies of these arms and the weight to the score.
        meaning: what it is, in a line.
        letter: of its weight, w or γ; empty where it has none.
        ends: of a score with a weight, its α or β at weight 0 and at weight 1, from the accuracies of its arms; at
            any other weight it is normalise((1 − weight) · start + weight · end).
        lower_is_better: of two sets, whether the one with the lower value is the better one.
        of_accuracies: an accuracy or a difference of accuracies, which may be shown as a percentage.
        shown_with: scores that are shown before it wherever it is asked for.
        follows: scores which, asked for together, bring it along.
    """

    arms: tuple[str, ...]
    of: Callable[[Accuracies, float], Values]
    meaning: str
    letter: str = ""
    ends: Callable[[Accuracies], tuple[Values, Values]] | None = None
    lower_is_better: bool = False
    of_accuracies: bool = False
    shown_with: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()


def shown(asked: Sequence[str]) -> tuple[str, ...]:
    """The names of all scores that are shown where these are asked for, in order."""
    names = [name for score in asked for name in (*SCORES[score].shown_with, score)]
    names += [name for name, score in SCORES.items() if score.follows and set(score.follows) <= set(asked)]
    return tuple(dict.fromkeys(names))


def arms_of(asked: Sequence[str]) -> frozenset[str]:
    """The arms that these scores take."""
    return frozenset(arm for score in asked for arm in SCORES[score].arms)


def _accuracy(arm: Accuracies, weight: float) -> Values:
    return metrics.accuracy(arm["syn-any"])


def _hlr(arm: Accuracies, weight: float) -> Values:
    return metrics.hard_label_recovery(arm["real-hard"], arm["syn-hard"])


def _ior(arm: Accuracies, weight: float) -> Values:
    return metrics.improvement_over_random(arm["syn-any"], arm["rdm-any"])


def _lrs(arm: Accuracies, weight: float) -> Values:
    return metrics.label_robust_score(*(arm[name] for name in _LRS), weight)


def _ars(arm: Accuracies, weight: float) -> Values:
    return metrics.augmentation_robust_score(*(arm[name] for name in _ARS), weight)


def _joint(arm: Accuracies, weight: float) -> Values:
    return metrics.joint(_lrs(arm, weight), _ars(arm, weight))


def _lrs_ends(arm: Accuracies) -> tuple[Values, Values]:
    return -_hlr(arm, 0), _ior(arm, 1)


def _ars_ends(arm: Accuracies) -> tuple[Values, Values]:
    without, with_ = (
        metrics.improvement_over_random(arm[f"syn-{kind}"], arm[f"rdm-{kind}"]) for kind in ("noaug", "aug")
    )
    return without, with_


_LRS = ("real-hard", "syn-hard", "syn-any", "rdm-any")
_ARS = ("syn-aug", "rdm-aug", "syn-noaug", "rdm-noaug")

SCORES: dict[str, Score] = {
    "accuracy": Score(("syn-any",), _accuracy, "accuracy of students of the set", of_accuracies=True),
    "hlr": Score(
        ("real-hard", "syn-hard"),
        _hlr,
        "hard label recovery, lower is better",
        lower_is_better=True,
        of_accuracies=True,
    ),
    "ior": Score(("syn-any", "rdm-any"), _ior, "improvement over random, higher is better", of_accuracies=True),
    "lrs": Score(_LRS, _lrs, "label-robust score, 0 to 1, higher is better", "w", _lrs_ends, shown_with=("hlr", "ior")),
    "ars": Score(_ARS, _ars, "augmentation-robust score, 0 to 1, higher is better", "γ", _ars_ends),
    "joint": Score((*_LRS, *_ARS), _joint, "the mean of LRS and ARS, seed by seed", follows=("lrs", "ars")),
}
