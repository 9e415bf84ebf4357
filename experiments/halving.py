"""How often halving chooses the rate that the full grid chooses, what its choice costs, and what it saves.

Command:   python experiments/halving.py [--report experiments/halving.md]
Time:      2 CPU-minutes
Expected:  the same rate in 39 of 40 arms; 9 % of the work saved: of five rates the better half is three, and two arms
           keep the rates of both (one arm alone would save 15 %, of eight rates 25 %)

`Settings.halving` tries the whole grid for a quarter of the epochs and trains the better half, by validation accuracy,
in full. Here both are run on the digits: 20 sets of real images, 1, 2, 5 and 10 per class and five draws of each, every
set with a key of its own; an LRS with a known real-hard accuracy, so that the grid is of two arms, the set's and the
random baseline's, which keep each other's better halves. Savings are in images trained on, as trainings are that long.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

import ddr_jax as ddr
from ddr_jax.data import datasets
from ddr_jax.protocols.augmentations import augmentation
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.rates import FRACTION
from ddr_jax.types import RealData

SIZES, DRAWS, SEEDS = (1, 2, 5, 10), 5, 3
RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
PROTOCOL = Protocol("ConvNet-2", width=16, epochs=100, lr=RATES, augment=augmentation("dsa", flips=False))
ARMS = ("syn-any", "rdm-any")


@dataclass(frozen=True)
class Trial:
    """One arm's choice by the full grid and by halving: rates, their test accuracies, and the rates that were kept."""

    size: int
    arm: str
    full: float
    halved: float
    lost: float
    kept: int


def trials(real: RealData, size: int, draw: int, store: Path) -> list[Trial]:
    """Both choices of both arms for one set."""
    index = datasets.random_subset(real.train, np.full(real.num_classes, size), np.random.default_rng([size, draw]))
    images = ddr.Distilled(f"{size} per class, draw {draw}", real.train.images[index], real.train.labels[index])
    images = replace(images, space="normalised", layout="NHWC")
    key = jax.random.fold_in(jax.random.key(size), draw)
    full, halved = (
        ddr.label_robust_score(
            images, real, PROTOCOL, real_accuracy=0.99, seeds=SEEDS, halving=halving, key=key, store=store
        )
        for halving in (False, True)
    )
    found = []
    for arm in ARMS:
        by_full, by_halving = (result.choices[arm][0].chosen.lr for result in (full, halved))
        lost = full.accuracies[arm].overall.mean - halved.accuracies[arm].overall.mean
        found.append(Trial(size, arm, by_full, by_halving, float(lost), len(halved.tables[arm].lrs)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, help="also write the table there, as Markdown")
    options = parser.parse_args()
    ddr.use_cpu_cores(2)
    real, found = ddr.load_dataset("digits"), []
    with tempfile.TemporaryDirectory(prefix="halving-") as folder:
        for size in SIZES:
            for draw in range(DRAWS):
                found += trials(real, size, draw, Path(folder))
                print(*found[-len(ARMS) :], sep="\n", flush=True)
    text = table(found)
    print(text)
    if options.report:
        options.report.write_text(text)


def table(found: list[Trial]) -> str:
    """The report as Markdown."""
    minutes = resource.getrusage(resource.RUSAGE_SELF).ru_utime / 60
    rates = ", ".join(f"{rate:g}" for rate in RATES)
    text = f"""# Halving beside the full grid

Made by `python experiments/halving.py` in {minutes:.1f} CPU-minutes.
Digits, {PROTOCOL.student} of width {PROTOCOL.width}, {PROTOCOL.epochs} epochs with DSA, {SEEDS} seeds, rates {rates}.
Accuracies in points; work in images trained on, of the full grid's.

| images per class | arms | same rate | neighbouring rate | accuracy lost, mean | at most | work |
| --- | --- | --- | --- | --- | --- | --- |
"""
    groups = [(str(size), [trial for trial in found if trial.size == size]) for size in SIZES]
    rows = [_row(name, group) for name, group in [*groups, ("all", found)]]
    return text + "\n".join(rows) + "\n"


def _row(name: str, group: list[Trial]) -> str:
    apart = np.array([abs(RATES.index(trial.full) - RATES.index(trial.halved)) for trial in group])
    lost = 100 * np.array([trial.lost for trial in group])
    work = np.mean([1 / FRACTION + trial.kept / len(RATES) for trial in group])
    cells = (name, len(group), f"{(apart == 0).sum()}", f"{(apart == 1).sum()}", f"{lost.mean():.2f}")
    return "| " + " | ".join(map(str, (*cells, f"{lost.max():.2f}", f"{work:.0%}"))) + " |"


if __name__ == "__main__":
    main()
