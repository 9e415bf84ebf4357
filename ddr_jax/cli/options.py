"""The options of the command line, and what they mean: commands, presets and configuration files to settings.

What is not given on the command line comes from the configuration file, what is not there from the preset, and
what is not there either from the defaults below.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import Positional, Suppress

from ddr_jax.cli import configs
from ddr_jax.protocols import demo, presets, recipes
from ddr_jax.protocols.protocol import DSA, REAL_EPOCHS, Augmentation, Protocol, augmentation, unflipped
from ddr_jax.protocols.protocol import real as real_protocol_of
from ddr_jax.protocols.settings import Settings
from ddr_jax.types import InputError, nearest

PROTOCOL_OPTIONS = (
    *("student", "width", "epochs", "batch_size", "optimizer", "lr", "weight_decay", "momentum", "schedule"),
    *("step_size", "clock", "warmup", "fresh_at_drop", "labels", "loss", "mse_weight", "ce_weight", "temperature"),
    *("scale_loss", "readout", "test_every"),
)
SETTINGS_OPTIONS = (
    *(
        "seeds",
        "teachers",
        "teacher",
        "interval",
        "level",
        "hard_augment",
        "hard_lr",
        "random_lr",
        "baseline",
        "percent",
    ),
    *("original_formula", "extend_grid", "halving"),
)
MACHINE_OPTIONS = ("out", "cache", "store", "devices", "config", "notes")  # say nothing of what is computed

Augment = Literal["none", "dsa", "dc", "mixup", "cutmix", "crop", "resized-crop", "randaugment", "patch-shuffle"]


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddr_jax"


@dataclass(frozen=True)
class Running:
    """Options of every command that trains."""

    seeds: int = 5
    """Students per arm, set and rate; also random draws, one per seed."""
    key: int = 0
    """Root of all randomness."""
    out: Path | None = None
    """The JSON result; a picture and the configuration are written beside it. Default: results/COMMAND-SET.json."""
    cache: Path = field(default_factory=_cache_folder)
    """Where finished students and teachers are kept and found again."""
    store: bool = True
    """Look finished students up in the cache, and keep new ones there."""
    devices: int | None = None
    """Devices used at most. Default: all accelerators, or one per CPU core up to 8."""
    execution: Literal["auto", "serial", "vmap", "shared"] = "auto"
    """How students use the devices: one on each at a time (serial, auto's choice on CPUs), many on each (vmap, auto's
    on accelerators), or all devices on the batches of one (shared, for fewer students than devices)."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Of the networks' arithmetic: tf32 on GPUs, or bfloat16 with float32 weights and statistics."""
    config: Path | None = None
    """A file of options: one written beside a result, your own (.yaml, .toml, .json), or one of ddranking's."""


