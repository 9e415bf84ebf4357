"""How fast whole evaluations are here and in PyTorch, how time grows, what compiling and memory take.

Command:   python experiments/throughput.py --data cifar10.npz            all parts, ConvNet-3 of width 32
           python experiments/throughput.py --data cifar10.npz --width 128 --runs 1 --parts a b    the original's width
           python experiments/throughput.py --data cifar10.npz --full --precision bfloat16 --out experiments/h100
                                                        on a GPU: 1,000 epochs, 10,000 test images
           (cifar10.npz holds x_train, y_train, x_test, y_test; "noise" needs no file; parts a and b need torch)
Time:      20 minutes on two idle cores, 11 of them the original's loop; one run at width 128 takes 6; with --full on an
           H100 parts a, b, c and f take 2.
Hardware:  CPU (two cores were planned for), or one GPU.
Expected:  the 35 trainings of a label-robust score at 1.8 times the speed of the original's loop with its test passes,
           and the 30 on small sets at 6 times with ours (issue 4); on an H100 137 and 648 times as fast, with compiling
           98 and 226. The tables go to throughput.md, the picture to throughput.png, beside this file.

Parts:
  a  LRS with hard labels, `--runs` times, as PyTorch ddranking 0.2.0 runs it: per run one training on the distilled
     set, one on real data, five on a random set (a grid of rates), each tested every `--test-every` epochs. Its package
     takes no smaller test set, so original_loop.py beside this file is its training and test loop written anew. Epochs
     and test images are fewer than the original's, the same on both sides and in its proportion: 1,000 test images per
     epoch of training.
  b  the same, ours, tested after the last epoch only.
  c  images and operations per second, and their share of a matrix product's in the same process.
  d  how time grows with students P, sets D, images N and epochs.
  e  a process from its start to its first trained and tested epoch, without and with a compilation cache; and that no
     work was optimised away: the convolutions and products in the compiled text of the training loop are counted.
  f  peak memory of the processes that ran the other parts.

Every timed call returns all final weights or all accuracies, which are summed into a checksum.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import glob
import importlib.metadata
import importlib.util
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from measuring import BATCH, CLASSES, IPC, LAYERS, RATES, Ours, Sizes, busy, device_name, load, section

FULL = {"width": 128, "epochs": 1000, "test_every": 10, "test_images": 10000, "real_images": 40000}
WORK = r"\bconvolution\(|\bdot\(|__cudnn\$conv|__cublas\$|__triton_gemm|conv/(?:convolve|gradient)/pallas_call"
# Of the weights' gradients and the logits: three convolutions and the head forward, their weights' gradients, and
# those of their inputs but for the first layer's.
LEAST_WORK = 3 * (LAYERS + 1) - 1


# One process for each side, which waits while the other measures.


def process(side: str, sizes: Sizes, **environment: str) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"), _begin, (side, sizes, environment))


def _begin(side: str, sizes: Sizes, environment: dict[str, str]) -> None:
    global engine
    os.environ.update(environment)  # before JAX is imported
    if side == "ours":
        engine = Ours(sizes, os.cpu_count() or 1)
    else:
        from original_loop import Original

        engine = Original(sizes, load(sizes))


def _answer(method: str, *arguments: Any) -> Any:
    return getattr(engine, method)(*arguments)


def ask(side: ProcessPoolExecutor, method: str, *arguments: Any) -> Any:
    return side.submit(_answer, method, *arguments).result()


# Parts: each gives a section of the table.


def whole(sizes: Sizes, original: ProcessPoolExecutor, ours: ProcessPoolExecutor, parts: str) -> dict[str, Any]:
    """LRS on both sides, ours between the runs of the original."""
    runs = [["shorter"]] if sizes.full else [["run", number] for number in range(sizes.runs)]
    half = (len(runs) + 1) // 2
    answers = [ask(original, *run) for run in runs[:half]]
    entries = {part: ask(ours, "lrs", part == "a") for part in "ab" if part in parts}
    answers += [ask(original, *run) for run in runs[half:]]
    compiling = max(entry["compiling"] for entry in entries.values())  # the same programs serve both
    total = {
        "seconds": sum(sum(run["seconds"].values()) for run in answers),
        "real": sum(run["seconds"].get("real", 0.0) for run in answers),
        "compiling": 0.0,
        "accuracy": {a: float(np.mean([run["accuracy"][a] for run in answers])) for a in answers[0]["accuracy"]},
    }
    return {"PyTorch": total} | {part: entry | {"compiling": compiling} for part, entry in entries.items()}


def ratios(entries: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """The original's seconds over ours: all trainings, with compilation too, and those on small sets alone."""
    found, theirs = {}, entries["PyTorch"]
    for part, ours in entries.items():
        if part != "PyTorch":
            alone = (theirs["seconds"] - theirs["real"]) / (ours["seconds"] - ours["real"])
            with_compiling = theirs["seconds"] / (ours["seconds"] + ours["compiling"])
            found[part] = (theirs["seconds"] / ours["seconds"], with_compiling, alone)
    return found


