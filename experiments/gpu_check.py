"""Whether every student compiles, learns the right gradients, tests and labels on a GPU, and how fast: a line a case.

Command:   python experiments/gpu_check.py --out FOLDER [--minutes 8] [--only 'ResNet-18*/bfloat16/*'] [--list]
Time:      the minutes that it is given, from the most used case to the least. The same command goes on where it
           stopped: a case is done when FOLDER holds its record for this code, JAX and device (--minutes 0 only
           writes their table).
Hardware:  one GPU and many cores, for compiling takes most of the time. On a CPU, sizes are small and tf32 is skipped.
Expected:  the last line is "N of M pass" with N = M. FOLDER/gpu_check.md, written after every case, has the figures.

A case is one network, side of images, precision and number of students, in a process of its own: if XLA aborts, that is
a line of the table. It takes a training step, tests, lets the students label as teachers do, and compares gradients and
labels with the CPU's in float64. An error is the largest norm of a difference over the norm of what is right; `allowed`
says how large it may be. Dropout cannot be drawn alike in float64, so networks that have it are differentiated in
evaluation mode. Cases compile side by side, but each has the device to itself while it is timed.

Lines that begin with "speed" time whole training loops, ours and PyTorch's (eager in channels-last with autocast, and
compiled), if PyTorch is there and sees the GPU. What a process does is in gpu_check_case.py and gpu_check_torch.py.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the package need not be installed

from ddr_jax.nets import names  # noqa: E402

SIDES = (28, 32, 64, 224)
STUDENTS = (3, 1)
PRECISIONS = ("bfloat16", "float32", "tf32")
CASE_SECONDS = 300  # after which a process on a GPU counts as hung

# What the field's papers use, and the side of their images; see `importance`.
USED = {
    **{"ConvNet-3": 32, "ResNet-18-BN": 32, "ResNet-18": 32, "torchvision-ResNet-18": 224, "ConvNet-4": 64},
    **{"VGG-11": 32, "AlexNet": 32, "MLP": 28, "LeNet": 28, "ResNet-18-BN-ImageNet": 224, "ResNet-18-BN-AP": 32},
    **{"VGG-11-BN": 32, "torchvision-ResNet-50": 224, "ConvNet-3-BN": 32, "ResNet-50-BN": 32, "ViT-6": 32},
    **{"torchvision-AlexNet": 224, "torchvision-VGG-11-BN": 224},
}
WORDS = ("sigmoid", "leakyrelu", "maxpool", "nopool", "GAP")  # of a ConvNet's name, beside the norms


@dataclass(frozen=True)
class Check:
    """One network, side of images, precision and number of students side by side."""

    net: str
    side: int
    precision: str
    students: int

    @property
    def name(self) -> str:
        """What `--list` prints and `--only` matches."""
        return f"{self.net}/{self.side}px/{self.precision}/{self.students}"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, K): digits have one channel."""
        return self.side, self.side, 1 if self.side == 28 else 3


@dataclass(frozen=True)
class Workload:
    """A training loop to be timed: batches of `batch` images, a teacher's labels for each if `teacher`."""

    net: str
    side: int
    batch: int
    students: int = 1
    classes: int = 10
    cutmix: bool = False
    optimizer: str = "sgd"
    teacher: bool = False


LARGE: dict[str, Any] = {"side": 224, "batch": 128, "classes": 1000, "cutmix": True, "optimizer": "adamw"}
WORKLOADS = {
    "ResNet-18-224px-teacher": Workload("torchvision-ResNet-18", teacher=True, **LARGE),
    "ResNet-18-224px-hard": Workload("torchvision-ResNet-18", **LARGE),
    **{f"ResNet-18-32px-{count}": Workload("ResNet-18-BN", 32, 100, count) for count in (1, 5, 10)},
    **{f"ConvNet-3-32px-{count}": Workload("ConvNet-3", 32, 100, count) for count in (1, 25)},
}
ENGINES = ("ours", "torch", "torch-compiled")


@dataclass(frozen=True)
class Speed:
    """A workload in one engine, always in bfloat16; PyTorch trains one student after another, so one is timed."""

    workload: str
    engine: str

    @property
    def name(self) -> str:
        """What `--list` prints and `--only` matches."""
        return f"speed/{self.workload}/{self.engine}"


Case = Check | Speed


def read(name: str) -> Case:
    """The case of a name."""
    if name.startswith("speed/"):
        return Speed(*name.split("/")[1:])
    net, side, precision, students = name.split("/")
    return Check(net, int(side.removesuffix("px")), precision, int(students))


