"""Methods side by side: results of like evaluations, ranked, tested pair by pair, and swept over the weight."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ddr_jax.data.files import write_atomically
from ddr_jax.protocols.plain import to_plain
from ddr_jax.results.report import WIDTH
from ddr_jax.results.result import Result, load_result
from ddr_jax.scores import metrics, stability
from ddr_jax.scores.intervals import Interval
from ddr_jax.scores.ranking import POWER, Pair, Ranking, rank
from ddr_jax.types import InputError, nearest

FORMAT = 1
SHOWN_ALONE = ("scores", "key", "interval", "percent", "original_formula")  # settings that change no number compared
PAIRS_SHOWN = 15  # beyond it, the text shows neighbours in rank only; the JSON holds all
WEIGHTS = {"lrs": "w", "ars": "γ"}


@dataclass(frozen=True)
class Method:
    """What is ranked: the mean over `sets` of one result, or one set; `digests` are the sets' in the result's data."""

    name: str
    result: str
    sets: tuple[str, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods M compared over seeds S.

    Attributes:
        methods: (M,).
        scores: by name (M, S), each seed's mean over the method's sets; more is better.
        ends: by ``lrs`` or ``ars``, its α or β by seed (M, S) at weight 0 and at weight 1 (see `stability`).
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
        return {name: rank(values, self.level) for name, values in self.scores.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the methods."""
        return tuple(method.name for method in self.methods)

    def text(self) -> str:
        """Tables as plain text."""
        buffer = io.StringIO()
        Console(file=buffer, width=WIDTH, color_system=None).print(tables(self))
        return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())

    def __str__(self) -> str:
        return self.text()

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data, down to each seed's score; a seed's rows are in the result that a method names."""
        return {
            "format": FORMAT,
            "methods": [
                {"name": m.name, "result": m.result, "sets": list(m.sets), "digests": list(m.digests)}
                for m in self.methods
            ],
            "level": self.level,
            "power": POWER,
            "weight": self.weight,
            "scores": {name: self._score_to_json(name) for name in self.scores},
            "notes": list(self.notes),
        }

    def save(self, path: str | Path) -> None:
        """Writes the comparison as JSON, whole or not at all."""
        text = json.dumps(self.to_json(), indent=1, allow_nan=False)
        write_atomically(Path(path), (text + "\n").encode())

    def _score_to_json(self, score: str) -> dict[str, Any]:
        ranking, means = self.rankings[score], self.rankings[score].means
        ranked = [
            {
                "rank": place + 1,
                "method": self.names[m],
                **means[m].to_json(),
                "groups": ranking.letters[m],
                "seeds": self.scores[score][m].tolist(),
            }
            for place, m in enumerate(ranking.order)
        ]
        pairs = [_pair_to_json(pair, self.names) for pair in ranking.pairs]
        stable = {"stability": self._stability_to_json(score)} if score in self.ends else {}
        return {"ranking": ranked, "pairs": pairs, **stable}

    def _stability_to_json(self, score: str) -> dict[str, Any]:
        start, end = self.ends[score]
        tau = stability.agreement(start, end, reference=self.weight)
        swept = stability.sweep(start, end)
        first = stability.first_between(start, end)
        return {
            "weights": list(stability.WEIGHTS),
            "kendall_tau": [None if np.isnan(t) else float(t) for t in tau],
            "scores": {name: row.tolist() for name, row in zip(self.names, swept, strict=True)},
            "first": {name: where and list(where) for name, where in zip(self.names, first, strict=True)},
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
    return {
        path.stem if stems.count(path.stem) == 1 else str(path.with_suffix("")): load_result(path) for path in paths
    }


def compare_results(
    results: Mapping[str, Result], *, by: str | None = None, may_differ: Sequence[str] = ()
) -> Comparison:
    """Compares the methods of results whose evaluations were alike, by every score that all of them have.

    Args:
        results: by name, such as `load_results` gives.
        by: ``result`` takes each result for a method, its sets averaged within a seed; ``set`` takes each set for
            one. None is by result, and by set where there is a single result.
        may_differ: settings that need not agree, such as ``protocol.labels``; each that does not becomes a note.

    Raises:
        InputError: if results differ in real data or settings, share no score, have one seed, or are one method.
    """
    by = by or ("set" if len(results) == 1 else "result")
    if by not in ("result", "set"):
        raise InputError(f"Unknown by {by!r}: {nearest(by, ('result', 'set'))}")
    if not results:
        raise InputError("There are no results to compare; name two or more, or one of several sets")
    notes = _check_alike(results, may_differ)
    first = next(iter(results.values())).settings
    asked = [s for s in first.scores if all(s in result.settings.scores for result in results.values())]
    if not asked:
        lists = ", ".join(f"{name}: {'+'.join(result.settings.scores)}" for name, result in results.items())
        raise InputError(f"The results share no score ({lists}); evaluate all of them by the same command")
    if first.seeds < 2:
        raise InputError("The results have one seed, which cannot tell methods apart: use --seeds 2 or more")
    methods = [method for name, result in results.items() for method in _methods(name, result, by, len(results))]
    if len(methods) < 2:
        raise InputError("There is one method and nothing to compare it with; name more results, or compare by set")
    ends = {
        score: (_stack(results, by, score, 0), _stack(results, by, score, 1)) for score in asked if score in WEIGHTS
    }
    w = first.weight
    scores = {s: np.asarray(metrics.normalise((1 - w) * start + w * end)) for s, (start, end) in ends.items()}
    if "accuracy" in asked:
        scores["accuracy"] = _stack(results, by, "accuracy", 0)
    if len(ends) == 2:
        scores["joint"] = metrics.joint(scores["lrs"], scores["ars"])
    return Comparison(tuple(methods), scores, ends, w, round(1 - first.level, 12), tuple(notes))


def _methods(name: str, result: Result, by: str, results: int) -> list[Method]:
    names = result.data_names
    digests = tuple(str(entry.get("digest")) for entry in result.data["sets"])
    if by == "result":
        return [Method(name, name, names, digests)]
    return [
        Method(one if results == 1 else f"{name}/{one}", name, (one,), (digest,))
        for one, digest in zip(names, digests, strict=True)
    ]


def _stack(results: Mapping[str, Result], by: str, score: str, end: int) -> np.ndarray:
    """One end of a score's line, of all methods by seed (M, S)."""
    rows = []
    for result in results.values():
        values = _lines(result, score)[end]
        rows.append(values if by == "set" else values.mean(0, keepdims=True))
    return np.concatenate(rows)


