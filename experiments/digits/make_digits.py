"""Make ddr_jax/data/bundled/digits.npz, the small real dataset that the package carries.

Command:  python experiments/digits/make_digits.py [OUT.npz]      (needs scikit-learn)
Time:     2 s on 2 CPU cores
Expected: train 1000, validation 300, test 497; mean 0.3048, std 0.3756; fingerprint 9f363e6335f29cf3
          (scikit-learn 1.9.1; another version may split otherwise, so the file made once is the dataset)
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ddr_jax.types import fingerprint

BUNDLED = Path(__file__).parents[2] / "ddr_jax" / "data" / "bundled" / "digits.npz"
WHITE = 16  # the value of a pixel of 1


def split_digits() -> dict[str, np.ndarray]:
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    train, rest = train_test_split(np.arange(len(labels)), train_size=1000, stratify=labels, random_state=0)
    validation, test = train_test_split(rest, train_size=300, stratify=labels[rest], random_state=0)
    arrays = {}
    for name, indices in (("train", train), ("validation", validation), ("test", test)):
        arrays[f"x_{name}"], arrays[f"y_{name}"] = images[np.sort(indices)], labels[np.sort(indices)]
    return arrays


def main(out: Path) -> None:
    arrays = split_digits()
    pixels = arrays["x_train"] / WHITE
    mean, std = np.float32([pixels.mean()]), np.float32([pixels.std()])
    np.savez_compressed(out, **arrays, white=WHITE, mean=mean, std=std, flips=False)
    print({key: len(value) for key, value in arrays.items() if key.startswith("x")}, mean, std)
    print(f"{out}: {fingerprint(*arrays.values())}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else BUNDLED)
