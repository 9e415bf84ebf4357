"""Known accuracies: what their lists add to a sweep, what was measured, and the comparison that the table shows."""

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
from ddr_jax import sweep
from ddr_jax.data import baselines

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
protocol = "short"
published = 0.3
spread = 0.04
n = 4
minutes = 2
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
    places = ["--data", folder, "--out", folder / "out", "--cache", folder / "cache"]
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
    published = known.stored(folder / "set.npz", "acc_ConvNet")
    assert published.mean == pytest.approx(0.35)
    assert published.n == 4
    within = 0.1 / math.sqrt(2)  # the deviation of either run's two accuracies
    assert published.error == pytest.approx(math.hypot(within, within) / math.sqrt(2) / 2)


def test_the_table_sets_ours_beside_the_published_and_goes_into_a_readme(known, folder, capsys):
    readme = folder / "README.md"
    readme.write_text("no place\n")
    assert command(known, folder, "--cost", "cheap", "--readme", readme) == 2
    assert "has no place for the table" in capsys.readouterr().err
    readme.write_text(f"before\n{known.BEGIN}\nold\n{known.END}\nafter\n")
    assert command(known, folder, "--cost", "cheap", "--readme", readme) == 0
    table = (folder / "out/table.md").read_text()
    assert readme.read_text() == f"before\n{known.BEGIN}\n{table}{known.END}\nafter\n"
    assert "| 2 × 2 sets | 35.00 ± 23.80 (4) |" in table
    assert "| not measured: about 2 minutes on two cores |  | 30.00 ± 4.00 (4) |" in table
    assert "1 of 2 lines measured; " in table
    assert "of the 1 with a published value agree" in table
    readme.write_text(f"{known.BEGIN}\n{known.END}\n")
    assert command(known, folder, "--list", "--readme", readme) == 0
    assert readme.read_text() == f"{known.BEGIN}\n{table}{known.END}\n"


def test_real_data_that_a_script_unpacks_is_unpacked_once(known, tmp_path):
    (tmp_path / "cifar10").mkdir()
    digits = Path(ddr.__file__).parent / "data" / "bundled" / "digits.npz"
    script = f"import shutil, sys; assert sys.argv[1] == 'cifar10'; shutil.copy({str(digits)!r}, sys.argv[2])"
    (tmp_path / "unpack.py").write_text(script)
    assert known.Sources(tmp_path, tmp_path / "work").real("cifar10", None).num_classes == 10
    (tmp_path / "unpack.py").write_text("raise SystemExit('unpacked again')")
    assert known.Sources(tmp_path, tmp_path / "work").real("cifar10", "kip").image_shape == (8, 8, 1)
    (tmp_path / "mnist").mkdir()
    with pytest.raises(ddr.InputError, match="failed: unpacked again"):
        known.Sources(tmp_path, tmp_path / "work").real("mnist", None)


def test_the_leaderboards_scores_follow_each_reading_of_real_hard(known, board, folder):
    (folder / "list.toml").write_text(BOARD)
    readme = folder / "README.md"
    readme.write_text(f"{known.BEGIN}\nkept\n{known.END}\n{board.BEGIN}\n{known.END}\n")
    options = (folder / "list.toml", "--data", folder, "--out", folder / "out", "--cache", folder / "cache")
    assert board.main([str(word) for word in (*options, "--readme", readme, "--devices", 2)]) == 0
    record = json.loads((folder / "out/lines/a-method.json").read_text())
    (entry,) = sweep.read(folder / "list.toml", folder, board.Entry)
    augmented, plain, improvement = board.scores(entry, record)
    arms = {name: np.array(values) for name, values in record["values"].items()}
    np.testing.assert_allclose(augmented.ours, 0.9 - arms["syn-hard"])
    np.testing.assert_allclose(augmented.ours - plain.ours, 0.1)
    np.testing.assert_allclose(improvement.ours, arms["syn-any"] - arms["rdm-any"])
    table = (folder / "out/table.md").read_text()
    assert readme.read_text() == f"{known.BEGIN}\nkept\n{known.END}\n{board.BEGIN}\n{table}{known.END}\n"
    assert "| -2.00 |" in table


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hlr = 0.5", "hlr = 52", "hlr is 52.0; expected a fraction"),
        ("ior = -0.02\n", "", "has no ior"),
        ('source = "here"', 'sauce = "here"', "Unknown field in real_hard 'sauce': did you mean 'source'"),
        ("accuracy = 0.9", "accuracy = 90", "accuracy is 90"),
    ],
)
def test_a_mistake_in_a_line_of_the_leaderboard_is_told(board, folder, old, new, message):
    (folder / "list.toml").write_text(BOARD.replace(old, new))
    with pytest.raises(ddr.InputError, match=message):
        sweep.read(folder / "list.toml", folder, board.Entry)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"acc_ConvNet"', '"acc_Convnet"', "holds no 'acc_Convnet': did you mean 'acc_ConvNet'"),
        ("published = 0.3", "published = 30", "published is 30.*; expected a fraction"),
        ("published = 0.3", 'published = "acc_ConvNet"', "is read from the set, with its spread and its n"),
        ("n = 4\n", "", "published, spread and n belong together"),
        ('cost = "cheap"', 'cost = "cheep"', "Unknown cost 'cheep'"),
    ],
)
def test_a_mistake_about_what_was_published_is_told(known, folder, capsys, old, new, message):
    assert LIST.count(old) == 1
    (folder / "list.toml").write_text(LIST.replace(old, new))
    assert command(known, folder) == 2
    assert re.search(f"^known: error: .*{message}", capsys.readouterr().err)
    assert not list(folder.glob("out/lines/*"))


def test_what_the_projects_lists_ask_for_is_what_was_measured(known, board, shared):
    """Every committed record is found, and says what its line asks for."""
    for name, kind, done in (
        ("known", known.Line, 50),
        ("dc_again_epochs", known.Line, 2),
        ("leaderboard", board.Entry, 4),
        ("mtt_rates", known.Line, 0),
    ):
        options = known.Options(path=SCRIPT.with_name(f"{name}.toml"), data=shared / "data")
        plan = sweep.plan(options, kind)
        asked = {line.slug: line.asked(shared / "data") for line in plan.lines}
        records = {path.stem: json.loads(path.read_text()) for path in options.folder.glob("lines/*.json")}
        assert {slug: record["asked"] for slug, record in records.items()} == {slug: asked[slug] for slug in records}
        assert len(plan.records) == len(records) == done


def test_every_shared_set_is_on_the_list(known, shared):
    distilled = {line.set for line in sweep.read(SCRIPT.with_name("known.toml"), shared / "data", known.Line)}
    assert {f"distilled/{path.name}" for path in (shared / "data/distilled").glob("*.npz")} <= distilled


def test_any_sweep_reads_the_list_of_known_accuracies(shared):
    lines = sweep.read(SCRIPT.with_name("known.toml"), shared / "data")
    assert {type(line) for line in lines} == {sweep.Line}


@pytest.mark.parametrize("name", ["digits", "fashion_mnist_ipc1", "fashion_mnist_ipc10"])
def test_the_lists_of_the_ranking_name_what_each_method_trains_on(name):
    rank = load("rank", SCRIPT.parents[1] / "ranking" / "rank.py")
    lines = sweep.plan(rank.Options(path=SCRIPT.parents[1] / "ranking" / f"{name}.toml"), rank.Method).lines
    assert {line.name: line.coreset for line in lines if line.coreset} == {name: name for name in baselines.BASELINES}
    assert sum(line.set is not None for line in lines) == 1
