"""Methods side by side: results of evaluations with equal settings, ranked, tested in pairs, and over all weights."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ddr_jax.protocols.plain import to_plain, verify
from ddr_jax.results.render import Document, Part, cells, note, number, table
from ddr_jax.results.result import Result, load_result
from ddr_jax.scores import ranking
from ddr_jax.scores.ranking import POWER, Pair, Ranking
from ddr_jax.scores.table import SCORES, arms_of, shown, title, values, with_implied
from ddr_jax.types import InputError

FORMAT = 1
SPLITS, PROTOCOLS = ("train", "validation", "test"), ("protocol", "real_protocol")
SHOWN_ALONE = ("scores", "key", "interval", "percent", "original_formula")  # settings that change no number compared
PAIRS_SHOWN = 15  # beyond it, the text shows neighbours in rank only; the JSON holds all


@dataclass(frozen=True)
class Method:
    """What is ranked: the mean over `sets` of one result, or one set; `digests` are the sets' in the result's data."""

    name: str
    result: str
    sets: tuple[str, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Comparison(Document):
    """Methods M compared over seeds S.

    Attributes:
        methods: (M,).
        scores: by name (M, S), of each seed's accuracies, averaged over the method's sets.
        ends: by score with a weight, its α or β by seed (M, S) at weight 0 and at weight 1.
        weight: the w and γ of `scores`.
        level: of the tests of one score, all pairs together; intervals cover 1 − level.
        notes: what a reader must know besides the numbers.
    """

    methods: tuple[Method, ...]
    scores: dict[str, np.ndarray]
    ends: dict[str, tuple[np.ndarray, np.ndarray]]
    weight: float
    level: float
    notes: tuple[str, ...]

    @functools.cached_property
    def rankings(self) -> dict[str, Ranking]:
        """By score."""
        return {
            name: ranking.rank(found, self.level, lower_is_better=SCORES[name].lower_is_better)
            for name, found in self.scores.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Of the methods."""
        return tuple(method.name for method in self.methods)

    def first(self, score: str) -> tuple[tuple[float, float] | None, ...]:
        """For each method, between which weights it is the best (see `ranking.first_between`)."""
        sign = -1 if SCORES[score].lower_is_better else 1
        return ranking.first_between(*(sign * end for end in self.ends[score]))

    def agreement(self, score: str) -> list[float | None]:
        """Kendall's τ between the ranking at each of `ranking.WEIGHTS` and that at `weight`; None where undefined."""
        tau = ranking.agreement(*self.ends[score], reference=self.weight)
        return [None if np.isnan(t) else float(t) for t in tau]

    def parts(self) -> Iterator[Part]:
        """For each score a ranking and its pairs; over all weights those that have a weight; notes."""
        for score in self.scores:
            yield _ranking_table(self, score)
            yield _pairs_table(self, score)
        if self.ends:
            yield _weights_table(self)
        yield from map(note, (*self.notes, *_explain(self)))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data, down to each seed's score; a seed's rows are in the result that a method names."""
        return {
            "format": FORMAT,
            "methods": [asdict(method) for method in self.methods],
            "level": self.level,
            "power": POWER,
            "weight": self.weight,
            "scores": {name: self._score_to_json(name) for name in self.scores},
            "notes": list(self.notes),
        }

    def _score_to_json(self, score: str) -> dict[str, Any]:
        ranked = self.rankings[score]
        rows = [
            {
                "rank": place + 1,
                "method": self.names[m],
                **ranked.means[m].to_json(),
                "groups": ranked.letters[m],
                "seeds": self.scores[score][m].tolist(),
            }
            for place, m in enumerate(ranked.order)
        ]
        pairs = [
            asdict(pair) | {"better": self.names[pair.better], "worse": self.names[pair.worse]} for pair in ranked.pairs
        ]
        stable = {"stability": self._weights_to_json(score)} if score in self.ends else {}
        return {"ranking": rows, "pairs": pairs, **stable}

    def _weights_to_json(self, score: str) -> dict[str, Any]:
        scores = ranking.over_weights(*self.ends[score])
        return {
            "weights": list(ranking.WEIGHTS),
            "kendall_tau": self.agreement(score),
            "scores": {name: row.tolist() for name, row in zip(self.names, scores, strict=True)},
            "first": {name: where and list(where) for name, where in zip(self.names, self.first(score), strict=True)},
        }


def load_results(*paths: str | Path) -> dict[str, Result]:
    """Results by the names of their files, without .json where that tells them apart.

    Raises:
        InputError: if a path is given twice, is missing or is no result.
    """
    paths = tuple(Path(path) for path in paths)
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError("A result is named twice; name each file once")
    stems = [path.stem for path in paths]
    names = (path.stem if stems.count(path.stem) == 1 else str(path.with_suffix("")) for path in paths)
    return dict(zip(names, map(load_result, paths), strict=True))


def compare_results(
    results: Mapping[str, Result], *, by: str | None = None, may_differ: Sequence[str] = ()
) -> Comparison:
    """Compares the methods of results that were evaluated by the same settings, by every score that all of them have.

    Args:
        results: by name, such as `load_results` gives.
        by: ``result`` takes each result for a method, its sets averaged within a seed; ``set`` takes each set for
            one. None is by result, and by set where there is a single result.
        may_differ: settings that need not agree, such as ``protocol.labels``; each that does not becomes a note.

    Raises:
        InputError: if results differ in real data or settings, share no score, have one seed, or are one method.
    """
    by = by or ("set" if len(results) == 1 else "result")
    verify("by", Literal["result", "set"], by)
    methods = [method for name, result in results.items() for method in _methods(name, result, by, len(results))]
    if len(methods) < 2:
        raise InputError("There are not two methods to compare; name more results, or compare by set")
    notes = _check_alike(results, may_differ)
    asked, settings = _shared_scores(results), next(iter(results.values())).settings
    if settings.seeds < 2:
        raise InputError("The results have one seed, which cannot tell methods apart: use --seeds 2 or more")
    rows, accuracies = shown(asked), {arm: _accuracies(results, by, arm) for arm in arms_of(asked)}
    found = values(rows, accuracies, settings.weight)
    compared = dict.fromkeys(with_implied(asked))
    return Comparison(
        methods=tuple(methods),
        scores={name: found[name] for name in compared},
        ends={name: rows[name].made_of(accuracies | found) for name in compared if rows[name].letter},
        weight=settings.weight,
        level=round(1 - settings.level, 12),
        notes=tuple(notes),
    )


def _shared_scores(results: Mapping[str, Result]) -> list[str]:
    asked = {name: result.settings.scores for name, result in results.items()}
    shared = [score for score in next(iter(asked.values())) if all(score in scores for scores in asked.values())]
    if not shared:
        lists = ", ".join(f"{name}: {'+'.join(scores)}" for name, scores in asked.items())
        raise InputError(f"The results share no score ({lists}); evaluate all of them by the same command")
    return shared


def _methods(name: str, result: Result, by: str, results: int) -> list[Method]:
    names = result.data_names
    digests = tuple(str(entry.get("digest")) for entry in result.data["sets"])
    if by == "result":
        return [Method(name, name, names, digests)]
    return [
        Method(one if results == 1 else f"{name}/{one}", name, (one,), (digest,))
        for one, digest in zip(names, digests, strict=True)
    ]


def _accuracies(results: Mapping[str, Result], by: str, arm: str) -> np.ndarray:
    """One arm's accuracies, of all methods by seed (M, S)."""
    taken = [result.taken[arm] for result in results.values()]
    return np.concatenate(taken if by == "set" else [each.mean(0, keepdims=True) for each in taken])


