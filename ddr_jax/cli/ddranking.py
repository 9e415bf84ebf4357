"""PyTorch ddranking's configuration files: what their keys mean here.

Its keys are the keywords of its evaluators (version 0.2.0). What it reads from them and what only its documentation
names differ in places; a key that it would stumble over is an error here that names the right one. `ddranking.toml`
says what its augmentations are here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from ddr_jax.data.folders import PUBLISHED
from ddr_jax.nets import names
from ddr_jax.protocols import augmentations as augment
from ddr_jax.protocols import presets
from ddr_jax.protocols.plain import COUNT, Must, fields_from_plain, from_plain, knobs, to_plain, verify
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.types import InputError, nearest, within

NotResized = Literal["CIFAR10", "CIFAR100", "TinyImageNet"]
Resized = Literal["ImageNette", "ImageWoof", "ImageMeow", "ImageSquawk", "ImageFruit", "ImageYellow", "ImageNet1K"]
TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
TORCHVISION = ("AlexNet", "ResNet", "VGG")  # the families whose use_torchvision is heard
TEMPERATURE = 1.2  # of its loss classes where none is given
PRESETS = {"hard": "ddranking-0.2.0", "soft": "ddranking-0.2.0-soft", "ars": "ddranking-0.2.0-ars"}
OF_REAL = ("real_batch_size", "eval_full_data", "use_aug_for_hard")
NO_REAL = "the augmentation-robust score has no students of all real data"
OWN_MEAN = "CIFAR100 is normalised with its own mean and std; ddranking takes CIFAR-10's"
NO_ZCA = "use_zca: true instead, for zca whitens each batch by itself and not the test images"


class Option(NamedTuple):
    """Marks a key that is the option `name` here."""

    name: str


class Note(NamedTuple):
    """Marks a key that is noted where it is given, or has the value `when`."""

    text: str
    when: Any = None


@dataclass(frozen=True)
class Transform(augment.Checked):
    """A transform of torchvision and its arguments."""

    name: str = ""
    args: dict[str, Any] | None = None


@dataclass(frozen=True)
class LossNumbers(augment.Checked):
    """The arguments of PyTorch ddranking's losses of soft labels."""

    temperature: float | None = None
    scale_loss: bool | None = None
    mse_weight: float | None = None
    ce_weight: float | None = None


EQUAL = Must("two equal sides, such as [32, 32]", lambda x: len(x) <= 2 and len(set(x)) == 1 and x[0] > 0)
Count = Annotated[int | None, COUNT]
Networks = Annotated[tuple[str, ...] | None, Must("names of networks", bool)]


@dataclass(frozen=True)
class Keys(augment.Checked):
    """The keys of a file of PyTorch ddranking; None where the file does not say."""

    dataset: Annotated[Literal[NotResized, Resized] | None, Note(OWN_MEAN, "CIFAR100")] = None
    real_data_path: Annotated[Path | None, Option("data_dir")] = None
    ipc: Annotated[Count, Option("ipc")] = None
    im_size: Annotated[tuple[int, ...] | None, EQUAL] = None
    use_zca: Annotated[bool | None, Note("real data are whitened; whiten the distilled set beforehand", True)] = None
    random_data_format: Annotated[str | None, Note("random images are real ones, not saved as JPEG first", "image")] = (
        None
    )

    model_name: str | None = None
    use_torchvision: bool | None = None
    stu_use_torchvision: bool | None = None
    teacher_model_names: Networks = None
    teacher_model_name: Networks = None
    tea_use_torchvision: bool | None = None
    teacher_dir: str | None = None

    custom_train_trans: tuple[Transform, ...] | None = None
    data_aug_func: Annotated[Literal["dsa", "mixup", "cutmix", "zca"] | None, Must(NO_ZCA, lambda x: x != "zca")] = None
    aug_params: dict[str, Any] | None = None
    use_aug_for_hard: bool | None = None

    optimizer: Annotated[Literal["sgd", "adam", "adamw"] | None, Option("optimizer")] = None
    weight_decay: Annotated[float | None, Option("weight_decay")] = None
    momentum: float | tuple[float, float] | None = None
    lr_scheduler: Annotated[Literal["step", "cosineannealing", "cosine"] | None, Option("schedule")] = None
    step_size: Count = None
    num_eval: Annotated[Count, Option("seeds")] = None
    num_epochs: Annotated[Count, Option("epochs")] = None
    syn_batch_size: Count = None
    batch_size: Count = None
    real_batch_size: Count = None
    eval_full_data: bool | None = None

    label_type: Literal["hard", "soft"] | None = None
    soft_label_mode: Literal["S", "M"] | None = None
    soft_label_criterion: Literal["kl", "sce", "mse_gt"] | None = None
    loss_fn_kwargs: LossNumbers | None = None
    temperature: float | None = None

    device: Annotated[Any, Note("JAX finds its devices")] = None
    dist: Annotated[Any, Note("all devices take part")] = None
    num_workers: Annotated[Any, Note("data are held in memory")] = None
    save_path: Annotated[Any, Note("results go where --out says")] = None
    random_data_path: Annotated[Any, Note("random sets are drawn from the seeds and not kept")] = None
    default_lr: Annotated[Any, Note("not read by ddranking 0.2.0 either: rates are searched unless --lr gives one")] = (
        None
    )
    custom_val_trans: Annotated[Any, Note("real images are resized and cropped as their dataset says")] = None


