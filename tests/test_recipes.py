"""Recipes for real data and known accuracies are whole, valid, and looked up as users name things."""

import pytest

from ddr_jax.data.datasets import DATASETS
from ddr_jax.nets.names import find
from ddr_jax.protocols import recipes
from ddr_jax.protocols.protocol import Protocol


@pytest.mark.parametrize(("dataset", "student"), sorted(recipes._RECIPES))
def test_recipes_are_protocols_of_known_datasets_and_students(dataset, student):
    assert dataset in DATASETS
    protocol = Protocol(student=student, **recipes.real_recipe(dataset, student))
    assert protocol.epochs >= 90
    assert protocol.batch_size == 512


@pytest.mark.parametrize("known", [recipes.CACHED, recipes._PUBLISHED])
def test_known_accuracies_are_fractions_with_a_source(known):
    for (dataset, student), entry in known.items():
        find(student)
        assert dataset in DATASETS
        assert 0.4 < entry.accuracy < 1
        assert entry.source


def test_recipe_of_imagenet_is_ddrankings():
    recipe = recipes.real_recipe("imagenet1k", "torchvision-ResNet-18-BN")
    assert recipe == {
        "optimizer": "sgd",
        "schedule": "step",
        "weight_decay": 1e-4,
        "momentum": 0.9,
        "lr": (0.1,),
        "step_size": 30,
        "epochs": 90,
        "batch_size": 512,
    }


def test_torchvision_resnets_share_the_entry_of_batch_norm():
    names = ("ResNet-18-BN", "torchvision-ResNet-18", "torchvision-ResNet-18-BN")
    assert {recipes.known_accuracy("tinyimagenet", name).accuracy for name in names} == {0.464}
    assert recipes.known_accuracy("tinyimagenet", "ResNet-18") is None


def test_nothing_is_invented_for_other_pairs():
    assert recipes.real_recipe("digits", "ConvNet-3") is None
    assert recipes.known_accuracy("cifar100", "ConvNet-3") is None


def test_recipes_cannot_be_changed_by_callers():
    with pytest.raises(TypeError):
        recipes.real_recipe("cifar10", "ConvNet-3")["epochs"] = 1
