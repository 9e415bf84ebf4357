"""The command line: options to settings, an evaluation, and its files.

Only modules without JAX are imported above the line where an evaluation begins, so that help and mistakes are
answered at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from tyro.conf import Positional

from ddr_jax import datasets, demo, distilled, report
from ddr_jax.files import check_writable
from ddr_jax.protocol import DSA, REAL_EPOCHS, Augmentation, Protocol, augmentation
from ddr_jax.protocol import real as real_protocol_of
from ddr_jax.result import Settings
from ddr_jax.types import InputError, InputWarning, RealData, nearest

if TYPE_CHECKING:
    from ddr_jax.teachers import Teachers

PROTOCOL_OPTIONS = (
    *("student", "width", "epochs", "batch_size", "optimizer", "lr", "weight_decay", "momentum", "schedule"),
    *("step_size", "labels", "loss", "temperature", "scale_loss", "readout", "test_every"),
)
MAX_CPU_DEVICES = 8  # each holds its own copy of the data

Augment = Literal["none", "dsa", "mixup", "cutmix", "crop", "resized-crop"]


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddr_jax"


@dataclass(frozen=True)
class Running:
    """Options of every command."""

    seeds: int = 5
    """Students per arm, set and rate; also random draws, one per seed."""
    key: int = 0
    """Root of all randomness."""
    out: Path | None = None
    """The JSON result; a picture is written beside it. Default: results/COMMAND-SET.json."""
    cache: Path = field(default_factory=_cache_folder)
    """Where finished students and teachers are kept and found again."""
    store: bool = True
    """Look finished students up in the cache, and keep new ones there."""
    devices: int | None = None
    """Devices used at most. Default: all accelerators, or one per CPU core up to 8."""


@dataclass(frozen=True)
class Evaluation(Running):
    """Options of the commands that score a user's sets."""

    sets: Positional[tuple[Path, ...]] = field(kw_only=True)
    """Distilled sets of one shape: .npz, .safetensors, .npy, .pt, or folders of images by class. A file may hold
    several runs."""
    real: str = field(kw_only=True)
    """Real data: digits, the name of a dataset, an .npz with x_train, y_train, x_test, y_test, or a folder
    (torchvision's ImageFolder, idx .gz, cifar-10-batches-py)."""
    size: int | None = None
    """Side that images of a folder are resized to. Default: the dataset's usual one."""
    labels_file: tuple[Path, ...] = ()
    """Labels of sets whose files hold images alone: one file for all sets, or one for each."""
    space: Literal["pixels", "normalised"] | None = None
    """What the images' numbers are, where the file does not say."""
    layout: Literal["NHWC", "NCHW"] | None = None
    """The order of the images' axes, where it cannot be told."""
    soft_labels: Literal["logits", "probabilities"] | None = None
    """What the stored soft labels are, where the file does not say."""
    student: str = "ConvNet-3"
    """Network: ConvNet-1 … ConvNet-6 (with -BN, -LN, -GN, -NN for another norm than instance norm), MLP, LeNet,
    AlexNet, VGG-11, ResNet-18-BN, torchvision-ResNet-18, ViT-6 and more: an unknown name lists its neighbours."""
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
    augment: Augment = "none"
    """Augmentation of training batches (ars needs one)."""
    dsa_strategy: str | None = None
    """DSA's operations, joined by _. Default: all, without flip where it changes the class (digits)."""
    labels: Literal["hard", "soft", "teacher"] = "hard"
    """Class indices; soft labels stored with the set; or teachers' labels of every batch."""
    loss: Literal["ce", "kl"] = "ce"
    """Cross-entropy or Kullback-Leibler divergence; both train alike."""
    temperature: float = 1.0
    """Of soft and teacher labels."""
    scale_loss: bool = False
    """Multiply the loss by the square of the temperature."""
    teachers: int = 1
    """Teachers whose logits are averaged; trained as real-hard students are."""
    teacher_weights: tuple[Path, ...] = ()
    """Files of teachers' weights (.safetensors or PyTorch's .pt, of --student and --width), instead of training."""
    readout: Literal["last", "best"] = "last"
    """last: last epoch, rate chosen on validation. best: best epoch and rate on the test set, as ddranking 0.2.0."""
    test_every: int | None = None
    """Epochs between tests. Default: the last epoch only."""
    interval: Literal["t", "bootstrap"] = "t"
    """Student's t or bias-corrected bootstrap, over seeds."""
    level: float = 0.95
    """Coverage that intervals aim at."""
    data_dir: Path | None = None
    """Where tensorflow-datasets keeps its data."""
    download: bool = False
    """Let tensorflow-datasets download and prepare what is missing (needs tensorflow)."""
    real_epochs: int = REAL_EPOCHS
    """Length of the training of real-hard students and teachers."""
    real_lr: tuple[float, ...] | None = None
    """Their learning rate or grid. Default: as --lr."""
    real_augment: Augment = "none"
    """Their augmentation."""


