"""The command line: an evaluation from its options, and its files.

Only modules without JAX are imported above the line where an evaluation begins, so that help and mistakes are
answered at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from ddr_jax import sweep
from ddr_jax.cli import configs, options
from ddr_jax.data import datasets, distilled
from ddr_jax.data.files import check_writable
from ddr_jax.protocols import demo
from ddr_jax.results import comparison, pictures, render
from ddr_jax.types import DistilledSets, InputError, InputWarning, RealData


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its status, or 2 after a message on standard error if the caller made a mistake."""
    return answer(lambda: _command(list(sys.argv[1:] if arguments is None else arguments)), "ddr-jax")


def answer(work: Callable[[], int], program: str) -> int:
    """The status of some work: its own, 2 after the message of an InputError, 130 where it was interrupted."""
    warnings.showwarning = functools.partial(_show_warning, program)
    try:
        return work()
    except InputError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted; finished students are in the cache, if it is on", file=sys.stderr)
        return 130


def _command(arguments: list[str]) -> int:
    name, command = options.parse(arguments)
    if name == "sweep":
        return sweep.run(command, bars=progress_bars)
    _compare(command) if name == "compare" else _run(name, command)
    return 0


def _show_warning(program, message, category, filename, lineno, file=None, line=None) -> None:
    if issubclass(category, InputWarning):
        print(f"{program}: warning: {message}", file=sys.stderr)
    else:
        print(warnings.formatwarning(message, category, filename, lineno, line), file=sys.stderr, end="")


def _compare(command: options.Compare) -> None:
    check_writable(_json(command.out).parent)
    compared = comparison.compare_results(
        comparison.load_results(*command.results), by=command.by, may_differ=command.may_differ
    )
    compared.save(command.out)
    print(f"{compared}\nComparison: {command.out}")


def _run(name: str, command: Any) -> None:
    sets = getattr(command, "sets", ())
    out = _json(command.out or Path("results", "-".join([name, *(path.stem for path in sets[:1])]) + ".json"))
    if not 0 <= command.key < 2**32:
        raise InputError(f"--key is {command.key}; expected a whole number from 0 to 2**32 − 1")
    options.settings(name, command)  # mistakes among the options are answered before data is read
    files, real = _inputs(name, command)
    settings = options.settings(name, command, real.flips, real.name)
    sets = distilled.prepare(files, real)
    _check_ipc(getattr(command, "ipc", None), sets)
    for folder in (out.parent, sweep.cache_folder(command)) if command.store else (out.parent,):
        check_writable(folder)
    runner = sweep.start(command, command.store)

    import jax

    from ddr_jax import evaluate
    from ddr_jax.results.cross import CrossArchitecture
    from ddr_jax.train.teachers import load_teachers

    for note in getattr(command, "notes", ()):
        print(f"ddr-jax: {note}", file=sys.stderr)
    students, weights = getattr(command, "students", ()), getattr(command, "teacher_weights", ())
    with progress_bars() as on_progress:
        asked = {"key": jax.random.key(command.key), "runner": dataclasses.replace(runner, on_progress=on_progress)}
        if students:
            found = evaluate.by_architecture(sets, real, settings, students, **asked)
        else:
            protocol = settings.teacher_protocol
            network = {"real": real, "student": protocol.student, "width": protocol.width}
            given = load_teachers(*weights, **network) if weights else None
            found = evaluate.evaluate(sets, real, settings, **asked, given_teachers=given)
    found.save(out)
    config, picture = out.with_suffix(".yaml"), out.with_suffix(".png")
    configs.write(config, name, options.plain(command, settings))
    if isinstance(found, CrossArchitecture):
        print(f"{found}\nResult: {out}\nConfiguration: {config}")
        return
    pictures.save_picture(found, sets, real, picture)
    found.show()
    times = found.times
    print(f"{times['students_trained']} students trained, {times['students_reused']} reused, {times['seconds']} s")
    print(f"Result: {out}\nPicture: {picture}\nConfiguration: {config}")


def _json(out: Path) -> Path:
    """Where a result goes."""
    if out.suffix != ".json" or out.is_dir():
        raise InputError(f"--out is {out}; expected a file whose name ends in .json (a picture takes .png beside it)")
    return out


def _inputs(name: str, command: Any) -> tuple[Sequence[distilled.Distilled], RealData]:
    if name == "demo":
        return demo.distilled_set(), datasets.load_dataset("digits")
    labels = command.labels_file[0] if len(command.labels_file) == 1 else command.labels_file or None
    files = distilled.load_distilled(
        *command.sets, labels=labels, space=command.space, layout=command.layout, soft=command.soft_labels
    )
    real = datasets.load_dataset(
        command.real, size=command.size, data_dir=command.data_dir, download=command.download, zca=command.zca
    )
    return files, real


def _check_ipc(ipc: int | None, sets: DistilledSets) -> None:
    counts = np.bincount(sets.labels[0])
    if ipc is not None and (counts != ipc).any():
        raise InputError(
            f"ipc is {ipc}, but {sets.names[0]} has {counts.min()} to {counts.max()} images per class: is it the right "
            "set? Leave --ipc out to score it all the same"
        )


class _Speed(ProgressColumn):
    """Images trained on per second, lately."""

    def render(self, task: Task) -> Text:
        """The rate as text."""
        return Text("" if task.speed is None else f"{task.speed:,.0f} images/s")


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar per population on standard error: arms, images per second, time left; gives the callback that moves it."""
    share = TextColumn("{task.percentage:3.0f} %")
    label = TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
    columns = (label, BarColumn(bar_width=20), share, _Speed(), TimeRemainingColumn())
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = render.WIDTH
    with Progress(*columns, console=console, expand=True) as progress:
        tasks: dict[tuple[str, int], TaskID] = {}

        def advance(label: str, done: int, total: int) -> None:
            if (label, total) not in tasks:
                tasks[label, total] = progress.add_task(label, total=total)
            progress.advance(tasks[label, total], done)

        yield advance


if __name__ == "__main__":
    sys.exit(main())
