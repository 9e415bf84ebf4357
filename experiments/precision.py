"""Whether coarser arithmetic changes what an evaluation finds: bfloat16, and tf32 on a GPU, against float32.

Command:   python experiments/precision.py
Time:      3 minutes on two busy cores for the defaults (small networks: a CPU computes bfloat16 slowly). Not run on a
           GPU yet, where tf32 is compared too and `--width 128 --epochs 1000` is meant.
Expected:  on a CPU, bfloat16 within noise on the distilled digits (−0.004, from −0.013 to +0.005) and just outside
           it on the random ones (−0.013, from −0.025 to −0.001), against deviations of 0.035 and 0.043 over seeds:
           no ground to make it a default. Written to experiments/precision.md with --write.

Students of the bundled distilled digits and of as many random real images are trained at one rate, with the same
seeds at each precision, so that a student and its coarser twin start from the same weights and see the same batches.
A difference is the mean over seeds of twin minus student on the test set, with a 95 % interval of Student's t. It is
outside the noise if the interval leaves 0 out. Beside it stands the deviation over seeds of float32 itself: how much
one number of an evaluation varies anyway. An interval that contains 0 shows no more than that a shift would be
smaller than its ends.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import jax
import numpy as np

import ddr_jax as ddr
from ddr_jax.protocols import demo
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.scores.intervals import t_interval
from ddr_jax.train import devices
from ddr_jax.types import ArmTable

ARMS = {"syn-any": "distilled digits", "rdm-any": "random digits"}


def tables(options: argparse.Namespace, precision: str) -> dict[str, ArmTable]:
    """The accuracies of both arms at one precision."""
    default = devices.default_execution()
    execution = ddr.Execution(default.mode, test_batch=default.test_batch, precision=precision)
    protocol = Protocol(width=options.width, epochs=options.epochs, lr=(0.1,))
    result = ddr.label_robust_score(
        demo.distilled_set(),
        ddr.load_dataset("digits"),
        protocol,
        key=jax.random.key(0),
        execution=execution,
        seeds=options.seeds,
        real_accuracy=0.98,
    )
    return result.tables


def row(arm: str, precision: str, coarse: np.ndarray, fine: np.ndarray) -> str:
    """A line of the table, from the accuracies (S,) at that precision and in float32."""
    difference = t_interval(coarse - fine)
    verdict = "within noise" if difference.low <= 0 <= difference.high else "outside noise"
    return (
        f"| {ARMS[arm]} | {precision} | {fine.mean():.4f} | {fine.std(ddof=1):.4f} | {difference.mean:+.4f} | "
        f"{difference.low:+.4f} to {difference.high:+.4f} | {verdict} |"
    )


def measure(options: argparse.Namespace) -> str:
    """The table, in Markdown."""
    device = jax.devices()[0]
    coarser = ("bfloat16",) if device.platform == "cpu" else ("tf32", "bfloat16")
    found = {precision: tables(options, precision) for precision in ("float32", *coarser)}
    lines = [
        f"ConvNet-3 of {options.width} filters, {options.epochs} epochs, 100 images of 8×8, {options.seeds} seeds, "
        f"{device.device_kind}, JAX {jax.__version__}.",
        "",
        "| students of | precision | float32's accuracy | its deviation | difference | 95 % interval | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm in ARMS:
        fine = found["float32"][arm].test[0, 0, :, -1]
        lines += [row(arm, precision, found[precision][arm].test[0, 0, :, -1], fine) for precision in coarser]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="write experiments/precision.md")
    options = parser.parse_args()
    ddr.use_cpu_cores(os.cpu_count() or 1)
    table = measure(options)
    print(table)
    if options.write:
        about = "# Coarser arithmetic against float32\n\nWritten by `precision.py`, which says what is compared.\n\n"
        Path(__file__).with_suffix(".md").write_text(about + table)


if __name__ == "__main__":
    main()
