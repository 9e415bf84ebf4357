"""The runner of known accuracies: its list, what it keeps, and the comparison that its table shows."""

import importlib.util
import json
import math
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import ddr_jax as ddr
from ddr_jax.train.arms import Runner

SCRIPT = Path(__file__).parents[1] / "experiments" / "known" / "run.py"
LEADERBOARD = SCRIPT.with_name("leaderboard.py")
LIST = """
[protocol.short]
width = 4
epochs = 2

[[line]]
name = "a set, stored"
real = "digits"
set = "set.npz"
protocol = "short"
student = "ConvNet-1"
seeds = 2
published = "acc_ConvNet"
cost = "cheap"
note = "as small as can be"

[[line]]
name = "random images"
real = "digits"
random = 1
protocol = { width = 4, epochs = 2, augment = "crop" }
student = "ConvNet-1"
seeds = 2
published = 0.3
spread = 0.04
n = 4
minutes = 2

[[line]]
name = "whole"
real = "digits"
whole = true
protocol = { width = 4, epochs = 1 }
student = "MLP"
seeds = 1

[[line]]
name = "too large"
real = "digits"
whole = true
protocol = "short"
out_of_reach = "for a reason"
"""


BOARD = """
[protocol.dsa]
preset = "dsa"
width = 4
epochs = 2

[[line]]
name = "a method"
real = "digits"
set = "set.npz"
protocol = "dsa"
student = "ConvNet-1"
seeds = 2
hlr = 0.5
ior = -0.02
real_hard = [
    { name = "augmented", accuracy = 0.9, source = "here" },
    { name = "plain", accuracy = 0.8, source = "there" },
]
cost = "cheap"
"""


def load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def known():
    yield load("known_run", SCRIPT)
    del sys.modules["known_run"]


@pytest.fixture(scope="module")
def board(known):
    sys.modules["run"] = known  # as it is imported beside it
    yield load("known_leaderboard", LEADERBOARD)
    del sys.modules["known_leaderboard"], sys.modules["run"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder with a set of two runs and the accuracies that its authors stored, and a list beside it."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    train = ddr.load_dataset("digits").train
    index = np.concatenate([np.flatnonzero(train.labels == c)[:2] for c in range(10)]).reshape(2, 10, order="F")
    stored = {"acc_ConvNet": np.array([0.1, 0.2, 0.5, 0.6]), "space": "normalised"}
    np.savez(tmp_path / "set.npz", images=train.images[index], labels=train.labels[index], **stored)
    (tmp_path / "list.toml").write_text(LIST)
    return tmp_path


def command(known, folder, *options) -> int:
    places = ["--data", folder, "--out", folder / "out", "--work", folder / "work", "--cache", folder / "cache"]
    return known.main([str(word) for word in (folder / "list.toml", *places, "--devices", 2, *options)])


def test_agreement_is_two_standard_errors_of_both_or_one_point(known):
    ours = known.summarise(np.array([0.28, 0.32]))  # mean 0.3, standard error 0.02
    far = known.compare(ours, known.Published(0.36, 0.015, 1, 0.015))
    assert far.difference == pytest.approx(-0.06)
    assert far.z == pytest.approx(-0.06 / math.hypot(0.02, 0.015))
    assert not far.agrees
    assert known.compare(ours, known.Published(0.26, error=0.015)).agrees  # 1.6 standard errors
    close = known.summarise(np.array([0.3, 0.3001]))
    assert known.compare(close, known.Published(0.2905)).agrees  # less than one point, 191 standard errors
    assert known.compare(known.summarise(np.array([0.3])), known.Published(0.31)).z is None


def test_our_spread_stands_in_for_one_that_was_not_published(known):
    ours = known.summarise(np.array([0.28, 0.32]))
    assert known.compare(ours, known.Published(0.34)).z == pytest.approx(-2)
    assert known.compare(ours, known.Published(0.34, n=2)).z == pytest.approx(-0.04 / math.hypot(0.02, 0.02))


def test_stored_accuracies_of_several_runs_have_the_error_of_just_these_runs(known, folder):
    published = known.stored(folder / "set.npz", "acc_ConvNet", "here")
    assert published.mean == pytest.approx(0.35)
    assert published.n == 4
    within = 0.1 / math.sqrt(2)  # the deviation of either run's two accuracies
    assert published.error == pytest.approx(math.hypot(within, within) / math.sqrt(2) / 2)


def test_a_list_is_measured_once_and_goes_on_where_it_was_stopped(known, folder, monkeypatch, capsys):
    assert command(known, folder, "--only", "stored", "--max-minutes", 0) == 3
    assert not json.loads((folder / "out/lines/a-set-stored.json").read_text())["done"]
    assert command(known, folder, "--cost", "cheap") == 0
    assert "1 of 4 lines measured" in capsys.readouterr().out
    readme = folder / "README.md"
    readme.write_text(f"before\n{known.BEGIN}\nold\n{known.END}\nafter\n")
    assert command(known, folder, "--list", "--readme", readme) == 0
    assert "1 of 4 lines measured" in readme.read_text()
    assert "| not measured: about 2 minutes on two cores |" in readme.read_text()
    assert command(known, folder, "--readme", readme) == 0
    table = (folder / "out/table.md").read_text()
    assert readme.read_text() == f"before\n{known.BEGIN}\n{table}{known.END}\nafter\n"
    assert "35.00 ± 23.80 (4)" in table
    assert "2 × 2 sets" in table
    assert "out of reach: for a reason" in table
    assert "3 of 4 lines measured" in table
    assert "of the 2 with a published value" in table

    monkeypatch.setattr(known, "measure", lambda *_: pytest.fail("trained again"))
    assert command(known, folder) == 0
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        command(known, folder, "--only", "too large")  # out of reach there may be within it here
    changed = LIST.replace("random = 1", "random = 2")
    (folder / "list.toml").write_text(changed)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        command(known, folder)


def test_the_leaderboards_scores_follow_each_reading_of_real_hard(known, board, folder, monkeypatch):
    (folder / "list.toml").write_text(BOARD)
    readme = folder / "README.md"
    readme.write_text(f"{known.BEGIN}\nkept\n{known.END}\n{board.BEGIN}\n{known.END}\n")
    options = [
        "--data",
        folder,
        "--out",
        folder / "out",
        "--cache",
        folder / "cache",
        "--readme",
        readme,
        "--devices",
        2,
    ]
    command = [str(word) for word in (folder / "list.toml", *options)]
    assert known.main(command, board.leaderboard()) == 0
    record = json.loads((folder / "out/lines/a-method.json").read_text())
    entry = board.leaderboard().read(folder / "list.toml", folder)[0]
    assert entry.training(True).lr == (0.01,)  # of the preset
    augmented, plain, improvement = board.scores(entry, record)
    arms = {name: np.array(values) for name, values in record["values"].items()}
    np.testing.assert_allclose(augmented.ours, 0.9 - arms["syn-hard"])
    np.testing.assert_allclose(augmented.ours - plain.ours, 0.1)
    np.testing.assert_allclose(improvement.ours, arms["syn-any"] - arms["rdm-any"])
    table = (folder / "out/table.md").read_text()
    assert readme.read_text() == f"{known.BEGIN}\nkept\n{known.END}\n{board.BEGIN}\n{table}{known.END}\n"
    assert "| -2.00 |" in table
    monkeypatch.setattr(ddr, "label_robust_score", lambda *_, **__: pytest.fail("trained again"))
    assert known.main(command, board.leaderboard()) == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hlr = 0.5", "hlr = 52", "hlr is 52; expected a fraction"),
        ("ior = -0.02\n", "", "has no ior"),
        ('source = "here"', 'sauce = "here"', "unknown key 'sauce': did you mean 'source'"),
        ('preset = "dsa"', 'preset = "dsaa"', "Unknown preset 'dsaa': did you mean 'dsa'"),
        ("seeds = 2", "seed = 2", "unknown key 'seed': did you mean 'seeds'"),
    ],
)
def test_a_mistake_in_a_line_of_the_leaderboard_is_told(board, folder, old, new, message):
    (folder / "list.toml").write_text(BOARD.replace(old, new))
    with pytest.raises(ddr.InputError, match=message):
        board.leaderboard().read(folder / "list.toml", folder)