KEYS = tuple(knob.name for knob in knobs(Keys))
MARKS = set(KEYS) - {"ipc", *(knob.name for knob in knobs(Protocol))}  # a file with one of these is the original's


def translate(content: Mapping[str, Any]) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """The command, the options and the notes that a file of PyTorch ddranking is translated to.

    Raises:
        InputError: if a key is unknown, a value is none that the key takes, or two keys contradict one another; it
            names the keys.
    """
    keys = Keys(**fields_from_plain(Keys, content, "a file of PyTorch ddranking's"))
    kind, notes = _kind(content), _notes(keys)
    options = {"preset": PRESETS[kind]} | _renamed(keys) | _data(keys) | _student(keys)
    options |= _augmentation(keys, notes) | _momentum(keys, notes) | _step_size(keys, notes)
    options |= _lengths(keys, PRESETS[kind], notes) | _labels(keys, kind, notes)
    student = options["student"] or str(Protocol.student)
    options |= _teachers(keys, student, options["labels"], notes)
    if kind == "ars":
        notes += [f"{key}: {NO_REAL}" for key in OF_REAL if getattr(keys, key) is not None]
    else:
        options |= _real(keys, student, options["real"], notes)
    if kind == "soft":
        options["hard_augment"] = bool(keys.use_aug_for_hard)
        options["real_augmentation"] = options.get("augmentation") if keys.use_aug_for_hard else None
    options = {name: value for name, value in options.items() if value is not None}
    return ("ars" if kind == "ars" else "lrs"), options, tuple(notes)


def _kind(content: Mapping[str, Any]) -> Literal["hard", "soft", "ars"]:
    """Which evaluator the file is of: the label-robust score with hard or soft labels, or the other score."""
    if "syn_batch_size" not in content and ("label_type" in content or "batch_size" in content):
        return "ars"
    return "hard" if content.get("soft_label_mode") is None else "soft"


def _renamed(keys: Keys) -> dict[str, Any]:
    """The keys that are options under another name."""
    marked = ((knob, mark) for knob in knobs(Keys) for mark in knob.marks if isinstance(mark, Option))
    return {mark.name: getattr(keys, knob.name) for knob, mark in marked}


def _notes(keys: Keys) -> list[str]:
    """The notes on single keys."""
    notes = []
    for knob in knobs(Keys):
        value = getattr(keys, knob.name)
        for mark in knob.marks:
            if isinstance(mark, Note) and value is not None and mark.when in (None, value):
                notes.append(f"{knob.name}: {mark.text}")
    return notes


def _same(values: Mapping[str, Any]) -> Any:
    """The value of keys that mean the same, and must not differ; None if none of them is given."""
    given = {key: value for key, value in values.items() if value is not None}
    if len(set(given.values())) > 1:
        said = ", but ".join(f"{key} is {to_plain(value)}" for key, value in given.items())
        raise InputError(f"{said}: they mean the same; give one of them")
    return next(iter(given.values()), None)


def _data(keys: Keys) -> dict[str, Any]:
    zca = "kornia" if keys.use_zca else None
    if keys.dataset is None:
        return {"real": None, "zca": zca}
    name = keys.dataset.lower()
    tree = PUBLISHED[name].tree
    usual = tree.size if tree else 32
    side = keys.im_size[0] if keys.im_size else usual
    if side != usual and keys.dataset in get_args(NotResized):
        raise InputError(f"im_size is {side}, but images of the dataset {keys.dataset} stay {usual}: leave it out")
    return {"real": name, "size": side if side != usual else None, "zca": zca}


def _student(keys: Keys) -> dict[str, Any]:
    both = {"use_torchvision": keys.use_torchvision, "stu_use_torchvision": keys.stu_use_torchvision}
    name = keys.model_name
    return {"student": None if name is None else _network("model_name", name, _same(both))}


