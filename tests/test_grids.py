"""Grids of rates extended and halved from a result's own validation accuracies."""

from dataclasses import replace

import numpy as np
import pytest

import ddr_jax as ddr
from ddr_jax import rates
from ddr_jax.data.distilled import Distilled
from ddr_jax.protocols.protocol import Protocol
from ddr_jax.protocols.settings import Settings
from ddr_jax.results.result import Result
from ddr_jax.types import ArmTable

RATES = (0.01, 0.1, 1.0)


def table(arm: str, best: int, rates=RATES) -> ArmTable:
    """Two seeds of one set, whose validation accuracy is best at the rate of that position and falls beside it."""
    validation = 0.9 - 0.1 * np.abs(np.arange(len(rates)) - best)[None, :, None, None] * np.ones((1, 1, 2, 1))
    names = np.array([[[f"{arm}{r}{s}" for s in range(2)] for r in range(len(rates))]])
    lost = np.zeros((1, len(rates), 2), bool)
    return ArmTable(arm, ("a",), rates, validation - 0.05, validation, lost, names, augmented=False)


def result(syn: int, rdm: int, real: int = 1, **changes) -> Result:
    protocol = Protocol(lr=RATES)
    settings = Settings(("lrs",), protocol, replace(protocol, lr=(0.02, 0.2)), **changes)
    tables = {"syn-any": table("syn-any", syn), "syn-hard": table("syn-hard", syn)}
    rates = settings.random_lr or RATES
    tables |= {"rdm-any": table("rdm-any", rdm, rates), "real-hard": table("real-hard", real, (0.02, 0.2))}
    sets = [{"name": "a", "label_order": "by class", "shape": [20, 8, 8, 1]}]
    return Result(settings, tables, {"real": {"name": "r", "classes": 10}, "sets": sets, "teachers": None}, {})


@pytest.mark.parametrize(
    ("syn", "rdm", "expected"),
    [(1, 2, (*RATES, 10.0)), (0, 1, (0.001, *RATES)), (0, 2, (0.001, *RATES, 10.0))],
)
def test_all_arms_get_a_rate_beyond_the_end_where_one_chose(syn, rdm, expected):
    longer = rates.extended(result(syn, rdm))
    assert longer.protocol.lr == expected
    assert longer.real_protocol.lr == (0.02, 0.2, 2.0)


def test_a_grid_whose_best_rates_lie_inside_stays():
    inside = result(1, 1)
    tables = inside.tables | {"real-hard": table("real-hard", 1, (0.01, 0.02, 0.2))}
    assert rates.extended(replace(inside, tables=tables)) is None


def test_a_grid_of_one_arm_alone_is_left_as_it_was_given():
    longer = rates.extended(result(1, 1, random_lr=(0.5, 0.7)))
    assert longer.protocol.lr == RATES
    assert longer.random_lr == (0.5, 0.7)


def test_halving_tries_a_quarter_of_the_epochs_and_keeps_what_any_arm_found_better():
    settings = Settings(("lrs",), Protocol(lr=(1.0, 0.1, 0.01), epochs=40, test_every=20), Protocol(lr=(0.02, 0.2)))
    short = rates.shortened(settings)
    assert (short.protocol.epochs, short.protocol.test_every, short.protocol.lr) == (10, 10, (1.0, 0.1, 0.01))
    assert rates.halved(settings, result(0, 0)).protocol.lr == (0.1, 0.01)
    assert rates.halved(settings, result(0, 2)).protocol.lr == (1.0, 0.1, 0.01)
    assert rates.halved(settings, result(0, 0, real=0)).real_protocol.lr == (0.02,)
    own = replace(settings, random_lr=RATES)
    kept = rates.halved(own, result(0, 2, random_lr=RATES))
    assert (kept.protocol.lr, kept.random_lr) == ((0.1, 0.01), (0.1, 1.0))


@pytest.fixture
def mine():
    rng = np.random.default_rng(0)
    return Distilled(
        "mine", rng.normal(size=(6, 8, 8, 1)).astype(np.float32), np.repeat([0, 1, 2], 2), space="normalised"
    )


def test_an_evaluation_extends_its_grid_and_trains_no_student_twice(real, mine):
    protocol = Protocol(student="ConvNet-1", width=4, epochs=1, lr=(1e-6, 1e-5))
    found = ddr.accuracy(mine, real, protocol, seeds=2, extend_grid=2)
    assert found.settings.protocol.lr in ((1e-6, 1e-5, 1e-4, 1e-3), (1e-8, 1e-7, 1e-6, 1e-5), (1e-7, 1e-6, 1e-5, 1e-4))
    assert found.data["asked_rates"]["protocol"] == [1e-6, 1e-5]
    assert found.times["students_trained"] == 4 * 2
    assert found.times["students_reused"] == 0


def test_students_of_an_earlier_evaluation_are_counted_once_over_all_rounds(real, mine, tmp_path):
    protocol = Protocol(student="ConvNet-1", width=4, epochs=1, lr=(1e-6, 1e-5))
    ddr.accuracy(mine, real, protocol, seeds=2, store=tmp_path, extend_grid=1)
    found = ddr.accuracy(mine, real, protocol, seeds=2, store=tmp_path, extend_grid=2)
    assert (found.times["students_trained"], found.times["students_reused"]) == (2, 3 * 2)


def test_students_that_halving_cannot_shorten_are_trained_once(real, mine):
    protocol = Protocol(student="ConvNet-1", width=4, epochs=4, lr=(1e-3, 1e-2, 0.1))
    of_real = replace(protocol, epochs=1, lr=(0.1,))
    found = ddr.label_robust_score(mine, real, protocol, seeds=2, halving=True, real_protocol=of_real)
    kept = len(found.settings.protocol.lr)
    assert found.times["students_trained"] == (1 + 2 * (3 + kept)) * 2
    assert found.times["students_reused"] == 0


def test_an_evaluation_halves_its_grid(real, mine):
    protocol = Protocol(student="ConvNet-1", width=4, epochs=4, lr=(1e-3, 1e-2, 0.1, 1.0))
    found = ddr.accuracy(mine, real, protocol, seeds=2, halving=True)
    assert len(found.settings.protocol.lr) == 2
    assert found.times["students_trained"] == (4 + 2) * 2
    with pytest.raises(ddr.InputError, match="three rates or more"):
        ddr.accuracy(mine, real, replace(protocol, lr=(0.1, 0.2)), halving=True)