@dataclass(frozen=True)
class Sizes:
    """Images of a training step, of a comparison, of a test; filters where a network lets us choose; a timing's s."""

    batch: int
    compared: int
    tests: int
    width: int
    seconds: float

    @classmethod
    def of(cls, platform: str, side: int) -> Sizes:
        """Small on a CPU, which shows that all runs and nothing else."""
        if platform == "cpu":
            return cls(batch=4, compared=4, tests=4, width=16, seconds=0.0)
        large = side > 64
        return cls(batch=32 if large else 100, compared=4 if large else 16, tests=256, width=128, seconds=0.25)


def variants() -> dict[str, list[str]]:
    """The networks by what they are but for depth, a used one first; names that mean another's network are left out."""
    found: dict[str, list[str]] = {}
    for name in sorted(names.NETS, key=lambda name: name not in USED):
        means_another = "-IN" in name or re.fullmatch(r"torchvision-ResNet-\d+-BN", name)
        if not means_another:
            found.setdefault(re.sub(r"-\d+", "", name), []).append(name)
    for word in WORDS:
        found[f"ConvNet-{word}"] = [f"ConvNet-3-{word}"]
    return found


def fits(net: str, side: int) -> bool:
    """Whether a network takes images of a side; a ViT of 3,137 tokens would need more memory than there is."""
    shape = Check(net, side, "", 1).image_shape
    return names.fits(names.find(net), shape) and not (net.startswith("ViT") and side > 64)


def home(net: str) -> int:
    """The side of the images that a network is made for, or else the least from 32 on that it takes."""
    large = "torchvision" in net or "ImageNet" in net
    return USED.get(net) or (224 if large else next(side for side in SIDES[1:] if fits(net, side)))


def importance(case: Case, first: bool = True) -> int:
    """How much rarer a case is than what people do most; the sum lets all networks come before all precisions."""
    if isinstance(case, Speed):
        return 1
    rare = 0 if case.net in USED else 2 if first else 4
    elsewhere = 0 if case.side == home(case.net) else 3
    return rare + elsewhere + min(PRECISIONS.index(case.precision), 1) + STUDENTS.index(case.students)


def every_case() -> list[Case]:
    """All cases, the most important first: each variant at all sides that it takes, other depths at their own."""
    ranked: list[tuple[int, Case]] = [
        (importance(case), case) for case in (Speed(load, engine) for load in WORKLOADS for engine in ENGINES)
    ]
    for alike in variants().values():
        for net in alike:
            first = net == alike[0]
            sides = SIDES if first else (home(net),)
            cases = [Check(net, s, p, n) for s in sides if fits(net, s) for p in PRECISIONS for n in STUDENTS]
            ranked += [(importance(case, first), case) for case in cases]
    order = list(USED)
    return [case for _, case in sorted(ranked, key=lambda pair: (pair[0], _place(pair[1], order)))]


def _place(case: Case, order: Sequence[str]) -> int:
    if isinstance(case, Speed):
        return -1
    return order.index(case.net) if case.net in order else len(order)


