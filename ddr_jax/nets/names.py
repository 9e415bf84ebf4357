"""The registry of networks and what their names promise; imports no jax, so mistakes are answered at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import count
from typing import Any

from ddr_jax.types import InputError, nearest

Shape = Sequence[int]  # (H, W, K)
Window = tuple[int, int, int]  # size, stride, padding of a convolution or pool
HALVE: Window = (2, 2, 0)


@dataclass(frozen=True)
class Entry:
    """One network: adding one to the registry is adding an `Entry` to `NETS`.

    `target` is "module:Class", in `ddr_jax.nets`, of a linen module whose fields are `num_classes`, those in
    `settings` and, where `has_width`, `width`, and whose `__call__(images, train)` gives logits;
    `embed(images, train)` is only needed for `nets.embed`. `shrinking` gives, for (H, W, K) and the settings, the
    windows that shrink images, in order.
    """

    target: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    shrinking: Callable[[Shape, Mapping[str, Any]], tuple[Window, ...]] = lambda image_shape, settings: ()
    has_width: bool = False

    def windows(self, image_shape: Shape) -> tuple[Window, ...]:
        """The windows that shrink (H, W, K) images, in order."""
        return self.shrinking(image_shape, self.settings)


def border(image_shape: Shape) -> int:
    """Rows and columns of zeros on each side: 2 of one-channel images from 28 pixels on, which makes 28 to 32, else 0.

    PyTorch ddranking, written for 28 pixels, pads every one-channel image so; smaller digits are left as they are.
    """
    height, width, channels = image_shape
    return 2 if channels == 1 and min(height, width) >= 28 else 0


def first_stride(image_shape: Shape) -> int:
    """Stride by which small images' networks meet larger ones: 2 above 32 pixels, else 1."""
    return 2 if min(image_shape[:2]) > 32 else 1


def keeps_detail(image_shape: Shape) -> bool:
    """Whether torchvision's networks get a 3×3 first convolution of stride 1, as PyTorch ddranking gives them."""
    return tuple(image_shape[:2]) in ((32, 32), (64, 64))


def small(size: int, padding: int, *others: Window) -> Callable[..., tuple[Window, ...]]:
    """What shrinks the images of LeNet and AlexNet: a first convolution, and the others."""
    return lambda shape, settings: ((size, first_stride(shape), padding + border(shape)), *others)


def convnet_windows(image_shape: Shape, settings: Mapping[str, Any]) -> tuple[Window, ...]:
    """What shrinks the images of ConvNet."""
    return (3, 1, 1 + border(image_shape)), *[HALVE] * (settings.get("pooling") != "nopool") * settings["depth"]


def vgg_windows(image_shape: Shape, settings: Mapping[str, Any]) -> tuple[Window, ...]:
    """What shrinks the images of VGG for small images."""
    return (3, 1, 1 + border(image_shape)), *[HALVE] * 5


def resnet_windows(image_shape: Shape, settings: Mapping[str, Any]) -> tuple[Window, ...]:
    """What shrinks the images of ResNet: those for larger images pool whatever is left."""
    if settings["variant"] != "small":
        return (HALVE,) * 3 if settings["variant"] == "pooled" else ()
    return (3, first_stride(image_shape), 1), *[(3, 2, 1)] * 3, (4, 4, 0)


def torchvision_alexnet_windows(image_shape: Shape, settings: Mapping[str, Any]) -> tuple[Window, ...]:
    """What shrinks the images of torchvision's AlexNet."""
    return (3, 1, 1) if keeps_detail(image_shape) else (11, 4, 2), *[(3, 2, 0)] * 3


