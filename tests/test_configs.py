"""Configuration files: ours come back as they were written, and PyTorch ddranking's mean what they mean there."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from ddr_jax.cli import configs, options
from ddr_jax.protocols.augmentations import DSA, Chain, Crop, CutMix, Mixup, PatchShuffle, RandAugment, ResizedCrop
from ddr_jax.protocols.presets import PRESETS
from ddr_jax.types import InputError

DEMOS = Path(__file__).parent / "configs"
HINTS = {
    entry.name: entry.type
    for name, kind in options.COMMANDS.items()
    if name != "compare"
    for entry in fields(kind)
    if entry.name != "notes"
}


def demo(name: str, without: tuple[str, ...] = (), **changes) -> dict:
    """The content of a demo file, with changes."""
    content = yaml.safe_load((DEMOS / f"demo_{name}.yaml").read_text()) | changes
    return {key: value for key, value in content.items() if key not in without}


@pytest.fixture
def read_content(tmp_path):
    def read(content: dict, suffix: str = ".yaml") -> configs.Config:
        path = tmp_path / f"config{suffix}"
        path.write_text(json.dumps(content) if suffix == ".json" else yaml.safe_dump(content))
        return configs.read(path, HINTS)

    return read


@pytest.fixture
def read_text(tmp_path):
    def read(text: str, name: str = "config.yaml") -> configs.Config:
        (tmp_path / name).write_text(text)
        return configs.read(tmp_path / name, HINTS)

    return read


# PyTorch ddranking's files


def test_demo_of_hard_labels_is_read_as_it_is():
    config = configs.read(DEMOS / "demo_lrs_hard.yaml", HINTS)
    assert config.command == "lrs"
    assert config.options == {
        "preset": "ddranking-0.2.0",
        "real": "cifar10",
        "data_dir": Path("dataset"),
        "ipc": 10,
        "student": "ConvNet-3",
        "augmentation": DSA(),
        "optimizer": "sgd",
        "weight_decay": 5e-4,
        "momentum": 0.9,
        "schedule": "step",
        "step_size": 500,
        "seeds": 5,
        "epochs": 1000,
        "batch_size": 128,
        "labels": "hard",
        "loss": "ce",
        "real_epochs": 1000,
        "real_batch_size": 256,
        "real_recipe": True,
    }


def test_demo_of_soft_labels_is_read_as_it_is():
    config = configs.read(DEMOS / "demo_lrs_soft.yaml", HINTS)
    assert config.command == "lrs"
    assert config.options == {
        "preset": "ddranking-0.2.0-soft",
        "real": "imagenet1k",
        "data_dir": Path("dataset/ImageNet1K"),
        "ipc": 10,
        "student": "torchvision-ResNet-18-BN",
        "augmentation": Chain((ResizedCrop(), CutMix(mix_targets=False))),
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "schedule": "cosine",
        "seeds": 5,
        "epochs": 300,
        "batch_size": 1024,
        "labels": "teacher",
        "loss": "kl",
        "temperature": 1.0,
        "scale_loss": False,
        "teachers": 1,
        "hard_augment": False,
        "real_epochs": 300,
        "real_batch_size": 1024,
        "real_recipe": True,
        "real_accuracy": 0.565,
    }


def test_demo_of_augmentation_robust_score_is_read_as_it_is():
    config = configs.read(DEMOS / "demo_ars.yaml", HINTS)
    soft = configs.read(DEMOS / "demo_lrs_soft.yaml", HINTS).options
    of_lrs = {"hard_augment", "real_epochs", "real_batch_size", "real_recipe", "real_accuracy"}
    assert config.command == "ars"
    assert config.options == {k: v for k, v in soft.items() if k not in of_lrs} | {"preset": "ddranking-0.2.0-ars"}


@pytest.mark.parametrize("name", ["lrs_hard", "lrs_soft", "ars"])
def test_demos_take_their_readout_from_a_preset_that_exists(name):
    assert configs.read(DEMOS / f"demo_{name}.yaml", HINTS).options["preset"] in PRESETS


def test_json_says_the_same_as_yaml(read_content):
    assert read_content(demo("lrs_hard"), ".json").options == read_content(demo("lrs_hard")).options


def test_what_is_left_out_is_noted():
    notes = configs.read(DEMOS / "demo_lrs_hard.yaml", HINTS).notes
    for key in ("device", "dist", "num_workers", "save_path", "random_data_path", "default_lr", "eval_full_data"):
        assert any(note.startswith(f"{key}:") for note in notes)


def test_options_that_the_command_has_not_are_left_out_with_a_note():
    config = configs.read(
        DEMOS / "demo_lrs_soft.yaml", {name: hint for name, hint in HINTS.items() if name != "hard_augment"}
    )
    assert "hard_augment" not in config.options
    assert any(note.startswith("hard_augment:") for note in config.notes)


def test_replaced_data_take_what_was_known_of_them_along():
    merged = configs.read(DEMOS / "demo_lrs_soft.yaml", HINTS).merged({"real": "digits", "student": "ConvNet-3"})
    assert merged.keys().isdisjoint({"real_accuracy", "real_recipe", "data_dir"})
    assert (merged["real"], merged["epochs"]) == ("digits", 300)


def test_known_accuracy_stays_with_its_data():
    merged = configs.read(DEMOS / "demo_lrs_soft.yaml", HINTS).merged({"epochs": 3})
    assert (merged["real_accuracy"], merged["epochs"]) == (0.565, 3)


@pytest.mark.parametrize(
    ("demo_name", "changes", "expected"),
    [
        ("lrs_hard", {"dataset": "TinyImageNet", "im_size": [64, 64]}, {"real": "tinyimagenet"}),
        ("lrs_hard", {"dataset": "ImageNette", "im_size": [64, 64]}, {"real": "imagenette", "size": 64}),
        ("lrs_hard", {"use_zca": True}, {"zca": "kornia"}),
        ("lrs_hard", {"num_epochs": 4}, {"epochs": 4, "test_every": 4}),
        ("lrs_hard", {"optimizer": "adam", "momentum": [0.9, 0.999]}, {"optimizer": "adam"}),
        ("lrs_hard", {"model_name": "MLP", "use_torchvision": True}, {"student": "MLP"}),
        ("lrs_hard", {"model_name": "VGG-11-BN", "use_torchvision": True}, {"student": "torchvision-VGG-11-BN"}),
        ("lrs_hard", {"data_aug_func": None, "aug_params": None}, {"augmentation": None, "augment": "none"}),
        (
            "lrs_hard",
            {"data_aug_func": "mixup", "aug_params": {"lambda": 0.8}},
            {"augmentation": Mixup(0.8, mix_targets=False)},
        ),
        ("lrs_soft", {"soft_label_mode": "S"}, {"labels": "soft"}),
        ("lrs_soft", {"soft_label_criterion": "sce"}, {"loss": "ce"}),
        ("lrs_soft", {"loss_fn_kwargs": {"scale_loss": True}}, {"temperature": 1.2, "scale_loss": True}),
        ("lrs_soft", {"loss_fn_kwargs": None, "temperature": 20.0}, {"temperature": 20.0}),
        (
            "lrs_soft",
            {"soft_label_criterion": "mse_gt", "loss_fn_kwargs": {"mse_weight": 1.0, "ce_weight": 0.025}},
            {"loss": "mse_gt", "mse_weight": 1.0, "ce_weight": 0.025, "temperature": 1.0, "scale_loss": None},
        ),
        ("lrs_soft", {"eval_full_data": True}, {"real_accuracy": None, "real_recipe": True}),
        (
            "lrs_soft",
            {"use_aug_for_hard": True, "custom_train_trans": None},
            {"hard_augment": True, "real_augmentation": CutMix(mix_targets=False)},
        ),
        ("lrs_soft", {"teacher_model_names": ["ResNet-18-BN", "ResNet-18-BN"]}, {"teachers": 2, "teacher": None}),
        ("lrs_soft", {"teacher_model_names": "ResNet-34-BN"}, {"teacher": "torchvision-ResNet-34-BN"}),
        ("ars", {"label_type": "hard"}, {"labels": "hard", "loss": "ce", "teachers": None}),
    ],
)
def test_keys_mean_what_they_mean_in_ddranking(read_content, demo_name, changes, expected):
    got = read_content(demo(demo_name, **changes)).options
    assert {name: got.get(name) for name in expected} == expected


def test_torchvision_transforms_become_augmentations_in_their_order(read_content):
    transforms = [
        {"name": "ShufflePatches", "args": {"factor": 2}},
        {"name": "RandomCrop", "args": {"size": 32, "padding": 4}},
        {"name": "RandAugment", "args": {"num_ops": 1, "magnitude": 5}},
        {"name": "RandomHorizontalFlip", "args": {"p": 0.3}},
        {"name": "ToTensor"},
    ]
    content = demo("lrs_hard", custom_train_trans=transforms, data_aug_func="cutmix", aug_params={"beta": 0.5})
    config = read_content(content)
    assert config.options["augmentation"].steps == (
        PatchShuffle(2),
        Crop(4, flip=0.0),
        RandAugment(1, 5),
        DSA(operations=("flip",), flip=0.3),
        CutMix(0.5, mix_targets=False),
    )
    assert any("ToTensor" in note for note in config.notes)


def test_flip_joins_the_crop_before_it(read_content):
    transforms = [{"name": "RandomCrop", "args": {"padding": 2}}, {"name": "RandomHorizontalFlip"}]
    content = demo("lrs_hard", ("data_aug_func", "aug_params"), custom_train_trans=transforms)
    assert read_content(content).options["augmentation"] == Crop(2, flip=0.5)


def test_teachers_weights_are_used_where_ddranking_keeps_them(read_content, tmp_path):
    weights = tmp_path / "teachers" / "ImageNet1K" / "ResNet-18-BN" / "ckpt_best.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"")
    config = read_content(demo("lrs_soft", teacher_dir=str(tmp_path / "teachers")))
    assert config.options["teacher_weights"] == (weights,)


def test_teachers_of_several_networks_are_refused(read_content):
    with pytest.raises(InputError, match=r"torchvision-ResNet-18-BN and torchvision-ResNet-34-BN: .* share one"):
        read_content(demo("lrs_soft", teacher_model_names=["ResNet-18-BN", "ResNet-34-BN"]))


@pytest.mark.parametrize(
    ("demo_name", "changes", "words"),
    [
        ("lrs_hard", {"num_epoch": 10}, ("num_epoch", "num_epochs")),
        ("lrs_hard", {"dataset": "CIFAR-10"}, ("dataset", "'CIFAR10'")),
        ("lrs_hard", {"model_name": "ConvNetD3"}, ("model_name", "'ConvNet-3'")),
        ("lrs_hard", {"model_name": "ConvNet-3-bn"}, ("model_name", "'ConvNet-3-BN'")),
        ("lrs_hard", {"im_size": [64, 64]}, ("im_size", "dataset CIFAR10")),
        ("lrs_hard", {"im_size": [32, 64]}, ("im_size", "two equal sides")),
        ("lrs_hard", {"aug_params": {"beta": 1.0}}, ("data_aug_func dsa", "'beta'", "aug_params")),
        ("lrs_hard", {"aug_params": {"prob_flip": 0.5}}, ("prob_flip", "'flip'")),
        ("lrs_hard", {"aug_params": {"flip": 0.5}}, ("aug_params of data_aug_func dsa", "lacks rotate")),
        ("lrs_hard", {"data_aug_func": "cutmix", "aug_params": {"cutmix_p": 1.0}}, ("cutmix_p", "Valid: beta")),
        ("lrs_hard", {"data_aug_func": None}, ("aug_params", "data_aug_func")),
        ("lrs_hard", {"aug_params": None}, ("data_aug_func dsa", "aug_params")),
        ("lrs_hard", {"data_aug_func": "zca"}, ("data_aug_func is zca", "use_zca")),
        ("lrs_hard", {"step_size": None}, ("lr_scheduler is step", "step_size: 500")),
        ("lrs_hard", {"lr_scheduler": "lambda_step"}, ("lambda_step", "step")),
        ("lrs_hard", {"optimizer": "sgdm"}, ("optimizer", "'sgd'")),
        ("lrs_hard", {"momentum": [0.9, 0.999]}, ("momentum", "sgd")),
        ("lrs_soft", {"momentum": [0.5, 0.9]}, ("momentum", "[0.9, 0.999]")),
        ("lrs_hard", {"num_epochs": "many"}, ("num_epochs", "whole number")),
        ("lrs_hard", {"num_eval": True}, ("num_eval", "whole number")),
        ("lrs_hard", {"num_eval": 0}, ("num_eval is 0", "1 or more")),
        ("lrs_hard", {"batch_size": 64}, ("syn_batch_size is 128", "batch_size is 64")),
        ("lrs_hard", {"loss_fn_kwargs": {"temperature": 4.0}}, ("loss_fn_kwargs", "soft_label_mode")),
        ("lrs_hard", {"label_type": "soft"}, ("label_type is soft", "soft_label_mode")),
        ("lrs_soft", {"loss_fn_kwargs": {"T": 4.0}}, ("loss_fn_kwargs", "'T'")),
        ("lrs_soft", {"loss_fn_kwargs": {"ce_weight": 0.1}}, ("ce_weight", "soft_label_criterion is kl")),
        ("lrs_soft", {"temperature": 20.0}, ("temperature is 20.0", "loss_fn_kwargs is 1.0")),
        ("lrs_soft", {"use_torchvision": False}, ("use_torchvision is False", "stu_use_torchvision is True")),
        ("lrs_soft", {"custom_train_trans": [{"name": "ColorJitter"}]}, ("custom_train_trans", "'ColorJitter'")),
        (
            "lrs_soft",
            {"custom_train_trans": [{"name": "RandomResizedCrop", "args": {"scales": [0.1, 1.0]}}]},
            ("RandomResizedCrop", "'scales'", "'scale'"),
        ),
        (
            "lrs_soft",
            {"custom_train_trans": [{"name": "RandomResizedCrop", "args": {"scale": 0.1}}]},
            ("RandomResizedCrop",),
        ),
        ("ars", {"soft_label_mode": None}, ("label_type is soft", "soft_label_mode")),
        ("lrs_hard", {"student": "ConvNet-3"}, ("aug_params", "student", "one kind")),
    ],
)
def test_mistakes_in_ddranking_files_name_file_and_keys(read_content, demo_name, changes, words):
    with pytest.raises(InputError) as error:
        read_content(demo(demo_name, **changes))
    assert all(word in str(error.value) for word in ("config.yaml", *words)), str(error.value)


# Our own files

OPTIONS = {
    "sets": (Path("a set.npz"), Path("1e5")),
    "real": "cifar10",
    "lr": (0.01, 1e-5),
    "weight_decay": 5e-4,
    "seeds": 3,
    "store": False,
    "student": "ConvNet-3",
    "augment": "none",
    "augmentation": Chain((PatchShuffle(2), ResizedCrop(scale=(0.5, 1.0)), CutMix(mix_targets=False))),
    "real_augmentation": DSA(operations=("crop", "flip")),
    "data_dir": Path("/data"),
    "percent": True,
    "real_accuracy": "known",
    "real_options": {"lr": (0.01,), "step_size": 100},
}


def test_written_options_come_back_equal(tmp_path):
    configs.write(tmp_path / "run.yaml", "lrs", OPTIONS | {"test_every": None})
    config = configs.read(tmp_path / "run.yaml", HINTS)
    assert config == configs.Config("lrs", OPTIONS)


def test_written_file_says_how_to_run_it(tmp_path):
    configs.write(tmp_path / "run.yaml", "ars", OPTIONS)
    assert "ddr-jax ars --config run.yaml" in (tmp_path / "run.yaml").read_text().splitlines()[0]


def test_options_read_from_ddranking_files_can_be_written_as_ours(tmp_path):
    theirs = configs.read(DEMOS / "demo_lrs_soft.yaml", HINTS)
    configs.write(tmp_path / "ours.yaml", "lrs", theirs.options)
    assert configs.read(tmp_path / "ours.yaml", HINTS).options == theirs.options


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "command: lrs\nlr: 1e-3\nepochs: 3\naugmentation: {kind: cutmix, beta: 0.5}\n"),
        ("a.yml", "command: lrs\nlr: [1e-3]\nepochs: 3\naugmentation:\n  kind: cutmix\n  beta: 0.5\n"),
        ("a.toml", 'command = "lrs"\nlr = 1e-3\nepochs = 3\n[augmentation]\nkind = "cutmix"\nbeta = 0.5\n'),
        ("a.json", '{"command": "lrs", "lr": 1e-3, "epochs": 3, "augmentation": {"kind": "cutmix", "beta": 0.5}}'),
    ],
)
def test_forms_of_file_say_the_same(read_text, name, text):
    config = read_text(text, name)
    assert config == configs.Config("lrs", {"lr": (1e-3,), "epochs": 3, "augmentation": CutMix(0.5)})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "epoch: 3\n", "a.yaml: unknown key 'epoch': did you mean 'epochs'"),
        ("a.yaml", "epochs: 3.5\n", "epochs is 3.5; expected a whole number"),
        ("a.yaml", "epochs: true\n", "epochs is True; expected a whole number"),
        ("a.yaml", "lr: fast\n", "lr is 'fast'; expected a number"),
        ("a.yaml", "labels: off\n", "Unknown labels False: Valid: hard, soft, teacher"),
        ("a.yaml", "percent: 1\n", "percent is 1; expected true or false"),
        ("a.yaml", "augmentation: {kind: cutmi}\n", "Unknown kind of augmentation 'cutmi': did you mean"),
        ("a.yaml", "real_accuracy: best\n", "real_accuracy is 'best'; expected a number or known"),
        ("a.yaml", "augmentation: dsa\n", "expected a table with a kind"),
        ("a.yaml", "epochs: 3\nepochs: 4\n", "epochs is given twice, as 3 and 4"),
        ("a.json", '{"epochs": 3, "epochs": 4}', "epochs is given twice, as 3 and 4"),
        ("a.yaml", "epochs: [3\n", "not read as YAML"),
        ("a.toml", "epochs = \n", "cannot be read"),
        ("a.yaml", "", "holds no keys"),
        ("a.yaml", "- 3\n", "holds no keys"),
        ("a.yaml", "command: 3\n", "command is 3"),
        ("a.ini", "epochs: 3\n", "ends in one of .yaml, .yml, .toml, .json"),
        ("a.yaml", "real: !!python/object/apply:os.system [ls]\n", "not read as YAML"),
    ],
)
def test_mistakes_in_own_files_are_named(read_text, name, text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_text(text, name)


def test_missing_file_offers_the_nearest(tmp_path):
    (tmp_path / "config.yaml").write_text("epochs: 3\n")
    with pytest.raises(InputError, match=r"config\.yaml"):
        configs.read(tmp_path / "confg.yaml", HINTS)
