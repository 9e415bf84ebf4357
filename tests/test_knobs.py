"""A new knob is one field, a new score one row: both then reach the command line, files, presets and results."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np

from ddr_jax.train.store import PACKAGE

KNOB = '''class Numbers:
    """What is fed to a program, a row for each student."""

    sparkle: Annotated[float, NOT_NEGATIVE] = 0.25
    """A knob of this test."""
'''
SCORE = """
    "gain": Score(("syn-any", "rdm-any"), metrics.improvement_over_random, "a score of this test"),
}
"""
PRESET = """
[preset.made-up]
summary = "of this test"
source = "this test"
protocol = { epochs = 2, sparkle = 0.5 }
settings = { scores = ["gain"] }
"""
SCRIPT = """
import json, sys
from ddr_jax.cli import main, options
from ddr_jax.protocols.presets import preset

def settings(*words):
    return options.settings(*options.parse(["score", "mine.npz", "--real", "digits", *words]))

said = settings("--sparkle", "0.75", "--scores", "gain")
assert (said.protocol.sparkle, said.scores) == (0.75, ("gain",))
open("own.yaml", "w").write("sparkle: 1\\nscores: gain\\n")
filed = settings("--config", "own.yaml")
assert (filed.protocol.sparkle, filed.scores) == (1.0, ("gain",))
named = settings("--preset", "made-up")
assert (named.protocol.sparkle, named.scores, preset("made-up").sparkle) == (0.5, ("gain",), 0.5)
small = ["--student", "MLP", "--width", "2", "--seeds", "2", "--devices", "1"]
words = ["score", "mine.npz", "--real", "digits", "--preset", "made-up", *small, "--out", "r.json"]
assert main.main(words) == 0
assert main.main(["score", "mine.npz", "--real", "digits", "--sparkle", "-1"]) == 2
"""


def changed(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_a_made_up_knob_and_score_reach_the_command_line_a_file_a_preset_and_a_result(tmp_path):
    package = tmp_path / "ddr_jax"
    shutil.copytree(PACKAGE, package)
    changed(package / "protocols" / "protocol.py", KNOB.split("    sparkle")[0], KNOB)
    table = package / "scores" / "table.py"
    rows = table.read_text().partition("SCORES: dict[str, Score] = {")[2].partition("\n}\n")[0]
    changed(table, rows + "\n}\n", rows + SCORE)
    presets = package / "protocols" / "presets.toml"
    presets.write_text(presets.read_text() + PRESET)
    images = np.random.default_rng(0).normal(-1, 0.1, (10, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(10), space="normalised")
    place = {"PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a score of this test" in done.stdout
    assert "sparkle is -1.0; expected finite and 0 or more" in done.stderr
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["settings"]["protocol"]["sparkle"] == 0.5
    assert result["scores"]["gain"]["n"] == 2
    assert "sparkle: 0.5" in (tmp_path / "r.yaml").read_text()