@dataclass
class Bench:
    """Where cases run and their records are kept, until the deadline.

    `device` is what the device machine says of itself: platform, kind, jax. `folder` is kept, `scratch` holds locks
    and the CPU's results.
    """

    device: dict[str, str]
    folder: Path
    scratch: Path
    deadline: float
    processes: int
    cases: Sequence[Case]
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    crowded: list[Case] = field(default_factory=list)  # those that had too little memory beside others
    writing: threading.Lock = field(default_factory=threading.Lock)
    comparing: dict[Path, threading.Lock] = field(default_factory=dict)

    def run(self) -> None:
        """Runs what has no record yet, as many processes at a time as there are; the crowded ones alone at the end."""
        self.records = {case.name: json.loads(self.file(case).read_text()) for case in self.cases if self.done(case)}
        self.write()
        with ThreadPoolExecutor(self.processes) as pool:
            for finished in [pool.submit(self.attempt, case) for case in self.cases if not self.done(case)]:
                finished.result()
        crowded, self.crowded, self.processes = self.crowded, [], 1
        for case in crowded:
            self.attempt(case)

    def attempt(self, case: Case) -> None:
        """Runs a case, unless there is no time left, and keeps its record."""
        if time.monotonic() > self.deadline:
            return
        record = self._skipped(case) or self._without_reference(case)
        if record is None and time.monotonic() < self.deadline:
            record = self.call(case)
        if record is None:  # cut off by the deadline
            return
        if self.processes > 1 and "RESOURCE_EXHAUSTED" in record.get("reason", ""):
            self.crowded.append(case)
            return
        with self.writing:
            self.records[case.name] = record
            self.file(case).write_text(json.dumps(record, indent=1))
            self.write()
            print(f"{case.name}: {verdict(record)}", flush=True)

    def _skipped(self, case: Case) -> dict[str, Any] | None:
        if isinstance(case, Check) and case.precision == "tf32" and self.device["platform"] == "cpu":
            return {"skipped": "CPUs have no tf32"}
        return None

    def _without_reference(self, case: Case) -> dict[str, Any] | None:
        """Sees to it that the CPU's results are there; the record of failing, if that fails."""
        if not isinstance(case, Check):
            return None
        path = reference_file(self.scratch, case, self.device["platform"])
        with self.writing:
            lock = self.comparing.setdefault(path, threading.Lock())
        with lock:
            if path.exists():
                return None
            record = self.call(case, "--reference")
        if record is None or record["passed"]:
            return None
        return record | {"reason": f"the CPU's float64: {record['reason']}"}

    def call(self, case: Case, *words: str) -> dict[str, Any] | None:
        """The record of a process that ran the case; None if the deadline ended it."""
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        if words:
            environment["JAX_PLATFORMS"] = "cpu"
        left = max(self.deadline - time.monotonic(), 1)
        limit = left if self.device["platform"] == "cpu" else min(left, CASE_SECONDS)
        given = command(case.name, self.device["platform"], self.scratch, *words)
        started = time.monotonic()
        try:
            done = subprocess.run(given, capture_output=True, text=True, timeout=limit, env=environment)
        except subprocess.TimeoutExpired:
            return None if limit == left else {"passed": False, "reason": f"no end after {CASE_SECONDS} s"}
        if done.returncode:
            return {"passed": False, "reason": reason(done)}
        return json.loads(done.stdout.splitlines()[-1]) | {"seconds": time.monotonic() - started}

    def file(self, case: Case) -> Path:
        """The record of a case, for this code on this device."""
        key = hashlib.sha256(json.dumps([self.device, code_digest()]).encode()).hexdigest()[:12]
        return self.folder / "records" / f"{case.name.replace('/', '_')}-{key}.json"

    def done(self, case: Case) -> bool:
        """Whether the case need not run again: it passed or failed or was skipped before."""
        return self.file(case).exists()

    def write(self) -> None:
        """Writes the table of what is known by now."""
        (self.folder / "gpu_check.md").write_text(table(self.device, self.cases, self.records))


def command(name: str, platform: str, scratch: Path, *words: str) -> list[str]:
    """What runs a case in a process of its own."""
    options = ["--platform", platform, "--scratch", str(scratch)]
    return [sys.executable, str(HERE / "gpu_check_case.py"), name, *options, *words]


def reference_file(scratch: Path, case: Check, platform: str) -> Path:
    """Where the CPU's gradients and labels in float64 are, for the sizes of a platform."""
    return scratch / f"{case.net}-{case.side}-{platform}-{code_digest()[:12]}.npz"


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why a process ended, in one line: its signal, and what it said last that looks like a cause."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    causes = [line for line in lines if re.search(r"Check failed|Error|RESOURCE_EXHAUSTED", line)]
    said = (causes or lines or ["nothing said"])[-1][:300]
    ended = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit {done.returncode}"
    return f"{ended}: {said}"


def allowed(precision: str, own: dict[str, float]) -> float:
    """The largest error that is rounding: `own` are the CPU's own errors in float32 and bfloat16 on the same batch.

    A network's depth and small maps decide how much rounding grows (CPU, bfloat16: ConvNet-3 0.06, VGG-11 0.7), so a
    fixed limit would pass wrong gradients of the one or fail right ones of the other. In float32, another order of
    sums may turn a ReLU or a max pool over, which is more than rounding. tf32 has three bits more than bfloat16, and
    rounds products alone. A gradient that has nothing to do with the right one has an error of 1 to 1.4.
    """
    limits = {
        "float32": max(1e-3, 20 * own["float32"]),
        "tf32": 0.005 + own["bfloat16"] / 2,
        "bfloat16": 0.02 + 2 * own["bfloat16"],
    }
    return min(0.9, limits[precision])


