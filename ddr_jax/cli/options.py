"""The options of the command line, and what they mean: commands, presets and configuration files to settings.

An option is a field of `Protocol` or `Settings`, or of the classes here that say what only the command line has. What
is not given on the command line comes from the configuration file, else from the preset, else from the default of the
field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args

import tyro
from tyro.conf import Positional, Suppress

from ddr_jax.cli import configs
from ddr_jax.protocols import demo, presets
from ddr_jax.protocols.augmentations import DSA, NAMED_AUGMENTATIONS, Augmentation, augmentation, unflipped
from ddr_jax.protocols.plain import Knob, OfArms, fields_from_plain, knobs
from ddr_jax.protocols.protocol import REAL_EPOCHS, Protocol
from ddr_jax.protocols.protocol import real as real_protocol_of
from ddr_jax.protocols.settings import Settings
from ddr_jax.scores.table import SCORES, arms_of
from ddr_jax.sweep import Machine, Sweep
from ddr_jax.types import InputError, nearest

MACHINE_OPTIONS = ("out", "cache", "store", "devices", "config", "notes")  # say nothing of what is computed
if TYPE_CHECKING:
    Named: TypeAlias = str
else:
    Named = Literal[("none", *NAMED_AUGMENTATIONS)]


@dataclass(frozen=True)
class Running(Machine):
    """Options of every command that trains."""

    key: int = 0
    """Root of all randomness."""
    out: Path | None = None
    """The JSON result; a picture and the configuration are written beside it. Default: results/COMMAND-SET.json."""
    store: bool = True
    """Look finished students up in the cache, and keep new ones there."""
    config: Path | None = None
    """A file of options: one written beside a result, your own (.yaml, .toml, .json), or one of ddranking's."""


@dataclass(frozen=True)
class Inputs:
    """What is scored, and by which preset."""

    sets: Positional[tuple[Path, ...]]
    """Distilled sets of one shape: .npz, .safetensors, .npy, .pt, or folders of images by class. A file may hold
    several runs."""
    real: str
    """Real data: digits, the name of a dataset, an .npz with x_train, y_train, x_test, y_test, or a folder
    (torchvision's ImageFolder, idx .gz, cifar-10-batches-py)."""
    preset: str | None = None
    """The protocol of a method or of ddranking itself (dc, dsa, mtt, sre2l, rded, ddranking-0.2.0 …); an unknown name
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
    data_dir: Path | None = None
    """Where tensorflow-datasets keeps its data, or a folder of images."""
    download: bool = False
    """Let tensorflow-datasets download and prepare what is missing (needs tensorflow)."""
    students: tuple[str, ...] = ()
    """Architectures to score with one after another, for a matrix of sets by architectures with mean and worst case;
    wins over --student."""


@dataclass(frozen=True)
class Training:
    """Options about training that are no fields of `Protocol` or `Settings`."""

    augment: Named | None = None
    """Augmentation of training batches. Default: the preset's or the configuration's; else dsa for scores that compare
    augmentations, none for others."""
    augmentation: Suppress[Augmentation | None] = None
    dsa_strategy: str | None = None
    """DSA's operations, joined by _. Default: all, without flip where it changes the class (digits)."""
    teacher_weights: tuple[Path, ...] = ()
    """Files with the weights of teachers of the architecture --teacher (.safetensors or PyTorch's .pt), instead of
    training."""
    real_recipe: bool = False
    """Train real-hard students and teachers by ddranking's published recipe for this data and student."""
    real_epochs: int | None = None
    """Length of the training of real-hard students and teachers. Default: 30, or the recipe's."""
    real_batch_size: int | None = None
    """Images per step of real-hard students and teachers. Default: as --batch-size, or the recipe's."""
    real_lr: tuple[float, ...] | None = None
    """Learning rate or grid of real-hard students and teachers. Default: as --lr, or the recipe's."""
    real_augment: Named | Literal["method"] | None = None
    """Augmentation of real-hard students and teachers; method is that of --augment. Default: none."""
    real_augmentation: Suppress[Augmentation | None] = None
    real_options: Suppress[dict[str, Any] | None] = None
    notes: Suppress[tuple[str, ...]] = ()


@dataclass(frozen=True)
class Compare:
    """Rank methods by results with equal settings: groups that cannot be told apart, pairs, stability."""

    results: Positional[tuple[Path, ...]]
    """JSON results, one for each method; or a single one of several sets."""
    by: Literal["result", "set"] | None = None
    """What a method is. Default: each result, or each set of a single one."""
    may_differ: tuple[str, ...] = ()
    """Settings that the results need not share, such as protocol.labels."""
    out: Path = Path("results/comparison.json")
    """The comparison as JSON."""


