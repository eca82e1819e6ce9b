"""Plain sentences about a data folder: what is weak, and what to do about it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from edgetl.images import WHITE
from edgetl.power import images_needed
from edgetl.results import DataReport, Finding
from edgetl.statistics import ALPHA, exact_upper

FEW_TRAINING_IMAGES = 20  # of a class; a frozen trunk with a linear head still generalises from about as many
LARGE_IMBALANCE = 10.0
USUAL_DROP_POINTS = 1.0  # what `verify` promises unless told otherwise
SMALL_SIDE = 32  # pixels, the smallest input of the network
LONG_SIDES = 2.0
MOSTLY, HARDLY = 0.9, 0.1
_NAMES_SHOWN = 5


def advise(report: DataReport, traits: Mapping[str, tuple[float, ...]]) -> DataReport:
    """The report with more findings, problems first; `traits` are shares 0..1, one per class."""
    findings = [
        *report.findings,
        *_about_labels(report),
        *_about_classes(report),
        *_about_certification(report),
        *_about_copies(report),
        *_about_shortcuts(report, traits),
        *_about_files(report),
        *_about_sizes(report),
    ]
    return replace(report, findings=tuple(sorted(findings, key=lambda finding: finding.status != "problem")))


def smallest_provable_drop(images: int) -> float:
    """The drop in points that `images` certification images prove absent if not one of them turns wrong."""
    return 100 * exact_upper(0, 0, images)


def images_to_prove(drop_points: float, together: int = 1) -> int:
    """The least number of certification images that can prove a drop below `drop_points`.

    together: how many files must pass the same check, see `verify.with_holm`.
    """
    return images_needed(drop_points / 100, discordance=0.0, alpha=ALPHA / together)


def _about_labels(report: DataReport) -> Iterator[Finding]:
    pairs = [pair for pair in report.pairs if pair.kind == "exact" and not pair.same_label]
    if pairs:
        yield Finding(
            "labels",
            "problem",
            f"{_count(len(pairs), 'file lies', 'files lie')} in two classes with equal bytes, such as "
            f"{pairs[0].first} and {pairs[0].second}; at least one label of each is wrong.",
            "Decide which class is right and delete the other copy. They are kept out of certification.",
        )
    alike = [pair for pair in report.pairs if pair.kind == "near" and not pair.same_label]
    if alike:
        yield Finding(
            "labels",
            "note",
            f"{_count(len(alike), 'pair', 'pairs')} of images look alike but have different classes, such as "
            f"{alike[0].first} and {alike[0].second}.",
            "Check these labels.",
        )


def _about_classes(report: DataReport) -> Iterator[Finding]:
    small = [f"{one.label} ({one.train})" for one in report.classes if one.train < FEW_TRAINING_IMAGES]
    if small:
        yield Finding(
            "classes",
            "note",
            f"Fewer than {FEW_TRAINING_IMAGES} images are left for training in {_names(small)}.",
            "Add images of these classes; --augment strong makes more of few.",
        )
    if report.imbalance > LARGE_IMBALANCE:
        largest = max(report.classes, key=lambda one: one.total)
        smallest = min(report.classes, key=lambda one: one.total)
        yield Finding(
            "classes",
            "problem",
            f"{largest.label} has {report.imbalance:.0f} times as many images as {smallest.label}.",
            "Train with --class-weights balanced and look at the balanced accuracy, or add images.",
        )


def _about_certification(report: DataReport) -> Iterator[Finding]:
    empty = [one.label for one in report.classes if one.certification == 0]
    if empty:
        yield Finding(
            "certification",
            "problem",
            f"No certification image is left in {_names(empty)}: all repeat other images.",
            "Add images that are new; until then nothing is known about these classes.",
        )
    images = sum(one.certification for one in report.classes)
    provable = math.ceil(10 * smallest_provable_drop(images)) / 10
    needed = images_to_prove(USUAL_DROP_POINTS)
    if images < needed:
        yield Finding(
            "certification",
            "problem",
            f"{images} certification images cannot prove a drop below {USUAL_DROP_POINTS:g} point, even if "
            f"not one turns wrong; that takes {needed}. They can prove one below {provable:.1f} points.",
            "Add images, raise --certification-share where there is no test/, "
            f"or promise less: edgetl verify --max-drop {provable:.1f}.",
        )


def _about_copies(report: DataReport) -> Iterator[Finding]:
    if report.leaking:
        yield Finding(
            "copies",
            "note",
            f"{_count(report.leaking, 'image', 'images')} of certification repeat images of other roles.",
            "Nothing has to be done: they are kept out. Delete one of each pair to be rid of this.",
        )
    if report.repeated:
        yield Finding(
            "copies",
            "note",
            f"{_count(report.repeated, 'image', 'images')} of certification repeat others there.",
            "Nothing has to be done: each picture is counted once.",
        )
    chosen = sum({pair.first_role, pair.second_role} == {"train", "tuning"} for pair in report.pairs)
    if chosen:
        yield Finding(
            "copies",
            "note",
            f"{_count(chosen, 'pair', 'pairs')} of copies have one image in training and one in tuning.",
            "Delete one of each: otherwise the choice of the best epoch is too confident.",
        )
    if report.alike_by_nature:
        yield Finding(
            "copies",
            "note",
            f"{report.alike_by_nature} images look so alike, as frames of a fixed camera do, that near "
            "copies cannot be told among them; only exact copies are kept out of certification.",
            "If they come from few recordings, put whole recordings into train/, val/ and test/ yourself.",
        )


def _about_shortcuts(report: DataReport, traits: Mapping[str, tuple[float, ...]]) -> Iterator[Finding]:
    for trait, shares in traits.items():
        mostly = [one.label for one, share in zip(report.classes, shares, strict=True) if share >= MOSTLY]
        hardly = [one.label for one, share in zip(report.classes, shares, strict=True) if share <= HARDLY]
        if mostly and hardly:
            yield Finding(
                "shortcuts",
                "problem",
                f"Images are {trait} in {_names(mostly)}, but not in {_names(hardly)}: "
                "a network can tell these classes apart without looking at the subject.",
                "Convert all images alike, or mix the sources of every class.",
            )


def _about_files(report: DataReport) -> Iterator[Finding]:
    if report.unreadable:
        yield Finding(
            "files",
            "problem",
            f"{_count(len(report.unreadable), 'file', 'files')} cannot be read and will be left out.",
            "Replace or delete them.",
        )
    if report.ignored:
        yield Finding(
            "files",
            "note",
            f"{_count(report.ignored, 'file is', 'files are')} ignored: no image by name, or in no class.",
            "Move images into class folders; other files do no harm.",
        )
    if report.kinds.animated:
        yield Finding(
            "files",
            "note",
            f"{_count(report.kinds.animated, 'file has', 'files have')} several frames or pages.",
            "Nothing has to be done if the first one is meant: only it is used.",
        )
    if report.kinds.transparent:
        yield Finding(
            "files",
            "note",
            f"{_count(report.kinds.transparent, 'image has', 'images have')} transparency, "
            f"which is laid on {'white' if WHITE == (255, 255, 255) else WHITE}.",
            "Nothing has to be done if white is a fitting background.",
        )


def _about_sizes(report: DataReport) -> Iterator[Finding]:
    width, height = report.kinds.median
    if min(width, height) < SMALL_SIDE:
        yield Finding(
            "sizes",
            "note",
            f"Images are small: {width} x {height} pixels in the middle; they will be enlarged.",
            f"Use an --image-size of {SMALL_SIDE} to 64: a larger one costs time and adds no detail.",
        )
    if max(width, height) > LONG_SIDES * min(width, height):
        yield Finding(
            "sizes",
            "note",
            f"Images are long: {width} x {height} pixels in the middle; they will be squeezed into a square.",
            "Crop or pad them, in training as on the device, if that hides what matters.",
        )


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