def test_draws_of_random_images_differ_and_are_the_same_again(known, folder):
    line = known.read_list(folder / "list.toml", folder)[1]
    sources = known.Sources(folder, folder / "work")
    first, second = (known.measure(line, sources, Runner())["values"] for _ in range(2))
    assert first == second
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("random = 1", "randm = 1", "line 2 .'random images'.: unknown key 'randm': did you mean 'random'"),
        ("random = 1", "random = 1\nwhole = true", "say one of set = FILE"),
        ("random = 1", "random = true", "random is True; expected int"),
        ("random = 1", "random = 500", "line 'random images': random is 500, but a class of digits has"),
        ('set = "set.npz"', 'set = "other.npz"', "there is no .*other.npz"),
        ('student = "MLP"', 'student = "MLPP"', "line 3 .'whole'.: Unknown network 'MLPP'"),
        ('student = "MLP"', 'student = "ConvNet-5"', "line 'whole': ConvNet-5 leaves no pixel"),
        ('protocol = "short"\nout', 'protocol = "shot"\nout', "unknown protocol 'shot': did you mean 'short'"),
        ("epochs = 1 }", "epoch = 1 }", "protocol: unknown key 'epoch': did you mean 'epochs'"),
        ("epochs = 1 }", "epochs = 0 }", "epochs is 0"),
        ('"acc_ConvNet"', '"acc_Convnet"', "holds no 'acc_Convnet': did you mean 'acc_ConvNet'"),
        ("published = 0.3", "published = 30", "published is 30; expected a fraction"),
        ("n = 4\n", "", "published, spread and n belong together"),
        ('name = "whole"', 'name = "Random images"', "stands on two lines"),
        ('cost = "cheap"', 'cost = "cheep"', "unknown cost 'cheep'"),
    ],
)
def test_a_mistake_in_any_line_is_told_before_anything_trains(known, folder, monkeypatch, capsys, old, new, message):
    assert LIST.count(old) == 1
    (folder / "list.toml").write_text(LIST.replace(old, new))
    monkeypatch.setattr(known, "measure", lambda *_: pytest.fail("trained"))
    assert command(known, folder) == 2
    assert re.search(f"^known: error: .*{message}", capsys.readouterr().err)
    assert not list(folder.glob("out/lines/*"))


def test_the_lists_of_the_project_are_sound(known, board, shared):
    entries = board.leaderboard().read(SCRIPT.with_name("leaderboard.toml"), shared / "data")
    assert {entry.cost for entry in entries} == {"cheap", "long"}
    lines = known.read_list(SCRIPT.with_name("known.toml"), shared / "data")
    distilled = {line.set for line in lines}
    assert {f"distilled/{path.name}" for path in (shared / "data/distilled").glob("*.npz")} <= distilled
