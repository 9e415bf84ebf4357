"""The scores of distilled sets, end to end: sets to arms, arms to a table, the table to a result.

A new arm is a builder in `ARMS`; `scores.table` says which arms a score takes.
"""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ddr_jax import nets, rates
from ddr_jax.data import baselines, datasets, distilled
from ddr_jax.data.datasets import as_real
from ddr_jax.data.distilled import Sets
from ddr_jax.protocols import presets
from ddr_jax.protocols.augmentations import augmentation, of_pixels
from ddr_jax.protocols.plain import from_plain, knobs, verify
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.protocols.settings import Settings
from ddr_jax.results.cross import CrossArchitecture
from ddr_jax.results.result import Result
from ddr_jax.scores.readout import read
from ddr_jax.scores.table import SCORES, arms_of
from ddr_jax.train.arms import Arm, Finished, OnProgress, Runner, TrainingSet, train_arms
from ddr_jax.train.devices import Execution, default_execution, peak_memory
from ddr_jax.train.losses import soften
from ddr_jax.train.store import Store, environment, key_facts, versions
from ddr_jax.train.teachers import Teachers, label, teacher_features
from ddr_jax.types import AnyPath, DistilledSets, InputError, RealData, fingerprint, nearest

DRAWS = 2**31 - 1  # the stream of random subsets; seeds are far below it
OF_RESULTS = ("scores", "protocol", "key", "given_teachers")  # settings that are not among `**options` of `score`


def score(
    sets: Sets,
    real: RealData | AnyPath,
    protocol: Protocol | str | None = None,
    scores: Sequence[str] = ("lrs",),
    *,
    key: jax.Array | int | None = None,
    store: AnyPath | None = None,
    execution: Execution | None = None,
    on_progress: OnProgress | None = None,
    teachers: Teachers | int = 1,
    **options: Any,
) -> Result:
    """Scores of distilled sets (DD-Ranking, arXiv 2505.13300), with every arm's accuracies, in one evaluation.

    Arms share students wherever they agree. With hard labels the syn-hard arm is the syn-any arm, augmentation
    included; with soft or teacher labels it is the same protocol with hard labels and without augmentation.

    Args:
        sets: distilled sets, all with the same number of images in each class: paths, dictionaries of arrays, what
            `load_distilled` gave, one or a sequence of them, or sets that are prepared already.
        real: the real data that the sets stand for: a name, a path, or what `load_dataset` gave.
        protocol: of students trained on the sets and on the random baselines, or the name of a preset. None is
            `Protocol()`, and with DSA where a score compares augmentations, without flips where they change a class.
        scores: names of `scores.table.SCORES`, such as accuracy, lrs, ars.
        key: the root of all randomness, a key of `jax.random.key` or its seed. None is seed 0.
        store: a folder where finished students are looked up and kept. None keeps nothing.
        execution: how students use the devices. None is `default_execution()`.
        on_progress: called with what is trained, the images trained on since the last call, and how many there are.
        teachers: what `load_teachers` gave; or how many are trained by `real_protocol` where they are needed.
        **options: further fields of `protocols.settings.Settings`, such as seeds, weight, real_protocol,
            real_accuracy, baseline, interval and level.

    Returns:
        Every student's row, the accuracies of arms and the scores with their intervals, as fractions.

    Raises:
        InputError: if an argument has a wrong type or is out of range, or the sets do not fit the real data.
    """
    how = {"key": key, "store": store, "execution": execution, "on_progress": on_progress, "teachers": teachers}
    real = as_real(real)
    settings, how = _asked(real, protocol, scores, **how, **options)
    return evaluate(sets, real, settings, **how)


def accuracy(sets: Sets, real: RealData | AnyPath, protocol: Protocol | str | None = None, **options: Any) -> Result:
    """Test accuracy of students trained on each distilled set; arguments as for `score`."""
    return score(sets, real, protocol, ("accuracy",), **options)


def label_robust_score(
    sets: Sets, real: RealData | AnyPath, protocol: Protocol | str | None = None, **options: Any
) -> Result:
    """HLR, IOR and LRS of distilled sets (arXiv 2505.13300); arguments as for `score`, `weight` being w."""
    return score(sets, real, protocol, ("lrs",), **options)


def augmentation_robust_score(
    sets: Sets, real: RealData | AnyPath, protocol: Protocol | str | None = None, **options: Any
) -> Result:
    """ARS of distilled sets (arXiv 2505.13300); arguments as for `score`, `weight` being γ."""
    return score(sets, real, protocol, ("ars",), **options)