def _lines(result: Result, score: str) -> list[np.ndarray]:
    """What a score goes from and to as its weight goes from 0 to 1, by set and seed (D, S) each."""
    arm: dict[str, Any] = {name: reading.accuracy for name, reading in result.readings.items()}
    if score == "accuracy":
        ends = (arm["syn-any"], arm["syn-any"])
    elif score == "lrs":
        known = result.settings.real_accuracy
        recovery = metrics.hard_label_recovery(arm["real-hard"] if known is None else known, arm["syn-hard"])
        ends = (-recovery, metrics.improvement_over_random(arm["syn-any"], arm["rdm-any"]))
    else:
        ends = tuple(metrics.improvement_over_random(arm[f"syn-{x}"], arm[f"rdm-{x}"]) for x in ("noaug", "aug"))
    return list(np.broadcast_arrays(*ends))


def _check_alike(results: Mapping[str, Result], may_differ: Sequence[str]) -> list[str]:
    """Raises InputError where results cannot be compared; gives notes on what else differs."""
    facts = {name: _facts(result) for name, result in results.items()}
    (reference, expected), *others = facts.items()
    for setting in may_differ:
        if setting not in expected or setting.startswith("real data"):
            raise InputError(f"Unknown setting {setting!r} that may differ: {nearest(setting, expected)}")
    notes = []
    for fact, value in expected.items():
        off = next(((name, found[fact]) for name, found in others if found.get(fact) != value), None)
        if off is None:
            continue
        what = f"Results differ in {fact}: {value} in {reference}, {off[1]} in {off[0]}"
        if fact not in may_differ:
            advice = (
                "use the same data" if fact.startswith("real data") else "evaluate them alike, or say it may differ"
            )
            raise InputError(f"{what}; {advice}")
        notes.append(what)
    return notes + _notes(results)


def _facts(result: Result) -> dict[str, Any]:
    """What must be equal: digests of the real data, and settings by name, those of protocols behind a dot."""
    splits = result.data["real"].get("splits", {})
    facts: dict[str, Any] = {
        f"real data, {split}": splits.get(split, {}).get("digest") for split in ("train", "validation", "test")
    }
    for name, value in to_plain(result.settings).items():
        if name in ("protocol", "real_protocol"):
            facts |= {f"{name}.{field}": _plain(entry) for field, entry in value.items()}
        elif name not in SHOWN_ALONE:
            facts[name] = _plain(value)
    return facts


def _plain(value: Any) -> Any:
    """Tuples as lists, as they come back from a file."""
    return json.loads(json.dumps(value))


def _notes(results: Mapping[str, Result]) -> list[str]:
    found = []
    if len({result.settings.key for result in results.values()}) > 1:
        found.append("Keys differ, so a seed's students share nothing: pairing by seed is valid, but gains nothing")
    sizes = {str(entry["images"]) for result in results.values() for entry in result.data["sets"] if "images" in entry}
    if len(sizes) > 1:
        found.append(
            f"Sets differ in size ({', '.join(sorted(sizes, key=int))} images), and larger ones have it easier"
        )
    lost = {name: result.diverged for name, result in results.items() if result.diverged}
    if lost:
        listed = ", ".join(f"{count} of {name}" for name, count in lost.items())
        found.append(f"Students diverged ({listed}); their accuracies count as measured")
    if any(result.settings.protocol.readout == "best" for result in results.values()):
        found.append(
            "Epochs and rates were chosen on the test set: accuracies are too high, not all by the same amount"
        )
    return found


