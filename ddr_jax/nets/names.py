"""The registry of networks and what their names promise; imports no jax, so mistakes are answered at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from ddr_jax.types import InputError, nearest

Shape = Sequence[int]  # (H, W, K)
Window = tuple[int, int, int]  # size, stride, padding of a convolution or pool
HALVE: Window = (2, 2, 0)


@dataclass(frozen=True)
class Entry:
    """One network of the registry: adding a network is adding an `Entry` to `NETS`.

    `target` is "package.module:Class" of a linen module whose fields are `num_classes`, those in `settings`
    and, where `has_width`, `width`, and whose `__call__(images, train)` gives logits; `embed(images, train)`
    is only needed for `nets.embed`. `windows` gives the windows that shrink (H, W, K) images, in order.
    """

    target: str
    settings: Mapping[str, object] = field(default_factory=dict)
    windows: Callable[[Shape], tuple[Window, ...]] = lambda image_shape: ()
    has_width: bool = False


def border(image_shape: Shape) -> int:
    """Rows and columns of zeros on each side: 2 make one-channel 28-pixel digits 32 pixels wide, else 0."""
    return 2 if tuple(image_shape) == (28, 28, 1) else 0


def first_stride(image_shape: Shape) -> int:
    """Stride by which small images' networks meet larger ones: 2 above 32 pixels, else 1."""
    return 2 if min(image_shape[:2]) > 32 else 1


def keeps_detail(image_shape: Shape) -> bool:
    """Whether torchvision's networks get a 3×3 first convolution of stride 1, as PyTorch ddranking gives them."""
    return tuple(image_shape[:2]) in ((32, 32), (64, 64))


def halving_windows(image_shape: Shape, times: int) -> tuple[Window, ...]:
    """What shrinks the images of ConvNet and VGG."""
    return (3, 1, 1 + border(image_shape)), *[HALVE] * times


def resnet_windows(image_shape: Shape) -> tuple[Window, ...]:
    """What shrinks the images of ResNet for small images; the other variants pool whatever is left."""
    return (3, first_stride(image_shape), 1), *[(3, 2, 1)] * 3, (4, 4, 0)


def lenet_windows(image_shape: Shape) -> tuple[Window, ...]:
    """What shrinks LeNet's images."""
    return (5, first_stride(image_shape), border(image_shape)), HALVE, (5, 1, 0), HALVE


def alexnet_windows(image_shape: Shape) -> tuple[Window, ...]:
    """What shrinks AlexNet's images."""
    return (5, first_stride(image_shape), 2 + border(image_shape)), HALVE, HALVE, HALVE


def torchvision_alexnet_windows(image_shape: Shape) -> tuple[Window, ...]:
    """What shrinks the images of torchvision's AlexNet."""
    return (3, 1, 1) if keeps_detail(image_shape) else (11, 4, 2), *[(3, 2, 0)] * 3


# PyTorch ddranking's name without a suffix means instance norm, and so it does here.
NORM_SUFFIXES = {"": "IN", "-IN": "IN", "-BN": "BN", "-LN": "LN", "-GN": "GN", "-NN": "NN"}
COMMON = {suffix: norm for suffix, norm in NORM_SUFFIXES.items() if norm in ("IN", "BN")}
VGGS = (11, 13, 16, 19)
RESNETS = (18, 34, 50, 101, 152)


def convnets() -> dict[str, Entry]:
    """ConvNet-1 to ConvNet-6, with every norm."""
    return {
        f"ConvNet-{depth}{suffix}": Entry(
            "ddr_jax.nets.convnet:ConvNet",
            {"depth": depth, "norm": norm},
            partial(halving_windows, times=depth),
            has_width=True,
        )
        for depth in range(1, 7)
        for suffix, norm in NORM_SUFFIXES.items()
    }


def vggs() -> dict[str, Entry]:
    """VGG for small images."""
    return {
        f"VGG-{depth}{suffix}": Entry(
            "ddr_jax.nets.vgg:VGG", {"depth": depth, "norm": norm}, partial(halving_windows, times=5)
        )
        for depth in VGGS
        for suffix, norm in COMMON.items()
    }