def _command(about: str, options: Sequence[Knob]) -> type[Any]:
    """A command: a dataclass whose fields are its options."""
    hints = [Annotated[_typed(knob), tyro.conf.arg(help=knob.doc), *knob.marks] for knob in options]
    fields = [(k.name, hint, dataclasses.field(default=k.default)) for k, hint in zip(options, hints, strict=True)]
    made = dataclasses.make_dataclass("Options", fields, frozen=True, kw_only=True)
    made.__doc__ = about
    return made


def _typed(knob: Knob) -> Any:
    """The type of an option: modules, which only Python can give, are names here."""
    if Any not in get_args(knob.hint):
        return knob.hint
    return str | None if knob.default is None else str


def _evaluation(about: str, scores: Sequence[str], chosen: bool = False) -> type[Any]:
    """A command that evaluates; `chosen` lets the user say which scores."""
    arms = arms_of(tuple(SCORES) if chosen else scores)

    def matters(knob: Knob) -> bool:
        prefixes = [mark.prefix for mark in knob.marks if isinstance(mark, OfArms)]
        return not prefixes or any(arm.startswith(prefix) for arm in arms for prefix in prefixes)

    asked = [knob._replace(default=tuple(scores)) for knob in knobs(Settings) if knob.name == "scores" and chosen]
    hidden = ("scores", "protocol", "real_protocol", "key", "given_teachers")
    settings = [knob for knob in knobs(Settings) if knob.name not in hidden and matters(knob)]
    protocol = [knob for knob in knobs(Protocol) if knob.name != "augment"]
    return _command(about, [*knobs(Running), *knobs(Inputs), *asked, *protocol, *knobs(Training), *settings])


SHORT = {"lrs": ("lrs",), "ars": ("ars",), "accuracy": ("accuracy",)}  # commands for a fixed choice of scores
COMMANDS: dict[str, type[Any]] = {
    "demo": _command(
        "Score the bundled distilled set of handwritten digits: LRS and ARS, in minutes on a CPU.",
        [*knobs(Running), *(knob for knob in knobs(Settings) if knob.name == "seeds")],
    ),
    "lrs": _evaluation("Label-robust score of distilled sets: HLR, IOR, LRS.", SHORT["lrs"]),
    "ars": _evaluation("Augmentation-robust score of distilled sets.", SHORT["ars"]),
    "score": _evaluation(
        "LRS and ARS of distilled sets, and their mean, from one population of students; or any scores.",
        ("lrs", "ars"),
        chosen=True,
    ),
    "accuracy": _evaluation("Test accuracy of students trained on distilled sets.", SHORT["accuracy"]),
    "compare": Compare,
    "sweep": Sweep,
}
TYRO = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)


def parse(arguments: list[str]) -> tuple[str, Any]:
    """The command's name and its options; tyro answers requests for help, and most mistakes, and exits.

    Raises:
        InputError: for an unknown command, option or preset, and for mistakes in a configuration file.
    """
    if not arguments or arguments[0].startswith("-"):
        about = "Robust scores for distilled datasets (DD-Ranking, arXiv 2505.13300)."
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="ddr-jax", description=about, args=arguments, config=TYRO)
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
    return name, command


def scores_of(name: str, command: Any) -> tuple[str, ...]:
    """The scores that a command computes."""
    return SHORT.get(name) or command.scores


def plain(command: Any, settings: Settings) -> dict[str, Any]:
    """The options that a configuration file repeats the command with: all but where it ran and what it wrote."""
    values = {f.name: _absolute(getattr(command, f.name)) for f in dataclasses.fields(command)}
    if hasattr(command, "real"):
        path = Path(command.real).expanduser()
        values["real"] = _absolute(path) if path.exists() else command.real
        # as they were resolved: what a name stands for may depend on the preset and on the data
        values |= {"preset": None, "dsa_strategy": None, "augment": None, "real_augment": None}
        values |= {"step_size": settings.protocol.step_size, "test_every": settings.protocol.test_every}
        values |= _resolved("augment", settings.protocol.augment)
        values |= _resolved("real_augment", settings.real_protocol.augment)
        values |= {"real_accuracy": settings.real_accuracy} if "real_accuracy" in values else {}
    return {name: value for name, value in values.items() if name not in MACHINE_OPTIONS and value not in (None, ())}