def _network(key: str, name: str, torchvision: bool | None) -> str:
    network = f"torchvision-{name}" if torchvision and name.startswith(TORCHVISION) else name
    with within(key):
        names.find(network)
    return network


# Augmentation


def _augmentation(keys: Keys, notes: list[str]) -> dict[str, Any]:
    """Transforms of single images first, then the function of batches, as the original's loader and loop have it."""
    steps = _transforms(keys, notes)
    if (function := keys.data_aug_func) is not None:
        steps.append(
            _made(f"aug_params of data_aug_func {function}", TABLES["batches"][function], keys.aug_params or {})
        )
    elif keys.aug_params:
        raise InputError("aug_params are given, but data_aug_func is not: name dsa, mixup or cutmix")
    if not steps:
        return {"augment": "none"}  # the preset may have one
    return {"augmentation": steps[0] if len(steps) == 1 else augment.Chain(tuple(steps))}


def _transforms(keys: Keys, notes: list[str]) -> list[augment.Augmentation]:
    """What custom_train_trans does at random; torchvision's transforms that always do the same are noted."""
    steps: list[augment.Augmentation] = []
    given = keys.custom_train_trans or ()
    for name, args in ((entry.name, entry.args or {}) for entry in given):
        verify("transform in custom_train_trans", Literal[(*TABLES["transforms"], *TABLES["still"])], name)
        if name in TABLES["still"]:
            continue
        where = f"custom_train_trans {name}"
        made = _made(where, TABLES["transforms"][name], args)
        side = keys.im_size[0] if keys.im_size else None
        if side and args.get("size", side) not in (side, (side,), (side, side)):
            notes.append(f"{where}: size {args['size']} is not im_size {side}; images keep their size")
        if isinstance(made, augment.DSA) and steps and isinstance(steps[-1], augment.Crop | augment.ResizedCrop):
            steps[-1] = replace(steps[-1], flip=made.flip)  # crops flip by themselves
        else:
            steps.append(made)
    if still := [entry.name for entry in given if entry.name in TABLES["still"]]:
        notes.append(f"custom_train_trans: {', '.join(still)} left out; images come resized and normalised")
    return steps


