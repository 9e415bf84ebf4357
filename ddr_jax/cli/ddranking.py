"""PyTorch ddranking's configuration files: what their keys mean here.

Its keys are the keywords of its evaluators (version 0.2.0). What it reads from them and what only its documentation
names differ in places; a key that it would stumble over is an error here that names the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddr_jax.nets import names
from ddr_jax.protocols.augmentations import (
    DSA,
    Augmentation,
    Chain,
    Crop,
    CutMix,
    Mixup,
    PatchShuffle,
    RandAugment,
    ResizedCrop,
)
from ddr_jax.protocols.presets import known_accuracy, real_recipe
from ddr_jax.types import InputError, nearest

SHARED = ("optimizer", "weight_decay", "momentum", "step_size", "batch_size", "ipc", "temperature")  # also options here
IGNORED = {
    "device": "JAX finds its devices",
    "dist": "all devices take part",
    "num_workers": "data are held in memory",
    "save_path": "results go where --out says",
    "random_data_path": "random sets are drawn from the seeds and not kept",
    "default_lr": "ddranking 0.2.0 does not read it either: it searches five rates unless the set brings one (--lr)",
    "custom_val_trans": "real images are resized and cropped as their dataset says",
}
KEYS = (
    *SHARED,
    *IGNORED,
    *("dataset", "real_data_path", "im_size", "model_name", "use_torchvision", "stu_use_torchvision"),
    *("tea_use_torchvision", "teacher_dir", "teacher_model_name", "teacher_model_names", "data_aug_func", "aug_params"),
    *("use_zca", "use_aug_for_hard", "custom_train_trans", "lr_scheduler", "num_eval", "num_epochs", "syn_batch_size"),
    *("real_batch_size", "eval_full_data", "random_data_format", "label_type", "soft_label_mode"),
    *("soft_label_criterion", "loss_fn_kwargs"),
)
MARKS = frozenset(KEYS) - set(SHARED)  # a file with one of these is the original's

_DATASETS = {
    "CIFAR10": ("cifar10", 32),
    "CIFAR100": ("cifar100", 32),
    "TinyImageNet": ("tinyimagenet", 64),
    "ImageNette": ("imagenette", 128),
    "ImageWoof": ("imagewoof", 128),
    "ImageMeow": ("imagemeow", 128),
    "ImageSquawk": ("imagesquawk", 128),
    "ImageFruit": ("imagefruit", 128),
    "ImageYellow": ("imageyellow", 128),
    "ImageNet1K": ("imagenet1k", 224),
}
_NOT_RESIZED = ("CIFAR10", "CIFAR100", "TinyImageNet")
_TORCHVISION = ("AlexNet", "ResNet", "VGG")  # the families whose use_torchvision is heard
_DSA_PARAMS = ("flip", "rotate", "saturation", "brightness", "contrast", "scale", "crop", "cutout")
_AUG_PARAMS = {"dsa": _DSA_PARAMS, "mixup": ("lambda",), "cutmix": ("beta",)}
_BROKEN_PARAMS = {  # documented, and not what its code looks for
    "cutmix_p": "beta",
    "mixup_p": "lambda",
    "prob_flip": "flip",
    "ratio_rotate": "rotate",
    "ratio_scale": "scale",
    "ratio_crop": "crop",
    "ratio_crop_pad": "crop",
    "ratio_cutout": "cutout",
}
_CRITERIA = {"kl": "kl", "sce": "ce", "mse_gt": "mse_gt"}
_DEFAULT_TEMPERATURE = 1.2  # of its loss classes
_TEST_EVERY = {"hard": 10, "soft": 20, "ars": 20}
_STILL = ("ToTensor", "Normalize", "Resize", "CenterCrop", "PILToTensor", "ToImage", "ToDtype")  # draw nothing


@dataclass
class _File:
    """A file while it is translated: its content, and the options and notes that were made of it so far."""

    where: str
    content: Mapping[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def error(self, message: str) -> InputError:
        return InputError(f"{self.where}: {message}")

    def get(self, key: str, kind: type | tuple[type, ...], expected: str) -> Any:
        """The value under `key`, None if it is absent or null."""
        value = self.content.get(key)
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if value is None or (isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))):
            return value
        raise self.error(f"{key} is {value!r}; expected {expected}")

    def text(self, key: str, valid: Mapping[str, Any] | tuple[str, ...] | None = None) -> Any:
        value = self.get(key, str, "text")
        if value is not None and valid is not None and value not in valid:
            raise self.error(f"Unknown {key} {value!r}: {nearest(value, valid)}")
        return value

    def whole(self, key: str) -> int | None:
        value = self.get(key, int, "a whole number, 1 or more")
        if value is not None and value < 1:
            raise self.error(f"{key} is {value}; expected a whole number, 1 or more")
        return value

    def number(self, key: str) -> float | None:
        value = self.get(key, (int, float), "a number")
        return None if value is None else float(value)

    def flag(self, key: str) -> bool | None:
        return self.get(key, bool, "true or false")

    def set(self, **options: Any) -> None:
        """Keeps the options that are not None."""
        self.options |= {name: value for name, value in options.items() if value is not None}

    def one_of(self, first: str, second: str, read: Callable[[str], Any]) -> Any:
        """The value of two keys that mean the same, and must not differ."""
        values = {key: read(key) for key in (first, second)}
        if None not in values.values() and values[first] != values[second]:
            raise self.error(f"{first} is {values[first]}, but {second} is {values[second]}: they mean the same")
        return values[second] if values[first] is None else values[first]


def translate(content: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """The command, the options and the notes that a file of PyTorch ddranking is translated to.

    Raises:
        InputError: if a key is unknown, a value is none that the key takes, or two keys contradict one another; it
            names the file (`where`) and the keys.
    """
    for key in content:
        if key not in KEYS:
            raise InputError(
                f"{where}: unknown key {key!r} in a file of PyTorch ddranking's: {nearest(str(key), KEYS)}"
            )
    file = _File(where, content)
    kind = _kind(file)
    file.set(preset={"hard": "ddranking-0.2.0", "soft": "ddranking-0.2.0-soft", "ars": "ddranking-0.2.0-ars"}[kind])
    _data(file)
    _student(file)
    _augmentation(file)
    _optimizer(file)
    _schedule(file)
    _lengths(file, kind)
    _labels(file, kind)
    _teachers(file)
    if kind != "ars":
        _real_hard(file, kind)
    _ignored(file)
    return ("ars" if kind == "ars" else "lrs"), file.options, tuple(file.notes)


def _kind(file: _File) -> str:
    """Which evaluator the file is of: the label-robust score with hard or soft labels, or the other score."""
    content = file.content
    if "syn_batch_size" not in content and ("label_type" in content or "batch_size" in content):
        return "ars"
    return "hard" if content.get("soft_label_mode") is None else "soft"


def _data(file: _File) -> None:
    dataset = file.text("dataset", _DATASETS)
    path = file.text("real_data_path")
    file.set(data_dir=None if path is None else Path(path), ipc=file.whole("ipc"))
    if file.flag("use_zca"):
        file.set(zca="kornia")
        file.notes.append("use_zca: real data are whitened; the distilled set has to be whitened already")
    if file.text("random_data_format") == "image":
        file.notes.append("random_data_format image: random images are real ones as they are, not saved as JPEG first")
    if dataset is None:
        return
    name, usual = _DATASETS[dataset]
    file.set(real=name)
    if dataset == "CIFAR100":
        file.notes.append("dataset CIFAR100: normalised with its own mean and std; ddranking takes CIFAR-10's")
    side = _side(file)
    if side not in (None, usual):
        if dataset in _NOT_RESIZED:
            raise file.error(f"im_size is {side}, but images of the dataset {dataset} are {usual} and are not resized")
        file.set(size=side)


def _side(file: _File) -> int | None:
    size = file.get("im_size", (int, list), "two sides, such as [32, 32]")
    sides = [size, size] if isinstance(size, int) else size
    if sides is None:
        return None
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides) or sides[0] != sides[1]:
        raise file.error(f"im_size is {size}; expected two equal sides, such as [32, 32]")
    return sides[0]


def _student(file: _File) -> None:
    name = file.text("model_name")
    if name is None:
        return
    torchvision = file.one_of("use_torchvision", "stu_use_torchvision", file.flag)
    file.set(student=_network(file, "model_name", name, bool(torchvision)))


def _network(file: _File, key: str, name: str, torchvision: bool) -> str:
    student = f"torchvision-{name}" if torchvision and name.startswith(_TORCHVISION) else name
    try:
        names.find(student)
    except InputError as error:
        raise file.error(f"{key}: {error}") from error
    return student


def _augmentation(file: _File) -> None:
    """Transforms of single images first, then the function of batches, as the original's loader and loop have it."""
    steps = _transforms(file)
    if (function := file.text("data_aug_func")) is None:
        if file.content.get("aug_params"):
            raise file.error("aug_params are given, but data_aug_func is not: name dsa, mixup or cutmix")
    else:
        steps.append(_batch_augmentation(file, function))
    if not steps:
        file.set(augment="none")  # the preset may have one
    else:
        file.set(augmentation=steps[0] if len(steps) == 1 else Chain(tuple(steps)))