def lrs_section(sizes: Sizes, entries: dict[str, Any]) -> str:
    names = {"PyTorch": "the original's loop, in PyTorch"}
    names |= {"a": "ours, with its test passes", "b": "ours, tested after the last epoch"}
    small, every = sizes.runs * (1 + len(RATES)), sizes.runs * sum(sizes.arms.values())
    real = f"Real-data trainings: {sizes.real_images // CLASSES * CLASSES} images."
    if sizes.full:
        real = "Accuracy on real data taken as known. The original: one training of a 20th of the epochs, multiplied."
    said = (
        f"Runs: {sizes.runs}. ConvNet-{LAYERS} of width {sizes.width}, {CLASSES * IPC} images with DSA, "
        f"{sizes.epochs} epochs, {sizes.test_images} test images every {sizes.test_every} epochs. {real} The "
        "original's loop is written anew from its specification. Its DataLoader starts 4 workers an epoch. "
        "Seconds exclude compiling, which stands beside them."
    )
    rows = [["", f"all {every} trainings, s", "compiling, s", "real data's part, s", "accuracy syn"]]
    rows[0] += ["random, best rate", "real", "times as fast", "with compiling", f"{small} on small sets"]
    found = ratios(entries)
    for name, entry in entries.items():
        cells = [names[name], *(f"{entry[key]:.1f}" for key in ("seconds", "compiling", "real"))]
        accuracy = entry["accuracy"]
        cells += [f"{accuracy[arm]:.3f}" if arm in accuracy else "" for arm in ("syn", "random", "real")]
        rows.append([*cells, *([f"{ratio:.2f}×" for ratio in found.get(name, ())] or [""] * 3)])
    return section("a, b: label-robust score, hard labels, as the original runs it", said, rows)


def speed_section(values: dict[str, float], precision: str) -> str:
    said = (
        f"{values['students']} students; operations counted from the network's shapes (convolutions and the head; "
        f"norms, pools and augmentation take time but do not count). Peak: a square matrix product, {precision}."
    )
    rows = [["", "images/s", "GFLOP/s", "of the peak"]]
    for name, images, flops in (("training", "trained", "train_flops"), ("testing", "tested", "test_flops")):
        share = values[flops] / values["peak"]
        rows.append([name, f"{values[images]:.0f}", f"{values[flops] / 1e9:.1f}", f"{share:.0%}"])
    rows.append(["matrix product", "", f"{values['peak'] / 1e9:.1f}", "100%"])
    return section("c: speed of the arithmetic", said, rows)


def growth_section(found: dict[str, list[tuple[int, float]]]) -> str:
    rows = [["quantity", "value: seconds", "4 times the quantity takes"]]
    for name, points in found.items():
        cells = [name, "; ".join(f"{value}: {seconds:.2f}" for value, seconds in points)]
        rows.append([*cells, f"{points[-1][1] / points[0][1]:.2f} times as long"])
    said = "Seconds of warm populations, DSA on, tested once, one quantity doubled at a time."
    return section("d: growth", said, rows)


