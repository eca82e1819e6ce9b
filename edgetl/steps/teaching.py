"""What a smaller network learns from: images, with labels and without, and the larger network's answers."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgetl import images
from edgetl.answers import AnswerFile
from edgetl.card import ModelCard
from edgetl.classifier import Classifier
from edgetl.config import Format, Precision
from edgetl.dataset import Dataset, Entry, Images, Role, read_files
from edgetl.duplicates import find_copies
from edgetl.engines import classifier_of
from edgetl.errors import DataError
from edgetl.files import fingerprint, write_atomically
from edgetl.keras.history import versions
from edgetl.keras.lessons import IMAGES_AT_ONCE, NO_LABEL, LessonPlan, Lessons, make_lessons
from edgetl.keras.rates import has_fast_int8
from edgetl.machine import cores
from edgetl.pixels import PixelRows, split_rows
from edgetl.progress import say
from edgetl.records import kept_record, to_json
from edgetl.steps.making import Variant, build
from edgetl.steps.promise import FloatNetwork
from edgetl.vgg16 import multiplications

_ASKING_SHARE = 0.3  # of the time left, for the larger network's answers
_WORTH_INT8 = 1e12  # multiply-adds: less is not worth quantizing the larger network first


@dataclass(frozen=True)
class _Asked:
    """The larger network was asked all that there was time for."""

    identity: str  # of its answers
    minutes: float | None


@dataclass(frozen=True)
class TimeAllowed:
    """For the whole command."""

    minutes: float | None
    began: float  # by the monotonic clock

    def share(self, share: float) -> float:
        """When so much of what is left now will be over, by the monotonic clock."""
        if self.minutes is None:
            return math.inf
        now = time.monotonic()
        return now + share * (self.began + 60 * self.minutes - now)


def lessons_of(
    parent: FloatNetwork, sources: Sequence[Images], plan: LessonPlan, folder: Path, allowed: TimeAllowed
) -> Lessons:
    """What to learn from; answers are kept in `folder` for a resume.

    Where time ended the asking, a resume with as much time asks no more: what learnt from fewer pictures must
    be found again.
    """
    digests = [digest for source in sources for digest in source.digests]
    parts = [parent.model.card.keras_sha256, repr(plan), *digests, *map(repr, versions().items())]
    file, end = AnswerFile(folder / "answers.npz", fingerprint(parts)), allowed.share(_ASKING_SHARE)
    asked, asked_path = _Asked(file.identity, allowed.minutes), folder / "asked.json"
    known = file.read()
    is_known = known is not None and kept_record(_Asked, asked_path) == asked
    lessons = make_lessons(
        sources,
        plan,
        _teacher(parent, plan.pictures * len(digests)),
        folder,
        known=known,
        keep=file.write,
        is_enough=lambda: is_known or time.monotonic() > end,
    )
    write_atomically(asked_path, to_json(asked))
    if lessons.pictures < plan.pictures:
        say(f"{lessons.pictures} of {plan.pictures} pictures of each image: more would take too long")
    return lessons


def _teacher(parent: FloatNetwork, pictures: int) -> Classifier:
    """The larger network in the engine that is fastest here."""
    work = pictures * work_of(parent.model.card)
    precision = Precision.INT8 if has_fast_int8() and work > _WORTH_INT8 else Precision.FP32
    built = build(parent.sources, parent.model, Variant(Format.ONNX, precision))
    return classifier_of(built.content, Format.ONNX, precision, 0)


def work_of(card: ModelCard) -> float:
    """Multiply-adds of one image in all convolutions."""
    return multiplications(card.input.height, card.input.width, None, card.network.cut, card.network.channels)


def learnt_from_mirrored(card: ModelCard) -> bool:
    """Whether mirrored images were good for the larger network's training."""
    return card.training.settings.get("flip") != str(False)


def unlabelled(folder: Path, dataset: Dataset, scratch: Path) -> Images:
    """All readable images at any depth of a folder, but none that certifies, and no near copy of one.

    Pixels are kept in a nameless file in `scratch`. Raises `DataError`, `StorageError`.
    """
    paths = images.find([str(folder)]) if folder.is_dir() else []
    _, height, width, _ = dataset.roles[Role.TRAIN].pixels.shape
    entries = [Entry(path, NO_LABEL, "") for path in paths]
    read = read_files(entries, folder, height, width, cores(), scratch=scratch)
    found = read.images
    known = {digest for role in Role for digest in dataset.roles[role].digests}
    new = [position for position, digest in enumerate(found.digests) if digest not in known]
    copies = _near_copies(dataset.roles[Role.CERTIFICATION], found, new) if new else set()
    used = [position for position in new if position not in copies]
    if not used:
        raise DataError(
            f"{folder} has no readable images that the model has not seen.",
            "Name a folder of images, at any depth, or leave out --unlabelled.",
        )
    say(
        f"{len(used)} images without labels, {len(found) - len(new)} known already, "
        f"{len(copies)} near copies of certification images, {len(read.skipped)} unreadable"
    )
    return Images(
        tuple(found.paths[i] for i in used),
        split_rows(found.pixels, [used])[0],
        found.labels[used],
        tuple(found.digests[i] for i in used),
    )


def _near_copies(certification: Images, found: Images, new: Sequence[int]) -> set[int]:
    """Which of the images at positions `new` repeat a certification image, directly or by way of others."""
    some = list(new)
    looks = np.concatenate([_thumbnails(certification.pixels), _thumbnails(found.pixels)[some]])
    copies = find_copies(
        [*certification.digests, *(found.digests[i] for i in some)],
        looks,
        np.concatenate([certification.labels, found.labels[some]]),
    )
    count = len(certification)
    repeating = [group for group in copies.groups if group[0] < count]
    return {new[member - count] for group in repeating for member in group if member >= count}


def _thumbnails(pixels: PixelRows) -> NDArray[np.uint8]:
    starts = range(0, len(pixels), IMAGES_AT_ONCE)
    parts = [images.thumbnails(pixels[start : start + IMAGES_AT_ONCE]) for start in starts]
    return np.rint(np.concatenate(parts)).astype(np.uint8)
