"""The table of scores: what each score takes, what it makes of that, and how it is shown.

Whoever computes, compares, prints or asks for scores reads this table. A new score is a row of `SCORES`, and a builder
in `evaluate.ARMS` for each arm that is new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ddr_jax.scores import metrics

ORIGINAL = "_of_percentages"


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        takes: names of arms, whose accuracies (fractions) it takes, or of scores, which are shown before it.
        of: from these, in this order and of shapes that broadcast, to its values; of a score with a weight, to two
            arrays, its α or β at weight 0 and at weight 1 (see `metrics.weighted`).
        meaning: what it is, in a line.
        letter: of its weight, w or γ; empty where it has none.
        lower_is_better: whether the set with the lower value is the better one.
        of_accuracies: an accuracy or a difference of accuracies, which may be shown as a percentage.
        implied: shown wherever all scores that it takes are asked for.
    """

    takes: tuple[str, ...]
    of: Callable[..., Any]
    meaning: str
    letter: str = ""
    lower_is_better: bool = False
    of_accuracies: bool = False
    implied: bool = False

    def made_of(self, known: Mapping[str, Any]) -> Any:
        """What `of` makes, given accuracies and scores by name."""
        return self.of(*(known[name] for name in self.takes))


SCORES: dict[str, Score] = {
    "accuracy": Score(("syn-any",), metrics.accuracy, "accuracy of students of the set", of_accuracies=True),
    "hlr": Score(
        ("real-hard", "syn-hard"),
        metrics.hard_label_recovery,
        "hard label recovery, lower is better",
        lower_is_better=True,
        of_accuracies=True,
    ),
    "ior": Score(
        ("syn-any", "rdm-any"),
        metrics.improvement_over_random,
        "improvement over random, higher is better",
        of_accuracies=True,
    ),
    "lrs": Score(("hlr", "ior"), metrics.alpha, "label-robust score, 0 to 1, higher is better", letter="w"),
    "ars": Score(
        ("syn-aug", "rdm-aug", "syn-noaug", "rdm-noaug"),
        metrics.beta,
        "augmentation-robust score, 0 to 1, higher is better",
        letter="γ",
    ),
    "joint": Score(("lrs", "ars"), metrics.joint, "the mean of LRS and ARS, seed by seed", implied=True),
}


def with_implied(asked: Sequence[str]) -> list[str]:
    """The scores that were asked for, and those that are implied by them."""
    return [*asked, *(name for name, score in SCORES.items() if score.implied and set(score.takes) <= set(asked))]


def shown(asked: Sequence[str], original_formula: bool = False) -> dict[str, Score]:
    """All scores that are shown where these are asked for, by name, each after the scores that it takes.

    With `original_formula`, also what ddranking 0.2.0 prints for each score with a weight.
    """
    rows = {each: SCORES[each] for name in with_implied(asked) for each in _with_parts(name)}
    originals = [name for name, score in rows.items() if score.letter] if original_formula else []
    return rows | {name + ORIGINAL: _original(name) for name in originals}


def arms_of(asked: Sequence[str]) -> frozenset[str]:
    """The arms whose accuracies these scores take."""
    return frozenset(name for score in shown(asked).values() for name in score.takes if name not in SCORES)


def values(rows: Mapping[str, Score], accuracies: dict[str, Any], weight: float) -> dict[str, np.ndarray]:
    """The values of the scores that `shown` gave, of accuracies by arm: arrays of fractions that broadcast."""
    found: dict[str, np.ndarray] = {}
    for name, score in rows.items():
        made = score.made_of(accuracies | found)
        found[name] = np.asarray(metrics.weighted(made[0], made[1], weight) if score.letter else made)
    return found


def title(name: str) -> str:
    """A score's name as it is shown."""
    return name.removesuffix(ORIGINAL).upper() + (" of 0.2.0" if name.endswith(ORIGINAL) else "")


def _with_parts(name: str) -> list[str]:
    parts = (part for part in SCORES[name].takes if part in SCORES)
    return [*(each for part in parts for each in _with_parts(part)), name]


def _original(name: str) -> Score:
    meaning = f"what ddranking 0.2.0 prints as {title(name)}: its formula takes percentages"
    return Score((name,), metrics.of_percentages, meaning)