def start_section(sizes: Sizes) -> str:
    """Two fresh processes that share a compilation cache; the first one's compiled text is kept and counted."""
    rows, sums = [["start", "seconds", "of which compiling or reading the cache"]], []
    with tempfile.TemporaryDirectory() as folder:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={folder}/text --xla_dump_hlo_as_text".strip()
        for name in ("first", "second"):
            start = time.perf_counter()
            small = dataclasses.replace(sizes, test_images=min(BATCH, sizes.test_images))
            with process("ours", small, JAX_COMPILATION_CACHE_DIR=f"{folder}/cache", XLA_FLAGS=flags) as ours:
                sums.append(ask(ours, "population", 1, 1, CLASSES * IPC, 1, None, 1)[1])
                seconds = [time.perf_counter() - start, ask(ours, "facts")["compiling"]]
            rows.append([name, *(f"{value:.1f}" for value in seconds)])
        counts = counted(Path(folder) / "text")
    if sums[0] != sums[1]:
        raise AssertionError(f"two processes gave weights of different checksums: {sums}")
    told = ", ".join(f"{count} × {name}" for name, count in sorted(counts.items()))
    told += f"; at least {LEAST_WORK} were expected. Checksum {sums[0]:.6g}."
    table = section("e: start", "From the process's start to one epoch trained and tested.", rows)
    return f"{table}\n\nIn the compiled training loop: {told}"


def counted(folder: Path) -> dict[str, int]:
    """Convolutions and products by kind, in the compiled text that has most; raises if there are too few."""
    found: dict[str, int] = {}
    for path in glob.glob(f"{folder}/*after_optimizations.txt"):
        kinds = [match.strip("(") for match in re.findall(WORK, Path(path).read_text())]
        counts = {kind: kinds.count(kind) for kind in kinds}
        found = max(found, counts, key=lambda c: sum(c.values()))
    if sum(found.values()) < LEAST_WORK:
        raise AssertionError(f"the compiled training holds {found}: work was optimised away, or is named otherwise")
    return found


def memory_section(facts: dict[str, dict[str, Any]]) -> str:
    rows = [["", "host, MB", "largest data worker, MB", "device, MB"]]
    for name, values in facts.items():
        amounts = [values["host"] / 1024, values["children"] / 1024, values["device"] / 1e6]
        rows.append([name, *(f"{amount:.0f}" if amount else "" for amount in amounts)])
    return section("f: peak memory", "Of the processes that ran the parts above, data and libraries included.", rows)


