"""One evaluation by several students: matrices, means and worst cases."""

import json
from dataclasses import replace

import numpy as np
import pytest

import ddr_jax as ddr
from ddr_jax.data.distilled import Distilled
from ddr_jax.evaluate import by_architecture
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.protocols.settings import Settings
from ddr_jax.results.cross import CrossArchitecture


@pytest.fixture(scope="module")
def crossed(real) -> CrossArchitecture:
    rng = np.random.default_rng(0)
    sets = [
        Distilled(name, rng.normal(size=(6, 8, 8, 1)).astype(np.float32), np.repeat([0, 1, 2], 2), space="normalised")
        for name in "ab"
    ]
    protocol = Protocol(width=4, epochs=2, lr=0.1)
    settings = Settings(("lrs",), protocol, replace(protocol, epochs=1), seeds=2)
    return by_architecture(sets, real, settings, ("ConvNet-1", "MLP"))


def test_each_student_is_an_evaluation_of_its_own(crossed):
    for student, result in crossed.results.items():
        assert (result.settings.protocol.student, result.settings.real_protocol.student) == (student, student)
        for name, matrix in crossed.matrices.items():
            assert matrix.shape == (2, 2, 2)
            row = matrix[list(crossed.results).index(student)]
            np.testing.assert_array_equal(row.mean(-1), [i.mean for i in result.scores[name].sets.values()])


def test_mean_and_worst_are_over_students(crossed):
    lrs, hlr = (crossed.matrices[name].mean(-1) for name in ("lrs", "hlr"))
    np.testing.assert_allclose([mean.mean for mean in crossed.means("lrs")], lrs.mean(0))
    np.testing.assert_allclose(crossed.worst("lrs"), lrs.min(0))
    np.testing.assert_allclose(crossed.worst("hlr"), hlr.max(0))  # of which less is better


def test_it_is_shown_and_saved_whole(crossed, tmp_path):
    shown = str(crossed)
    for part in ("LRS by student", "ConvNet-1", "MLP", f"{crossed.worst('lrs')[1]:.4f}"):
        assert part in shown
    crossed.save(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["scores"]["lrs"][1]["worst"] == pytest.approx(crossed.worst("lrs")[1])
    again = ddr.Result.from_json(content["results"]["MLP"])
    assert again.scores["lrs"].to_json() == crossed.results["MLP"].scores["lrs"].to_json()


@pytest.mark.parametrize("students", [("MLP",), ("MLP", "MLP")])
def test_it_takes_two_different_students(real, students):
    with pytest.raises(ddr.InputError, match="two or more different networks"):
        by_architecture([], real, Settings(("lrs",), Protocol(), Protocol()), students)
