import dataclasses
import json

import pytest

from ddr_jax.protocols.augmentations import (
    DSA,
    NAMED_AUGMENTATIONS,
    OPERATIONS,
    Chain,
    Crop,
    CutMix,
    DCAugmentation,
    Mixup,
    PatchShuffle,
    RandAugment,
    ResizedCrop,
    augmentation,
    unflipped,
)
from ddr_jax.protocols.plain import from_plain, to_plain
from ddr_jax.protocols.protocol import Described, Protocol, hard, real
from ddr_jax.protocols.settings import Settings
from ddr_jax.types import InputError


def test_a_lone_rate_is_a_grid_of_one():
    assert Protocol(lr=0.1).lr == (0.1,)


def test_defaults_are_the_papers_torchvisions_and_ddrankings():
    dsa = {"flip": 0.5, "rotate": 15.0, "saturation": 2.0, "brightness": 1.0, "contrast": 0.5, "scale": 1.2}
    assert DSA() == DSA(**dsa, crop=0.125, cutout=0.5)
    assert DCAugmentation() == DCAugmentation(crop=4, scale=0.2, rotate=45)
    assert RandAugment() == RandAugment(num_ops=2, magnitude=9, num_magnitude_bins=31)
    assert (PatchShuffle(), Mixup(), CutMix()) == (PatchShuffle(factor=2), Mixup(alpha=1.0), CutMix(beta=1.0))
    assert Crop() == Crop(padding=4, flip=0.5)
    assert ResizedCrop() == ResizedCrop(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5)
    numbers = {"width": 128, "epochs": 300, "batch_size": 256, "lr": (0.01,), "weight_decay": 5e-4, "momentum": 0.9}
    assert Protocol() == Protocol(**numbers, mse_weight=1.0, ce_weight=0.0, temperature=1.0)
    assert real(Protocol()).epochs == 30
    settings = Settings(("lrs",), Protocol(), Protocol())
    assert (settings.seeds, settings.weight, settings.teachers, settings.level) == (5, 0.5, 1, 0.95)


def test_protocols_hash_by_value():
    assert len({Protocol(augment=DSA()), Protocol(augment=DSA()), Protocol()}) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"student": "ConvNetD3"}, "did you mean 'ConvNet-3'"),
        ({"optimizer": "sdg"}, "Unknown optimizer 'sdg': did you mean 'sgd'"),
        ({"schedule": "stp"}, "did you mean 'step'"),
        ({"labels": "softt"}, "did you mean 'soft'"),
        ({"loss": "lk"}, "Unknown loss 'lk'"),
        ({"readout": "lst"}, "did you mean 'last'"),
        ({"epochs": 0}, "epochs is 0; expected a whole number, 1 or more"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"width": -1}, "width is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"lr": ()}, "at least one rate"),
        ({"lr": (0.1, 0.0)}, "lr is 0.0; expected finite and above 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": (0.1, 0.1)}, "differ from one another"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"momentum": 1.0}, r"momentum is 1.0; expected in \[0, 1\)"),
        ({"step_size": 0}, "step_size is 0"),
        ({"labels": "soft", "temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": 4.0}, "labels are hard, which have none"),
        ({"clock": "steps"}, "did you mean 'step'"),
        ({"epochs": 5, "warmup": 5}, "warmup is 5; expected .* fewer than all 5"),
        ({"epochs": "many"}, "epochs is 'many'; expected a whole number"),
        ({"scale_loss": "False"}, "scale_loss is 'False'; expected true or false"),
        ({"lr": "0.1"}, "lr is '0.1'; expected a number"),
        ({"augment": "dsa"}, "augment is 'dsa'; expected a table with a kind"),
        ({"loss": "mse_gt"}, "labels are hard: train with soft"),
        ({"loss": "mse_gt", "labels": "soft", "temperature": 4.0}, "mse_gt has no temperature"),
        ({"loss": "mse_gt", "labels": "soft", "mse_weight": 0.0}, "both 0"),
        ({"ce_weight": -1.0}, "ce_weight is -1.0"),
        ({"fresh_at_drop": True, "schedule": "cosine"}, "choose step"),
        ({"epochs": 5, "test_every": 6}, "test_every is 6 epochs, but a training is 5 long"),
    ],
)
def test_an_impossible_protocol_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Protocol(**fields)


@pytest.mark.parametrize(
    ("every", "epochs", "expected"), [(None, 7, (7,)), (3, 7, (3, 6, 7)), (3, 6, (3, 6)), (7, 7, (7,))]
)
def test_the_last_epoch_is_always_tested(every, epochs, expected):
    assert Protocol(epochs=epochs, test_every=every).test_epochs == expected


def test_a_validation_split_is_needed_to_choose_a_rate_honestly():
    assert Protocol(lr=(0.1, 0.2)).chooses_on_validation
    assert not Protocol(lr=0.1).chooses_on_validation
    assert not Protocol(lr=(0.1, 0.2), readout="best").chooses_on_validation