def resnets() -> dict[str, Entry]:
    """ResNet for small images, with average-pooled downsampling (AP), and with the stem for ImageNet."""
    variants = {
        "small": ("", RESNETS, resnet_windows),
        "pooled": ("-AP", (18,), lambda image_shape: (HALVE,) * 3),
        "imagenet": ("-ImageNet", (10, 18), lambda image_shape: ()),
    }
    return {
        f"ResNet-{depth}{norm_suffix}{suffix}": Entry(
            "ddr_jax.nets.resnet:ResNet", {"depth": depth, "norm": norm, "variant": variant}, windows
        )
        for variant, (suffix, depths, windows) in variants.items()
        for depth in depths
        for norm_suffix, norm in COMMON.items()
    }


def torchvision() -> dict[str, Entry]:
    """Torchvision's networks as PyTorch ddranking builds them; its ResNets have batch norm with or without -BN."""
    vgg, resnet = "ddr_jax.nets.vgg:TorchvisionVGG", "ddr_jax.nets.resnet:ResNet"
    entries = {
        "AlexNet": Entry("ddr_jax.nets.alexnet:TorchvisionAlexNet", windows=torchvision_alexnet_windows),
        **{
            f"VGG-{depth}{suffix}": Entry(vgg, {"depth": depth, "norm": norm}, lambda image_shape: (HALVE,) * 5)
            for depth in VGGS
            for suffix, norm in {"": "NN", "-BN": "BN"}.items()
        },
        **{
            f"ResNet-{depth}{suffix}": Entry(resnet, {"depth": depth, "norm": "BN", "variant": "torchvision"})
            for depth in RESNETS
            for suffix in ("", "-BN")
        },
    }
    return {f"torchvision-{name}": entry for name, entry in entries.items()}


NETS: dict[str, Entry] = {
    **convnets(),
    "MLP": Entry("ddr_jax.nets.mlp:MLP", has_width=True),
    "LeNet": Entry("ddr_jax.nets.lenet:LeNet", windows=lenet_windows),
    "AlexNet": Entry("ddr_jax.nets.alexnet:AlexNet", windows=alexnet_windows),
    **vggs(),
    **resnets(),
    "ViT-6": Entry("ddr_jax.nets.vit:ViT", {"depth": 6}, lambda image_shape: ((4, 4, 0),), has_width=True),
    **torchvision(),
}


def find(name: str) -> Entry:
    """The registry's entry of a network; raises InputError with the nearest name if there is none."""
    if name not in NETS:
        # Without a depth every depth is equally near; 3 is the one the field uses most.
        likely = name if any(letter.isdigit() for letter in name) else f"{name}-3"
        raise InputError(f"Unknown network {name!r}: {nearest(likely, NETS)}")
    return NETS[name]


def fits(entry: Entry, image_shape: Shape) -> bool:
    """Whether each of the network's windows still finds a place in the images."""
    for side in image_shape[:2]:
        for size, stride, padding in entry.windows(image_shape):
            side = (side + 2 * padding - size) // stride + 1
            if side < 1:
                return False
    return True


def check(name: str, image_shape: Shape) -> None:
    """Raise InputError unless the network exists and leaves at least one pixel of (H, W, K) images."""
    entry = find(name)
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise InputError(f"{name} needs images of (H, W, K), each at least 1, got {tuple(image_shape)}")
    if fits(entry, image_shape):
        return
    height, width, channels = image_shape
    side = max(height, width)
    while not fits(entry, (side, side, channels)):
        side += 1
    raise InputError(
        f"{name} leaves no pixel of {height}×{width} images: use {_offer(name, image_shape)}, "
        f"or images of at least {side}×{side}"
    )


def _offer(name: str, image_shape: Shape) -> str:
    """The deepest network of the same family and norm that fits, or else ConvNet, or else MLP."""

    def kind(name: str) -> list[str]:
        family, *rest = name.split("-")
        return [family, *rest[1:]]

    for kin in (kind(name), ["ConvNet"]):
        fitting = [n for n, entry in NETS.items() if kind(n) == kin and fits(entry, image_shape)]
        if fitting:
            return fitting[-1] + (" or a shallower one" if len(fitting) > 1 else "")
    return "MLP"
