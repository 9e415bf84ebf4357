"""Presets are valid protocols and settings, and say what the published recipes say."""

import itertools
import re
from dataclasses import fields, replace

import pytest

from ddr_jax.data.datasets import DATASETS
from ddr_jax.nets.names import find
from ddr_jax.protocols import presets
from ddr_jax.protocols.augmentations import DSA, Chain, CutMix, PatchShuffle, ResizedCrop
from ddr_jax.protocols.presets import PRESETS, known_accuracy, preset, real_recipe
from ddr_jax.protocols.protocol import Protocol, real
from ddr_jax.protocols.settings import Settings
from ddr_jax.types import InputError

GRID = (0.001, 0.005, 0.01, 0.05, 0.1)
METHODS = ("dc", "dsa", "dm", "mtt", "datm", "sre2l", "cda", "rded", "gvbsm", "edc", "d4m", "dwa")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_settings_of_every_score_it_can(name):
    entry = PRESETS[name]
    protocol = preset(name)
    real_protocol = replace(real(protocol), **entry.real)
    scores = ("accuracy", "lrs") if protocol.augment is None else ("accuracy", "lrs", "ars")
    settings = Settings(scores=scores, protocol=protocol, real_protocol=real_protocol, **entry.settings)
    assert settings.real_protocol.labels == "hard"
    assert settings.real_protocol.augment is None


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_cites_its_source(name):
    entry = PRESETS[name]
    assert entry.name == name
    assert entry.summary
    assert "github.com/" in entry.source


def test_every_published_method_has_a_preset():
    assert set(METHODS) | {"ddranking-0.2.0"} <= set(PRESETS)


