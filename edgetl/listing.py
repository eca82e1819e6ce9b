"""The labelled files of a data folder, found by their folders' names before any of them is opened."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgetl import images
from edgetl.errors import DataError

SPLITS = ("train", "val", "test")
LEAST_PER_CLASS = 4  # one for each role


@dataclass(frozen=True)
class Entry:
    """One labelled file. `split` is "" in a flat folder."""

    path: Path
    label: int
    split: str


@dataclass(frozen=True)
class Listing:
    """The labelled files of a data folder, before any is opened."""

    folder: Path
    layout: str  # "flat" or "split folders"
    labels: tuple[str, ...]
    entries: tuple[Entry, ...]


def list_images(folder: Path, class_map: Path | None = None) -> Listing:
    """Find the files of `DIR/{train,val,test}/<class>/*` or flat `DIR/<class>/*`. Raises `DataError`.

    A folder train/ makes a split layout if it holds folders, and is a class of that name if it does not.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder.", "Name a folder that has one folder of images per class."
        )
    names = _folders(folder)
    if not names:
        raise DataError(
            f"{folder} has no class folders.",
            "Put the images of each class into a folder with the class's name.",
        )
    splits = [name for name in SPLITS if name in names and _folders(folder / name)]
    if "train" in splits:
        return _list_split(folder, names, class_map)
    if splits and set(names) <= set(SPLITS):
        raise DataError(
            f"{folder} has {' and '.join(f'{split}/' for split in splits)} but no class folders in train/.",
            "Put the training images into train/<class>/, or give a folder that has one folder per class.",
        )
    labels = class_order(folder, names, class_map)
    entries = [entry for name in names for entry in _entries(folder / name, labels.index(name), "")]
    return Listing(folder, "flat", labels, tuple(entries))


def _list_split(folder: Path, names: Sequence[str], class_map: Path | None) -> Listing:
    strange = sorted(set(names) - set(SPLITS))
    if strange:
        raise DataError(
            f"{folder} has train/ and also {', '.join(strange)}.",
            "Beside train/ only val/ and test/ are read: rename or move the others.",
        )
    classes = {split: _folders(folder / split) for split in SPLITS if split in names}
    for split, found in classes.items():
        _check_same_classes(folder, split, found, classes["train"])
    labels = class_order(folder, classes["train"], class_map)
    entries = [
        entry
        for split, found in classes.items()
        for name in found
        for entry in _entries(folder / split / name, labels.index(name), split)
    ]
    return Listing(folder, "split folders", labels, tuple(entries))


def _check_same_classes(folder: Path, split: str, found: Sequence[str], trained: Sequence[str]) -> None:
    unknown = sorted(set(found) - set(trained))
    if unknown:
        raise DataError(
            f"{folder / split} has classes without training images: {', '.join(unknown)}.",
            "Add them to train/, or move these folders away.",
        )
    missing = sorted(set(trained) - set(found))
    if missing:
        raise DataError(
            f"{folder / split} lacks classes that train/ has: {', '.join(missing)}.",
            f"Add images of them, or move {split}/ away to let edgetl divide train/ itself.",
        )


def class_order(folder: Path, found: Sequence[str], class_map: Path | None) -> tuple[str, ...]:
    """Class names in the order that is frozen into the model: plainly sorted, or as the class map says."""
    if class_map is None:
        return tuple(sorted(found))
    try:
        lines = class_map.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"The class map {class_map} cannot be read: {error}.", "Give a UTF-8 text file."
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) != len(names):
        raise DataError(f"The class map {class_map} names a class twice.", "Give each class one line.")
    unknown, missing = sorted(set(names) - set(found)), sorted(set(found) - set(names))
    if unknown or missing:
        raise DataError(
            f"The class map and the folders of {folder} differ: "
            f"only in the map {unknown}, only as folders {missing}.",
            "Let every class have one line and one folder.",
        )
    return names


def check_classes(listing: Listing) -> None:
    """Refuse data that cannot make a classifier, before any image is opened. Raises `DataError`."""
    if len(listing.labels) < 2:
        raise DataError(
            f"{listing.folder} has only one class: {listing.labels[0]}.",
            "A classifier needs at least two classes.",
        )
    if not listing.entries:
        raise DataError(
            f"{listing.folder} has no images.",
            f"Images are files ending in {', '.join(sorted(images.IMAGE_SUFFIXES))}.",
        )
    counts = Counter(entry.label for entry in listing.entries)
    small = [f"{name} ({counts[i]})" for i, name in enumerate(listing.labels) if counts[i] < LEAST_PER_CLASS]
    if small:
        raise DataError(
            f"These classes have fewer than {LEAST_PER_CLASS} images: {', '.join(small)}.",
            "Add images or move these folders away: training, tuning, calibration and certification need at "
            "least one image of each class.",
        )


def _entries(folder: Path, label: int, split: str) -> list[Entry]:
    return [Entry(path, label, split) for path in images.find([folder])]


def _folders(folder: Path) -> list[str]:
    """The names of the visible folders in `folder`, sorted."""
    try:
        names = sorted(
            child.name for child in folder.iterdir() if not child.name.startswith(".") and child.is_dir()
        )
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}.", "Check its permissions.") from error
    for name in names:
        if not is_text(name):
            raise DataError(
                f"The name of the folder {name!r} in {folder} is not UTF-8.", "Rename the folder."
            )
        if name.splitlines() != [name]:
            raise DataError(
                f"The name of the folder {name!r} in {folder} has a line break; lists of classes "
                "have a line for each.",
                "Rename the folder.",
            )
    return names


def is_text(name: str) -> bool:
    """Whether a file's name can be written as UTF-8, as cards and tables need it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """The name with what is not UTF-8 in it written as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