@dataclass(frozen=True)
class Evaluation(Running):
    """Options of the commands that score a user's sets."""

    sets: Positional[tuple[Path, ...]] = field(kw_only=True)
    """Distilled sets of one shape: .npz, .safetensors, .npy, .pt, or folders of images by class. A file may hold
    several runs."""
    real: str = field(kw_only=True)
    """Real data: digits, the name of a dataset, an .npz with x_train, y_train, x_test, y_test, or a folder
    (torchvision's ImageFolder, idx .gz, cifar-10-batches-py)."""
    preset: str | None = None
    """The recipe of a method or of ddranking itself (dc, dsa, mtt, sre2l, rded, ddranking-0.2.0 …); an unknown name
    lists them. Options given beside it win."""
    size: int | None = None
    """Side that images of a folder are resized to. Default: the dataset's usual one."""
    zca: Literal["kornia", "kip"] | None = None
    """Whiten all images by ZCA fitted on the real training images, as MTT (kornia) or KIP do."""
    ipc: int | None = None
    """Images per class that the sets must have; not checked by default."""
    labels_file: tuple[Path, ...] = ()
    """Labels of sets whose files hold images alone: one file for all sets, or one for each."""
    space: Literal["pixels", "normalised", "zca"] | None = None
    """What the images' numbers are, where the file does not say."""
    layout: Literal["NHWC", "NCHW"] | None = None
    """The order of the images' axes, where it cannot be told."""
    soft_labels: Literal["logits", "probabilities"] | None = None
    """What the stored soft labels are, where the file does not say."""
    student: str = "ConvNet-3"
    """Network: ConvNet-1 … ConvNet-6 (with -BN, -LN, -GN, -NN for another norm than instance norm), MLP, LeNet,
    AlexNet, VGG-11, ResNet-18-BN, torchvision-ResNet-18, ViT-6 and more: an unknown name lists its neighbours."""
    students: tuple[str, ...] = ()
    """Networks to score with one after another, for a matrix of sets by students with mean and worst case; wins over
    --student."""
    width: int = 128
    """Filters of each convolution, or hidden units."""
    epochs: int = 300
    """Passes over the set."""
    batch_size: int = 256
    """Images per step."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """SGD with momentum, Adam with coupled decay, or AdamW, as PyTorch defines them."""
    lr: tuple[float, ...] = (0.01,)
    """Learning rate per step; several are a grid, chosen from on a validation split."""
    weight_decay: float = 5e-4
    """Added to the gradient, times the weight; AdamW decays the weight itself."""
    momentum: float = 0.9
    """Of SGD."""
    schedule: Literal["step", "constant", "cosineannealing", "cosine"] = "step"
    """step: to a tenth every step-size epochs; cosineannealing: to 0; cosine: to a half, as ddranking 0.2.0."""
    step_size: int | None = None
    """In epochs. Default: half of the epochs."""
    clock: Literal["epoch", "step"] = "epoch"
    """Whether the schedule moves on after every epoch or every step."""
    warmup: int = 0
    """Epochs over which the rate first rises from 0."""
    fresh_at_drop: bool = False
    """Start the optimizer afresh where the step schedule drops, as the code of DC, DSA, DM and MTT does."""
    augment: Augment | None = None
    """Augmentation of training batches. Default: the preset's or the configuration's; else dsa for ars and score,
    none for others."""
    augmentation: Suppress[Any] = None
    dsa_strategy: str | None = None
    """DSA's operations, joined by _. Default: all, without flip where it changes the class (digits)."""
    labels: Literal["hard", "soft", "teacher"] = "hard"
    """Class indices; soft labels stored with the set; or teachers' labels of every batch."""
    loss: Literal["ce", "kl", "mse_gt"] = "ce"
    """Cross-entropy or Kullback-Leibler divergence, which train alike, or G-VBSM's squared error of logits."""
    mse_weight: float = 1.0
    """Of the squared error in mse_gt."""
    ce_weight: float = 0.0
    """Of the cross-entropy against classes in mse_gt."""
    temperature: float = 1.0
    """Of soft and teacher labels."""
    scale_loss: bool = False
    """Multiply the loss by the square of the temperature."""
    teachers: int = 1
    """Teachers whose logits are averaged; trained as real-hard students are."""
    teacher: str | None = None
    """Their network. Default: the student's."""
    teacher_weights: tuple[Path, ...] = ()
    """Files of teachers' weights (.safetensors or PyTorch's .pt, of --teacher), instead of training."""
    readout: Literal["last", "best"] = "last"
    """last: last epoch, rate chosen on validation. best: best epoch and rate on the test set, as ddranking 0.2.0."""
    test_every: int | None = None
    """Epochs between tests. Default: the last epoch only."""
    extend_grid: int = 0
    """How often, at most, a grid of rates gets a further one at an end where an arm chose."""
    halving: bool = False
    """Try the whole grid for a quarter of the epochs, and train its better half in full."""
    interval: Literal["t", "bootstrap"] = "t"
    """Student's t or bias-corrected bootstrap, over seeds."""
    level: float = 0.95
    """Coverage that intervals aim at."""
    percent: bool = False
    """Show accuracies and their differences as percentages; files keep fractions."""
    data_dir: Path | None = None
    """Where tensorflow-datasets keeps its data, or a folder of images."""
    download: bool = False
    """Let tensorflow-datasets download and prepare what is missing (needs tensorflow)."""
    real_recipe: bool = False
    """Train real-hard students and teachers by ddranking's published recipe for this data and student."""
    real_epochs: int | None = None
    """Length of the training of real-hard students and teachers. Default: 30, or the recipe's."""
    real_batch_size: int | None = None
    """Their images per step. Default: as --batch-size, or the recipe's."""
    real_lr: tuple[float, ...] | None = None
    """Their learning rate or grid. Default: as --lr, or the recipe's."""
    real_augment: Augment | Literal["method"] | None = None
    """Their augmentation; method is that of --augment. Default: none."""
    real_augmentation: Suppress[Any] = None
    real_options: Suppress[Any] = None
    notes: Suppress[Any] = ()


