"""Ranks distilled sets among coresets of their size, by LRS, ARS and both, with groups and stability.

Commands:  python experiments/ranking/rank.py
           python experiments/ranking/rank.py --real FOLDER --distilled SET.npz --real-epochs 1 --real-lr 0.1
           (sets tell the images per class; --ipc does where none is given)
Gives:     OUT/ranking.txt and .json, and with --report FILE.md the text under how it was made; OUT/results/METHOD.json,
           with every student: `ddr-jax compare OUT/results/*.json` makes the same ranking; OUT/sets/METHOD.npz, the
           coresets; OUT/store, by which the command goes on where it was stopped

Protocol of `ddr-jax demo`: hard labels, DSA, a grid of three rates chosen on a validation split. Coresets are chosen
from what is left of train, in the features of a teacher that never saw that split either; a method that draws at random
gives several sets, and a seed's score is the mean over them. All methods share seeds, real-hard and random students.
"""

from __future__ import annotations

import argparse
import resource
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

import ddr_jax as ddr
from ddr_jax import nets
from ddr_jax.data import baselines
from ddr_jax.data.datasets import with_validation
from ddr_jax.data.distilled import prepare
from ddr_jax.protocols import demo
from ddr_jax.protocols.augmentations import augmentation
from ddr_jax.protocols.protocol import real as real_protocol
from ddr_jax.results.comparison import compare_results
from ddr_jax.scores.readout import read
from ddr_jax.train import teachers
from ddr_jax.train.arms import Arm, TrainingSet, train_arms
from ddr_jax.types import DistilledSets, RealData

KEY = 0


def chosen_settings(real: RealData, options: argparse.Namespace) -> ddr.Settings:
    given = {"epochs": options.epochs, "lr": tuple(options.lr)}
    protocol = replace(demo.PROTOCOL, **given, augment=augmentation("dsa", real.flips))
    of_real = replace(real_protocol(protocol, options.real_epochs), lr=tuple(options.real_lr or options.lr))
    return ddr.Settings(("lrs", "ars"), protocol, of_real, seeds=options.seeds)


def teacher_features(real: RealData, settings: ddr.Settings, runner: ddr.Runner) -> np.ndarray:
    """Features (N, F) of the first real-hard student, which the scores then find in the store."""
    protocol = settings.real_protocol
    data = TrainingSet(real.name, real.train.images, np.eye(real.num_classes, dtype=np.float32)[real.train.labels])
    finished = train_arms(
        [Arm("teacher", protocol, ((data,),), keep=True)], real, key=jax.random.key(KEY), runner=runner
    )
    table = finished.tables["teacher"]
    rate = read(table, protocol.readout).rate[0, 0]
    net = nets.build(protocol.student, width=protocol.width, num_classes=real.num_classes)
    return teachers.features(net, finished.weights[table.students[0, rate, 0]], real.train.images)


def save_coresets(
    real: RealData, counts: np.ndarray, features: np.ndarray, draws: int, folder: Path
) -> dict[str, DistilledSets]:
    """Every baseline as a distilled set, of several runs where it varies with the generator."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, baseline in baselines.BASELINES.items():
        runs = range(draws if name in baselines.VARYING else 1)
        each = [baseline(real, counts, features, np.random.default_rng((KEY, run))) for run in runs]
        images, labels = map(np.stack, zip(*each, strict=True))
        ddr.save_distilled(
            folder / f"{name}.npz", images, labels, space="normalised", mean=real.space.mean, std=real.space.std
        )
    return {name: prepare(ddr.load_distilled(folder / f"{name}.npz"), real) for name in baselines.BASELINES}


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", default="digits", help="a dataset's name, .npz or folder")
    parser.add_argument("--distilled", type=Path, nargs="*", default=[], help="sets to rank; digits: the bundled one")
    parser.add_argument("--ipc", type=int, default=10, help="images per class, where no distilled set tells")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=3, help="sets of each method that draws at random")
    parser.add_argument("--epochs", type=int, default=demo.PROTOCOL.epochs, help="of students of the sets")
    parser.add_argument("--lr", type=float, nargs="+", default=demo.PROTOCOL.lr, help="the grid of every arm")
    parser.add_argument("--real-lr", type=float, nargs="+", help="the grid of real-hard students, if another")
    parser.add_argument("--real-epochs", type=int, default=demo.REAL_EPOCHS, help="of real-hard students")
    parser.add_argument("--out", type=Path, default=Path("ranking"), help="a folder")
    parser.add_argument("--report", type=Path, help="also write the ranking there, as Markdown")
    return parser.parse_args()


def written_up(
    ranking: str, results: dict[str, ddr.Result], real: RealData, settings: ddr.Settings, seconds: float
) -> str:
    """The ranking under the command that made it, and what that took."""
    students = len({row["student"] for result in results.values() for row in result.rows()})
    protocol, of_real = settings.protocol, settings.real_protocol
    command = shlex.join([str(Path(sys.argv[0])), *sys.argv[1:]])
    used = resource.getrusage(resource.RUSAGE_SELF).ru_utime / 60
    return f"""# Methods ranked on {real.name}

Made by `python {command}`
on {jax.device_count()} × {jax.devices()[0].device_kind}, JAX {jax.__version__}, in {seconds / 60:.0f} minutes \
({used:.1f} CPU-minutes); {students} students.
{protocol.student} of width {protocol.width}, {protocol.epochs} epochs, rates {_listed(protocol.lr)}; \
real-hard: {of_real.epochs} epochs, rates {_listed(of_real.lr)}.
{_twins(results)}
```
{ranking}
```
"""


def _twins(results: dict[str, ddr.Result]) -> str:
    """Which methods chose the same images, as the nearest to a class's mean at one image per class."""
    methods: dict[tuple[str, ...], list[str]] = {}
    for name, result in results.items():
        methods.setdefault(tuple(each["digest"] for each in result.data["sets"]), []).append(name)
    return "".join(
        f"\n{', '.join(names)} are one and the same set; the correction for many comparisons counts it each time.\n"
        for names in methods.values()
        if len(names) > 1
    )


def _listed(rates: tuple[float, ...]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)


def main() -> None:
    options, began = read_options(), time.perf_counter()
    ddr.use_cpu_cores(2)
    real = with_validation(ddr.load_dataset(options.real))
    settings = chosen_settings(real, options)
    runner = ddr.Runner(ddr.Store(options.out / "store"))
    files = options.distilled or ([demo.SET] if options.real == "digits" else [])
    methods = {path.stem: prepare(ddr.load_distilled(path), real) for path in files}
    counts = np.full(real.num_classes, options.ipc)
    for sets in methods.values():
        counts = np.bincount(sets.labels[0], minlength=real.num_classes)
    features = teacher_features(real, settings, runner)
    methods |= save_coresets(real, counts, features, options.draws, options.out / "sets")
    results = {}
    for name, sets in methods.items():
        results[name] = ddr.score(sets, real, settings, key=jax.random.key(KEY), runner=runner)
        results[name].save(options.out / "results" / f"{name}.json")
        print(f"saved {options.out / 'results' / name}.json", flush=True)
    comparison = compare_results(results)
    comparison.save(options.out / "ranking.json")
    (options.out / "ranking.txt").write_text(f"{comparison}\n")
    print(comparison)
    if options.report:
        text = written_up(str(comparison), results, real, settings, time.perf_counter() - began)
        options.report.write_text(text)


if __name__ == "__main__":
    main()
