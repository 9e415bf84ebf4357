"""The scores of distilled sets, end to end: sets to arms, arms to a table, the table to a result."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddr_jax import nets, rates
from ddr_jax.data import baselines, datasets, distilled
from ddr_jax.data.distilled import Distilled
from ddr_jax.protocols.protocol import Protocol, augmentation, of_pixels
from ddr_jax.protocols.protocol import real as default_real_protocol
from ddr_jax.protocols.settings import Settings
from ddr_jax.results.cross import CrossArchitecture
from ddr_jax.results.result import Result
from ddr_jax.scores.readout import read
from ddr_jax.train import provenance
from ddr_jax.train.arms import Arm, Finished, Runner, TrainingSet, train_arms
from ddr_jax.train.devices import default_execution
from ddr_jax.train.store import Store
from ddr_jax.train.teachers import Teachers, label, teacher_features
from ddr_jax.types import DistilledSets, InputError, RealData, fingerprint

DRAWS = 2**31 - 1  # the stream of random subsets; seeds are far below it

Sets = Distilled | Sequence[Distilled] | DistilledSets


def accuracy(
    sets: Sets,
    real: RealData,
    protocol: Protocol | None = None,
    *,
    key: jax.Array | None = None,
    runner: Runner | None = None,
    given_teachers: Teachers | None = None,
    **options: Any,
) -> Result:
    """Test accuracy of students trained on each distilled set; arguments as for `label_robust_score`."""
    settings = _defaults("accuracy", protocol or Protocol(), options)
    return score(sets, real, settings, key=key, runner=runner, given_teachers=given_teachers)


def label_robust_score(
    sets: Sets,
    real: RealData,
    protocol: Protocol | None = None,
    *,
    key: jax.Array | None = None,
    runner: Runner | None = None,
    given_teachers: Teachers | None = None,
    **options: Any,
) -> Result:
    """HLR, IOR and LRS of distilled sets (arXiv 2505.13300), with every arm's accuracies.

    With hard labels the syn-hard arm is the syn-any arm, augmentation included; with soft or teacher labels it is
    the same protocol with hard labels and without augmentation.

    Args:
        sets: what `load_distilled` gave, or sets that were prepared already.
        real: the real data that the sets stand for.
        protocol: of students trained on the sets and on the random baselines; None is `Protocol()`.
        key: the root of all randomness; None is `jax.random.key(0)`.
        runner: store, execution and progress; None keeps nothing and shows nothing.
        given_teachers: what `load_teachers` gave; None trains teachers by `real_protocol` where they are needed.
        **options: further fields of `result.Settings`: seeds, weight, real_protocol (by default
            `protocol.real(protocol)`), real_accuracy, teachers, interval, level.

    Raises:
        InputError: if a setting is out of range, or the sets do not fit the real data (see `distilled.prepare`).
    """
    settings = _defaults("lrs", protocol or Protocol(), options)
    return score(sets, real, settings, key=key, runner=runner, given_teachers=given_teachers)


def augmentation_robust_score(
    sets: Sets,
    real: RealData,
    protocol: Protocol | None = None,
    *,
    key: jax.Array | None = None,
    runner: Runner | None = None,
    given_teachers: Teachers | None = None,
    **options: Any,
) -> Result:
    """ARS of distilled sets (arXiv 2505.13300); arguments as for `label_robust_score`, `weight` being γ.

    None as protocol is `Protocol` with DSA, without flips where they change a class.
    """
    settings = _defaults("ars", protocol or Protocol(augment=augmentation("dsa", real.flips)), options)
    return score(sets, real, settings, key=key, runner=runner, given_teachers=given_teachers)


def _defaults(asked: str, protocol: Protocol, options: dict[str, Any]) -> Settings:
    fields: dict[str, Any] = {"real_protocol": default_real_protocol(protocol), **options}
    return Settings((asked,), protocol, **fields)


def score(
    sets: Sets,
    real: RealData,
    settings: Settings,
    *,
    key: jax.Array | None = None,
    runner: Runner | None = None,
    given_teachers: Teachers | None = None,
) -> Result:
    """Any of the scores in one evaluation, whose arms share students wherever they agree.

    `settings.key` and `settings.given_teachers` are filled in from the arguments, and grids become what extending and
    halving make of them. A validation split is held out of train if a rate has to be chosen; otherwise nothing is, and
    one that the dataset fixes is trained on.
    """
    began, clock = datetime.now(UTC), time.perf_counter()
    key = jax.random.key(0) if key is None else key
    settings = replace(
        settings,
        key=provenance.key_facts(key),
        given_teachers=None if given_teachers is None else given_teachers.digest,
    )
    real = (datasets.with_validation if settings.chooses_on_validation else datasets.without_validation)(real)
    prepared = sets if isinstance(sets, DistilledSets) else distilled.prepare(sets, real)
    _check(settings, prepared, real)
    with _remembering(runner or Runner(), settings) as runner:
        rounds = [_round(prepared, real, _start(settings), key, runner, given_teachers)]
        if settings.halving:
            rounds.append(_round(prepared, real, rates.halved(settings, rounds[0]), key, runner, given_teachers))
        for _ in range(settings.extend_grid):
            if (longer := rates.extended(rounds[-1])) is None:
                break
            rounds.append(_round(prepared, real, longer, key, runner, given_teachers))
    asked = {name: list(getattr(settings, name).lr) for name in ("protocol", "real_protocol")}
    trained = sum(one.times["students_trained"] for one in rounds)
    students = {name for one in rounds for table in one.tables.values() for name in table.students.flat}
    times = rounds[-1].times | {
        "began": began.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 2),
        "students_trained": trained,
        "students_reused": len(students) - trained,
        "chunk": max(one.times["chunk"] for one in rounds),
    }
    return replace(rounds[-1], data=rounds[-1].data | {"asked_rates": asked}, times=times)


def _start(settings: Settings) -> Settings:
    return rates.shortened(settings) if settings.halving else settings


@contextlib.contextmanager
def _remembering(runner: Runner, settings: Settings) -> Iterator[Runner]:
    """A runner that keeps students at least from one round to the next, if there are to be several."""
    if runner.store is not None or not (settings.extend_grid or settings.halving):
        yield runner
        return
    with tempfile.TemporaryDirectory(prefix="ddr_jax-") as folder:
        yield replace(runner, store=Store(Path(folder)))


def _round(
    sets: DistilledSets,
    real: RealData,
    settings: Settings,
    key: jax.Array,
    runner: Runner,
    given_teachers: Teachers | None,
) -> Result:
    """One evaluation with the grids as they are."""
    source = _Source(sets, real, settings, key)
    first = train_arms(_real_arms(source), real, key=key, runner=runner)
    labelers = given_teachers or _teachers(settings, real, first)
    rest = train_arms(_arms(source, labelers), real, key=key, runner=runner)
    execution = runner.execution or default_execution()
    return Result(
        settings=settings,
        tables=first.tables | rest.tables,
        data=_describe(sets, real, labelers),
        environment=provenance.environment(execution.arithmetic, execution.precision)
        | {"versions": provenance.versions()},
        times={
            "students_trained": first.trained + rest.trained,
            "devices": len(execution.local_devices()),
            "chunk": max(first.chunk, rest.chunk),
            "peak_memory_bytes": rest.peak_memory,
        },
    )


@dataclass(frozen=True, eq=False)
class _Source:
    """What the arms of one evaluation are made from."""

    sets: DistilledSets
    real: RealData
    settings: Settings
    key: jax.Array

    def one_hot(self, labels: np.ndarray) -> np.ndarray:
        return np.eye(self.real.num_classes, dtype=np.float32)[labels]

    def real_train(self, students: int) -> tuple[tuple[TrainingSet, ...], ...]:
        """All of train, the same for every seed."""
        train = self.real.train
        return ((TrainingSet(self.real.name, train.images, self.one_hot(train.labels)),) * students,)

    def targets(self, protocol: Protocol, labels: np.ndarray, logits: Any) -> np.ndarray:
        """What students learn from, as `train.TrainingData` has it: (N, C), or (N, 2 C) for MSE-GT."""
        truth = self.one_hot(labels)
        if protocol.loss == "mse_gt":
            return np.concatenate([truth, np.zeros_like(truth) if logits is None else logits], axis=-1)
        if protocol.labels != "soft":
            return truth
        return np.asarray(jax.nn.softmax(logits / protocol.temperature, axis=-1), np.float32)

    def distilled(self, protocol: Protocol) -> tuple[tuple[TrainingSet, ...], ...]:
        """The distilled sets with the protocol's labels, the same for every seed."""
        sets, soft = self.sets, protocol.labels == "soft"
        targets = (
            self.targets(protocol, sets.labels[d], sets.soft_labels[d] if soft else None) for d in range(len(sets))
        )
        return tuple(
            (TrainingSet(name, images, target),) * self.settings.seeds
            for name, images, target in zip(sets.names, sets.images, targets, strict=True)
        )

    def baseline(self, labelers: Any) -> tuple[tuple[TrainingSet, ...], ...]:
        """As many images per class as the sets hold, drawn anew for every seed if the baseline varies at all."""
        name, protocol = self.settings.baseline, self.settings.protocol
        counts = np.bincount(self.sets.labels[0], minlength=self.real.num_classes)
        seen = teacher_features(labelers, self.real.train.images) if name in baselines.IN_FEATURES else None
        draws = []
        for seed in range(self.settings.seeds if name in baselines.VARYING else 1):
            stream = jax.random.fold_in(jax.random.fold_in(self.key, DRAWS), seed)
            rng = np.random.default_rng(np.asarray(jax.random.key_data(stream)))
            images, labels = baselines.BASELINES[name](self.real, counts, seen, rng)
            soft = protocol.labels == "soft"
            logits = label(labelers.net, labelers.variables, images) if soft else None
            draws.append(TrainingSet(name, images, self.targets(protocol, labels, logits)))
        return (tuple(draws * (self.settings.seeds // len(draws))),)


def _check(settings: Settings, sets: DistilledSets, real: RealData) -> None:
    for protocol in (settings.protocol, settings.real_protocol, settings.teacher_protocol):
        nets.check(protocol.student, real.image_shape, real.num_classes)
        if real.whitening is not None and of_pixels(protocol.augment):
            raise InputError(
                "RandAugment works on pixels, which whitened images are not: choose another augmentation, or leave out "
                "zca (--zca)"
            )
    if settings.protocol.labels == "soft" and sets.soft_labels is None:
        raise InputError(
            f"labels are soft, but {', '.join(sets.names)} holds no soft_labels: store them in the file, or train "
            "with hard or teacher labels"
        )
    if settings.halving and not (settings.protocol.readout == "last" and len(settings.protocol.lr) > 2):
        raise InputError(
            "halving leaves the better half of a grid by its validation accuracy: give three rates or more, and the "
            "readout last"
        )
    if settings.real_protocol.labels != "hard":
        raise InputError(
            f"real_protocol has {settings.real_protocol.labels} labels; real-hard students and teachers learn "
            "from hard ones"
        )


def _real_arms(source: _Source) -> list[Arm]:
    """Students of the real data: the real-hard arm, and teachers where they label something."""
    settings, arms = source.settings, []

    def arm(name: str, protocol: Protocol, students: int, keep: bool = False) -> Arm:
        return Arm(name, protocol, source.real_train(students), protocol.augment is not None, keep=keep)

    if settings.trains_real_hard:
        arms.append(arm("real-hard", settings.real_protocol, settings.seeds))
    if settings.trains_teachers:
        arms.append(arm("teacher", settings.teacher_protocol, settings.teachers, keep=True))
    return arms


def _teachers(settings: Settings, real: RealData, finished: Finished) -> Teachers | None:
    """The teachers that were trained, at the rate that their readout chose."""
    table = finished.tables.get("teacher")
    if table is None:
        return None
    protocol = settings.teacher_protocol
    rates = read(table, protocol.readout).rate[0]
    net = nets.build(protocol.student, width=protocol.width, num_classes=real.num_classes)
    chosen = [finished.weights[table.students[0, rate, seed]] for seed, rate in enumerate(rates)]
    return Teachers.of(net, chosen)


def _arms(source: _Source, labelers: Teachers | None) -> list[Arm]:
    """The arms of every score that was asked for, on distilled sets and random baselines."""
    settings, protocol, scores = source.settings, source.settings.protocol, source.settings.scores
    syn, augmented = source.distilled(protocol), protocol.augment is not None
    rdm = () if scores == ("accuracy",) else source.baseline(labelers)
    arms = []

    def add_pair(suffix: str, augmented: bool) -> None:
        arms.append(Arm(f"syn-{suffix}", protocol, syn, augmented, labelers))
        if rdm:
            arms.append(Arm(f"rdm-{suffix}", settings.random_protocol, rdm, augmented, labelers))

    if "accuracy" in scores or "lrs" in scores:
        add_pair("any", augmented)
    if "lrs" in scores:
        plain = settings.hard_protocol
        arms.append(Arm("syn-hard", plain, source.distilled(plain), settings.augments_hard))
    if "ars" in scores:
        add_pair("aug", True)
        add_pair("noaug", False)
    return arms


def _describe(sets: DistilledSets, real: RealData, labelers: Teachers | None) -> dict[str, Any]:
    splits = {"train": real.train, "validation": real.validation, "test": real.test}
    real_splits = {
        name: {"images": len(split), "digest": fingerprint(split.images, split.labels)}
        for name, split in splits.items()
        if split is not None
    }
    parts = [sets.images, sets.labels] + ([] if sets.soft_labels is None else [sets.soft_labels])
    described = [
        {
            "name": name,
            "images": sets.images.shape[1],
            "shape": list(sets.images.shape[1:]),
            "label_order": "by class" if (np.diff(sets.labels[d]) >= 0).all() else "mixed",
            "digest": fingerprint(*(part[d] for part in parts)),
        }
        for d, name in enumerate(sets.names)
    ]
    about_real = {"name": real.name, "classes": real.num_classes, "splits": real_splits}
    teacher = None if labelers is None else {"count": labelers.count, "parameters": labelers.parameters}
    return {"real": about_real, "sets": described, "teachers": teacher}


def cross_architecture(
    sets: Sets, real: RealData, settings: Settings, students: Sequence[str], **options: Any
) -> CrossArchitecture:
    """Scores the sets once for each of several networks, all else equal; `options` are those of `score`.

    Real-hard students and teachers are of the same network. Raises InputError for fewer than two different ones, and
    as `score` does.
    """
    if len(set(students)) < 2 or len(set(students)) < len(students):
        raise InputError(f"students are {', '.join(students)}; name two or more different networks")
    results = {}
    for student in students:
        protocols = {name: replace(getattr(settings, name), student=student) for name in ("protocol", "real_protocol")}
        results[student] = score(sets, real, replace(settings, **protocols), **options)
    return CrossArchitecture(results)