@dataclass(frozen=True)
class Accuracy(Evaluation):
    """Test accuracy of students trained on distilled sets."""


@dataclass(frozen=True)
class Compared(Evaluation):
    """Options of the scores that compare sets with baselines."""

    weight: float = 0.5
    """w: the share of IOR in LRS. γ: the share of the gain with augmentation in ARS."""
    random_lr: tuple[float, ...] | None = None
    """Learning rate or grid of the random arms. Default: as --lr."""
    baseline: Literal["random", "noise", "herding", "k-center", "k-means"] = "random"
    """What sets are compared with: as many random real images, noise, or a coreset of real images."""
    original_formula: bool = False
    """Show also what ddranking 0.2.0 prints as score: its formula takes percentages."""


@dataclass(frozen=True)
class Ars(Compared):
    """Augmentation-robust score of distilled sets."""


@dataclass(frozen=True)
class Lrs(Compared):
    """Label-robust score of distilled sets: HLR, IOR, LRS."""

    hard_augment: bool | None = None
    """Augment the syn-hard arm. Default: with hard labels as the method does, else not."""
    hard_lr: tuple[float, ...] | None = None
    """Learning rate or grid of the syn-hard arm. Default: as --lr."""
    real_accuracy: float | Literal["known"] | None = None
    """A known accuracy of students of all real data, as a fraction, instead of training them; known takes the
    published one for this data and student."""


@dataclass(frozen=True)
class Score(Lrs):
    """LRS and ARS of distilled sets, and their mean, from one population of students."""


@dataclass(frozen=True)
class Compare:
    """Rank methods by results of like evaluations: groups that cannot be told apart, pairs, stability."""

    results: Positional[tuple[Path, ...]]
    """JSON results, one for each method; or a single one of several sets."""
    by: Literal["result", "set"] | None = None
    """What a method is. Default: each result, or each set of a single one."""
    may_differ: tuple[str, ...] = ()
    """Settings that the results need not share, such as protocol.labels."""
    out: Path = Path("results/comparison.json")
    """The comparison as JSON."""
    notes: Suppress[Any] = ()


@dataclass(frozen=True)
class Demo(Running):
    """Score the bundled distilled set of handwritten digits: LRS and ARS, in minutes on a CPU."""


COMMANDS: dict[str, type[Any]] = {
    "demo": Demo,
    "lrs": Lrs,
    "ars": Ars,
    "score": Score,
    "accuracy": Accuracy,
    "compare": Compare,
}
SCORES = {"score": ("lrs", "ars")}  # of a command that is not named for one
AUGMENTED = ("ars", "score")  # by default
TYRO = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)


