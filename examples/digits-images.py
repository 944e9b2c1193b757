"""Handwritten digits as pictures: which digit is it? Writes train/<digit>/<number>.png and sample.json.

python examples/digits-images.py FOLDER
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def main() -> None:
    """1,797 grey pictures of 8 x 8 pixels, which scikit-learn carries, in a folder a digit; two of them as an endpoint takes them."""
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: python {sys.argv[0]} FOLDER")
    folder = Path(sys.argv[1])
    pictures, digits = load_digits(return_X_y=True)
    pixels = np.round(pictures.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    for number, (picture, digit) in enumerate(zip(pixels, digits, strict=True)):
        file = folder / "train" / str(digit) / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    names = [folder / "train" / str(digits[n]) / f"{n:04}.png" for n in (3, len(digits) // 2)]
    sample = [{"image": base64.b64encode(name.read_bytes()).decode()} for name in names]
    (folder / "sample.json").write_text(json.dumps(sample, indent=2) + "\n")
    print(f"{len(digits)} pictures written to {folder / 'train'}")


if __name__ == "__main__":
    main()
