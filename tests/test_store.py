import chex
import numpy as np
import pytest

from ddr_jax.train.store import Store, identity
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
