"""Presets are valid protocols and settings, and say what the published recipes say."""

from dataclasses import fields, replace

import pytest

from ddr_jax.protocols import presets
from ddr_jax.protocols.presets import DDRANKING_GRID, PRESETS, preset
from ddr_jax.protocols.protocol import DSA, Chain, CutMix, PatchShuffle, Protocol, ResizedCrop, real
from ddr_jax.protocols.settings import Settings
from ddr_jax.types import InputError

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


@pytest.mark.parametrize("name", ["dc", "dsa", "dm", "mtt", "datm"])
def test_family_of_dc_starts_the_optimizer_afresh_where_the_rate_drops(name):
    assert preset(name).fresh_at_drop


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


def test_ddranking_reads_the_best_of_its_grid():
    entry = PRESETS["ddranking-0.2.0"]
    protocol = preset("ddranking-0.2.0")
    assert (protocol.readout, protocol.test_every, protocol.lr) == ("best", 10, DDRANKING_GRID)
    assert protocol.augment == DSA()
    assert entry.settings["random_lr"] == DDRANKING_GRID
    assert entry.settings["percent"]


def test_ddranking_with_soft_labels_leaves_hard_arms_plain_and_searches_their_rate():
    entry = PRESETS["ddranking-0.2.0-soft"]
    assert entry.settings["hard_lr"] == DDRANKING_GRID
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