def draw(shown: dict[str, Any], title: str, path: Path) -> None:
    """Bars of the ratios, and curves of growth: those that were measured."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = {name: panel for name, panel in (("ratios", _ratios), ("growth", _growth)) if shown.get(name)}
    if not panels:
        return
    size = (5.5 * len(panels), 4.2)
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for (name, panel), axis in zip(panels.items(), axes[0], strict=True):
        panel(shown[name], axis)
        axis.legend(frameon=False)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _ratios(found: dict[str, tuple[float, float, float]], axis: Any) -> None:
    names = {"a": "with the original's\ntest passes", "b": "tested after\nthe last epoch"}
    kinds = ["without compiling", "compiling included", "small sets only"]
    if all(ratios[0] == ratios[2] for ratios in found.values()):  # no training on real data
        kinds.pop()
    places, width = np.arange(len(found)), 0.8 / len(kinds)
    for number, label in enumerate(kinds):
        heights = [ratios[number] for ratios in found.values()]
        drawn = axis.bar(places + number * width, heights, 0.95 * width, label=label)
        axis.bar_label(drawn, [f"{height:.1f}×" for height in heights], fontsize=8)
    axis.set_xticks(places + width * (len(kinds) - 1) / 2, [names[part] for part in found])
    axis.set(ylabel="times as fast as PyTorch", title="Label-robust score, hard labels")


def _growth(found: dict[str, list[tuple[int, float]]], axis: Any) -> None:
    for name, points in found.items():
        factors, seconds = zip(*((value / points[0][0], seconds) for value, seconds in points), strict=True)
        axis.plot(factors, np.array(seconds) / seconds[0], "o-", label=f"{name} (from {points[0][0]})")
    axis.plot([1, 4], [1, 4], "k:", lw=1, label="in proportion")
    axis.set(xscale="log", yscale="log", xlabel="times as much", ylabel="times as long", title="Growth")
    for set_ticks in (axis.set_xticks, axis.set_yticks):
        set_ticks([1, 2, 4], ["1", "2", "4"])
        set_ticks([], minor=True)


def head(facts: dict[str, dict[str, Any]], load_before: float, sizes: Sizes, parts: Sequence[str]) -> str:
    names = ["jax", "flax", "numpy"] + (["torch"] if "PyTorch" in facts else [])
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    layout = f"; PyTorch in its faster format, {facts['PyTorch']['layout']}" if "PyTorch" in facts else ""
    text = (
        f"# Throughput\n\n{device_name(facts['ours']['kind'])}; {versions}; {datetime.date.today()}; load average "
        f"{load_before:.1f} at the start. {sizes.precision}; data: {Path(sizes.data).name}; ours runs as "
        f"{facts['ours']['execution']}{layout}. Made by experiments/throughput.py --parts {' '.join(parts)}."
    )
    if busy(load_before):
        text += "\n\n**The machine was busy: these times are not to be relied on.**"
    return text


def parsed(arguments: Sequence[str] | None) -> tuple[Sizes, str, Path]:
    """What is trained, the parts, and where the table goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list("abcdef"), default=list("abcdef"))
    parser.add_argument("--data", default="noise", help='.npz of CIFAR-10, or "noise" of its shape')
    for name in ("width", "runs", "epochs", "test_every", "test_images", "real_images"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=argparse.SUPPRESS)
    parser.add_argument("--precision", default="float32", choices=["float32", "tf32", "bfloat16"])
    parser.add_argument("--full", action="store_true", help="the original's sizes, and real data's accuracy known")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the table and the picture")
    options = vars(parser.parse_args(arguments))
    parts, out = "".join(options.pop("parts")), options.pop("out")
    if set("ab") & set(parts) and importlib.util.find_spec("torch") is None:
        parser.error("torch cannot be imported: install it, or leave parts a and b out")
    return Sizes(**(FULL if options["full"] else {}) | options), parts, out


def measure(sizes: Sizes, parts: str) -> tuple[list[str], dict[str, Any], dict[str, dict[str, Any]]]:
    """Sections of the table, what the picture shows, and facts about the processes."""
    sections, shown, facts = [], {}, {}
    with process("ours", sizes) as ours, contextlib.ExitStack() as stack:
        if set("ab") & set(parts):
            original = stack.enter_context(process("original", sizes))
            entries = whole(sizes, original, ours, parts)
            facts["PyTorch"], shown["ratios"] = ask(original, "facts"), ratios(entries)
            sections.append(lrs_section(sizes, entries))
        if "c" in parts:
            sections.append(speed_section(ask(ours, "speed"), sizes.precision))
        if "d" in parts:
            shown["growth"] = ask(ours, "growth")
            sections.append(growth_section(shown["growth"]))
        facts["ours"] = ask(ours, "facts")
    if "e" in parts:
        sections.append(start_section(sizes))
    if "f" in parts:
        sections.append(memory_section(facts))
    return sections, shown, facts


def main(arguments: Sequence[str] | None = None) -> None:
    sizes, parts, out = parsed(arguments)
    load_before = os.getloadavg()[0]
    if busy(load_before):
        print(f"throughput: warning: the load average is {load_before:.1f}: the machine is busy", file=sys.stderr)
    sections, shown, facts = measure(sizes, parts)
    text = "\n\n".join([head(facts, load_before, sizes, parts), *sections]) + "\n"
    (out / "throughput.md").write_text(text)
    draw(shown, f"{device_name(facts['ours']['kind'])}, {sizes.precision}", out / "throughput.png")
    print(text)


if __name__ == "__main__":
    main()