# PyTorch ddranking's name without a suffix means instance norm, and so it does here.
NORM_SUFFIXES = {"": "IN", "-IN": "IN", "-BN": "BN", "-LN": "LN", "-GN": "GN", "-NN": "NN"}
COMMON = {suffix: norm for suffix, norm in NORM_SUFFIXES.items() if norm in ("IN", "BN")}
# What a ConvNet's name may say after its depth, each thing once and in any order: ConvNet-3-BN-sigmoid-maxpool-GAP.
CONVNET_WORDS: dict[str, tuple[str, str | bool]] = {
    **{suffix[1:]: ("norm", norm) for suffix, norm in NORM_SUFFIXES.items() if suffix},
    **{word: ("activation", word) for word in ("relu", "sigmoid", "leakyrelu")},
    **{word: ("pooling", word) for word in ("avgpool", "maxpool", "nopool")},
    "GAP": ("global_pool", True),
}
VGGS = (11, 13, 16, 19)
RESNETS = (18, 34, 50, 101, 152)


def family(name: str, entry: Entry, depths: Iterable[int], norms: Mapping[str, str] = COMMON) -> dict[str, Entry]:
    """The entry with each depth and norm, which fill the blanks of the name."""
    return {
        name.format(depth, suffix): replace(entry, settings={"depth": depth, "norm": norm, **entry.settings})
        for depth in depths
        for suffix, norm in norms.items()
    }


RESNET = {
    variant: Entry("resnet:ResNet", {"variant": variant}, resnet_windows)
    for variant in ("small", "pooled", "imagenet", "torchvision")
}
TORCHVISION_VGG = Entry("vgg:TorchvisionVGG", shrinking=lambda image_shape, settings: (HALVE,) * 5)
NETS: dict[str, Entry] = {
    **family("ConvNet-{}{}", Entry("convnet:ConvNet", {}, convnet_windows, True), range(1, 7), NORM_SUFFIXES),
    "MLP": Entry("classic:MLP", has_width=True),
    "LeNet": Entry("classic:LeNet", {}, small(5, 0, HALVE, (5, 1, 0), HALVE)),
    "AlexNet": Entry("classic:AlexNet", {}, small(5, 2, HALVE, HALVE, HALVE)),
    **family("VGG-{}{}", Entry("vgg:VGG", {}, vgg_windows), VGGS),
    **family("ResNet-{}{}", RESNET["small"], RESNETS),
    **family("ResNet-{}{}-AP", RESNET["pooled"], (18,)),
    **family("ResNet-{}{}-ImageNet", RESNET["imagenet"], (10, 18)),
    "ViT-6": Entry("vit:ViT", {"depth": 6}, lambda image_shape, settings: ((4, 4, 0),), True),
    "torchvision-AlexNet": Entry("classic:TorchvisionAlexNet", {}, torchvision_alexnet_windows),
    **family("torchvision-VGG-{}{}", TORCHVISION_VGG, VGGS, {"": "NN", "-BN": "BN"}),
    # torchvision's ResNets have batch norm with or without -BN
    **family("torchvision-ResNet-{}{}", RESNET["torchvision"], RESNETS, {"": "BN", "-BN": "BN"}),
}


FAMILIES = {n.split("-")[0].lower(): n.split("-")[0] for n in (name.removeprefix("torchvision-") for name in NETS)}


def find(name: str) -> Entry:
    """The network of a name: of the registry, or a ConvNet with more of `CONVNET_WORDS` than are registered.

    Raises InputError with the name that was probably meant, or if two words contradict one another.
    """
    if name in NETS:
        return NETS[name]
    base, words = _split(name)
    if words and all(word in CONVNET_WORDS for word in words):
        return _variant(name, NETS[base], words)
    raise InputError(f"Unknown network {name!r}: {_hint(name)}")


def _split(name: str) -> tuple[str, list[str]]:
    """A name of the registry and no words, or a ConvNet's name and the words after its depth."""
    family, *rest = name.split("-")
    base = f"{family}-{rest[0]}" if rest else name
    return (base, rest[1:]) if family == "ConvNet" and base in NETS and name not in NETS else (name, [])