@dataclass(frozen=True)
class Accuracy(Evaluation):
    """Test accuracy of students trained on distilled sets."""


@dataclass(frozen=True)
class Ars(Evaluation):
    """Augmentation-robust score of distilled sets."""

    augment: Augment = "dsa"
    """Augmentation of the arms that have one."""
    weight: float = 0.5
    """γ: the share of the gain with augmentation."""


@dataclass(frozen=True)
class Lrs(Evaluation):
    """Label-robust score of distilled sets: HLR, IOR, LRS."""

    weight: float = 0.5
    """w: the share of IOR."""
    real_accuracy: float | None = None
    """A known accuracy of students of all real data, as a fraction, instead of training them."""


@dataclass(frozen=True)
class Demo(Running):
    """Score the bundled distilled set of handwritten digits: LRS and ARS, in minutes on a CPU."""


COMMANDS: dict[str, type[Running]] = {"demo": Demo, "lrs": Lrs, "ars": Ars, "accuracy": Accuracy}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0, or 2 after a message on standard error if the caller made a mistake."""
    warnings.showwarning = _show_warning
    try:
        _run(_parse(list(sys.argv[1:] if arguments is None else arguments)))
    except InputError as error:
        print(f"ddr-jax: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ddr-jax: interrupted; finished students are in the cache, if it is on", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: list[str]) -> Running:
    """The command and its options; tyro answers requests for help, and most mistakes, and exits."""
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
    if not arguments or arguments[0].startswith("-"):
        about = "Robust scores for distilled datasets (DD-Ranking, arXiv 2505.13300)."
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="ddr-jax", description=about, args=arguments, config=config
        )
    name, *rest = arguments
    if name not in COMMANDS:
        raise InputError(f"Unknown command {name!r}: {nearest(name, COMMANDS)}")
    command, unknown = tyro.cli(
        COMMANDS[name], prog=f"ddr-jax {name}", args=rest, config=config, return_unknown_args=True
    )
    if unknown:
        known = ["--" + f.name.replace("_", "-") for f in dataclasses.fields(command)]
        raise InputError(f"Unknown option {unknown[0]!r}: {nearest(unknown[0], known)}")
    return command


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if issubclass(category, InputWarning):
        print(f"ddr-jax: warning: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), file=sys.stderr, end="")


def _run(command: Running) -> None:
    out = _out_file(command)
    if not 0 <= command.key < 2**32:
        raise InputError(f"--key is {command.key}; expected a whole number from 0 to 2**32 − 1")
    _settings(command, flips=True)  # mistakes among the options are answered before data is read
    files, real = _inputs(command)
    settings = _settings(command, real.flips)
    sets = distilled.prepare(files, real)
    for folder in (out.parent, command.cache) if command.store else (out.parent,):
        check_writable(folder)
    _start_jax(command)

    import jax

    from ddr_jax import arms, evaluate, population, store

    given = _given_teachers(command, real)
    execution = dataclasses.replace(population.default_execution(), devices=command.devices)
    kept = store.Store(command.cache) if command.store else None
    with progress_bars() as on_progress:
        runner = arms.Runner(kept, execution, on_progress)
        result = evaluate.score(
            sets, real, settings, key=jax.random.key(command.key), runner=runner, given_teachers=given
        )
    picture = out.with_suffix(".png")
    result.save(out)
    report.save_picture(result, sets, real, picture)
    report.show(result)
    times = result.times
    print(f"{times['students_trained']} students trained, {times['students_reused']} reused, {times['seconds']} s")
    print(f"Result: {out}\nPicture: {picture}")


def _out_file(command: Running) -> Path:
    """Where the result goes."""
    name = type(command).__name__.lower()
    sets = command.sets if isinstance(command, Evaluation) else ()
    out = command.out or Path("results", "-".join([name, *(path.stem for path in sets[:1])]) + ".json")
    if out.suffix != ".json":
        raise InputError(f"--out is {out}; expected a name that ends in .json (the picture takes .png beside it)")
    if out.is_dir():
        raise InputError(f"--out is {out}, which is a folder; name a file in it")
    return out


def _settings(command: Running, flips: bool) -> Settings:
    if isinstance(command, Demo):
        return demo.settings(seeds=command.seeds)
    assert isinstance(command, Evaluation)
    protocol = Protocol(
        augment=_augment(command.augment, command.dsa_strategy, flips),
        **{name: getattr(command, name) for name in PROTOCOL_OPTIONS},
    )
    real_protocol = dataclasses.replace(
        real_protocol_of(protocol, command.real_epochs),
        lr=command.real_lr or command.lr,
        augment=augmentation(command.real_augment, flips),
    )
    return Settings(
        scores=(type(command).__name__.lower(),),
        protocol=protocol,
        real_protocol=real_protocol,
        real_accuracy=getattr(command, "real_accuracy", None),
        weight=getattr(command, "weight", 0.5),
        **{name: getattr(command, name) for name in ("seeds", "teachers", "interval", "level")},
    )


def _augment(name: str, strategy: str | None, flips: bool) -> Augmentation | None:
    if strategy is None:
        return augmentation(name, flips)
    if name != "dsa":
        raise InputError(f"--dsa-strategy is {strategy!r}, but the augmentation is {name}: choose dsa, or leave it out")
    return DSA.from_strategy(strategy)


def _inputs(command: Running) -> tuple[Sequence[distilled.Distilled], RealData]:
    if not isinstance(command, Evaluation):
        return demo.distilled_set(), datasets.load_dataset("digits")
    labels = command.labels_file[0] if len(command.labels_file) == 1 else command.labels_file or None
    files = distilled.load_distilled(
        *command.sets, labels=labels, space=command.space, layout=command.layout, soft=command.soft_labels
    )
    real = datasets.load_dataset(command.real, size=command.size, data_dir=command.data_dir, download=command.download)
    return files, real


def _given_teachers(command: Running, real: RealData) -> Teachers | None:
    if not isinstance(command, Evaluation) or not command.teacher_weights:
        return None
    from ddr_jax.teachers import load_teachers

    return load_teachers(*command.teacher_weights, real=real, student=command.student, width=command.width)


def _start_jax(command: Running) -> None:
    """One CPU device per core, unless an accelerator is there: each trains a student of its own."""
    from ddr_jax.population import use_cpu_cores

    use_cpu_cores(command.devices or min(os.cpu_count() or 1, MAX_CPU_DEVICES))


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar per population on standard error: arms, student-epochs, time left; gives the callback that moves it."""
    done = TextColumn("{task.percentage:3.0f} % of {task.total:,} student-epochs")
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), done, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[tuple[str, int], TaskID] = {}

        def advance(label: str, done: int, total: int) -> None:
            if (label, total) not in tasks:
                tasks[label, total] = progress.add_task(label, total=total)
            progress.advance(tasks[label, total], done)

        yield advance


if __name__ == "__main__":
    sys.exit(main())