def code_digest() -> str:
    """A fingerprint of the package and of these scripts."""
    digest = hashlib.sha256()
    for file in [*sorted((HERE.parent / "ddr_jax").rglob("*.py")), *sorted(HERE.glob("gpu_check*.py"))]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def verdict(record: dict[str, Any]) -> str:
    """A record in a word or a reason."""
    if "skipped" in record:
        return f"skipped, {record['skipped']}"
    return "pass" if record["passed"] else f"FAILS: {record['reason']}"


def summary(records: Iterable[dict[str, Any]], count: int) -> str:
    """The last line: how many of all cases pass, and what became of the others."""
    known = list(records)
    skipped = sum("skipped" in record for record in known)
    passed = sum(record.get("passed", False) for record in known)
    failed, left = len(known) - skipped - passed, count - len(known)
    rest = [
        f"{number} {what}" for number, what in ((failed, "fail"), (skipped, "skipped"), (left, "not run yet")) if number
    ]
    return f"{passed} of {count - skipped} pass" + (f" ({', '.join(rest)})" if rest else "")


COLUMNS = {
    "gradient": ("gradients' error", "{:.1e}"),
    "labels": ("labels' error", "{:.1e}"),
    "train": ("training, images/s", "{:,.0f}"),
    "test": ("test, images/s", "{:,.0f}"),
    "label": ("labels, images/s", "{:,.0f}"),
    "peak": ("peak memory, MB", "{:,.0f}"),
    "seconds": ("all, s", "{:.0f}"),
}


def table(device: dict[str, str], cases: Sequence[Case], records: dict[str, dict[str, Any]]) -> str:
    """The Markdown of all records."""
    checks = [case for case in cases if isinstance(case, Check)]
    speeds = [case for case in cases if isinstance(case, Speed)]
    top = f"# Every student on a GPU\n\n{device['kind']}, jax {device['jax']}. Made by experiments/gpu_check.py, whose "
    top += f"head says what is done. {summary(records.values(), len(cases))}.\n"
    rows = [row(["case", "verdict", *(title for title, _ in COLUMNS.values())]), row(["---"] * (len(COLUMNS) + 2))]
    rows += [line(case.name, records[case.name], COLUMNS) for case in checks if case.name in records]
    shown = {name: COLUMNS[name] for name in ("train", "peak", "seconds")}
    timed = [row(["training loop, bfloat16", "verdict", *(title for title, _ in shown.values())]), row(["---"] * 5)]
    timed += [line(case.name, records[case.name], shown) for case in speeds if case.name in records]
    return "\n".join([top, *rows, "", "## Against PyTorch", "", *timed]) + "\n"


def line(name: str, record: dict[str, Any], columns: dict[str, tuple[str, str]]) -> str:
    """A row of a table; what was not measured stays empty."""
    figures = [form.format(record[key]) if record.get(key) is not None else "" for key, (_, form) in columns.items()]
    return row([name, verdict(record).replace("|", "\\|"), *figures])


def row(cells: Sequence[str]) -> str:
    """A row of Markdown."""
    return f"| {' | '.join(cells)} |"


def asked_device(scratch: Path) -> dict[str, str]:
    """What a process that may start JAX says of the device; this one must not, or it would hold its memory."""
    done = subprocess.run(command("device", "", scratch), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"JAX does not start: {reason(done)}")
    return json.loads(done.stdout.splitlines()[-1])


def selected(patterns: Sequence[str]) -> list[Case]:
    """The cases whose names match one of the patterns; all without patterns."""
    cases = every_case()
    return [case for case in cases if not patterns or any(fnmatch.fnmatch(case.name, p) for p in patterns)]


def main(words: Sequence[str] | None = None) -> bool:
    """Runs the command; whether nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_check"), help="folder of the table and the records")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="names with * for anything")
    parser.add_argument("--scratch", type=Path, help="folder of the CPU's results, gigabytes, kept if it is named")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 1) * 3 // 4))
    parser.add_argument("--list", action="store_true", help="print the cases and run none")
    options = parser.parse_args(words)
    deadline = time.monotonic() + 60 * options.minutes
    cases = selected(options.only)
    if options.list:
        print("\n".join(case.name for case in cases))
        return True
    (options.out / "records").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu_check-") as temporary:
        scratch = options.scratch or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        bench = Bench(asked_device(scratch), options.out, scratch, deadline, options.processes, cases)
        bench.run()
    print(summary(bench.records.values(), len(cases)))
    return all("skipped" in record or record["passed"] for record in bench.records.values())


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
