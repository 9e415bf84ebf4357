"""A list of evaluations: what it may say, that it is measured once, and that any kill may interrupt it."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

import ddr_jax as ddr
from ddr_jax import sweep
from ddr_jax.cli.main import main
from ddr_jax.data.files import write_atomically
from ddr_jax.protocols.augmentations import DSA
from ddr_jax.sweep import Sweep
from ddr_jax.train.arms import Runner

LIST = """
further = ["colour"]

[protocol.short]
width = 4
epochs = 2

[protocol.dsa]
preset = "dsa"
width = 4
epochs = 2

[defaults]
real = "digits"
protocol = "short"
student = "ConvNet-1"
seeds = 2

[[line]]
name = "a set, of two runs"
set = "set.npz"
colour = "blue"
minutes = 2
note = "as small as can be"

[[line]]
name = "random images"
random = 1
protocol = { width = 4, epochs = 2, augment = "crop" }
minutes = 1

[[line]]
name = "whole"
whole = true
student = "MLP"
seeds = 1

[[line]]
name = "scores"
set = "set.npz"
protocol = "dsa"
scores = ["lrs", "ars"]
real_protocol = { epochs = 1 }
settings = { weight = 0.25 }
minutes = 3

[[line]]
name = "too large"
whole = true
out_of_reach = "for a reason"
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a list and a set of two runs."""
    train = ddr.load_dataset("digits").train
    index = np.concatenate([np.flatnonzero(train.labels == c)[:2] for c in range(10)]).reshape(2, 10, order="F")
    np.savez(tmp_path / "set.npz", images=train.images[index], labels=train.labels[index], space="normalised")
    (tmp_path / "list.toml").write_text(LIST)
    return tmp_path


def asked(folder, **options) -> Sweep:
    return Sweep(path=folder / "list.toml", out=folder / "out", cache=folder / "cache", devices=2, **options)


def read(folder) -> dict[str, sweep.Line]:
    return {line.name: line for line in sweep.read(folder / "list.toml", folder)}


def test_a_list_is_measured_once_and_goes_on_where_it_was_stopped(folder, monkeypatch, capsys):
    assert sweep.run(asked(folder, only="random", max_minutes=0)) == 3
    assert "0 minutes are over" in capsys.readouterr().err
    assert not json.loads((folder / "out/lines/random-images.json").read_text())["done"]
    assert sweep.run(asked(folder, only="w?ole")) == 0
    assert "1 of 5 lines measured" in capsys.readouterr().out
    assert sweep.run(asked(folder)) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^\[.*\] (.*) \.\.\.$", out, re.M) == ["random images", "a set, of two runs", "scores"]
    assert "4 of 5 lines measured" in out
    table = (folder / "out/table.md").read_text()
    assert "| too large | ConvNet-1 | out of reach |" in table
    assert "- **too large** is out of reach: for a reason" in table
    assert "- **a set, of two runs**: as small as can be" in table

    monkeypatch.setattr(sweep.Line, "measure", lambda *_: pytest.fail("trained again"))
    assert sweep.run(asked(folder)) == 0
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        sweep.run(asked(folder, only="too large"))  # out of reach there may be within it here
    (folder / "list.toml").write_text(LIST.replace("random = 1", "random = 2"))
    assert [line.name for line in sweep.plan(asked(folder)).due] == ["random images"]


def test_a_line_keeps_its_values_by_seed_and_its_whole_result(folder):
    assert sweep.run(asked(folder, only="a set*")) == sweep.run(asked(folder, only="scores")) == 0
    plain, scored = (json.loads((folder / f"out/lines/{n}.json").read_text()) for n in ("a-set-of-two-runs", "scores"))
    assert list(plain["runs"]) == ["set[0]", "set[1]"]
    np.testing.assert_allclose(np.mean(list(plain["runs"].values()), 0), plain["values"])
    result = ddr.load_result(folder / "out/results/scores.json")
    assert set(scored["values"]) == set(result.values) == {"hlr", "ior", "lrs", "ars", "joint"}
    for score, values in result.values.items():
        np.testing.assert_array_equal(scored["values"][score], values.mean(0))
    assert result.settings.weight == 0.25
    assert result.settings.real_protocol.epochs == 1
    assert result.settings.protocol.augment == DSA(operations=("scale", "rotate", "color", "crop", "cutout"))
    table = (folder / "out/table.md").read_text()
    lrs = result.scores["lrs"].overall
    assert f"| scores | ConvNet-1 | lrs | {lrs.mean:.4f} | {lrs.low:.4f} … {lrs.high:.4f} | 2 × 2 sets |" in table


def test_the_list_is_shown_without_measuring(folder, capsys):
    assert main(["sweep", str(folder / "list.toml"), "--out", str(folder / "out"), "--list"]) == 0
    assert "0 of 5 lines measured" in capsys.readouterr().out
    assert not (folder / "out").exists()


def test_another_precision_is_another_measurement(folder):
    facts = {"name": "whole", "asked": read(folder)["whole"].asked(folder), "done": True}
    write_atomically(folder / "out/lines/whole.json", json.dumps(facts).encode())
    assert set(sweep.plan(asked(folder)).records) == {"whole"}
    assert sweep.plan(asked(folder, precision="bfloat16")).records == {}
    assert Sweep(path=folder / "list.toml", precision="bfloat16").folder.name == "list-bfloat16"


def test_what_is_asked_holds_only_what_is_not_usual(folder):
    lines = read(folder)
    usual = {"real": "digits", "seeds": 2, "key": 0}
    short = {"student": "ConvNet-1", "width": 4, "epochs": 2}
    plain = lines["a set, of two runs"].asked(folder)
    assert plain == usual | {"set": "set.npz", "set_digest": plain["set_digest"], "protocol": short}
    assert lines["whole"].asked(folder) == usual | {"whole": True, "seeds": 1, "protocol": short | {"student": "MLP"}}
    scored = lines["scores"].asked(folder)
    assert {key: scored[key] for key in ("scores", "weight", "real_protocol", "augment")} == {
        **{"scores": ["lrs", "ars"], "weight": 0.25},
        **{"real_protocol": {"epochs": 1}, "augment": "dsa"},
    }


def test_draws_of_random_images_differ_and_are_the_same_again(folder):
    line, sources = read(folder)["random images"], asked(folder).sources
    first, second = (line.measure(sources, Runner())[0]["values"] for _ in range(2))
    assert first == second
    assert first[0] != first[1]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("random = 1", "randm = 1", "line 2 .'random images'.: Unknown field in line 'randm': did you mean 'random'"),
        ("random = 1", "random = 1\nwhole = true", "say one of set = FILE"),
        ("random = 1", "random = true", "line 2 .'random images'.: random is True; expected a whole number"),
        ("random = 1", "random = 0", "random is 0; expected a whole number, 1 or more"),
        ("random = 1", "random = 500", "line 'random images': random is 500, but a class of digits has"),
        ("random = 1", 'random = 1\nscores = ["lrs"]', "scores are lrs .* expected the accuracy"),
        ('set = "set.npz"\ncolour', 'set = "other.npz"\ncolour', "there is no .*other.npz"),
        ('student = "MLP"', 'student = "MLPP"', "line 3 .'whole'.: Unknown network 'MLPP'"),
        ('student = "MLP"', 'student = "ConvNet-5"', "line 'whole': ConvNet-5 leaves no pixel"),
        ('protocol = "short"\nstudent', 'protocol = "shot"\nstudent', "unknown protocol 'shot': did you mean 'short'"),
        ('preset = "dsa"', 'preset = "dsaa"', "line 4 .'scores'.: Unknown preset 'dsaa': did you mean 'dsa'"),
        ("epochs = 2, augment", "epoch = 2, augment", "'epoch': did you mean 'epochs'"),
        ("epochs = 2, augment", "epochs = 0, augment", "epochs is 0"),
        ("weight = 0.25", "weight = 25", "weight is 25"),
        ("weight = 0.25", "wait = 25", "Unknown field in settings 'wait': did you mean 'weight'"),
        ("epochs = 1 }", 'student = "MLPP" }', "Unknown network 'MLPP'"),
        ("width = 4\nepochs = 2\n\n[defaults]", 'student = "MLP"\n[defaults]', "student stands in protocol"),
        ("weight = 0.25", "seeds = 25", "seeds stands in settings; expected it beside settings"),
        ('name = "whole"', 'name = "Random images"', "stands on two lines"),
        ('name = "whole"\n', "", "line 3: has no name"),
        ("colour =", "color =", "line 1 .*: Unknown field in line 'color'"),
        ("[defaults]", "[default]", "'default': did you mean 'defaults'"),
        ("[defaults]", "[defaults", "not TOML"),
    ],
)
def test_a_mistake_in_any_line_is_told_before_anything_trains(folder, monkeypatch, capsys, old, new, message):
    assert LIST.count(old) == 1
    (folder / "list.toml").write_text(LIST.replace(old, new))
    monkeypatch.setattr(sweep.Line, "measure", lambda *_: pytest.fail("trained"))
    assert main(["sweep", str(folder / "list.toml"), "--out", str(folder / "out"), "--devices", "2"]) == 2
    assert re.search(f"^ddr-jax: error: .*{message}", capsys.readouterr().err)
    assert not list(folder.glob("out/lines/*"))


def test_mistakes_are_answered_before_jax_is_imported(tmp_path):
    code = "import sys; from ddr_jax.cli.main import main; main(['sweep', 'none.toml']); sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stderr.startswith("ddr-jax: error: none.toml: No such file")
    assert done.returncode == 0


@pytest.mark.slow
def test_any_kill_may_interrupt_a_sweep(folder):
    """Killed once its first file is there, after one student, and amid the scores."""
    moments = (
        lambda out: any(out.glob("lines/*.json")),
        lambda out: any((out / "cache").glob("students/*.json")),
        lambda out: len(list((out / "cache").glob("students/*.json"))) > 9,
    )
    for moment in moments:
        process = subprocess.Popen(command(folder, "killed"))
        while not moment(folder / "killed"):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert not (folder / "killed/results/scores.json").exists()
    for name in ("killed", "whole"):
        subprocess.run(command(folder, name), check=True)
    assert timeless(folder / "killed") == timeless(folder / "whole")


def command(folder, name) -> list[str]:
    out = folder / name
    words = [sys.executable, "-m", "ddr_jax.cli.main", "sweep", folder / "list.toml", "--out", out]
    return [str(word) for word in (*words, "--cache", out / "cache", "--devices", 1)]


def timeless(out) -> dict[str, object]:
    """The files of a sweep without times."""
    found = {}
    for path in (*out.glob("lines/*"), *out.glob("results/*")):
        content = json.loads(path.read_text())
        found[path.relative_to(out)] = {
            name: value for name, value in content.items() if name not in ("seconds", "times")
        }
    table = (out / "table.md").read_text().splitlines()
    return found | {"table": [row.rpartition(" | ")[0] or row for row in table]}
