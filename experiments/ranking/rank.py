"""Ranks distilled sets among coresets of their size, by LRS, ARS and both, with groups and stability.

Command:   python experiments/ranking/rank.py [LIST.toml] [--out FOLDER] [--report FILE.md]
Lists:     digits.toml, fashion_mnist_ipc1.toml, fashion_mnist_ipc10.toml, of `ddr-jax sweep`; a line may say
           coreset = "herding", with ipc and draws, in place of set = FILE
Gives:     OUT/ranking.txt and .json, and with --report the text under how it was made; OUT/results/METHOD.json, with
           every student: `ddr-jax compare OUT/results/*.json` makes the same ranking; OUT/sets/METHOD.npz, the
           coresets. The command goes on where it was stopped.

Protocol of `ddr-jax demo`: hard labels, DSA, a grid of rates chosen on a validation split. Coresets are chosen from
what is left of train, in the features of a teacher that never saw that split either; a method that draws at random
gives several sets, and a seed's score is the mean over them. All methods share seeds, real-hard and random students.
"""

from __future__ import annotations

import resource
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro

import ddr_jax as ddr
from ddr_jax import sweep
from ddr_jax.cli import main as cli
from ddr_jax.data import baselines
from ddr_jax.data.datasets import with_validation
from ddr_jax.data.distilled import prepare
from ddr_jax.protocols.plain import COUNT
from ddr_jax.results.comparison import compare_results
from ddr_jax.types import DistilledSets, RealData

if TYPE_CHECKING:
    from ddr_jax.train.arms import Runner

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Sources(sweep.Sources):
    """Where a list's files are, and where coresets are kept."""

    coresets: Path


@dataclass(frozen=True)
class Method(sweep.Line):
    """A line whose students train on a set or on a coreset: `draws` of it, of `ipc` images per class."""

    scores: tuple[str, ...] = ("lrs", "ars")
    coreset: str | None = None
    ipc: Annotated[int, COUNT] = 10
    draws: Annotated[int, COUNT] = 3

    def images(self) -> tuple[Any, ...]:
        return self.set, self.coreset

    def asked(self, data: Path) -> dict[str, Any]:
        of_coreset = {"coreset": self.coreset, "ipc": self.ipc, "draws": self.draws} if self.coreset else {}
        return super().asked(data) | of_coreset

    def sets(self, real: RealData, sources: Sources, runner: Runner | None) -> DistilledSets:
        """The set as it is stored, or the coreset, of several runs where it varies with the generator."""
        if self.coreset is None:
            return super().sets(real, sources, runner)
        real, counts = with_validation(real), np.full(real.num_classes, self.ipc)
        seen = features(real, self, runner) if self.coreset in baselines.IN_FEATURES else None
        runs = range(self.draws if self.coreset in baselines.VARYING else 1)
        choose = baselines.BASELINES[self.coreset]
        each = [choose(real, counts, seen, np.random.default_rng((self.key, run))) for run in runs]
        images, labels = map(np.stack, zip(*each, strict=True))
        file = sources.coresets / f"{self.slug}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        ddr.save_distilled(file, images, labels, space="normalised", mean=real.space.mean, std=real.space.std)
        return prepare(ddr.load_distilled(file), real)


def features(real: RealData, line: Method, runner: Runner) -> np.ndarray:
    """Features (N, F) of the first real-hard student, which the scores then find in the store."""
    import jax

    from ddr_jax import nets
    from ddr_jax.scores.readout import read
    from ddr_jax.train import teachers
    from ddr_jax.train.arms import Arm, TrainingSet, train_arms

    protocol = line.asks(real.flips).real_protocol
    data = TrainingSet(real.name, real.train.images, np.eye(real.num_classes, dtype=np.float32)[real.train.labels])
    arm = Arm("teacher", protocol, ((data,),), keep=True)
    finished = train_arms([arm], real, key=jax.random.key(line.key), runner=runner)
    table = finished.tables["teacher"]
    rate = read(table, protocol.readout).rate[0, 0]
    net = nets.build(protocol.student, width=protocol.width, num_classes=real.num_classes)
    return teachers.features(net, finished.weights[table.students[0, rate, 0]], real.train.images)


def written_up(ranking: str, results: dict[str, ddr.Result], seconds: float) -> str:
    """The ranking under the command that made it, and what that took."""
    import jax

    students = len({row["student"] for result in results.values() for row in result.rows()})
    first = next(iter(results.values()))
    protocol, of_real = first.settings.protocol, first.settings.real_protocol
    command = shlex.join([str(Path(sys.argv[0])), *sys.argv[1:]])
    used = resource.getrusage(resource.RUSAGE_SELF).ru_utime / 60
    return f"""# Methods ranked on {first.data["real"]["name"]}

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


@dataclass(frozen=True)
class Options(sweep.Sweep):
    """Rank the methods of a list; stop it at any time, and the same command goes on from there."""

    path: tyro.conf.Positional[Path] = HERE / "digits.toml"
    """The list."""
    report: Path | None = None
    """Also write the ranking there, as Markdown."""

    @property
    def folder(self) -> Path:
        return self.out or Path("ranking") / self.stem

    @property
    def sources(self) -> Sources:
        return Sources(self.data or self.path.parent, self.folder / "sets")


def rank(options: Options) -> int:
    """Measures what is due, and ranks what is measured when that is all."""
    began, status = time.perf_counter(), sweep.run(options, Method)
    lines = sweep.plan(options, Method).lines
    if status or options.show:
        return status
    results = {line.name: ddr.load_result(options.folder / "results" / f"{line.slug}.json") for line in lines}
    comparison = compare_results(results)
    comparison.save(options.folder / "ranking.json")
    (options.folder / "ranking.txt").write_text(f"{comparison}\n")
    print(comparison)
    if options.report:
        options.report.write_text(written_up(str(comparison), results, time.perf_counter() - began))
    return 0


if __name__ == "__main__":
    asked = tyro.cli(Options, description=__doc__, config=cli.options.TYRO)
    sys.exit(cli.answer(lambda: rank(asked), "rank"))