def _made(where: str, table: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
    """The augmentation that a table of ddranking.toml makes of parameters."""
    fields, valid = table["fields"], (*table["fields"], *table.get("left_out", ()))
    for name in params:
        if name not in valid:
            raise InputError(f"{where} has no parameter {name!r}: {nearest(str(name), valid)}")
    if table.get("required") and (missing := [name for name in fields if name not in params]):
        raise InputError(f"{where} lacks {', '.join(missing)}: give each a value")
    named = {field: params[name] for name, field in fields.items() if name in params}
    with within(f"{where}, {dict(params)}"):
        return from_plain(augment.AUGMENTATIONS[table["kind"]], named | table.get("fixed", {}), where)


# Training


def _momentum(keys: Keys, notes: list[str]) -> dict[str, Any]:
    name, momentum = keys.optimizer, keys.momentum
    if isinstance(momentum, tuple) and (name == "sgd" or momentum != (0.9, 0.999)):
        raise InputError(
            f"momentum is {list(momentum)}: give one number for sgd, and leave it out for Adam, whose pair is "
            "[0.9, 0.999] here"
        )
    if isinstance(momentum, tuple):
        return {}
    if momentum is not None and name in ("adam", "adamw"):
        notes.append(f"momentum: {name} has none; its betas are 0.9 and 0.999, as in ddranking")
        return {}
    return {"momentum": momentum}


def _step_size(keys: Keys, notes: list[str]) -> dict[str, Any]:
    name, size = keys.lr_scheduler, keys.step_size
    if name == "step" and size is None:
        half = (keys.num_epochs or 300) // 2
        raise InputError(f"lr_scheduler is step, but there is no step_size: give one, such as step_size: {half}")
    if name in ("cosineannealing", "cosine") and size is not None:
        notes.append(f"step_size: the schedule {name} has none")
        return {}
    return {"step_size": size}


def _lengths(keys: Keys, preset: str, notes: list[str]) -> dict[str, Any]:
    epochs, every = keys.num_epochs, presets.find(preset).protocol["test_every"]
    early = epochs is not None and epochs < every
    if epochs is not None and epochs % every:
        theirs = f"testing every {every} epochs, gives 0" if early else f"stops at a multiple of {every}"
        notes.append(f"num_epochs {epochs}: the last epoch is tested; ddranking, {theirs}")
    batch = _same({"syn_batch_size": keys.syn_batch_size, "batch_size": keys.batch_size})
    return {"batch_size": batch, "test_every": epochs if early else None}


def _labels(keys: Keys, kind: str, notes: list[str]) -> dict[str, Any]:
    label_type, mode = keys.label_type, keys.soft_label_mode
    if kind == "ars" and label_type != "hard" and mode is None:
        raise InputError(f"label_type is {label_type or 'soft'}, but there is no soft_label_mode: give S or M")
    if kind != "ars" and label_type is not None and (label_type == "hard") != (kind == "hard"):
        raise InputError(f"label_type is {label_type}, but soft_label_mode is {mode}: they contradict one another")
    if kind == "hard" or label_type == "hard":
        for key in ("soft_label_criterion", "loss_fn_kwargs", "temperature"):
            if getattr(keys, key) is not None:
                if kind != "ars":  # whose class has defaults for them
                    raise InputError(f"{key} is given, but soft_label_mode is not: give S or M, or leave {key} out")
                notes.append(f"{key}: labels are hard")
        return {"labels": "hard", "loss": "ce"}
    criterion = keys.soft_label_criterion or "kl"
    loss = "ce" if criterion == "sce" else criterion
    return {"labels": "soft" if mode == "S" else "teacher", "loss": loss} | _loss_numbers(keys, criterion, notes)


def _loss_numbers(keys: Keys, criterion: str, notes: list[str]) -> dict[str, Any]:
    loss = keys.loss_fn_kwargs or LossNumbers()
    temperature = _same({"temperature": keys.temperature, "temperature in loss_fn_kwargs": loss.temperature})
    weights = {"mse_weight": loss.mse_weight, "ce_weight": loss.ce_weight}
    if criterion == "mse_gt":
        if temperature not in (None, 1.0) or loss.scale_loss:
            notes.append("temperature, scale_loss: the criterion mse_gt has none")
        return weights | {"temperature": 1.0}
    for name, weight in weights.items():
        if weight is not None:
            raise InputError(f"loss_fn_kwargs has {name}, but soft_label_criterion is {criterion}, not mse_gt")
    if temperature is None:
        temperature = TEMPERATURE
        notes.append(f"temperature: {TEMPERATURE}, ddranking's default where none is given")
    return {"temperature": temperature, "scale_loss": loss.scale_loss}


# Teachers, and students of all real data


def _teachers(keys: Keys, student: str, labels: str, notes: list[str]) -> dict[str, Any]:
    """Teachers' weights where the original looks for them, if they are there."""
    both = {"teacher_model_names": keys.teacher_model_names, "teacher_model_name": keys.teacher_model_name}
    if (given := _same(both)) is None or labels == "hard":
        return {}
    teachers = [_network("teacher_model_names", name, keys.tea_use_torchvision) for name in given]
    if others := [name for name in teachers if name != teachers[0]]:
        raise InputError(
            f"teacher_model_names has {teachers[0]} and {others[0]}: teachers that are averaged share one architecture "
            "here; name those of one"
        )
    folder = Path(keys.teacher_dir or "teacher_models", keys.dataset or "CIFAR10")
    paths = tuple(folder / name / "ckpt_best.pt" for name in given)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        notes.append(f"teacher_dir: there is no {missing[0]}; {len(teachers)} of {teachers[0]} are trained")
    else:
        notes.append(f"teacher_dir: weights from {', '.join(map(str, paths))}")
    return {
        "teachers": len(teachers),
        "teacher": None if teachers[0] == student else teachers[0],
        "teacher_weights": None if missing else paths,
    }


def _real(keys: Keys, student: str, dataset: str | None, notes: list[str]) -> dict[str, Any]:
    """How ddranking gets the accuracy of real data: from its cache, or by its recipe, as long as for distilled sets."""
    recipe = dataset is not None and presets.real_recipe(dataset, student) is not None
    if dataset and not recipe:
        notes.append(f"dataset, model_name: ddranking has no recipe for {student} on {dataset} and stops there")
    options = {"real_epochs": keys.num_epochs, "real_batch_size": keys.real_batch_size, "real_recipe": recipe or None}
    known = presets.known_accuracy(dataset or "", student)
    if keys.eval_full_data:
        return options
    if known is None or not known.cached:
        notes.append("eval_full_data: off, but no accuracy is cached (ddranking stops there): students are trained")
        return options
    notes.append(f"eval_full_data: off, so the accuracy of all real data is {known.accuracy}, as in ddranking")
    return options | {"real_accuracy": known.accuracy}
