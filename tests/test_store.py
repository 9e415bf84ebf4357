import re
import shutil

import chex
import numpy as np
import pytest

from ddr_jax.train.store import NUMERICS, PACKAGE, Store, code_digest, identity
from ddr_jax.types import InputWarning


def test_identity_depends_on_every_fact_and_not_on_their_order():
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    assert identity({"a": 1, "b": 2}) != identity({"a": 1, "b": 3})


def test_a_kept_student_is_found_again(tmp_path):
    store = Store(tmp_path)
    variables = {"params": {"head": {"bias": np.float32([1, 2])}}}
    store.put("s", {"seed": 0}, {"test": [0.5]}, variables)
    assert store.record("s") == {"test": [0.5]}
    chex.assert_trees_all_equal(store.weights("s"), variables)


def test_an_unknown_student_is_not_found(tmp_path):
    assert Store(tmp_path).record("s") is None
    assert Store(tmp_path).weights("s") is None


def test_a_corrupt_record_is_trained_anew_with_a_warning(tmp_path):
    store = Store(tmp_path)
    store.put("s", {}, {"test": [0.5]})
    (tmp_path / "students" / "s.json").write_text('{"rec')
    with pytest.warns(InputWarning, match=r"s\.json is unreadable"):
        assert store.record("s") is None


def test_corrupt_weights_are_trained_anew_with_a_warning(tmp_path):
    store = Store(tmp_path)
    store.put("s", {}, {"test": [0.5]}, {"params": {"bias": np.float32([1])}})
    (tmp_path / "weights" / "s.safetensors").write_bytes(b"half")
    with pytest.warns(InputWarning, match=r"s\.safetensors.*training that student anew"):
        assert store.weights("s") is None


def test_a_changed_line_in_any_file_that_computes_numbers_changes_the_code_digest(tmp_path):
    copy = tmp_path / "ddr_jax"
    shutil.copytree(PACKAGE, copy)
    before = code_digest(copy)
    for name in ("augment", "nets", "protocols", "train"):
        for file in (copy / name).rglob("*.py"):
            text = file.read_text()
            file.write_text(text + "# changed\n")
            code_digest.cache_clear()
            assert code_digest(copy) != before, file
            file.write_text(text)
    code_digest.cache_clear()
    assert code_digest(copy) == before


def test_what_computes_a_student_is_in_the_folders_of_the_code_digest():
    # what else these modules import gives data, whose digests are facts, or words
    waiting, seen = ["train.arms", "train.population"], set()
    while waiting:
        module = waiting.pop()
        path = PACKAGE / f"{module.replace('.', '/')}.py"
        if module not in seen and path.exists():
            seen.add(module)
            waiting += re.findall(r"from ddr_jax\.([\w.]+) import", path.read_text())
            for folder, names in re.findall(r"from ddr_jax\.(\w+) import ([\w, ]+)", path.read_text()):
                waiting += [f"{folder}.{name.split(' as ')[0].strip()}" for name in names.split(",")]
    outside = {module for module in seen if module.split(".")[0] not in NUMERICS}
    assert {module.split(".")[0] for module in outside} <= {"types", "data", "scores"}
    assert {"augment.dsa", "train.losses", "train.optim", "protocols.protocol"} <= seen