def tables(comparison: Comparison) -> Group:
    """For each score a ranking and its pairs; the stability of those that have a weight; notes."""
    parts: list[Any] = []
    for score in comparison.scores:
        parts += [_ranking_table(comparison, score), _pairs_table(comparison, score), Text()]
    if comparison.ends:
        parts += [_stability_table(comparison), Text()]
    return Group(*parts, *(Text(note, style="yellow") for note in (*comparison.notes, *_explain(comparison))))


def _explain(comparison: Comparison) -> Iterator[str]:
    yield (
        "Methods that share a letter cannot be told apart: paired t-tests over seeds, corrected by Holm for all pairs "
        f"of a score, level {comparison.level:g}. Intervals are each row's alone."
    )
    yield "Intervals and tests speak of other seeds, on these sets and these test images."
    yield (
        "chance: of the better one scoring higher on a new seed, with its interval. seeds: how many would tell a pair "
        f"apart, in {POWER:.0%} of trials, if it differs as observed."
    )
    if "joint" in comparison.scores:
        yield "JOINT is the mean of LRS and ARS, seed by seed."


def _ranking_table(comparison: Comparison, score: str) -> Table:
    ranking, means = comparison.rankings[score], comparison.rankings[score].means
    letter = WEIGHTS.get(score)
    title = score.upper() + (f" at {letter} = {comparison.weight:g}" if letter else "")
    first = stability.first_between(*comparison.ends[score]) if letter else None
    covered = f"{1 - comparison.level:.0%} interval"
    columns = ("rank", "method", "mean", covered, "n", "group", *((f"first for {letter} in",) if letter else ()))
    table = _table(title, columns)
    for place, m in enumerate(ranking.order):
        cells = [str(place + 1), comparison.names[m], f"{means[m].mean:.4f}", _span(means[m])]
        cells += [str(means[m].n), ranking.letters[m]]
        if first is not None:
            where = first[m]
            cells.append("–" if where is None else f"{where[0]:.3f} … {where[1]:.3f}")
        table.add_row(*map(Text, cells))
    return table


def _pairs_table(comparison: Comparison, score: str) -> Table:
    ranking, names = comparison.rankings[score], comparison.names
    pairs, neighbours = ranking.pairs, set(zip(ranking.order, ranking.order[1:], strict=False))
    few = len(pairs) <= PAIRS_SHOWN
    title = f"{score.upper()}, " + ("pairs" if few else f"neighbours in rank, of {len(pairs)} pairs")
    columns = ("better", "worse", "difference", f"{1 - comparison.level:.0%} interval", "p", "p (Holm)", "distinct")
    table = _table(title, (*columns, "chance", "seeds"))
    for pair in pairs:
        if few or (pair.better, pair.worse) in neighbours:
            cells = (
                *(names[pair.better], names[pair.worse], f"{pair.difference.mean:.4f}"),
                *(_span(pair.difference), _p_value(pair.p), _p_value(pair.adjusted)),
                "yes" if pair.distinct else "no",
                f"{pair.chance.value:.2f} ({pair.chance.low:.2f} … {pair.chance.high:.2f})",
                "–" if pair.seeds is None else str(pair.seeds),
            )
            table.add_row(*map(Text, cells))
    return table


def _stability_table(comparison: Comparison) -> Table:
    title = f"Kendall's τ between the ranking at each weight and that at {comparison.weight:g}"
    table = _table(title, ("score", *(f"{weight:g}" for weight in stability.WEIGHTS)))
    for score, (start, end) in comparison.ends.items():
        tau = stability.agreement(start, end, reference=comparison.weight)
        table.add_row(f"{score.upper()}, {WEIGHTS[score]}", *("–" if np.isnan(t) else f"{t:.2f}" for t in tau))
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        left = column in ("method", "better", "worse", "group", "distinct", "score")
        table.add_column(column, justify="left" if left else "right", no_wrap=not left)
    return table


def _p_value(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _span(interval: Interval) -> str:
    return f"{interval.low:.4f} … {interval.high:.4f}"


def _pair_to_json(pair: Pair, names: Sequence[str]) -> dict[str, Any]:
    chance = pair.chance
    return {
        "better": names[pair.better],
        "worse": names[pair.worse],
        "difference": pair.difference.to_json(),
        "p": pair.p,
        "p_holm": pair.adjusted,
        "distinct": pair.distinct,
        "chance": {"value": float(chance.value), "low": float(chance.low), "high": float(chance.high)},
        "seeds_to_separate": pair.seeds,
    }