def test_hard_and_real_protocols_keep_what_is_not_about_labels():
    soft = Protocol(labels="soft", loss="kl", temperature=4.0, scale_loss=True, augment=DSA(), test_every=50)
    assert hard(soft) == dataclasses.replace(soft, labels="hard", temperature=1.0, scale_loss=False)
    expected = dataclasses.replace(hard(soft), augment=None, epochs=10, test_every=10)
    assert real(soft, epochs=10) == expected


def test_hard_labels_have_no_squared_error_of_logits():
    assert hard(Protocol(labels="soft", loss="mse_gt")).loss == "ce"


def test_a_strategy_names_operations():
    assert DSA.from_strategy("color_crop").operations == ("color", "crop")


@pytest.mark.parametrize(
    ("strategy", "message"), [("color_crap", "did you mean 'crop'"), ("", "Unknown DSA operation")]
)
def test_an_unknown_operation_is_refused(strategy, message):
    with pytest.raises(InputError, match=message):
        DSA.from_strategy(strategy)


def test_dsa_needs_an_operation():
    with pytest.raises(InputError, match="no operations"):
        DSA(operations=())


@pytest.mark.parametrize("name", NAMED_AUGMENTATIONS)
def test_a_protocol_survives_a_round_trip_through_json(name):
    original = Protocol(augment=augmentation(name, flips=True), lr=(0.1, 0.2), step_size=3)
    assert from_plain(Protocol, json.loads(json.dumps(to_plain(original)))) == original


@pytest.mark.parametrize(
    "original",
    [Protocol(), Protocol(augment=Chain((PatchShuffle(), ResizedCrop(scale=(0.5, 1.0)), CutMix(mix_targets=False))))],
)
def test_a_plain_and_a_chained_protocol_survive_too(original):
    assert from_plain(Protocol, json.loads(json.dumps(to_plain(original)))) == original


def test_a_module_survives_as_its_text():
    class Mine:
        def __repr__(self):
            return "Mine(width=3)"

    described = from_plain(Protocol, json.loads(json.dumps(to_plain(Protocol(student=Mine())))))
    assert described.student == Described("Mine(width=3)")
    assert from_plain(Protocol, to_plain(described)) == described


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"kind": "dsaa"}, "Unknown kind of augmentation 'dsaa': did you mean 'dsa'"),
        ({"rotate": 15}, "Unknown kind of augmentation None"),
        (
            {"kind": "dsa", "ratio_rotate": 15},
            "Unknown field of the augmentation dsa 'ratio_rotate'.*'rotate'",
        ),
        ({"kind": "chain", "steps": [{"kind": "crop", "paddin": 2}]}, "'paddin': did you mean 'padding'"),
    ],
)
def test_an_augmentation_that_is_no_augmentation_is_refused(plain, message):
    with pytest.raises(InputError, match=message):
        from_plain(Protocol, {"augment": plain})


def test_an_augmentation_is_known_by_name():
    assert augmentation("none", flips=True) is None
    assert augmentation("crop", flips=False) == Crop(flip=0.0)
    assert augmentation("mixup", flips=False) == Mixup()
    with pytest.raises(InputError, match="did you mean 'cutmix'"):
        augmentation("cutmx", flips=True)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (DSA, {"mode": "L"}, "Unknown mode 'L'"),
        (Mixup, {"alpha": 0.0}, "alpha is 0.0"),
        (CutMix, {"beta": -1.0}, "beta is -1.0"),
        (Crop, {"padding": 0}, "padding is 0"),
        (Crop, {"flip": 2.0}, "flip is 2.0"),
        (Chain, {"steps": ()}, "one augmentation or more"),
        (DCAugmentation, {"scale": 1.0}, "scale is 1.0"),
        (RandAugment, {"magnitude": 31}, "magnitude is 31; expected from 0 to 30"),
        (PatchShuffle, {"factor": 1}, "factor is 1"),
        (ResizedCrop, {"scale": (0.5, 0.1)}, "the least first"),
        (ResizedCrop, {"ratio": (0.0, 1.0)}, "two positive numbers"),
    ],
)
def test_an_impossible_augmentation_is_refused(kind, fields, message):
    with pytest.raises(InputError, match=message):
        kind(**fields)


def test_classes_that_a_mirror_changes_are_not_flipped():
    assert augmentation("dsa", flips=True).operations == OPERATIONS
    assert set(OPERATIONS) - set(augmentation("dsa", flips=False).operations) == {"flip"}
    chain = Chain((PatchShuffle(), ResizedCrop(), CutMix()))
    assert unflipped(chain) == Chain((PatchShuffle(), ResizedCrop(flip=0.0), CutMix()))
    assert unflipped(None) is None