def _check_alike(results: Mapping[str, Result], may_differ: Sequence[str]) -> list[str]:
    """Raises InputError where results cannot be compared; gives notes on what else differs."""
    facts = {name: _facts(result) for name, result in results.items()}
    reference, expected = next(iter(facts.items()))
    settings = Literal[tuple(fact for fact in expected if not fact.startswith("real data"))]
    verify("setting that may differ", tuple[settings, ...], tuple(may_differ))
    notes = []
    for fact, value in expected.items():
        other = next((name for name, found in facts.items() if found[fact] != value), None)
        if other is None:
            continue
        what = f"Results differ in {fact}: {value} in {reference}, {facts[other][fact]} in {other}"
        if fact not in may_differ:
            data = fact.startswith("real data")
            advice = "use the same data" if data else "evaluate them by the same settings, or say that it may differ"
            raise InputError(f"{what}; {advice}")
        notes.append(what)
    return notes + list(_notes(results))


def _facts(result: Result) -> dict[str, Any]:
    """What must be equal: digests of the real data, and settings by name, those of protocols behind a dot."""
    splits, settings = result.data["real"]["splits"], to_plain(result.settings)
    digests = {f"real data, {split}": splits.get(split, {}).get("digest") for split in SPLITS}
    protocols = {f"{name}.{field}": entry for name in PROTOCOLS for field, entry in settings.pop(name).items()}
    return digests | protocols | {name: value for name, value in settings.items() if name not in SHOWN_ALONE}


