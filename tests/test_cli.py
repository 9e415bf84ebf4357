import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import get_args, get_type_hints

import jax
import numpy as np
import pytest

import ddr_jax as ddr
from ddr_jax.cli import main, options
from ddr_jax.data import datasets
from ddr_jax.protocols import augmentations, presets
from ddr_jax.train import devices

QUICK = ["--student", "ConvNet-1", "--width", "4", "--epochs", "2", "--real-epochs", "1", "--seeds", "2"]
DEVICES = ["--devices", "2"]  # as many as conftest made


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """A folder of its own for every test, and the caller's warning printer back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture
def saved(tmp_path):
    """Saves a set of two real digits per class, changed as asked."""

    def save(name="mine.npz", **changes):
        train = datasets.load_dataset("digits").train
        index = np.concatenate([np.flatnonzero(train.labels == c)[:2] for c in range(10)])
        content = {"images": train.images[index], "labels": train.labels[index], "space": "normalised"} | changes
        np.savez(tmp_path / name, **{key: value for key, value in content.items() if value is not None})
        return name

    return save


def run(*arguments) -> int:
    try:
        return main.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # tyro answers mistakes of form by itself
        return stop.code


def files(folder=".") -> set[str]:
    return {str(path) for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", ["lrs", "ars", "score", "accuracy"])
def test_a_command_prints_scores_and_writes_a_result_and_a_picture(saved, capsys, command):
    assert run(command, saved(), "--real", "digits", *QUICK, *DEVICES, "--out", "r.json") == 0
    printed = capsys.readouterr().out
    assert "Result: r.json" in printed
    assert "Picture: r.png" in printed
    content = json.loads(Path("r.json").read_text())
    expected = {"lrs": {"hlr", "ior", "lrs"}, "ars": {"ars"}, "accuracy": {"accuracy"}}
    expected["score"] = expected["lrs"] | expected["ars"] | {"joint"}
    expected = expected[command]
    assert set(content["scores"]) == expected
    for name in expected:
        assert f"{content['scores'][name]['mean']:.4f}" in printed
        assert name.upper() in printed
    assert ddr.load_result("r.json").to_json() == content
    assert Path("r.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_twice_gives_the_same_json_but_for_times(saved):
    saved()
    arguments = ("accuracy", "mine.npz", "--real", "digits", *QUICK, *DEVICES)
    contents = []
    for given in ((), ("--no-store",), ()):
        assert run(*arguments, "--out", "r.json", *given) == 0
        contents.append(json.loads(Path("r.json").read_text()))
    times = [content.pop("times") for content in contents]
    assert contents[0] == contents[1] == contents[2]
    assert [time["students_trained"] for time in times] == [2, 2, 0]


def test_methods_are_compared_by_their_results(saved, capsys):
    for name in ("a", "b"):
        saved(f"{name}.npz", **({} if name == "a" else {"images": np.full((20, 8, 8, 1), -1, np.float32)}))
        assert run("score", f"{name}.npz", "--real", "digits", *QUICK, *DEVICES, "--out", f"{name}.json") == 0
    capsys.readouterr()
    assert run("compare", "a.json", "b.json", "--out", "c.json") == 0
    printed = capsys.readouterr().out
    assert all(part in printed for part in ("LRS at w = 0.5", "ARS at γ = 0.5", "JOINT", "Comparison: c.json"))
    assert [method["name"] for method in json.loads(Path("c.json").read_text())["methods"]] == ["a", "b"]
    assert run("score", "a.npz", "--real", "digits", *QUICK, *DEVICES, "--epochs", "3", "--out", "b.json") == 0
    assert run("compare", "a.json", "b.json", "--out", "c.json") == 2
    assert "differ in protocol.epochs: 2 in a, 3 in b" in capsys.readouterr().err


def test_several_students_make_a_matrix(saved, capsys):
    assert run("lrs", saved(), "--real", "digits", *QUICK, *DEVICES, "--students", "MLP", "LeNet") == 2
    assert "LeNet leaves no pixel" in capsys.readouterr().err
    assert run("lrs", "mine.npz", "--real", "digits", *QUICK, *DEVICES, "--students", "MLP", "ConvNet-1") == 0
    assert "LRS by student" in capsys.readouterr().out
    assert set(json.loads(Path("results/lrs-mine.json").read_text())["results"]) == {"MLP", "ConvNet-1"}


def test_several_sets_are_scored_in_one_call(saved):
    names = [saved("a.npz"), saved("b.npz")]
    assert run("accuracy", *names, "--real", "digits", *QUICK, *DEVICES) == 0
    content = json.loads(Path("results/accuracy-a.json").read_text())
    assert [entry["set"] for entry in content["scores"]["accuracy"]["sets"]] == ["a", "b"]


def test_options_reach_the_settings(saved):
    given = (
        *("--lr", "0.1", "0.2", "--weight-decay", "0.001", "--momentum", "0.5", "--schedule", "step"),
        *("--step-size", "7", "--batch-size", "8", "--optimizer", "sgd", "--labels", "teacher", "--loss", "kl"),
        *("--temperature", "3", "--scale-loss", "--augment", "dsa", "--dsa-strategy", "color_crop"),
        *("--real-lr", "0.3", "--real-epochs", "4", "--weight", "0.25", "--teachers", "2", "--readout", "best"),
    )
    settings = options.settings(*options.parse(["lrs", saved(), "--real", "digits", *given]), flips=False)
    protocol = ddr.Protocol(
        lr=(0.1, 0.2),
        weight_decay=0.001,
        momentum=0.5,
        step_size=7,
        batch_size=8,
        labels="teacher",
        loss="kl",
        temperature=3.0,
        scale_loss=True,
        augment=ddr.augmentations.DSA(operations=("color", "crop")),
        readout="best",
    )
    assert settings.protocol == protocol
    assert (settings.real_protocol.lr, settings.real_protocol.epochs) == ((0.3,), 4)
    assert settings.real_protocol.augment is None
    assert (settings.weight, settings.teachers, settings.scores) == (0.25, 2, ("lrs",))


def test_executions_are_those_of_populations():
    assert get_args(get_type_hints(options.Running)["execution"]) == ("auto", *devices.MODES)


def test_devices_that_share_batches_are_in_the_result_and_its_configuration(saved):
    arguments = ("--real", "digits", *QUICK, *DEVICES, "--execution", "shared", "--out", "r.json")
    assert run("accuracy", saved(), *arguments) == 0
    devices = jax.local_device_count()
    assert json.loads(Path("r.json").read_text())["environment"]["execution"] == f"shared by {devices}"
    assert "execution: shared" in Path("r.yaml").read_text()


def test_sets_and_labels_may_come_in_files_of_their_own(saved):
    content = np.load(saved())
    np.save("images.npy", content["images"])
    np.save("classes.npy", content["labels"])
    arguments = ("images.npy", "--labels-file", "classes.npy", "--space", "normalised", "--real", "digits")
    assert run("accuracy", *arguments, *QUICK, *DEVICES, "--optimizer", "adamw", "--schedule", "cosine") == 0
    alone = json.loads(Path("results/accuracy-images.json").read_text())
    assert (
        run(
            "accuracy", "mine.npz", "--real", "digits", *QUICK, *DEVICES, "--optimizer", "adamw", "--schedule", "cosine"
        )
        == 0
    )
    together = json.loads(Path("results/accuracy-mine.json").read_text())
    assert together["data"]["sets"][0]["digest"] == alone["data"]["sets"][0]["digest"]
    assert together["times"]["students_reused"] == 2


def test_digits_are_not_flipped_unless_asked():
    command = options.parse(["ars", "x.npz", "--real", "digits"])
    assert "flip" not in options.settings(*command, flips=False).protocol.augment.operations
    assert "flip" in options.settings(*command, flips=True).protocol.augment.operations


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_is_reached_and_any_option_beside_it_wins(name):
    arguments = ["lrs", "x.npz", "--real", "digits", "--preset", name]
    settings = options.settings(*options.parse(arguments))
    assert settings.protocol == presets.preset(name)
    settings = options.settings(*options.parse([*arguments, "--epochs", "7", "--augment", "crop", "--hard-lr", "0.5"]))
    assert (settings.protocol.epochs, settings.hard_lr) == (7, (0.5,))
    assert settings.protocol.augment == augmentations.Crop()
    unflipped = options.settings(*options.parse(arguments), flips=False).protocol.augment
    assert unflipped == augmentations.unflipped(presets.preset(name).augment)


def test_the_configuration_beside_a_result_repeats_it(saved, capsys):
    given = ("--augment", "dsa", "--dsa-strategy", "color_crop", "--lr", "0.1", "--real-augment", "method")
    assert run("lrs", saved(), "--real", "digits", *QUICK, *DEVICES, *given, "--out", "r.json") == 0
    assert "Configuration: r.yaml" in capsys.readouterr().out
    assert run("lrs", "--config", "r.yaml", *DEVICES, "--out", "again.json") == 0
    first, second = (json.loads(Path(name).read_text()) for name in ("r.json", "again.json"))
    assert second["times"]["students_trained"] == 0
    assert first | {"times": {}} == second | {"times": {}}
    assert Path("r.yaml").read_text().replace("r.yaml", "again.yaml") == Path("again.yaml").read_text()
    assert run("lrs", "--config", "r.yaml", "--weight", "0.25", *DEVICES, "--out", "other.json") == 0
    assert json.loads(Path("other.json").read_text())["settings"]["weight"] == 0.25


@pytest.mark.parametrize(
    ("command", "demo", "given"),
    [
        ("lrs", "demo_lrs_hard.yaml", ()),
        ("lrs", "demo_lrs_soft.yaml", ()),
        ("ars", "demo_ars.yaml", ()),
    ],
)
def test_the_demo_configurations_of_ddranking_run(saved, capsys, command, demo, given):
    # as they are, but for a small dataset, student and length in place of theirs
    small = ("--real", "digits", "--student", "ConvNet-1", "--width", "4", "--epochs", "2", "--real-epochs", "1")
    config = Path(__file__).parent / "configs" / demo
    name = saved(**_ten_per_class())
    assert run(command, name, "--config", config, *small, "--seeds", "1", *DEVICES, "--out", "r.json", *given) == 0
    settings = ddr.load_result("r.json").settings
    assert settings.protocol.readout == "best"
    assert settings.percent
    assert settings.random_lr == presets.find("ddranking-0.2.0").settings["random_lr"]
    assert "%" in capsys.readouterr().out


def _ten_per_class():
    train = datasets.load_dataset("digits").train
    index = np.concatenate([np.flatnonzero(train.labels == c)[:10] for c in range(10)])
    return {"images": train.images[index], "labels": train.labels[index]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lsr", "mine.npz"], "Unknown command 'lsr': did you mean 'lrs'"),
        (["lrs", "mine.npz", "--real", "digits", "--epoch", "3"], "did you mean '--epochs'"),
        (["lrs", "mine.npz", "--real", "digits", "--augment", "das"], "invalid choice 'das'"),
        (["lrs", "mine.npz", "--real", "digits", "--seeds", "many"], "Error parsing --seeds"),
        (["lrs", "mine.npz"], "--real"),
        (["lrs", "--real", "digits"], "no distilled sets given"),
        (["lrs", "min.npz", "--real", "digits"], "did you mean mine.npz"),
        (["lrs", "mine.npz", "--real", "digit"], "did you mean 'digits'"),
        (["lrs", "mine.npz", "--real", "digits.npz"], "no such file"),
        (["lrs", "corrupt.npz", "--real", "digits"], "corrupt.npz"),
        (["lrs", "wide.npz", "--real", "digits"], "is it another dataset, size or layout"),
        (["lrs", "beyond.npz", "--real", "digits"], "has label 10, but classes are 0 to 9"),
        (["lrs", "nan.npz", "--real", "digits"], "NaN or infinity"),
        (["lrs", "mine.npz", "--real", "digits", "--student", "ConvNetD3"], "did you mean 'ConvNet-3'"),
        (["lrs", "mine.npz", "--real", "digits", "--student", "ConvNet-4"], "use ConvNet-3"),
        (["lrs", "mine.npz", "--real", "digits", "--lr", "-1"], "expected finite and above 0"),
        (["lrs", "mine.npz", "--real", "digits", "--labels", "soft"], "holds no soft_labels"),
        (["lrs", "mine.npz", "--real", "digits", "--real-accuracy", "98"], "divide percentages by 100"),
        (["lrs", "mine.npz", "--real", "digits", "--hard-augment"], "augment is none"),
        (["lrs", "mine.npz", "--real", "digits", "--preset", "dsaa"], "did you mean 'dsa'"),
        (["lrs", "mine.npz", "--real", "digits", "--config", "no.yaml"], "no.yaml"),
        (["lrs", "mine.npz", "--real", "digits", "--ipc", "10"], "ipc is 10, but mine has 2 to 2 images per class"),
        (["lrs", "mine.npz", "--real", "digits", "--real-recipe"], "no recipe for ConvNet-3 on digits"),
        (["lrs", "mine.npz", "--real", "digits", "--real-accuracy", "known"], "give a number to real_accuracy"),
        (["lrs", "bare.npz", "--real", "digits", "--space", "zca"], "--zca"),
        (["lrs", "mine.npz", "--real", "digits", "--zca", "kornia", "--augment", "randaugment"], "works on pixels"),
        (["ars", "mine.npz", "--real", "digits", "--augment", "crop", "--dsa-strategy", "color"], "choose dsa"),
        (["ars", "mine.npz", "--real", "digits", "--dsa-strategy", "crap"], "did you mean 'crop'"),
        (
            ["lrs", "mine.npz", "--real", "digits", "--labels", "teacher", "--teacher-weights", "mine.npz"],
            "Cannot read",
        ),
        (["lrs", "mine.npz", "--real", "digits", "--key", "-1"], "from 0 to 2**32"),
        (["lrs", "mine.npz", "--real", "digits", "--out", "r.txt"], "ends in .json"),
        (["lrs", "mine.npz", "--real", "digits", "--out", "mine.npz/r.json"], "choose another place"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_one_message_with_status_2_and_leaves_earlier_results(saved, capsys, arguments, message):
    saved()
    saved("bare.npz", space=None)
    saved("wide.npz", images=np.full((20, 9, 9, 1), -1, np.float32))
    saved("beyond.npz", labels=np.arange(20) % 11)
    saved("nan.npz", images=np.full((20, 8, 8, 1), np.nan, np.float32))
    Path("corrupt.npz").write_bytes(Path("mine.npz").read_bytes()[:100])
    Path("results").mkdir()
    Path("results/lrs-mine.json").write_text("earlier")
    before = files()
    assert run(*arguments, *DEVICES) == 2
    printed = capsys.readouterr()
    said = " ".join((printed.out + printed.err).replace("│", " ").split())
    assert message in said
    assert "Traceback" not in said
    assert files() == before
    assert Path("results/lrs-mine.json").read_text() == "earlier"


def test_diverged_students_are_reported_and_the_result_is_written(saved, capsys):
    options = ("--lr", "1e30", "--weight-decay", "1e10", "--out", "r.json")
    assert run("accuracy", saved(), "--real", "digits", *QUICK, *DEVICES, *options) == 0
    assert "2 students diverged" in capsys.readouterr().out
    content = json.loads(Path("r.json").read_text())
    assert content["diverged"] == 2
    assert all(0 <= row["accuracy"] <= 1 for row in content["students"])


def test_a_warning_is_one_line_and_does_not_stop(saved, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        name = saved(labels=np.array([0, *range(19)]) % 10)
        assert run("accuracy", name, "--real", "digits", *QUICK, *DEVICES) == 0
    errors = capsys.readouterr().err
    assert "ddr-jax: warning: mine: 20 images, unequally many per class" in errors


@pytest.mark.parametrize("arguments", [["--help"], ["lrs", "--help"], ["demo", "--help"]])
def test_help_is_given(arguments, capsys):
    assert run(*arguments) == 0
    assert "usage: ddr-jax" in capsys.readouterr().out


@pytest.mark.slow
def test_the_demo_scores_the_bundled_set_in_a_process_of_its_own(tmp_path):
    arguments = [sys.executable, "-m", "ddr_jax.cli.main", "demo", "--seeds", "2", "--out", "demo.json"]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "demo.json").read_text())
    assert set(content["scores"]) == {"hlr", "ior", "lrs", "ars", "joint"}
    assert content["arms"]["syn-any"]["mean"] > content["arms"]["rdm-any"]["mean"]
    assert content["arms"]["real-hard"]["mean"] > 0.9
    assert "images/s" in done.stderr