def _resolved(option: str, augment: Augmentation | None) -> dict[str, Any]:
    return {option: "none"} if augment is None else {option.replace("augment", "augmentation"): augment}


def settings(name: str, command: Any, flips: bool = True, dataset: str | None = None) -> Settings:
    """What the options ask for; `flips` and `dataset`, a name as in presets.toml, are the real data's."""
    if name == "demo":
        return demo.settings(seeds=command.seeds)
    if command.students and command.teacher_weights:
        raise InputError("--teacher-weights are of one network: leave them out, or score --students one by one")
    scores = scores_of(name, command)
    fields: dict[str, Any] = {**_protocol_fields(command), "augment": _augmentation(command, scores, flips)}
    protocol = Protocol(**fields)
    own = [knob.name for knob in knobs(Settings) if hasattr(command, knob.name) and knob.name not in ("scores", "key")]
    made = Settings(
        scores=scores,
        protocol=protocol,
        real_protocol=_real_protocol(command, protocol, flips, dataset),
        **{name: getattr(command, name) for name in own},
    )
    return made if dataset is None else presets.with_known_accuracy(made, dataset)


def _defaults(name: str, arguments: list[str]) -> Any:
    """The command's options before the command line is read: the defaults, the preset's, the configuration's."""
    kind = COMMANDS[name]
    hints = {entry.name: entry.type for entry in dataclasses.fields(kind)}
    options: dict[str, Any] = {}
    if "config" in hints and (path := _given("config", arguments)) is not None:
        config = configs.read(Path(path), {option: hint for option, hint in hints.items() if option != "notes"})
        if config.command not in (None, name):
            raise InputError(f"{path} is a configuration of {config.command}; run ddr-jax {config.command} --config …")
        said = {option: value for option in ("real", "student") if (value := _given(option, arguments)) is not None}
        options = config.merged(said) | ({"notes": config.notes} if "notes" in hints else {})
    chosen = _given("preset", arguments) or options.get("preset")
    if chosen is not None and "preset" in hints:
        preset = _preset_options(chosen, hints)
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


def _preset_options(name: str, valid: Mapping[str, Any]) -> dict[str, Any]:
    """A preset as options of a command that has `valid` ones."""
    preset = presets.find(name)
    protocol, real = dict(preset.protocol), dict(preset.real)
    options = {"preset": name, "augmentation": protocol.pop("augment", None), **protocol, **preset.settings}
    options |= {"notes": (f"preset {name}: {preset.source}",), "real_augmentation": real.pop("augment", None)}
    options["real_options"] = real or None
    return {name: value for name, value in options.items() if name in valid}


def _protocol_fields(command: Any) -> dict[str, Any]:
    """The fields of the protocol but its augmentation; a preset's drop and tests follow other epochs."""
    values = {knob.name: getattr(command, knob.name) for knob in knobs(Protocol) if knob.name != "augment"}
    if command.preset is not None:
        own = presets.find(command.preset).protocol
        if values["step_size"] == own.get("step_size"):
            values |= {"step_size": presets.for_epochs(own, command.epochs).get("step_size")}
    if command.notes and command.test_every is not None:  # of a preset or a file, whose epochs may be overridden
        values["test_every"] = min(command.test_every, command.epochs)
    return values


def _augmentation(command: Any, scores: Sequence[str], flips: bool) -> Augmentation | None:
    usual = "dsa" if any(arm.endswith("-aug") for arm in arms_of(scores)) else "none"
    if command.dsa_strategy is not None:
        if (chosen := command.augment or usual) != "dsa":
            raise InputError(f"--dsa-strategy is given, but the augmentation is {chosen}: choose dsa, or leave it out")
        return DSA.from_strategy(command.dsa_strategy)
    if command.augment is None and command.augmentation is not None:
        # a preset is a recipe for any data; a configuration means what it says
        return command.augmentation if flips or command.preset is None else unflipped(command.augmentation)
    return augmentation(command.augment or usual, flips)


def _real_protocol(command: Any, protocol: Protocol, flips: bool, dataset: str | None) -> Protocol:
    fields = fields_from_plain(Protocol, command.real_options or {}, "real_options")
    if command.real_recipe and dataset is not None:
        recipe = presets.real_recipe(dataset, command.student)
        if recipe is None:
            raise InputError(
                f"ddranking has no recipe for {command.student} on {dataset}: set --real-epochs, --real-lr and the "
                "like in place of --real-recipe"
            )
        fields |= recipe
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


def _absolute(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_absolute(item) for item in value)
    return str(Path(value).expanduser().absolute()) if isinstance(value, Path) else value