def _variant(name: str, entry: Entry, words: list[str]) -> Entry:
    """The entry of a ConvNet with what the words say."""
    said: dict[str, str | bool] = {}
    for thing, value in (CONVNET_WORDS[word] for word in words):
        if thing in said:
            raise InputError(f"{name} names its {thing} twice: name it once")
        said[thing] = value
    return replace(entry, settings={**entry.settings, **said})


def _hint(name: str) -> str:
    """The end of an error message about an unknown name: the one that was probably meant, or what there is."""
    name = _respelt(name)
    base, words = _split(name)
    if words:
        valid = {word.lower(): word for word in CONVNET_WORDS}
        close = [get_close_matches(word.lower(), valid, n=1) for word in words]
        if all(close):
            return f"did you mean {'-'.join([base, *(valid[match] for (match,) in close)])!r}?"
        return f"after its depth a ConvNet's name says some of {', '.join(CONVNET_WORDS)}"
    if not name:
        return f"there are {', '.join(FAMILIES.values())} with depths and norms; others are given as flax modules"
    parts = sorted(name.lower().split("-"))
    return nearest(next((n for n in NETS if sorted(n.lower().split("-")) == parts), name), NETS)


def _respelt(name: str) -> str:
    """The name with family and depth as the registry has them, the depth the nearest; empty without a known family."""
    match = re.fullmatch(r"(torchvision-)?([a-z]+?)d?-?(\d*)([-_].*)?", name.lower().rstrip("-"))
    close = get_close_matches(match[2], FAMILIES, n=1, cutoff=0.8) if match else []
    if not match or not close:
        return ""
    family = (match[1] or "") + FAMILIES[close[0]]
    after = (n.removeprefix(f"{family}-").split("-")[0] for n in NETS if n.startswith(f"{family}-"))
    depths = [int(depth) for depth in after if depth.isdigit()]
    # Without a depth every depth is equally near; these are the ones that the field uses most.
    wanted = int(match[3] or {"convnet": 3, "resnet": 18}.get(close[0], 0))
    depth = [str(min(depths, key=lambda depth: abs(depth - wanted)))] if depths else []
    return "-".join([family, *depth, *([match[4][1:]] if match[4] else [])])


def fits(entry: Entry, image_shape: Shape) -> bool:
    """Whether each of the network's windows still finds a place in the images."""
    for side in image_shape[:2]:
        for size, stride, padding in entry.windows(image_shape):
            side = (side + 2 * padding - size) // stride + 1
            if side < 1:
                return False
    return True


def check_shape(name: str, image_shape: Shape) -> None:
    """Raise InputError, in which `name` is the network's, unless the shape is three sides of at least 1."""
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise InputError(f"{name} needs images of (H, W, K), each at least 1, got {tuple(image_shape)}")


def check(name: str, image_shape: Shape) -> None:
    """Raise InputError unless the network exists and leaves at least one pixel of (H, W, K) images."""
    entry = find(name)
    check_shape(name, image_shape)
    height, width, channels = image_shape
    side = next(side for side in count(max(height, width)) if fits(entry, (side, side, channels)))
    if not fits(entry, image_shape):
        raise InputError(
            f"{name} leaves no pixel of {height}×{width} images: use {_offer(name, image_shape)}, "
            f"or images of at least {side}×{side}"
        )


def _offer(name: str, image_shape: Shape) -> str:
    """The deepest network of the same family, norm and words that fits, or else ConvNet, or else MLP."""
    base, words = _split(name)
    for pattern, after in ((re.sub(r"-\d+", r"-\\d+", base, count=1), words), (r"ConvNet-\d+", [])):
        akin = ["-".join((n, *after)) for n in NETS if re.fullmatch(pattern, n)]
        fitting = [n for n in akin if fits(find(n), image_shape)]
        if fitting:
            return fitting[-1] + (" or a shallower one" if len(fitting) > 1 else "")
    return "MLP"
