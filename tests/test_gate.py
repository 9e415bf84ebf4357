"""The gate: six commands give the JSON that they gave before the house was rebuilt, but for times and the code digest.

`DDR_JAX_GATE=save pytest tests/test_gate.py` saves what they give now; do that only where numbers are meant to change.
"""

import gzip
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

import ddr_jax as ddr
from ddr_jax.cli import main

SAVED = Path(__file__).parent / "gate"
QUICK = "--real digits --width 8 --epochs 6 --batch-size 16 --seeds 2 --devices 2 --real-epochs 2 --real-lr 0.1"
COMMANDS = {
    "demo": "demo --seeds 2 --devices 2",
    "hard": f"lrs hard.npz {QUICK} --student ConvNet-2 --lr 0.03 0.1 --augment dsa --test-every 2 --fresh-at-drop",
    "soft": f"lrs soft.npz {QUICK} --student ConvNet-2 --lr 0.1 --labels soft --temperature 2 --scale-loss",
    "teacher": f"lrs hard.npz {QUICK} --student ConvNet-1-BN --lr 0.01 --labels teacher --loss kl --temperature 4 "
    "--teachers 2 --optimizer adamw --weight-decay 0.01 --schedule cosine --warmup 1 --clock step --augment cutmix "
    "--hard-lr 0.02 --random-lr 0.01 0.03",
    "ars": f"ars hard.npz {QUICK} --student ConvNet-2 --lr 0.1 --weight 0.3 --baseline k-means --readout best "
    "--test-every 3 --optimizer adam --schedule cosineannealing",
    "accuracy": f"accuracy hard.npz {QUICK} --students ConvNet-1 MLP ConvNet-1-BN --lr 0.1 --percent",
}


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """Sets of two real digits per class, with hard labels, and with soft ones as well, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    train = ddr.load_dataset("digits").train
    index = np.concatenate([np.flatnonzero(train.labels == c)[:2] for c in range(10)])
    images, labels = train.images[index], train.labels[index]
    logits = np.random.default_rng(0).normal(size=(20, 10)) + 4 * np.eye(10)[labels]
    ddr.save_distilled("hard.npz", images, labels, space="normalised")
    ddr.save_distilled("soft.npz", images, labels, logits.astype(np.float32), space="normalised", soft="logits")


def without_times(content):
    """A result without what may differ: times, code, versions; students numbered in order of appearance."""
    if "results" in content:
        return content | {"results": {name: without_times(one) for name, one in content["results"].items()}}
    number: dict[str, int] = {}
    rows = [row | {"student": number.setdefault(row["student"], len(number))} for row in content["students"]]
    environment = {name: value for name, value in content["environment"].items() if name not in ("code", "versions")}
    kept = {name: value for name, value in content.items() if name != "times"}
    return kept | {"students": rows, "environment": environment}


def whole_results(content):
    return list(content["results"].values()) if "results" in content else [content]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_gives_the_numbers_it_gave(name):
    assert main.main([*COMMANDS[name].split(), "--out", "r.json"]) == 0
    found = without_times(json.loads(Path("r.json").read_text()))
    file = SAVED / f"{name}.json.gz"
    if os.environ.get("DDR_JAX_GATE") == "save":
        file.write_bytes(gzip.compress(json.dumps(found, indent=1).encode(), mtime=0))
    saved = json.loads(gzip.decompress(file.read_bytes()))
    for ours, before in zip(whole_results(found), whole_results(saved), strict=True):
        if ours["environment"] == before["environment"]:
            continue
        # another processor or JAX rounds differently: what was asked, and which students there are, is the same
        assert (ours["settings"], ours["data"]) == (before["settings"], before["data"])
        assert ours.keys() == before.keys()
        for row, expected in zip(ours["students"], before["students"], strict=True):
            for field in ("arm", "set", "seed", "lr", "augmented", "student"):
                assert row[field] == expected[field]
            assert row["accuracy"] == pytest.approx(expected["accuracy"], abs=0.25)
        return
    assert found == saved
