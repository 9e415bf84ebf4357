"""Grids of learning rates that follow from a result: extended where its best rate lies at an end, or halved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ddr_jax.protocols.protocol import Protocol
from ddr_jax.protocols.settings import Settings
from ddr_jax.results.result import Result

OF_REAL = ("real-hard", "teacher")  # arms of the real data, which have a grid of their own
FRACTION = 4  # halving tries the whole grid for 1 / FRACTION of the epochs


def extended(result: Result) -> Settings | None:
    """The settings with the protocol's grid one rate longer at each end where an arm chose; None if no arm did.

    All arms of sets and baselines get the longer grid, so that each has the same number of tries. The grid goes on
    geometrically: the new rate is end² / neighbour. The grid of real-hard students is extended in the same way, alone.
    """
    settings, at_ends = result.settings, {"protocol": set(), "real_protocol": set()}
    for arm, found in result.choices.items():
        own = "real_protocol" if arm in OF_REAL else "protocol"
        if result.tables[arm].lrs == getattr(settings, own).lr:  # not a grid that was given for this arm alone
            at_ends[own] |= {choice.edge for choice in found} - {None}
    if not any(at_ends.values()):
        return None
    protocols = ((name, getattr(settings, name), ends) for name, ends in at_ends.items())
    return replace(settings, **{name: replace(own, lr=_longer(own.lr, ends)) for name, own, ends in protocols})


def shortened(settings: Settings) -> Settings:
    """The settings of a halving's first round: the same grids, for a fraction of the epochs."""
    return replace(settings, **{name: _short(getattr(settings, name)) for name in ("protocol", "real_protocol")})


def halved(settings: Settings, tried: Result) -> Settings:
    """The settings with the better half of every grid, by the validation accuracies of the first round.

    Arms with one grid keep every rate that is in the better half of any of them, so that each has the same tries.
    """

    def better(rates: tuple[float, ...], *arms: str) -> tuple[float, ...]:
        kept = {rate for arm in tried.tables if arm.startswith(arms) for rate in _better_half(tried, arm)}
        return tuple(rate for rate in rates if rate in kept) or rates

    protocol, of_real = (getattr(settings, name) for name in ("protocol", "real_protocol"))
    shared = ("syn-",) if settings.random_lr else ("syn-", "rdm-")
    return replace(
        settings,
        protocol=replace(protocol, lr=better(protocol.lr, *shared)),
        real_protocol=replace(of_real, lr=better(of_real.lr, *OF_REAL)),
        hard_lr=settings.hard_lr and better(settings.hard_lr, "syn-hard"),
        random_lr=settings.random_lr and better(settings.random_lr, "rdm-"),
    )


def _longer(rates: tuple[float, ...], ends: set[str]) -> tuple[float, ...]:
    grid = sorted(rates)
    below = [grid[0] * grid[0] / grid[1]] if "lowest" in ends else []
    above = [grid[-1] * grid[-1] / grid[-2]] if "highest" in ends else []
    # rounded to what people write, so that extending twice from different grids meets the same rates
    return tuple(float(f"{rate:.6g}") for rate in [*below, *grid, *above])


def _short(protocol: Protocol) -> Protocol:
    epochs = max(protocol.epochs // FRACTION, 1)
    step_size = protocol.step_size and max(protocol.step_size // FRACTION, 1)
    every = protocol.test_every and min(protocol.test_every, epochs)
    warmup = min(protocol.warmup // FRACTION, epochs - 1)
    return replace(protocol, epochs=epochs, step_size=step_size, test_every=every, warmup=warmup)


def _better_half(tried: Result, arm: str) -> set[float]:
    """The better half of an arm's rates, the middle one included, for any of its sets."""
    table = tried.tables[arm]
    if table.validation is None:
        return set(table.lrs)
    order = np.argsort(-table.validation[..., -1].mean(-1), axis=1, kind="stable")
    return {table.lrs[r] for row in order for r in row[: -(-len(table.lrs) // 2)]}