@pytest.mark.parametrize("name", ["dc", "dc-mnist", "dsa", "dm", "mtt", "datm"])
def test_family_of_dc_trains_a_pass_more_and_starts_afresh_two_passes_after_half(name):
    named = 300 if name == "dc" else 1000
    assert (preset(name).epochs, preset(name).step_size) == (named + 1, named // 2 + 2)
    assert preset(name).fresh_at_drop


def test_a_preset_of_other_length_drops_at_half_of_it_unless_told_otherwise():
    assert preset("dsa", epochs=10).step_size is None
    assert preset("dsa", epochs=10, step_size=7).step_size == 7
    assert preset("ddranking-0.2.0", epochs=5).test_every == 5


@pytest.mark.parametrize(
    ("name", "schedule", "batch_size", "loss"),
    [
        ("sre2l", "cosineannealing", 1024, "kl"),
        ("cda", "cosineannealing", 128, "kl"),
        ("rded", "cosine", 100, "kl"),
        ("gvbsm", "cosineannealing", 1024, "mse_gt"),
        ("edc", "cosine", 100, "mse_gt"),
        ("d4m", "cosineannealing", 1024, "kl"),
        ("dwa", "cosineannealing", 128, "kl"),
    ],
)
def test_relabelled_methods_differ_in_schedule_batch_and_loss(name, schedule, batch_size, loss):
    protocol = preset(name)
    assert (protocol.schedule, protocol.batch_size, protocol.loss) == (schedule, batch_size, loss)
    assert (protocol.optimizer, protocol.labels, protocol.lr) == ("adamw", "teacher", (0.001,))
    assert protocol.temperature == (20 if loss == "kl" else 1)


def test_rded_shuffles_patches_before_it_crops_and_mixes():
    assert preset("rded").augment == Chain((PatchShuffle(2), ResizedCrop(scale=(0.5, 1.0)), CutMix()))


def test_numbers_of_presets_are_the_published_ones():
    step = {"batch_size": 256, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "schedule": "step"}
    family = step | {"epochs": 1001, "lr": (0.01,), "step_size": 502, "fresh_at_drop": True}
    assert preset("dsa") == Protocol(**family, augment=DSA())
    assert preset("datm") == Protocol(**family | {"batch_size": 128}, labels="soft", augment=DSA())
    best = {"epochs": 300, "lr": GRID, "readout": "best"}
    assert preset("ddranking-0.2.0") == Protocol(**step, **best, test_every=10, augment=DSA())
    assert PRESETS["ddranking-0.2.0"].real == step | {"epochs": 300, "lr": (0.01,), "step_size": 100}
    teacher = {"labels": "teacher", "loss": "kl", "optimizer": "adamw", "weight_decay": 0.01, "batch_size": 1024}
    cutmix = {"schedule": "cosine", "augment": CutMix(beta=1.0, mix_targets=False)}
    assert preset("ddranking-0.2.0-ars") == Protocol(**teacher, **best, **cutmix, test_every=20)
    crops = Chain((ResizedCrop(scale=(0.08, 1.0)), CutMix()))
    relabelled = teacher | {"epochs": 300, "lr": (0.001,), "schedule": "cosineannealing", "temperature": 20.0}
    assert preset("sre2l") == Protocol(**relabelled, augment=crops)
    assert (preset("gvbsm").ce_weight, preset("edc").ce_weight) == (0.1, 0.025)


def test_ddranking_reads_the_best_of_its_grid():
    entry = PRESETS["ddranking-0.2.0"]
    protocol = preset("ddranking-0.2.0")
    assert (protocol.readout, protocol.test_every, protocol.lr) == ("best", 10, GRID)
    assert protocol.augment == DSA()
    assert entry.settings["random_lr"] == GRID
    assert entry.settings["percent"]


def test_ddranking_with_soft_labels_leaves_hard_arms_plain_and_searches_their_rate():
    entry = PRESETS["ddranking-0.2.0-soft"]
    assert entry.settings["hard_lr"] == GRID
    assert entry.settings["hard_augment"] is False
    assert entry.protocol["augment"].mix_targets is False
    assert (entry.protocol["schedule"], entry.protocol["test_every"]) == ("cosine", 20)


def test_every_field_can_be_overridden():
    defaults = Protocol(epochs=7)
    values = {entry.name: getattr(defaults, entry.name) for entry in fields(Protocol)}
    assert preset("sre2l", **values) == defaults


def test_unknown_preset_offers_the_nearest():
    with pytest.raises(InputError, match="did you mean 'sre2l'"):
        preset("sre2")


def test_unknown_field_offers_the_nearest():
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        preset("dc", epoch=3)


def test_find_gives_the_entry():
    assert presets.find("dc") is PRESETS["dc"]


def test_what_the_file_says_of_real_data_is_about_known_datasets_and_students():
    for recipe in presets._content()["recipe"]:
        for dataset, student in itertools.product(recipe["datasets"], recipe["students"]):
            assert dataset in DATASETS
            protocol = Protocol(student=student, **real_recipe(dataset, student))
            assert (protocol.epochs >= 90, protocol.batch_size) == (True, 512)
    for entry in presets._content()["accuracy"]:
        find(entry["student"])
        assert entry["dataset"] in DATASETS
        assert 0.4 < entry["accuracy"] < 1
        assert entry["source"]


def test_recipe_of_imagenet_is_ddrankings():
    assert real_recipe("imagenet1k", "torchvision-ResNet-18-BN") == {
        "optimizer": "sgd",
        "schedule": "step",
        "weight_decay": 1e-4,
        "momentum": 0.9,
        "lr": (0.1,),
        "step_size": 30,
        "epochs": 90,
        "batch_size": 512,
    }


def test_recipes_of_smaller_data_are_ddrankings():
    small = {"optimizer": "sgd", "schedule": "step", "weight_decay": 5e-4, "momentum": 0.9, "lr": (0.01,)}
    small |= {"step_size": 100, "epochs": 200, "batch_size": 512}
    for dataset in ("cifar10", "cifar100"):
        assert real_recipe(dataset, "ConvNet-3") == small
    assert real_recipe("tinyimagenet", "ConvNet-4-BN") == small | {"step_size": 50, "epochs": 100}
    adamw = real_recipe("tinyimagenet", "ResNet-18-BN")
    assert (adamw["optimizer"], adamw["lr"], adamw["weight_decay"]) == ("adamw", (0.01,), 0.01)


def test_known_accuracies_are_those_of_their_sources():
    cached = {e["dataset"]: e["accuracy"] for e in presets._content()["accuracy"] if e.get("cached")}
    assert cached == {"imagenet1k": 0.565, "tinyimagenet": 0.464}
    for entry in presets._content()["accuracy"]:
        if not entry.get("cached"):
            percentage = re.search(r"([\d.]+) (± [\d.]+ )?%", entry["source"])[1]
            assert entry["accuracy"] == round(float(percentage) / 100, 3)


def test_torchvision_resnets_share_the_entry_of_batch_norm():
    names = ("ResNet-18-BN", "torchvision-ResNet-18", "torchvision-ResNet-18-BN")
    assert {known_accuracy("tinyimagenet", name).accuracy for name in names} == {0.464}
    assert known_accuracy("tinyimagenet", "ResNet-18") is None


def test_nothing_is_invented_for_other_pairs():
    assert real_recipe("digits", "ConvNet-3") is None
    assert known_accuracy("cifar100", "ConvNet-3") is None