def _batch_augmentation(file: _File, function: str) -> Augmentation:
    if function == "zca":
        raise file.error("data_aug_func zca whitens each batch by itself and not the test images: use use_zca: true")
    if function not in _AUG_PARAMS:
        raise file.error(f"Unknown data_aug_func {function!r}: {nearest(function, _AUG_PARAMS)}")
    params = _params(file, function)
    match function:
        case "mixup":
            return _build(file, "aug_params", Mixup, alpha=params["lambda"], mix_targets=False)
        case "cutmix":
            return _build(file, "aug_params", CutMix, beta=params["beta"], mix_targets=False)
    return _build(file, "aug_params", DSA, **params)


def _params(file: _File, function: str) -> dict[str, float]:
    """The strengths of `function`: each of them, and no others."""
    valid = _AUG_PARAMS[function]
    params = file.get("aug_params", dict, "a table")
    given = f"data_aug_func is {function}"
    if params is None:
        raise file.error(f"{given}, but there are no aug_params: give {', '.join(valid)}")
    for name, value in params.items():
        if name not in valid:
            right = _BROKEN_PARAMS.get(name)
            hint = f"did you mean {right!r}?" if right in valid else nearest(str(name), valid)
            raise file.error(f"{given}, which has no parameter {name!r} in aug_params: {hint}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise file.error(f"{name} in aug_params is {value!r}; expected a number")
    if missing := [name for name in valid if name not in params]:
        raise file.error(f"{given}, but aug_params has no {', '.join(missing)}")
    return {name: float(value) for name, value in params.items()}


def _transforms(file: _File) -> list[Augmentation]:
    """What custom_train_trans does at random; torchvision's transforms that always do the same are noted."""
    key, steps, still = "custom_train_trans", [], []
    for entry in file.get(key, list, "a list of transforms, each with name and args") or []:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or set(entry) - {"name", "args"}:
            raise file.error(f"{key} has {entry!r}; expected a name and, if need be, args")
        name, args = entry["name"], entry.get("args") or {}
        if name in _STILL:
            still.append(name)
        elif name == "RandomHorizontalFlip":
            _flip(file, steps, args)
        elif name in _TRANSFORMS:
            steps.append(_transform(file, name, args))
        else:
            valid = (*_TRANSFORMS, "RandomHorizontalFlip", *_STILL)
            raise file.error(f"{key} has the transform {name!r}, which is unknown here: {nearest(name, valid)}")
    if still:
        file.notes.append(f"{key}: {', '.join(still)} left out; images come resized and normalised")
    return steps


_TRANSFORMS: dict[str, tuple[type, dict[str, str], dict[str, Any]]] = {  # class, arguments, what the class would add
    "RandomResizedCrop": (ResizedCrop, {"scale": "scale", "ratio": "ratio"}, {"flip": 0.0}),
    "RandomCrop": (Crop, {"padding": "padding"}, {"flip": 0.0}),
    "RandAugment": (RandAugment, {name: name for name in ("num_ops", "magnitude", "num_magnitude_bins")}, {}),
    "ShufflePatches": (PatchShuffle, {"factor": "factor"}, {}),
}


def _transform(file: _File, name: str, args: Any) -> Augmentation:
    kind, arguments, fixed = _TRANSFORMS[name]
    sized = name in ("RandomResizedCrop", "RandomCrop")
    where = f"custom_train_trans {name}"
    _check_args(file, where, args, (*arguments, *(("size", "antialias") if sized else ())))
    if sized and "size" in args:
        sides = args["size"] if isinstance(args["size"], list) else [args["size"]]
        side = _side(file)
        if side is not None and any(given != side for given in sides):
            file.notes.append(f"{where}: size {args['size']} is not im_size {side}; images keep their size")
    if name == "RandomCrop" and not isinstance(args.get("padding"), int):
        raise file.error(
            f"{where}: padding is {args.get('padding')!r}; expected a number of pixels, the same on all sides"
        )
    settings = {arguments[arg]: tuple(v) if isinstance(v, list) else v for arg, v in args.items() if arg in arguments}
    return _build(file, where, kind, **settings, **fixed)


def _flip(file: _File, steps: list[Augmentation], args: Any) -> None:
    """Adds a flip: to the crop before it if there is one, else by itself."""
    where = "custom_train_trans RandomHorizontalFlip"
    _check_args(file, where, args, ("p",))
    chance = args.get("p", 0.5)
    last = steps[-1] if steps else None
    if isinstance(last, ResizedCrop):
        steps[-1] = _build(file, where, ResizedCrop, scale=last.scale, ratio=last.ratio, flip=chance)
    elif isinstance(last, Crop):
        steps[-1] = _build(file, where, Crop, padding=last.padding, flip=chance)
    elif isinstance(chance, bool) or not isinstance(chance, (int, float)):
        raise file.error(f"{where}: p is {chance!r}; expected a probability")
    else:
        steps.append(DSA(operations=("flip",), flip=chance))


def _check_args(file: _File, where: str, args: Any, valid: tuple[str, ...]) -> None:
    if not isinstance(args, dict):
        raise file.error(f"{where}: args is {args!r}; expected a table")
    for arg in args:
        if arg not in valid:
            raise file.error(f"{where}: unknown argument {arg!r}: {nearest(str(arg), valid)}")


def _build(file: _File, where: str, kind: type, **settings: Any) -> Any:
    try:
        return kind(**settings)
    except (InputError, TypeError, ValueError, IndexError) as error:
        raise file.error(f"{where}: {error}") from error


def _optimizer(file: _File) -> None:
    name = file.text("optimizer", ("sgd", "adam", "adamw"))
    file.set(optimizer=name, weight_decay=file.number("weight_decay"))
    momentum = file.content.get("momentum")
    if isinstance(momentum, list):
        if name == "sgd":
            raise file.error(f"momentum is {momentum}, but the optimizer is sgd, which has one: give a number")
        if momentum != [0.9, 0.999]:
            raise file.error(f"momentum is {momentum}, but {name or 'Adam'}'s pair is [0.9, 0.999] here: leave it out")
    elif name in ("adam", "adamw"):
        if file.number("momentum") is not None:
            file.notes.append(f"momentum: {name} has none; its betas are 0.9 and 0.999, as in ddranking")
    else:
        file.set(momentum=file.number("momentum"))


def _schedule(file: _File) -> None:
    if file.content.get("lr_scheduler") == "lambda_step":
        raise file.error("lr_scheduler lambda_step is documented and does not exist: choose step")
    name = file.text("lr_scheduler", ("step", "cosineannealing", "cosine"))
    size = file.whole("step_size")
    file.set(schedule=name)
    if name == "step" and size is None:
        half = (file.whole("num_epochs") or 300) // 2
        raise file.error(f"lr_scheduler is step, but there is no step_size: give one, such as step_size: {half}")
    if name in ("cosineannealing", "cosine"):
        if size is not None:
            file.notes.append(f"step_size: the schedule {name} has none")
    else:
        file.set(step_size=size)


def _lengths(file: _File, kind: str) -> None:
    epochs = file.whole("num_epochs")
    batch = file.one_of("syn_batch_size", "batch_size", file.whole)
    file.set(seeds=file.whole("num_eval"), epochs=epochs, batch_size=batch)
    every = _TEST_EVERY[kind]
    if epochs is None:
        return
    if epochs < every:
        file.set(test_every=epochs)
        file.notes.append(f"num_epochs {epochs}: tested at the end; ddranking, testing every {every} epochs, gives 0")
    elif epochs % every:
        file.notes.append(
            f"num_epochs {epochs}: the last epoch is tested too; ddranking stops at a multiple of {every}"
        )


def _labels(file: _File, kind: str) -> None:
    label_type = file.text("label_type", ("hard", "soft"))
    mode = file.text("soft_label_mode", ("S", "M"))
    if kind == "ars" and label_type != "hard" and mode is None:
        raise file.error(f"label_type is {label_type or 'soft'}, but there is no soft_label_mode: give S or M")
    if kind != "ars" and label_type is not None and (label_type == "hard") != (kind == "hard"):
        raise file.error(f"label_type is {label_type}, but soft_label_mode is {mode}: they contradict one another")
    if kind == "hard" or label_type == "hard":
        file.set(labels="hard", loss="ce")
        _hard_labels_only(file, kind)
        return
    file.set(
        labels="soft" if mode == "S" else "teacher",
        loss=_CRITERIA[file.text("soft_label_criterion", _CRITERIA) or "kl"],
    )
    _loss_numbers(file)


def _hard_labels_only(file: _File, kind: str) -> None:
    """What speaks of soft labels in a file of hard ones: left out for ARS, whose class has defaults; else an error."""
    keys = ("soft_label_criterion", "loss_fn_kwargs", "temperature")
    for key in keys:
        if file.content.get(key) is not None:
            if kind != "ars":
                raise file.error(f"{key} is given, but soft_label_mode is not: give S or M, or leave {key} out")
            file.notes.append(f"{key}: labels are hard")


def _loss_numbers(file: _File) -> None:
    numbers = file.get("loss_fn_kwargs", dict, "a table") or {}
    valid = ("temperature", "scale_loss", "mse_weight", "ce_weight")
    for name in numbers:
        if name not in valid:
            raise file.error(f"loss_fn_kwargs has the unknown key {name!r}: {nearest(str(name), valid)}")
    loss = _File(file.where, numbers)
    temperature, old = loss.number("temperature"), file.number("temperature")
    if None not in (temperature, old) and temperature != old:
        raise file.error(f"temperature is {old}, but temperature in loss_fn_kwargs is {temperature}")
    temperature = old if temperature is None else temperature
    criterion = file.content.get("soft_label_criterion") or "kl"
    if criterion == "mse_gt":
        file.set(mse_weight=loss.number("mse_weight"), ce_weight=loss.number("ce_weight"), temperature=1.0)
        if temperature not in (None, 1.0) or loss.flag("scale_loss"):
            file.notes.append("temperature, scale_loss: the criterion mse_gt has none")
        return
    for name in ("mse_weight", "ce_weight"):
        if name in numbers:
            raise file.error(f"loss_fn_kwargs has {name}, but soft_label_criterion is {criterion}, not mse_gt")
    if temperature is None:
        file.notes.append(f"temperature: {_DEFAULT_TEMPERATURE}, ddranking's default where none is given")
    file.set(
        temperature=_DEFAULT_TEMPERATURE if temperature is None else temperature, scale_loss=loss.flag("scale_loss")
    )


def _teachers(file: _File) -> None:
    """Teachers' weights where the original looks for them, if they are there."""
    given = file.one_of("teacher_model_names", "teacher_model_name", lambda key: _name_list(file, key))
    if given is None or file.options["labels"] == "hard":
        return
    torchvision = bool(file.flag("tea_use_torchvision"))
    teachers = [_network(file, "teacher_model_names", name, torchvision) for name in given]
    folder = Path(file.text("teacher_dir") or "teacher_models", file.text("dataset") or "CIFAR10")
    paths = tuple(folder / name / "ckpt_best.pt" for name in given)
    if others := [name for name in teachers if name != teachers[0]]:
        raise file.error(
            f"teacher_model_names has {teachers[0]} and {others[0]}: teachers that are averaged share one architecture "
            "here; name those of one"
        )
    file.set(teachers=len(teachers))
    if teachers[0] != file.options.get("student", "ConvNet-3"):
        file.set(teacher=teachers[0])
    if all(path.is_file() for path in paths):
        file.set(teacher_weights=paths)
        file.notes.append(f"teacher_dir: weights from {', '.join(map(str, paths))}")
    else:
        missing = next(path for path in paths if not path.is_file())
        file.notes.append(f"teacher_dir: there is no {missing}; {len(teachers)} of {teachers[0]} are trained")


def _name_list(file: _File, key: str) -> list[str] | None:
    value = file.get(key, (str, list), "names of networks")
    listed = [value] if isinstance(value, str) else value
    if listed is not None and (not listed or not all(isinstance(name, str) for name in listed)):
        raise file.error(f"{key} is {value!r}; expected names of networks")
    return listed


def _real_hard(file: _File, kind: str) -> None:
    """How ddranking gets the accuracy of real data: from its cache, or by its recipe, as long as for distilled sets."""
    options = file.options
    file.set(real_epochs=options.get("epochs"), real_batch_size=file.whole("real_batch_size"))
    augments_hard = file.flag("use_aug_for_hard")
    if kind == "soft":
        file.set(hard_augment=bool(augments_hard))
        if augments_hard:
            file.set(real_augmentation=options.get("augmentation"))
    full, dataset = file.flag("eval_full_data"), options.get("real", "")
    student = options.get("student", "ConvNet-3")
    if real_recipe(dataset, student) is not None:
        file.set(real_recipe=True)
    elif dataset:
        file.notes.append(f"dataset, model_name: ddranking has no recipe for {student} on {dataset} and stops there")
    known = known_accuracy(dataset, student)
    if full:
        return
    if known is not None and known.cached:
        file.set(real_accuracy=known.accuracy)
        file.notes.append(f"eval_full_data: off, so the accuracy of all real data is {known.accuracy}, as in ddranking")
    else:
        file.notes.append(
            "eval_full_data: off, but no accuracy is cached (ddranking stops there): students are trained"
        )


def _ignored(file: _File) -> None:
    for key, reason in IGNORED.items():
        if file.content.get(key) is not None:
            file.notes.append(f"{key}: {reason}")
    if "batch_size" in file.content and "syn_batch_size" not in file.content:
        for key in ("real_batch_size", "eval_full_data", "use_aug_for_hard"):
            if file.content.get(key) is not None:
                file.notes.append(f"{key}: the augmentation-robust score has no students of all real data")