def cross_architecture(
    sets: Sets,
    real: RealData | AnyPath,
    protocol: Protocol | str | None = None,
    scores: Sequence[str] = ("lrs",),
    *,
    students: Sequence[str],
    **options: Any,
) -> CrossArchitecture:
    """Scores the sets once for each of several architectures, all else equal; arguments as for `score`.

    Real-hard students and teachers have the same architecture.

    Raises:
        InputError: for fewer than two different architectures, and as `score` does.
    """
    real = as_real(real)
    settings, how = _asked(real, protocol, scores, **options)
    return by_architecture(sets, real, settings, students, **how)


def by_architecture(
    sets: Sets, real: RealData, settings: Settings, students: Sequence[str], **how: Any
) -> CrossArchitecture:
    """`cross_architecture` for settings; `how` are the further arguments of `evaluate`."""
    students = from_plain(tuple[str, ...], students, "students")
    if len(set(students)) < 2 or len(set(students)) < len(students):
        raise InputError(f"students are {', '.join(students)}; name two or more different networks")

    def one(student: str) -> Result:
        protocols = {name: replace(getattr(settings, name), student=student) for name in ("protocol", "real_protocol")}
        return evaluate(sets, real, replace(settings, **protocols), **how)

    return CrossArchitecture({student: one(student) for student in students})


def _asked(
    real: RealData,
    protocol: Protocol | str | None,
    scores: Sequence[str],
    *,
    key: Any = None,
    store: Any = None,
    execution: Any = None,
    on_progress: Any = None,
    teachers: Any = 1,
    **options: Any,
) -> tuple[Settings, dict[str, Any]]:
    """What the arguments of `score` ask for: settings, and how `evaluate` runs them."""
    valid = [knob.name for knob in knobs(Settings) if knob.name not in OF_RESULTS]
    for name in options:
        if name not in valid:
            raise InputError(f"Unknown argument {name!r}: {nearest(name, valid)}")
    names: tuple[str, ...] = from_plain(tuple[str, ...], scores, "scores")
    for name in names:
        verify("score", Literal[tuple(SCORES)], name)
    verify("on_progress", Callable | None, on_progress)
    verify("execution", Execution | None, execution)
    verify("store", str | PathLike | None, store)
    given = teachers if isinstance(teachers, Teachers) else None
    count: Any = teachers if given is None else 1
    settings = Settings(names, _protocol(real, protocol, names), teachers=count, **options)
    runner = Runner(None if store is None else Store(Path(store)), execution, on_progress)
    return settings, {"key": _key(key), "runner": runner, "given_teachers": given}


def _protocol(real: RealData, protocol: Protocol | str | None, scores: tuple[str, ...]) -> Protocol:
    if protocol is None:
        compared = any(arm.endswith("-aug") for arm in arms_of(scores))
        return Protocol(augment=augmentation("dsa", real.flips) if compared else None)
    protocol = presets.preset(protocol) if isinstance(protocol, str) else protocol
    verify("protocol", Protocol, protocol)
    return protocol


def _key(key: Any) -> jax.Array:
    if isinstance(key, int | None):
        return jax.random.key(key or 0)
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape:
        raise InputError(f"key is {key!r}; expected a seed, or one key of jax.random.key")
    return key


def evaluate(
    sets: Sets,
    real: RealData,
    settings: Settings,
    *,
    key: jax.Array | None = None,
    runner: Runner | None = None,
    given_teachers: Teachers | None = None,
) -> Result:
    """The evaluation that settings ask for; `score` makes them of its arguments.

    The settings of the result have `key` and `given_teachers` from the arguments, and the grids after extending and
    halving. A validation split is held out of train if a rate has to be chosen; otherwise nothing is held out, and a
    validation split that the dataset fixes is trained on.
    """
    began, clock = datetime.now(UTC), time.perf_counter()
    key = jax.random.key(0) if key is None else key
    settings = replace(
        presets.with_known_accuracy(settings, real.name),
        key=key_facts(key),
        given_teachers=None if given_teachers is None else given_teachers.digest,
    )
    real = (datasets.with_validation if settings.chooses_on_validation else datasets.without_validation)(real)
    prepared = distilled.prepare(sets, real)
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
    source = replace(source, labelers=given_teachers or _teachers(settings, real, first))
    arms = [build(name, source) for name, build in ARMS.items() if name in settings.arms]
    rest = train_arms(arms, real, key=key, runner=runner)
    execution = runner.execution or default_execution()
    return Result(
        settings=settings,
        tables=first.tables | rest.tables,
        data=_describe(sets, real, source.labelers),
        environment=environment(execution.arithmetic, execution.precision) | {"versions": versions()},
        times={
            "students_trained": first.trained + rest.trained,
            "devices": len(execution.local_devices()),
            "chunk": max(first.chunk, rest.chunk),
            "peak_memory_bytes": peak_memory(),
        },
    )


