import os
import subprocess
import sys

import jax
import pytest

from ddr_jax.train.devices import use_compilation_cache
from ddr_jax.types import InputWarning

# Trains a student and prints its weights' digest, and how many programs came from the folder.
CODE = """
import sys
from pathlib import Path
import jax, numpy as np
from ddr_jax.train import devices
devices.MIN_SECONDS = 0
devices.use_compilation_cache(Path(sys.argv[1]))
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name.endswith("cache_hits")))
from ddr_jax.train.arms import Arm, Runner, TrainingSet, train_arms
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.data.spaces import Normalised
from ddr_jax.types import RealData, Split, fingerprint
rng = np.random.default_rng(0)
labels = np.arange(8, dtype=np.int32) % 2
images = rng.normal(size=(8, 8, 8, 1)).astype(np.float32)
split, one = Split(images, labels), np.ones(1, np.float32)
real = RealData("noise", split, None, split, Normalised(0 * one, one), num_classes=2, flips=True)
training = TrainingSet("set", images, np.eye(2, dtype=np.float32)[labels])
protocol = Protocol(student="ConvNet-1", width=4, epochs=2)
arm = Arm("syn-any", protocol, ((training,),), keep=True)
finished = train_arms([arm], real, key=jax.random.key(0), runner=Runner())
print(fingerprint(*jax.tree.leaves(finished.weights)), sum(hits))
"""


def start(folder):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    command = [sys.executable, "-W", "error", "-c", CODE, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    weights, hits = done.stdout.split()
    return weights, int(hits)


def test_a_second_start_loads_its_programs_and_gives_the_same_bits(tmp_path):
    first, second = start(tmp_path), start(tmp_path)
    assert first[1] == 0
    assert second[1] >= 3  # at least to start, to train and to test
    assert first[0] == second[0]


@pytest.fixture
def no_cache():
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_folder_that_jax_was_told_of_stays(no_cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    use_compilation_cache(tmp_path / "ours")
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "own")
    assert not (tmp_path / "ours").exists()


def test_a_folder_that_cannot_be_made_is_told_and_not_used(no_cache, tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(InputWarning, match="Cannot keep compiled programs"):
        use_compilation_cache(tmp_path / "file" / "below")
    assert jax.config.values["jax_compilation_cache_dir"] is None