def _notes(results: Mapping[str, Result]) -> Iterator[str]:
    if len({result.settings.key for result in results.values()}) > 1:
        yield "Keys differ, so a seed's students share nothing: pairing by seed is valid, but gains nothing"
    sizes = {entry["images"] for result in results.values() for entry in result.data["sets"] if "images" in entry}
    if len(sizes) > 1:
        yield f"Sets differ in size ({', '.join(map(str, sorted(sizes)))} images), and larger ones have it easier"
    lost = [f"{result.diverged} of {name}" for name, result in results.items() if result.diverged]
    if lost:
        yield f"Students diverged ({', '.join(lost)}); their accuracies count as measured"
    if any(result.settings.protocol.readout == "best" for result in results.values()):
        yield "Epochs and rates were chosen on the test set: accuracies are too high, not all by the same amount"


def _explain(comparison: Comparison) -> Iterator[str]:
    tests = f"paired t-tests over seeds, corrected by Holm for all pairs of a score, level {comparison.level:g}"
    yield f"Methods that share a letter cannot be told apart: {tests}. Intervals are each row's alone."
    yield "Intervals and tests are about other seeds, on these sets and these test images."
    yield "chance: that the better method scores better on a new seed, with its interval."
    yield f"seeds: how many would tell a pair apart in {POWER:.0%} of trials, if it differs as observed."


def _ranking_table(comparison: Comparison, score: str) -> Part:
    ranked, row = comparison.rankings[score], SCORES[score]
    at, head, where = "", (), [()] * len(ranked.order)
    if row.letter:
        at, head = f" at {row.letter} = {comparison.weight:g}", (f"first for {row.letter} in",)
        where = [("–" if each is None else f"{each[0]:.3f} … {each[1]:.3f}",) for each in comparison.first(score)]
    rows = (
        (str(place + 1), comparison.names[m], *cells(ranked.means[m]), ranked.letters[m], *where[m])
        for place, m in enumerate(ranked.order)
    )
    columns = ("rank", "method", "mean", f"{1 - comparison.level:.0%} interval", "n", "group", *head)
    return table(f"{title(score)}{at}: {row.meaning}", columns, rows)


def _pairs_table(comparison: Comparison, score: str) -> Part:
    order, pairs = comparison.rankings[score].order, comparison.rankings[score].pairs
    what, named = "pairs", pairs
    if len(pairs) > PAIRS_SHOWN:
        what, neighbours = f"neighbours in rank, of {len(pairs)} pairs", set(itertools.pairwise(order))
        named = [pair for pair in pairs if (pair.better, pair.worse) in neighbours]
    level = f"{1 - comparison.level:.0%} interval"
    columns = ("better", "worse", "difference", level, "p", "p (Holm)", "distinct", "chance", "seeds")
    return table(f"{title(score)}, {what}", columns, (_pair_cells(pair, comparison.names) for pair in named))


def _pair_cells(pair: Pair, names: Sequence[str]) -> tuple[str, ...]:
    difference = cells(pair.difference)[:2]
    p_values = ("<0.0001" if p < 0.0001 else number(p) for p in (pair.p, pair.p_holm))
    chance = f"{pair.chance.value:.2f} ({pair.chance.low:.2f} … {pair.chance.high:.2f})"
    told, seeds = "yes" if pair.distinct else "no", str(pair.seeds_to_separate or "–")
    return names[pair.better], names[pair.worse], *difference, *p_values, told, chance, seeds


def _weights_table(comparison: Comparison) -> Part:
    def row(score: str) -> tuple[str, ...]:
        tau = ("–" if t is None else f"{t:.2f}" for t in comparison.agreement(score))
        return f"{title(score)}, {SCORES[score].letter}", *tau

    head = f"Kendall's τ between the ranking at each weight and that at {comparison.weight:g}"
    return table(head, ("score", *(f"{weight:g}" for weight in ranking.WEIGHTS)), map(row, comparison.ends))
