"""`edgetl data`: what a data folder holds, how it would be divided, and what to do about its weaknesses."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edgetl.config import DataConfig
from edgetl.dataset import Division, FilesRead, divide, read_files
from edgetl.images import THUMBNAIL_SIDE, ImageFacts
from edgetl.listing import SPLITS, Listing, check_classes, list_images, printable
from edgetl.results import ClassImages, CopyPair, DataReport, Finding, ImageKinds
from edgetl.roles import Role
from edgetl.steps.advice import advise

_EXAMPLES = 20
_GREY_MODES = ("1", "L", "LA", "La", "F", "I")  # as Pillow names them; "I;16" and its kin begin with I
_TRANSPARENT_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


def data(folder: Path, config: DataConfig) -> DataReport:
    """Read every image of `folder` once and report. Raises `DataError` where nothing can be trained."""
    listing = list_images(folder, config.class_map)
    check_classes(listing)
    threads = min(8, os.cpu_count() or 1)
    read = read_files(listing.entries, folder, THUMBNAIL_SIDE, THUMBNAIL_SIDE, threads)
    division = divide(listing, read, config)
    ignored = _ignored(listing)
    classes = _count_classes(listing, read, division)
    totals = [one.total for one in classes]
    out = division.kept_out
    report = DataReport(
        folder=str(folder),
        layout=listing.layout,
        seed=config.seed,
        images=len(read.images),
        classes=classes,
        imbalance=max(totals) / max(1, min(totals)),
        kinds=_kinds(read.facts),
        unreadable=read.skipped,
        ignored=len(ignored),
        ignored_examples=tuple(ignored[:_EXAMPLES]),
        pairs=_pairs(read, division),
        leaking=len(out.leaking),
        repeated=len(out.repeated),
        disputed=len(out.disputed),
        alike_by_nature=sum(len(scene) for scene in division.copies.scenes),
        findings=tuple(_about_layout(listing)),
    )
    return advise(report, _traits(listing, read))


def _about_layout(listing: Listing) -> Iterator[Finding]:
    if listing.layout != "flat":
        return
    divided = [
        name for name in listing.labels if any((listing.folder / name / split).is_dir() for split in SPLITS)
    ]
    if divided:
        yield Finding(
            "layout",
            "problem",
            f"The class folder {divided[0]}/ is itself divided into {', '.join(SPLITS)}.",
            f"If {divided[0]} is no class, name {listing.folder / divided[0]}.",
        )


def is_grey(facts: ImageFacts) -> bool:
    """Whether the file stores no colour."""
    return facts.mode in _GREY_MODES or facts.mode.startswith("I;")


def _count_classes(listing: Listing, read: FilesRead, division: Division) -> tuple[ClassImages, ...]:
    labels = read.images.labels
    by_role = {role: Counter(labels[division.of(role)].tolist()) for role in Role}
    kept_out = Counter(labels[sorted(division.kept_out.all())].tolist())
    return tuple(
        ClassImages(
            label=name,
            train=by_role[Role.TRAIN][i],
            tuning=by_role[Role.TUNING][i],
            calibration=by_role[Role.CALIBRATION][i],
            certification=by_role[Role.CERTIFICATION][i],
            kept_out=kept_out[i],
            total=int(np.count_nonzero(labels == i)),
        )
        for i, name in enumerate(listing.labels)
    )


def _kinds(facts: Sequence[ImageFacts]) -> ImageKinds:
    by_area = sorted(((one.width, one.height) for one in facts), key=lambda size: (size[0] * size[1], size))
    return ImageKinds(
        smallest=by_area[0],
        median=(int(np.median([one.width for one in facts])), int(np.median([one.height for one in facts]))),
        largest=by_area[-1],
        formats=dict(Counter(one.format for one in facts).most_common()),
        grey=sum(is_grey(one) for one in facts),
        transparent=sum(one.mode in _TRANSPARENT_MODES for one in facts),
        animated=sum(one.frames > 1 for one in facts),
    )


def _pairs(read: FilesRead, division: Division) -> tuple[CopyPair, ...]:
    labels, paths, roles = read.images.labels, read.images.paths, division.roles
    pairs = [
        CopyPair(
            kind=kind,
            first=paths[i],
            first_role=str(roles[i]),
            second=paths[j],
            second_role=str(roles[j]),
            same_label=bool(labels[i] == labels[j]),
            leaks=bool((roles[i] == Role.CERTIFICATION.value) != (roles[j] == Role.CERTIFICATION.value)),
        )
        for kind, found in (("exact", division.copies.exact), ("near", division.copies.near))
        for i, j in found
    ]
    return tuple(sorted(pairs, key=lambda pair: (pair.same_label, not pair.leaks, pair.kind, pair.first)))


def _traits(listing: Listing, read: FilesRead) -> dict[str, tuple[float, ...]]:
    """For each trait that has nothing to do with the subject: the share 0..1 of each class that has it."""
    formats = {one.format for one in read.facts}
    has = {f"{name} files": [one.format == name for one in read.facts] for name in formats}
    has["grey"] = [is_grey(one) for one in read.facts]
    has["transparent"] = [one.mode in _TRANSPARENT_MODES for one in read.facts]
    labels = read.images.labels
    return {
        trait: tuple(float(np.mean(np.array(values)[labels == i])) for i in range(len(listing.labels)))
        for trait, values in sorted(has.items())
    }


def _ignored(listing: Listing) -> list[str]:
    """Visible files that are not used, relative to the folder, sorted."""
    used = {str(entry.path) for entry in listing.entries}
    found = []
    for place, folders, files in os.walk(listing.folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [Path(place, name) for name in files if not name.startswith(".")]
        found += [
            printable(str(path.relative_to(listing.folder))) for path in visible if str(path) not in used
        ]
    return sorted(found)
