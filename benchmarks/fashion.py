"""Fashion-MNIST (MIT licence) from Debian's `dataset-fashion-mnist`, as folders of PNG files."""

import gzip
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SOURCE = Path("/usr/share/datasets/fashion-mnist")
LABELS = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
IMAGE_HEADER, LABEL_HEADER = 16, 8  # bytes of the IDX format


def write_folders(target: Path, train: int, val: int, test: int = 1000) -> Path:
    """`target`/{train,val,test}/<class>/NNNNN.png with so many images per class; val is cut from the training part."""
    if target.exists():
        return target
    if not SOURCE.is_dir():
        sys.exit(f"{SOURCE} is missing: apt-get install dataset-fashion-mnist")
    partial = target.with_name(target.name + ".partial")
    pixels, labels = read("train")
    for number, name in enumerate(LABELS):
        mine = np.flatnonzero(labels == number)
        write(partial / "train" / name, pixels, mine[:train])
        if val > 0:
            write(partial / "val" / name, pixels, mine[train : train + val])
    pixels, labels = read("t10k")
    for number, name in enumerate(LABELS):
        write(partial / "test" / name, pixels, np.flatnonzero(labels == number)[:test])
    partial.rename(target)
    return target


def read(part: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 28, 28] images and [N] labels of "train" or "t10k"."""
    raw = gzip.decompress((SOURCE / f"{part}-images-idx3-ubyte.gz").read_bytes())
    marks = gzip.decompress((SOURCE / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(raw, np.uint8, offset=IMAGE_HEADER).reshape(-1, 28, 28)
    return pixels, np.frombuffer(marks, np.uint8, offset=LABEL_HEADER)


def write(folder: Path, pixels: np.ndarray, positions: np.ndarray) -> None:
    """Write these images as grey PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for position in positions:
        Image.fromarray(pixels[position]).save(folder / f"{position:05d}.png")