def parse(arguments: list[str]) -> Any:
    """The command and its options; tyro answers requests for help, and most mistakes, and exits.

    Raises:
        InputError: for an unknown command, option or preset, and for mistakes in a configuration file.
    """
    if not arguments or arguments[0].startswith("-"):
        about = "Robust scores for distilled datasets (DD-Ranking, arXiv 2505.13300)."
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="ddr-jax", description=about, args=arguments, config=TYRO
        )
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputError(f"Unknown command {name!r}: {nearest(name, COMMANDS)}")
    command, unknown = tyro.cli(
        COMMANDS[name],
        prog=f"ddr-jax {name}",
        args=rest,
        config=TYRO,
        default=_defaults(name, rest),
        return_unknown_args=True,
    )
    if unknown:
        known = ["--" + f.name.replace("_", "-") for f in dataclasses.fields(command)]
        raise InputError(f"Unknown option {unknown[0]!r}: {nearest(unknown[0], known)}")
    return command


def name_of(command: Any) -> str:
    """The command's own name."""
    return next(name for name, kind in COMMANDS.items() if type(command) is kind)


def plain(command: Any, settings: Settings) -> dict[str, Any]:
    """The options that a configuration file repeats the command with: all but where it ran and what it wrote."""
    values = {f.name: _absolute(getattr(command, f.name)) for f in dataclasses.fields(command)}
    if isinstance(command, Evaluation):
        path = Path(command.real).expanduser()
        values["real"] = _absolute(path) if path.exists() else command.real
        # as they were resolved: what a name stands for may depend on the preset and on the data
        values |= {"preset": None, "dsa_strategy": None, "augment": None, "real_augment": None}
        values |= _resolved("augment", settings.protocol.augment)
        values |= _resolved("real_augment", settings.real_protocol.augment)
        values |= {"real_accuracy": settings.real_accuracy} if "real_accuracy" in values else {}
    return {name: value for name, value in values.items() if name not in MACHINE_OPTIONS and value not in (None, ())}


def _resolved(option: str, augment: Augmentation | None) -> dict[str, Any]:
    return {option: "none"} if augment is None else {option.replace("augment", "augmentation"): augment}


def settings(command: Any, flips: bool = True, dataset: str | None = None) -> Settings:
    """What the options ask for; `flips` and `dataset`, a name as of `recipes`, are the real data's."""
    if isinstance(command, Demo):
        return demo.settings(seeds=command.seeds)
    if command.students and command.teacher_weights:
        raise InputError(
            "--teacher-weights are of one network: score --students one by one, or let teachers be trained"
        )
    protocol = Protocol(augment=_augmentation(command, flips), **_protocol_fields(command))
    present = [name for name in SETTINGS_OPTIONS if hasattr(command, name)]
    return Settings(
        scores=SCORES.get(name_of(command), (name_of(command),)),
        protocol=protocol,
        real_protocol=_real_protocol(command, protocol, flips, dataset),
        real_accuracy=_real_accuracy(command, dataset),
        weight=getattr(command, "weight", 0.5),
        **{name: getattr(command, name) for name in present},
    )


def _defaults(name: str, arguments: list[str]) -> Any:
    """The command's options before the command line is read: the defaults, the preset's, the configuration's."""
    kind = COMMANDS[name]
    valid = [f.name for f in dataclasses.fields(kind)]
    options: dict[str, Any] = {}
    if "config" in valid and (path := _given("config", arguments)) is not None:
        config = configs.read(Path(path), set(valid) - {"notes"})
        if config.command not in (None, name):
            raise InputError(f"{path} is a configuration of {config.command}; run ddr-jax {config.command} --config …")
        said = {option: value for option in ("real", "student") if (value := _given(option, arguments)) is not None}
        options = config.merged(said) | ({"notes": config.notes} if "notes" in valid else {})
    chosen = _given("preset", arguments) or options.get("preset")
    if chosen is not None and "preset" in valid:
        preset = _preset_options(chosen, valid)
        options = preset | options | {"notes": preset["notes"] + options.get("notes", ())}
    required = (f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING)
    missing = {option: tyro.MISSING for option in required if option not in options}
    return kind(**missing | options)


