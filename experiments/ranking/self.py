"""Compares a method with itself under other seeds: how often is it called better?

Command:   python experiments/ranking/self.py [--report experiments/ranking/self.md]
Time:      3 CPU-minutes
Expected:  better in at most 2 of 20 repetitions: here 0 by LRS, 1 by ARS, 1 by both; the level of 5 % says 1 of 20

The digits' bundled set by the demonstration's students, with one rate and fewer epochs. Every repetition takes two keys
of its own, so that no student, weight or random draw is shared, and compares 5 seeds of either by `compare_results`,
as two results of two methods would be: by LRS, ARS and the mean of both. Nothing is drawn again.
"""

from __future__ import annotations

import argparse
import resource
from dataclasses import replace
from pathlib import Path

import jax

import ddr_jax as ddr
from ddr_jax.protocols import demo
from ddr_jax.protocols.protocol import real as real_protocol
from ddr_jax.results.comparison import Comparison, compare_results

KEY, REPETITIONS, SEEDS = 0, 20, 5
PROTOCOL = replace(demo.PROTOCOL, width=16, epochs=60, lr=(0.3,))


def repetition(number: int, real, sets) -> Comparison:
    keys = jax.random.split(jax.random.fold_in(jax.random.key(KEY), number))
    options = {"real_protocol": real_protocol(PROTOCOL, 10), "seeds": SEEDS}
    results = [ddr.score(sets, real, PROTOCOL, ("lrs", "ars"), key=key, **options) for key in keys]
    return compare_results(dict(zip(("first", "second"), results, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, help="also write the table there, as Markdown")
    options = parser.parse_args()
    ddr.use_cpu_cores(2)
    real = ddr.load_dataset("digits")
    sets = demo.distilled_set()
    rows, better = [], {}
    for number in range(REPETITIONS):
        rankings = repetition(number, real, sets).rankings
        pairs = {score: ranking.pairs[0] for score, ranking in rankings.items()}
        for score, pair in pairs.items():
            better[score] = better.get(score, 0) + pair.distinct
        cells = (f"{pair.difference.mean:.4f} (p {pair.p:.3f})" for pair in pairs.values())
        rows.append(f"| {number + 1} | " + " | ".join(cells) + " |")
        print(rows[-1], flush=True)
    text = table(rows, better)
    print(text)
    if options.report:
        options.report.write_text(text)


def table(rows: list[str], better: dict[str, int]) -> str:
    """The report as Markdown."""
    minutes = resource.getrusage(resource.RUSAGE_SELF).ru_utime / 60
    found = ", ".join(f"{count} of {REPETITIONS} by {score.upper()}" for score, count in better.items())
    head = ["repetition", *(f"{score.upper()}, difference" for score in better)]
    return "\n".join(
        [
            "# A method compared with itself",
            "",
            f"Made by `python experiments/ranking/self.py` in {minutes:.1f} CPU-minutes, key {KEY}, {SEEDS} seeds.",
            "",
            f"One and the same set is called better than itself in **{found}** repetitions (level 5 %).",
            "",
            "| " + " | ".join(head) + " |",
            "|" + " --- |" * len(head),
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