@dataclass(frozen=True, eq=False)
class _Source:
    """What the arms of one evaluation are made from."""

    sets: DistilledSets
    real: RealData
    settings: Settings
    key: jax.Array
    labelers: Any = None  # Teachers, where something is labelled

    def one_hot(self, labels: np.ndarray) -> np.ndarray:
        return np.eye(self.real.num_classes, dtype=np.float32)[labels]

    def real_train(self, students: int) -> tuple[tuple[TrainingSet, ...], ...]:
        """All of train, the same for every seed."""
        train = self.real.train
        return ((TrainingSet(self.real.name, train.images, self.one_hot(train.labels)),) * students,)

    def targets(self, protocol: Protocol, labels: np.ndarray, logits: Any) -> np.ndarray:
        """What students learn from, as in `student.TrainingData`: (N, C), or (N, 2 C) for MSE-GT."""
        truth = self.one_hot(labels)
        if protocol.loss == "mse_gt":
            return np.concatenate([truth, np.zeros_like(truth) if logits is None else logits], axis=-1)
        if protocol.labels != "soft":
            return truth
        return np.asarray(soften(logits, protocol.temperature), np.float32)

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

    @functools.cached_property
    def synthetic(self) -> tuple[tuple[TrainingSet, ...], ...]:
        """The distilled sets with the labels of their method."""
        return self.distilled(self.settings.protocol)

    @functools.cached_property
    def baseline(self) -> tuple[tuple[TrainingSet, ...], ...]:
        """As many images per class as the sets hold, drawn anew for every seed if the baseline varies at all."""
        name, protocol = self.settings.baseline, self.settings.protocol
        counts = np.bincount(self.sets.labels[0], minlength=self.real.num_classes)
        seen = teacher_features(self.labelers, self.real.train.images) if name in baselines.IN_FEATURES else None
        draws = []
        for seed in range(self.settings.seeds if name in baselines.VARYING else 1):
            stream = jax.random.fold_in(jax.random.fold_in(self.key, DRAWS), seed)
            rng = np.random.default_rng(np.asarray(jax.random.key_data(stream)))
            images, labels = baselines.BASELINES[name](self.real, counts, seen, rng)
            soft = protocol.labels == "soft"
            logits = label(self.labelers.net, self.labelers.variables, images) if soft else None
            draws.append(TrainingSet(name, images, self.targets(protocol, labels, logits)))
        return (tuple(draws * (self.settings.seeds // len(draws))),)


def _check(settings: Settings, sets: DistilledSets, real: RealData) -> None:
    for protocol in (settings.protocol, settings.real_protocol, settings.teacher_protocol):
        nets.check(protocol.student, real.image_shape, real.num_classes)
        if real.space.name == "zca" and of_pixels(protocol.augment):
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
    """The teachers that were trained, at the learning rate that the readout chose."""
    table = finished.tables.get("teacher")
    if table is None:
        return None
    protocol = settings.teacher_protocol
    rates = read(table, protocol.readout).rate[0]
    net = nets.build(protocol.student, width=protocol.width, num_classes=real.num_classes)
    chosen = [finished.weights[table.students[0, rate, seed]] for seed, rate in enumerate(rates)]
    return Teachers.of(net, chosen)


def _pair(name: str, source: _Source) -> Arm:
    """The arm of a name such as syn-any: of the sets or of the baseline, augmented as the method is, always, or not."""
    of, augmented = name.split("-")
    settings, switch = (
        source.settings,
        {"any": source.settings.protocol.augment is not None, "aug": True, "noaug": False},
    )
    if of == "syn":
        return Arm(name, settings.protocol, source.synthetic, switch[augmented], source.labelers)
    return Arm(name, settings.random_protocol, source.baseline, switch[augmented], source.labelers)


def _syn_hard(name: str, source: _Source) -> Arm:
    protocol = source.settings.hard_protocol
    return Arm(name, protocol, source.distilled(protocol), source.settings.augments_hard)


ARMS: dict[str, Callable[[str, _Source], Arm]] = {  # in the order of results; real-hard arms are trained before
    **dict.fromkeys(("syn-any", "rdm-any"), _pair),
    "syn-hard": _syn_hard,
    **dict.fromkeys(("syn-aug", "rdm-aug", "syn-noaug", "rdm-noaug"), _pair),
}


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
