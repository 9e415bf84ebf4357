"""The registry of networks and what their names promise; imports no jax, so mistakes are answered at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ddr_jax.types import InputError, nearest


@dataclass(frozen=True)
class Entry:
    """One network of the registry: adding a network is adding an `Entry` to `NETS`.

    `target` is "package.module:Class" of a linen module whose fields are `num_classes`, `width` and those
    in `settings`, and whose `__call__(images, train)` gives logits; `embed(images, train)` is only needed
    for `nets.embed`. `halvings` is how often it halves the sides of an image.
    """

    target: str
    settings: Mapping[str, object] = field(default_factory=dict)
    halvings: int = 0


# PyTorch ddranking's name without a suffix means instance norm, and so it does here.
NORM_SUFFIXES = {"": "IN", "-IN": "IN", "-BN": "BN", "-LN": "LN", "-GN": "GN", "-NN": "NN"}

NETS: dict[str, Entry] = {
    f"ConvNet-{depth}{suffix}": Entry("ddr_jax.nets.convnet:ConvNet", {"depth": depth, "norm": norm}, depth)
    for depth in range(1, 7)
    for suffix, norm in NORM_SUFFIXES.items()
} | {"MLP": Entry("ddr_jax.nets.mlp:MLP")}


def find(name: str) -> Entry:
    """The registry's entry of a network; raises InputError with the nearest name if there is none."""
    if name not in NETS:
        # Without a depth every depth is equally near; 3 is the one the field uses most.
        likely = name if any(letter.isdigit() for letter in name) else f"{name}-3"
        raise InputError(f"Unknown network {name!r}: {nearest(likely, NETS)}")
    return NETS[name]


def first_padding(image_shape: Sequence[int]) -> int:
    """Padding of a first 3×3 convolution: 3 makes one-channel 28-pixel digits 32 pixels wide, else 1."""
    return 3 if tuple(image_shape) == (28, 28, 1) else 1


def check(name: str, image_shape: Sequence[int]) -> None:
    """Raise InputError unless the network exists and leaves at least one pixel of (H, W, K) images."""
    entry = find(name)
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise InputError(f"{name} needs images of (H, W, K), each at least 1, got {tuple(image_shape)}")
    side = min(image_shape[:2]) + 2 * (first_padding(image_shape) - 1)
    if side >> entry.halvings:
        return
    family, _, *norm = name.split("-")
    fits = [n for n, e in NETS.items() if n.split("-")[::2] == [family, *norm] and side >> e.halvings]
    raise InputError(
        f"{name} halves its images {entry.halvings} times, which leaves no pixel of "
        f"{image_shape[0]}×{image_shape[1]} images: use {fits[-1] if fits else 'MLP'}"
        f"{' or a shallower one' if len(fits) > 1 else ''}, or larger images"
    )
