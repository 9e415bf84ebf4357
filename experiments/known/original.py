"""Runs PyTorch ddranking 0.2.0 on one distilled set: what it computes, and where it stops; ours on the same beside it.

    python experiments/known/original.py [--env /tmp/original-venv] [--work /tmp/original] [--out original.md]

The original gets an environment of its own, because it asks for numpy below 2: pip makes it, of several GB, because
torch and torchvision must be of one build, and PyPI's is the one for CUDA. It runs on the CPU all the same, and never
sees this package. Every attempt below is a process of its own with a time limit; its outcome is kept in WORK, and not
asked for again.

The set is DC's first, one image per class; of CIFAR-10 only the first 100 training and test images are used, for 20
epochs, so that a CPU suffices: the numbers show what is computed, not how good the set is. torchvision checks the MD5
of CIFAR-10's files, which a part cannot pass, so that check alone is switched off. The teacher is untrained.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[2] / "shared" / "data"
WHAT = "ddranking==0.2.0"
EPOCHS, RUNS, PART, LIMIT = 20, 2, 100, 600  # LIMIT in seconds, of one attempt
STEPS = {"optimizer": "sgd", "lr_scheduler": "step", "step_size": EPOCHS // 2}
DSA = {
    **{"flip": 0.5, "rotate": 15.0, "saturation": 2.0, "brightness": 1.0},
    **{"contrast": 0.5, "scale": 1.2, "crop": 0.125, "cutout": 0.5},
}
DSA_AS_DOCUMENTED = {
    **{"prob_flip": 0.5, "ratio_rotate": 15.0, "saturation": 2.0, "brightness": 1.0},
    **{"contrast": 0.5, "ratio_scale": 1.2, "ratio_crop_pad": 0.125, "ratio_cutout": 0.5},
}
AUGMENTED = {"data_aug_func": "dsa", "aug_params": DSA}
TAUGHT = {"teacher_model_names": ["ConvNet-3"], "loss_fn_kwargs": {"temperature": 1.0}}
SHORT = {"num_eval": 1}


@dataclass(frozen=True)
class Attempt:
    """What is asked of the original: an evaluator, its options, and those of `compute_metrics`."""

    what: str
    evaluator: str
    options: dict[str, Any] = field(default_factory=dict)
    soft_labels: bool = False


HARD, SOFT = "LabelRobustScoreHard", "LabelRobustScoreSoft"
ARS, GENERAL = "AugmentationRobustScore", "GeneralEvaluator"
EVALUATORS = (HARD, SOFT, ARS, GENERAL)
FULL = {"eval_full_data": True}
USUAL = SHORT | AUGMENTED | STEPS | FULL
TENSOR, MODE_M = {"random_data_format": "tensor"}, {"soft_label_mode": "M"}
COSINE = SHORT | AUGMENTED | TENSOR | {"lr_scheduler": "cosine"}
FILES = {"random_data_format": "image"}
BY_HARD = {"label_type": "hard"}
ATTEMPTS = (
    Attempt("DSA, all students trained: the case beside ours", HARD, AUGMENTED | STEPS | FULL),
    Attempt("defaults alone", HARD, SHORT),
    Attempt("no step_size", HARD, USUAL | {"step_size": None}),
    Attempt("DSA's parameters named as in its README", HARD, USUAL | {"aug_params": DSA_AS_DOCUMENTED}),
    Attempt("no eval_full_data: a stored accuracy of CIFAR-10", HARD, USUAL | {"eval_full_data": False}),
    Attempt("5 epochs, fewer than between its tests", HARD, USUAL | {"num_epochs": 5}),
    Attempt("ZCA", HARD, USUAL | {"use_zca": True}),
    Attempt("ConvNet without a depth", HARD, USUAL | {"model_name": "ConvNet"}),
    Attempt("stored soft labels", SOFT, USUAL | TAUGHT | TENSOR, True),
    Attempt("a teacher's labels", SOFT, USUAL | TAUGHT | TENSOR | MODE_M),
    Attempt("random data in the format of its defaults", SOFT, USUAL | TAUGHT | MODE_M),
    Attempt("hard labels, a rate in steps", ARS, SHORT | AUGMENTED | STEPS | TENSOR | BY_HARD),
    Attempt("hard labels, a rate along a cosine", ARS, COSINE | BY_HARD),
    Attempt("a teacher's labels, a rate along a cosine", ARS, COSINE | TAUGHT | MODE_M),
    Attempt("hard labels", GENERAL, SHORT | AUGMENTED | STEPS | {"teacher_model_names": ["ConvNet-3"]}),
    Attempt("a teacher's labels, random data as image files", SOFT, USUAL | TAUGHT | MODE_M | FILES),
    Attempt("a teacher's labels, a cosine, random data as image files", ARS, COSINE | TAUGHT | MODE_M | FILES),
)


# In the original's environment


def attempt(number: int, work: Path) -> dict[str, Any]:
    """Constructs the evaluator of an attempt and runs it; says how far it came."""
    import ddranking  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]
    import torchvision  # pyright: ignore[reportMissingImports]

    torchvision.datasets.cifar.check_integrity = lambda *_: True
    asked = ATTEMPTS[number]
    images = torch.from_numpy(np.load(work / "set.npz")["images"])
    call: dict[str, Any] = {"image_tensor": images}
    if asked.soft_labels:
        call["soft_labels"] = 4 * torch.eye(10)
    common = {"dataset": "CIFAR10", "real_data_path": str(work / "cifar"), "ipc": 1, "model_name": "ConvNet-3"}
    common |= {"num_epochs": EPOCHS, "num_eval": RUNS, "device": "cpu", "num_workers": 0}
    common |= {"save_path": str(work / f"{number}" / "scores.csv")}
    if "image" in asked.options.values():  # image files are read by a transformation that the user gives
        steps = torchvision.transforms
        norm = steps.Normalize([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
        common["custom_train_trans"] = steps.Compose([steps.ToTensor(), norm])
    if asked.evaluator in (SOFT, ARS, GENERAL):
        common["teacher_dir"] = str(_teacher(ddranking, work))
    stage, began, saved = "constructing", time.perf_counter(), _recorded(ddranking, asked.evaluator)
    try:
        evaluator = getattr(ddranking.metrics, asked.evaluator)(**common | asked.options)
        stage = "computing"
        found = {"computed": _plain(evaluator.compute_metrics(**call))}
    except Exception as error:
        last = [frame for frame in traceback.extract_tb(error.__traceback__) if "ddranking" in frame.filename][-1]
        place = f"{Path(last.filename).relative_to(Path(str(ddranking.__file__)).parent)}, {last.name}"
        message = str(error).strip() or "(no message)"
        found = {"stopped": f"{type(error).__name__}: {message}", "in": place, "before": saved}
    return {"stage": stage, **found, "seconds": round(time.perf_counter() - began, 1)}


def _recorded(ddranking: Any, evaluator: str) -> dict[str, list[float]]:
    """What the evaluator hands to be saved, run by run, which is lost if saving fails."""
    import importlib

    saved: dict[str, list[float]] = {}
    room = importlib.import_module(getattr(ddranking.metrics, evaluator).__module__)
    save = room.save_results

    def recording(results: dict[str, list[float]], path: str) -> None:
        saved.update({name: [float(value) for value in values] for name, values in results.items()})
        save(results, path)

    room.__dict__["save_results"] = recording
    return saved


def _teacher(ddranking: Any, work: Path) -> Path:
    import torch  # pyright: ignore[reportMissingImports]

    path = work / "teachers" / "CIFAR10" / "ConvNet-3" / "ckpt_best.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        net = ddranking.utils.build_model("ConvNet-3", num_classes=10, im_size=(32, 32), pretrained=False, device="cpu")
        torch.save(net.state_dict(), path)
    return work / "teachers"


def _plain(found: Any) -> Any:
    return None if found is None else {name: float(value) for name, value in found.items()}


# In this package's environment


def install(env: Path) -> str:
    """Makes the original's environment, unless it is there; gives the versions that pip chose."""
    python = env / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)
    # without this machine's own index and wheels, whose torch without CUDA PyPI's torchvision cannot load
    plain = os.environ | {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", WHAT], check=True, env=plain)
    code = "import importlib.metadata as m; print(', '.join(f'{p} {m.version(p)}' for p in "
    code += "('ddranking', 'torch', 'torchvision', 'kornia', 'timm', 'numpy', 'scipy', 'pandas')))"
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def write_data(work: Path, data: Path) -> None:
    """A part of CIFAR-10 as its Python batches and as `.npz`, and the set (10, 3, 32, 32), which both read."""
    whole = work / "whole.npz"
    if not whole.exists():
        subprocess.run([sys.executable, str(data / "unpack.py"), "cifar10", str(whole)], check=True, stdout=sys.stderr)
    with np.load(whole) as content:
        part = {name: content[name][:PART] for name in content}
    np.savez(work / "cifar10.npz", **part)
    folder = work / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    chunks = {f"data_batch_{i + 1}": np.arange(PART).reshape(5, -1)[i] for i in range(5)} | {"test_batch": slice(None)}
    for name, index in chunks.items():
        split = "test" if name == "test_batch" else "train"
        rows = part[f"x_{split}"][index].transpose(0, 3, 1, 2).reshape(-1, 3072)
        _pickle(folder / name, {"data": rows, "labels": part[f"y_{split}"][index].tolist()})
    _pickle(folder / "batches.meta", {"label_names": [str(c) for c in range(10)]})
    with np.load(data / "distilled" / "dcbench_dc_cifar10_ipc1.npz") as content:
        np.savez(work / "set.npz", images=content["images"][0], labels=content["labels"][0], space="normalised")


def _pickle(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(pickle.dumps(content))


def run_original(number: int, env: Path, work: Path) -> dict[str, Any]:
    """The outcome of one attempt in the original's environment, from WORK if it was made before."""
    kept = work / f"attempt-{number}.json"
    if not kept.exists():
        kept.write_text(json.dumps(_attempted(number, env, work)))
    return json.loads(kept.read_text())


def _attempted(number: int, env: Path, work: Path) -> dict[str, Any]:
    command = [
        str(env / "bin" / "python"),
        str(Path(__file__).resolve()),
        "--attempt",
        str(number),
        "--work",
        str(work),
    ]
    try:
        one_core = os.environ | {"OMP_NUM_THREADS": "1"}  # students are too small for more
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=LIMIT, cwd=work, env=one_core
        )
    except subprocess.TimeoutExpired:
        return {"stage": "computing", "stopped": f"by us, after {LIMIT} s", "in": "", "seconds": LIMIT}
    if done.returncode:
        return {"stage": "starting", "stopped": done.stderr.strip().splitlines()[-1], "in": "", "seconds": 0}
    return json.loads(done.stdout.splitlines()[-1])


def run_ours(work: Path) -> dict[str, Any]:
    """What the first attempt asks for, by the preset of that name; the accuracies, scores and seconds."""
    from dataclasses import replace

    import ddr_jax as ddr
    from ddr_jax.protocols import presets
    from ddr_jax.protocols.protocol import real

    ddr.use_cpu_cores(2)
    preset = presets.find("ddranking-0.2.0")
    protocol = presets.preset(preset.name, epochs=EPOCHS, step_size=EPOCHS // 2)
    recipe = {name: value for name, value in preset.real.items() if name != "epochs"}
    settings = dict(preset.settings) | {"seeds": RUNS, "real_protocol": replace(real(protocol, EPOCHS), **recipe)}
    began = time.perf_counter()
    dataset = ddr.load_dataset(work / "cifar10.npz")
    result = ddr.label_robust_score(
        ddr.load_distilled(work / "set.npz"), dataset, protocol, original_formula=True, **settings
    )
    seconds = round(time.perf_counter() - began, 1)
    return {"seconds": seconds, "values": {name: found[0].tolist() for name, found in result.values.items()}}


# The report


def report(versions: str, found: list[dict[str, Any]], ours: dict[str, Any]) -> str:
    """Everything as Markdown."""
    import ddr_jax

    lines = ["# The original beside us", "", f"Made by `python experiments/known/original.py` on {_machine()}."]
    lines += [f"The original: {versions}.", f"Ours: ddr_jax {ddr_jax.__version__}.", "", _about(), ""]
    lines += ["## The same set, the same settings", "", *_beside(found[0], ours), ""]
    lines += ["## What else it does, and where it stops", ""]
    lines += ["| evaluator | asked for | constructed | outcome | s |", "| --- | --- | --- | --- | --- |"]
    rows = sorted(zip(ATTEMPTS, found, strict=True), key=lambda row: EVALUATORS.index(row[0].evaluator))
    for asked, outcome in rows:
        constructed = "no" if outcome["stage"] == "constructing" else "yes" if outcome["stage"] == "computing" else "–"
        cells = (asked.evaluator, asked.what, constructed, _outcome(outcome), str(outcome["seconds"]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _about() -> str:
    return (
        f"DC's first published set of one image per class; CIFAR-10's first {PART:,} training and test images; "
        f"{EPOCHS} epochs; {RUNS} runs in the first table, one elsewhere; the device is the CPU and no worker loads "
        "data. The teacher is untrained. Figures say what is computed, not how good the set is; seconds are beside "
        "other work on two cores."
    )


def _machine() -> str:
    return f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"


def _beside(found: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    if not found.get("before"):
        return [f"The original: {_outcome(found)}"]
    theirs, values = found["before"], ours["values"]
    rows = (
        ("HLR, points", theirs["hard_label_recovery"], 100 * np.array(values["hlr"])),
        ("IOR, points", theirs["improvement_over_random"], 100 * np.array(values["ior"])),
        ("LRS, as it computes it", theirs["lrs"], np.array(values["lrs_of_percentages"])),
        ("LRS, of fractions", [], np.array(values["lrs"])),
    )
    text = ["| run by run | ddranking 0.2.0 | ours |", "| --- | --- | --- |"]
    text += [f"| {name} | {_listed(original)} | {_listed(mine)} |" for name, original, mine in rows]
    text += [f"| seconds | {found['seconds']:g} | {ours['seconds']:g} |", ""]
    return [*text, f"The original gives none of this back. It {_outcome(found)}."]


def _listed(values: Any) -> str:
    return ", ".join(f"{value:.2f}" for value in values) or "–"


def _outcome(outcome: dict[str, Any]) -> str:
    if "stopped" in outcome:
        where = f", in `{outcome['in']}`" if outcome["in"] else ""
        lost = "; every student was trained, and the scores are lost" if outcome.get("before") else ""
        return f"stops: {outcome['stopped'].replace('|', '/')}{where}{lost}"
    computed = outcome["computed"] or {}
    means = {name.removesuffix("_mean"): value for name, value in computed.items() if name.endswith("_mean")}
    return "; ".join(f"{name} {value:.2f}" for name, value in means.items()) or "returns nothing"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=Path, default=Path("/tmp/original-venv"), help="the original's environment")
    parser.add_argument("--work", type=Path, default=Path("/tmp/original"), help="data, and what the original writes")
    parser.add_argument("--data", type=Path, default=SHARED, help=f"where CIFAR-10 and the set are; default: {SHARED}")
    parser.add_argument("--out", type=Path, default=HERE / "original.md")
    parser.add_argument("--attempt", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.attempt is not None:
        print(json.dumps(attempt(options.attempt, options.work.resolve())))
        return
    versions = install(options.env)
    write_data(options.work, options.data)
    found = []
    for number, asked in enumerate(ATTEMPTS):
        found.append(run_original(number, options.env, options.work.resolve()))
        print(f"{asked.evaluator}, {asked.what}: {_outcome(found[-1])}", flush=True)
    options.out.write_text(report(versions, found, run_ours(options.work)))
    print(f"Saved {options.out}")


if __name__ == "__main__":
    main()