def _given(option: str, arguments: list[str]) -> str | None:
    """The value of an option that has to be known before the others are read."""
    for place, argument in enumerate(arguments):
        if argument == f"--{option}" and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"--{option}="):
            return argument.split("=", 1)[1]
    return None


def _preset_options(name: str, valid: list[str]) -> dict[str, Any]:
    """A preset as options of a command that has `valid` ones."""
    preset = presets.find(name)
    protocol = dict(preset.protocol)
    if (augment := protocol.pop("augment", None)) is not None:
        protocol["augmentation"] = augment
    real = dict(preset.real)
    options = {"preset": name, **protocol, **preset.settings, "real_augmentation": real.pop("augment", None)}
    options["notes"] = (f"preset {name}: {preset.source}",)
    options["real_options"] = real or None
    return {name: value for name, value in options.items() if name in valid}


def _protocol_fields(command: Any) -> dict[str, Any]:
    values = {name: getattr(command, name) for name in PROTOCOL_OPTIONS}
    if command.notes and command.test_every is not None:  # of a preset or a file, whose epochs may be overridden
        values["test_every"] = min(command.test_every, command.epochs)
    return values


def _augmentation(command: Any, flips: bool) -> Augmentation | None:
    if command.dsa_strategy is not None:
        chosen = command.augment or ("dsa" if name_of(command) in AUGMENTED else "none")
        if chosen != "dsa":
            raise InputError(
                f"--dsa-strategy is {command.dsa_strategy!r}, but the augmentation is {chosen}: choose dsa, or leave "
                "it out"
            )
        return DSA.from_strategy(command.dsa_strategy)
    if command.augment is not None:
        return augmentation(command.augment, flips)
    if command.augmentation is not None:
        # a preset is a recipe for any data; a configuration means what it says
        return command.augmentation if flips or command.preset is None else unflipped(command.augmentation)
    return augmentation("dsa" if name_of(command) in AUGMENTED else "none", flips)


def _real_protocol(command: Any, protocol: Protocol, flips: bool, dataset: str | None) -> Protocol:
    fields: dict[str, Any] = dict(command.real_options or {})
    if command.real_recipe and dataset is not None:
        fields |= _recipe(dataset, command.student)
    given = {"epochs": command.real_epochs, "batch_size": command.real_batch_size, "lr": command.real_lr}
    fields |= {name: value for name, value in given.items() if value is not None}
    if command.real_augmentation is not None:
        fields["augment"] = command.real_augmentation
    if command.real_augment == "method":
        fields["augment"] = protocol.augment
    elif command.real_augment is not None:
        fields["augment"] = augmentation(command.real_augment, flips)
    base = real_protocol_of(protocol, fields.pop("epochs", REAL_EPOCHS))
    return dataclasses.replace(base, **fields)


def _recipe(dataset: str, student: str) -> Mapping[str, Any]:
    recipe = recipes.real_recipe(dataset, student)
    if recipe is None:
        raise InputError(
            f"ddranking has no recipe for {student} on {dataset}: leave --real-recipe out, and set --real-epochs, "
            "--real-lr and the like"
        )
    return recipe


def _real_accuracy(command: Any, dataset: str | None) -> float | None:
    accuracy = getattr(command, "real_accuracy", None)
    if accuracy != "known":
        return accuracy
    if dataset is None:
        return None
    known = recipes.known_accuracy(dataset, command.student)
    if known is None:
        raise InputError(
            f"No accuracy of {command.student} on all of {dataset} is known here: give a number to --real-accuracy, or "
            "leave it out to train"
        )
    return known.accuracy


def _absolute(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_absolute(item) for item in value)
    return str(Path(value).expanduser().absolute()) if isinstance(value, Path) else value
